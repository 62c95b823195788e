//! Replays and tails: events after a cursor or a version, in order, none missed and none twice.

use std::sync::atomic::Ordering;

use redb::{ReadOnlyTable, ReadableDatabase};
use tokio::sync::watch;

use super::{
    Cursor, Event, Ledger, Life, ReadError, StreamSnapshot,
    core::Core,
    head::{Chunk, Position},
    open::decode_chunk,
    record::{Events, events_of, unframe},
    tables::{CHUNKS, EVENTS, SNAPSHOTS, STREAMS, corrupt, storage},
};
use crate::id::Key;

/// Replays of more appends than this do not run on a thread that others wait for.
const REPLAY_AT_ONCE: usize = 64;

fn decode(key: u64, value: &[u8]) -> Result<Events, ReadError> {
    Events::read(key, value).map_err(|what| corrupt("events", format!("cursor {key}"), what))
}

impl Ledger {
    /// Up to `events_max` events after `after`; empty at the head.
    pub fn read(&self, after: Cursor, events_max: usize) -> Result<Vec<Event>, ReadError> {
        if after >= self.head() || events_max == 0 {
            return Ok(Vec::new());
        }
        if let Some(events) = self.inner.ring.load().after(after, events_max) {
            return Ok(events);
        }
        // What the ring did not have is in the tables by now.
        let core = self.core()?;
        let compacted = core.disk.compacted.load(Ordering::Acquire);
        if after.0 < compacted {
            return Err(ReadError::Compacted { oldest: Cursor(compacted) });
        }
        let txn = core.disk.db.begin_read().map_err(storage)?;
        let table = txn.open_table(EVENTS).map_err(storage)?;
        // The batch that holds the next event may begin before it.
        let first = match table.range(..=after.0 + 1).map_err(storage)?.next_back() {
            Some(row) => row.map_err(storage)?.0.value(),
            None => 0,
        };
        let mut next = after.0 + 1;
        let mut events = Vec::new();
        for row in table.range(first..).map_err(storage)? {
            let (key, value) = row.map_err(storage)?;
            let batch = decode(key.value(), value.value())?;
            if batch.first > next {
                let compacted = core.disk.compacted.load(Ordering::Acquire);
                if compacted >= next {
                    return Err(ReadError::Compacted { oldest: Cursor(compacted) });
                }
                return Err(corrupt("events", format!("cursor {next}"), format!("it is missing; the next is {}", batch.first)));
            }
            for (slot, place) in batch.places.iter().enumerate() {
                if place.first_cursor + u64::from(place.events) <= next {
                    continue;
                }
                let append =
                    batch.append(slot).map_err(|what| corrupt("events", format!("cursor {}", place.first_cursor), what))?;
                events.extend(events_of(&append, place.first_cursor, batch.at).filter(|event| event.cursor.0 >= next));
                next = place.first_cursor + u64::from(place.events);
                if events.len() >= events_max {
                    events.truncate(events_max);
                    return Ok(events);
                }
            }
        }
        if events.is_empty() {
            return Err(corrupt("events", format!("cursor {next}"), "it is missing"));
        }
        Ok(events)
    }

    /// Events of one stream after a version, and its head: version, snapshot version.
    pub fn read_stream(&self, stream: &Key, after_version: u64, events_max: usize) -> Result<Vec<Event>, ReadError> {
        let core = self.core()?;
        let head = look(&core, stream)?;
        events(&core, stream, &head, after_version, events_max)
    }

    /// Every stream of a noun, and its version.
    pub fn streams(&self, noun: &str) -> Result<Vec<(Key, u64)>, ReadError> {
        let core = self.core()?;
        let mut found = core.disk.machine.lock().streams(noun);
        let txn = core.disk.db.begin_read().map_err(storage)?;
        let table = txn.open_table(STREAMS).map_err(storage)?;
        let (from, to) = (format!("{noun}_"), format!("{noun}`"));
        for row in table.range(from.as_str()..to.as_str()).map_err(storage)? {
            let (stream, value) = row.map_err(storage)?;
            let row = super::machine::decode_head(stream.value(), value.value())?;
            // What is in memory is newer.
            found.entry(Key::trusted(stream.value())).or_insert(row.version);
        }
        Ok(found.into_iter().filter(|(_, version)| *version > 0).collect())
    }

    pub(super) async fn replay(&self, stream: &Key, incarnation: u64) -> Result<Life, ReadError> {
        let core = self.core()?;
        let head = look(&core, stream)?;
        let few = head.recent.iter().map(Chunk::appends).sum::<usize>() <= REPLAY_AT_ONCE;
        let stream = stream.clone();
        let read = move || -> Result<Life, ReadError> {
            let snapshot = snapshot(&core, &stream, &head)?;
            let events = events(&core, &stream, &head, head.snapshot_version, usize::MAX)?;
            Ok(Life { incarnation, version: head.version, snapshot, events })
        };
        if few {
            return read();
        }
        tokio::task::spawn_blocking(read).await.map_err(storage)?
    }

    /// Follows the ledger after a cursor.
    pub fn tail(&self, after: Cursor) -> Tail {
        Tail { ledger: self.clone(), after, head: self.inner.head.subscribe() }
    }
}

/// A stream's head as it is now.
struct Look {
    version: u64,
    snapshot_version: u64,
    snapshot: Option<StreamSnapshot>,
    /// Positions that may not be in the tables, in order.
    recent: Vec<Chunk>,
}

fn look(core: &Core, stream: &Key) -> Result<Look, ReadError> {
    let mut machine = core.disk.machine.lock();
    let head = machine.head(&core.disk.db, stream)?;
    Ok(Look {
        version: head.row.version,
        snapshot_version: head.row.snapshot_version,
        snapshot: head.snapshot.clone().or_else(|| head.in_hand_snapshot.clone()),
        recent: head.in_hand_chunks.iter().chain(&head.sealed).chain([&head.row.chunk]).cloned().collect(),
    })
}

fn snapshot(core: &Core, stream: &Key, head: &Look) -> Result<Option<(u64, StreamSnapshot)>, ReadError> {
    if head.snapshot_version == 0 {
        return Ok(None);
    }
    if let Some(snapshot) = &head.snapshot {
        return Ok(Some((head.snapshot_version, snapshot.clone())));
    }
    let txn = core.disk.db.begin_read().map_err(storage)?;
    let table = txn.open_table(SNAPSHOTS).map_err(storage)?;
    let Some(row) = table.get(stream.as_str()).map_err(storage)? else {
        return Err(corrupt("stream_snapshots", stream.as_str(), "it is missing"));
    };
    let (named, version, snapshot): (String, u64, StreamSnapshot) =
        unframe(row.value()).map_err(|what| corrupt("stream_snapshots", stream.as_str(), what))?;
    // A newer one may have been written since we looked; its version goes with it.
    if named != stream.as_str() || version < head.snapshot_version {
        return Err(corrupt(
            "stream_snapshots",
            stream.as_str(),
            format!("it is of {named} at version {version}, should be at {}", head.snapshot_version),
        ));
    }
    Ok(Some((version, snapshot)))
}

fn events(core: &Core, stream: &Key, head: &Look, after_version: u64, events_max: usize) -> Result<Vec<Event>, ReadError> {
    if after_version >= head.version || events_max == 0 {
        return Ok(Vec::new());
    }
    let mut chunks = Vec::new();
    let recent_after = head.recent.first().map_or(head.version, |chunk| chunk.after);
    if after_version < recent_after {
        let txn = core.disk.db.begin_read().map_err(storage)?;
        let table = txn.open_table(CHUNKS).map_err(storage)?;
        let name = stream.as_str();
        let first = match table.range((name, 0)..=(name, after_version)).map_err(storage)?.next_back() {
            Some(row) => row.map_err(storage)?.0.value().1,
            None => 0,
        };
        for row in table.range((name, first)..(name, recent_after)).map_err(storage)? {
            let (key, value) = row.map_err(storage)?;
            chunks.push(decode_chunk(name, key.value().1, value.value())?);
        }
    }
    let mut events: Vec<Event> = Vec::new();
    let mut reader = Reader { core, stream, table: None, batch: None };
    let mut next = after_version;
    for position in chunks.iter().chain(&head.recent).flat_map(Chunk::positions) {
        if position.after + position.events <= next {
            continue;
        }
        if position.after > next {
            return Err(reader.missing(next));
        }
        events.extend(reader.read(position)?.into_iter().filter(|event| event.version > after_version));
        next = position.after + position.events;
        if events.len() >= events_max {
            events.truncate(events_max);
            return Ok(events);
        }
    }
    if next < head.version {
        return Err(reader.missing(next));
    }
    Ok(events)
}

/// Takes single appends out of their batches; keeps the last batch, as neighbours often share one.
struct Reader<'a> {
    core: &'a Core,
    stream: &'a Key,
    table: Option<ReadOnlyTable<u64, &'static [u8]>>,
    batch: Option<Events>,
}

impl Reader<'_> {
    fn missing(&self, after: u64) -> ReadError {
        let compacted = self.core.disk.compacted.load(Ordering::Acquire);
        if compacted > 0 {
            return ReadError::Compacted { oldest: Cursor(compacted) };
        }
        corrupt("events", format!("{} after version {after}", self.stream), "they are missing")
    }

    fn read(&mut self, position: Position) -> Result<Vec<Event>, ReadError> {
        let cursor = position.first_cursor;
        if let Some(events) = usize::try_from(position.events).ok().and_then(|n| self.core.disk.ring.get(cursor, n)) {
            return Ok(events);
        }
        if self.batch.as_ref().is_none_or(|batch| batch.slot_of(cursor).is_none()) {
            if self.table.is_none() {
                let txn = self.core.disk.db.begin_read().map_err(storage)?;
                self.table = Some(txn.open_table(EVENTS).map_err(storage)?);
            }
            let Some(table) = &self.table else { return Err(self.missing(position.after)) };
            let Some(row) = table.range(..=cursor).map_err(storage)?.next_back() else {
                return Err(self.missing(position.after));
            };
            let (key, value) = row.map_err(storage)?;
            self.batch = Some(decode(key.value(), value.value())?);
        }
        let Some((batch, slot)) = self.batch.as_ref().and_then(|batch| Some((batch, batch.slot_of(cursor)?))) else {
            return Err(self.missing(position.after));
        };
        let append = batch.append(slot).map_err(|what| corrupt("events", format!("cursor {cursor}"), what))?;
        if append.stream != *self.stream || append.expected_version != position.after {
            return Err(corrupt(
                "events",
                format!("cursor {cursor}"),
                format!("it is of {}, should be of {}", append.stream, self.stream),
            ));
        }
        Ok(events_of(&append, cursor, batch.at).collect())
    }
}

/// Events one `next` gives at most.
const TAIL_EVENTS_MAX: usize = 4096;

/// What follows a cursor, batch by batch. Holds no events: who is slow reads older ones from disk.
pub struct Tail {
    ledger: Ledger,
    after: Cursor,
    head: watch::Receiver<Cursor>,
}

impl Tail {
    /// The next events; waits while there are none. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Event>, ReadError> {
        let after = self.after;
        self.head.wait_for(|head| *head > after).await.map_err(|_| ReadError::Stopped)?;
        let events = self.ledger.read(after, TAIL_EVENTS_MAX)?;
        if let Some(last) = events.last() {
            self.after = last.cursor;
        }
        Ok(events)
    }

    /// The last event given.
    pub fn cursor(&self) -> Cursor {
        self.after
    }
}
