//! Keeps what this node used and has not heard back from the ledger yet.
//!
//! A finished call is written behind: it waits here, in order, until it is in the ledger and in this node's view of it. What is
//! spent is what the view says and what waits here, together, at every moment. The stream of a node is written by that node
//! alone, so the version that each call gets in it is known as soon as it waits: whatever became of an append whose answer was
//! lost, nothing is written twice and nothing is left out.
//!
//! When [`WAITING_MAX`] calls wait, because nothing can be committed or the views stand still, new calls are told to come back;
//! those under way are still taken in. What waits when the process is killed is lost.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use hiveward_catalogue::budget::{Amount, Scope};
use hiveward_runtime::{error::Refused, id::Key};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    event::{ModelUsed, UsageEvent},
    table::UsageTable,
};

/// The most calls that wait; beyond them no new call is let in.
pub const WAITING_MAX: usize = 65_536;

/// The books of a node. They are cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Books(Arc<Inner>);

#[derive(Default)]
struct Inner {
    shelf: Mutex<Shelf>,
    rung: Notify,
}

#[derive(Default)]
struct Shelf {
    /// The view and the node's stream. Absent on a node that keeps none: then nothing waits here.
    view: Option<(UsageTable, Key)>,
    /// Whether the view is as far as the ledger was when this node started.
    caught_up: bool,
    queue: Queue,
}

struct Waiting {
    /// The number of the call where it is set aside.
    number: Option<u64>,
    body: Bytes,
    scopes: Vec<Scope>,
    amount: Amount,
}

/// The queue of calls that wait. Pure. Versions are those of the stream; before the first claim they are counted from 0.
#[derive(Default)]
struct Queue {
    claimed: bool,
    /// The version of the last event before the first call that waits.
    base: u64,
    waiting: VecDeque<Waiting>,
    /// The version up to which calls were handed over to be committed.
    handed: u64,
    /// The numbers of calls that do not wait any more, of which whoever set something aside for them has not been told.
    landed: Vec<u64>,
}

impl Queue {
    /// Notes that a new life of the stream begins after `version`; what is beyond it was not written, and what was up to it is.
    fn claim(&mut self, version: u64) {
        if !self.claimed {
            (self.claimed, self.base) = (true, version);
        }
        self.handed = version.max(self.base);
    }

    fn take(&mut self, most: usize) -> Vec<Bytes> {
        let from = usize::try_from(self.handed - self.base).unwrap_or(usize::MAX);
        let bodies: Vec<_> = self.waiting.iter().skip(from).take(most).map(|waiting| waiting.body.clone()).collect();
        self.handed += bodies.len() as u64;
        bodies
    }

    fn heard(&mut self, applied: u64) {
        while self.claimed
            && self.base < applied
            && let Some(landed) = self.waiting.pop_front()
        {
            self.base += 1;
            self.landed.extend(landed.number);
        }
        self.handed = self.handed.max(self.base);
    }

    fn spent(&self, scope: &Scope) -> Amount {
        let mut sum = Amount { tokens: 0, nanos: Some(0) };
        for waiting in self.waiting.iter().filter(|waiting| waiting.scopes.contains(scope)) {
            sum.add(waiting.amount);
        }
        sum
    }
}

impl Books {
    /// Opens the books: from here on what is used waits for the ledger.
    pub fn open(&self, view: UsageTable, stream: Key) {
        self.0.shelf.lock().view = Some((view, stream));
    }

    /// Notes that the view is as far as the ledger was when this node started; until then no call may be made.
    pub fn caught_up(&self) {
        self.0.shelf.lock().caught_up = true;
    }

    /// Returns why no call may be made now; `None` if calls may be made.
    pub fn closed(&self) -> Option<&'static str> {
        let shelf = self.0.shelf.lock();
        match &shelf.view {
            Some(_) if !shelf.caught_up => Some("this node starts and does not know yet what was spent"),
            Some(_) if shelf.queue.waiting.len() >= WAITING_MAX => Some("what models used cannot be recorded now"),
            _ => None,
        }
    }

    /// Takes in a call. `settle` happens with it: nobody sees one without the other. It is told whether the call will be in
    /// the ledger, and gives its number, to be heard of from [`Self::take_landed`] then.
    pub fn used(&self, used: ModelUsed, settle: impl FnOnce(bool) -> Option<u64>) {
        let mut shelf = self.0.shelf.lock();
        let amount = Amount { tokens: used.usage.tokens(), nanos: Some(used.counted_nanos) };
        let scopes = used.scopes();
        let body = shelf.view.is_some().then(|| UsageEvent::ModelUsed(Box::new(used)).encode());
        match body {
            Some(Ok(body)) => {
                let number = settle(true);
                shelf.queue.waiting.push_back(Waiting { number, body, scopes, amount });
            }
            Some(Err(error)) => {
                tracing::error!(%error, "what a call of a model used cannot be written");
                settle(false);
            }
            None => drop(settle(false)),
        }
        drop(shelf);
        self.0.rung.notify_one();
    }

    /// Tells `know` what is spent of each scope, by the view and by what waits, before more is used. Without a view it tells
    /// nothing. Errors: the view cannot be read.
    pub fn spent(&self, scopes: &[Scope], know: impl FnOnce(Vec<Amount>)) -> Result<(), Refused> {
        let Some((view, stream)) = self.0.shelf.lock().view.clone() else { return Ok(()) };
        let mut heard = view.heard(&stream, scopes)?;
        let mut shelf = self.0.shelf.lock();
        shelf.queue.heard(heard.applied);
        for (scope, spent) in scopes.iter().zip(&mut heard.spent) {
            spent.add(shelf.queue.spent(scope));
        }
        know(heard.spent);
        Ok(())
    }

    /// Returns the numbers of calls that are in the ledger and in this node's view now, each once. Errors: the view cannot be
    /// read; the numbers then come later.
    pub fn take_landed(&self) -> Result<Vec<u64>, Refused> {
        self.spent(&[], |_| {})?;
        Ok(std::mem::take(&mut self.0.shelf.lock().queue.landed))
    }

    /// Notes that a life of the stream begins after `version`.
    pub fn claimed(&self, version: u64) {
        self.0.shelf.lock().queue.claim(version);
    }

    /// Returns the next bodies to be committed, in order, and counts them as handed over.
    pub fn take(&self, most: usize) -> Vec<Bytes> {
        self.0.shelf.lock().queue.take(most)
    }

    /// Counts the calls that are not in the ledger and the view yet.
    pub fn waiting(&self) -> usize {
        self.0.shelf.lock().queue.waiting.len()
    }

    /// Waits until something may have been added. Dropping the future loses no such news.
    pub async fn rung(&self) {
        self.0.rung.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use hiveward_kernel::id::AgentId;

    use super::*;

    fn push(queue: &mut Queue, n: u8) {
        let scopes = vec![Scope::Agent(AgentId::from_u128(1))];
        let amount = Amount { tokens: u64::from(n), nanos: Some(0) };
        queue.waiting.push_back(Waiting { number: Some(n.into()), body: Bytes::from(vec![n]), scopes, amount });
    }

    fn taken(queue: &mut Queue) -> Vec<u8> {
        queue.take(usize::MAX).iter().map(|body| body[0]).collect()
    }

    #[test]
    fn after_an_append_whose_answer_was_lost_the_rest_is_written_and_nothing_twice() {
        for landed in 0..=3 {
            let mut queue = Queue::default();
            (1..=3).for_each(|n| push(&mut queue, n));
            queue.claim(10);
            assert_eq!(taken(&mut queue), [1, 2, 3]);
            push(&mut queue, 4);
            // The view may be ahead of the answer, and tells some of it.
            queue.heard(10 + landed / 2);
            queue.claim(10 + landed);
            let rest: Vec<u8> = (1..=4).skip(usize::try_from(landed).unwrap()).collect();
            assert_eq!(taken(&mut queue), rest, "{landed} had landed");
        }
    }

    #[test]
    fn what_the_view_has_is_not_counted_a_second_time() {
        let (mut queue, scope) = (Queue::default(), Scope::Agent(AgentId::from_u128(1)));
        (1..=3).for_each(|n| push(&mut queue, n));
        // Of lives before this one: none of it waits here.
        queue.heard(7);
        assert_eq!(queue.spent(&scope).tokens, 6);
        queue.claim(7);
        queue.heard(7);
        assert_eq!(queue.spent(&scope).tokens, 6);
        queue.heard(9);
        assert_eq!(queue.spent(&scope).tokens, 3);
        assert_eq!(taken(&mut queue), [3]);
        queue.heard(20);
        assert_eq!(queue.waiting.len(), 0);
        assert_eq!(queue.landed, [1, 2, 3]);
    }
}
