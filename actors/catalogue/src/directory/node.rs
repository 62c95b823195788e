//! A node as the directory has it: whether it takes entities, and why not.

use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

use crate::roster::event::NodeRecord;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStatus {
    Up,
    Draining,
    Drained,
    Lost,
    Removed,
}

impl NodeStatus {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Draining => "DRAINING",
            Self::Drained => "DRAINED",
            Self::Lost => "LOST",
            Self::Removed => "REMOVED",
        }
    }

    /// Returns why the node takes no entities; `None` if it does.
    pub const fn closed(self) -> Option<&'static str> {
        match self {
            Self::Up => None,
            Self::Draining | Self::Drained => Some("is drained"),
            Self::Lost => Some("is lost"),
            Self::Removed => Some("was removed"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub since: WallMs,
    pub within_ms: u64,
    /// The number of entities that it held when the drain began.
    pub entities: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeEntry {
    pub record: NodeRecord,
    pub status: NodeStatus,
    pub why: Option<String>,
    pub generation: u64,
    /// The number of agents and coordinators placed on it.
    pub entities: u32,
    pub drain: Option<Drain>,
}
