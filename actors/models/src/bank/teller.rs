//! Keeps a node's calls, and what the owner of budgets was told of them. Pure.
//!
//! A call no budget and no rate concerns goes on at once and is told to nobody; it is told as soon as one does. Posts go one at a
//! time. After one whose answer was lost everything is told again, so nothing that was told can be missed or counted twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use hiveward_catalogue::budget::{Amount, Scope};

use super::wire::{BankAnswer, CallState, Post, Said, Stage, Word};
use crate::meter::Ask;

#[derive(Debug)]
struct Call {
    ask: Ask,
    stage: Stage,
    /// Whether the owner is to know of it.
    concerns: bool,
}

/// A node's own side of budgets.
#[derive(Debug, Default)]
pub struct Teller {
    generation: u64,
    calls: BTreeMap<u64, Call>,
    next: u64,
    /// The scopes that have a budget, as far as this node has heard.
    budgets: HashSet<Scope>,
    directory: u64,
    /// The term of the owner that is told. It never goes back.
    term: u64,
    /// The post by which this owner was told everything.
    session: Option<u64>,
    /// The post that is on its way, and whether it tells everything.
    on_the_way: Option<(u64, bool)>,
    seq: u64,
    heard: u64,
    /// The numbers of calls whose state the owner does not know yet.
    news: BTreeSet<u64>,
}

impl Teller {
    /// Makes the teller of one start of a node, which has no call.
    pub fn new(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Takes a call in; returns its number, and whether it may go on at once.
    pub fn begin(&mut self, ask: Ask) -> (u64, bool) {
        let number = self.next;
        self.next += 1;
        let concerns = ask.rate.is_some() || ask.scopes.iter().any(|scope| self.budgets.contains(scope));
        let stage = if concerns { Stage::Waits } else { Stage::Granted };
        self.calls.insert(number, Call { ask, stage, concerns });
        if concerns {
            self.news.insert(number);
        }
        (number, !concerns)
    }

    /// Notes that a call ended without using anything, or is not waited for any more. Repeating it does nothing.
    pub fn gone(&mut self, number: u64) {
        if let Some(call) = self.calls.get(&number)
            && matches!(call.stage, Stage::Waits | Stage::Granted)
        {
            self.forget(number);
        }
    }

    /// Notes that a call ended. If it is `recorded`, [`Self::landed`] will say when that is in the ledger; otherwise nobody else
    /// will ever count it.
    pub fn used(&mut self, number: u64, used: Amount, recorded: bool) {
        let Some(call) = self.calls.get_mut(&number).filter(|call| call.stage == Stage::Granted) else { return };
        // Where it is not known what it cost, it counts as what it may have cost.
        let used = Amount { nanos: used.nanos.or(call.ask.estimate.nanos), ..used };
        call.stage = if recorded { Stage::Used(used) } else { Stage::Settled(used) };
        match (call.concerns, recorded) {
            (true, _) => drop(self.news.insert(number)),
            (false, false) => drop(self.calls.remove(&number)),
            (false, true) => {}
        }
    }

    /// Notes that what a call used is in the ledger, at or before this cursor.
    pub fn landed(&mut self, number: u64, cursor: u64) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let Stage::Used(used) = call.stage else { return };
        call.stage = Stage::Landed(used, cursor);
        match call.concerns {
            true => drop(self.news.insert(number)),
            false => drop(self.calls.remove(&number)),
        }
    }

    fn forget(&mut self, number: u64) {
        if self.calls.remove(&number).is_some_and(|call| call.concerns) {
            self.news.insert(number);
        }
    }

    /// Sets what has a budget now. Calls that go on already are told if one of their scopes is new.
    pub fn know(&mut self, budgets: HashSet<Scope>, directory: u64) {
        self.directory = self.directory.max(directory);
        self.budgets = budgets;
        for (number, call) in self.calls.iter_mut().filter(|(_, call)| !call.concerns) {
            call.concerns = call.ask.scopes.iter().any(|scope| self.budgets.contains(scope));
            if call.concerns {
                self.news.insert(*number);
            }
        }
    }

    /// Tells whether the scope has a budget, as far as this node has heard.
    pub fn asks_for(&self, scope: &Scope) -> bool {
        self.budgets.contains(scope)
    }

    /// Turns to another owner, which is told everything. What earlier ones say is not heard any more.
    pub fn turn_to(&mut self, term: u64) {
        if term > self.term {
            (self.term, self.session, self.on_the_way) = (term, None, None);
        }
    }

    /// Returns the term of the owner that is told.
    #[cfg(test)]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Returns the next post, unless one is on its way or nothing is new.
    pub fn post(&mut self) -> Option<Post> {
        if self.on_the_way.is_some() || (self.session.is_some() && self.news.is_empty()) {
            return None;
        }
        let whole = self.session.is_none();
        let news = std::mem::take(&mut self.news);
        self.seq += 1;
        if whole {
            self.heard = 0;
        }
        self.on_the_way = Some((self.seq, whole));
        let told = |number: u64, call: &Call| CallState {
            number,
            agent: call.ask.agent,
            scopes: call.ask.scopes.clone(),
            estimate: call.ask.estimate,
            provider: call.ask.provider.clone(),
            rate: call.ask.rate,
            stage: call.stage,
        };
        let (calls, gone) = if whole {
            let all = self.calls.iter().filter(|(_, call)| call.concerns);
            (all.map(|(number, call)| told(*number, call)).collect(), Vec::new())
        } else {
            let (there, gone): (Vec<_>, Vec<_>) = news.into_iter().partition(|number| self.calls.contains_key(number));
            let there = there.into_iter().filter_map(|number| Some(told(number, self.calls.get(&number)?)));
            (there.collect(), gone)
        };
        // The owner's from here on: if this post is lost, they are told with everything, once more.
        Some(Post {
            term: self.term,
            generation: self.generation,
            seq: self.seq,
            whole,
            calls,
            gone,
            directory: self.directory,
            heard: self.heard,
        })
    }

    /// Takes in what came of a post, and returns the words for calls that wait. `answer` is none if no answer came, whatever the
    /// post did.
    pub fn answered(&mut self, post: &Post, answer: Option<BankAnswer>) -> Vec<(u64, Word)> {
        let Some((seq, whole)) = self.on_the_way.filter(|(seq, _)| *seq == post.seq && post.term == self.term) else {
            return Vec::new();
        };
        self.on_the_way = None;
        match answer {
            Some(BankAnswer::Heard { term, session, said }) if term == self.term => {
                if whole {
                    self.session = Some(seq);
                }
                for call in &post.calls {
                    // The owner has taken it over; unless it changed again since.
                    if matches!(call.stage, Stage::Landed(..) | Stage::Settled(_)) {
                        self.calls.remove(&call.number);
                    }
                }
                self.take(session, said)
            }
            _ => {
                self.session = None;
                Vec::new()
            }
        }
    }

    /// Takes in what was said while nothing was posted; `answer` is none if the owner was not reached.
    pub fn hears(&mut self, answer: Option<BankAnswer>) -> Vec<(u64, Word)> {
        match answer {
            Some(BankAnswer::Heard { term, session, said }) if term == self.term => self.take(session, said),
            Some(BankAnswer::TellAll { term }) if term == self.term => {
                // Unless it is being told already.
                if self.on_the_way.is_none() {
                    self.session = None;
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn take(&mut self, session: u64, said: Vec<Said>) -> Vec<(u64, Word)> {
        if self.session != Some(session) {
            return Vec::new();
        }
        let mut words = Vec::new();
        for Said { at, number, word } in said {
            if at <= self.heard {
                continue;
            }
            self.heard = at;
            let Some(call) = self.calls.get_mut(&number).filter(|call| call.stage == Stage::Waits) else { continue };
            match &word {
                Word::Granted => call.stage = Stage::Granted,
                Word::Refused(_) | Word::Busy(_) => drop(self.calls.remove(&number)),
            }
            words.push((number, word));
        }
        words
    }

    /// Returns what to wait for, if calls wait for this owner's word: its term, the session, and what was heard.
    pub fn to_hear(&self) -> Option<(u64, u64, u64)> {
        let waits = self.calls.values().any(|call| call.stage == Stage::Waits);
        Some((self.term, self.session.filter(|_| waits)?, self.heard))
    }

    /// Returns the session with the owner, and what was heard in it.
    pub fn has_heard(&self) -> Option<(u64, u64)> {
        Some((self.session?, self.heard))
    }

    /// Tells whether the owner knows everything that this node holds, but for what is new.
    pub fn is_known_to_the_owner(&self) -> bool {
        self.session.is_some()
    }

    /// Counts the calls that were let in and have not ended.
    pub fn under_way(&self) -> usize {
        self.calls.values().filter(|call| call.stage == Stage::Granted).count()
    }

    /// Returns what is set aside for calls of one scope that are under way here.
    pub fn reserved(&self, scope: &Scope) -> Amount {
        let mut sum = Amount { tokens: 0, nanos: Some(0) };
        for call in self.calls.values().filter(|call| call.stage == Stage::Granted && call.ask.scopes.contains(scope)) {
            sum.add(Amount { nanos: call.ask.estimate.nanos.or(Some(0)), ..call.ask.estimate });
        }
        sum
    }
}
