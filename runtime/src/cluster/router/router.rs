//! The sending half, and the router itself.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

use super::{
    Directory, LocalDoor, Location, RouteError, Unreachable,
    envelope::{Message, NO_DEADLINE, Refusal, SLOTS, Slot, put_head},
    location::Locations,
    pending::{Outcome, Pending},
    receive::DoorEntry,
    reply::Question,
};
use crate::{
    clock::Deadline,
    id::Key,
    net::link::{Lane, Link, Links, SendError},
    op::{Asker, NodeId, Terms},
};

/// The time for which further tells are refused here after a distant door refused one.
const BUSY_FOR: Duration = Duration::from_millis(20);
/// The largest number of doors remembered as busy; when more are, all are forgotten, and say so again.
const BUSY_MAX: usize = 4096;

pub(super) struct Inner {
    node: NodeId,
    links: OnceLock<Links>,
    directory: Arc<dyn Directory>,
    locations: Locations,
    pub(super) doors: RwLock<HashMap<Arc<str>, DoorEntry, foldhash::fast::RandomState>>,
    pub(super) pending: Arc<Pending>,
    busy: Mutex<HashMap<Box<str>, Instant>>,
    /// The number of entries in `busy`, so that the usual tell need not lock it.
    busy_count: AtomicUsize,
    pub(super) tells_refused: AtomicU64,
    started: Instant,
}

/// Writes a message's body, and behind it who asks. Versions that do not know of that do not look behind the body.
fn write_body<B: Serialize>(buffer: &mut Vec<u8>, body: &B, asker: Option<&Asker>) -> Result<(), rmp_serde::encode::Error> {
    rmp_serde::encode::write(buffer, body)?;
    match asker {
        Some(asker) => rmp_serde::encode::write_named(buffer, asker),
        None => Ok(()),
    }
}

/// The router of a node. Cheap to clone. Give it to the links as the handler of the router lane, then [`Router::attach`] them.
#[derive(Clone)]
pub struct Router(pub(super) Arc<Inner>, Option<Key>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouterSnapshot {
    pub doors: usize,
    pub pending_asks: usize,
    pub locations: usize,
    /// The number of tells that a door on this node refused, since start.
    pub tells_refused: u64,
}

impl Router {
    /// Makes a router for this node without links: until [`Router::attach`] it reaches only doors of this node.
    pub fn new(node: NodeId, directory: Arc<dyn Directory>) -> Self {
        let inner = Inner {
            node,
            links: OnceLock::new(),
            directory,
            locations: Locations::default(),
            doors: RwLock::default(),
            pending: Arc::default(),
            busy: Mutex::default(),
            busy_count: AtomicUsize::new(0),
            tells_refused: AtomicU64::new(0),
            started: Instant::now(),
        };
        Self(Arc::new(inner), None)
    }

    /// Returns the same router for an entity that its receivers are to see as the sender.
    pub fn speaking_as(&self, src: Key) -> Self {
        Self(self.0.clone(), Some(src))
    }

    /// Gives it the links it sends over; a second call changes nothing.
    pub fn attach(&self, links: Links) {
        let _ = self.0.links.set(links);
    }

    /// Opens the door of one incarnation of `key` on this node; an older one's door is replaced, a newer one's stays.
    pub fn open(&self, key: &Key, incarnation: u64, door: Arc<dyn LocalDoor>) {
        let mut doors = self.0.doors.write();
        if doors.get(key.as_str()).is_none_or(|entry| entry.incarnation <= incarnation) {
            doors.insert(key.as_str().into(), DoorEntry { incarnation, door, told_us: AtomicU64::new(0) });
        }
    }

    /// Closes the door of that incarnation, if it is still the one that is open.
    pub fn close(&self, key: &Key, incarnation: u64) {
        let mut doors = self.0.doors.write();
        if doors.get(key.as_str()).is_some_and(|entry| entry.incarnation == incarnation) {
            doors.remove(key.as_str());
        }
    }

    /// Remembers where a key is now, as the directory that is tailed says it. This saves asking the directory.
    pub fn learn(&self, key: &Key, location: Location) {
        self.0.locations.put(key.as_str(), location);
    }

    /// Forgets where a key is; the next message asks the directory.
    pub fn forget(&self, key: &Key) {
        self.0.locations.forget(key.as_str());
    }

    /// Returns how many doors, waiting asks, remembered places and refused tells there are.
    pub fn snapshot(&self) -> RouterSnapshot {
        RouterSnapshot {
            doors: self.0.doors.read().len(),
            pending_asks: self.0.pending.len(),
            locations: self.0.locations.len(),
            tells_refused: self.0.tells_refused.load(Ordering::Relaxed),
        }
    }

    /// Sends without an answer: at most once, in order per destination and link. `Ok` says that it is on its way; a distant
    /// door that refuses makes later tells to it fail with `Busy` for a moment. Ask where you need to know.
    ///
    /// Waits only for the directory, when the place of `dst` is not remembered.
    pub async fn tell<B: Serialize + Sync>(&self, deadline: Deadline, dst: &Key, body: &B) -> Result<(), RouteError> {
        let location = match self.0.locations.get(dst.as_str()) {
            Some(location) => location,
            None => self.locate(deadline, dst).await?,
        };
        self.tell_at(location, dst, body)
    }

    /// Sends as [`Self::tell`] does; where the way is full it waits for room until `deadline`, and then fails with `WayFull`.
    pub async fn tell_wait<B: Serialize + Sync>(&self, deadline: Deadline, dst: &Key, body: &B) -> Result<(), RouteError> {
        loop {
            match self.tell(deadline, dst, body).await {
                Err(full @ RouteError::WayFull { node }) => {
                    let room = async {
                        // A link that is gone is found so by the next attempt.
                        if let Ok(link) = self.link(node) {
                            link.room().await;
                        }
                    };
                    if timeout_at(deadline.instant(), room).await.is_err() {
                        return Err(full);
                    }
                }
                done => return done,
            }
        }
    }

    /// Sends as [`Self::tell`] does, to a place that is known. It never waits.
    #[inline]
    pub fn tell_at<B: Serialize>(&self, location: Location, dst: &Key, body: &B) -> Result<(), RouteError> {
        if location.node == self.0.node {
            let encoded = rmp_serde::to_vec(body).map_err(|_| RouteError::too_large())?;
            let message = Message { body: &encoded, ..self.head(location, dst, None) };
            return self.hand_on(&message, None, None).map_err(|(why, _)| self.refused(why, dst, location.node));
        }
        if self.is_busy(dst) {
            return Err(RouteError::Busy { key: dst.clone() });
        }
        let link = self.link(location.node)?;
        self.push(&link, dst, &self.head(location, dst, None), body, None)
    }

    /// Asks on these terms, and waits until their deadline. Errors say whether it may have happened. Where the remembered place turns out to
    /// be wrong the directory is asked again, once. Dropping the future leaves the question on its way.
    pub async fn ask<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        terms: impl Into<Terms>,
        dst: &Key,
        body: &B,
    ) -> Result<T, RouteError> {
        let terms = terms.into();
        if let Some(location) = self.0.locations.get(dst.as_str()) {
            match self.ask_at(&terms, location, dst, body).await {
                // Both say that nothing happened, so asking elsewhere is safe.
                Err(RouteError::NoSuchActor { .. } | RouteError::StaleIncarnation { .. }) => {}
                outcome => return outcome,
            }
        }
        let location = self.locate(terms.deadline, dst).await?;
        self.ask_at(&terms, location, dst, body).await
    }

    async fn ask_at<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        terms: &Terms,
        location: Location,
        dst: &Key,
        body: &B,
    ) -> Result<T, RouteError> {
        let (deadline, asker) = (terms.deadline, terms.asker.as_deref());
        let left = deadline.remaining();
        if left.is_zero() {
            return Err(RouteError::Expired { key: dst.clone() });
        }
        // At least one: zero says that it is over.
        let left_us = u64::try_from(left.as_micros()).unwrap_or(NO_DEADLINE - 1).clamp(1, NO_DEADLINE - 1);
        let head = self.head(location, dst, Some(left_us));
        let asked = Instant::now();
        let outcome = if location.node == self.0.node {
            let mut encoded = Vec::new();
            write_body(&mut encoded, body, asker).map_err(|_| RouteError::too_large())?;
            let (question, outcome) = Question::here();
            match self.hand_on(&Message { body: &encoded, ..head }, Some(&question), Some(deadline)) {
                Ok(()) => question.delivered(),
                Err((why, _)) => question.refuse(why),
            }
            drop(question);
            timeout_at(deadline.instant(), outcome).await.map(|sent| sent.unwrap_or(Outcome::Refused(Refusal::Dropped)))
        } else {
            let link = self.link(location.node)?;
            let full = RouteError::WayFull { node: location.node };
            let mut waiting = self.0.pending.wait(link.id()).ok_or(full)?;
            self.push(&link, dst, &Message { correlation: waiting.correlation, ..head }, body, asker)?;
            timeout_at(deadline.instant(), &mut waiting.outcome).await.map(|sent| sent.unwrap_or(Outcome::LinkLost))
        };
        let waited_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(Outcome::Answer(body)) => rmp_serde::from_slice(&body).map_err(|_| RouteError::BadAnswer { key: dst.clone() }),
            Ok(Outcome::Refused(why)) => Err(self.refused(why, dst, location.node)),
            Ok(Outcome::LinkLost) => Err(RouteError::Unreachable { node: location.node, how: Unreachable::Lost }),
            Err(_) => Err(RouteError::NoAnswer { key: dst.clone(), waited_ms }),
        }
    }

    #[inline]
    fn push<B: Serialize>(
        &self,
        link: &Link,
        dst: &Key,
        head: &Message<'_>,
        body: &B,
        asker: Option<&Asker>,
    ) -> Result<(), RouteError> {
        let number = self.0.locations.number(dst.as_str()) % SLOTS;
        let sent = link.send_about(dst, number, |buffer, known| {
            put_head(buffer, head, Slot { number, named: !known });
            write_body(buffer, body, asker).is_ok()
        });
        let node = link.peer();
        sent.map_err(|error| match error {
            SendError::Busy => RouteError::WayFull { node },
            SendError::Down => RouteError::Unreachable { node, how: Unreachable::NotSent },
            SendError::TooLarge { .. } | SendError::Unencodable => RouteError::too_large(),
        })
    }

    fn link(&self, node: NodeId) -> Result<Link, RouteError> {
        let link = self.0.links.get().and_then(|links| links.link(node, Lane::Router));
        link.ok_or(RouteError::Unreachable { node, how: Unreachable::NotSent })
    }

    async fn locate(&self, deadline: Deadline, key: &Key) -> Result<Location, RouteError> {
        let located = timeout_at(deadline.instant(), self.0.directory.locate(key)).await;
        match located {
            Ok(Ok(Some(location))) => {
                self.0.locations.put(key.as_str(), location);
                Ok(location)
            }
            Ok(Ok(None)) => Err(RouteError::Unplaced { key: key.clone() }),
            Ok(Err(refused)) => Err(RouteError::Directory { key: key.clone(), why: refused.message }),
            Err(_) => Err(RouteError::Expired { key: key.clone() }),
        }
    }

    /// Turns a refusal into an error. A place that turned out wrong is forgotten, so that the next message asks the directory.
    fn refused(&self, why: Refusal, dst: &Key, node: NodeId) -> RouteError {
        if matches!(why, Refusal::NoSuchActor | Refusal::StaleIncarnation { .. }) {
            self.0.locations.forget(dst.as_str());
        }
        RouteError::refused(why, dst, node)
    }

    pub(super) fn tell_refused(&self, dst: &str, why: Refusal) {
        match why {
            Refusal::Busy => {
                let mut busy = self.0.busy.lock();
                if busy.len() >= BUSY_MAX {
                    busy.clear();
                }
                busy.insert(dst.into(), Instant::now() + BUSY_FOR);
                self.0.busy_count.store(busy.len(), Ordering::Relaxed);
            }
            _ => self.0.locations.forget(dst),
        }
    }

    #[inline]
    fn is_busy(&self, dst: &Key) -> bool {
        if self.0.busy_count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut busy = self.0.busy.lock();
        let is_busy = busy.get(dst.as_str()).is_some_and(|until| *until > Instant::now());
        if !is_busy && busy.remove(dst.as_str()).is_some() {
            self.0.busy_count.store(busy.len(), Ordering::Relaxed);
        }
        is_busy
    }

    /// Returns the microseconds since this router was made.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn head<'a>(&'a self, location: Location, dst: &'a Key, left_us: Option<u64>) -> Message<'a> {
        Message {
            ask: left_us.is_some(),
            correlation: 0,
            left_us: left_us.unwrap_or(NO_DEADLINE),
            incarnation: location.incarnation,
            dst: dst.as_str(),
            src: self.1.as_ref().map_or("", Key::as_str),
            body: &[],
        }
    }
}
