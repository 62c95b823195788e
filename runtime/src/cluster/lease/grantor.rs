//! The leader's side of leases: lives and dies with one term of leadership.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Ask, BootTime, LeaseTerms};
use crate::op::NodeId;

/// So much of a lease from when the holder asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// As it was asked: only the holder can read its own clock's moment in it.
    pub ask: Ask,
    pub lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NotGranted {
    #[error("{node} was declared lost: it stops what it holds, and is taken in again by the ledger")]
    Lost { node: NodeId },
    /// This leader may have been replaced without knowing: promising more would be a lie.
    #[error("the leader has not heard from a quorum lately")]
    Unconfirmed,
}

pub struct Grantor {
    terms: LeaseTerms,
    elected: BootTime,
    /// When the last heartbeat that a quorum answered was sent. Not when it was answered.
    confirmed: BootTime,
    /// What was promised at most, counted here.
    until: BTreeMap<NodeId, BootTime>,
    lost: BTreeSet<NodeId>,
}

impl Grantor {
    /// A term begins. `members` and `lost` are what the ledger says.
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

    /// A quorum answered the heartbeat of this term that was sent at `sent`.
    pub fn confirmed(&mut self, sent: BootTime) {
        if sent >= self.elected {
            self.confirmed = self.confirmed.max(sent);
        }
    }

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

    /// Nodes whose every lease is over by now. Write that to the ledger, then call [`Self::declared_lost`].
    pub fn overdue(&self, now: BootTime) -> Vec<NodeId> {
        let over = self.until.iter().filter(|(node, until)| **until <= now && !self.lost.contains(node));
        over.map(|(node, _)| *node).collect()
    }

    pub fn declared_lost(&mut self, node: NodeId) {
        self.lost.insert(node);
    }

    /// The ledger takes a node in, for the first time or again.
    pub fn taken_in(&mut self, node: NodeId, now: BootTime) {
        self.lost.remove(&node);
        self.until.insert(node, Self::over(&self.terms, now));
    }

    /// The ledger removed it.
    pub fn removed(&mut self, node: NodeId) {
        self.until.remove(&node);
        self.lost.remove(&node);
    }

    pub fn is_lost(&self, node: NodeId) -> bool {
        self.lost.contains(&node)
    }

    /// How long `node` has before it is overdue; `None` if it is no member or lost.
    pub fn left(&self, node: NodeId, now: BootTime) -> Option<Duration> {
        let until = self.until.get(&node).filter(|_| !self.lost.contains(&node))?;
        Some(until.since(now))
    }
}
