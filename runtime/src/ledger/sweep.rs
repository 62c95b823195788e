//! Retention: takes out events that are no longer kept, a little at a time beside the writer's other work.
//!
//! What a stream's replay needs, the events after its snapshot, stays however old it is.

use redb::{ReadableTable, WriteTransaction};

use super::{
    machine::Meta,
    record::{Events, frame, write_events},
    tables::{CHUNKS, EVENTS, META, META_MACHINE},
    writer::Disk,
};
use crate::id::Key;

/// Entries looked at in one step.
const ENTRIES_PER_STEP: usize = 64;

pub fn wanted(meta: &Meta) -> bool {
    meta.swept < meta.compacted
}

/// Does one step; tells how far it came.
pub fn step(disk: &Disk, txn: &WriteTransaction, meta: &Meta) -> Result<Option<u64>, Box<dyn std::error::Error>> {
    if !wanted(meta) {
        return Ok(None);
    }
    let mut events = txn.open_table(EVENTS)?;
    // What reached beyond the last compaction begins before it ended.
    let from = match events.range(..=meta.swept + 1)?.next_back() {
        Some(row) => row?.0.value(),
        None => 0,
    };
    let mut rows = Vec::new();
    for row in events.range(from..=meta.compacted)?.take(ENTRIES_PER_STEP) {
        let (key, value) = row?;
        rows.push(Events::read(key.value(), value.value())?);
    }
    let ended = rows.len() < ENTRIES_PER_STEP;
    let mut swept = meta.swept;
    let mut shortened: Vec<(Key, u64)> = Vec::new();
    for row in rows {
        if row.last > meta.compacted {
            break;
        }
        let (mut places, mut bodies) = (Vec::new(), Vec::new());
        for (slot, place) in row.places.iter().enumerate() {
            let append = row.append(slot)?;
            let snapshot_version = disk.machine.lock().head(&disk.db, &append.stream)?.row.snapshot_version;
            if append.expected_version + u64::from(place.events) > snapshot_version {
                places.push(*place);
                bodies.push(row.bytes(slot));
            } else {
                shortened.push((append.stream, snapshot_version));
            }
        }
        if places.is_empty() {
            events.remove(row.first)?;
        } else if places.len() < row.places.len() {
            events.insert(row.first, write_events(row.first, row.last, row.at, &places, &bodies).as_slice())?;
        }
        swept = swept.max(row.last);
    }
    drop(events);
    shortened.sort_unstable();
    shortened.dedup();
    let mut chunks = txn.open_table(CHUNKS)?;
    for (stream, snapshot_version) in shortened {
        let begins: Vec<u64> = chunks
            .range((stream.as_str(), 0)..=(stream.as_str(), snapshot_version))?
            .map(|row| Ok(row?.0.value().1))
            .collect::<Result<_, redb::StorageError>>()?;
        // A chunk ends where the next begins; the last of these may reach beyond the snapshot.
        for after in begins.iter().rev().skip(1) {
            chunks.remove((stream.as_str(), *after))?;
        }
    }
    drop(chunks);
    if ended {
        // A batch that reaches beyond goes with the next compaction.
        swept = meta.compacted;
    }
    let mut meta = meta.clone();
    meta.swept = swept;
    txn.open_table(META)?.insert(META_MACHINE, frame(&meta)?.as_slice())?;
    Ok(Some(swept))
}
