//! Traces over OTLP (HTTP, protobuf), if an endpoint is configured.
//!
//! Owns the queue of ended spans and the one task that exports them. A span that finds the queue full, or whose export
//! fails, is dropped and counted: requests never wait for a collector. Stopping exports what is queued, within a bound.
//! Headers may hold credentials and are never shown.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hiveward_contract::yaml::Expanded;
use hiveward_runtime::op::TraceId;
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId as OtelTraceId, TraceState, TracerProvider},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor},
};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The most ended spans that wait to be exported; more are dropped and counted.
const QUEUE_MAX: usize = 4_096;
const BATCH_MAX: usize = 512;
/// The time for which spans are gathered before an export, so that a quiet node does not send every span alone.
const EXPORT_EVERY: Duration = Duration::from_secs(2);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the export of what is queued may take when the node stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Where traces go, such as `http://127.0.0.1:4318`; else `OTEL_EXPORTER_OTLP_ENDPOINT`; none exports nothing.
    pub endpoint: Option<String>,
    /// Sent with every export; values as `${VAR}`, never written out again.
    #[serde(skip_serializing)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: BTreeMap<String, Expanded>,
}

impl OtlpConfig {
    /// Returns the whole URL, by the standard's rules; ours wins over the environment's.
    fn url(&self) -> Option<String> {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let base = |base: String| format!("{}/v1/traces", base.trim_end_matches('/').trim_end_matches("/v1/traces"));
        self.endpoint
            .clone()
            .map(base)
            .or_else(|| variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
            .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT").map(base))
    }
}

/// The queue's other end, until a runtime is there to export from it.
pub struct Traces {
    pub provider: SdkTracerProvider,
    exporter: opentelemetry_otlp::SpanExporter,
    ended: mpsc::Receiver<SpanData>,
}

/// The task that exports until it is stopped.
pub struct Exporting {
    provider: SdkTracerProvider,
    task: JoinHandle<()>,
}

/// Prepares the export; `None` if no endpoint is configured. The error names the section.
pub fn prepare(config: &OtlpConfig) -> Result<Option<Traces>, String> {
    let Some(url) = config.url() else { return Ok(None) };
    let wrong = |error: &dyn std::fmt::Display| format!("telemetry.otlp: {error}");
    let client = reqwest::Client::builder().timeout(EXPORT_TIMEOUT).build().map_err(|error| wrong(&error))?;
    let headers: HashMap<_, _> = config.headers.iter().map(|(name, Expanded(value))| (name.clone(), value.clone())).collect();
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Client(client))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .with_endpoint(url)
        .with_headers(headers)
        .build()
        .map_err(|error| wrong(&error))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("hiveward").with_attribute(version).build();
    exporter.set_resource(&resource);
    let (queue, ended) = mpsc::channel(QUEUE_MAX);
    let queue = Queue(Arc::new(Mutex::new(Some(queue))));
    let provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue).build();
    Ok(Some(Traces { provider, exporter, ended }))
}

impl Traces {
    /// Returns the tracer whose spans are exported.
    pub fn tracer(&self) -> opentelemetry_sdk::trace::SdkTracer {
        self.provider.tracer("hiveward")
    }

    /// Starts to export. It must be called within a runtime.
    pub fn start(self) -> Exporting {
        Exporting { task: tokio::spawn(export(self.exporter, self.ended)), provider: self.provider }
    }
}

impl Exporting {
    /// Exports what has ended so far, for a bounded time.
    pub async fn stop(mut self) {
        // This closes the queue; what ends later is dropped.
        if let Err(error) = self.provider.shutdown() {
            tracing::debug!(%error, "traces");
        }
        if tokio::time::timeout(FLUSH_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the last traces could not be exported in time");
        }
    }
}

async fn export(exporter: opentelemetry_otlp::SpanExporter, mut ended: mpsc::Receiver<SpanData>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while ended.recv_many(&mut batch, BATCH_MAX).await > 0 {
        // Waits a little for more, unless the queue is closed or there is enough already.
        let gathering = async { while batch.len() < BATCH_MAX && ended.recv_many(&mut batch, BATCH_MAX).await > 0 {} };
        let _gathered = tokio::time::timeout(EXPORT_EVERY, gathering).await;
        let spans: Vec<SpanData> = batch.drain(..).map(rooted).collect();
        let count = spans.len() as u64;
        match tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(spans)).await {
            Ok(Ok(())) => metrics::counter!("hiveward_otlp_spans_exported_total").increment(count),
            failed => {
                metrics::counter!("hiveward_otlp_spans_dropped_total", "why" => "failed").increment(count);
                let why = failed.map_or_else(|_| "no answer in time".to_owned(), |failed| format!("{failed:?}"));
                tracing::debug!(why, spans = count, "traces could not be exported");
            }
        }
    }
}

/// Makes a request's span the root of the trace that its answer and its log lines name.
pub fn begin(span: &tracing::Span, trace: TraceId) {
    let trace = OtelTraceId::from_bytes(trace.as_u128().to_be_bytes());
    let parent = SpanContext::new(trace, stand_in(trace), TraceFlags::SAMPLED, true, TraceState::default());
    // Without an exporter there is no layer that could take it.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// Returns the parent that stands for "none": the API lets a trace's id be chosen only together with a parent.
fn stand_in(trace: OtelTraceId) -> SpanId {
    let bytes = trace.to_bytes();
    let mut low = [0; 8];
    low.copy_from_slice(&bytes[8..]);
    SpanId::from_bytes(low)
}

fn rooted(mut span: SpanData) -> SpanData {
    if span.parent_span_is_remote && span.parent_span_id == stand_in(span.span_context.trace_id()) {
        span.parent_span_id = SpanId::INVALID;
        span.parent_span_is_remote = false;
    }
    span
}

/// The queue that takes ended spans without ever waiting; it is empty once it was shut down.
#[derive(Clone, Debug)]
struct Queue(Arc<Mutex<Option<mpsc::Sender<SpanData>>>>);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let taken = self.0.lock().as_ref().is_some_and(|queue| queue.try_send(span).is_ok());
        if !taken {
            metrics::counter!("hiveward_otlp_spans_dropped_total", "why" => "queue").increment(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.0.lock().take();
        Ok(())
    }
}

/// The HTTP client of this product, so that there is one TLS provider in the process.
#[derive(Debug)]
struct Client(reqwest::Client);

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let request = request.try_into().map_err(reqwest::Error::without_url)?;
            let answer = self.0.execute(request).await.map_err(reqwest::Error::without_url)?;
            let status = answer.status();
            let body = answer.bytes().await.map_err(reqwest::Error::without_url)?;
            let mut response = Response::new(body);
            *response.status_mut() = status;
            Ok(response)
        })
    }
}
