//! Keeps accounts, reservations and the queue of those who wait. Pure.
//!
//! For every account, what is spent and what is reserved together stay within its budget. What a call really used may be more
//! than was reserved for it; then the account is over by that, and by no more than one call's worth for each that was under way,
//! since nothing more is granted.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use hiveward_kernel::id::AgentId;

use super::rate::{Counted, Rate, RateLimit};
use crate::price::decimal_from_nanos;

/// The most calls of all agents that wait; one more is told to come back.
pub const WAITING_MAX: usize = 10_000;
/// The most calls of one agent that wait.
pub const WAITING_PER_AGENT_MAX: usize = 256;

/// The account of a scope that has a budget. Others have none: labels without an end must not fill the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub budget: Budget,
    /// The tokens spent since the budget was set.
    pub spent_tokens: u64,
    pub spent_nanos: u64,
    pub reserved_tokens: u64,
    pub reserved_nanos: u64,
}

/// A call that asks to be let in: whose it is, and for what.
#[derive(Clone, Debug)]
pub struct Ask {
    pub agent: AgentId,
    /// The scopes of which every one must have room; none for another try of a call that is reserved already.
    pub scopes: Vec<Scope>,
    pub estimate: Amount,
    /// The provider whose key is used. One name is one key, wherever it is used.
    pub provider: String,
    /// The limit of that key; no limit if absent.
    pub rate: Option<RateLimit>,
}

#[derive(Debug)]
struct Grant {
    scopes: Vec<Scope>,
    /// The amount that the call may use; from when it has ended, what it did.
    amount: Amount,
    provider: String,
    counted: Option<Counted>,
}

/// The decision on one who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// The call is refused for good; the sentence is for whoever asked.
    Refused(String),
}

/// The result of a look at the queue.
#[derive(Debug, Default)]
pub struct Looked {
    pub verdicts: Vec<(u64, Verdict)>,
    /// The time after which another look may help, though nothing is settled.
    pub again: Option<Duration>,
}

/// The accounts and the queue of one owner of budgets.
#[derive(Debug, Default)]
pub struct Meter {
    accounts: HashMap<Scope, Account>,
    rates: HashMap<String, Rate>,
    granted: HashMap<u64, Grant>,
    waiting: BTreeMap<u64, Ask>,
    /// The numbers of those who wait, by agent, oldest first.
    by_agent: HashMap<AgentId, VecDeque<u64>>,
    /// The agents in the order of their turns.
    turns: VecDeque<AgentId>,
    next: u64,
}

enum Fit {
    Now,
    /// The call fits later: others have reserved what it needs.
    Later(Scope),
    Never(String),
}

impl Meter {
    /// Sets or removes a budget. Changing it keeps what is spent; removing it forgets that.
    pub fn set_budget(&mut self, scope: Scope, budget: Option<Budget>) {
        let Some(budget) = budget else {
            self.accounts.remove(&scope);
            return;
        };
        if let Some(account) = self.accounts.get_mut(&scope) {
            account.budget = budget;
            return;
        }
        let mut account = Account { budget, ..Account::default() };
        for grant in self.granted.values().filter(|grant| grant.scopes.contains(&scope)) {
            account.reserve(grant.amount);
        }
        self.accounts.insert(scope, account);
    }

    /// Sets what was spent of a scope, wherever; does nothing for a scope without a budget.
    pub fn set_spent(&mut self, scope: &Scope, spent: Amount) {
        if let Some(account) = self.accounts.get_mut(scope) {
            account.spent_tokens = spent.tokens;
            account.spent_nanos = spent.nanos.unwrap_or(0);
        }
    }

    /// Iterates over the scopes that have an account.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.accounts.keys()
    }

    /// Tells whether a call was granted and is not settled or released yet.
    pub fn is_granted(&self, number: u64) -> bool {
        self.granted.contains_key(&number)
    }

    /// Takes in a call that was granted elsewhere: it goes on, whatever room there is. Returns its number.
    pub fn restore(&mut self, ask: Ask) -> u64 {
        let number = self.next;
        self.next += 1;
        self.reserve(number, Grant { scopes: ask.scopes, amount: ask.estimate, provider: ask.provider, counted: None });
        number
    }

    /// Notes that a call has ended and used so much. That stays set aside until it is released: somebody else adds up what is
    /// spent.
    pub fn ended(&mut self, number: u64, used: Amount) {
        let Some(grant) = self.granted.get_mut(&number) else { return };
        let before = std::mem::replace(&mut grant.amount, used);
        if let (Some(rate), Some(counted)) = (self.rates.get_mut(&grant.provider), grant.counted.take()) {
            rate.correct(counted, used.tokens);
        }
        for scope in &grant.scopes {
            if let Some(account) = self.accounts.get_mut(scope) {
                account.give_back(before);
                account.reserve(used);
            }
        }
    }

    /// Releases what a call had set aside: it is counted among what is spent now, by [`Self::set_spent`].
    pub fn release(&mut self, number: u64) {
        let Some(grant) = self.granted.remove(&number) else { return };
        for scope in &grant.scopes {
            if let Some(account) = self.accounts.get_mut(scope) {
                account.give_back(grant.amount);
            }
        }
    }

    /// Returns the account of a scope; `None` for one without a budget.
    pub fn account(&self, scope: &Scope) -> Option<Account> {
        self.accounts.get(scope).copied()
    }

    /// Takes a place in the queue; [`Self::look`] says what becomes of it. Returns `None` if too many wait already.
    pub fn ask(&mut self, ask: Ask) -> Option<u64> {
        let its = self.by_agent.get(&ask.agent).map_or(0, VecDeque::len);
        if self.waiting.len() >= WAITING_MAX || its >= WAITING_PER_AGENT_MAX {
            return None;
        }
        let number = self.next;
        self.next += 1;
        if its == 0 {
            self.turns.push_back(ask.agent);
        }
        self.by_agent.entry(ask.agent).or_default().push_back(number);
        self.waiting.insert(number, ask);
        Some(number)
    }

    /// Removes a call whose asker is not there any more; what it had reserved is given back.
    pub fn withdraw(&mut self, number: u64) {
        if self.waiting.contains_key(&number) {
            self.leave(number);
        } else {
            self.settle(number, Amount { tokens: 0, nanos: Some(0) });
        }
    }

    fn leave(&mut self, number: u64) -> Option<Ask> {
        let ask = self.waiting.remove(&number)?;
        if let Some(its) = self.by_agent.get_mut(&ask.agent) {
            its.retain(|other| *other != number);
            if its.is_empty() {
                self.by_agent.remove(&ask.agent);
                self.turns.retain(|agent| *agent != ask.agent);
            }
        }
        Some(ask)
    }

    /// Grants what fits, one of each agent in turn, and refuses what can never fit.
    ///
    /// Whoever does not fit now holds what it waits for: later ones that want some of the same wait behind it, so that a
    /// large call is not passed by small ones for ever.
    pub fn look(&mut self, now: Instant) -> Looked {
        let mut looked = Looked::default();
        let (mut held, mut held_rates) = (HashSet::new(), HashSet::new());
        let mut stuck = 0;
        while stuck < self.turns.len() {
            let Some(agent) = self.turns.pop_front() else { break };
            self.turns.push_back(agent);
            let Some(number) = self.by_agent.get(&agent).and_then(|its| its.front().copied()) else {
                self.turns.pop_back();
                continue;
            };
            let Some(ask) = self.waiting.get(&number) else { break };
            let verdict = match self.fit(ask) {
                Fit::Never(why) => Some(Verdict::Refused(why)),
                Fit::Later(scope) => {
                    held.insert(scope);
                    None
                }
                Fit::Now if ask.scopes.iter().any(|scope| held.contains(scope)) || held_rates.contains(&ask.provider) => None,
                Fit::Now => {
                    let admitted = ask.rate.map(|limit| {
                        let rate = self.rates.entry(ask.provider.clone()).or_default();
                        rate.limit = limit;
                        rate.admit(now, ask.estimate.tokens)
                    });
                    match admitted.transpose() {
                        Ok(counted) => {
                            let grant = Grant {
                                scopes: ask.scopes.clone(),
                                amount: ask.estimate,
                                provider: ask.provider.clone(),
                                counted,
                            };
                            self.reserve(number, grant);
                            Some(Verdict::Granted)
                        }
                        Err(wait) => {
                            held_rates.insert(ask.provider.clone());
                            looked.again = Some(looked.again.map_or(wait, |again| again.min(wait)));
                            None
                        }
                    }
                }
            };
            match verdict {
                Some(verdict) => {
                    self.leave(number);
                    looked.verdicts.push((number, verdict));
                    stuck = 0;
                }
                None => stuck += 1,
            }
        }
        looked
    }

    fn fit(&self, ask: &Ask) -> Fit {
        let mut later = None;
        for scope in &ask.scopes {
            let Some(account) = self.accounts.get(scope) else { continue };
            let budget = account.budget;
            let checks = [
                budget
                    .tokens
                    .map(|limit| (limit, account.spent_tokens, account.reserved_tokens, Some(ask.estimate.tokens), false)),
                budget.nanos.map(|limit| (limit, account.spent_nanos, account.reserved_nanos, ask.estimate.nanos, true)),
            ];
            for (limit, spent, reserved, wanted, money) in checks.into_iter().flatten() {
                let Some(wanted) = wanted else {
                    return Fit::Never(format!(
                        "the budget of {scope} is in money and this model has no price: set one in `models.prices`"
                    ));
                };
                let wanted_and_spent = spent.saturating_add(wanted);
                if wanted_and_spent > limit {
                    return Fit::Never(over(scope, limit, spent, wanted, money));
                }
                if wanted_and_spent.saturating_add(reserved) > limit {
                    later.get_or_insert_with(|| scope.clone());
                }
            }
        }
        later.map_or(Fit::Now, Fit::Later)
    }

    fn reserve(&mut self, number: u64, grant: Grant) {
        for scope in &grant.scopes {
            if let Some(account) = self.accounts.get_mut(scope) {
                account.reserve(grant.amount);
            }
        }
        self.granted.insert(number, grant);
    }

    /// Gives back what was reserved, and counts what was used as spent. Once: repeating it does nothing.
    pub fn settle(&mut self, number: u64, used: Amount) {
        let Some(grant) = self.granted.remove(&number) else { return };
        if let (Some(rate), Some(counted)) = (self.rates.get_mut(&grant.provider), grant.counted) {
            rate.correct(counted, used.tokens);
        }
        for scope in &grant.scopes {
            let Some(account) = self.accounts.get_mut(scope) else { continue };
            account.give_back(grant.amount);
            account.spent_tokens = account.spent_tokens.saturating_add(used.tokens);
            // Where it is not known what it cost, it counts as what it may have cost.
            account.spent_nanos = account.spent_nanos.saturating_add(used.nanos.or(grant.amount.nanos).unwrap_or(0));
        }
    }
}

impl Account {
    fn reserve(&mut self, amount: Amount) {
        self.reserved_tokens = self.reserved_tokens.saturating_add(amount.tokens);
        self.reserved_nanos = self.reserved_nanos.saturating_add(amount.nanos.unwrap_or(0));
    }

    fn give_back(&mut self, amount: Amount) {
        self.reserved_tokens = self.reserved_tokens.saturating_sub(amount.tokens);
        self.reserved_nanos = self.reserved_nanos.saturating_sub(amount.nanos.unwrap_or(0));
    }
}

fn over(scope: &Scope, limit: u64, spent: u64, wanted: u64, money: bool) -> String {
    let shown = |number: u64| if money { decimal_from_nanos(number) } else { number.to_string() };
    let unit = if money { "of the currency" } else { "tokens" };
    let raise = match scope {
        Scope::Attempt(_) => "raise the limit in the agent's profile",
        Scope::Agent(_) | Scope::Swarm(_) | Scope::Label(_) => "raise the budget",
    };
    format!(
        "the budget of {scope} is {} {unit}, {} are spent, and this call may use up to {}: {raise}, or ask for less",
        shown(limit),
        shown(spent),
        shown(wanted)
    )
}
