//! Lets calls in: waits for the meter's word, and settles whatever happens to the call.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::state::{Account, Ask, Meter, Verdict};

/// The longest time that a call waits; one that was not let through by then is told to come back.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(240);

/// The way in for calls. It is cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    meter: Meter,
    waiting: HashMap<u64, oneshot::Sender<Verdict>>,
}

/// The reason why a call may not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotGranted {
    /// The call is refused for good.
    Refused(String),
    /// The call may be made in a while.
    Busy(String),
}

/// The amount that was set aside for a call. Dropping it says that nothing was used.
#[derive(Debug)]
pub struct Reservation {
    gate: Gate,
    number: u64,
}

impl Gate {
    /// Waits until there is room for a call, for four minutes at most. Dropping the future leaves the queue.
    /// Errors: `Refused` for good, by a budget; `Busy` if there was no room in time or too many wait.
    pub async fn reserve(&self, ask: Ask) -> Result<Reservation, NotGranted> {
        let (told, mut hears) = oneshot::channel();
        let number = {
            let mut inner = self.0.lock();
            let number = inner.meter.ask(ask);
            let number = number.ok_or_else(|| NotGranted::Busy("too many calls wait for their turn on this node".to_owned()))?;
            inner.waiting.insert(number, told);
            number
        };
        // From here on, whoever stops waiting leaves the queue.
        let reservation = Reservation { gate: self.clone(), number };
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let again = self.look();
            let left = deadline.saturating_duration_since(Instant::now());
            let pause = again.map_or(left, |again| again.min(left));
            let verdict = tokio::select! {
                biased;
                verdict = &mut hears => verdict.ok(),
                () = tokio::time::sleep(pause) => None,
            };
            match verdict {
                Some(Verdict::Granted) => return Ok(reservation),
                Some(Verdict::Refused(why)) => return Err(NotGranted::Refused(why)),
                None if Instant::now() >= deadline => {
                    let why = format!("no room within {} s: others have reserved what is left of a budget", WAIT_MAX.as_secs());
                    return Err(NotGranted::Busy(why));
                }
                None => {}
            }
        }
    }

    /// Tells those whose turn it is; returns after how long to look again.
    fn look(&self) -> Option<Duration> {
        let mut inner = self.0.lock();
        let looked = inner.meter.look(Instant::now());
        for (number, verdict) in looked.verdicts {
            if let Some(told) = inner.waiting.remove(&number) {
                // Who does not hear it has left, and its reservation is given back by that.
                let _ = told.send(verdict);
            }
        }
        looked.again
    }

    /// Sets or removes a budget; what is spent of it is kept, and forgotten with it.
    pub fn set_budget(&self, scope: Scope, budget: Option<Budget>) {
        self.0.lock().meter.set_budget(scope, budget);
        self.look();
    }

    /// Sets what was spent of scopes, and their budgets with it.
    pub fn know(&self, known: impl IntoIterator<Item = (Scope, Budget, Amount)>) {
        {
            let mut inner = self.0.lock();
            for (scope, budget, spent) in known {
                inner.meter.set_budget(scope.clone(), Some(budget));
                inner.meter.set_spent(&scope, spent);
            }
        }
        self.look();
    }

    /// Returns the account of a scope; `None` for one without a budget.
    pub fn account(&self, scope: &Scope) -> Option<Account> {
        self.0.lock().meter.account(scope)
    }
}

impl Reservation {
    /// Gives back what was reserved, and counts what was used as spent.
    pub fn settle(self, used: Amount) {
        self.gate.0.lock().meter.settle(self.number, used);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        {
            let mut inner = self.gate.0.lock();
            inner.meter.withdraw(self.number);
            inner.waiting.remove(&self.number);
        }
        self.gate.look();
    }
}
