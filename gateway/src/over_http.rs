//! GraphQL over HTTP: one request, one answer, with the status codes and media types of the GraphQL-over-HTTP draft.
//!
//! The order is fixed: credential, method, media types, body (bounded in size and time), limits, execution. Nothing of
//! a body is read before the credential is known to be good.

use std::sync::Arc;

use async_graphql::{Request as GraphqlRequest, Variables, parser::types::OperationType};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::TraceId,
};
use serde_json::Value as Json;
use tracing::Instrument;

use crate::{
    engine::{self, Caller, EngineAnswer},
    large_bodies::Turn,
    negotiate::{self, Media},
    otlp,
    serve::{Gateway, HttpConfig},
};

/// The response field that carries the trace id of a request.
pub const TRACE_HEADER: HeaderName = HeaderName::from_static("x-trace-id");

/// A refusal before GraphQL: an HTTP status and a GraphQL-shaped body.
pub struct HttpRefusal {
    pub status: StatusCode,
    pub refused: Refused,
}

impl HttpRefusal {
    /// Refuses with this status, code and message.
    pub fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, refused: Refused::new(code, message) }
    }

    fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, refused: Refused::invalid(field, message) }
    }

    /// Refuses with status 401.
    pub fn unauthenticated(refused: Refused) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, refused }
    }

    /// Answers with the refusal in the media type that the client wants, and the header fields that its status needs.
    pub fn answer(&self, media: Media) -> Response {
        let mut response = answer(self.status, media, EngineAnswer::refused(&self.refused).json);
        let extra = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"hiveward\"")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "10")),
            StatusCode::METHOD_NOT_ALLOWED => {
                Some((header::ALLOW, if self.refused.field.is_some() { "POST" } else { "GET, POST" }))
            }
            _ => None,
        };
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        // What is left of an unread body would be taken for the next request.
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn answer(status: StatusCode, media: Media, json: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, media.header()), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], json)
        .into_response()
}

/// Handles `POST /graphql` and `GET /graphql`.
pub async fn handle(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let media = negotiate::media(request.headers()).unwrap_or_default();
    let trace = TraceId::new();
    let span = tracing::info_span!("request", %trace);
    otlp::begin(&span, trace);
    let mut response = match serve(&gateway, request, trace).instrument(span).await {
        Ok(response) => response,
        Err(refusal) => refusal.answer(media),
    };
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        response.headers_mut().insert(TRACE_HEADER, value);
    }
    response
}

/// The header that names the project of a request, by name or id.
const PROJECT_HEADER: &str = "hiveward-project";
/// The most bytes of a project's name or id.
const PROJECT_BYTES_MAX: usize = 128;

/// Returns the project that a request names. Errors: it is no text, or too long to be a name.
pub fn project_of(headers: &HeaderMap) -> Result<Option<Arc<str>>, HttpRefusal> {
    let Some(named) = headers.get(PROJECT_HEADER) else { return Ok(None) };
    let named = named.to_str().ok().filter(|named| !named.is_empty() && named.len() <= PROJECT_BYTES_MAX);
    let wrong = || HttpRefusal::invalid(PROJECT_HEADER, format!("a project's name or id, of 1 to {PROJECT_BYTES_MAX} bytes"));
    Ok(Some(named.ok_or_else(wrong)?.into()))
}

async fn serve(gateway: &Gateway, request: Request, trace: TraceId) -> Result<Response, HttpRefusal> {
    let (parts, body) = request.into_parts();
    let principal = gateway.known(&parts)?;
    let project = project_of(&parts.headers)?;
    let request = Request::from_parts(parts, body);
    let media = negotiate::media(request.headers()).ok_or_else(|| {
        HttpRefusal::new(
            StatusCode::NOT_ACCEPTABLE,
            Code::Invalid,
            "answers are application/graphql-response+json or application/json",
        )
    })?;
    let Ok(_turn) = gateway.requests.try_acquire() else {
        metrics::counter!("hiveward_http_busy_total").increment(1);
        read_away(request.into_body(), &gateway.config).await;
        let message = "too many requests at once; try again after a second";
        return Err(HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy, message));
    };
    let deadline = Deadline::after(gateway.config.request_timeout());
    let get = request.method() == Method::GET;
    let (parsed, _large) = read(gateway, request, deadline).await?;
    let started = std::time::Instant::now();
    let answered = match engine::prepare(parsed, &gateway.config.limits, &gateway.pools.memory) {
        Ok(prepared) if get && prepared.operation == Some(OperationType::Mutation) => {
            return Err(HttpRefusal {
                status: StatusCode::METHOD_NOT_ALLOWED,
                refused: Refused::invalid("query", "a mutation needs POST"),
            });
        }
        Ok(prepared) => {
            engine::run(&gateway.engine, &gateway.pools, prepared, Caller { principal, project, trace, deadline }).await
        }
        Err(answer) => answer,
    };
    metrics::histogram!("hiveward_graphql_seconds").record(started.elapsed().as_secs_f64());
    let status = match media {
        Media::GraphqlResponse if answered.request_errors.is_some() => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    };
    Ok(answer(status, media, answered.json))
}

/// Takes what a client sends and keeps nothing of it. A client that is answered before it has sent all finds its connection
/// reset, and does not know whether anything was done. It has as long for that as for the head of a request.
async fn read_away(body: Body, config: &HttpConfig) {
    let mut chunks = body.into_data_stream();
    let mut left = config.body_bytes_max;
    let reading = async {
        while let Some(Ok(chunk)) = chunks.next().await
            && chunk.len() <= left
        {
            left -= chunk.len();
        }
    };
    let _ = tokio::time::timeout(config.read_timeout(), reading).await;
}

/// Reads the GraphQL request that an HTTP request carries. It is in its turn until what this returns with it is dropped.
pub async fn read(gateway: &Gateway, request: Request, deadline: Deadline) -> Result<(GraphqlRequest, Turn), HttpRefusal> {
    match *request.method() {
        Method::GET => Ok((from_query(request.uri())?, Turn::small())),
        Method::POST => {
            if !negotiate::body_is_json(request.headers()) {
                return Err(HttpRefusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    Code::Invalid,
                    "send the request as application/json in UTF-8",
                ));
            }
            let (parts, body) = request.into_parts();
            let body = read_body(&parts.headers, body, gateway).await?;
            let busy = |refused| HttpRefusal { status: StatusCode::SERVICE_UNAVAILABLE, refused };
            let turn = gateway.large_bodies.turn(body.len(), deadline).await.map_err(busy)?;
            let parsed = match turn.is_large() {
                // It takes milliseconds, which is long for a thread that leases wait for.
                true => gateway.pools.run(true, async move { from_body(&body) }).await?,
                false => from_body(&body)?,
            };
            Ok((parsed, turn))
        }
        _ => Err(HttpRefusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Invalid, "use POST, or GET for a query")),
    }
}

async fn read_body(headers: &HeaderMap, body: Body, gateway: &Gateway) -> Result<Bytes, HttpRefusal> {
    let max = gateway.config.body_bytes_max;
    let too_large = || {
        HttpRefusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::Limit,
            format!("the body is over {max} bytes (limit `body_bytes_max`)"),
        )
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|declared| declared > max) {
        return Err(too_large());
    }
    let mut chunks = body.into_data_stream();
    let reading = async {
        let mut read = BytesMut::with_capacity(declared.unwrap_or(0).min(64 * 1024));
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| HttpRefusal::invalid("body", format!("the body ended early: {error}")))?;
            if read.len() + chunk.len() > max {
                return Err(too_large());
            }
            read.extend_from_slice(&chunk);
        }
        Ok(read.freeze())
    };
    let timeout = gateway.config.read_timeout();
    match tokio::time::timeout(timeout, reading).await {
        Ok(read) => read,
        Err(_) => Err(HttpRefusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Code::Limit,
            format!("the body took over {timeout:?} (limit `read_timeout_ms`)"),
        )),
    }
}

/// Reads the request in a JSON body. A batch is refused: each operation is a request of its own.
pub fn from_body(body: &[u8]) -> Result<GraphqlRequest, HttpRefusal> {
    let json: Json =
        serde_json::from_slice(body).map_err(|error| HttpRefusal::invalid("body", format!("the body is no JSON: {error}")))?;
    match json {
        Json::Object(fields) => from_fields(fields),
        Json::Array(_) => Err(HttpRefusal::invalid("body", "batches are off (limit `batch`); send one request per operation")),
        _ => Err(HttpRefusal::invalid("body", "the body must be a JSON object with `query`")),
    }
}

/// Reads the request in the parsed fields `query`, `operationName`, `variables` and `extensions`.
pub fn from_fields(mut fields: serde_json::Map<String, Json>) -> Result<GraphqlRequest, HttpRefusal> {
    let query = match fields.remove("query") {
        Some(Json::String(query)) => query,
        None | Some(Json::Null) => return Err(HttpRefusal::invalid("query", "`query` is missing")),
        Some(_) => return Err(HttpRefusal::invalid("query", "`query` must be a string")),
    };
    let mut request = GraphqlRequest::new(query);
    request.operation_name = match fields.remove("operationName") {
        None | Some(Json::Null) => None,
        Some(Json::String(name)) => Some(name),
        Some(_) => return Err(HttpRefusal::invalid("operationName", "`operationName` must be a string")),
    };
    request.variables = match fields.remove("variables") {
        None | Some(Json::Null) => Variables::default(),
        Some(object @ Json::Object(_)) => Variables::from_json(object),
        Some(_) => return Err(HttpRefusal::invalid("variables", "`variables` must be an object")),
    };
    if !matches!(fields.remove("extensions"), None | Some(Json::Null | Json::Object(_))) {
        return Err(HttpRefusal::invalid("extensions", "`extensions` must be an object"));
    }
    Ok(request)
}

/// Reads the request in a URL's query string; `variables` and `extensions` are JSON.
fn from_query(uri: &Uri) -> Result<GraphqlRequest, HttpRefusal> {
    let pairs: Vec<(String, String)> = axum::extract::Query::try_from_uri(uri)
        .map_err(|error| HttpRefusal::invalid("query", format!("the URL's query string cannot be read: {error}")))?
        .0;
    let mut fields = serde_json::Map::new();
    for (name, value) in pairs {
        let value = match name.as_str() {
            "variables" | "extensions" if value.is_empty() => continue,
            "variables" | "extensions" => serde_json::from_str(&value)
                .map_err(|error| HttpRefusal::invalid(&name, format!("`{name}` is no JSON: {error}")))?,
            "query" | "operationName" => Json::String(value),
            _ => continue,
        };
        fields.insert(name, value);
    }
    from_fields(fields)
}
