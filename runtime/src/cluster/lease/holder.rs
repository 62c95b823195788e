//! A node's own side of its lease.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BootTime, Grant, LeaseTerms};

/// A request for more. Carries the asker's own moment and start, so that an answer of another life counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub generation: u64,
    sent: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It may act, and begin new things.
    Held,
    /// It stops what it holds: the end is near.
    Stopping,
    /// Everything must have stopped; what has not is to be killed.
    Over,
}

pub struct Holder {
    terms: LeaseTerms,
    generation: u64,
    until: Option<BootTime>,
    #[cfg(test)]
    flaw: Option<Flaw>,
}

/// Deliberately wrong variants: the simulation must catch each.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Counts from when the grant came, not from when it was asked for.
    CountsFromReceipt,
}

impl Holder {
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

    /// Asked before each act, not only by a timer: a process that was stopped for an hour finds out before it acts.
    pub fn phase(&self, now: BootTime) -> Phase {
        match self.until {
            Some(until) if now.plus(self.terms.stop_within) < until => Phase::Held,
            Some(until) if now < until => Phase::Stopping,
            _ => Phase::Over,
        }
    }

    pub fn may_act(&self, now: BootTime) -> bool {
        self.phase(now) != Phase::Over
    }

    /// How long it may act yet.
    pub fn left(&self, now: BootTime) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.since(now))
    }

    /// Whether it was granted any, over or not.
    pub fn holds(&self) -> bool {
        self.until.is_some()
    }

    /// The leader says that this node is lost: it is over at once.
    pub fn lost(&mut self) {
        self.until = None;
    }
}
