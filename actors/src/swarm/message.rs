//! What a coordinator is asked and told.

use std::sync::Arc;

use hiveward_runtime::{call::Reply, error::Refused, ledger::Cursor};

use super::{
    event::{Ended, Operation},
    seat::Arrival,
};
use crate::{
    agent::{connector::Lease, message::AgentMsg},
    id::{AgentId, TaskId},
    task::{
        record::TaskRecord,
        spec::{Body, TaskSpec},
    },
};
use hiveward_runtime::call::Addr;

/// An answer that is in the ledger, and where.
#[derive(Clone, Debug)]
pub struct Committed<T> {
    pub value: T,
    pub cursor: Cursor,
}

pub type Answer<T> = Reply<Result<Committed<T>, Refused>>;

pub enum SwarmMsg {
    /// All of them or none. Repeating the same operation repeats the answer.
    Submit(Submit),
    /// Reaches the running process, if there is one.
    Cancel {
        task: TaskId,
        reason: Arc<str>,
        operation: Option<Operation>,
        reply: Answer<TaskId>,
    },
    /// `before` is the ended task as the views have it; `spec` may differ from it in what it does.
    Redrive {
        before: Box<TaskRecord>,
        spec: Arc<TaskSpec>,
        operation: Option<Operation>,
        principal: Arc<str>,
        reply: Answer<TaskId>,
    },
    /// An agent is ready for work. The leases it should hold are sent to it (again).
    Arrive {
        arrival: Arrival,
        agent: Addr<AgentMsg>,
    },
    /// An agent is no longer ready. What it still holds stays leased, unless `lost`.
    Depart {
        agent: AgentId,
        incarnation: u64,
        lost: Option<String>,
    },
    Started {
        lease: Lease,
    },
    Verifying {
        lease: Lease,
    },
    Ended {
        lease: Lease,
        ended: Ended,
        agent: Addr<AgentMsg>,
    },
    /// Why a task is not running, in words.
    Explain {
        task: TaskId,
        reply: Reply<Option<String>>,
    },
    /// No further tasks; answers once nothing is live, or at once with the number that is.
    Close {
        force: bool,
        reply: Answer<u32>,
    },

    // From itself.
    Due,
    Sweep,
    Aggregated {
        task: TaskId,
        result: Option<Body>,
        error: Option<String>,
    },
    CommitFailed {
        message: String,
    },
}

pub struct Submit {
    pub tasks: Vec<Arc<TaskSpec>>,
    pub operation: Option<Operation>,
    pub principal: Arc<str>,
    pub reply: Answer<Vec<TaskId>>,
}
