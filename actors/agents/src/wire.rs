//! An agent's messages as they travel between nodes. Variants and fields have names: add, never rename.

use std::sync::Arc;

use hiveward_kernel::{
    id::{ApprovalId, TaskId},
    lease::Lease,
};
use hiveward_runtime::{
    cluster::router::{Inbound, NotDelivered},
    ledger::Cursor,
};
use hiveward_work::{
    swarm::reference::{Assignment, ToAgent},
    task::spec::TaskSpec,
};
use serde::{Deserialize, Serialize};

use super::{
    approval::Verdict,
    connector::Told,
    message::{AgentMsg, PauseMode, StopMode},
};

#[derive(Serialize, Deserialize)]
pub enum AgentWire {
    Start,
    Stop {
        mode: StopMode,
    },
    Pause {
        mode: PauseMode,
    },
    Resume,
    Restart {
        mode: StopMode,
    },
    Remove {
        mode: StopMode,
    },
    Run {
        lease: Lease,
        spec: Arc<TaskSpec>,
        cursor: Cursor,
        by: u64,
    },
    Cancel {
        lease: Lease,
        by: u64,
    },
    /// Without leases, this says only that the agent is seated: there are too many for one message.
    Keep {
        leases: Option<Vec<Lease>>,
        seated: u64,
        by: u64,
    },
    Settled {
        lease: Lease,
    },
    CoordinatorStarted {
        by: u64,
    },
    Alive,
    AnswerApproval {
        approval: ApprovalId,
        verdict: Verdict,
    },
    Tell {
        task: TaskId,
        told: Told,
    },
    Clean {
        force: bool,
        dry_run: bool,
    },
}

/// Reads what came in as the message that it is. Errors: it is none, and is not delivered.
pub fn read(inbound: &Inbound<'_>) -> Result<AgentMsg, NotDelivered> {
    Ok(match inbound.read()? {
        AgentWire::Start => AgentMsg::Start { reply: Some(inbound.reply()?) },
        AgentWire::Stop { mode } => AgentMsg::Stop { mode, reply: inbound.reply()? },
        AgentWire::Pause { mode } => AgentMsg::Pause { mode, reply: inbound.reply()? },
        AgentWire::Resume => AgentMsg::Resume { reply: inbound.reply()? },
        AgentWire::Restart { mode } => AgentMsg::Restart { mode, reply: inbound.reply()? },
        AgentWire::Remove { mode } => AgentMsg::Remove { mode, reply: inbound.reply()? },
        AgentWire::Run { lease, spec, cursor, by } => AgentMsg::Said(ToAgent::Run(Assignment { lease, spec, cursor, by })),
        AgentWire::Cancel { lease, by } => AgentMsg::Said(ToAgent::Cancel { lease, by }),
        AgentWire::Keep { leases, seated, by } => AgentMsg::Said(ToAgent::Keep { leases, seated, by }),
        AgentWire::Settled { lease } => AgentMsg::Said(ToAgent::Settled { lease }),
        AgentWire::CoordinatorStarted { by } => AgentMsg::Said(ToAgent::CoordinatorStarted { by }),
        AgentWire::Alive => AgentMsg::Alive { reply: inbound.reply()? },
        AgentWire::AnswerApproval { approval, verdict } => {
            AgentMsg::AnswerApproval { approval, verdict, reply: inbound.reply()? }
        }
        AgentWire::Clean { force, dry_run } => AgentMsg::Clean { force, dry_run, reply: inbound.reply()? },
        AgentWire::Tell { task, told } => AgentMsg::Tell { task, told, reply: inbound.reply()? },
    })
}
