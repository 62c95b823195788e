//! The `graphql-transport-ws` protocol over a WebSocket.
//!
//! One task reads, one writes, one runs per operation on the threads for it; the reader owns the others and ends them when it ends. The queue
//! to the writer is bounded in messages and bytes: while it is full the operations pause. A client that takes nothing for `stall_timeout_ms`
//! is closed with 4413, and so is one that sends more in one message than `body_bytes_max`.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{
        FromRequestParts, Request, State,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::TraceId,
};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_tungstenite::tungstenite;

use crate::{
    auth::Principal,
    engine::{self, Caller, EngineAnswer, Position},
    large_bodies::Turn,
    negotiate::Media,
    over_http::{self, HttpRefusal},
    places::Stranger,
    serve::{Gateway, asker_of},
};

/// The bytes of the buffers of one socket, which it keeps for as long as it is open. The library's own are 128 KiB each: with
/// thousands of sockets most of a node's memory, which the allocator did not give back after.
pub(super) const READ_BUFFER_BYTES: usize = 4 << 10;
pub(super) const WRITE_BUFFER_BYTES: usize = 16 << 10;
/// The most messages that are written before the socket is flushed.
const BATCH_MAX: usize = 64;

const PROTOCOL: &str = "graphql-transport-ws";
const ACK: Utf8Bytes = Utf8Bytes::from_static(r#"{"type":"connection_ack"}"#);
const PONG: Utf8Bytes = Utf8Bytes::from_static(r#"{"type":"pong"}"#);

/// What is said to who asks with something that is worth nothing any more.
pub(super) const REVOKED: &str = "Forbidden: the key was revoked, or its time is over";

type Revoked = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A close code of the protocol and its reason.
pub(super) struct Close(pub u16, pub String);

pub(super) fn close(code: u16, reason: impl Into<String>) -> Close {
    Close(code, reason.into())
}

/// Handles `GET /graphql/ws`.
pub async fn upgrade(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    if let Err(refusal) = origin_allowed(&parts.headers, &gateway) {
        return refusal.answer(Media::Json);
    }
    let from_header = match parts.headers.contains_key(header::AUTHORIZATION).then(|| gateway.known(&parts)).transpose() {
        Ok(principal) => principal,
        Err(refusal) => return refusal.answer(Media::Json),
    };
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &gateway).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let address = asker_of(&parts);
    let place = match Place::first(&gateway, from_header.is_some(), address) {
        Ok(place) => place,
        Err(refusal) => return refusal.answer(Media::Json),
    };
    let max = gateway.config.body_bytes_max;
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(max).max_frame_size(max);
    let upgrade = upgrade.read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(WRITE_BUFFER_BYTES);
    let agreed = upgrade.selected_protocol().is_some();
    upgrade.on_upgrade(move |socket| async move {
        metrics::gauge!("hiveward_streams_open", "transport" => "ws").increment(1.0);
        connection(socket, gateway, from_header, agreed, (place, address)).await;
        metrics::gauge!("hiveward_streams_open", "transport" => "ws").decrement(1.0);
    })
}

/// A socket's place: among strangers until its client is known, then among the streams.
pub(super) enum Place {
    Stranger { _place: Stranger },
    Stream { _place: OwnedSemaphorePermit },
}

impl Place {
    /// Takes the place where a socket begins. `known` says that its request had a good token.
    pub(super) fn first(gateway: &Gateway, known: bool, address: Option<IpAddr>) -> Result<Self, HttpRefusal> {
        let busy = |refused| HttpRefusal { status: StatusCode::SERVICE_UNAVAILABLE, refused };
        if known {
            let refused = || busy(Refused::new(Code::Limit, "too many open streams (limit `streams_max`)"));
            return Self::stream(gateway).ok_or_else(refused);
        }
        gateway.strangers.enter(address).map(|place| Self::Stranger { _place: place }).map_err(busy)
    }

    fn stream(gateway: &Gateway) -> Option<Self> {
        gateway.streams.clone().try_acquire_owned().ok().map(|place| Self::Stream { _place: place })
    }

    /// Moves it from the strangers to the streams, as its client is known now.
    pub(super) fn known(&mut self, gateway: &Gateway) -> Result<(), Close> {
        if matches!(self, Self::Stranger { .. }) {
            *self = Self::stream(gateway).ok_or_else(|| close(1013, "too many open streams (limit `streams_max`)"))?;
        }
        Ok(())
    }
}

/// The queue of messages on their way to one client, bounded in number and in bytes: a sender waits.
#[derive(Clone)]
struct Outgoing {
    queue: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

/// A message and its bytes of the queue, until it is written.
type Queued = (Message, OwnedSemaphorePermit);

/// The connection is gone.
struct Gone;

impl Outgoing {
    fn new(messages_max: usize, bytes_max: usize) -> (Self, mpsc::Receiver<Queued>) {
        let (queue, queued) = mpsc::channel(messages_max.max(1));
        let bytes_max = bytes_max.clamp(1, Semaphore::MAX_PERMITS);
        (Self { queue, bytes: Arc::new(Semaphore::new(bytes_max)), bytes_max }, queued)
    }

    /// Waits for room, then sends. A message that is larger than the whole queue waits until that is empty.
    async fn send(&self, bytes: usize, message: impl FnOnce() -> Message) -> Result<(), Gone> {
        let bytes = u32::try_from(bytes.clamp(1, self.bytes_max)).unwrap_or(u32::MAX);
        let room = self.bytes.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        self.queue.send((message(), room)).await.map_err(|_| Gone)
    }

    async fn text(&self, text: impl Into<Utf8Bytes>) -> Result<(), Gone> {
        let text = text.into();
        self.send(text.len(), || Message::Text(text)).await
    }

    /// Sends a ping only if there is room now.
    fn try_ping(&self) {
        if let Ok(room) = self.bytes.clone().try_acquire_owned() {
            let _queued = self.queue.try_send((Message::Ping(bytes::Bytes::new()), room));
        }
    }
}

/// Refuses a page that is not allowed: it may only open a socket to the host it came from, to another node of its cluster, or
/// from an origin that was configured.
pub(super) fn origin_allowed(headers: &HeaderMap, gateway: &Gateway) -> Result<(), HttpRefusal> {
    if gateway.origins.allows(headers) {
        return Ok(());
    }
    Err(HttpRefusal::new(
        StatusCode::FORBIDDEN,
        Code::Forbidden,
        "pages of this origin may not connect; add it to `allowed_origins` if they should",
    ))
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Incoming {
    ConnectionInit {
        #[serde(default)]
        payload: serde_json::Value,
    },
    Ping {},
    Pong {},
    Subscribe {
        id: String,
        payload: serde_json::Map<String, serde_json::Value>,
    },
    Complete {
        id: String,
    },
}

/// Checks the credential in `connection_init`: `{"Authorization": "Bearer …"}` in any case, or `{"token": "…"}`.
pub(super) fn credential(payload: &serde_json::Value, gateway: &Gateway) -> Result<Arc<Principal>, Refused> {
    let fields = payload.as_object().ok_or_else(crate::auth::missing)?;
    for (name, value) in fields {
        match (name.to_ascii_lowercase().as_str(), value.as_str()) {
            ("authorization", Some(value)) => return gateway.auth.authorization(value),
            ("token", Some(value)) => return gateway.auth.token(value),
            _ => {}
        }
    }
    Err(crate::auth::missing())
}

type Operations = Arc<Mutex<HashMap<String, AbortHandle>>>;

async fn connection(
    socket: WebSocket,
    gateway: Arc<Gateway>,
    from_header: Option<Arc<Principal>>,
    agreed: bool,
    (place, address): (Place, Option<IpAddr>),
) {
    let (sink, source) = socket.split();
    let (outgoing, queue) = Outgoing::new(gateway.config.send_queue_max, gateway.config.send_queue_bytes_max);
    let mut owned = JoinSet::new();
    let stall = gateway.config.stall_timeout();
    owned.spawn(write(sink, queue, stall));
    let mut reader = Reader {
        ping_every: Duration::from_millis(gateway.config.ping_every_ms),
        gateway,
        outgoing: outgoing.clone(),
        principal: None,
        project: None,
        place,
        address,
        operations: Operations::default(),
        tasks: JoinSet::new(),
    };
    let ended =
        if agreed { reader.run(source, &mut owned, from_header).await } else { Err(close(4406, "Subprotocol not acceptable")) };
    reader.tasks.abort_all();
    if let Err(Close(code, reason)) = ended {
        let frame = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        // The queue may be full of what the client does not take; then the close is lost with it, and the socket is cut.
        if tokio::time::timeout(Duration::from_secs(1), outgoing.send(1, || frame)).await.is_err() {
            return;
        }
    }
    drop(outgoing);
    drop(reader);
    let _ended = tokio::time::timeout(Duration::from_secs(1).min(stall), owned.join_next()).await;
}

/// Writes what is queued, as much as there is per flush. Returns when the queue ends or the client takes nothing.
async fn write(mut sink: SplitSink<WebSocket, Message>, mut queue: mpsc::Receiver<Queued>, stall: Duration) -> Result<(), Close> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let sending = async {
            let mut rooms = Vec::with_capacity(batch.len());
            for (message, room) in batch.drain(..) {
                sink.feed(message).await?;
                rooms.push(room);
            }
            // The bytes of the messages count until they are written.
            sink.flush().await.map(|()| drop(rooms))
        };
        match tokio::time::timeout(stall, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                metrics::counter!("hiveward_streams_lagging_total").increment(1);
                let frame = CloseFrame { code: 4413, reason: "lagging: resume from the last cursor".into() };
                let _sent = tokio::time::timeout(Duration::from_millis(100), sink.send(Message::Close(Some(frame)))).await;
                return Err(close(4413, "lagging"));
            }
        }
    }
    Ok(())
}

struct Reader {
    gateway: Arc<Gateway>,
    outgoing: Outgoing,
    principal: Option<Arc<Principal>>,
    /// The project of its requests, by name or id.
    project: Option<Arc<str>>,
    place: Place,
    /// The address that it is from; wrong tokens are counted by it.
    address: Option<IpAddr>,
    operations: Operations,
    tasks: JoinSet<()>,
    ping_every: Duration,
}

impl Reader {
    async fn run(
        &mut self,
        mut source: SplitStream<WebSocket>,
        writer: &mut JoinSet<Result<(), Close>>,
        from_header: Option<Arc<Principal>>,
    ) -> Result<(), Close> {
        let init_by = Instant::now() + Duration::from_millis(self.gateway.config.init_timeout_ms);
        let mut pings = tokio::time::interval_at(Instant::now() + self.ping_every, self.ping_every);
        let mut heard = Instant::now();
        let stopping = self.gateway.stopping.clone();
        let mut revoked: Revoked = Box::pin(std::future::pending());
        let mut watched = false;
        loop {
            if let Some(principal) = self.principal.as_ref().filter(|_| !watched) {
                watched = true;
                revoked = Box::pin(self.gateway.revoked(principal));
            }
            let message = tokio::select! {
                message = source.next() => message,
                _ = writer.join_next() => return Ok(()),
                () = stopping.cancelled() => return Err(close(1001, "the node is stopping; resume elsewhere or later")),
                () = &mut revoked => return Err(close(4403, REVOKED)),
                () = tokio::time::sleep_until(init_by), if self.principal.is_none() => return Err(close(4408, "Connection initialisation timeout")),
                _ = pings.tick() => {
                    if heard.elapsed() > self.ping_every * 2 + self.ping_every / 2 {
                        return Err(close(4408, "no sign of life"));
                    }
                    // A full queue means data is on its way, which tells the client as much as a ping.
                    self.outgoing.try_ping();
                    continue;
                }
                Some(_) = self.tasks.join_next() => continue,
            };
            heard = Instant::now();
            match message {
                Some(Err(error)) if is_too_long(&error) => {
                    return Err(close(4413, "a message is over the limit `body_bytes_max`"));
                }
                None | Some(Err(_)) | Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(Message::Text(text))) => self.message(&text, from_header.as_ref()).await?,
                Some(Ok(Message::Binary(_))) => return Err(close(4400, "Invalid message: binary")),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            }
        }
    }

    async fn message(&mut self, text: &str, from_header: Option<&Arc<Principal>>) -> Result<(), Close> {
        let deadline = Deadline::after(self.gateway.config.request_timeout());
        let turn = self.gateway.large_bodies.turn(text.len(), deadline).await;
        let turn = turn.map_err(|refused| close(1013, short(refused.message)))?;
        let incoming: Incoming =
            serde_json::from_str(text).map_err(|error| close(4400, short(format!("Invalid message: {error}"))))?;
        match incoming {
            Incoming::ConnectionInit { .. } if self.principal.is_some() => Err(close(4429, "Too many initialisation requests")),
            Incoming::ConnectionInit { payload } => {
                let shown = payload.as_object().is_some_and(|fields| !fields.is_empty());
                let named = self.gateway.check(self.address, shown, || credential(&payload, &self.gateway));
                let principal = match (named, from_header) {
                    (Ok(principal), _) => principal,
                    (Err(_), Some(principal)) => principal.clone(),
                    (Err(refused), None) => return Err(close(4403, short(format!("Forbidden: {}", refused.message)))),
                };
                self.place.known(&self.gateway)?;
                self.project = payload.get("project").and_then(|named| named.as_str()).map(Into::into);
                self.principal = Some(principal);
                self.send(ACK).await
            }
            Incoming::Ping {} => self.send(PONG).await,
            Incoming::Pong {} => Ok(()),
            Incoming::Complete { id } => {
                if let Some(task) = self.operations.lock().remove(&id) {
                    task.abort();
                }
                Ok(())
            }
            Incoming::Subscribe { id, payload } => {
                let Some(principal) = self.principal.clone() else { return Err(close(4401, "Unauthorized")) };
                self.subscribe(id, payload, principal, turn).await
            }
        }
    }

    async fn send(&self, text: Utf8Bytes) -> Result<(), Close> {
        match tokio::time::timeout(self.gateway.config.stall_timeout(), self.outgoing.text(text)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(close(4413, "lagging: resume from the last cursor")),
        }
    }

    async fn subscribe(
        &mut self,
        id: String,
        payload: serde_json::Map<String, serde_json::Value>,
        principal: Arc<Principal>,
        turn: Turn,
    ) -> Result<(), Close> {
        if id.is_empty() || id.len() > 128 {
            return Err(close(4400, "Invalid message: an operation's id has 1 to 128 bytes"));
        }
        let (taken, open) = {
            let operations = self.operations.lock();
            (operations.contains_key(&id), operations.len())
        };
        if taken {
            return Err(close(4409, short(format!("Subscriber for {id} already exists"))));
        }
        let max = self.gateway.config.operations_per_connection_max;
        if open >= max {
            let refused = Refused::new(
                Code::Limit,
                format!("{max} operations are open on this connection (limit `operations_per_connection_max`)"),
            );
            return self.send(error_message(&id, &EngineAnswer::refused(&refused))).await;
        }
        let caller = Caller {
            principal,
            project: self.project.clone(),
            trace: TraceId::new(),
            deadline: Deadline::after(self.gateway.config.request_timeout()),
        };
        let prepared = over_http::from_fields(payload)
            .map_err(|refusal| EngineAnswer::refused(&refusal.refused))
            .and_then(|request| engine::prepare(request, &self.gateway.config.limits, &self.gateway.pools.memory));
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(answer) => return self.send(error_message(&id, &answer)).await,
        };
        let mutation = prepared.operation == Some(async_graphql::parser::types::OperationType::Mutation);
        let turn = turn.of(prepared.operation);
        let answers = self.gateway.shares.stream(&self.gateway.engine, prepared, caller, Position::default());
        let (outgoing, operations) = (self.outgoing.clone(), self.operations.clone());
        // The lock is held until the task is listed, so that it cannot end and unlist itself first.
        let mut listed = self.operations.lock();
        let work = operate(id.clone(), answers, outgoing, operations).map(move |()| drop(turn));
        let task = self.gateway.pools.spawn_in(&mut self.tasks, mutation, work);
        listed.insert(id, task);
        Ok(())
    }
}

/// Sends an operation's answers until it ends; an error of the request itself ends it with `error`.
async fn operate(
    id: String,
    mut answers: futures_util::stream::BoxStream<'static, (EngineAnswer, Option<String>)>,
    outgoing: Outgoing,
    operations: Operations,
) {
    let quoted = serde_json::Value::from(id.as_str()).to_string();
    let prefix = format!(r#"{{"id":{quoted},"type":"next","payload":"#);
    let mut last = None;
    while let Some((answer, _)) = answers.next().await {
        if answer.request_errors.is_some() {
            last = Some(error_message(&id, &answer));
            break;
        }
        let Ok(json) = std::str::from_utf8(&answer.json) else { break };
        let bytes = prefix.len() + json.len() + 1;
        // The message is written down when there is room for it: until then it is the answer alone that takes memory.
        let message = || {
            let mut text = String::with_capacity(bytes);
            text.push_str(&prefix);
            text.push_str(json);
            text.push('}');
            Message::Text(text.into())
        };
        if outgoing.send(bytes, message).await.is_err() {
            return;
        }
    }
    operations.lock().remove(&id);
    let last = last.unwrap_or_else(|| format!(r#"{{"id":{quoted},"type":"complete"}}"#).into());
    let _gone = outgoing.text(last).await;
}

fn error_message(id: &str, answer: &EngineAnswer) -> Utf8Bytes {
    let id = serde_json::Value::from(id).to_string();
    let errors = answer.request_errors.as_deref().unwrap_or(b"[]");
    format!(r#"{{"id":{id},"type":"error","payload":{}}}"#, String::from_utf8_lossy(errors)).into()
}

/// Tells whether the client sent more in one message than it may.
fn is_too_long(error: &axum::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<tungstenite::Error>());
    matches!(cause, Some(tungstenite::Error::Capacity(_)))
}

/// Cuts a reason to what a close frame holds, which is 123 bytes.
pub(super) fn short(mut reason: String) -> String {
    let mut end = reason.len().min(120);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}
