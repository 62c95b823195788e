//! The command line: `hiveward NOUN VERB`. It is a client of the public API like any other, and links nothing of a node.
//!
//! The program adds the commands that run a node to those of [`Command`]. Data goes to standard output, everything else to
//! standard error; exit statuses are as [`fail::Exit`] has them.

pub mod agent;
pub mod apply;
pub mod approval;
pub mod args;
pub mod attach;
mod balance;
pub mod budget;
pub mod client;
pub mod event;
mod explain;
pub mod fail;
pub mod fault;
pub mod hint;
pub mod host;
mod image;
mod lookup;
pub mod network;
mod node;
pub mod retry;
mod scatter;
mod short;
pub mod show;
pub mod storage;
pub mod swarm;
pub mod task;
pub mod top;
pub mod tree;
pub mod usage;
pub mod vm;
pub mod wait;
pub mod words;

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use hiveward_contract::home;
use serde_json::{Value, json};

use crate::{
    client::Client,
    fail::{Exit, Failed, Outcome},
    show::{Format, Show},
};

/// The heading under which `--help` shows what every command takes, so that it does not hide what this one does.
const EVERYWHERE: &str = "Options of every command";

#[derive(clap::Args, Clone)]
pub struct Common {
    /// The node to talk to
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HIVEWARD_URL", default_value = "http://127.0.0.1:7700")]
    pub url: String,
    /// The token to show it; else the one in the data directory
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HIVEWARD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Where the node keeps its data (and its administrator's token)
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HIVEWARD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// How data is shown
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t)]
    pub output_format: Format,
    /// Only what identifies the result
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub quiet: bool,
    /// Give up waiting after this long, such as 30s, 5m or 1h
    #[arg(long, global = true, help_heading = EVERYWHERE, value_parser = args::duration)]
    pub timeout: Option<Duration>,
}

impl Common {
    /// Makes the client that talks to the node. Fails if there is no token.
    pub fn client(&self) -> Outcome<Client> {
        let dirs = match &self.data_dir {
            Some(dir) => vec![dir.clone()],
            None => vec![home::default_data_dir(), home::dev_data_dir()],
        };
        Client::new(&self.url, self.token.clone(), &dirs, self.timeout)
    }

    /// Returns how data is shown.
    pub fn show(&self) -> Show {
        Show { format: self.output_format, quiet: self.quiet }
    }
}

/// The commands that need no node in this process.
#[derive(Subcommand)]
pub enum Command {
    /// Submit tasks and follow them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Create agents and command them
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Create swarms and scale them
    #[command(subcommand)]
    Swarm(swarm::SwarmCommand),
    /// Register hypervisor hosts, drain and remove them
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Bring images, which VMs are made of, list and remove them
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Create networks that VMs are connected by, list and remove them
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Create VMs and command them
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Answer what agents' programs ask
    #[command(subcommand)]
    Approval(approval::ApprovalCommand),
    /// Show what calls of models used, and what they cost
    Usage(usage::UsageArgs),
    /// Limit what calls of models may use
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// Read what happened
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Trigger faults, where the configuration allows it
    #[command(subcommand)]
    Fault(fault::FaultCommand),
    /// See the cluster's nodes, drain and remove them
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Make tokens for new nodes
    #[command(subcommand)]
    Token(node::TokenCommand),
    /// Make what a file describes: swarms, agents, hosts, images, networks, VMs and tasks; repeating it changes nothing
    Apply(apply::ApplyArgs),
    /// Show the living supervision tree
    Tree(tree::TreeArgs),
    /// Show how the node is
    Status,
    /// Look whether the node's ledger, views and blobs are whole, and mend what another node has
    Scrub,
    /// What uses the disk of each node, of whom, and when it will be full
    Storage,
    /// Watch tasks and agents live
    Top,
    /// Say what an error code means, whether anything happened, and what to do
    Explain(explain::ExplainArgs),
}

/// Runs a command.
pub fn run(common: Common, command: Command) -> Outcome {
    match command {
        Command::Explain(args) => explain::run(common.show(), args),
        other => on_runtime(remote(common, other)),
    }
}

/// Runs a client's command; Ctrl-C ends it with its own status.
pub fn on_runtime(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::local(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failed::new(Exit::Interrupted, "interrupted", "what was submitted goes on; look with `hiveward task list`")),
        }
    })
}

async fn remote(common: Common, command: Command) -> Outcome {
    let client = common.client()?;
    let show = common.show();
    match command {
        Command::Task(command) => task::run(&client, show, command).await,
        Command::Agent(command) => agent::run(&client, show, command).await,
        Command::Swarm(command) => swarm::run(&client, show, command).await,
        Command::Approval(command) => approval::run(&client, show, command).await,
        Command::Usage(args) => usage::run(&client, show, args).await,
        Command::Budget(command) => budget::run(&client, show, command).await,
        Command::Host(command) => host::run(&client, show, command).await,
        Command::Network(command) => network::run(&client, show, command).await,
        Command::Image(command) => image::run(&client, show, command).await,
        Command::Vm(command) => vm::run(&client, show, command).await,
        Command::Event(command) => event::run(&client, show, command).await,
        Command::Fault(command) => fault::run(&client, show, command).await,
        Command::Node(command) => node::run(&client, show, command).await,
        Command::Token(command) => node::token(&client, show, command).await,
        Command::Apply(args) => apply::run(&client, show, args).await,
        Command::Tree(args) => tree::run(&client, show, args).await,
        Command::Storage => storage::storage(&client, show).await,
        Command::Scrub => storage::scrub(&client, show).await,
        Command::Status => top::status(&client, show).await,
        Command::Top => top::run(&client).await,
        // It does not talk to a node.
        Command::Explain(_) => Ok(()),
    }
}

/// Reads pages until there are `limit` entries.
pub async fn pages(
    client: &Client,
    document: &str,
    operation: &str,
    mut variables: Value,
    at: &str,
    limit: usize,
) -> Outcome<Vec<Value>> {
    const PAGE: usize = 100;
    let mut all: Vec<Value> = Vec::new();
    loop {
        variables["first"] = json!((limit - all.len()).clamp(1, PAGE));
        let mut page = client.call(document, operation, variables.clone()).await?;
        let page = &mut page[at];
        if let Value::Array(nodes) = page["nodes"].take() {
            all.extend(nodes);
        }
        if all.len() >= limit || page["pageInfo"]["hasNextPage"] != json!(true) {
            all.truncate(limit);
            return Ok(all);
        }
        variables["after"] = page["pageInfo"]["endCursor"].take();
    }
}

/// Shows something once; with `watch` shows it again every second, until interrupted.
pub async fn watching<F: Future<Output = Outcome>>(watch: bool, mut once: impl FnMut() -> F) -> Outcome {
    use std::io::IsTerminal;
    loop {
        if watch && std::io::stdout().is_terminal() {
            show::print("\x1b[H\x1b[2J")?;
        }
        once().await?;
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
