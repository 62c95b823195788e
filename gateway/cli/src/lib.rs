//! The command line: `hiveward NOUN VERB`. It is a client of the public API like any other, and links nothing of a node.
//!
//! The program adds the commands that run a node to those of [`Command`]. Data goes to standard output, everything else to
//! standard error; exit statuses are as [`fail::Exit`] has them.

mod access;
pub mod agent;
pub mod apply;
pub mod approval;
pub mod args;
pub mod attach;
mod balance;
pub mod budget;
pub mod client;
mod common;
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
mod pages;
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

use clap::Subcommand;

pub use crate::common::Common;
use crate::fail::{Exit, Failed, Outcome};

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
    /// Make tokens for new nodes, and keys for programs
    #[command(subcommand)]
    Token(node::TokenCommand),
    /// Make projects, say how much they may have, and who has which role in them
    #[command(subcommand)]
    Project(access::ProjectCommand),
    /// Say by policies of your own who may do what
    #[command(subcommand)]
    Policy(access::PolicyCommand),
    /// Show who you are, and which roles you have
    Whoami,
    /// Say whether you may do something, and which policy decides
    CanI(access::CanIArgs),
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
        Command::Project(command) => access::project(&client, show, command).await,
        Command::Policy(command) => access::policy(&client, show, command).await,
        Command::Whoami => access::who_am_i(&client, show).await,
        Command::CanI(args) => access::can_i(&client, show, args).await,
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
