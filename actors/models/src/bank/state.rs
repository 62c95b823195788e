//! Decides as the owner of budgets: what every node holds, what is spent, and who goes on. Pure.
//!
//! A call stays set aside until the owner's own view has what it used: it is counted once or, for a moment, twice, and never not
//! at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use hiveward_runtime::op::NodeId;

use super::wire::{BankAnswer, CallState, Post, Said, Stage, Word};
use crate::meter::{Account, Ask, Meter, Verdict};

/// One node, as the owner knows it.
#[derive(Debug, Default)]
struct Line {
    generation: u64,
    /// The post that told everything; none while the node has to do that.
    session: Option<u64>,
    seq: u64,
    /// The node's numbers of its calls, with the meter's.
    calls: BTreeMap<u64, u64>,
    /// The words that it may not have heard.
    outbox: Vec<Said>,
    said: u64,
}

impl Line {
    fn say(&mut self, number: u64, word: Word) {
        self.said += 1;
        self.outbox.push(Said { at: self.said, number, word });
    }
}

/// The owner of budgets in one term.
#[derive(Debug)]
pub struct Bank {
    term: u64,
    meter: Meter,
    lines: HashMap<NodeId, Line>,
    /// The node and its own number of each call, by the meter's number.
    whose: HashMap<u64, (NodeId, u64)>,
    /// The meter's numbers of calls that are in the ledger, and not known to be in the view, by cursor.
    landing: BTreeMap<u64, Vec<u64>>,
    /// The cursor up to which it is known what is spent; none before the first look at it.
    cursor: Option<u64>,
    /// The cursor up to which that must be known before anyone goes on.
    needs: u64,
    budgets_known: u64,
    /// The nodes that have to tell what they hold, before anyone goes on.
    expects: BTreeSet<NodeId>,
}

/// The facts that are known of the cluster.
#[derive(Debug, Default)]
pub struct Known {
    /// The cursor up to which `budgets` says what is spent, at least.
    pub cursor: u64,
    /// The cursor at which a budget was set or removed last.
    pub budgets_changed: u64,
    /// All budgets there are, and what is spent of each.
    pub budgets: Vec<(Scope, Budget, Amount)>,
    /// The nodes that may act.
    pub acting: BTreeSet<NodeId>,
    /// The nodes that will not come back as what they were.
    pub removed: BTreeSet<NodeId>,
}

impl Bank {
    /// Makes an owner that grants nothing until all of `expects` have told what they hold, and what was spent up to `needs` is
    /// known.
    pub fn new(term: u64, needs: u64, expects: BTreeSet<NodeId>) -> Self {
        Self {
            term,
            meter: Meter::default(),
            lines: HashMap::new(),
            whose: HashMap::new(),
            landing: BTreeMap::new(),
            cursor: None,
            needs,
            budgets_known: 0,
            expects,
        }
    }

    /// Makes the owner of a counter that belongs to no node: it knows all there is, and tells it itself.
    pub fn alone() -> Self {
        Self { cursor: Some(0), ..Self::new(0, 0, BTreeSet::new()) }
    }

    /// Returns the term in which it is the owner.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Returns the account of a scope that has a budget.
    pub fn account(&self, scope: &Scope) -> Option<Account> {
        self.meter.account(scope)
    }

    /// Returns the cursor at which a budget was set or removed last, as far as is known.
    pub fn budgets_known(&self) -> u64 {
        self.budgets_known
    }

    /// Returns the scopes that have a budget.
    pub fn scopes(&self) -> HashSet<Scope> {
        self.meter.scopes().cloned().collect()
    }

    /// Sets a budget, for an owner without a ledger.
    pub fn set_budget(&mut self, scope: Scope, budget: Option<Budget>) {
        self.meter.set_budget(scope, budget);
    }

    /// Takes in what is known of the cluster: budgets, what is spent, and which nodes may act. What a lost node holds stays set
    /// aside until it is back or removed.
    pub fn know(&mut self, known: Known) {
        let Known { cursor, budgets_changed, budgets, acting, removed } = known;
        self.budgets_known = self.budgets_known.max(budgets_changed);
        self.needs = self.needs.max(budgets_changed);
        self.cursor = self.cursor.max(Some(cursor));
        let later = self.landing.split_off(&(cursor + 1));
        for number in std::mem::replace(&mut self.landing, later).into_values().flatten() {
            self.forget(number, |meter| meter.release(number));
        }
        let now: HashSet<&Scope> = budgets.iter().map(|(scope, ..)| scope).collect();
        let gone: Vec<Scope> = self.meter.scopes().filter(|scope| !now.contains(scope)).cloned().collect();
        for scope in gone {
            self.meter.set_budget(scope, None);
        }
        for (scope, budget, spent) in budgets {
            self.meter.set_budget(scope.clone(), Some(budget));
            self.meter.set_spent(&scope, spent);
        }
        // Who is lost has ended what it ran. What it holds stays set aside until it is back, and tells; nobody waits there.
        self.expects.retain(|node| acting.contains(node));
        let lost: Vec<NodeId> = self.lines.keys().filter(|node| !acting.contains(node)).copied().collect();
        for node in lost {
            self.end_line(node, removed.contains(&node));
        }
    }

    fn end_line(&mut self, node: NodeId, removed: bool) {
        let Some(line) = self.lines.get_mut(&node) else { return };
        (line.session, line.outbox) = (None, Vec::new());
        let ends = line.calls.values().copied().filter(|number| removed || !self.meter.is_granted(*number));
        for number in ends.collect::<Vec<_>>() {
            self.forget(number, |meter| meter.withdraw(number));
        }
        if removed {
            self.lines.remove(&node);
        }
    }

    fn forget(&mut self, number: u64, end: impl FnOnce(&mut Meter)) {
        end(&mut self.meter);
        if let Some((node, its)) = self.whose.remove(&number)
            && let Some(line) = self.lines.get_mut(&node)
        {
            line.calls.remove(&its);
        }
    }

    /// Takes in what a node tells, and returns the answer. `head` is where the ledger ends now.
    pub fn post(&mut self, node: NodeId, post: Post, head: u64) -> BankAnswer {
        let tell_all = BankAnswer::TellAll { term: self.term };
        if post.term != self.term {
            return tell_all;
        }
        let line = self.lines.entry(node).or_default();
        let in_order = line.session.is_some() && line.generation == post.generation && line.seq + 1 == post.seq;
        if post.whole {
            // An older life, or an older post that took its time, says nothing of what is now.
            if (post.generation, post.seq) <= (line.generation, line.seq) {
                return tell_all;
            }
            let another_life = line.generation != post.generation;
            (line.generation, line.seq, line.session) = (post.generation, post.seq, Some(post.seq));
            (line.outbox, line.said) = (Vec::new(), 0);
            let told: HashSet<u64> = post.calls.iter().map(|call| call.number).collect();
            let over = line.calls.iter().filter(|(its, _)| another_life || !told.contains(its));
            let over: Vec<_> = over.map(|(its, number)| (*its, *number)).collect();
            let landing: HashSet<u64> = self.landing.values().flatten().copied().collect();
            for (its, number) in over {
                // What has landed is not told any more, and stays until the view has it.
                if !landing.contains(&number) {
                    self.forget(number, |meter| meter.withdraw(number));
                } else if another_life {
                    self.whose.remove(&number);
                    if let Some(line) = self.lines.get_mut(&node) {
                        line.calls.remove(&its);
                    }
                }
            }
            if another_life {
                // What the life before wrote last.
                self.needs = self.needs.max(head);
            }
            self.expects.remove(&node);
        } else if in_order {
            line.seq = post.seq;
            line.outbox.retain(|said| said.at > post.heard);
            for its in post.gone {
                if let Some(number) = self.lines.get(&node).and_then(|line| line.calls.get(&its)).copied() {
                    self.forget(number, |meter| meter.withdraw(number));
                }
            }
        } else {
            line.session = None;
            return tell_all;
        }
        for call in post.calls {
            self.told(node, call);
        }
        self.hear(node)
    }

    fn told(&mut self, node: NodeId, call: CallState) {
        let CallState { number: its, agent, scopes, estimate, provider, rate, stage } = call;
        let ask = Ask { agent, scopes, estimate, provider, rate };
        let Some(line) = self.lines.get_mut(&node) else { return };
        let mut known = line.calls.get(&its).copied();
        if let Some(number) = known
            && !self.meter.is_granted(number)
            && stage != Stage::Waits
        {
            // It goes on already, by the word of another owner.
            self.forget(number, |meter| meter.withdraw(number));
            known = None;
        }
        let Some(line) = self.lines.get_mut(&node) else { return };
        match (known, stage) {
            (Some(number), Stage::Waits) if self.meter.is_granted(number) => line.say(its, Word::Granted),
            (Some(_), Stage::Waits | Stage::Granted) => {}
            (None, Stage::Waits) => match self.meter.ask(ask) {
                Some(number) => self.add(node, its, number),
                None => line.say(its, Word::Busy("too many calls wait for their turn".to_owned())),
            },
            // In the view already, by all that is known.
            (None, Stage::Landed(_, at)) if Some(at) <= self.cursor => {}
            (known, stage) => {
                let number = known.unwrap_or_else(|| {
                    let number = self.meter.restore(ask);
                    self.add(node, its, number);
                    number
                });
                match stage {
                    Stage::Waits | Stage::Granted => {}
                    Stage::Used(used) => self.meter.ended(number, used),
                    Stage::Settled(used) => self.forget(number, |meter| meter.settle(number, used)),
                    Stage::Landed(used, at) => {
                        self.meter.ended(number, used);
                        if Some(at) <= self.cursor {
                            self.forget(number, |meter| meter.release(number));
                        } else {
                            self.landing.entry(at).or_default().push(number);
                        }
                    }
                }
            }
        }
    }

    fn add(&mut self, node: NodeId, its: u64, number: u64) {
        self.whose.insert(number, (node, its));
        if let Some(line) = self.lines.get_mut(&node) {
            line.calls.insert(its, number);
        }
    }

    /// Returns why nobody goes on yet; `None` if calls may go on.
    pub fn waits_for(&self) -> Option<String> {
        if let Some(node) = self.expects.first() {
            return Some(format!("{node} has not told what its calls hold"));
        }
        (self.cursor < Some(self.needs)).then(|| "what was spent is not known yet".to_owned())
    }

    /// Lets go on whoever can; returns whether anyone was told, and after how long another look may help though nothing is told.
    pub fn look(&mut self, now: Instant) -> (bool, Option<Duration>) {
        if self.waits_for().is_some() {
            return (false, None);
        }
        let looked = self.meter.look(now);
        let told = !looked.verdicts.is_empty();
        for (number, verdict) in looked.verdicts {
            let Some((node, its)) = self.whose.get(&number).copied() else { continue };
            let word = match verdict {
                Verdict::Granted => Word::Granted,
                Verdict::Refused(why) => {
                    self.forget(number, |_| {});
                    Word::Refused(why)
                }
            };
            if let Some(line) = self.lines.get_mut(&node) {
                line.say(its, word);
            }
        }
        (told, looked.again)
    }

    /// Returns what was said to a node and it may not have heard.
    pub fn hear(&self, node: NodeId) -> BankAnswer {
        match self.lines.get(&node).and_then(|line| Some((line, line.session?))) {
            Some((line, session)) => BankAnswer::Heard { term: self.term, session, said: line.outbox.clone() },
            None => BankAnswer::TellAll { term: self.term },
        }
    }

    /// Forgets the words that a node has heard, up to this one.
    pub fn heard(&mut self, node: NodeId, session: u64, heard: u64) {
        if let Some(line) = self.lines.get_mut(&node).filter(|line| line.session == Some(session)) {
            line.outbox.retain(|said| said.at > heard);
        }
    }
}
