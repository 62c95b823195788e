//! The way in for calls: waits for the meter's word, and settles whatever happens to the call.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::state::{Account, Ask, Meter, Verdict};

/// A call that was not let through by then is told to come back.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(240);

/// Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    meter: Meter,
    waiting: HashMap<u64, oneshot::Sender<Verdict>>,
}

/// Why a call may not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotGranted {
    /// For good.
    Refused(String),
    /// It may be in a while.
    Busy(String),
}

/// What was set aside for a call. Dropping it says that nothing was used.
#[derive(Debug)]
pub struct Reservation {
    gate: Gate,
    number: u64,
}

impl Gate {
    /// Waits until there is room for it.
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

    /// Tells those whose turn it is; says when to look again.
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

    pub fn set_budget(&self, scope: Scope, budget: Option<Budget>) {
        self.0.lock().meter.set_budget(scope, budget);
        self.look();
    }

    /// Sets what was spent, and the budget with it.
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

    /// None of a scope without a budget.
    pub fn account(&self, scope: &Scope) -> Option<Account> {
        self.0.lock().meter.account(scope)
    }
}

impl Reservation {
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
