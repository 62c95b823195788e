//! Carries a coordinator's messages between nodes. Variants and fields have names: add, never rename.

use std::sync::Arc;

use hiveward_kernel::{
    body::Body,
    commit::Answer,
    id::{AgentId, TaskId},
    lease::Lease,
    operation::Operation,
};
use hiveward_runtime::{
    call::{Addr, TellError},
    cluster::router::{Inbound, Location, NotDelivered, Router},
    error::{Code, Refused},
    op::NodeId,
};
use serde::{Deserialize, Serialize};

use super::{
    event::Ended,
    message::{Submit, SwarmMsg},
    seat::Arrival,
    transfer::Sibling,
};
use crate::{
    swarm::{reference::AgentRef, services::WorkServices},
    task::{record::TaskRecord, spec::TaskSpec},
};

/// A message to a coordinator, as it travels.
#[derive(Serialize, Deserialize)]
pub enum SwarmWire {
    Submit {
        tasks: Vec<Arc<TaskSpec>>,
        operation: Option<Operation>,
        principal: Arc<str>,
    },
    /// Stands for a `Submit` that was too large for a message: the body is that.
    SubmitStored {
        stored: Body,
    },
    Cancel {
        task: TaskId,
        reason: Arc<str>,
        operation: Option<Operation>,
    },
    Redrive {
        before: Box<TaskRecord>,
        spec: Arc<TaskSpec>,
        operation: Option<Operation>,
        principal: Arc<str>,
    },
    Arrive {
        arrival: Arrival,
        from: From,
    },
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
        from: From,
    },
    Explain {
        task: TaskId,
    },
    Close {
        force: bool,
    },
    Reopen,
    Sibling(Sibling),
}

/// The place that an agent speaks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct From {
    pub node: NodeId,
    pub placement: u64,
}

impl From {
    fn reach(self, agent: AgentId, router: &Router) -> AgentRef {
        AgentRef::there(agent.key(), Location { node: self.node, incarnation: self.placement }, router.clone())
    }
}

impl SwarmWire {
    /// Returns what an agent tells, as it travels; `None` for anything else, which leaves no node this way.
    pub fn told(msg: SwarmMsg, from: From) -> Option<Self> {
        Some(match msg {
            SwarmMsg::Arrive { arrival, .. } => Self::Arrive { arrival, from },
            SwarmMsg::Depart { agent, incarnation, lost } => Self::Depart { agent, incarnation, lost },
            SwarmMsg::Started { lease } => Self::Started { lease },
            SwarmMsg::Verifying { lease } => Self::Verifying { lease },
            SwarmMsg::Ended { lease, ended, .. } => Self::Ended { lease, ended, from },
            _ => return None,
        })
    }
}

/// Reads a large submission and hands it on as the message it is. The reply is answered if it cannot be read, or if the
/// mailbox is full.
pub async fn unpack(services: WorkServices, to: &Addr<SwarmMsg>, stored: Body, reply: Answer<Vec<TaskId>>) {
    let read = tokio::task::spawn_blocking(move || services.body(&stored)).await;
    let bytes = match read.map_err(|error| Refused::new(Code::Internal, error.to_string())).flatten() {
        Ok(bytes) => bytes,
        Err(refused) => return reply.answer(Err(refused)),
    };
    let msg = match rmp_serde::from_slice(&bytes) {
        Ok(SwarmWire::Submit { tasks, operation, principal }) => SwarmMsg::Submit(Submit { tasks, operation, principal, reply }),
        _ => return reply.answer(Err(Refused::new(Code::Refused, "the submission cannot be read; nothing happened"))),
    };
    if let Err(TellError::Busy(SwarmMsg::Submit(submit))) = to.tell(msg) {
        submit.reply.answer(Err(Refused::new(Code::Busy, "the coordinator's mailbox is full; nothing happened")));
    }
}

/// Reads what came in, as the message it is. `router` is the way back to a distant agent.
/// Errors: it cannot be read, or has no way back for the answer.
pub fn read(inbound: &Inbound<'_>, router: &Router) -> Result<SwarmMsg, NotDelivered> {
    Ok(match inbound.read()? {
        SwarmWire::Submit { tasks, operation, principal } => {
            SwarmMsg::Submit(Submit { tasks, operation, principal, reply: inbound.reply()? })
        }
        SwarmWire::SubmitStored { stored } => SwarmMsg::SubmitStored { stored, reply: inbound.reply()? },
        SwarmWire::Cancel { task, reason, operation } => SwarmMsg::Cancel { task, reason, operation, reply: inbound.reply()? },
        SwarmWire::Redrive { before, spec, operation, principal } => {
            SwarmMsg::Redrive { before, spec, operation, principal, reply: inbound.reply()? }
        }
        SwarmWire::Arrive { arrival, from } => {
            let agent = from.reach(arrival.agent, router);
            SwarmMsg::Arrive { arrival, agent }
        }
        SwarmWire::Depart { agent, incarnation, lost } => SwarmMsg::Depart { agent, incarnation, lost },
        SwarmWire::Started { lease } => SwarmMsg::Started { lease },
        SwarmWire::Verifying { lease } => SwarmMsg::Verifying { lease },
        SwarmWire::Ended { lease, ended, from } => {
            let agent = from.reach(lease.agent, router);
            SwarmMsg::Ended { lease, ended, agent }
        }
        SwarmWire::Explain { task } => SwarmMsg::Explain { task, reply: inbound.reply()? },
        SwarmWire::Reopen => SwarmMsg::Reopen { reply: inbound.reply()? },
        SwarmWire::Sibling(said) => SwarmMsg::Sibling(said),
        SwarmWire::Close { force } => SwarmMsg::Close { force, reply: inbound.reply()? },
    })
}
