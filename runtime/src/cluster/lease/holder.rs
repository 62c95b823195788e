//! A node's own side of its lease.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Grant, LeaseTerms};
use crate::clock::BootTime;

/// A request for more lease. It carries the asker's own moment and start, so that an answer of another life counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub generation: u64,
    sent: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The node may act, and begin new things.
    Held,
    /// The node stops what it holds: the end is near.
    Stopping,
    /// The lease is over: everything must have stopped, and what has not is to be killed.
    Over,
}

pub struct Holder {
    terms: LeaseTerms,
    generation: u64,
    until: Option<BootTime>,
    #[cfg(test)]
    flaw: Option<Flaw>,
}

/// A deliberately wrong variant; the simulation must catch each.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Counts from when the grant came, not from when it was asked for.
    CountsFromReceipt,
}

impl Holder {
    /// Makes a holder that was granted nothing yet. `generation` is the number of this node's start.
    pub fn new(terms: LeaseTerms, generation: u64) -> Self {
        Self {
            terms,
            generation,
            until: None,
            #[cfg(test)]
            flaw: None,
        }
    }

    #[cfg(test)]
    pub(super) fn flawed(terms: LeaseTerms, generation: u64, flaw: Flaw) -> Self {
        Self { flaw: Some(flaw), ..Self::new(terms, generation) }
    }

    /// Makes a request for more lease, to be sent at `now`.
    pub fn ask(&self, now: BootTime) -> Ask {
        Ask { generation: self.generation, sent: now.0 }
    }

    /// Takes a grant, late, doubled or out of order as it may come.
    pub fn granted(&mut self, grant: &Grant, now: BootTime) {
        // Of another life, or from the future: not an answer to us.
        if grant.ask.generation != self.generation || grant.ask.sent > now.0 || grant.lasts > self.terms.length {
            return;
        }
        let from = BootTime(grant.ask.sent);
        #[cfg(test)]
        let from = if self.flaw == Some(Flaw::CountsFromReceipt) { now } else { from };
        let until = from.plus(grant.lasts.saturating_sub(self.terms.slack()));
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
    }

    /// Returns the phase. Ask before each act, not only by a timer: a process that was stopped for an hour must find out first.
    pub fn phase(&self, now: BootTime) -> Phase {
        match self.until {
            Some(until) if now.plus(self.terms.stop_within) < until => Phase::Held,
            Some(until) if now < until => Phase::Stopping,
            _ => Phase::Over,
        }
    }

    /// Tells whether the lease is not over.
    pub fn may_act(&self, now: BootTime) -> bool {
        self.phase(now) != Phase::Over
    }

    /// Returns how long the node may still act.
    pub fn left(&self, now: BootTime) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.since(now))
    }

    /// Tells whether a lease was granted at all, over or not.
    pub fn holds(&self) -> bool {
        self.until.is_some()
    }

    /// Ends the lease at once, because the leader says that this node is lost.
    pub fn lost(&mut self) {
        self.until = None;
    }
}
