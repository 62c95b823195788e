//! The bounds on what one answer may cost while it is made: bytes, values, and a thread's time; and on what all answers take
//! together.
//!
//! A document is weighed before it is executed (`crate::limit`), but how long its texts and lists are shows only then. So
//! each field is counted as it is resolved. One that passes a bound is not resolved any more and neither is any other of
//! its answer: the execution ends there with a refusal that says what to do, and what was made of it is dropped.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_graphql::{
    PathSegment, Request, Response, ServerError, ServerResult, Value,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextExecute, NextPrepareRequest, NextResolve, ResolveInfo},
    parser::types::Field,
};
use hiveward_actors::client::ControlPlane;
use hiveward_runtime::error::{Code, Refused};
use parking_lot::Mutex;

use crate::{auth::verbs, limit::DocumentLimits, schema};

/// The bytes that all answers that are being made or sent may take together. Over it, the ones that are large already are
/// refused.
pub const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// The size up to which an answer is let through, however much the others take.
const SMALL_BYTES: usize = 256 << 10;
/// What a value takes while it is made, beside its own bytes: its name, its place in a map, a future's remains.
const VALUE_BYTES: usize = 256;

/// The count of what the answers of a gateway take together. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Memory(Arc<AtomicUsize>);

impl Memory {
    /// Returns the bytes that are taken now.
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts the bytes of a finished answer until what this returns is dropped.
    pub fn hold(&self, bytes: usize) -> Held {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Held { memory: self.clone(), bytes }
    }
}

/// A part of [`Memory`]; dropping it gives it back.
pub struct Held {
    memory: Memory,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The meter of one request; its resolvers find it in the request's data.
pub struct Meter {
    bytes_max: usize,
    values_max: usize,
    work_max: Duration,
    memory: Memory,
    /// The bytes of the answer that is being made; a subscription makes one after the other.
    bytes: AtomicUsize,
    values: AtomicUsize,
    /// The part of the memory that this answer has taken.
    taken: AtomicUsize,
    worked_ns: AtomicU64,
    /// The time when the poll began that is under way.
    polled: Mutex<Option<Instant>>,
    /// Whether a bound is passed, which is read for every field; the reason is beside it.
    over: AtomicBool,
    why: Mutex<Option<Refused>>,
}

impl Meter {
    /// Makes a meter with these limits, whose answers are counted in `memory`.
    pub fn new(limits: &DocumentLimits, memory: Memory) -> Arc<Self> {
        let work_max = Duration::from_millis(limits.work_ms_max);
        Arc::new(Self::with(limits.answer_bytes_max, limits.answer_values_max, work_max, memory))
    }

    fn with(bytes_max: usize, values_max: usize, work_max: Duration, memory: Memory) -> Self {
        Self {
            bytes_max,
            values_max,
            work_max,
            memory,
            bytes: AtomicUsize::new(0),
            values: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            worked_ns: AtomicU64::new(0),
            polled: Mutex::default(),
            over: AtomicBool::new(false),
            why: Mutex::default(),
        }
    }

    /// Makes another meter with the same bounds.
    pub fn anew(&self) -> Arc<Self> {
        Arc::new(Self::with(self.bytes_max, self.values_max, self.work_max, self.memory.clone()))
    }

    /// Returns where its answers are counted.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Returns the most bytes that one answer may have.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Returns the values of the answer so far, and the bytes of its texts.
    pub fn counted(&self) -> (usize, usize) {
        (self.values.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn begin(&self) {
        self.give_back();
        self.bytes.store(0, Ordering::Relaxed);
        self.values.store(0, Ordering::Relaxed);
        self.worked_ns.store(0, Ordering::Relaxed);
        self.over.store(false, Ordering::Relaxed);
        *self.why.lock() = None;
    }

    fn give_back(&self) {
        let taken = self.taken.swap(0, Ordering::Relaxed);
        self.memory.0.fetch_sub(taken, Ordering::Relaxed);
    }

    /// Counts one value, or bytes of its text. Returns false if a bound is passed, now or before.
    fn count(&self, values: usize, bytes: usize) -> bool {
        if self.over.load(Ordering::Relaxed) {
            return false;
        }
        let values_now = self.values.fetch_add(values, Ordering::Relaxed) + values;
        let bytes_now = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let more = values * VALUE_BYTES + bytes;
        let mine = self.taken.fetch_add(more, Ordering::Relaxed) + more;
        let all = self.memory.0.fetch_add(more, Ordering::Relaxed) + more;
        if bytes_now > self.bytes_max {
            self.stop(too_large(self.bytes_max));
        } else if values_now > self.values_max {
            self.stop(Refused::new(
                Code::Limit,
                format!(
                    "the answer has more than {} fields and list entries (limit `answer_values_max`); take smaller pages or fewer fields",
                    self.values_max
                ),
            ));
        } else if all > ANSWERS_BYTES_MAX && mine > SMALL_BYTES {
            self.stop(Refused::new(
                Code::Busy,
                "other answers take all the memory there is for answers; try again after a second",
            ));
        } else if self.worked() > self.work_max {
            self.stop(Refused::new(
                Code::Limit,
                format!(
                    "the query worked for {} ms and was not done (limit `work_ms_max`); take smaller pages or fewer fields",
                    self.work_max.as_millis()
                ),
            ));
        } else {
            return true;
        }
        false
    }

    /// Returns how long threads were at work for this answer.
    fn worked(&self) -> Duration {
        let now = self.polled.lock().map_or(Duration::ZERO, |since| since.elapsed());
        now + Duration::from_nanos(self.worked_ns.load(Ordering::Relaxed))
    }

    fn stop(&self, refused: Refused) {
        metrics::counter!("hiveward_answers_refused_total").increment(1);
        *self.why.lock() = Some(refused);
        self.over.store(true, Ordering::Relaxed);
    }

    /// Returns why the execution was ended, if a bound was passed.
    pub fn stopped(&self) -> Option<Refused> {
        if self.over.load(Ordering::Relaxed) { self.why.lock().clone() } else { None }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Returns the refusal of an answer over its bytes.
pub fn too_large(bytes_max: usize) -> Refused {
    Refused::new(
        Code::Limit,
        format!("the answer is over {bytes_max} bytes (limit `answer_bytes_max`); take smaller pages or fewer fields"),
    )
}

/// An execution that is polled with the meter running; it is ready with the reason as soon as a bound is passed.
struct Metered<'a, F> {
    meter: &'a Meter,
    execution: Pin<&'a mut F>,
}

impl<F: Future<Output = Response>> Future for Metered<'_, F> {
    type Output = Result<Response, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let began = Instant::now();
        *self.meter.polled.lock() = Some(began);
        let polled = self.execution.as_mut().poll(cx);
        *self.meter.polled.lock() = None;
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.meter.worked_ns.fetch_add(took, Ordering::Relaxed);
        match self.meter.stopped() {
            Some(refused) => Poll::Ready(Err(refused)),
            None => polled.map(Ok),
        }
    }
}

/// The extension that makes a schema keep the bounds of the [`Meter`] that a request brings along.
pub struct Bounds;

impl ExtensionFactory for Bounds {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Bounded)
    }
}

struct Bounded;

#[async_graphql::async_trait::async_trait]
impl Extension for Bounded {
    async fn prepare_request(
        &self,
        ctx: &ExtensionContext<'_>,
        request: Request,
        next: NextPrepareRequest<'_>,
    ) -> ServerResult<Request> {
        let request = match ctx.data_opt::<schema::Whole>() {
            Some(whole) => whole.of_caller(request).map_err(refusal)?,
            None => request,
        };
        next.run(ctx, request).await
    }

    async fn execute(&self, ctx: &ExtensionContext<'_>, name: Option<&str>, next: NextExecute<'_>) -> Response {
        let Some(meter) = ctx.data_opt::<Arc<Meter>>() else { return next.run(ctx, name).await };
        meter.begin();
        let execution = pin!(next.run(ctx, name));
        match (Metered { meter, execution }).await {
            Ok(response) => response,
            Err(refused) => Response::from_errors(vec![refusal(refused)]),
        }
    }

    async fn resolve(
        &self,
        ctx: &ExtensionContext<'_>,
        info: ResolveInfo<'_>,
        next: NextResolve<'_>,
    ) -> ServerResult<Option<Value>> {
        if info.path_node.parent.is_none() {
            // Without a control plane nothing is behind a field that a policy could be about.
            if let Some(control) = ctx.data_opt::<ControlPlane>() {
                verbs::admit(control, info.name).map_err(|refused| refusal_of(info.field, refused))?;
            }
        }
        let Some(meter) = ctx.data_opt::<Arc<Meter>>() else { return next.run(ctx, info).await };
        let name = info.alias.unwrap_or(info.name).len();
        if !meter.count(1, name) {
            return std::future::pending().await;
        }
        let leaf = info.field.selection_set.node.items.is_empty();
        let info_is_list = info.return_type.starts_with('[');
        let value = next.run(ctx, info).await?;
        // What is below an object or in a list was counted by itself.
        let leaf = leaf && !info_is_list;
        if leaf && !value.as_ref().is_none_or(|value| meter.count(0, bytes(value))) {
            return std::future::pending().await;
        }
        Ok(value)
    }
}

/// Estimates what a leaf takes, in memory and as JSON.
fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::List(values) => values.iter().map(|value| bytes(value) + size_of::<Value>()).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes(value) + size_of::<Value>()).sum(),
        Value::Binary(bytes) => bytes.len(),
        Value::Enum(name) => name.len() + 2,
        Value::Null | Value::Boolean(_) | Value::Number(_) => 4,
    }
}

/// Returns the refusal of one field of the request's root, with where it stands.
fn refusal_of(field: &Field, refused: Refused) -> ServerError {
    let mut error = refusal(refused);
    error.locations = vec![field.name.pos];
    error.path = vec![PathSegment::Field(field.response_key().node.to_string())];
    error
}

fn refusal(refused: Refused) -> ServerError {
    let mut error = ServerError::new(refused.message.clone(), None);
    error.source = Some(Arc::new(refused));
    error
}
