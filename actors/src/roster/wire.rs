//! The roster's messages as they travel between nodes. Variants and fields have names: add, never rename.

use std::{sync::Arc, time::Duration};

use hiveward_kernel::{
    id::{AgentId, SwarmId},
    operation::Operation,
};
use hiveward_runtime::{
    clock::WallMs,
    cluster::router::{Inbound, NotDelivered},
    op::NodeId,
};
use serde::{Deserialize, Serialize};

use super::{event::NodeRecord, message::RosterMsg};
use crate::{
    agent::AgentSpec,
    host::event::FleetChange,
    model::meter::{Budget, Scope},
    swarm::SwarmSpec,
};

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
    /// A member says of itself what has changed.
    NodeJoined {
        record: NodeRecord,
    },
}

/// What came in, as the message it is.
pub fn read(inbound: &Inbound<'_>) -> Result<RosterMsg, NotDelivered> {
    Ok(match inbound.read()? {
        RosterWire::AddSwarm { spec, operation } => RosterMsg::AddSwarm { spec, operation, reply: inbound.reply()? },
        RosterWire::RemoveSwarm { swarm, operation } => RosterMsg::RemoveSwarm { swarm, operation, reply: inbound.reply()? },
        RosterWire::AddAgents { specs, operation } => RosterMsg::AddAgents { specs, operation, reply: inbound.reply()? },
        RosterWire::RemoveAgent { agent, operation } => RosterMsg::RemoveAgent { agent, operation, reply: inbound.reply()? },
        RosterWire::Head => RosterMsg::Head { reply: inbound.reply()? },
        RosterWire::IssueToken { token, expires_at } => {
            let token = token.parse().map_err(|_| NotDelivered::BadBody)?;
            RosterMsg::IssueToken { token, expires_at, reply: inbound.reply()? }
        }
        RosterWire::DrainNode { node, within_ms, operation } => {
            RosterMsg::DrainNode { node, within: Duration::from_millis(within_ms), operation, reply: inbound.reply()? }
        }
        RosterWire::CancelDrain { node, operation } => RosterMsg::CancelDrain { node, operation, reply: inbound.reply()? },
        RosterWire::RemoveNode { node, force, operation } => {
            RosterMsg::RemoveNode { node, force, operation, reply: inbound.reply()? }
        }
        RosterWire::SetBudget { scope, budget, operation } => {
            RosterMsg::SetBudget { scope, budget, operation, reply: inbound.reply()? }
        }
        RosterWire::RemoveBudget { scope, operation } => RosterMsg::RemoveBudget { scope, operation, reply: inbound.reply()? },
        RosterWire::Fleet { change, operation } => RosterMsg::Fleet { change, operation, reply: inbound.reply()? },
        RosterWire::Movable { agents } => RosterMsg::Movable { agents },
        RosterWire::GivenUp { swarm, node, placement, why } => RosterMsg::GivenUp { swarm, node, placement, why },
        RosterWire::NodeJoined { record } => RosterMsg::NodeJoined { record, reply: inbound.reply()? },
    })
}
