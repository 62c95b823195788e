//! `hiveward swarm …`

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{Client, SWARM},
    fail::Outcome,
    lookup,
    show::{Show, text},
};
use crate::pages::pages;

#[derive(Subcommand)]
pub enum SwarmCommand {
    /// Create a swarm
    Create {
        /// Unique in the cluster
        name: String,
        /// How agents are chosen for its tasks
        #[arg(long, value_parser = ["skill", "round-robin", "least-busy", "weighted"])]
        strategy: Option<String>,
        /// Tasks that are not ended; more are refused
        #[arg(long)]
        max_queued: Option<u32>,
        /// Attempts at a time; the others wait
        #[arg(long)]
        max_running: Option<u32>,
        /// Coordinators that share its tasks, on several nodes where there are several
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
        shards: Option<u16>,
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// List swarms
    List {
        /// Part of the name
        #[arg(long)]
        name: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show all of one swarm
    Show { swarm: String },
    /// Add or remove agents until there are so many
    Scale {
        swarm: String,
        /// How many it is to have
        #[arg(long)]
        agents: u32,
        /// What new agents are, instead of a copy of the last one
        #[arg(long, value_parser = ["command", "noop"])]
        connector: Option<String>,
        /// How the names of new agents begin
        #[arg(long, requires = "connector", default_value = "agent")]
        name: String,
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// Remove a swarm
    Remove {
        swarm: String,
        /// Even while it has tasks or agents
        #[arg(long)]
        force: bool,
    },
}

/// Runs `hiveward swarm …`.
pub async fn run(client: &Client, show: Show, command: SwarmCommand) -> Outcome {
    match command {
        SwarmCommand::Create { name, strategy, max_queued, max_running, shards, operation_id } => {
            let input = Input::default()
                .set("operationId", operation_id.map(Value::from))
                .set("name", Value::from(name))
                .set("strategy", strategy.map(|strategy| args::constant(&strategy).into()))
                .set("maxQueued", max_queued.map(Value::from))
                .set("maxRunning", max_running.map(Value::from))
                .set("shards", shards.map(Value::from))
                .done();
            show.done(&client.get(SWARM, "SwarmCreate", json!({ "input": input }), "/createSwarm/swarm").await?)
        }
        SwarmCommand::List { name, limit } => {
            let filter = Input::default().set("nameContains", name.map(Value::from)).done();
            let swarms = pages(client, SWARM, "SwarmList", json!({ "filter": filter }), "swarms", limit).await?;
            show.list(&["id", "name", "strategy", "agents", "tasks"], &swarms, |swarm| {
                vec![text(swarm, "id"), text(swarm, "name"), text(swarm, "strategy"), text(swarm, "agentCount"), counts(swarm)]
            })
        }
        SwarmCommand::Show { swarm } => {
            let id = lookup::id(client, &lookup::SWARM, &swarm).await?;
            show.one(&client.get(SWARM, "SwarmShow", json!({ "id": id }), "/node").await?)
        }
        SwarmCommand::Scale { swarm, agents, connector, name, operation_id } => {
            let template = connector.map(|connector| json!({ "name": name, "connector": { connector: true } }));
            let swarm = lookup::reference(client, &lookup::SWARM, &swarm).await?;
            let input = json!({ "swarm": swarm, "agents": agents, "template": template, "operationId": operation_id });
            show.done(&client.get(SWARM, "SwarmScale", json!({ "input": input }), "/scaleSwarm/swarm").await?)
        }
        SwarmCommand::Remove { swarm, force } => {
            let swarm = lookup::reference(client, &lookup::SWARM, &swarm).await?;
            let input = json!({ "swarm": swarm, "force": force });
            show.done(&client.get(SWARM, "SwarmRemove", json!({ "input": input }), "/removeSwarm/swarm").await?)
        }
    }
}

/// Returns the id of the swarm with this name.
pub async fn named(client: &Client, name: &str) -> Outcome<Option<String>> {
    let found = pages(client, SWARM, "SwarmList", json!({ "filter": { "nameContains": name } }), "swarms", 500).await?;
    Ok(found.iter().find(|swarm| swarm["name"] == name).map(|swarm| text(swarm, "id")))
}

/// Writes the tasks by status, such as `3 RUNNING 5 QUEUED`, without the zeroes.
pub fn counts(swarm: &Value) -> String {
    let counts = swarm["taskCounts"].as_array().into_iter().flatten().filter(|count| count["count"] != 0);
    counts.map(|count| format!("{} {}", text(count, "count"), text(count, "status"))).collect::<Vec<_>>().join(" ")
}
