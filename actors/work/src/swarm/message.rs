//! Names what a coordinator is asked and told.

use std::sync::Arc;

use hiveward_kernel::{
    asks,
    body::Body,
    commit::Committed,
    doors::Addressed,
    entity::Entity,
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
    operation::Operation,
};
use hiveward_runtime::error::Refused;

use super::{event::Ended, seat::Arrival, transfer::Sibling, wire::From};
use crate::{
    swarm::reference::AgentRef,
    task::{record::TaskRecord, spec::TaskSpec},
};

asks! {
    /// A message to a coordinator.
    pub enum SwarmMsg;
    /// A message to a coordinator, as it travels.
    pub enum SwarmWire;

    asks {
        /// Submits all of the tasks or none. Repeating the same operation repeats the answer.
        Submit { tasks: Vec<Arc<TaskSpec>>, operation: Option<Operation>, principal: Arc<str> }
            -> Result<Committed<Vec<TaskId>>, Refused>;
        /// Submits more than fits into a message between nodes: the body is the `SwarmWire::Submit`.
        SubmitStored { stored: Body } -> Result<Committed<Vec<TaskId>>, Refused>;
        /// Cancels a task, and ends the running process, if there is one.
        Cancel { task: TaskId, reason: Arc<str>, operation: Option<Operation> } -> Result<Committed<TaskId>, Refused>;
        /// Sends an ended task on its way again. `before` is the task as the views have it; `spec` may differ in what it does.
        Redrive { before: Box<TaskRecord>, spec: Arc<TaskSpec>, operation: Option<Operation>, principal: Arc<str> }
            -> Result<Committed<TaskId>, Refused>;
        /// Says why a task is not running, in words.
        Explain { task: TaskId } -> Option<String>;
        /// Takes tasks again, because the swarm stays after all.
        Reopen -> ();
        /// Takes no further tasks. Refused while tasks are live, unless `force`, which cancels them; answers with their number.
        Close { force: bool } -> Result<Committed<u32>, Refused>;
    }

    wire {
        Arrive { arrival: Arrival, from: From },
        Depart { agent: AgentId, incarnation: u64, lost: Option<String> },
        Started { lease: Lease },
        Verifying { lease: Lease },
        Ended { lease: Lease, ended: Ended, from: From },
        Sibling(Sibling),
    }

    own {
        /// Seats an agent that is ready for work. The leases it should hold are sent to it (again).
        Arrive { arrival: Arrival, agent: AgentRef },
        /// Unseats an agent that is no longer ready. What it still holds stays leased, unless it is `lost`.
        Depart { agent: AgentId, incarnation: u64, lost: Option<String> },
        Started { lease: Lease },
        Verifying { lease: Lease },
        Ended { lease: Lease, ended: Ended, agent: AgentRef },
        /// Brings what another coordinator of the same swarm says.
        Sibling(Sibling),
        /// Tells which agents were placed anew, by what the directory says now: what they held in an older placement is lost.
        Moved { agents: Vec<AgentId> },

        // From itself.
        /// Tells that a distant agent was asked, and is not there in that incarnation.
        Away { agent: AgentId, incarnation: u64 },
        Due,
        Sweep,
        LookForWork,
        Aggregated { task: TaskId, result: Option<Body>, error: Option<String> },
        CommitFailed { message: String },
    }
}

impl Addressed for SwarmMsg {
    type Id = SwarmId;

    fn entity(id: SwarmId) -> Entity {
        Entity::Swarm(id)
    }
}

impl SwarmMsg {
    /// Returns the operation under which a client asks for this.
    pub fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Submit { operation, .. } | Self::Cancel { operation, .. } | Self::Redrive { operation, .. } => {
                operation.as_ref()
            }
            _ => None,
        }
    }

    /// Refuses a message that has an operation, without doing it; does nothing with any other.
    pub fn refuse(self, refused: Refused) {
        match self {
            Self::Submit { reply, .. } => reply.answer(Err(refused)),
            Self::Cancel { reply, .. } | Self::Redrive { reply, .. } => reply.answer(Err(refused)),
            _ => {}
        }
    }
}
