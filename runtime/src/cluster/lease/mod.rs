//! Node leases: who may act, decided by the Raft leader, kept in memory, never written per heartbeat. Pure.
//!
//! `Grantor` is the leader's side, `Holder` a node's own. Neither reads a clock nor sends anything: the caller does. Only
//! durations cross between nodes; each side counts on its own clock, which also counts while the host sleeps. A new leader
//! knows nothing of its predecessor's promises, and waits until the longest of them is over.
//!
//! Why it holds: a grant lasts no longer than one length after the leader was last known to lead (the sending of a
//! heartbeat that a quorum answered). Whoever is elected after that waits one length from its election. A holder counts
//! from before it asked. So what the leader calls lost has stopped by itself, if clocks differ by less than the slack.
//!
//! What touches the world stands apart: `page` is how processes beside the node know its lease.

mod grantor;
mod holder;
mod page;
#[cfg(test)]
mod simulation;

pub use grantor::{Grant, Grantor, NotGranted};
pub use holder::{Ask, Holder, Phase};
pub use page::LeasePage;

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    pub length: Duration,
    /// The time before the end at which a holder begins to stop what it holds.
    pub stop_within: Duration,
}

impl LeaseTerms {
    /// Returns the most by which clocks may differ over one length, on each side: a twentieth, far more than any crystal.
    pub fn slack(&self) -> Duration {
        self.length / 20
    }
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { length: Duration::from_secs(8), stop_within: Duration::from_secs(2) }
    }
}
