//! What a client said a swarm is.

use std::collections::BTreeMap;

use hiveward_runtime::op::NodeId;
use serde::{Deserialize, Serialize};

use crate::{
    id::SwarmId,
    placement::{Strategy, Weights},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Topology {
    #[default]
    Hierarchical,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwarmSpec {
    pub id: SwarmId,
    /// Unique.
    pub name: String,
    pub topology: Topology,
    pub strategy: Strategy,
    pub weights: Weights,
    /// Tasks that are not ended; a submission that would pass it is refused with `LIMIT`.
    pub queued_max: u32,
    /// Attempts at the same time over all its agents; none: what the agents can hold.
    pub running_max: Option<u32>,
    /// Only nodes with all of these labels hold its coordinator.
    #[serde(default)]
    pub node_labels: BTreeMap<String, String>,
    /// Only this node holds its coordinator.
    #[serde(default)]
    pub node: Option<NodeId>,
}

impl SwarmSpec {
    pub const QUEUED_MAX_DEFAULT: u32 = 100_000;
}
