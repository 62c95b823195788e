//! A coordinator's way to one of its agents, on this node or another.
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

/// About a third of a frame.
const LEASES_PER_MESSAGE_MAX: usize = 2_000;

/// A granted lease, with what the agent needs to fetch the rest itself.
#[derive(Serialize, Deserialize)]
pub struct Assignment {
    pub lease: Lease,
    pub spec: Arc<TaskSpec>,
    /// At which the lease was granted; the views must have it before inputs are read from them.
    pub cursor: Cursor,
    /// The life of the coordinator that says so.
    pub by: u64,
}

/// What a coordinator says to an agent. The names are those of an agent's messages on the wire: add, never rename.
#[derive(Serialize, Deserialize)]
pub enum ToAgent {
    /// Under a lease it already has, this repeats what was last said of it.
    Run(Assignment),
    Cancel {
        lease: Lease,
        by: u64,
    },
    /// It is seated, in this incarnation; these leases, if any are named, are all it should hold: others are ended. Without
    /// leases it says only that it is seated: there are too many for one message.
    Keep {
        leases: Option<Vec<Lease>>,
        seated: u64,
        by: u64,
    },
    /// The end of this attempt is in the ledger; it need not be said again.
    Settled {
        lease: Lease,
    },
    /// A new life of the coordinator knows nobody yet.
    CoordinatorStarted {
        by: u64,
    },
}

/// What a coordinator asks a distant agent. Named as above.
#[derive(Serialize)]
enum AskAgent {
    /// Which incarnation it is in.
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

/// Cheap to clone.
#[derive(Clone)]
pub enum AgentRef {
    Here(Arc<dyn Hearer>),
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

    /// Of a distant one nothing is known without asking.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Here(agent) => agent.is_alive(),
            Self::There(_) => true,
        }
    }
}

impl Distant {
    pub async fn life(&self, within: Duration) -> Life {
        self.router.learn(&self.key, self.at);
        match self.router.ask::<_, u64>(Deadline::after(within), &self.key, &AskAgent::Alive).await {
            Ok(incarnation) => Life::Incarnation(incarnation),
            Err(RouteError::NoSuchActor { .. } | RouteError::StaleIncarnation { .. } | RouteError::Unplaced { .. }) => Life::Away,
            Err(_) => Life::Unknown,
        }
    }
}
