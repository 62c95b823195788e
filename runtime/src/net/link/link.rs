//! The handle to one live connection.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::{
    Down, Lane, SendError,
    frame::Kind,
    hello::Hello,
    outbound::{Next, Outbound, put},
};
use crate::{
    id::Key,
    net::{LifeId, identity::KeyPin},
    op::NodeId,
};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
const UNMEASURED: u64 = u64::MAX;

pub(super) struct Inner {
    id: u64,
    peer: NodeId,
    lane: Lane,
    generation: u64,
    life: LifeId,
    key: KeyPin,
    version: u16,
    pub(super) outbound: Outbound,
    heard: Mutex<Vec<Option<Arc<str>>>>,
    /// The number of bytes that we let the peer send.
    window: u32,
    /// The bytes that were charged and are not yet taken.
    pub(super) untaken: AtomicU64,
    to_grant: AtomicU64,
    round_trip_us: AtomicU64,
    clock_offset_ms: AtomicI64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    why: Mutex<Option<Down>>,
    pub(super) ended: CancellationToken,
}

/// The handle to one live connection. Cheap to clone; holding it does not keep the connection open.
#[derive(Clone)]
pub struct Link(pub(super) Arc<Inner>);

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({:?} to {}, {})", self.0.lane, self.0.peer, self.0.id)
    }
}

impl Link {
    pub(super) fn new(lane: Lane, peer: &Hello, key: KeyPin, version: u16, outbound_bytes_max: usize, window: u32) -> Self {
        Self(Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            peer: peer.node,
            lane,
            generation: peer.generation,
            life: peer.life,
            key,
            version,
            outbound: Outbound::new(outbound_bytes_max, peer.window_bytes),
            heard: Mutex::default(),
            window,
            untaken: AtomicU64::new(0),
            to_grant: AtomicU64::new(0),
            round_trip_us: AtomicU64::new(UNMEASURED),
            clock_offset_ms: AtomicI64::new(i64::MIN),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            why: Mutex::new(None),
            ended: CancellationToken::new(),
        }))
    }

    /// Returns a number that is different for every connection of this process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Returns the node at the other end.
    pub fn peer(&self) -> NodeId {
        self.0.peer
    }

    /// Returns the lane that this connection is for.
    pub fn lane(&self) -> Lane {
        self.0.lane
    }

    /// Returns the peer's generation when it said hello.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    pub(super) fn life(&self) -> LifeId {
        self.0.life
    }

    /// Returns the pin of the key in the certificate that the peer came with.
    pub(super) fn key(&self) -> &KeyPin {
        &self.0.key
    }

    /// Returns the wire version that both ends agreed on.
    pub fn version(&self) -> u16 {
        self.0.version
    }

    /// Queues one frame. `Ok` says that it will be written in order, not that it arrives.
    pub fn send(&self, payload: &[u8]) -> Result<(), SendError> {
        self.0.outbound.data(|buffer| put(buffer, payload))
    }

    /// Queues one frame as [`Self::send`] does. `fill` writes the payload straight into the queue; false from it takes the frame
    /// back. It runs under the queue's lock and must not wait.
    pub fn send_with(&self, fill: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<(), SendError> {
        self.0.outbound.data(fill)
    }

    /// Queues a frame as [`Self::send_with`] does, about a key that the peer may know by a number of this link: `fill` hears
    /// whether it does.
    #[inline]
    pub(crate) fn send_about(
        &self,
        key: &Key,
        slot: u16,
        fill: impl FnOnce(&mut Vec<u8>, bool) -> bool,
    ) -> Result<(), SendError> {
        self.0.outbound.data_about(key, slot, fill)
    }

    /// Returns the names that the peer has given on this link, by slot. The link's own task alone holds them, for one frame.
    pub(crate) fn heard(&self) -> MutexGuard<'_, Vec<Option<Arc<str>>>> {
        self.0.heard.lock()
    }

    /// Queues an answer as [`Self::send_with`] does, up to twice the queue's bound, so that new questions cannot shut it out.
    pub(crate) fn send_reserved(&self, fill: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<(), SendError> {
        self.0.outbound.data_reserved(fill)
    }

    /// Queues one frame as [`Self::send`] does, and waits for room instead of refusing with `Busy`. Bound it with a deadline.
    pub async fn send_wait(&self, payload: &[u8]) -> Result<(), SendError> {
        self.0.outbound.data_wait(payload).await
    }

    /// Waits until the queue has room, or the link is down.
    pub async fn room(&self) {
        self.0.outbound.room().await;
    }

    /// Tells the peer that `charge` of what it sent was taken.
    pub fn grant(&self, charge: usize) {
        self.0.untaken.fetch_sub(charge as u64, Ordering::AcqRel);
        self.grant_taken(charge);
    }

    /// Tells the peer as [`Self::grant`] does, for bytes that were never counted as untaken.
    pub(super) fn grant_taken(&self, charge: usize) {
        let charge = charge as u64;
        let due = self.0.to_grant.fetch_add(charge, Ordering::AcqRel) + charge;
        // Not for each frame: a quarter of the window keeps the sender going.
        if due >= u64::from(self.0.window / 4) {
            let due = self.0.to_grant.swap(0, Ordering::AcqRel);
            if let Ok(due) = u32::try_from(due)
                && due > 0
            {
                self.0.outbound.control(Kind::Credit, &due.to_be_bytes());
            }
        }
    }

    /// Counts a frame in; false if the peer sent more than it was allowed.
    pub(super) fn charged(&self, charge: usize) -> bool {
        let untaken = self.0.untaken.fetch_add(charge as u64, Ordering::AcqRel) + charge as u64;
        // What is taken and not yet granted is still the peer's debt: it is inside the window too.
        untaken <= u64::from(self.0.window) + Outbound::overdraft_bytes() as u64
    }

    /// Returns the last ping's round trip in microseconds; `None` before the first.
    pub fn round_trip_us(&self) -> Option<u64> {
        Some(self.0.round_trip_us.load(Ordering::Relaxed)).filter(|us| *us != UNMEASURED)
    }

    /// Returns how many milliseconds the peer's clock is ahead of ours, give or take half a round trip; `None` before the first
    /// ping.
    pub fn clock_offset_ms(&self) -> Option<i64> {
        Some(self.0.clock_offset_ms.load(Ordering::Relaxed)).filter(|ms| *ms != i64::MIN)
    }

    pub(super) fn measured(&self, round_trip_us: u64, clock_offset_ms: i64) {
        self.0.round_trip_us.store(round_trip_us, Ordering::Relaxed);
        self.0.clock_offset_ms.store(clock_offset_ms, Ordering::Relaxed);
    }

    /// Returns how many bytes wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.0.outbound.queued_bytes()
    }

    /// Returns how many bytes were received and not yet taken by the lane's handler.
    pub fn untaken_bytes(&self) -> u64 {
        self.0.untaken.load(Ordering::Relaxed)
    }

    pub(super) fn next(&self) -> Next {
        self.0.outbound.next()
    }

    /// Ends the connection; the first reason stays.
    pub fn close(&self, why: Down) {
        self.0.why.lock().get_or_insert(why);
        self.0.outbound.close();
        self.0.ended.cancel();
    }

    /// Tells whether the connection has not ended.
    pub fn is_up(&self) -> bool {
        !self.0.ended.is_cancelled()
    }

    /// Waits until the connection has ended.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    pub(super) fn why(&self) -> Option<Down> {
        self.0.why.lock().clone()
    }
}
