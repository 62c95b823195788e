//! Which member of the group this node is, and how long its members wait for each other.

use std::{path::PathBuf, time::Duration};

use super::network::LedgerLanes;
use crate::op::NodeId;

/// The founder's number among the members. Others derive theirs from their id.
pub const FOUNDER: u64 = 1;

/// Returns a member's number: the random part of its id, which is never 0 or the founder's.
pub fn member_id(node: NodeId) -> u64 {
    (node.as_u128() as u64) | (1 << 63)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// The pause between a leader's writes to each member; a write to one may take this long.
    pub heartbeat: Duration,
    /// The time for which a member that heard its leader votes for no other.
    pub lease: Duration,
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(200), lease: Duration::from_millis(1_000) }
    }
}

/// The member that this node is.
#[derive(Clone)]
pub struct RaftSetup {
    pub id: u64,
    pub node: NodeId,
    /// The address at which its peers reach it.
    pub address: String,
    /// True if it makes a group of its own where there is none; else it waits to be taken in.
    pub founds: bool,
    /// The lanes to its peers; absent on a node that has none.
    pub lanes: Option<LedgerLanes>,
    pub timing: RaftTiming,
    /// The directory of the ledger's file.
    pub dir: PathBuf,
}

impl std::fmt::Debug for RaftSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RaftSetup({} as {} at {:?})", self.node, self.id, self.address)
    }
}
