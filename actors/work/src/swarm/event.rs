//! Names what happened in a swarm, as its stream in the ledger keeps it. Past tense; add variants and fields, never rename.

use std::sync::Arc;

use bytes::Bytes;
use hiveward_catalogue::placement::Decision;
use hiveward_kernel::{
    body::Body,
    event::DecodeError,
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
    operation::Operation,
};
use serde::{Deserialize, Serialize};

use super::steal::Moving;
use crate::task::{record::Artifact, spec::TaskSpec, status::AttemptStatus};

/// The format of every event below; another number is another decoder.
pub const FORMAT: u16 = 1;

/// A fact about a swarm's tasks, as its stream holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SwarmEvent {
    /// Tasks were accepted, all together.
    Submitted {
        tasks: Vec<Arc<TaskSpec>>,
        operation: Option<Operation>,
        principal: Arc<str>,
    },
    /// A lease was granted.
    Assigned {
        lease: Lease,
        decision: Arc<Decision>,
        /// The placement of the agent then; 0 in events from before there were several nodes.
        #[serde(default)]
        placement: u64,
    },
    Started {
        lease: Lease,
    },
    Verifying {
        lease: Lease,
    },
    AttemptEnded {
        lease: Lease,
        ended: Ended,
        next: Next,
    },
    /// The attempt's result was a plan; these are its subtasks.
    Planned {
        task: TaskId,
        subtasks: Vec<Arc<TaskSpec>>,
    },
    /// A scatter's part takes long: `twin` does the same work beside it.
    Hedged {
        task: TaskId,
        twin: Arc<TaskSpec>,
    },
    /// A scatter takes nothing more in. `arrived` are the tasks that brought parts in; `late` those it did not wait for.
    Gathered {
        task: TaskId,
        arrived: Vec<TaskId>,
        failed: Vec<TaskId>,
        late: Vec<TaskId>,
        /// The task that makes one result of what is in.
        reduce: Option<Arc<TaskSpec>>,
        why: String,
    },
    /// All subtasks of a plan have ended, and this came of them.
    Aggregated {
        task: TaskId,
        result: Option<Body>,
        error: Option<String>,
    },
    /// A task was cancelled. `lease` is the one it held until then.
    Cancelled {
        task: TaskId,
        reason: Arc<str>,
        lease: Option<Lease>,
        operation: Option<Operation>,
    },
    /// A task ended without an attempt: a timeout of the queue or of the whole, or a dependency that failed.
    Failed {
        task: TaskId,
        error: String,
        lease: Option<Lease>,
    },
    /// A client sent an ended task on its way again, perhaps edited. `attempts` were made before.
    Redriven {
        spec: Arc<TaskSpec>,
        attempts: u32,
        operation: Option<Operation>,
        principal: Arc<str>,
    },
    /// An attempt that no longer held the lease reported an end; nothing was changed by it.
    StaleRefused {
        lease: Lease,
        said: AttemptStatus,
    },
    /// These tasks, which had no attempt, leave for another shard of the swarm. They are under way until
    /// `TransferSettled`. Transfers are numbered for each pair of shards.
    TasksGiven {
        to: SwarmId,
        transfer: u64,
        tasks: Vec<TaskId>,
        why: String,
    },
    /// Tasks came here from another shard and wait here from now on.
    TasksTaken {
        from: SwarmId,
        transfer: u64,
        tasks: Vec<Moving>,
    },
    /// This shard never takes that transfer.
    TransferRefused {
        from: SwarmId,
        transfer: u64,
    },
    /// The other shard has taken the tasks, or they are back in this one's queue.
    TransferSettled {
        to: SwarmId,
        transfer: u64,
        returned: bool,
    },
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub status: AttemptStatus,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub result: Option<Body>,
    pub artifacts: Vec<Artifact>,
    pub error: Option<String>,
    pub retriable: bool,
}

/// The most bytes of an attempt's error; what is longer is cut.
const ERROR_BYTES_MAX: usize = 4 << 10;
/// The most artifacts of one attempt, and below the bytes of their names together; those that are more are left out, and that
/// is said.
const ARTIFACTS_MAX: usize = 256;
const ARTIFACT_NAMES_BYTES_MAX: usize = 64 << 10;

impl Ended {
    /// Cuts what an agent's program may have made too large for an event and for a message between nodes.
    pub fn bound(&mut self) {
        let mut names = 0;
        let fit = self.artifacts.iter().take(ARTIFACTS_MAX).take_while(|artifact| {
            names += artifact.name.len();
            names <= ARTIFACT_NAMES_BYTES_MAX
        });
        let (fit, all) = (fit.count(), self.artifacts.len());
        if fit < all {
            self.artifacts.truncate(fit);
            let said = format!("{} of {all} artifacts were left out: at most {ARTIFACTS_MAX} are kept", all - fit);
            self.error = Some(self.error.take().map_or(said.clone(), |error| format!("{said}; {error}")));
        }
        if let Some(error) = self.error.as_mut().filter(|error| error.len() > ERROR_BYTES_MAX) {
            let at = (0..=ERROR_BYTES_MAX).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
            error.truncate(at);
            error.push('…');
        }
    }
}

/// The next state of the task after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    Succeed,
    /// The task waits for the subtasks that the following `Planned` names.
    Plan,
    Retry {
        wait_ms: u64,
    },
    Fail,
    Die,
}

impl SwarmEvent {
    /// Returns the event's kind, as it is stored in the ledger.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Submitted { .. } => "TaskSubmitted",
            Self::Assigned { .. } => "TaskAssigned",
            Self::Started { .. } => "TaskStarted",
            Self::Verifying { .. } => "TaskVerifying",
            Self::AttemptEnded { .. } => "TaskAttemptEnded",
            Self::Planned { .. } => "TaskPlanned",
            Self::Hedged { .. } => "TaskHedged",
            Self::Gathered { .. } => "TaskGathered",
            Self::Aggregated { .. } => "TaskAggregated",
            Self::Cancelled { .. } => "TaskCancelled",
            Self::Failed { .. } => "TaskFailed",
            Self::Redriven { .. } => "TaskRedriven",
            Self::StaleRefused { .. } => "TaskStaleRefused",
            Self::TasksGiven { .. } => "TasksGiven",
            Self::TasksTaken { .. } => "TasksTaken",
            Self::TransferRefused { .. } => "TaskTransferRefused",
            Self::TransferSettled { .. } => "TaskTransferSettled",
        }
    }

    /// Encodes the event for the ledger.
    pub fn encode(&self) -> Result<Bytes, rmp_serde::encode::Error> {
        hiveward_kernel::event::encoded(self)
    }

    /// Decodes an event of the ledger. Errors: a format that this version does not read, or bytes that are no such event.
    pub fn decode(kind: &str, format: u16, body: &[u8]) -> Result<Self, DecodeError> {
        if format != FORMAT {
            return Err(DecodeError::Format { kind: kind.to_owned(), format });
        }
        rmp_serde::from_slice(body).map_err(|source| DecodeError::Body { kind: kind.to_owned(), source })
    }

    /// Returns the tasks it is about, the first of them first.
    pub fn tasks(&self) -> Vec<TaskId> {
        match self {
            Self::Submitted { tasks, .. } => tasks.iter().map(|spec| spec.id).collect(),
            Self::Assigned { lease, .. }
            | Self::Started { lease }
            | Self::Verifying { lease }
            | Self::AttemptEnded { lease, .. }
            | Self::StaleRefused { lease, .. } => vec![lease.task],
            Self::Planned { task, subtasks } => std::iter::once(*task).chain(subtasks.iter().map(|spec| spec.id)).collect(),
            Self::Hedged { task, twin } => vec![*task, twin.id],
            Self::Gathered { task, reduce, .. } => std::iter::once(*task).chain(reduce.iter().map(|spec| spec.id)).collect(),
            Self::Aggregated { task, .. } | Self::Cancelled { task, .. } | Self::Failed { task, .. } => vec![*task],
            Self::Redriven { spec, .. } => vec![spec.id],
            Self::TasksGiven { tasks, .. } => tasks.clone(),
            Self::TasksTaken { tasks, .. } => tasks.iter().map(|moving| moving.spec.id).collect(),
            Self::TransferRefused { .. } | Self::TransferSettled { .. } => Vec::new(),
        }
    }

    /// Returns the agent whose attempt the event is about, if it is about one.
    pub fn agent(&self) -> Option<AgentId> {
        match self {
            Self::Assigned { lease, .. }
            | Self::Started { lease }
            | Self::Verifying { lease }
            | Self::AttemptEnded { lease, .. }
            | Self::StaleRefused { lease, .. } => Some(lease.agent),
            _ => None,
        }
    }
}
