//! The messages that an agent is asked and told.

use hiveward_kernel::{
    commit::Committed,
    doors::Addressed,
    entity::Entity,
    id::{AgentId, ApprovalId, TaskId},
};
use hiveward_runtime::{call::Reply, error::Refused};
use hiveward_work::swarm::reference::ToAgent;
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

pub type Answer = Reply<Result<Committed<()>, Refused>>;

pub enum AgentMsg {
    /// Starts the agent. Answers when the agent itself is ready.
    Start {
        reply: Option<Answer>,
    },
    Stop {
        mode: StopMode,
        reply: Answer,
    },
    Pause {
        mode: PauseMode,
        reply: Answer,
    },
    Resume {
        reply: Answer,
    },
    /// Begins a new life: stops what runs and starts again.
    Restart {
        mode: StopMode,
        reply: Answer,
    },
    /// Removes the agent: every process ends and nothing is left. It is told nothing after that.
    Remove {
        mode: StopMode,
        reply: Answer,
    },

    /// What its coordinator says.
    Said(ToAgent),
    /// Answers which incarnation it is in.
    Alive {
        reply: Reply<u64>,
    },

    // What persons say about what it runs.
    /// Answers a question of a program. The first answer counts; repeating it is fine, and another one is a conflict.
    AnswerApproval {
        approval: ApprovalId,
        verdict: Verdict,
        reply: Answer,
    },
    /// Tells something to the attempt at this task that it runs now.
    Tell {
        task: TaskId,
        told: Told,
        reply: Reply<Result<(), Refused>>,
    },

    /// Removes branches that its attempts left; see [`workspace::branches::clean`](super::workspace::branches::clean).
    Clean {
        force: bool,
        dry_run: bool,
        reply: Reply<Result<Cleaned, Refused>>,
    },

    // What its node's residents tell it.
    /// Drains it: it finishes what runs and takes nothing new. Answers what it still holds.
    Drain {
        reply: Reply<usize>,
    },
    Undrain,
    /// Evicts it: it lives elsewhere, or nowhere, from now on. Every process ends now, and nothing is written.
    Evict {
        reply: Reply<()>,
    },

    // What its connector and it itself tell it.
    Report(Report),
    Ready {
        result: Result<(), StartFailure>,
    },
    Resend,
    /// Says that nobody has answered in time.
    ApprovalDue {
        approval: ApprovalId,
    },
    CommitFailed {
        message: String,
    },
}

impl Addressed for AgentMsg {
    type Id = AgentId;

    fn entity(id: AgentId) -> Entity {
        Entity::Agent(id)
    }
}
