//! The way to speak to actors: bounded admission, and asks that always end by a deadline.
//!
//! An actor's mailbox in the actor library is unbounded; here every message is counted in and out, and one too many is refused
//! with `Busy` and given back. What an actor had not handled when it died is dropped, and the asker hears so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, ActorStatus as CellStatus, MessagingErr};
use tokio::sync::{Notify, futures::OwnedNotified, oneshot};

use crate::{
    clock::Deadline,
    error::{Code, Refused},
    op::{Asker, Terms},
};

/// The envelope in which a message travels through the actor library's mailbox.
pub(crate) enum Envelope<M> {
    User(M),
    /// A request for the actor's snapshot of its state.
    // Boxed, as the next one: what is rare must not make every message larger.
    Observe(Box<(oneshot::Sender<serde_json::Value>, Ticket)>),
    /// A task of this life panicked: the life ends. At most one per task.
    #[allow(clippy::box_collection)] // A pointer's size, for the same reason.
    TaskFailed(Box<String>),
}

/// One place in a bounded number of requests that go past the mailbox's bound. Dropping it gives the place back.
pub(crate) struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let ticket = Self(taken.clone());
        // Counted before it is compared: the drop below gives it back.
        (taken.fetch_add(1, Ordering::Relaxed) < max).then_some(ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The largest number of callers that look into one actor at the same time.
const OBSERVERS_MAX: usize = 16;
/// The pause between tries to deliver a message that must come in, while the mailbox is full.
const DELIVER_AGAIN_AFTER: Duration = Duration::from_millis(5);

impl<M: Send + 'static> ractor::Message for Envelope<M> {}

/// A value on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Line<T>(T);

/// The number of messages that were admitted and not begun. Senders write one line and the actor the other, so that neither waits
/// for the other at every message. Both counts only grow, except that a refused message is taken off again.
#[derive(Default)]
pub(crate) struct Depth {
    admitted: Line<Admitted>,
    begun: Line<AtomicUsize>,
}

#[derive(Default)]
struct Admitted {
    count: AtomicUsize,
    /// The value of `begun` as a sender last saw it; it is never more than the true one.
    begun: AtomicUsize,
}

impl Depth {
    /// Counts one message in unless `bound` are there.
    fn admit(&self, bound: usize) -> bool {
        let admitted = &self.admitted.0;
        let before = admitted.count.fetch_add(1, Ordering::Relaxed);
        if before.saturating_sub(admitted.begun.load(Ordering::Relaxed)) < bound {
            return true;
        }
        let begun = self.begun.0.load(Ordering::Relaxed);
        admitted.begun.store(begun, Ordering::Relaxed);
        let fits = before.saturating_sub(begun) < bound;
        if !fits {
            self.withdraw();
        }
        fits
    }

    fn withdraw(&self) {
        self.admitted.0.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one message as begun. Only the actor itself calls this, so there is one writer.
    pub(crate) fn begin(&self) {
        let begun = &self.begun.0;
        begun.store(begun.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Returns how many messages were begun since the mailbox was made.
    pub(crate) fn begun(&self) -> usize {
        self.begun.0.load(Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> usize {
        // In this order, so that a message begun in between is not counted as negative.
        let begun = self.begun.0.load(Ordering::Relaxed);
        self.admitted.0.count.load(Ordering::Relaxed).saturating_sub(begun)
    }
}

pub(crate) struct Mailbox<M: Send + 'static> {
    actor: ActorRef<Envelope<M>>,
    depth: Arc<Depth>,
    bound: usize,
    observers: Arc<AtomicUsize>,
}

impl<M: Send + 'static> Mailbox<M> {
    fn is_alive(&self) -> bool {
        matches!(
            self.actor.get_status(),
            CellStatus::Unstarted | CellStatus::Starting | CellStatus::Running | CellStatus::Upgrading
        )
    }

    #[inline]
    fn tell(&self, msg: M) -> Result<(), TellError<M>> {
        if !self.depth.admit(self.bound) {
            return Err(if self.is_alive() { TellError::Busy(msg) } else { TellError::Gone(msg) });
        }
        match self.actor.send_message(Envelope::User(msg)) {
            Ok(()) => Ok(()),
            Err(MessagingErr::SendErr(Envelope::User(msg))) => {
                self.depth.withdraw();
                Err(TellError::Gone(msg))
            }
            // The library gives every refused message back; these have none to give.
            Err(_) => Ok(()),
        }
    }

    /// Puts a question into the mailbox and returns the channel on which its answer will come.
    fn put<T: Send + 'static>(&self, terms: Terms, make: impl FnOnce(Reply<T>) -> M) -> Result<oneshot::Receiver<T>, CallError> {
        let (to, answer) = oneshot::channel();
        match self.tell(make(Reply { to: To::Here(to), terms })) {
            Ok(()) => Ok(answer),
            Err(TellError::Busy(_)) => Err(CallError::Busy),
            Err(TellError::Gone(_)) => Err(CallError::Gone),
        }
    }
}

/// One life of an actor. Cheap to clone; holding it does not keep the actor alive.
pub struct Addr<M: Send + 'static>(Arc<Mailbox<M>>);

impl<M: Send + 'static> Clone for Addr<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The reason why a message was not delivered, with the message itself.
pub enum TellError<M> {
    /// The mailbox is full. A retry later is safe.
    Busy(M),
    /// This life is over.
    Gone(M),
}

impl<M> std::fmt::Debug for TellError<M> {
    /// Writes the reason without the message, which may hold what must not be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Busy(_) => "Busy",
            Self::Gone(_) => "Gone",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("its mailbox is full; nothing happened")]
    Busy,
    #[error("it is not running; nothing happened")]
    Gone,
    /// The actor died, or dropped the question, before it answered.
    #[error("it died before it answered; it may have happened")]
    Dropped,
    #[error("no answer within {waited_ms} ms; it may have happened")]
    Expired { waited_ms: u64 },
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        let code = match error {
            CallError::Busy => Code::Busy,
            CallError::Gone => Code::Unavailable,
            CallError::Dropped | CallError::Expired { .. } => Code::UnknownOutcome,
        };
        Self::new(code, error.to_string())
    }
}

/// The way back to the asker. Dropping it tells the asker that there will be no answer.
pub struct Reply<T> {
    to: To<T>,
    terms: Terms,
}

enum To<T> {
    Here(oneshot::Sender<T>),
    Elsewhere(Elsewhere<T>),
}

/// A function that is called once: with the answer, or with `None` when the reply is dropped.
type Settle<T> = Box<dyn FnOnce(Option<T>) + Send>;

struct Elsewhere<T>(Option<Settle<T>>);

impl<T> Drop for Elsewhere<T> {
    fn drop(&mut self) {
        if let Some(settle) = self.0.take() {
            settle(None);
        }
    }
}

impl<T> Reply<T> {
    /// Makes a reply whose answer leaves this process. `settle` is called once, with `None` if there will be no answer, and must
    /// not block.
    pub(crate) fn elsewhere(terms: Terms, settle: Settle<T>) -> Self {
        Self { to: To::Elsewhere(Elsewhere(Some(settle))), terms }
    }

    /// Sends the answer. It is dropped if the asker has given up meanwhile.
    pub fn answer(self, value: T) {
        match self.to {
            To::Here(to) => {
                let _ = to.send(value);
            }
            To::Elsewhere(mut elsewhere) => {
                if let Some(settle) = elsewhere.0.take() {
                    settle(Some(value));
                }
            }
        }
    }

    /// Returns the moment until which the asker waits.
    pub fn deadline(&self) -> Deadline {
        self.terms.deadline
    }

    /// Returns who asks; `None` if the house asks of itself.
    pub fn asker(&self) -> Option<&Arc<Asker>> {
        self.terms.asker.as_ref()
    }

    /// Tells whether nobody waits for the answer any more; then work that has not begun need not be done.
    pub fn is_abandoned(&self) -> bool {
        match &self.to {
            To::Here(to) => to.is_closed(),
            // Another node's asker waits until its deadline, as far as is known here.
            To::Elsewhere(_) => self.terms.deadline.passed(),
        }
    }
}

impl<M: Send + 'static> Addr<M> {
    pub(crate) fn new(actor: ActorRef<Envelope<M>>, depth: Arc<Depth>, bound: usize) -> Self {
        Self(Arc::new(Mailbox { actor, depth, bound, observers: Arc::default() }))
    }

    /// Puts a message into the mailbox without waiting. Errors give the message back: `Busy` if the mailbox is full, `Gone` if
    /// this life is over.
    pub fn tell(&self, msg: M) -> Result<(), TellError<M>> {
        self.0.tell(msg)
    }

    /// Tells the actor, and waits while its mailbox is full; false if this life of it is over. If the future is dropped before it
    /// is done, nothing was told.
    pub async fn deliver(&self, mut msg: M) -> bool {
        loop {
            match self.tell(msg) {
                Ok(()) => return true,
                Err(TellError::Gone(_)) => return false,
                Err(TellError::Busy(back)) => msg = back,
            }
            tokio::time::sleep(DELIVER_AGAIN_AFTER).await;
        }
    }

    /// Asks on these terms and waits for the answer until their deadline. Dropping the future leaves the question with the actor.
    pub async fn ask<T: Send + 'static>(
        &self,
        terms: impl Into<Terms>,
        make: impl FnOnce(Reply<T>) -> M,
    ) -> Result<T, CallError> {
        let terms = terms.into();
        let deadline = terms.deadline;
        answered(deadline, self.0.put(terms, make)?).await
    }

    /// Asks for the actor's snapshot of its state. This goes past the mailbox's bound, because an operator may look into a full
    /// actor. Errors: `Busy` if too many look at once.
    pub async fn observe(&self, deadline: Deadline) -> Result<serde_json::Value, CallError> {
        let ticket = Ticket::take(&self.0.observers, OBSERVERS_MAX).ok_or(CallError::Busy)?;
        let (to, answer) = oneshot::channel();
        self.0.actor.send_message(Envelope::Observe(Box::new((to, ticket)))).map_err(|_| CallError::Gone)?;
        answered(deadline, answer).await
    }

    /// Returns how many messages were admitted and not begun; 0 once this life is over.
    pub fn depth(&self) -> usize {
        if self.is_alive() { self.0.depth.now() } else { 0 }
    }

    /// Tells whether this life of the actor still takes messages.
    pub fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    pub(crate) fn stop_self(&self) {
        self.0.actor.stop(None);
    }

    pub(crate) fn task_failed(&self, message: String) {
        // A life that is over needs no ending.
        let _ = self.0.actor.send_message(Envelope::TaskFailed(Box::new(message)));
    }
}

async fn answered<T>(deadline: Deadline, answer: oneshot::Receiver<T>) -> Result<T, CallError> {
    let asked = tokio::time::Instant::now();
    match tokio::time::timeout_at(deadline.instant(), answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(CallError::Dropped),
        Err(_) => Err(CallError::Expired { waited_ms: u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX) }),
    }
}

/// A handle that follows a supervised actor through its restarts. Cheap to clone.
pub struct Door<M: Send + 'static>(Arc<Threshold<M>>);

struct Threshold<M: Send + 'static> {
    life: ArcSwapOption<Mailbox<M>>,
    /// The bell that rings whenever a life begins or ends.
    changed: Arc<Notify>,
}

impl<M: Send + 'static> Clone for Door<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Send + 'static> Default for Door<M> {
    fn default() -> Self {
        Self(Arc::new(Threshold { life: ArcSwapOption::empty(), changed: Arc::default() }))
    }
}

impl<M: Send + 'static> Door<M> {
    /// Returns the address of the present life; `None` between lives.
    pub fn current(&self) -> Option<Addr<M>> {
        self.0.life.load_full().map(Addr)
    }

    /// Puts a message into the mailbox of the present life, as [`Addr::tell`]; `Gone` if there is no life now.
    pub fn tell(&self, msg: M) -> Result<(), TellError<M>> {
        match &*self.0.life.load() {
            Some(mailbox) => mailbox.tell(msg),
            None => Err(TellError::Gone(msg)),
        }
    }

    /// Asks the present life on these terms, as [`Addr::ask`]; `Gone` if there is no life now.
    pub async fn ask<T: Send + 'static>(
        &self,
        terms: impl Into<Terms>,
        make: impl FnOnce(Reply<T>) -> M,
    ) -> Result<T, CallError> {
        let terms = terms.into();
        let deadline = terms.deadline;
        // The life is let go before the wait: an asker must not keep a dead mailbox, and its own question in it, alive.
        let answer = self.0.life.load().as_ref().ok_or(CallError::Gone)?.put(terms, make)?;
        answered(deadline, answer).await
    }

    /// Returns a future that ends when a life next begins or ends after this call, awaited or not. So call it first, then ask,
    /// and await it if the answer was `Gone`.
    pub fn changed(&self) -> OwnedNotified {
        self.0.changed.clone().notified_owned()
    }

    pub(crate) fn set(&self, addr: Option<&Addr<M>>) {
        self.0.life.store(addr.map(|addr| addr.0.clone()));
        self.0.changed.notify_waiters();
    }
}
