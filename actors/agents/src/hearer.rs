//! An agent of this node, as its coordinator sees it.

use std::sync::Arc;

use hiveward_kernel::{doors::Doors, id::AgentId};
use hiveward_runtime::call::{Addr, Door};
use hiveward_work::swarm::reference::{AgentRef, Hearer, Hearers, ToAgent};

use super::message::AgentMsg;

/// One life of an agent.
pub struct Life(pub Addr<AgentMsg>);

impl Hearer for Life {
    fn tell(&self, said: ToAgent) -> bool {
        self.0.tell(AgentMsg::Said(said)).is_ok()
    }

    fn is_alive(&self) -> bool {
        self.0.is_alive()
    }
}

/// An agent through all its lives.
struct Lives(Door<AgentMsg>);

impl Hearer for Lives {
    fn tell(&self, said: ToAgent) -> bool {
        self.0.tell(AgentMsg::Said(said)).is_ok()
    }

    fn is_alive(&self) -> bool {
        self.0.current().is_some()
    }
}

/// The agents that have doors on this node.
pub struct AgentsHere(pub Doors);

impl Hearers for AgentsHere {
    fn here(&self, agent: AgentId) -> Option<AgentRef> {
        Some(AgentRef::Here(Arc::new(Lives(self.0.of::<AgentMsg>(agent)?))))
    }
}
