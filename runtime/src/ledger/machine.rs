//! The machine: what a committed entry means. It accepts appends, and says what the tables and those who tail are told.
//!
//! Owns the heads of the streams in use. Asks the tables for one it does not have; writes none: the writer takes what
//! changed along with its next commit. Deterministic: the same entries make the same tables on every node.
//! After a restart, heads whose rows lag behind are mended from the events themselves.

use std::collections::{HashMap, VecDeque};

use openraft::{LogId, StoredMembership};
use redb::{Database, ReadableDatabase};
use serde::{Deserialize, Serialize};

use super::{
    Cursor, Event, ReadError, SnapshotPart, StreamSnapshot,
    head::{Head, HeadRow, digest},
    pieces::{row_of, rows_of},
    raft::Node,
    record::{Batch, Events, Place, events_of, frame, unframe, write_events},
    tables::{EVENTS, STREAMS, corrupt, storage},
};
use crate::{clock::WallMs, id::Key};

/// The number of heads kept in memory beyond those that must be.
const HEADS_MAX: usize = 100_000;
/// The lag at which a head's row is written: so many events, or bytes of them, since it changed. A start reads them again.
const HEAD_LAG_EVENTS: u64 = 100_000;
const HEAD_LAG_BYTES: u64 = 64 << 20;
/// The bytes of applied changes that the writer is asked to take; fewer wait in memory, where they are read, too.
const TAKE_BYTES: usize = 256 << 10;
/// The bytes of snapshots that may wait to be written.
const SNAPSHOT_BYTES_MAX: usize = 8 << 20;
const HEADS_PER_COMMIT: usize = 512;
/// The largest value that a batch is kept in, except for a larger append: one stream's events are read without the whole batch,
/// and a value fills the page it is given, whose size is a power of two.
const VALUE_BYTES_MAX: usize = (32 << 10) - 128;
const PLACE_BYTES: usize = 16;

/// The record that is kept beside the tables' rows, in the same transaction.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    pub applied: Option<LogId<u64>>,
    pub membership: StoredMembership<u64, Node>,
    pub epoch: u64,
    pub head: u64,
    /// The cursor up to which events may be gone.
    pub compacted: u64,
    /// The cursor up to which events that no replay needs are gone.
    pub swept: u64,
    /// The cursor up to which the rows of streams hold what events did.
    pub heads_upto: u64,
    /// The number of streams that have a row, and the sum of their digests.
    pub streams: u64,
    pub streams_digest: u64,
    pub snapshot_taken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendRefused {
    Fenced { newest: u64 },
    Version { is: u64, expected: u64 },
}

pub type Answer = Result<(Cursor, u64), AppendRefused>;

struct Dirty {
    /// The first event that its row does not have.
    cursor: u64,
    /// The bytes that had been applied before it.
    bytes: u64,
    key: Key,
}

#[derive(Default)]
pub struct Machine {
    pub meta: Meta,
    heads: HashMap<Key, Head>,
    /// The keys of all heads in memory once each, the one to be forgotten next at the front.
    order: VecDeque<Key>,
    dirty: VecDeque<Dirty>,
    /// The heads that must be written with the next commit: no event tells what happened to them.
    urgent: Vec<Key>,
    /// The values for the events table that the writer has not taken.
    pending: Vec<(u64, Vec<u8>)>,
    pub pending_bytes: usize,
    bytes: u64,
    snapshot_bytes: usize,
}

/// All that the writer takes into one commit.
#[derive(Default)]
pub struct Taken {
    pub events: Vec<(u64, Vec<u8>)>,
    pub heads: Vec<(Key, Vec<u8>)>,
    pub chunks: Vec<(Key, u64, Vec<u8>)>,
    /// The rows of snapshots, those that are gone first: single ones, and all from one row to before another.
    pub snapshots_gone: Vec<Key>,
    pub parts_gone: Vec<(String, String)>,
    pub snapshots: Vec<(String, Vec<u8>)>,
    pub meta: Vec<u8>,
    /// The cursor up to which events are in the tables after it.
    pub head: u64,
}

impl Machine {
    /// Makes the machine from the tables, and mends heads whose rows lag behind from the events.
    pub fn load(db: &Database, meta: Meta) -> Result<Self, ReadError> {
        let mut machine = Self { meta, ..Self::default() };
        let txn = db.begin_read().map_err(storage)?;
        let events = txn.open_table(EVENTS).map_err(storage)?;
        // The batch in which the lag begins may begin before it.
        let from = match events.range(..=machine.meta.heads_upto.saturating_add(1)).map_err(storage)?.next_back() {
            Some(row) => row.map_err(storage)?.0.value(),
            None => 0,
        };
        for row in events.range(from..).map_err(storage)? {
            let (key, value) = row.map_err(storage)?;
            let read = Events::read(key.value(), value.value())
                .map_err(|what| corrupt("events", format!("cursor {}", key.value()), what))?;
            machine.mend(db, &read)?;
        }
        Ok(machine)
    }

    /// Brings heads up to what these events say. What a row already has changes nothing.
    fn mend(&mut self, db: &Database, events: &Events) -> Result<(), ReadError> {
        for (slot, place) in events.places.iter().enumerate() {
            let damaged = |what| corrupt("events", format!("cursor {}", place.first_cursor), what);
            let append = events.append(slot).map_err(damaged)?;
            let head = self.head(db, &append.stream)?;
            let (is, expected) = (head.row.version, append.expected_version);
            if is >= expected + u64::from(place.events) || place.first_cursor <= self.meta.heads_upto {
                continue;
            }
            if is != expected {
                return Err(damaged(format!("stream {} is at version {is} before version {expected}", append.stream)));
            }
            self.accept(
                &append.stream,
                append.incarnation,
                place.first_cursor,
                u64::from(place.events),
                append.snapshot.as_ref(),
                append.part.as_ref(),
            );
        }
        Ok(())
    }

    /// Returns the head of a stream; an empty one if there is no such stream.
    pub fn head(&mut self, db: &Database, key: &Key) -> Result<&mut Head, ReadError> {
        if !self.heads.contains_key(key) {
            let head = read_head(db, key)?.map_or_else(Head::default, Head::loaded);
            self.heads.insert(key.clone(), head);
            self.order.push_back(key.clone());
        }
        let head = self.heads.get_mut(key).ok_or_else(|| storage("a head vanished"))?;
        head.used = true;
        Ok(head)
    }

    /// Takes an accepted append into its head, which must be in memory.
    fn accept(
        &mut self,
        key: &Key,
        incarnation: u64,
        first_cursor: u64,
        events: u64,
        snapshot: Option<&StreamSnapshot>,
        part: Option<&SnapshotPart>,
    ) {
        let Some(head) = self.heads.get_mut(key) else { return };
        head.append(incarnation, first_cursor, events);
        if let Some(snapshot) = snapshot {
            self.snapshot_bytes += snapshot.body.len();
            self.snapshot_bytes -= head.snapshot(snapshot.clone());
        }
        if let Some(part) = part {
            // One of a whole snapshot that waits for the writer is of an older version: it is taken before this is.
            head.part(part);
        }
        if events == 0 {
            self.urgent.push(key.clone());
        } else if !head.dirty {
            head.dirty = true;
            self.dirty.push_back(Dirty { cursor: first_cursor, bytes: self.bytes, key: key.clone() });
        }
    }

    /// Accepts or refuses each append of a batch by itself.
    pub fn apply(&mut self, db: &Database, batch: &Batch) -> Result<(Vec<Answer>, Vec<Event>), ReadError> {
        let mut answers = Vec::with_capacity(batch.appends.len());
        let mut events = Vec::with_capacity(batch.appends.len());
        let mut places = Vec::new();
        let mut bodies: Vec<&[u8]> = Vec::new();
        let (mut start, mut value_bytes) = (0, 0);
        for (append, len) in batch.appends.iter().zip(&batch.lens) {
            let bytes = &batch.bodies[start..start + *len as usize];
            start += *len as usize;
            let head = self.head(db, &append.stream)?;
            if append.incarnation < head.row.incarnation {
                answers.push(Err(AppendRefused::Fenced { newest: head.row.incarnation }));
                continue;
            }
            if append.expected_version != head.row.version {
                answers.push(Err(AppendRefused::Version { is: head.row.version, expected: append.expected_version }));
                continue;
            }
            if value_bytes + bytes.len() + PLACE_BYTES > VALUE_BYTES_MAX {
                self.keep(batch.at, &mut places, &mut bodies);
                value_bytes = 0;
            }
            value_bytes += bytes.len() + PLACE_BYTES;
            let (first_cursor, n) = (self.meta.head + 1, append.events.len() as u64);
            let version = append.expected_version + n;
            let (snapshot, part) = (append.snapshot.as_ref(), append.part.as_ref());
            self.accept(&append.stream, append.incarnation, first_cursor, n, snapshot, part);
            if n > 0 {
                events.extend(events_of(append, first_cursor, batch.at));
                places.push(Place { first_cursor, events: n as u32, len: *len });
                bodies.push(bytes);
                self.meta.head += n;
            }
            answers.push(Ok((Cursor(self.meta.head), version)));
        }
        self.keep(batch.at, &mut places, &mut bodies);
        Ok((answers, events))
    }

    /// Keeps these events as one value for the events table, until the writer takes it.
    fn keep(&mut self, at: WallMs, places: &mut Vec<Place>, bodies: &mut Vec<&[u8]>) {
        if let Some(first) = places.first() {
            let value = write_events(first.first_cursor, self.meta.head, at, places, bodies);
            self.bytes += value.len() as u64;
            self.pending_bytes += value.len();
            self.pending.push((first.first_cursor, value));
        }
        places.clear();
        bodies.clear();
    }

    /// Drops events up to `keep_after` that no replay needs; the writer does it when it has time.
    pub fn compact(&mut self, keep_after: Cursor) -> Cursor {
        self.meta.compacted = self.meta.compacted.max(keep_after.0.min(self.meta.head));
        Cursor(self.meta.compacted)
    }

    /// Returns the value that begins with a cursor, if the writer has not taken it.
    pub fn pending_at(&self, from: u64) -> Option<&[u8]> {
        let at = self.pending.binary_search_by_key(&from, |(key, _)| *key).ok()?;
        Some(&self.pending[at].1)
    }

    /// Tells whether so much waits for the writer that it should be asked to take it.
    pub fn waits(&self) -> bool {
        self.pending_bytes > TAKE_BYTES || !self.urgent.is_empty() || self.snapshot_bytes > SNAPSHOT_BYTES_MAX
    }

    /// Takes out what waits for the writer: all values, and the heads whose rows are due, or all changed ones if `all_heads`.
    pub fn take(&mut self, all_heads: bool) -> std::io::Result<Taken> {
        let mut taken = Taken { events: std::mem::take(&mut self.pending), head: self.meta.head, ..Taken::default() };
        self.pending_bytes = 0;
        let mut keys = std::mem::take(&mut self.urgent);
        while let Some(oldest) = self.dirty.front() {
            let due = all_heads
                || self.meta.head.saturating_sub(oldest.cursor) > HEAD_LAG_EVENTS
                || self.bytes - oldest.bytes > HEAD_LAG_BYTES
                || self.snapshot_bytes > SNAPSHOT_BYTES_MAX;
            if !due || (keys.len() >= HEADS_PER_COMMIT && !all_heads) {
                break;
            }
            if let Some(Dirty { key, .. }) = self.dirty.pop_front() {
                if let Some(head) = self.heads.get_mut(&key) {
                    head.dirty = false;
                }
                keys.push(key);
            }
        }
        for key in keys {
            let Some(head) = self.heads.get_mut(&key) else { continue };
            if !head.known {
                head.known = true;
                self.meta.streams += 1;
                self.meta.streams_digest = self.meta.streams_digest.wrapping_add(digest(&key));
            }
            for chunk in std::mem::take(&mut head.sealed) {
                taken.chunks.push((key.clone(), chunk.after, frame(&(key.as_str(), &chunk))?));
                // Readers look here until it is in the table.
                head.in_hand_chunks.push(chunk);
            }
            for version in std::mem::take(&mut head.parts_gone) {
                taken.parts_gone.push(rows_of(key.as_str(), version));
            }
            if std::mem::take(&mut head.whole_is_gone) {
                self.snapshot_bytes -= head.snapshot.take().map_or(0, |older| older.body.len());
                taken.snapshots_gone.push(key.clone());
            }
            if let Some(snapshot) = head.snapshot.take() {
                self.snapshot_bytes -= snapshot.body.len();
                let row = frame(&(key.as_str(), head.row.snapshot_version, &snapshot))?;
                taken.snapshots.push((key.as_str().to_owned(), row));
                head.in_hand_snapshot = Some(snapshot);
            }
            for ((version, number), part) in &head.parts {
                let row = row_of(key.as_str(), *version, *number);
                let framed = frame(&(row.as_str(), *version, part))?;
                taken.snapshots.push((row, framed));
            }
            head.in_hand_parts.append(&mut head.parts);
            head.in_hand = true;
            taken.heads.push((key.clone(), frame(&(key.as_str(), &head.row))?));
        }
        self.meta.heads_upto = self.dirty.front().map_or(self.meta.head, |oldest| oldest.cursor - 1);
        taken.meta = frame(&self.meta)?;
        Ok(taken)
    }

    /// Notes that what was taken is committed; forgets heads beyond the bound.
    pub fn taken(&mut self, taken: &Taken) {
        for (key, _) in &taken.heads {
            if let Some(head) = self.heads.get_mut(key) {
                head.in_hand = false;
                head.in_hand_snapshot = None;
                head.in_hand_parts.clear();
                head.in_hand_chunks.clear();
            }
        }
        let mut looks = 2 * self.heads.len().saturating_sub(HEADS_MAX).min(4_096);
        while self.heads.len() > HEADS_MAX && looks > 0 {
            looks -= 1;
            let Some(key) = self.order.pop_front() else { break };
            let Some(head) = self.heads.get_mut(&key) else { continue };
            if head.dirty || head.in_hand || head.used {
                head.used = false;
                self.order.push_back(key);
            } else {
                self.heads.remove(&key);
            }
        }
    }

    /// Lists the streams of a noun that are in memory, with their versions.
    pub fn streams(&self, noun: &str) -> HashMap<Key, u64> {
        self.heads.iter().filter(|(key, _)| key.noun() == noun).map(|(key, head)| (key.clone(), head.row.version)).collect()
    }
}

/// Reads the row of a stream from the tables; `None` if it has none there.
pub fn read_head(db: &Database, key: &Key) -> Result<Option<HeadRow>, ReadError> {
    let txn = db.begin_read().map_err(storage)?;
    let table = txn.open_table(STREAMS).map_err(storage)?;
    let Some(value) = table.get(key.as_str()).map_err(storage)? else { return Ok(None) };
    decode_head(key.as_str(), value.value()).map(Some)
}

/// Reads a stream's row from its bytes. Errors: `Corrupt` if they are damaged, or are the row of another stream.
pub fn decode_head(stream: &str, value: &[u8]) -> Result<HeadRow, ReadError> {
    let (named, row): (String, HeadRow) = unframe(value).map_err(|what| corrupt("streams", stream, what))?;
    if named != stream {
        return Err(corrupt("streams", stream, format!("it is the row of {named}")));
    }
    Ok(row)
}
