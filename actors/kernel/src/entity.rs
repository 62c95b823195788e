//! What can be placed on a node, and where it is.

use std::sync::Arc;

use hiveward_runtime::{id::Key, op::NodeId};
use serde::{Deserialize, Serialize};

use crate::id::{AgentId, HostId, SwarmId, VmId};

/// What can be placed on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Entity {
    Swarm(SwarmId),
    Agent(AgentId),
    Host(HostId),
    /// Where its host is.
    Vm(VmId),
}

impl Entity {
    pub fn of(key: &Key) -> Option<Self> {
        match key.noun() {
            AgentId::NOUN => AgentId::try_from(key).ok().map(Self::Agent),
            SwarmId::NOUN => SwarmId::try_from(key).ok().map(Self::Swarm),
            HostId::NOUN => HostId::try_from(key).ok().map(Self::Host),
            VmId::NOUN => VmId::try_from(key).ok().map(Self::Vm),
            _ => None,
        }
    }

    pub fn key(self) -> Key {
        match self {
            Self::Swarm(id) => id.key(),
            Self::Agent(id) => id.key(),
            Self::Host(id) => id.key(),
            Self::Vm(id) => id.key(),
        }
    }

    /// The part of its id that is by chance.
    pub fn turn(self) -> u64 {
        let bits = match self {
            Self::Swarm(id) => id.as_u128(),
            Self::Agent(id) => id.as_u128(),
            Self::Host(id) => id.as_u128(),
            Self::Vm(id) => id.as_u128(),
        };
        bits as u64
    }
}

/// Where an entity is, and which placement of it that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub node: Option<NodeId>,
    /// Grows with each node it is placed on; 0 before the first.
    pub placement: u64,
    pub why: Arc<str>,
}
