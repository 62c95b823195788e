//! GraphQL over SSE, distinct connections mode: one request, one stream of `next` events, then `complete`.
//!
//! Each event's `id` is the position after it; a reconnecting client sends it back as `Last-Event-ID`, which overrides
//! the subscription's own `after` argument. A slow client holds three
//! events (one is sent, one waits, one is made): the rest stays in the ledger.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::TraceId,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{
    engine::{self, Caller, EngineAnswer, Position},
    large_bodies::Turn,
    negotiate::Media,
    over_http::{self, HttpRefusal},
    serve::Gateway,
};

const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Handles `POST /graphql/stream` (or GET with the request in the URL).
pub async fn handle(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    open(&gateway, request).await.unwrap_or_else(|refusal| refusal.answer(Media::Json))
}

async fn open(gateway: &Arc<Gateway>, request: Request) -> Result<Response, HttpRefusal> {
    let (parts, body) = request.into_parts();
    let principal = gateway.known(&parts)?;
    let project = over_http::project_of(&parts.headers)?;
    let request = Request::from_parts(parts, body);
    let place = gateway.streams.clone().try_acquire_owned().map_err(|_| {
        HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, Code::Limit, "too many open streams (limit `streams_max`)")
    })?;
    let last = request
        .headers()
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty())
        .map(str::to_owned);
    let get = request.method() == Method::GET;
    let (parsed, turn) = over_http::read(gateway, request, Deadline::after(gateway.config.request_timeout())).await?;
    let revoked = gateway.revoked(&principal);
    let caller =
        Caller { principal, project, trace: TraceId::new(), deadline: Deadline::after(gateway.config.request_timeout()) };
    let answers = match engine::prepare(parsed, &gateway.config.limits, &gateway.pools.memory) {
        Ok(prepared) if get && prepared.operation == Some(async_graphql::parser::types::OperationType::Mutation) => {
            return Err(HttpRefusal {
                status: StatusCode::METHOD_NOT_ALLOWED,
                refused: Refused::invalid("query", "a mutation needs POST"),
            });
        }
        Ok(prepared) => {
            let mutation = prepared.operation == Some(async_graphql::parser::types::OperationType::Mutation);
            let turn = turn.of(prepared.operation);
            let answers = gateway.shares.stream(&gateway.engine, prepared, caller, Position::resuming(last));
            executed(gateway, mutation, answers, turn).take_until(revoked).boxed()
        }
        Err(answer) => stream::once(async move { (answer, None) }).boxed(),
    };
    let body = Body::from_stream(events(answers, gateway.clone(), place));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// Returns the same answers, executed on the threads for it: one is made while the one before is sent. The turn is over when all
/// are made.
fn executed(
    gateway: &Gateway,
    mutation: bool,
    mut answers: stream::BoxStream<'static, (EngineAnswer, Option<String>)>,
    turn: Turn,
) -> impl Stream<Item = (EngineAnswer, Option<String>)> + Send + 'static {
    let (made, ready) = mpsc::channel(1);
    let making = gateway.pools.spawn(mutation, async move {
        let _turn = turn;
        while let Some(answer) = answers.next().await {
            if made.send(answer).await.is_err() {
                return;
            }
        }
    });
    stream::unfold((ready, making), |(mut ready, making)| async move { Some((ready.recv().await?, (ready, making))) })
}

fn events(
    answers: impl Stream<Item = (EngineAnswer, Option<String>)> + Send + Unpin + 'static,
    gateway: Arc<Gateway>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    metrics::gauge!("hiveward_streams_open", "transport" => "sse").increment(1.0);
    let open = Open { _place: place };
    stream::unfold(Some((answers, gateway, open)), |state| async move {
        let (mut answers, gateway, open) = state?;
        tokio::select! {
            biased;
            () = gateway.stopping.cancelled() => Some((Ok(Bytes::from_static(b"event: complete\ndata:\n\n")), None)),
            answer = answers.next() => Some(match answer {
                Some((answer, position)) => (Ok(next(&answer, position.as_deref())), Some((answers, gateway, open))),
                None => (Ok(Bytes::from_static(b"event: complete\ndata:\n\n")), None),
            }),
            () = tokio::time::sleep(KEEP_ALIVE) => Some((Ok(Bytes::from_static(b":\n\n")), Some((answers, gateway, open)))),
        }
    })
}

struct Open {
    _place: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("hiveward_streams_open", "transport" => "sse").decrement(1.0);
    }
}

/// Writes one `next` event. The JSON has no line breaks of its own (they are escaped), so it is one `data` line.
fn next(answer: &EngineAnswer, position: Option<&str>) -> Bytes {
    let mut event = BytesMut::with_capacity(answer.json.len() + 64);
    event.put_slice(b"event: next\n");
    if let Some(position) = position {
        event.put_slice(b"id: ");
        event.put_slice(position.as_bytes());
        event.put_slice(b"\n");
    }
    event.put_slice(b"data: ");
    event.put_slice(&answer.json);
    event.put_slice(b"\n\n");
    event.freeze()
}
