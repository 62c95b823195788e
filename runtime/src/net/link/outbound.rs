//! The queue of one link: bounded in bytes, and never ahead of the receiver's credit.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicI64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    down::SendError,
    frame::{FRAME_BYTES_MAX, Kind, append, charge},
};
use crate::id::Key;

/// The size of the pieces that frames are gathered into: one write, one TLS record run, one wake-up.
const PIECE_BYTES: usize = 64 * 1024;
/// The most control bytes that may wait. They are tiny and few; more means that the writer is gone.
const CONTROL_BYTES_MAX: usize = 64 * 1024;

#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    charge: usize,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// The pings, pongs and credit: credit does not hold them back, and they go ahead of what waits.
    control: Vec<u8>,
    data_bytes: usize,
    /// The keys that the peer has heard named, by slot. A frame that names one is queued before this says so, so their order is
    /// one.
    named: Vec<Option<Key>>,
    /// An emptied buffer, to be filled next.
    spare: Vec<u8>,
    /// True while the writer waits to be woken.
    parked: bool,
    closed: bool,
}

pub(super) struct Outbound {
    state: Mutex<State>,
    bytes_max: usize,
    credit: AtomicI64,
    /// The bell that wakes the writer.
    work: Notify,
    /// The bell that wakes those who wait for room.
    room: Notify,
}

/// The next thing for the writer.
pub(super) enum Next {
    Write(Vec<u8>),
    Nothing,
    Closed,
}

impl Outbound {
    pub(super) fn new(bytes_max: usize, credit: u32) -> Self {
        Self {
            state: Mutex::default(),
            bytes_max,
            credit: AtomicI64::new(i64::from(credit)),
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Queues one data frame whose payload `fill` writes; false from it takes the frame back.
    #[inline]
    pub(super) fn data(&self, fill: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<(), SendError> {
        self.data_within(self.bytes_max, None, |buffer, _| fill(buffer))
    }

    /// Queues a frame as [`Self::data`] does, about `key`: `fill` hears whether the peer knows it by `slot` already, and names it
    /// if not.
    #[inline]
    pub(super) fn data_about(
        &self,
        key: &Key,
        slot: u16,
        fill: impl FnOnce(&mut Vec<u8>, bool) -> bool,
    ) -> Result<(), SendError> {
        self.data_within(self.bytes_max, Some((key, slot)), fill)
    }

    /// Queues a frame as [`Self::data`] does, with room beyond the bound: an answer must not be shut out by new questions.
    pub(super) fn data_reserved(&self, fill: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<(), SendError> {
        self.data_within(self.bytes_max.saturating_mul(2), None, |buffer, _| fill(buffer))
    }

    #[inline]
    fn data_within(
        &self,
        bytes_max: usize,
        about: Option<(&Key, u16)>,
        fill: impl FnOnce(&mut Vec<u8>, bool) -> bool,
    ) -> Result<(), SendError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.closed {
            return Err(SendError::Down);
        }
        if state.data_bytes >= bytes_max {
            return Err(SendError::Busy);
        }
        let known = about.is_some_and(|(key, slot)| state.named.get(usize::from(slot)).and_then(Option::as_ref) == Some(key));
        if state.pieces.back().is_none_or(|piece| piece.charge >= PIECE_BYTES) {
            let bytes = std::mem::take(&mut state.spare);
            state.pieces.push_back(Piece { bytes, charge: 0 });
        }
        let Some(piece) = state.pieces.back_mut() else { return Err(SendError::Down) };
        let (before, mut filled) = (piece.bytes.len(), true);
        let appended = append(&mut piece.bytes, Kind::Data, |buffer| filled = fill(buffer, known));
        if !filled {
            piece.bytes.truncate(before);
            return Err(SendError::Unencodable);
        }
        let frame_bytes = appended.map_err(|bytes| SendError::TooLarge { bytes, max: FRAME_BYTES_MAX })?;
        piece.charge += charge(frame_bytes);
        if let Some((key, slot)) = about.filter(|_| !known) {
            let slot = usize::from(slot);
            if state.named.len() <= slot {
                state.named.resize(slot + 1, None);
            }
            state.named[slot] = Some(key.clone());
        }
        // The charge counts, so that the bound also holds for what an entry costs beside its bytes.
        state.data_bytes += charge(frame_bytes);
        let wake = std::mem::take(&mut state.parked);
        drop(guard);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Queues a frame as [`Self::data`] does, and waits for room. It is fair only by chance.
    pub(super) async fn data_wait(&self, payload: &[u8]) -> Result<(), SendError> {
        loop {
            match self.data(|buffer| put(buffer, payload)) {
                Err(SendError::Busy) => self.room().await,
                done => return done,
            }
        }
    }

    /// Waits until there is room, or the link is closed. It may be taken again by another before it is used.
    pub(super) async fn room(&self) {
        let room = self.room.notified();
        tokio::pin!(room);
        // Registered before the look: room made in between is not missed.
        room.as_mut().enable();
        let full = {
            let state = self.state.lock();
            !state.closed && state.data_bytes >= self.bytes_max
        };
        if full {
            room.await;
        }
    }

    pub(super) fn control(&self, kind: Kind, payload: &[u8]) {
        let mut state = self.state.lock();
        if state.closed || state.control.len() > CONTROL_BYTES_MAX {
            return;
        }
        // A control payload is a few bytes: it always fits.
        let _ = append(&mut state.control, kind, |buffer| buffer.extend_from_slice(payload));
        let wake = std::mem::take(&mut state.parked);
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    pub(super) fn add_credit(&self, bytes: u32) {
        self.credit.fetch_add(i64::from(bytes), Ordering::AcqRel);
        self.state.lock().parked = false;
        self.work.notify_one();
    }

    pub(super) fn next(&self) -> Next {
        let mut state = self.state.lock();
        if !state.control.is_empty() {
            return Next::Write(std::mem::take(&mut state.control));
        }
        // A piece may overdraw what is left; the receiver allows for one piece.
        if self.credit.load(Ordering::Acquire) > 0
            && let Some(piece) = state.pieces.pop_front()
        {
            state.data_bytes -= piece.charge.min(state.data_bytes);
            self.credit.fetch_sub(i64::try_from(piece.charge).unwrap_or(i64::MAX), Ordering::AcqRel);
            // Not for each piece: a sender that is woken for one would run into the bound again at once.
            let roomy = state.data_bytes <= self.bytes_max / 2;
            drop(state);
            if roomy {
                self.room.notify_waiters();
            }
            return Next::Write(piece.bytes);
        }
        if state.closed {
            return Next::Closed;
        }
        state.parked = true;
        Next::Nothing
    }

    pub(super) async fn wait(&self) {
        self.work.notified().await;
    }

    /// Takes an emptied buffer back, unless it grew large.
    pub(super) fn give_back(&self, mut bytes: Vec<u8>) {
        if bytes.capacity() <= 2 * PIECE_BYTES {
            bytes.clear();
            self.state.lock().spare = bytes;
        }
    }

    /// Drops what waits; later frames are refused.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.pieces = VecDeque::new();
        state.data_bytes = 0;
        drop(state);
        self.work.notify_one();
        self.room.notify_waiters();
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.state.lock().data_bytes
    }

    /// Returns the most that a peer may have sent beyond its window: the last piece overdraws.
    pub(super) const fn overdraft_bytes() -> usize {
        PIECE_BYTES + 2 * FRAME_BYTES_MAX
    }
}

/// Appends a payload that is there already.
pub(super) fn put(buffer: &mut Vec<u8>, payload: &[u8]) -> bool {
    buffer.extend_from_slice(payload);
    true
}
