//! The GraphQL executor as the transports see it: any schema behind one object-safe trait, and the wire form of answers.
//!
//! Every transport goes through [`Engine`], so limits, error codes and the hiding of internal errors hold on all of them.

use std::sync::Arc;

use async_graphql::{
    ObjectType, PathSegment, Request, Response, Schema, ServerError, SubscriptionType, Value,
    parser::{
        parse_query,
        types::{ExecutableDocument, OperationType},
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::BoxStream};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::TraceId,
};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    auth::Principal,
    bound::{self, Held, Memory, Meter},
    limit::{self, DocumentLimits},
    pool::Pools,
};

/// What runs prepared requests.
pub trait Engine: Send + Sync + 'static {
    fn run(&self, request: Request) -> BoxFuture<'_, Response>;
    fn stream(&self, request: Request) -> BoxStream<'static, Response>;
}

impl<Q, M, S> Engine for Schema<Q, M, S>
where
    Q: ObjectType + 'static,
    M: ObjectType + 'static,
    S: SubscriptionType + 'static,
{
    fn run(&self, request: Request) -> BoxFuture<'_, Response> {
        Box::pin(self.execute(request))
    }

    fn stream(&self, request: Request) -> BoxStream<'static, Response> {
        self.execute_stream(request)
    }
}

/// Who asks and by when. Resolvers find it in the request's data.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Arc<Principal>,
    /// The project that the request names, by name or id.
    pub project: Option<Arc<str>>,
    pub trace: TraceId,
    pub deadline: Deadline,
}

/// The position a subscription has reached, and the one it shall resume after; shared between resolver and transport.
#[derive(Clone, Default)]
pub struct Position(Arc<Mutex<Positions>>);

#[derive(Default)]
struct Positions {
    resume_after: Option<String>,
    reached: Option<String>,
}

impl Position {
    /// Returns a position that overrides the subscription's own `after` argument.
    pub fn resuming(after: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(Positions { resume_after: after, reached: None })))
    }

    /// Returns the position to resume after, if there is one.
    pub fn resume_after(&self) -> Option<String> {
        self.0.lock().resume_after.clone()
    }

    /// Notes how far the subscription has come; a resolver calls it as it hands out each item.
    pub fn reach(&self, position: impl std::fmt::Display) {
        self.0.lock().reached = Some(position.to_string());
    }

    /// Returns the position of the last item that was handed out.
    pub fn reached(&self) -> Option<String> {
        self.0.lock().reached.clone()
    }
}

/// A request that passed the limits and may be executed.
pub struct Prepared {
    pub request: Request,
    pub operation: Option<OperationType>,
    pub document: Option<ExecutableDocument>,
    /// The meter of what its answers may cost; it stands in the request's data, too.
    pub meter: Arc<Meter>,
}

/// Parses and weighs a request; what does not parse or weighs too much is answered here. Its answers are counted in
/// `memory`.
pub fn prepare(mut request: Request, limits: &DocumentLimits, memory: &Memory) -> Result<Prepared, EngineAnswer> {
    limit::scan(&request.query, limits).map_err(|refused| EngineAnswer::refused(&refused))?;
    let document = parse_query(&request.query).map_err(|error| EngineAnswer::from_errors(vec![error.into()]))?;
    let kind = limit::check(&document, request.operation_name.as_deref(), &request.variables, limits)
        .map_err(|refused| EngineAnswer::refused(&refused))?;
    let operation = kind.map(|kind| kind.operation);
    // Only a subscription is looked at again (whether it can be shared).
    let kept = (operation == Some(OperationType::Subscription)).then(|| document.clone());
    request.set_parsed_query(document);
    Ok(Prepared { request, operation, document: kept, meter: Meter::new(limits, memory.clone()) })
}

/// One answer in its wire form.
#[derive(Clone, Debug)]
pub struct EngineAnswer {
    pub json: Bytes,
    /// The list of errors alone, as JSON, if nothing was executed because the request itself is at fault (`data` is absent).
    pub request_errors: Option<Bytes>,
}

#[derive(Serialize)]
struct WireAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ServerError],
}

impl EngineAnswer {
    /// Shapes an executed response: every error gets a code, and an internal one shows its trace and nothing else. Its bytes are
    /// held in the memory of answers until it is dropped. An answer that passes a bound of its meter is an error.
    pub fn of(mut response: Response, trace: TraceId, meter: &Meter) -> Result<Self, Refused> {
        if let Some(refused) = meter.stopped() {
            return Err(refused);
        }
        for error in &mut response.errors {
            shape(error, trace);
        }
        // Errors of the request itself have no path; those of a resolver that nulled everything do.
        let request_error = response.data == Value::Null
            && !response.errors.is_empty()
            && response.errors.iter().all(|error| error.path.is_empty());
        let wire = WireAnswer { data: (!request_error).then_some(&response.data), errors: &response.errors };
        let mut json = Bounded { bytes: Vec::new(), max: meter.bytes_max() };
        match serde_json::to_writer(&mut json, &wire) {
            Ok(()) => {}
            Err(error) if error.is_io() => return Err(bound::too_large(meter.bytes_max())),
            Err(error) => return Err(Refused::new(Code::Internal, format!("an answer cannot be written as JSON: {error}"))),
        }
        let held = meter.memory().hold(json.bytes.capacity());
        let json = Bytes::from_owner(Sent { json: json.bytes, _held: held });
        Ok(Self { json, request_errors: request_error.then(|| to_json(&response.errors)) })
    }

    /// Returns the answer that an execution came to; where a bound ended it, it says what that means for who asked.
    fn made(response: Response, trace: TraceId, meter: &Meter, mutation: bool) -> Self {
        Self::of(response, trace, meter).unwrap_or_else(|refused| match mutation {
            true => Self::refused(&Refused::new(
                Code::UnknownOutcome,
                format!("it may have happened: retry with the same operationId and fewer fields, or look; {}", refused.message),
            )),
            false => Self::refused(&refused),
        })
    }

    fn from_errors(mut errors: Vec<ServerError>) -> Self {
        for error in &mut errors {
            shape(error, TraceId::from_u128(0));
        }
        Self::from_shaped(&errors)
    }

    fn from_shaped(errors: &[ServerError]) -> Self {
        Self { json: to_json(&WireAnswer { data: None, errors }), request_errors: Some(to_json(&errors)) }
    }

    /// Returns an answer that is one refusal.
    pub fn refused(refused: &Refused) -> Self {
        let mut error = ServerError::new(refused.message.clone(), None);
        error.extensions = Some(extensions(refused));
        Self::from_shaped(&[error])
    }
}

/// The JSON of an answer, counted until its last byte is on its way.
struct Sent {
    json: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// A writer that takes up to `max` bytes and fails from there on.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + more.len() > self.max {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn to_json(wire: &impl Serialize) -> Bytes {
    match serde_json::to_vec(wire) {
        Ok(json) => json.into(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            Bytes::from_static(br#"{"errors":[{"message":"internal error","extensions":{"code":"INTERNAL","retryable":false}}]}"#)
        }
    }
}

fn extensions(refused: &Refused) -> async_graphql::ErrorExtensionValues {
    let mut values = async_graphql::ErrorExtensionValues::default();
    values.set("code", refused.code.name());
    values.set("retryable", refused.code.retryable());
    if let Some(field) = &refused.field {
        values.set("field", field.as_str());
    }
    values
}

fn shape(error: &mut ServerError, trace: TraceId) {
    let refused = match error.source::<Refused>() {
        Some(refused) => refused.clone(),
        // Everything that the executor itself refuses is the request's fault.
        None if error.source.is_none() => Refused { code: Code::Invalid, message: error.message.clone(), field: field_of(error) },
        None => Refused::new(Code::Internal, error.message.clone()),
    };
    if refused.code == Code::Internal {
        tracing::error!(%trace, path = ?error.path, message = %refused.message, "internal error");
        error.message = format!("internal error; the log has the cause under trace {trace}");
    }
    error.extensions = Some(extensions(&refused));
}

/// Returns the input field that the validator complains about: it quotes `input.priority` in its message.
fn field_of(error: &ServerError) -> Option<String> {
    let quoted = error.message.strip_prefix("Invalid value for argument \"")?.split_once('"')?.0;
    let path = quoted.strip_prefix("input.").unwrap_or(quoted);
    Some(path.trim_end_matches(',').to_owned())
}

/// Runs a query or mutation to its end on the threads for it, at most until its deadline.
pub async fn run(engine: &Arc<dyn Engine>, pools: &Pools, prepared: Prepared, caller: Caller) -> EngineAnswer {
    let (trace, deadline) = (caller.trace, caller.deadline);
    let mutation = prepared.operation == Some(OperationType::Mutation);
    if prepared.operation == Some(OperationType::Subscription) {
        return EngineAnswer::refused(&Refused::invalid("query", "a subscription needs `/graphql/ws` or `/graphql/stream`"));
    }
    let meter = prepared.meter;
    let request = prepared.request.data(caller).data(Position::default()).data(meter.clone());
    let engine = engine.clone();
    let executed = async move {
        let response = engine.run(request).await;
        EngineAnswer::made(response, trace, &meter, mutation)
    };
    match tokio::time::timeout_at(deadline.instant(), pools.run(mutation, executed)).await {
        Ok(answer) => answer,
        Err(_) if mutation => EngineAnswer::refused(&Refused::new(
            Code::UnknownOutcome,
            "no answer within the time limit; it may have happened: retry with the same operationId, or look",
        )),
        Err(_) => {
            EngineAnswer::refused(&Refused::new(Code::Unavailable, "no answer within the time limit; ask for less or try again"))
        }
    }
}

/// Runs a subscription (or a single-answer operation) as a stream of answers with the position after each. Who polls it executes
/// it, so it is to be polled on the threads for queries.
pub fn stream(
    engine: &dyn Engine,
    prepared: Prepared,
    caller: Caller,
    position: Position,
) -> BoxStream<'static, (EngineAnswer, Option<String>)> {
    let trace = caller.trace;
    let mutation = prepared.operation == Some(OperationType::Mutation);
    let meter = prepared.meter;
    let request = prepared.request.data(caller).data(position.clone()).data(meter.clone());
    engine
        .stream(request)
        .map(move |response| (EngineAnswer::made(response, trace, &meter, mutation), position.reached()))
        .boxed()
}

/// Writes the path of an error as dotted text, for logs.
pub fn path_text(path: &[PathSegment]) -> String {
    let parts: Vec<_> = path
        .iter()
        .map(|segment| match segment {
            PathSegment::Field(name) => name.clone(),
            PathSegment::Index(index) => index.to_string(),
        })
        .collect();
    parts.join(".")
}
