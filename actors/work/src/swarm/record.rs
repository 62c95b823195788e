//! Holds a swarm as the views keep it and the gateway shows it.

use std::sync::Arc;

use hiveward_catalogue::swarm::SwarmSpec;
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

/// A swarm as the views keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwarmRecord {
    pub spec: Arc<SwarmSpec>,
    pub agents: u32,
    /// The numbers of tasks by status, in the order of `TaskStatus::ALL`.
    pub tasks: [u64; 10],
    pub created_at: WallMs,
    pub cursor: u64,
}
