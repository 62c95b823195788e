//! Holds what the roster is asked, as it travels between nodes. Variants and fields have names: add, never rename.

use std::sync::Arc;

use hiveward_kernel::{
    id::{AgentId, SwarmId},
    operation::Operation,
};
use hiveward_runtime::{clock::WallMs, op::NodeId};
use serde::{Deserialize, Serialize};

use super::event::NodeRecord;
use crate::{
    agent::AgentSpec,
    budget::{Budget, Scope},
    host::event::FleetChange,
    swarm::SwarmSpec,
};

/// A question to the roster, as it travels.
#[derive(Serialize, Deserialize)]
pub enum RosterWire {
    AddSwarm {
        spec: Arc<SwarmSpec>,
        operation: Option<Operation>,
    },
    RemoveSwarm {
        swarm: SwarmId,
        operation: Option<Operation>,
    },
    AddAgents {
        specs: Vec<Arc<AgentSpec>>,
        operation: Option<Operation>,
    },
    RemoveAgent {
        agent: AgentId,
        operation: Option<Operation>,
    },
    Head,
    IssueToken {
        token: String,
        expires_at: WallMs,
    },
    DrainNode {
        node: NodeId,
        within_ms: u64,
        operation: Option<Operation>,
    },
    CancelDrain {
        node: NodeId,
        operation: Option<Operation>,
    },
    RemoveNode {
        node: NodeId,
        force: bool,
        operation: Option<Operation>,
    },
    Movable {
        agents: Vec<(AgentId, u64)>,
    },
    GivenUp {
        swarm: SwarmId,
        node: NodeId,
        placement: u64,
        why: String,
    },
    SetBudget {
        scope: Scope,
        budget: Budget,
        operation: Option<Operation>,
    },
    RemoveBudget {
        scope: Scope,
        operation: Option<Operation>,
    },
    Fleet {
        change: FleetChange,
        operation: Option<Operation>,
    },
    /// Tells what has changed of a member, as it says of itself.
    NodeJoined {
        record: NodeRecord,
    },
}
