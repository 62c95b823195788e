//! Replays and tails: events after a cursor, in order, none missed and none twice.

use std::sync::atomic::Ordering;

use redb::ReadableDatabase;
use tokio::sync::watch;

use super::{
    Cursor, Event, Ledger, ReadError,
    disk::{EVENTS, RUNS, storage},
    record::{Batch, unframe},
};
use crate::id::Key;

impl Ledger {
    /// Up to about `events_max` events after `after` (a batch is not cut when it comes from memory); empty at the head.
    pub fn read(&self, after: Cursor, events_max: usize) -> Result<Vec<Event>, ReadError> {
        let head = self.head();
        if after >= head {
            return Ok(Vec::new());
        }
        if let Some(events) = self.read_ring(after, events_max) {
            return Ok(events);
        }
        let compacted = self.inner.shared.compacted.load(Ordering::Acquire);
        if after.0 < compacted {
            return Err(ReadError::Compacted { oldest: Cursor(compacted) });
        }
        if self.inner.disk.written.load(Ordering::Acquire) <= after.0 {
            self.inner.disk.flush().map_err(storage)?;
        }
        let txn = self.inner.disk.db.begin_read().map_err(storage)?;
        let table = txn.open_table(EVENTS).map_err(storage)?;
        // The batch that holds the next event may begin before it.
        let first = match table.range(..=after.0 + 1).map_err(storage)?.next_back() {
            Some(row) => row.map_err(storage)?.0.value(),
            None => 0,
        };
        let mut events = Vec::new();
        for row in table.range(first..).map_err(storage)? {
            let (key, bytes) = row.map_err(storage)?;
            let batch = decode(key.value(), bytes.value())?;
            for run in &batch.runs {
                events.extend(run.read(batch.at).filter(|event| event.cursor > after));
            }
            if events.len() >= events_max {
                events.truncate(events_max);
                break;
            }
        }
        Ok(events)
    }

    /// From memory, if it reaches back far enough.
    fn read_ring(&self, after: Cursor, events_max: usize) -> Option<Vec<Event>> {
        let ring = self.inner.shared.ring.read();
        let first = ring.batches.front()?.first()?.cursor;
        if after.0 + 1 < first.0 {
            return None;
        }
        // Batches are in order of cursors: skip those that end before.
        let start = ring.batches.partition_point(|batch| batch.last().is_none_or(|last| last.cursor <= after));
        let mut events = Vec::new();
        for batch in ring.batches.range(start..) {
            let from = batch.partition_point(|event| event.cursor <= after);
            events.extend(batch[from..].iter().take(events_max - events.len()).cloned());
            if events.len() >= events_max {
                break;
            }
        }
        Some(events)
    }

    /// Events of one stream after a version.
    pub fn read_stream(&self, stream: &Key, after_version: u64, events_max: usize) -> Result<Vec<Event>, ReadError> {
        let Some(head) = self.inner.shared.heads.read().get(stream).copied() else { return Ok(Vec::new()) };
        if head.version <= after_version {
            return Ok(Vec::new());
        }
        self.inner.disk.flush().map_err(storage)?;
        let txn = self.inner.disk.db.begin_read().map_err(storage)?;
        let runs = txn.open_table(RUNS).map_err(storage)?;
        let table = txn.open_table(EVENTS).map_err(storage)?;
        let name = stream.as_str();
        let first = match runs.range((name, 0)..=(name, after_version + 1)).map_err(storage)?.next_back() {
            Some(row) => row.map_err(storage)?.0.value().1,
            None => 0,
        };
        let mut events: Vec<Event> = Vec::new();
        let mut last_key = None;
        for row in runs.range((name, first)..=(name, u64::MAX)).map_err(storage)? {
            let (_, key) = row.map_err(storage)?;
            let key = key.value();
            // Several runs of one stream may be in one batch; it is read once.
            if last_key.replace(key) == Some(key) {
                continue;
            }
            let Some(bytes) = table.get(key).map_err(storage)? else {
                return Err(ReadError::Corrupt { table: "events", position: key.to_string(), what: format!("the events of {stream} are missing") });
            };
            let batch = decode(key, bytes.value())?;
            for run in batch.runs.iter().filter(|run| run.stream == *stream) {
                events.extend(run.read(batch.at).filter(|event| event.version > after_version));
            }
            if events.len() >= events_max {
                events.truncate(events_max);
                break;
            }
        }
        Ok(events)
    }

    /// Follows the ledger after a cursor.
    pub fn tail(&self, after: Cursor) -> Tail {
        Tail { ledger: self.clone(), after, head: self.inner.shared.head.subscribe() }
    }
}

fn decode(key: u64, bytes: &[u8]) -> Result<Batch, ReadError> {
    unframe(bytes).map_err(|what| ReadError::Corrupt { table: "events", position: format!("cursor {key}"), what })
}

/// Events one `next` gives at most, but for a batch that is larger.
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
