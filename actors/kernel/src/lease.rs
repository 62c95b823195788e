//! Who may work on what: the fence of one attempt.

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, TaskId};

/// One try at a task under one lease; its fence. What is said under another number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lease {
    pub task: TaskId,
    pub attempt: u32,
    pub agent: AgentId,
}
