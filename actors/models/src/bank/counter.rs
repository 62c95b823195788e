//! Counts for a node: its calls go on or wait here, and what is new goes to the owner of budgets.
//!
//! On the node that leads both are in one place, and a call asks no other task. Elsewhere `keeper` carries the posts.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use hiveward_runtime::op::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    state::{Bank, Known},
    teller::Teller,
    wire::{BankAnswer, Post, Word},
};
use crate::meter::{Account, Ask, NotGranted, WAIT_MAX};

/// The counter of a node. It is cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Counter(Arc<Inner>);

struct Inner {
    teller: Mutex<Teller>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Word>>>,
    /// The owner's side, where this node is the owner.
    bank: Mutex<Option<Bank>>,
    house: OnceLock<House>,
    /// The bell that rings when something is to be posted to another node.
    news: Notify,
    /// The bell that rings when calls wait for another node's word.
    waits: Notify,
    /// The number that counts up when something was said to other nodes.
    said: watch::Sender<u64>,
    /// The bell that rings when a look may help, or help at another time than before.
    looked_for: Notify,
}

/// The facts that the counter knows of its node; absent where there is no node.
pub(super) struct House {
    pub me: NodeId,
    /// Tells whether this node may act, by its lease.
    pub may_act: Box<dyn Fn() -> bool + Send + Sync>,
    /// Returns where the ledger ends.
    pub head: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Returns what the owner must know, once its directory is at least this far; none if it cannot be read now.
    pub known: Box<dyn Fn(u64, Freshness) -> Option<Known> + Send + Sync>,
}

/// How new the owner's knowledge must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// A look at everything, which may have changed.
    Look,
    /// A look only if budgets changed since this cursor.
    SinceBudgets(u64),
}

/// The amount that was set aside for a call. Dropping it says that nothing was used, unless it ended before.
pub struct Hold {
    counter: Counter,
    number: u64,
    estimate: Amount,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("number", &self.number).field("estimate", &self.estimate).finish_non_exhaustive()
    }
}

impl Hold {
    /// Returns the most that the call may use.
    pub fn estimate(&self) -> Amount {
        self.estimate
    }

    /// Notes that the call ended, and returns its number, of which [`Counter::landed`] will be told if it is `recorded`. The
    /// owner
    /// hears of it when this is dropped.
    pub fn ended(&self, used: Amount, recorded: bool) -> u64 {
        self.counter.0.teller.lock().used(self.number, used, recorded);
        self.number
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.counter.0.waiting.lock().remove(&self.number);
        self.counter.0.teller.lock().gone(self.number);
        self.counter.pump();
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

impl Counter {
    /// Makes a counter that is its own owner until it is given to a node.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            teller: Mutex::new(Teller::new(1)),
            waiting: Mutex::default(),
            bank: Mutex::new(Some(Bank::alone())),
            house: OnceLock::new(),
            news: Notify::new(),
            waits: Notify::new(),
            said: watch::Sender::new(0),
            looked_for: Notify::new(),
        }))
    }

    /// Gives the counter to a node: from here on it goes by what the node says of owners and budgets. No call is under way yet.
    pub(super) fn open(&self, house: House, generation: u64) {
        if self.0.house.set(house).is_ok() {
            *self.0.teller.lock() = Teller::new(generation);
            *self.0.bank.lock() = None;
        }
    }

    fn me(&self) -> NodeId {
        self.0.house.get().map_or(NodeId::from_u128(0), |house| house.me)
    }

    fn may_act(&self) -> bool {
        self.0.house.get().is_none_or(|house| (house.may_act)())
    }

    /// Waits until a call may be made, for four minutes at most. Dropping the future leaves the queue.
    /// Errors: `Refused` for good, by a budget; `Busy` if there was no room in time or too many wait.
    pub async fn hold(&self, ask: Ask) -> Result<Hold, NotGranted> {
        let (estimate, provider) = (ask.estimate, ask.provider.clone());
        let (told, mut hears) = oneshot::channel();
        let (number, goes_on) = {
            let mut teller = self.0.teller.lock();
            let (number, goes_on) = teller.begin(ask);
            if !goes_on {
                self.0.waiting.lock().insert(number, told);
            }
            (number, goes_on)
        };
        // From here on, whoever stops waiting leaves the queue.
        let hold = Hold { counter: self.clone(), number, estimate };
        if goes_on {
            return Ok(hold);
        }
        self.pump();
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rates pass with time: on the node that keeps them somebody has to look.
            let again = self.look().map_or(left, |again| again.min(left));
            let word = tokio::select! {
                biased;
                word = &mut hears => Some(word),
                () = tokio::time::sleep(again) => None,
            };
            match word {
                Some(Ok(Word::Granted)) => return Ok(hold),
                Some(Ok(Word::Refused(why))) => return Err(NotGranted::Refused(why)),
                Some(Ok(Word::Busy(why))) => return Err(NotGranted::Busy(why)),
                // Nobody will say anything any more: the counter is gone.
                Some(Err(_)) => return Err(NotGranted::Busy("this node is stopping".to_owned())),
                None if Instant::now() >= deadline => return Err(NotGranted::Busy(self.why_late(&provider))),
                None => {}
            }
        }
    }

    fn why_late(&self, provider: &str) -> String {
        let within = WAIT_MAX.as_secs();
        if let Some(why) = self.0.bank.lock().as_ref().and_then(Bank::waits_for) {
            return format!("budgets were not decided on within {within} s: {why}");
        }
        if !self.0.teller.lock().is_known_to_the_owner() {
            return format!("the node that leads, which keeps the budgets, was not reached within {within} s");
        }
        format!(
            "no room within {within} s: others have reserved what is left of a budget, or provider {provider} is at its limit"
        )
    }

    /// Notes that what these calls used is in the ledger, at or before the cursor.
    pub fn landed(&self, numbers: &[u64], cursor: u64) {
        {
            let mut teller = self.0.teller.lock();
            numbers.iter().for_each(|number| teller.landed(*number, cursor));
        }
        self.pump();
    }

    /// Tells the owner what is new: here at once, elsewhere by the task that posts. Does nothing while this node may not act.
    pub fn pump(&self) {
        loop {
            if !self.may_act() {
                return;
            }
            if self.0.bank.lock().is_none() {
                self.0.news.notify_one();
                return;
            }
            let Some(post) = self.0.teller.lock().post() else { break };
            let answer = self.take_in(self.me(), post.clone());
            let words = self.0.teller.lock().answered(&post, Some(answer));
            self.tell(words);
        }
        self.look();
    }

    fn tell(&self, words: Vec<(u64, Word)>) {
        let mut waiting = self.0.waiting.lock();
        for (number, word) in words {
            if let Some(told) = waiting.remove(&number) {
                // Who does not hear it has left, and gives back by that what was set aside.
                let _ = told.send(word);
            }
        }
    }

    /// Takes in a post and returns the owner's answer; `NotLeading` if the owner is not here.
    pub(super) fn take_in(&self, node: NodeId, post: Post) -> BankAnswer {
        let mut bank = self.0.bank.lock();
        let Some(bank) = bank.as_mut() else { return BankAnswer::NotLeading };
        let mut head = 0;
        if let Some(house) = self.0.house.get() {
            head = (house.head)();
            if let Some(known) = (house.known)(post.directory, Freshness::SinceBudgets(bank.budgets_known())) {
                bank.know(known);
            }
        }
        let answer = bank.post(node, post, head);
        self.0.looked_for.notify_one();
        answer
    }

    /// Lets go on whoever can; returns after how long to look again.
    pub(super) fn look(&self) -> Option<Duration> {
        if !self.may_act() {
            return None;
        }
        let me = self.me();
        let ((told, again), mine) = {
            let mut bank = self.0.bank.lock();
            let bank = bank.as_mut()?;
            (bank.look(Instant::now()), bank.hear(me))
        };
        if matches!(&mine, BankAnswer::Heard { said, .. } if !said.is_empty()) {
            let (words, heard) = {
                let mut teller = self.0.teller.lock();
                (teller.hears(Some(mine)), teller.has_heard())
            };
            self.tell(words);
            // Only what it has really taken in: what came while everything was being told is said once more.
            if let (Some((session, heard)), Some(bank)) = (heard, self.0.bank.lock().as_mut()) {
                bank.heard(me, session, heard);
            }
        }
        if told {
            self.0.said.send_modify(|said| *said += 1);
        }
        again
    }

    /// Returns what the owner has to say to a node that has heard so much.
    pub(super) fn say_to(&self, node: NodeId, term: u64, session: u64, heard: u64) -> BankAnswer {
        let mut bank = self.0.bank.lock();
        match bank.as_mut() {
            Some(bank) if bank.term() == term => {
                bank.heard(node, session, heard);
                bank.hear(node)
            }
            _ => BankAnswer::NotLeading,
        }
    }

    pub(super) fn said(&self) -> watch::Receiver<u64> {
        self.0.said.subscribe()
    }

    pub(super) fn news(&self) -> &Notify {
        &self.0.news
    }

    pub(super) fn looked_for(&self) -> &Notify {
        &self.0.looked_for
    }

    /// Makes this node the owner while it leads, else none.
    pub(super) fn lead(&self, term: u64, leads: Option<(u64, BTreeSet<NodeId>)>) {
        self.0.teller.lock().turn_to(term);
        {
            let mut bank = self.0.bank.lock();
            match leads {
                Some(_) if bank.as_ref().is_some_and(|bank| bank.term() == term) => {}
                Some((needs, expects)) => *bank = Some(Bank::new(term, needs, expects)),
                None => *bank = None,
            }
        }
        self.refresh();
    }

    /// Has the owner look at what is spent and which budgets there are.
    pub(crate) fn refresh(&self) {
        if let Some(house) = self.0.house.get()
            && let Some(bank) = self.0.bank.lock().as_mut()
            && let Some(known) = (house.known)(0, Freshness::Look)
        {
            bank.know(known);
        }
        self.pump();
        self.0.looked_for.notify_one();
    }

    /// Sets which scopes have budgets, as far as this node has heard.
    pub(crate) fn know(&self, budgets: HashSet<Scope>, directory: u64) {
        self.0.teller.lock().know(budgets, directory);
        self.pump();
    }

    /// Returns the next post to another node, if this node is not the owner.
    pub(super) fn post(&self) -> Option<Post> {
        if self.0.bank.lock().is_some() || !self.may_act() {
            return None;
        }
        self.0.teller.lock().post()
    }

    pub(super) fn answered(&self, post: &Post, answer: Option<BankAnswer>) {
        // Whose lease is over believes nobody: another owner may count it as gone.
        let answer = answer.filter(|_| self.may_act());
        let words = self.0.teller.lock().answered(post, answer);
        self.tell(words);
        if self.to_hear().is_some() {
            self.0.waits.notify_one();
        }
    }

    pub(super) fn waits(&self) -> &Notify {
        &self.0.waits
    }

    pub(super) fn to_hear(&self) -> Option<(u64, u64, u64)> {
        self.0.teller.lock().to_hear()
    }

    pub(super) fn hears(&self, answer: Option<BankAnswer>) {
        let answer = answer.filter(|_| self.may_act());
        let words = self.0.teller.lock().hears(answer);
        self.tell(words);
    }

    /// Tells whether calls for this scope ask the owner first, because this node has heard of its budget.
    pub fn asks_for(&self, scope: &Scope) -> bool {
        self.0.teller.lock().asks_for(scope)
    }

    /// Counts the calls that go on and have not ended.
    pub fn under_way(&self) -> usize {
        self.0.teller.lock().under_way()
    }

    /// Returns what is set aside for calls of this scope that are under way on this node.
    pub fn reserved(&self, scope: &Scope) -> Amount {
        self.0.teller.lock().reserved(scope)
    }

    /// Returns the account as the owner counts it; `None` elsewhere, and for a scope without a budget.
    pub fn account(&self, scope: &Scope) -> Option<Account> {
        self.0.bank.lock().as_ref()?.account(scope)
    }

    /// Sets a budget of a counter that belongs to no node: nothing is recorded there, and it counts by itself.
    pub fn set_budget(&self, scope: Scope, budget: Option<Budget>) {
        {
            let mut teller = self.0.teller.lock();
            if let Some(bank) = self.0.bank.lock().as_mut() {
                bank.set_budget(scope, budget);
                teller.know(bank.scopes(), 0);
            }
        }
        self.pump();
    }
}
