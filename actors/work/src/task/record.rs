//! Holds a task as the views keep it and the gateway shows it.

use std::sync::Arc;

use hiveward_catalogue::placement::Decision;
use hiveward_kernel::{
    body::Body,
    id::{AgentId, SwarmId, TaskId},
};
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

use super::{
    spec::TaskSpec,
    status::{AttemptStatus, TaskStatus},
};

/// A named file that an attempt left, in the blob store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub name: String,
    pub hash: Arc<str>,
    pub bytes: u64,
}

/// An attempt as the views keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The number of the attempt, from 1.
    pub number: u32,
    pub agent: AgentId,
    pub status: AttemptStatus,
    pub assigned_at: WallMs,
    pub started_at: Option<WallMs>,
    pub ended_at: Option<WallMs>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub error: Option<String>,
    /// Whether the failure was one that another attempt may mend.
    pub retriable: Option<bool>,
    /// The reasons for this agent: the scores of the decision.
    pub decision: Arc<Decision>,
}

impl AttemptRecord {
    /// Returns the public name of the lease under which this attempt ran.
    pub fn lease(&self, task: TaskId) -> String {
        format!("{task}/{}", self.number)
    }
}

/// The move of a task that had not begun to another shard of its swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveRecord {
    pub from: SwarmId,
    pub to: SwarmId,
    pub given_at: WallMs,
    /// The time when the other shard took it; none while it is under way, or if the other shard sent it back.
    pub taken_at: Option<WallMs>,
    pub why: Arc<str>,
}

impl MoveRecord {
    /// Returns the numbers of the two shards.
    pub fn shards(&self) -> (u8, u8) {
        (self.from.as_u128() as u8, self.to.as_u128() as u8)
    }
}

/// A task as the views keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub spec: Arc<TaskSpec>,
    pub status: TaskStatus,
    /// The number of dependencies that have not succeeded yet.
    pub waits_for: u32,
    pub attempts: Vec<AttemptRecord>,
    pub result: Option<Body>,
    pub artifacts: Vec<Artifact>,
    /// The subtasks, in the plan's order, if its result was a plan.
    pub subtasks: Vec<TaskId>,
    pub created_at: WallMs,
    pub started_at: Option<WallMs>,
    pub ended_at: Option<WallMs>,
    /// The reason why it ended as it did, when that was not success.
    pub error: Option<String>,
    /// The earliest time of its next attempt, while delayed or retrying.
    pub not_before: Option<WallMs>,
    /// The ledger's cursor of the last event that changed it.
    pub cursor: u64,
    /// The person or program that submitted it.
    pub principal: Arc<str>,
    /// The moves from one shard of its swarm to another, oldest first. Last, and absent from what is stored when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<MoveRecord>,
}

impl TaskRecord {
    /// Returns the task's id.
    pub fn id(&self) -> TaskId {
        self.spec.id
    }

    /// Counts the attempts that were made, also those that are not kept any more.
    pub fn attempts_made(&self) -> u32 {
        self.attempts.last().map_or(0, |last| last.number)
    }

    /// Returns how it ended and how often it was tried, without all that it may have become large by.
    pub fn bare(self) -> Self {
        let last = self.attempts.last().map(|last| AttemptRecord {
            error: None,
            decision: Arc::new(Decision { scores: Vec::new(), left_out: Vec::new(), ..Decision::clone(&last.decision) }),
            ..last.clone()
        });
        Self {
            attempts: last.into_iter().collect(),
            result: None,
            artifacts: Vec::new(),
            subtasks: Vec::new(),
            error: None,
            moves: Vec::new(),
            ..self
        }
    }
}
