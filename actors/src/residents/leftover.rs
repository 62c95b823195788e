//! What ends sessions on this host of agents that do not live here any more.
//!
//! A node that was killed leaves its agents' processes to be adopted. If the agents were placed elsewhere meanwhile, nobody
//! adopts them.

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use hiveward_agents::{
    connector::{self, Connector, Reports, StopHow, StopWhy},
    session,
};
use hiveward_catalogue::{
    agent::spec::{AgentSpec, ConnectorSpec},
    directory::Directory,
};
use hiveward_kernel::{entity::Entity, id::AgentId, lease::Lease};

use crate::house::House;

/// Finds the agents that have a session whose shim lives, by what is on disk. It reads directories, so it blocks.
fn with_sessions(data_dir: &Path) -> HashSet<AgentId> {
    let mut found = HashSet::new();
    for entry in fs::read_dir(data_dir.join("sessions")).into_iter().flatten().flatten() {
        if !session::is_held(entry.path()) {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(agent) = name.strip_suffix("-worker").and_then(|agent| agent.parse().ok()) {
            found.insert(agent);
        }
    }
    for entry in fs::read_dir(data_dir.join("attempts")).into_iter().flatten().flatten() {
        let lease = fs::read(entry.path().join("lease.json")).ok().and_then(|text| serde_json::from_slice::<Lease>(&text).ok());
        let Some(lease) = lease.filter(|lease| !found.contains(&lease.agent)) else { continue };
        if connector::dirs(data_dir, lease).iter().any(session::is_held) {
            found.insert(lease.agent);
        }
    }
    found
}

/// Tells whether the agent lives elsewhere, or nowhere any more, as the directory says. One that was never placed is not gone.
fn is_gone(directory: &Directory, house: &House, agent: AgentId) -> bool {
    directory.read(|known| match known.place(Entity::Agent(agent)) {
        None => true,
        Some(place) => place.node != Some(house.me.node) && place.placement > 0,
    })
}

/// Ends every session on this host of agents that live elsewhere. Call it only while this node may act: otherwise its directory
/// may be far behind.
pub async fn end_all(house: &House) {
    let looked = house.clone();
    let found = tokio::task::spawn_blocking(move || with_sessions(&looked.data_dir)).await.unwrap_or_default();
    for agent in found {
        if is_gone(&house.directory, house, agent) {
            tracing::warn!(%agent, "ends sessions of an agent that does not live here any more");
            end(house, agent).await;
        }
    }
}

/// Ends every session on this host of one agent.
pub async fn end(house: &House, agent: AgentId) {
    // Nobody listens to what they would report.
    let (reports, said) = Reports::channel();
    drop(said);
    let spec = house.directory.agent(agent);
    let connectors = match &spec {
        Some(spec) => vec![spec.connector.clone()],
        // The agent was removed: either kind may have left one.
        None => vec![ConnectorSpec::Command, ConnectorSpec::Worker { argv: vec!["true".into()], cwd: None }],
    };
    for connector in connectors {
        let spec = Arc::new(AgentSpec { connector, ..spec.as_deref().cloned().unwrap_or_else(|| unknown(agent)) });
        let connector = connector::build(&spec, house.agents.connector_env(reports.clone(), 0));
        Connector::stop(&*connector, StopHow::AtOnce, StopWhy::NotHere).await;
    }
}

fn unknown(agent: AgentId) -> AgentSpec {
    AgentSpec {
        id: agent,
        swarm: hiveward_kernel::id::SwarmId::from_u128(0),
        name: "unknown".into(),
        connector: ConnectorSpec::Command,
        skills: Vec::new(),
        weight: 1,
        max_concurrent_tasks: 1,
        limits: Default::default(),
        env: Vec::new(),
        session: Default::default(),
        auto_start: false,
        start_timeout_ms: AgentSpec::START_TIMEOUT_MS_DEFAULT,
        stop_grace_ms: AgentSpec::STOP_GRACE_MS_DEFAULT,
        node_labels: Default::default(),
        node: None,
    }
}
