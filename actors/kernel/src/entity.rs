//! Names what can be placed on a node, and where it is.

use std::sync::Arc;

use hiveward_runtime::{id::Key, op::NodeId};
use serde::{Deserialize, Serialize};

use crate::id::{AgentId, HostId, SwarmId, VmId};

/// A thing that can be placed on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Entity {
    Swarm(SwarmId),
    Agent(AgentId),
    Host(HostId),
    /// A VM, which is always where its host is.
    Vm(VmId),
}

impl Entity {
    /// Returns the entity that a key names; `None` if things of that noun are not placed.
    pub fn of(key: &Key) -> Option<Self> {
        match key.noun() {
            AgentId::NOUN => AgentId::try_from(key).ok().map(Self::Agent),
            SwarmId::NOUN => SwarmId::try_from(key).ok().map(Self::Swarm),
            HostId::NOUN => HostId::try_from(key).ok().map(Self::Host),
            VmId::NOUN => VmId::try_from(key).ok().map(Self::Vm),
            _ => None,
        }
    }

    /// Returns the key under which it is spoken to.
    pub fn key(self) -> Key {
        match self {
            Self::Swarm(id) => id.key(),
            Self::Agent(id) => id.key(),
            Self::Host(id) => id.key(),
            Self::Vm(id) => id.key(),
        }
    }

    /// Returns the random part of its id, by which choices among equals are spread.
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

/// The place of an entity, and which placement of it that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub node: Option<NodeId>,
    /// The number of this placement: it grows with each node it is placed on, and is 0 before the first.
    pub placement: u64,
    pub why: Arc<str>,
}
