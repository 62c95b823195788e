//! An agent as the views keep it and the gateway shows it.

use std::sync::Arc;

use hiveward_catalogue::agent::spec::AgentSpec;
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AgentStatus {
    Created,
    Starting,
    Idle,
    Busy,
    Paused,
    Stopping,
    Stopped,
    Failed,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentRecord {
    pub spec: Arc<AgentSpec>,
    pub status: AgentStatus,
    /// Number of its present life; 0 before its first.
    pub incarnation: u64,
    /// Number of attempts that it holds a lease on.
    pub running: u32,
    pub succeeded: u64,
    pub failed: u64,
    /// Last failure of the agent itself, not of a task.
    pub last_failure: Option<String>,
    pub created_at: WallMs,
    pub started_at: Option<WallMs>,
    pub cursor: u64,
}
