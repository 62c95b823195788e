//! The place of this node among the others: who leads, and whether this node may act.
//!
//! Owns nothing but what it was last told: a [`PeersDriver`] tells it (membership, or a test). Never decides who leads or
//! who is alive. After a restart it knows nothing until it is driven again.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::lease::Phase;
pub use crate::ledger::Leadership;
use crate::op::NodeId;

/// A node's view of who leads and of its own lease. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    lease: watch::Receiver<Phase>,
    /// A function that reads the clock, so that a process that was stopped for a while finds out before it acts.
    phase: OnceLock<Box<dyn Fn() -> Phase + Send + Sync>>,
}

/// The sending end that drives it. While it is held the receivers live; when it is dropped they keep what was said last.
pub struct PeersDriver {
    pub leadership: watch::Sender<Leadership>,
    pub lease: watch::Sender<Phase>,
}

impl Peers {
    /// Makes the peers of a single node: it leads itself, and its lease is always held.
    pub fn alone(node: NodeId) -> (Self, PeersDriver) {
        let alone = Leadership { term: 1, leader: Some(node), is_me: true, epoch: 1 };
        let (leadership, leads) = watch::channel(alone);
        let (lease, held) = watch::channel(Phase::Held);
        (Self::of(node, leads, held), PeersDriver { leadership, lease })
    }

    /// Makes the peers of a node among others: the ledger says who leads, and membership says how its lease stands.
    pub fn of(node: NodeId, leadership: watch::Receiver<Leadership>, lease: watch::Receiver<Phase>) -> Self {
        Self(Arc::new(Inner { node, leadership, lease, phase: OnceLock::new() }))
    }

    /// Reads the phase from now on by `phase`, from whoever counts the lease. A second call changes nothing.
    pub fn read_phase(&self, phase: impl Fn() -> Phase + Send + Sync + 'static) {
        let _ = self.0.phase.set(Box::new(phase));
    }

    /// Returns the id of this node.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Returns a receiver of who leads.
    pub fn leader(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Returns a receiver of the phase of this node's lease.
    pub fn lease(&self) -> watch::Receiver<Phase> {
        self.0.lease.clone()
    }

    /// Tells whether the lease of this node is not over. Ask before each act.
    pub fn may_act(&self) -> bool {
        match self.0.phase.get() {
            Some(phase) => phase() != Phase::Over,
            None => *self.0.lease.borrow() != Phase::Over,
        }
    }
}
