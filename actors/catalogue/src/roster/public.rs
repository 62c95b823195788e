//! The roster's events as clients see them.

use hiveward_kernel::{event::PublicEvent, id::AgentId};
use serde_json::json;

use super::event::RosterEvent;

impl RosterEvent {
    /// Returns what happened, as clients see it.
    pub fn public(&self) -> PublicEvent {
        match self {
            Self::SwarmAdded { spec, .. } => PublicEvent::of(json!({"swarm": spec.id.to_string(), "name": spec.name})),
            Self::SwarmRemoved { swarm, .. } => PublicEvent::of(json!({"swarm": swarm.to_string()})),
            Self::AgentAdded { spec, .. } => {
                let data = json!({"agent": spec.id.to_string(), "swarm": spec.swarm.to_string(), "name": spec.name, "connector": spec.connector.name()});
                PublicEvent { task: None, agent: Some(spec.id), data }
            }
            Self::AgentRemoved { agent, swarm, .. } => PublicEvent {
                task: None,
                agent: Some(*agent),
                data: json!({"agent": agent.to_string(), "swarm": swarm.to_string()}),
            },
            Self::NodeJoined { record } => PublicEvent::of(
                json!({"node": record.node.to_string(), "address": record.address, "zone": record.zone, "labels": record.labels}),
            ),
            Self::NodeLost { node, why } => PublicEvent::of(json!({"node": node.to_string(), "why": why})),
            Self::NodeBack { node, generation } => {
                PublicEvent::of(json!({"node": node.to_string(), "generation": generation.to_string()}))
            }
            Self::NodeDraining { node, within_ms, .. } => {
                PublicEvent::of(json!({"node": node.to_string(), "withinMs": within_ms}))
            }
            Self::NodeDrainCancelled { node, .. }
            | Self::NodeDrained { node }
            | Self::NodeRemoved { node, .. }
            | Self::TokenUsed { node, .. } => PublicEvent::of(json!({"node": node.to_string()})),
            Self::TokenIssued { .. } => PublicEvent::of(json!({})),
            Self::Fleet(event) => PublicEvent::of(event.data()),
            Self::Part(event) => event.public(),
            Self::Placed { key, node, placement, why } => {
                let agent = AgentId::try_from(key).ok();
                let data = json!({"key": key.as_str(), "node": node.to_string(), "placement": placement, "why": why});
                PublicEvent { task: None, agent, data }
            }
            Self::Unplaced { key, why } => {
                PublicEvent { task: None, agent: AgentId::try_from(key).ok(), data: json!({"key": key.as_str(), "why": why}) }
            }
        }
    }
}
