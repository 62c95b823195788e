//! The scripted server's listener and handlers.
//!
//! Requests over `REQUESTS_MAX` at once are answered as overload. Dropping the server closes the listener and breaks the
//! streams that are open.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    answer::ScriptedAnswer,
    anthropic,
    asked::Asked,
    book::{Book, Call, CallsTotal},
    frames::{Plan, Then},
    openai,
    script::{Fault, Script, Step},
};
use crate::model::api::{Api, presented};

const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
const REQUESTS_MAX: usize = 2_048;
const SCRIPTED: HeaderName = HeaderName::from_static("x-hiveward-scripted");

struct Shared {
    script: Script,
    book: Arc<Book>,
    /// The number of times that a step has failed on purpose, by the places of its conversation and itself.
    failed: Mutex<HashMap<(usize, usize), u32>>,
    places: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// A scripted model server that listens. Dropping it stops it.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    book: Arc<Book>,
    stopping: CancellationToken,
    serving: JoinHandle<()>,
}

impl Scripted {
    /// Binds and serves. Errors: the address cannot be listened on.
    pub async fn start(listen: SocketAddr, script: Script) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (book, stopping) = (Arc::new(Book::default()), CancellationToken::new());
        let shared = Arc::new(Shared {
            script,
            book: book.clone(),
            failed: Mutex::default(),
            places: Arc::new(Semaphore::new(REQUESTS_MAX)),
            stopping: stopping.clone(),
        });
        // Events leave one by one, as they would from far away.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "socket options");
            }
        });
        let stop = stopping.clone();
        let serving = tokio::spawn(async move {
            let served = axum::serve(listener, router(shared)).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::warn!(%error, "the scripted model server ended");
            }
        });
        Ok(Self { address, book, stopping, serving })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the newest calls, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.book.read(|kept| kept.calls.iter().cloned().collect())
    }

    /// Returns the totals of all calls since the start.
    pub fn total(&self) -> CallsTotal {
        self.book.read(|kept| kept.total)
    }

    /// Waits until it was stopped or its listener failed.
    pub async fn ended(mut self) {
        if let Err(error) = (&mut self.serving).await {
            tracing::warn!(%error, "the scripted model server ended");
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/chat/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/scripted/calls", get(calls))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn not_found() -> Response {
    marked(Api::Anthropic.refusal(404, "[scripted] nothing is served here"))
}

async fn models() -> Response {
    let model = json!({ "id": "scripted", "type": "model", "object": "model", "display_name": "Scripted", "created_at": "1970-01-01T00:00:00Z" });
    marked(Json(json!({ "object": "list", "data": [model], "has_more": false })).into_response())
}

async fn calls(State(shared): State<Arc<Shared>>) -> Response {
    marked(shared.book.read(|kept| Json(kept).into_response()))
}

async fn count_tokens(body: Bytes) -> Response {
    marked(match serde_json::from_slice::<Value>(&body) {
        Ok(body) => Json(json!({ "input_tokens": Asked::read(&body).input_tokens })).into_response(),
        Err(error) => Api::Anthropic.refusal(400, &format!("[scripted] the body is no JSON: {error}")),
    })
}

async fn messages(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    marked(answer(&shared, Api::Anthropic, request).await)
}

async fn completions(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    marked(answer(&shared, Api::OpenAi, request).await)
}

fn marked(mut response: Response) -> Response {
    response.headers_mut().insert(SCRIPTED, HeaderValue::from_static("true"));
    response
}

async fn answer(shared: &Arc<Shared>, api: Api, request: Request) -> Response {
    let Ok(place) = shared.places.clone().try_acquire_owned() else {
        return api.refusal(503, "[scripted] too many requests at once");
    };
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let body = match axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return api.refusal(413, &format!("[scripted] the body was not read: {error}")),
    };
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => return api.refusal(400, &format!("[scripted] the body is no JSON: {error}")),
    };
    let asked = Asked::read(&body);
    let found = shared.script.step(&asked);
    let wrong = match found {
        None => Some((404, "[scripted] no conversation of the script fits this prompt".to_owned(), None)),
        Some((conversation, step, said)) => shared.error(api, (conversation, step), said),
    };
    let call = Call {
        number: 0,
        path,
        key: presented(&headers).map(str::to_owned),
        headers: headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect(),
        model: asked.model.clone(),
        stream: asked.stream,
        status: wrong.as_ref().map_or(200, |(status, ..)| *status),
        usage: None,
        events: 0,
        finished: false,
    };
    let number = shared.book.begin(call);
    if let Some((status, message, retry_after_ms)) = wrong {
        let mut response = api.refusal(status, &message);
        if let Some(millis) = retry_after_ms {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, millis.div_ceil(1_000).into());
            headers.insert(HeaderName::from_static("retry-after-ms"), millis.into());
        }
        return response;
    }
    let Some((.., step)) = found else { return api.refusal(404, "[scripted] no conversation fits") };
    let answer = ScriptedAnswer::to(&asked, step, number);
    let plan = plan(api, &asked, answer, step.fault.as_ref());
    let kind = if asked.stream { "text/event-stream" } else { "application/json" };
    let body = Body::from_stream(stream::unfold(Sending::new(shared, number, plan, place), Sending::next));
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], body).into_response()
}

fn plan(api: Api, asked: &Asked, mut answer: ScriptedAnswer, fault: Option<&Fault>) -> Plan {
    if asked.stream {
        let worded = match api {
            Api::Anthropic => anthropic::stream(&answer),
            Api::OpenAi => openai::stream(&answer, asked.usage_wanted),
        };
        return Plan::of(worded, fault);
    }
    if let Some(Fault::HugeLine { bytes }) = fault {
        answer.text.push_str(&"x".repeat(usize::try_from(*bytes).unwrap_or(usize::MAX)));
    }
    let (document, usage) = match api {
        Api::Anthropic => (anthropic::document(&answer), answer.usage),
        Api::OpenAi => (openai::document(&answer), openai::as_said(answer.usage)),
    };
    Plan::of_document(Bytes::from(document.to_string()), usage, fault)
}

impl Shared {
    /// Returns status, message and wait, if this request of the step is to fail.
    fn error(&self, api: Api, place: (usize, usize), step: &Step) -> Option<(u16, String, Option<u64>)> {
        if let Some(status) = step.status {
            return Some((status, format!("[scripted] status {status}"), None));
        }
        let (status, message, wait, times) = match &step.fault {
            Some(Fault::RateLimited { retry_after_ms, times }) => (429, "[scripted] rate limit", *retry_after_ms, *times),
            Some(Fault::Overloaded { times }) => (api.overloaded(), "[scripted] overloaded", None, *times),
            _ => return None,
        };
        let mut failed = self.failed.lock();
        let failures = failed.entry(place).or_default();
        if *failures >= times {
            return None;
        }
        *failures += 1;
        Some((status, message.to_owned(), wait))
    }
}

/// A body on its way out.
struct Sending {
    shared: Arc<Shared>,
    number: u64,
    plan: Plan,
    at: usize,
    _place: tokio::sync::OwnedSemaphorePermit,
}

#[derive(Debug, thiserror::Error)]
#[error("cut as the script says")]
struct Cut;

impl Sending {
    fn new(shared: &Arc<Shared>, number: u64, plan: Plan, place: tokio::sync::OwnedSemaphorePermit) -> Self {
        Self { shared: shared.clone(), number, plan, at: 0, _place: place }
    }

    async fn next(mut self) -> Option<(Result<Bytes, Cut>, Self)> {
        let wait = if self.at == 0 { self.plan.first } else { self.plan.every };
        if !wait.is_zero() {
            let waited = tokio::select! {
                () = tokio::time::sleep(wait) => true,
                () = self.shared.stopping.cancelled() => false,
            };
            if !waited {
                return Some((Err(Cut), self));
            }
        } else if self.at > 0 {
            // Lets what was said go out by itself, before the next event or the cut.
            tokio::task::yield_now().await;
        }
        if self.shared.stopping.is_cancelled() {
            return Some((Err(Cut), self));
        }
        if let Some(frame) = self.plan.frames.get(self.at) {
            let bytes = frame.bytes.clone();
            self.shared.book.said(self.number, frame.usage);
            self.at += 1;
            return Some((Ok(bytes), self));
        }
        match &self.plan.then {
            Then::End => {
                self.shared.book.finished(self.number);
                None
            }
            Then::Cut => Some((Err(Cut), self)),
            Then::Again(bytes) => {
                let bytes = bytes.clone();
                self.shared.book.said(self.number, None);
                self.at += 1;
                Some((Ok(bytes), self))
            }
        }
    }
}
