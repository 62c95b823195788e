//! This node's place among the others: who leads, and whether this node may act.
//!
//! Owns nothing but what it was last told: a [`PeersDriver`] tells it (membership, or a test). Never decides who leads or
//! who is alive. After a restart it knows nothing until it is driven again.

use std::sync::Arc;

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
        (Self(Arc::new(Inner { node, leadership: leads, lease: held })), PeersDriver { leadership, lease })
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
        *self.0.lease.borrow() != Phase::Over
    }
}
