//! A coordinator's way to one of its agents, on this node or another.
//!
//! What is told to a distant agent may be lost on the way; who needs it to arrive says it again.

use std::{sync::Arc, time::Duration};

use hiveward_kernel::loss;
use hiveward_runtime::{
    call::Addr,
    clock::Deadline,
    cluster::router::{Location, RouteError, Router},
    id::Key,
    op::NodeId,
};

use super::{message::AgentMsg, wire::AgentWire};

/// Cheap to clone.
#[derive(Clone)]
pub enum AgentRef {
    Here(Addr<AgentMsg>),
    There(Arc<Distant>),
}

pub struct Distant {
    pub key: Key,
    pub at: Location,
    pub router: Router,
}

/// What is known of a distant agent's life after asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Incarnation(u64),
    /// It is not there, by the word of its node.
    Away,
    /// Its node did not answer.
    Unknown,
}

impl AgentRef {
    pub fn there(key: Key, at: Location, router: Router) -> Self {
        Self::There(Arc::new(Distant { key, at, router }))
    }

    /// Where it is, if that is not here.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Here(_) => None,
            Self::There(distant) => Some(distant.at.node),
        }
    }

    pub fn is_distant(&self) -> bool {
        matches!(self, Self::There(_))
    }

    /// Whether it was delivered here or is on its way there.
    pub fn tell(&self, msg: AgentMsg) -> bool {
        match self {
            Self::Here(addr) => addr.tell(msg).is_ok(),
            Self::There(distant) => {
                let Some(wire) = AgentWire::told(msg) else { return false };
                // Lost by a test: as if it were on its way.
                loss::strikes() || distant.router.tell_at(distant.at, &distant.key, &wire).is_ok()
            }
        }
    }

    /// Of a distant one nothing is known without asking.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Here(addr) => addr.is_alive(),
            Self::There(_) => true,
        }
    }
}

impl Distant {
    pub async fn life(&self, within: Duration) -> Life {
        self.router.learn(&self.key, self.at);
        match self.router.ask::<_, u64>(Deadline::after(within), &self.key, &AgentWire::Alive).await {
            Ok(incarnation) => Life::Incarnation(incarnation),
            Err(RouteError::NoSuchActor { .. } | RouteError::StaleIncarnation { .. } | RouteError::Unplaced { .. }) => Life::Away,
            Err(_) => Life::Unknown,
        }
    }
}
