//! Replays and tails: events after a cursor or a version, in order, none missed and none twice.

use std::sync::atomic::Ordering;

use redb::{ReadOnlyTable, ReadableDatabase};
use tokio::sync::watch;

use super::{
    Cursor, Event, Ledger, Life, ReadError, SnapshotParts, StreamSnapshot,
    core::Core,
    head::{Chunk, Position},
    open::{decode_chunk, read_snapshot},
    pieces::row_of,
    record::{Events, events_of},
    tables::{CHUNKS, EVENTS, SNAPSHOTS, STREAMS, corrupt, storage},
};
use crate::{clock::WallMs, id::Key};

/// The number of appends up to which a replay runs at once; longer ones do not run on a thread that others wait for.
const REPLAY_AT_ONCE: usize = 64;
/// The bytes of bodies from which on a reader gets fewer events than it asked for; the last append is never cut.
const READ_BYTES_WANTED: usize = 8 << 20;

fn decode(key: u64, value: &[u8]) -> Result<Events, ReadError> {
    Events::read(key, value).map_err(|what| corrupt("events", format!("cursor {key}"), what))
}

impl Ledger {
    /// Reads up to `events_max` events after `after`, fewer where they are large, and none at the head. May block on the disk.
    /// Errors: `Compacted` if the next event is no longer kept.
    pub fn read(&self, after: Cursor, events_max: usize) -> Result<Vec<Event>, ReadError> {
        if after >= self.head() || events_max == 0 {
            return Ok(Vec::new());
        }
        if let Some(events) = self.inner.ring.load().after(after, events_max) {
            return Ok(events);
        }
        // What the ring did not have is in the tables by now; but for a store that was opened again, which takes in anew what
        // was behind its last checkpoint.
        let core = self.core()?;
        if after.0 >= core.disk.machine.lock().meta.head {
            return Ok(Vec::new());
        }
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
        let (mut events, mut bytes) = (Vec::new(), 0);
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
                for event in events_of(&append, place.first_cursor, batch.at).filter(|event| event.cursor.0 >= next) {
                    bytes += event.body.len();
                    events.push(event);
                }
                next = place.first_cursor + u64::from(place.events);
                if events.len() >= events_max || bytes >= READ_BYTES_WANTED {
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

    /// Returns the last event that is older than a moment, by the clocks of the nodes that wrote; 0 if there is none that is
    /// kept.
    pub fn older_than(&self, at: WallMs) -> Result<Cursor, ReadError> {
        let oldest = self.core()?.disk.compacted.load(Ordering::Acquire);
        let (mut low, mut high) = (oldest, self.head().0);
        // All up to `low` are older, and none behind `high` is.
        while low < high {
            let middle = low + (high - low) / 2;
            match self.read(Cursor(middle), 1)?.first() {
                Some(event) if event.at < at => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(Cursor(if low > oldest { low } else { 0 }))
    }

    /// Estimates the bytes that an event takes on disk, from a sample of those that are kept; absent while there are none there.
    pub fn bytes_per_event(&self) -> Result<Option<f64>, ReadError> {
        const SAMPLES: u64 = 64;
        let core = self.core()?;
        let oldest = core.disk.compacted.load(Ordering::Acquire);
        let kept = core.disk.written.load(Ordering::Acquire).saturating_sub(oldest);
        let txn = core.disk.db.begin_read().map_err(storage)?;
        let table = txn.open_table(EVENTS).map_err(storage)?;
        let (mut bytes, mut events) = (0_u64, 0_u64);
        for sample in 0..SAMPLES.min(kept) {
            let cursor = oldest + 1 + kept / SAMPLES.min(kept) * sample;
            let Some(row) = table.range(..=cursor).map_err(storage)?.next_back() else { continue };
            let (key, value) = row.map_err(storage)?;
            let value = decode(key.value(), value.value()).map(|row| (row.last + 1 - row.first, value.value().len()));
            // One that is damaged is told by who reads it for itself.
            if let Ok((count, length)) = value {
                bytes += length as u64;
                events += count;
            }
        }
        Ok((events > 0).then(|| bytes as f64 / events as f64))
    }

    /// Reads up to `events_max` events of one stream after a version.
    pub fn read_stream(&self, stream: &Key, after_version: u64, events_max: usize) -> Result<Vec<Event>, ReadError> {
        let core = self.core()?;
        let head = look(&core, stream)?;
        events(&core, stream, &head, after_version, events_max)
    }

    /// Lists every stream of a noun, with its version.
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

    /// Returns what the snapshot of a stream consists of, for a reader that has no life of it; none if there is none in pieces.
    pub fn snapshot_parts(&self, stream: &Key) -> Result<Option<SnapshotParts>, ReadError> {
        let head = look(&*self.core()?, stream)?;
        Ok((head.pieces > 0).then_some(SnapshotParts { version: head.snapshot_version, count: head.pieces }))
    }

    /// Reads a piece of the snapshot that a life was told of. Blocks while it reads.
    ///
    /// Errors: `Corrupt` if it is damaged, or gone because a newer life took a snapshot since.
    pub fn snapshot_part(&self, stream: &Key, parts: SnapshotParts, number: u32) -> Result<StreamSnapshot, ReadError> {
        let core = self.core()?;
        {
            let mut machine = core.disk.machine.lock();
            let head = machine.head(&core.disk.db, stream)?;
            let place = (parts.version, number);
            if let Some(part) = head.parts.get(&place).or_else(|| head.in_hand_parts.get(&place)) {
                return Ok(part.clone());
            }
        }
        let txn = core.disk.db.begin_read().map_err(storage)?;
        let table = txn.open_table(SNAPSHOTS).map_err(storage)?;
        read_snapshot(&table, &row_of(stream.as_str(), parts.version, number), parts.version).map(|(_, part)| part)
    }

    pub(super) async fn replay(&self, stream: &Key, incarnation: u64, events_max: usize) -> Result<Life, ReadError> {
        let core = self.core()?;
        let head = look(&core, stream)?;
        let few = head.recent.iter().map(Chunk::appends).sum::<usize>() <= REPLAY_AT_ONCE;
        let stream = stream.clone();
        let read = move || -> Result<Life, ReadError> {
            let snapshot = snapshot(&core, &stream, &head)?;
            let parts = SnapshotParts { version: head.snapshot_version, count: head.pieces };
            let parts = Some(parts).filter(|parts| parts.count > 0);
            let events = events(&core, &stream, &head, head.snapshot_version, events_max)?;
            Ok(Life { incarnation, version: head.version, snapshot, parts, events })
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

/// The head of a stream as it is now.
struct Look {
    version: u64,
    snapshot_version: u64,
    /// The number of pieces of its snapshot; 0 if it is kept whole.
    pieces: u32,
    snapshot: Option<StreamSnapshot>,
    /// The positions that may not be in the tables, in order.
    recent: Vec<Chunk>,
}

fn look(core: &Core, stream: &Key) -> Result<Look, ReadError> {
    let mut machine = core.disk.machine.lock();
    let head = machine.head(&core.disk.db, stream)?;
    Ok(Look {
        version: head.row.version,
        snapshot_version: head.row.snapshot_version,
        pieces: head.row.pieces.whole,
        snapshot: head.snapshot.clone().or_else(|| head.in_hand_snapshot.clone()),
        recent: head.in_hand_chunks.iter().chain(&head.sealed).chain([&head.row.chunk]).cloned().collect(),
    })
}

fn snapshot(core: &Core, stream: &Key, head: &Look) -> Result<Option<(u64, StreamSnapshot)>, ReadError> {
    if head.snapshot_version == 0 || head.pieces > 0 {
        return Ok(None);
    }
    if let Some(snapshot) = &head.snapshot {
        return Ok(Some((head.snapshot_version, snapshot.clone())));
    }
    let txn = core.disk.db.begin_read().map_err(storage)?;
    let table = txn.open_table(SNAPSHOTS).map_err(storage)?;
    // A newer one may have been written since we looked; its version goes with it.
    read_snapshot(&table, stream.as_str(), head.snapshot_version).map(Some)
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
    let (mut events, mut bytes): (Vec<Event>, usize) = (Vec::new(), 0);
    let mut reader = Reader { core, stream, table: None, batch: None };
    let mut next = after_version;
    for position in chunks.iter().chain(&head.recent).flat_map(Chunk::positions) {
        if position.after + position.events <= next {
            continue;
        }
        if position.after > next {
            return Err(reader.missing(next));
        }
        for event in reader.read(position)?.into_iter().filter(|event| event.version > after_version) {
            bytes += event.body.len();
            events.push(event);
        }
        next = position.after + position.events;
        if events.len() >= events_max {
            events.truncate(events_max);
            return Ok(events);
        }
        if events_max < usize::MAX && bytes >= READ_BYTES_WANTED {
            return Ok(events);
        }
    }
    if next < head.version {
        return Err(reader.missing(next));
    }
    Ok(events)
}

/// A reader that takes single appends out of their batches; it keeps the last batch, as neighbours often share one.
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

/// The largest number of events that one `next` gives.
const TAIL_EVENTS_MAX: usize = 4096;

/// The pause between looks at a store that was opened again and has not taken in what was there before.
const TAKEN_IN_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

/// The events that follow a cursor, batch by batch. It holds none: a slow reader gets older ones from disk.
pub struct Tail {
    ledger: Ledger,
    after: Cursor,
    head: watch::Receiver<Cursor>,
}

impl Tail {
    /// Waits for the next events. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Event>, ReadError> {
        let after = self.after;
        self.head.wait_for(|head| *head > after).await.map_err(|_| ReadError::Stopped)?;
        loop {
            let events = self.ledger.read(after, TAIL_EVENTS_MAX)?;
            if let Some(last) = events.last() {
                self.after = last.cursor;
                return Ok(events);
            }
            tokio::time::sleep(TAKEN_IN_AGAIN).await;
        }
    }

    /// Returns the cursor of the last event given.
    pub fn cursor(&self) -> Cursor {
        self.after
    }
}
