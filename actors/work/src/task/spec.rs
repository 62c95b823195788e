//! Holds what a client asked for, parsed once at the gateway and never changed except by an explicit edit.

use std::sync::Arc;

use hiveward_catalogue::placement::Strategy;
use hiveward_kernel::{
    body::{Body, Label},
    id::{AgentId, SwarmId, TaskId},
};
use serde::{Deserialize, Serialize};

use super::{gate::GateSpec, retry::RetryPolicy, scatter::Role, status::Priority};

pub const TITLE_BYTES_MAX: usize = 256;
pub const DEPENDENCIES_MAX: usize = 1024;
pub const SKILLS_MAX: usize = 32;

/// One program to run: no shell unless `argv` names one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    pub argv: Vec<String>,
    /// The variables, as plain values; a value `secret:NAME` or `file:PATH` is a reference resolved on the agent's host, never
    /// stored.
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    pub stdin: Option<Body>,
}

/// The work of a task, in one of the two ways the public API knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    Command(CommandSpec),
    /// Work for whichever agent has the skills; `payload` is JSON.
    Kind {
        kind: Arc<str>,
        payload: Option<Body>,
    },
}

impl TaskSpec {
    /// Returns the planner task that this one came from, if it came from one.
    pub fn parent_id(&self) -> Option<TaskId> {
        self.parent.as_ref().map(|(parent, _)| *parent)
    }
}

/// The rules for a task whose result is a plan: JSON that names subtasks, which become real tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSpec {
    pub aggregate: Aggregate,
    pub subtasks_max: u32,
}

/// The way in which the results of a plan's subtasks become the planner task's own result. Each keeps the plan's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Aggregate {
    /// A JSON array with one entry per subtask: its name, status and result.
    #[default]
    Collect,
    /// JSON objects merged key by key: arrays are joined, numbers added, other values of a later subtask win.
    Merge,
    /// Text, one result after the other.
    Concat,
    /// The JSON value that most subtasks returned; none in the majority is a failure.
    Majority,
}

/// A task as a client asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub id: TaskId,
    pub swarm: SwarmId,
    pub title: String,
    pub work: Work,
    /// The only agent that may run it, if one is named.
    pub agent: Option<AgentId>,
    pub priority: Priority,
    pub depends_on: Vec<TaskId>,
    pub skills: Vec<Arc<str>>,
    pub strategy: Option<Strategy>,
    pub labels: Vec<Label>,
    pub delay_ms: u64,
    /// The milliseconds from ready to started.
    pub queue_timeout_ms: Option<u64>,
    /// The milliseconds of one attempt.
    pub run_timeout_ms: Option<u64>,
    /// The milliseconds from submitted to ended, all attempts and waits included.
    pub total_timeout_ms: Option<u64>,
    pub retry: RetryPolicy,
    pub gate: Option<GateSpec>,
    pub plan: Option<PlanSpec>,
    /// The planner task this one came from, and its name in that plan.
    pub parent: Option<(TaskId, String)>,
    /// The role in a scatter. Last, and absent from what is stored when there is none: older versions read such tasks as they
    /// always did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}
