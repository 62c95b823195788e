//! What a coordinator is asked and told.

use std::sync::Arc;

use hiveward_kernel::{
    body::Body,
    commit::Answer,
    doors::Addressed,
    entity::Entity,
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
    operation::Operation,
};
use hiveward_runtime::{call::Reply, error::Refused};

use super::{event::Ended, seat::Arrival, transfer::Sibling};
use crate::{
    swarm::reference::AgentRef,
    task::{record::TaskRecord, spec::TaskSpec},
};

pub enum SwarmMsg {
    /// All of them or none. Repeating the same operation repeats the answer.
    Submit(Submit),
    /// A submission that is larger than a message between nodes: the body is its `SwarmWire::Submit`.
    SubmitStored {
        stored: Body,
        reply: Answer<Vec<TaskId>>,
    },
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
        agent: AgentRef,
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
        agent: AgentRef,
    },
    /// Why a task is not running, in words.
    Explain {
        task: TaskId,
        reply: Reply<Option<String>>,
    },
    /// Another coordinator of the same swarm.
    Sibling(Sibling),
    /// The swarm stays after all: tasks are taken again.
    Reopen {
        reply: Reply<()>,
    },
    /// No further tasks; answers once nothing is live, or at once with the number that is.
    Close {
        force: bool,
        reply: Answer<u32>,
    },

    /// These agents were placed anew, by what the directory says now: what they held in an older placement is lost.
    Moved {
        agents: Vec<AgentId>,
    },

    // From itself.
    /// A distant agent was asked, and is not there in that incarnation.
    Away {
        agent: AgentId,
        incarnation: u64,
    },
    Due,
    Sweep,
    LookForWork,
    Aggregated {
        task: TaskId,
        result: Option<Body>,
        error: Option<String>,
    },
    CommitFailed {
        message: String,
    },
}

impl Addressed for SwarmMsg {
    type Id = SwarmId;

    fn entity(id: SwarmId) -> Entity {
        Entity::Swarm(id)
    }
}

impl SwarmMsg {
    /// The operation under which a client asks for this.
    pub fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Submit(Submit { operation, .. }) | Self::Cancel { operation, .. } | Self::Redrive { operation, .. } => {
                operation.as_ref()
            }
            _ => None,
        }
    }

    /// Answers one that has an operation, without doing it.
    pub fn refuse(self, refused: Refused) {
        match self {
            Self::Submit(Submit { reply, .. }) => reply.answer(Err(refused)),
            Self::Cancel { reply, .. } | Self::Redrive { reply, .. } => reply.answer(Err(refused)),
            _ => {}
        }
    }
}

pub struct Submit {
    pub tasks: Vec<Arc<TaskSpec>>,
    pub operation: Option<Operation>,
    pub principal: Arc<str>,
    pub reply: Answer<Vec<TaskId>>,
}
