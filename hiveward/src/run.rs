//! `hiveward up` and `hiveward dev`: one node in the foreground, from configuration to a clean stop.
//!
//! Start order: data directory and token, model gateway, node, listener. Stop order is the reverse: SIGTERM (or Ctrl-C)
//! closes the listener, lets requests finish, then stops the node; agents' processes live on to be adopted. The model
//! gateway is there before an agent is adopted, and until none is led any more. A second signal ends the process at once.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use hiveward_actors::{
    client::ControlPlane,
    cluster::JoinTarget,
    node::{Node, NodeConfig},
};
use hiveward_cli::{
    Common,
    fail::{Exit, Failed, Outcome},
};
use hiveward_contract::home::{TOKEN_FILE, dev_data_dir};
use hiveward_gateway::{
    auth::{Auth, admin_token},
    cluster_config::PORT,
    config::{Config, Flags},
    metered,
    model::{
        ModelGateway,
        scripted::{Script, Scripted},
    },
    otlp::Traces,
    probe::Probe,
    schema,
    serve::{Gateway, Server},
    telemetry,
    upkeep::Upkeep,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rustix::process::DumpableBehavior;
use tokio::signal::unix::{SignalKind, signal};

use crate::{config::wrong, scripted_model};

#[derive(Args)]
pub struct UpArgs {
    /// The configuration file
    #[arg(long, env = "HIVEWARD_CONFIG")]
    config: Option<PathBuf>,
    /// Where the gateway listens, 127.0.0.1:7700 unless configured
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where other nodes connect, 0.0.0.0:7701 unless configured
    #[arg(long)]
    cluster_listen: Option<SocketAddr>,
    /// Join the cluster of the node at this host:port, with --token of `hiveward token create`; for the first start only
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// A file that holds the join token, so that it is on no command line
    #[arg(long, requires = "join")]
    join_token_file: Option<PathBuf>,
}

impl UpArgs {
    fn join_target(&self, common: &Common) -> Outcome<Option<JoinTarget>> {
        let Some(address) = self.join.clone() else { return Ok(None) };
        let again =
            "create a token with `hiveward token create` on a node of the cluster, and give it with --token or --join-token-file";
        let text = match (&self.join_token_file, &common.token) {
            (Some(path), _) => std::fs::read_to_string(path)
                .map_err(|error| Failed::usage(format!("{} cannot be read: {error}", path.display()), again))?,
            (None, Some(token)) => token.clone(),
            (None, None) => return Err(Failed::usage("--join needs a join token", again)),
        };
        let token = text.trim().parse().map_err(|error| Failed::usage(format!("{error}"), again))?;
        let address = if address.contains(':') { address } else { format!("{address}:{PORT}") };
        Ok(Some(JoinTarget { address, token }))
    }
}

struct NodeProbe {
    control: ControlPlane,
    prometheus: PrometheusHandle,
}

impl Probe for NodeProbe {
    fn ready(&self) -> Result<(), String> {
        self.control.ready()
    }

    fn metrics(&self) -> String {
        if let Ok(sample) = self.control.metrics_sample() {
            for (name, value) in [
                ("hiveward_tasks_running", sample.tasks_running),
                ("hiveward_tasks_queued", sample.tasks_queued),
                ("hiveward_agents", sample.agents_running),
            ] {
                metrics::gauge!(name).set(value as f64);
            }
            metrics::counter!("hiveward_tasks_ended_total").absolute(sample.tasks_ended_total);
            metrics::counter!("hiveward_events_total").absolute(sample.events_total);
            if let Some(seconds) = sample.cpu_seconds_total {
                metrics::gauge!("process_cpu_seconds_total").set(seconds);
            }
            if let Some(bytes) = sample.resident_bytes {
                metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
            }
        }
        metrics::gauge!("hiveward_view_lag_events").set(self.control.cluster().view_lag as f64);
        self.prometheus.run_upkeep();
        let mut page = self.prometheus.render();
        page.push_str(&metered::page(&self.control.metered()));
        page
    }
}

/// Writes the whole chain of causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn cannot_start(error: &dyn std::error::Error) -> Failed {
    Failed::new(
        Exit::Failed,
        format!("the node cannot start: {}", chain(error)),
        "mend what is named above; `hiveward config show` has what is in force",
    )
}

/// What `dev` takes besides what `up` does.
#[derive(Args)]
pub struct DevArgs {
    #[command(flatten)]
    up: UpArgs,
    /// Answer agents' calls of models from a script instead of a model; a short one of its own without FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    scripted_model: Option<Option<PathBuf>>,
}

/// Runs `hiveward dev`.
pub fn dev(common: &Common, args: DevArgs) -> Outcome {
    let script = args.scripted_model.map(|path| scripted_model::script(path.as_deref())).transpose()?;
    start(common, args.up, true, script)
}

/// Runs `hiveward up`.
pub fn up(common: &Common, args: UpArgs) -> Outcome {
    start(common, args, false, None)
}

/// Keeps a core dump of this process from being written, and its memory from being read without root: a node holds the keys of
/// models and of its cluster. Programs that it starts are not concerned.
fn keep_memory_private() {
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a crash of this node may write a core dump, and that would hold keys");
    }
}

fn start(common: &Common, args: UpArgs, dev: bool, script: Option<Script>) -> Outcome {
    let mut base = Config::default();
    if dev {
        base.data_dir = dev_data_dir();
        base.node.allow_faults = true;
        base.cluster.listen = None;
    }
    let join = args.join_target(common)?;
    let flags = Flags { data_dir: common.data_dir.clone(), listen: args.listen, cluster_listen: args.cluster_listen };
    let config = Config::load(base, args.config.as_deref(), std::env::vars(), &flags).map_err(wrong)?;
    let telemetry = telemetry::start(&config.telemetry)
        .map_err(|problem| Failed::usage(problem, "mend what is named; `hiveward config show` has what is in force"))?;
    keep_memory_private();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("hiveward").build();
    let runtime = runtime.map_err(|error| cannot_start(&error))?;
    let outcome = runtime.block_on(async {
        let traces = telemetry.traces.map(Traces::start);
        let outcome = serve(config, join, dev, script).await;
        if let Some(traces) = traces {
            traces.stop().await;
        }
        outcome
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Starts a scripted model server and makes it the provider of both APIs.
async fn scripted(config: &mut Config, script: Script) -> Outcome<Scripted> {
    let server = Scripted::start(([127, 0, 0, 1], 0).into(), script).await.map_err(|error| cannot_start(&error))?;
    config.models.use_scripted(server.address());
    eprintln!("Models are scripted: whatever is asked, a script answers and no model. Nothing of it was thought.");
    Ok(server)
}

async fn serve(mut config: Config, join: Option<JoinTarget>, dev: bool, script: Option<Script>) -> Outcome {
    // Installed first, so that a signal during the start is not lost.
    let mut signals = Signals::new().map_err(|error| cannot_start(&error))?;
    if config.node.allow_faults
        && let Ok(faults) = std::env::var("HIVEWARD_FAULTS")
    {
        hiveward_runtime::fault::arm_from_text(&faults)
            .map_err(|problem| Failed::usage(format!("HIVEWARD_FAULTS: {problem}"), "write it as point=fault*times;…"))?;
    }
    let buckets = [0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &buckets);
    let prometheus = recorder.and_then(PrometheusBuilder::install_recorder).map_err(|error| cannot_start(&error))?;

    let _upkeep = Upkeep::start(prometheus.clone());

    let mut node = NodeConfig::new(&config.data_dir);
    node.faults_allowed = config.node.allow_faults;
    node.cluster = config.cluster.config(join).map_err(|problem| {
        Failed::usage(problem, "mend it and run `hiveward config check FILE`; `hiveward config show` has what is in force")
    })?;
    node.retention = config.retention();
    node.ledger = config.node.ledger.retention();
    node.holes = config.node.ledger.holes();
    let token = admin_token(&config.data_dir).map_err(|error| cannot_start(&error))?;
    let auth = config.auth(&token).map_err(wrong)?;
    (node.token_digests, node.policies) = (auth.digests(), config.policies().map_err(wrong)?);
    node.gateway = config.gateway.reached_at();
    node.watchdog.clone_from(&config.node.watchdog);
    if let Some(agents) = config.node.default_agents {
        node.default_agents = agents;
    }
    let _scripted = match script {
        Some(script) => Some(scripted(&mut config, script).await?),
        None => None,
    };
    let models = match config.models.providers.is_empty() {
        true => None,
        false => Some(ModelGateway::start(&config.models, &config.data_dir).await.map_err(|error| cannot_start(&error))?),
    };
    if let Some(models) = &models {
        node.models = Arc::new(models.models());
    }
    let node = tokio::select! {
        started = Node::start(node) => started.map_err(|error| cannot_start(&error))?,
        () = signals.next() => return Ok(()),
    };
    if let Some(models) = &models {
        models.keep_port().map_err(|error| cannot_start(&error))?;
    }
    let served = listen(&config, auth, &node, prometheus).await;
    let server = match served {
        Ok(server) => server,
        Err(failed) => {
            node.stop(Duration::from_millis(config.drain_ms)).await;
            return Err(failed);
        }
    };
    announce(&config, server.address(), node.cluster_address(), dev);
    signals.next().await;
    tracing::info!("stopping: requests finish, agents' processes live on; a second signal stops at once");
    let grace = Duration::from_millis(config.drain_ms);
    let stopping = async {
        server.stop(grace).await;
        node.stop(grace).await;
        if let Some(models) = models {
            models.stop(grace).await;
        }
    };
    tokio::select! {
        () = stopping => {
            tracing::info!("stopped");
            Ok(())
        }
        () = signals.next() => Err(Failed::new(Exit::Interrupted, "stopped at once by a second signal", "nothing that was acknowledged is lost; start the node again to go on")),
    }
}

async fn listen(config: &Config, auth: Auth, node: &Node, prometheus: PrometheusHandle) -> Outcome<Server> {
    let control = node.control();
    let others = control.clone();
    let keys = node.control().clone();
    let auth = auth.with_elsewhere(move || others.token_digests()).with_keys(move |text| keys.principal_of_key(text));
    let auth = auth.with_issuers(config.issuers().map_err(|error| cannot_start(&error))?);
    let engine = schema::engine(control.clone());
    let probe = NodeProbe { control: control.clone(), prometheus };
    let gateway =
        Gateway::of_node(engine, auth, config.gateway.clone(), Arc::new(probe), control).map_err(|error| cannot_start(&error))?;
    let known = !(config.auth.tokens.is_empty() && config.auth.jwt.is_empty());
    Server::start_with(gateway, known, config.tls.clone()).await.map_err(|error| cannot_start(&error))
}

fn announce(config: &Config, address: SocketAddr, cluster: Option<&str>, dev: bool) {
    let token = config.data_dir.join(TOKEN_FILE);
    tracing::info!(%address, cluster, data_dir = %config.data_dir.display(), "the node is up");
    if dev {
        eprintln!(
            "\nHiveward is up.\n  open     http://{address}/\n  GraphQL  http://{address}/graphql\n  token    {}\n  try      hiveward task submit --output -- echo hello\n",
            token.display()
        );
    }
}

/// The signals SIGTERM and SIGINT, one after the other.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
