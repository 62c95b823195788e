//! What openraft is told of entries and nodes.

use openraft::BasicNode;
use serde::{Deserialize, Serialize};

use crate::ledger::{record::Command, snapshot::Image};

pub type Node = BasicNode;

/// The outcome of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    #[default]
    Nothing,
    Epoch(u64),
    Compacted(u64),
}

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Command,
        R = Applied,
        NodeId = u64,
        Node = Node,
        SnapshotData = Image,
);
