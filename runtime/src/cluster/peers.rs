//! This node's place among the others: who leads, and whether this node may act.
//!
//! Owns nothing but what it was last told: a [`PeersDriver`] tells it (membership, or a test). Never decides who leads or
//! who is alive. After a restart it knows nothing until it is driven again.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::lease::Phase;
pub use crate::ledger::Leadership;
use crate::op::NodeId;

/// Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    lease: watch::Receiver<Phase>,
    /// Reads the clock, so that a process that was stopped for a while finds out before it acts.
    phase: OnceLock<Box<dyn Fn() -> Phase + Send + Sync>>,
}

/// Who drives it. While it is held the receivers live; when it is dropped they keep what was said last.
pub struct PeersDriver {
    pub leadership: watch::Sender<Leadership>,
    pub lease: watch::Sender<Phase>,
}

impl Peers {
    /// A single node: it leads itself, and its lease is always held.
    pub fn alone(node: NodeId) -> (Self, PeersDriver) {
        let alone = Leadership { term: 1, leader: Some(node), is_me: true, epoch: 1 };
        let (leadership, leads) = watch::channel(alone);
        let (lease, held) = watch::channel(Phase::Held);
        (Self::of(node, leads, held), PeersDriver { leadership, lease })
    }

    /// Of a node among others: who leads as the ledger says, and its lease as membership says.
    pub fn of(node: NodeId, leadership: watch::Receiver<Leadership>, lease: watch::Receiver<Phase>) -> Self {
        Self(Arc::new(Inner { node, leadership, lease, phase: OnceLock::new() }))
    }

    /// From now on the phase is read from whoever counts the lease. A second call changes nothing.
    pub fn read_phase(&self, phase: impl Fn() -> Phase + Send + Sync + 'static) {
        let _ = self.0.phase.set(Box::new(phase));
    }

    pub fn node(&self) -> NodeId {
        self.0.node
    }

    pub fn leader(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    pub fn lease(&self) -> watch::Receiver<Phase> {
        self.0.lease.clone()
    }

    /// Asked before each act.
    pub fn may_act(&self) -> bool {
        match self.0.phase.get() {
            Some(phase) => phase() != Phase::Over,
            None => *self.0.lease.borrow() != Phase::Over,
        }
    }
}
