//! Leads a coordinator to one of its agents, on this node or another.
//!
//! What is told to a distant agent may be lost on the way; who needs it to arrive says it again.

use std::{sync::Arc, time::Duration};

use hiveward_kernel::{id::AgentId, lease::Lease, loss};
use hiveward_runtime::{
    clock::Deadline,
    cluster::router::{Location, RouteError, Router},
    id::Key,
    ledger::Cursor,
    op::NodeId,
};
use serde::{Deserialize, Serialize};

use crate::task::spec::TaskSpec;

/// The most leases of one message, which take about a third of a frame.
const LEASES_PER_MESSAGE_MAX: usize = 2_000;

/// A granted lease, with what the agent needs to fetch the rest itself.
#[derive(Serialize, Deserialize)]
pub struct Assignment {
    pub lease: Lease,
    pub spec: Arc<TaskSpec>,
    /// The cursor at which the lease was granted; the views must have it before inputs are read from them.
    pub cursor: Cursor,
    /// The number of the coordinator's life that says so.
    pub by: u64,
}

/// A message of a coordinator to an agent. The names are those of an agent's messages on the wire: add, never rename.
#[derive(Serialize, Deserialize)]
pub enum ToAgent {
    /// Gives a lease. Under one it already has, this repeats what was last said of it.
    Run(Assignment),
    Cancel {
        lease: Lease,
        by: u64,
    },
    /// Tells an agent that it is seated, in this incarnation; these leases, if any are named, are all it should hold: others are
    /// ended. Without leases it says only that it is seated: there are too many for one message.
    Keep {
        leases: Option<Vec<Lease>>,
        seated: u64,
        by: u64,
    },
    /// Tells that the end of this attempt is in the ledger; it need not be said again.
    Settled {
        lease: Lease,
    },
    /// Tells that a new life of the coordinator knows nobody yet.
    CoordinatorStarted {
        by: u64,
    },
}

/// A question of a coordinator to a distant agent. Named as above.
#[derive(Serialize)]
enum AskAgent {
    /// Asks which incarnation it is in.
    Alive,
}

/// An agent of this node, as its coordinator sees it.
pub trait Hearer: Send + Sync + 'static {
    /// Delivers what is said; returns whether it was delivered. Never waits.
    fn tell(&self, said: ToAgent) -> bool;

    /// Tells whether somebody still hears.
    fn is_alive(&self) -> bool;
}

/// Finds the agents of this node.
pub trait Hearers: Send + Sync + 'static {
    /// Returns an agent that has a door here.
    fn here(&self, agent: AgentId) -> Option<AgentRef>;
}

/// The way to an agent. It is cheap to clone.
#[derive(Clone)]
pub enum AgentRef {
    Here(Arc<dyn Hearer>),
    There(Arc<Distant>),
}

/// An agent on another node, and the way to it.
pub struct Distant {
    pub key: Key,
    pub at: Location,
    pub router: Router,
}

/// The answer about a distant agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Incarnation(u64),
    /// The agent is not there, by the word of its node.
    Away,
    /// The node of the agent did not answer.
    Unknown,
}

impl AgentRef {
    /// Returns the way to an agent on another node.
    pub fn there(key: Key, at: Location, router: Router) -> Self {
        Self::There(Arc::new(Distant { key, at, router }))
    }

    /// Returns the node that the agent is on, if that is not this one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Here(_) => None,
            Self::There(distant) => Some(distant.at.node),
        }
    }

    /// Tells whether the agent is on another node.
    pub fn is_distant(&self) -> bool {
        matches!(self, Self::There(_))
    }

    /// Tells the agent something; returns whether it was delivered here or is on its way there. Never waits.
    pub fn tell(&self, mut said: ToAgent) -> bool {
        match self {
            Self::Here(agent) => agent.tell(said),
            Self::There(distant) => {
                if let ToAgent::Keep { leases, .. } = &mut said {
                    leases.take_if(|leases| leases.len() > LEASES_PER_MESSAGE_MAX);
                }
                // Lost by a test: as if it were on its way.
                loss::strikes() || distant.router.tell_at(distant.at, &distant.key, &said).is_ok()
            }
        }
    }

    /// Tells whether somebody still hears here; of a distant agent nothing is known without asking, so it counts as alive.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Here(agent) => agent.is_alive(),
            Self::There(_) => true,
        }
    }
}

impl Distant {
    /// Asks the agent's node which life of it is there. Waits `within` at most; without an answer it is `Unknown`.
    pub async fn life(&self, within: Duration) -> Life {
        self.router.learn(&self.key, self.at);
        match self.router.ask::<_, u64>(Deadline::after(within), &self.key, &AskAgent::Alive).await {
            Ok(incarnation) => Life::Incarnation(incarnation),
            Err(RouteError::NoSuchActor { .. } | RouteError::StaleIncarnation { .. } | RouteError::Unplaced { .. }) => Life::Away,
            Err(_) => Life::Unknown,
        }
    }
}
