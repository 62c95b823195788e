//! The messages that an agent is asked and told.

use std::sync::Arc;

use hiveward_kernel::{
    asks,
    commit::{CommitReply, Committed},
    doors::Addressed,
    entity::Entity,
    id::{AgentId, ApprovalId, TaskId},
    lease::Lease,
};
use hiveward_runtime::{
    call::Reply,
    cluster::router::{Inbound, NotDelivered},
    error::Refused,
    ledger::Cursor,
};
use hiveward_work::{
    swarm::reference::{Assignment, ToAgent},
    task::spec::TaskSpec,
};
use serde::{Deserialize, Serialize};

use super::{
    approval::Verdict,
    connector::{Report, StartFailure, Told},
    workspace::branches::Cleaned,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// Interrupt, grace, SIGTERM, grace, SIGKILL.
    Graceful,
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseMode {
    /// What runs goes on; nothing new begins.
    NextStep,
    /// Every process is frozen now.
    Freeze,
}

/// The way back to who commands an agent: answered when it is in the ledger.
pub type AgentReply = CommitReply<()>;

asks! {
    /// A message to an agent.
    pub enum AgentMsg;
    /// A message to an agent, as it travels.
    pub enum AgentWire;

    asks {
        /// Starts the agent. Answers when the agent itself is ready.
        Start -> Result<Committed<()>, Refused>;
        Stop { mode: StopMode } -> Result<Committed<()>, Refused>;
        Pause { mode: PauseMode } -> Result<Committed<()>, Refused>;
        Resume -> Result<Committed<()>, Refused>;
        /// Begins a new life: stops what runs and starts again.
        Restart { mode: StopMode } -> Result<Committed<()>, Refused>;
        /// Removes the agent: every process ends and nothing is left. It is told nothing after that.
        Remove { mode: StopMode } -> Result<Committed<()>, Refused>;
        /// Answers which incarnation it is in.
        Alive -> u64;
        /// Answers a question of a program. The first answer counts; repeating it is fine, and another one is a conflict.
        AnswerApproval { approval: ApprovalId, verdict: Verdict } -> Result<Committed<()>, Refused>;
        /// Tells something to the attempt at this task that it runs now.
        Tell { task: TaskId, told: Told } -> Result<(), Refused>;
        /// Removes branches that its attempts left; see [`workspace::branches::clean`](crate::workspace::branches::clean).
        Clean { force: bool, dry_run: bool } -> Result<Cleaned, Refused>;
    }

    wire {
        Run { lease: Lease, spec: Arc<TaskSpec>, cursor: Cursor, by: u64 },
        Cancel { lease: Lease, by: u64 },
        /// Without leases, this says only that the agent is seated: there are too many for one message.
        Keep { leases: Option<Vec<Lease>>, seated: u64, by: u64 },
        Settled { lease: Lease },
        CoordinatorStarted { by: u64 },
    }

    own {
        /// Brings what its coordinator says.
        Said(ToAgent),

        // What its node's residents tell it.
        /// Drains it: it finishes what runs and takes nothing new. Answers what it still holds.
        Drain { reply: Reply<usize> },
        Undrain,
        /// Evicts it: it lives elsewhere, or nowhere, from now on. Every process ends now, and nothing is written.
        Evict { reply: Reply<()> },

        // What its connector and it itself tell it.
        Report(Report),
        Ready { result: Result<(), StartFailure> },
        Resend,
        /// Says that nobody has answered in time.
        ApprovalDue { approval: ApprovalId },
        CommitFailed { message: String },
    }
}

impl AgentWire {
    /// Reads what came in as the message that it is. Errors: it is none, and is not delivered.
    pub fn message(inbound: &Inbound<'_>) -> Result<AgentMsg, NotDelivered> {
        Self::read(inbound, |told| {
            Some(AgentMsg::Said(match told {
                Self::Run { lease, spec, cursor, by } => ToAgent::Run(Assignment { lease, spec, cursor, by }),
                Self::Cancel { lease, by } => ToAgent::Cancel { lease, by },
                Self::Keep { leases, seated, by } => ToAgent::Keep { leases, seated, by },
                Self::Settled { lease } => ToAgent::Settled { lease },
                Self::CoordinatorStarted { by } => ToAgent::CoordinatorStarted { by },
                _ => return None,
            }))
        })
    }
}

impl Addressed for AgentMsg {
    type Id = AgentId;

    fn entity(id: AgentId) -> Entity {
        Entity::Agent(id)
    }
}
