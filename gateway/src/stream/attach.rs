//! A terminal over a WebSocket: `GET /attach/ws?agent=KEY[&task=KEY][&readOnly=true]`.
//!
//! Binary frames are the terminal's bytes, both ways. Text frames are small JSON objects: the client sends
//! `{"type":"resize","cols":80,"rows":24}` and, if it could not send `Authorization`, first of all
//! `{"type":"connection_init","payload":{…}}`; the server sends `attached`, `ended` or `error`, then closes.
//! Administrators only. One loop per connection and no queue: a client that does not read, or types faster than the
//! process reads, is waited for, and after `stall_timeout_ms` closed with the reason. The process lives on.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{
        FromRequestParts, Query, Request, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    },
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use hiveward_actors::client::{Said, Terminal};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::{Op, TraceId},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::ws::{Close, Place, READ_BUFFER_BYTES, REVOKED, WRITE_BUFFER_BYTES, close, credential, origin_allowed, short};
use crate::{
    auth::Principal,
    negotiate::Media,
    serve::{Gateway, asker_of},
};

/// The most bytes of one message of a client: a large paste comes in pieces.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    agent: String,
    task: Option<String>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Incoming {
    ConnectionInit {
        #[serde(default)]
        payload: serde_json::Value,
    },
    Resize {
        cols: u16,
        rows: u16,
    },
}

/// Handles `GET /attach/ws`.
pub async fn upgrade(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    if let Err(refusal) = origin_allowed(&parts.headers, &gateway) {
        return refusal.answer(Media::Json);
    }
    let from_header = match parts.headers.contains_key(header::AUTHORIZATION).then(|| gateway.known(&parts)).transpose() {
        Ok(principal) => principal,
        Err(refusal) => return refusal.answer(Media::Json),
    };
    let asked = match Query::<Asked>::from_request_parts(&mut parts, &gateway).await {
        Ok(Query(asked)) => asked,
        Err(rejection) => return rejection.into_response(),
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
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    upgrade.read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(WRITE_BUFFER_BYTES).on_upgrade(move |socket| async move {
        metrics::gauge!("hiveward_streams_open", "transport" => "attach").increment(1.0);
        Box::pin(connection(socket, gateway, asked, from_header, (place, address))).await;
        metrics::gauge!("hiveward_streams_open", "transport" => "attach").decrement(1.0);
    })
}

struct Connection {
    sink: SplitSink<WebSocket, Message>,
    source: futures_util::stream::SplitStream<WebSocket>,
    gateway: Arc<Gateway>,
    stall: Duration,
    place: Place,
    address: Option<IpAddr>,
}

async fn connection(
    socket: WebSocket,
    gateway: Arc<Gateway>,
    asked: Asked,
    from_header: Option<Arc<Principal>>,
    (place, address): (Place, Option<IpAddr>),
) {
    let (sink, source) = socket.split();
    let stall = gateway.config.stall_timeout();
    let mut connection = Connection { sink, source, gateway, stall, place, address };
    let Err(Close(code, reason)) = connection.serve(asked, from_header).await else { return };
    let frame = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    // A client that takes nothing does not take this either; then the socket is just cut.
    let _told = tokio::time::timeout(Duration::from_secs(1).min(stall), connection.sink.send(frame)).await;
}

/// Returns the close code that says what a refusal would say over HTTP.
fn closing(refused: &Refused) -> u16 {
    match refused.code {
        Code::Invalid => 4400,
        Code::Unauthenticated => 4401,
        Code::Forbidden => 4403,
        Code::NotFound => 4404,
        Code::Refused | Code::Conflict => 4409,
        Code::Limit | Code::Busy => 4429,
        _ => 4500,
    }
}

impl Connection {
    async fn send(&mut self, message: Message) -> Result<(), Close> {
        match tokio::time::timeout(self.stall, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(close(1006, "gone")),
            Err(_) => {
                metrics::counter!("hiveward_streams_lagging_total").increment(1);
                Err(close(4413, "lagging: the output was not read in time; the process lives on, attach again"))
            }
        }
    }

    async fn say(&mut self, value: serde_json::Value) -> Result<(), Close> {
        self.send(Message::Text(value.to_string().into())).await
    }

    /// Tells a refusal in full, as a close frame holds few bytes.
    async fn refuse(&mut self, refused: &Refused) -> Close {
        let error = json!({ "type": "error", "code": refused.code.name(), "message": refused.message, "field": refused.field });
        match self.say(error).await {
            Ok(()) => close(closing(refused), short(refused.message.clone())),
            Err(gone) => gone,
        }
    }

    async fn serve(&mut self, asked: Asked, from_header: Option<Arc<Principal>>) -> Result<(), Close> {
        let principal = match from_header {
            Some(principal) => principal,
            None => self.introduced().await?,
        };
        let mut terminal = match self.attach(asked, &principal).await {
            Ok(terminal) => terminal,
            Err(refused) => return Err(self.refuse(&refused).await),
        };
        tracing::info!(who = %principal.name, task = %terminal.task, "attached to a terminal");
        self.say(json!({ "type": "attached", "task": terminal.task.to_string(), "attempt": terminal.attempt })).await?;
        let revoked = self.gateway.revoked(&principal);
        let ended = tokio::select! {
            ended = self.pass(&mut terminal) => ended,
            () = revoked => Err(close(4403, REVOKED)),
        };
        tracing::info!(who = %principal.name, task = %terminal.task, "detached from a terminal");
        ended
    }

    async fn introduced(&mut self) -> Result<Arc<Principal>, Close> {
        let within = Duration::from_millis(self.gateway.config.init_timeout_ms);
        let first = tokio::time::timeout(within, self.source.next()).await;
        let Ok(first) = first else { return Err(close(4408, "Connection initialisation timeout")) };
        let Some(Ok(Message::Text(text))) = first else { return Err(close(4401, "Unauthorized")) };
        let Ok(Incoming::ConnectionInit { payload }) = serde_json::from_str(&text) else {
            return Err(close(4401, "Unauthorized"));
        };
        let known = self.gateway.check(self.address, true, || credential(&payload, &self.gateway));
        let known = known.map_err(|refused| close(4403, short(format!("Forbidden: {}", refused.message))))?;
        self.place.known(&self.gateway)?;
        Ok(known)
    }

    async fn attach(&self, asked: Asked, principal: &Arc<Principal>) -> Result<Terminal, Refused> {
        let id = |field: &str, error: hiveward_runtime::id::BadId| Refused::invalid(field, error.to_string());
        let agent = asked.agent.parse().map_err(|error| id("agent", error))?;
        let task = asked.task.map(|task| task.parse()).transpose().map_err(|error| id("task", error))?;
        let deadline = Deadline::after(self.gateway.config.request_timeout());
        let op = Op { operation: None, principal: principal.name.clone(), trace: TraceId::new(), deadline, admitted: false };
        let Some(terminals) = &self.gateway.terminals else {
            return Err(Refused::new(Code::Unavailable, "this gateway serves no terminals"));
        };
        let terminals = terminals.of(principal.clone(), terminals.project_for(principal, None)?);
        tokio::time::timeout_at(deadline.instant(), terminals.attach(&op, agent, task, asked.read_only))
            .await
            .unwrap_or_else(|_| Err(Refused::new(Code::Unavailable, "the session did not answer in time")))
    }

    async fn pass(&mut self, terminal: &mut Terminal) -> Result<(), Close> {
        let ping_every = Duration::from_millis(self.gateway.config.ping_every_ms);
        let mut pings = tokio::time::interval_at(Instant::now() + ping_every, ping_every);
        let mut heard = Instant::now();
        let stopping = self.gateway.stopping.clone();
        loop {
            tokio::select! {
                said = terminal.next() => match said {
                    Ok(Said::Output(bytes)) => self.send(Message::Binary(bytes)).await?,
                    Ok(Said::Ended(how)) => {
                        self.say(json!({ "type": "ended", "how": how })).await?;
                        return Err(close(1000, short(format!("the process has ended: {how}"))));
                    }
                    Err(refused) => return Err(self.refuse(&refused).await),
                },
                message = self.source.next() => {
                    heard = Instant::now();
                    match message {
                        None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(()),
                        Some(Ok(message)) => self.take(terminal, message).await?,
                    }
                }
                () = stopping.cancelled() => return Err(close(1001, "the node is stopping; the process lives on, attach again later")),
                _ = pings.tick() => {
                    if heard.elapsed() > ping_every * 2 + ping_every / 2 {
                        return Err(close(4408, "no sign of life"));
                    }
                    self.send(Message::Ping(bytes::Bytes::new())).await?;
                }
            }
        }
    }

    async fn take(&mut self, terminal: &Terminal, message: Message) -> Result<(), Close> {
        let acted = match message {
            Message::Binary(bytes) => tokio::time::timeout(self.stall, terminal.write(&bytes)).await,
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(Incoming::Resize { cols, rows }) if cols > 0 && rows > 0 => {
                    tokio::time::timeout(self.stall, terminal.resize(cols, rows)).await
                }
                // The client sent `Authorization` as well.
                Ok(Incoming::ConnectionInit { .. }) => return Ok(()),
                Ok(Incoming::Resize { .. }) => return Err(close(4400, "a terminal has at least one column and one row")),
                Err(error) => return Err(close(4400, short(format!("Invalid message: {error}")))),
            },
            _ => return Ok(()),
        };
        match acted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(self.refuse(&refused).await),
            Err(_) => Err(close(4413, "the process does not read what is typed; it lives on, attach again later")),
        }
    }
}
