//! Says who may work on what: the fence of one attempt.

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, TaskId};

/// One try at a task by one agent, and the fence of that try: what is said under another number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lease {
    pub task: TaskId,
    pub attempt: u32,
    pub agent: AgentId,
}
