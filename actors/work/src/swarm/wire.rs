//! Turns a coordinator's messages into what travels between nodes, and back, where that is not the message itself.

use hiveward_kernel::{
    body::Body,
    commit::CommitReply,
    id::{AgentId, TaskId},
};
use hiveward_runtime::{
    call::{Addr, TellError},
    cluster::router::{Inbound, Location, NotDelivered, Router},
    error::{Code, Refused},
    op::NodeId,
};
use serde::{Deserialize, Serialize};

use super::message::SwarmMsg;
pub use super::message::SwarmWire;
use crate::swarm::{reference::AgentRef, services::WorkServices};

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
pub async fn unpack(services: WorkServices, to: &Addr<SwarmMsg>, stored: Body, reply: CommitReply<Vec<TaskId>>) {
    let read = tokio::task::spawn_blocking(move || services.body(&stored)).await;
    let bytes = match read.map_err(|error| Refused::new(Code::Internal, error.to_string())).flatten() {
        Ok(bytes) => bytes,
        Err(refused) => return reply.answer(Err(refused)),
    };
    let msg = match rmp_serde::from_slice(&bytes) {
        Ok(SwarmWire::Submit { tasks, operation, principal }) => SwarmMsg::Submit { tasks, operation, principal, reply },
        _ => return reply.answer(Err(Refused::new(Code::Refused, "the submission cannot be read; nothing happened"))),
    };
    if let Err(TellError::Busy(SwarmMsg::Submit { reply, .. })) = to.tell(msg) {
        reply.answer(Err(Refused::new(Code::Busy, "the coordinator's mailbox is full; nothing happened")));
    }
}

/// Reads what came in, as the message it is. `router` is the way back to a distant agent.
/// Errors: it cannot be read, or has no way back for the answer.
pub fn read(inbound: &Inbound<'_>, router: &Router) -> Result<SwarmMsg, NotDelivered> {
    SwarmWire::read(inbound, |told| {
        Some(match told {
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
            SwarmWire::Sibling(said) => SwarmMsg::Sibling(said),
            _ => return None,
        })
    })
}
