//! Logs: for people on a terminal, JSON lines otherwise; every line of a request carries its trace id.
//! Spans go to a collector too, if one is configured.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::{EnvFilter, Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{self, LogFormat},
    otlp::{self, Traces},
};

/// The logger, to be held for as long as logs are wanted.
pub struct Telemetry {
    /// The traces, to be started when there is a runtime.
    pub traces: Option<Traces>,
}

const FILTER_DEFAULT: &str = "info,openraft=error,openraft::replication=off";

/// Starts logging to standard error. `RUST_LOG` chooses what. If it is called twice, the first logger stays.
pub fn start(config: &config::Telemetry) -> Result<Telemetry, String> {
    let format = config.log_format;
    let traces = otlp::prepare(&config.otlp)?;
    // Our own spans only: the exporter's would feed themselves. Whatever RUST_LOG says, as that is about lines.
    let ours = Targets::new().with_target("hiveward", Level::INFO).with_target("async_graphql", Level::INFO);
    let spans = traces.as_ref().map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer()).with_filter(ours));
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| format!("RUST_LOG={text:?}: {error}"))?,
        _ => EnvFilter::new(FILTER_DEFAULT),
    };
    let terminal = std::io::stderr().is_terminal();
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if human {
        fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).with_target(false).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false).with_writer(std::io::stderr).boxed()
    };
    // Fails when a logger is there already: tests start several nodes in one process.
    let _first_stays = tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init();
    Ok(Telemetry { traces })
}
