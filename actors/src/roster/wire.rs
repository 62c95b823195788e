//! The roster's messages as they travel between nodes. Variants and fields have names: add, never rename.

use std::time::Duration;

use hiveward_catalogue::roster::wire::RosterWire;
use hiveward_runtime::cluster::router::{Inbound, NotDelivered};

use super::message::RosterMsg;

/// Turns what came in into the roster's message. Errors: the body is of no message that this version knows.
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
