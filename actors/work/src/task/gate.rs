//! Holds a gate: a check that a finished attempt must pass before its task counts as succeeded.

use serde::{Deserialize, Serialize};

use super::spec::CommandSpec;

/// A gate of a task. Its program gets the attempt's result on standard input and the task's own environment; exit status 0
/// passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateSpec {
    pub name: String,
    pub command: CommandSpec,
    pub timeout_ms: u64,
    /// Whether a failed gate counts as a failure that another attempt may mend.
    pub retriable: bool,
}
