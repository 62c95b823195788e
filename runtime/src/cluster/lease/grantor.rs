//! The leader's side of leases, which lives and dies with one term of leadership.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Ask, LeaseTerms};
use crate::clock::BootTime;
use crate::op::NodeId;

/// The answer to an ask: a lease for the time `lasts`, from the moment when the holder asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The ask as it came: only the holder can read the moment of its own clock in it.
    pub ask: Ask,
    pub lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NotGranted {
    #[error("{node} was declared lost: it stops what it holds, and is taken in again by the ledger")]
    Lost { node: NodeId },
    /// This leader may have been replaced without knowing it, so that it may promise nothing.
    #[error("the leader has not heard from a quorum lately")]
    Unconfirmed,
}

pub struct Grantor {
    terms: LeaseTerms,
    elected: BootTime,
    /// The moment at which the last heartbeat that a quorum answered was sent, not the moment of the answer.
    confirmed: BootTime,
    /// The end of the longest lease that each node may hold, counted on this clock.
    until: BTreeMap<NodeId, BootTime>,
    lost: BTreeSet<NodeId>,
}

impl Grantor {
    /// Begins a term. `members` and `lost` are what the ledger says; each member counts as granted a whole lease just now.
    pub fn elected(
        terms: LeaseTerms,
        now: BootTime,
        members: impl IntoIterator<Item = NodeId>,
        lost: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let promised = Self::over(&terms, now);
        let until = members.into_iter().map(|node| (node, promised)).collect();
        // The election itself shows that a quorum followed at its beginning, but not when that was: not confirmed yet.
        Self { terms, elected: now, confirmed: BootTime::default(), until, lost: lost.into_iter().collect() }
    }

    fn over(terms: &LeaseTerms, from: BootTime) -> BootTime {
        from.plus(terms.length).plus(terms.slack())
    }

    /// Notes that a quorum answered the heartbeat of this term that was sent at `sent`.
    pub fn confirmed(&mut self, sent: BootTime) {
        if sent >= self.elected {
            self.confirmed = self.confirmed.max(sent);
        }
    }

    /// Grants a lease, counted from the last heartbeat that a quorum answered. Errors: `Lost` if the node was declared lost,
    /// `Unconfirmed` if no quorum has answered lately.
    pub fn grant(&mut self, node: NodeId, ask: Ask, now: BootTime) -> Result<Grant, NotGranted> {
        if self.lost.contains(&node) {
            return Err(NotGranted::Lost { node });
        }
        let lasts = self.terms.length.saturating_sub(now.since(self.confirmed));
        if self.confirmed < self.elected || lasts.is_zero() {
            return Err(NotGranted::Unconfirmed);
        }
        let until = Self::over(&self.terms, now);
        let promised = self.until.entry(node).or_insert(until);
        *promised = (*promised).max(until);
        Ok(Grant { ask, lasts })
    }

    /// Returns the nodes whose every lease is over by now. Write that to the ledger, then call [`Self::declared_lost`].
    pub fn overdue(&self, now: BootTime) -> Vec<NodeId> {
        let over = self.until.iter().filter(|(node, until)| **until <= now && !self.lost.contains(node));
        over.map(|(node, _)| *node).collect()
    }

    /// Notes that the ledger has declared the node lost: it is granted nothing until it is taken in again.
    pub fn declared_lost(&mut self, node: NodeId) {
        self.lost.insert(node);
    }

    /// Notes that the ledger takes a node in, for the first time or again.
    pub fn taken_in(&mut self, node: NodeId, now: BootTime) {
        self.lost.remove(&node);
        self.until.insert(node, Self::over(&self.terms, now));
    }

    /// Notes that the ledger removed the node.
    pub fn removed(&mut self, node: NodeId) {
        self.until.remove(&node);
        self.lost.remove(&node);
    }

    /// Tells whether the node was declared lost and not taken in since.
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.lost.contains(&node)
    }

    /// Returns how long `node` has before it is overdue; `None` if it is no member or lost.
    pub fn left(&self, node: NodeId, now: BootTime) -> Option<Duration> {
        let until = self.until.get(&node).filter(|_| !self.lost.contains(&node))?;
        Some(until.since(now))
    }
}
