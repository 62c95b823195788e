//! Retention: it removes events that are no longer kept, a little at a time beside the writer's other work.
//!
//! What a stream's replay needs, the events after its snapshot, stays however old it is. It is looked at again after each
//! further compaction: by then a snapshot may stand for it.

use redb::{ReadableTable, Table, WriteTransaction};

use super::{
    machine::Meta,
    record::{Events, frame, write_events},
    tables::{CHUNKS, EVENTS, META, META_MACHINE},
    writer::Disk,
};
use crate::id::Key;

/// The number of entries looked at in one step.
const ENTRIES_PER_STEP: usize = 64;
/// The number of entries per step that were looked at before: most of them stay.
const ENTRIES_AGAIN_PER_STEP: usize = 512;

/// The progress of the look at what was left over before, in this life of the ledger. Nothing is lost with it: the next
/// compaction begins another.
#[derive(Debug)]
pub struct Again {
    /// The compaction that the last look was for.
    compacted: u64,
    /// The cursor up to which it has looked, while a look is under way.
    at: Option<u64>,
}

impl Again {
    /// Makes it so that nothing is left over of a compaction that an earlier life looked at, until there is another.
    pub fn after(meta: &Meta) -> Self {
        Self { compacted: meta.compacted, at: None }
    }

    fn begin_if_due(&mut self, meta: &Meta) {
        if meta.compacted > self.compacted {
            (self.compacted, self.at) = (meta.compacted, (meta.swept > 0).then_some(0));
        }
    }
}

/// Tells whether there is something to sweep, or a look under way.
pub fn wanted(meta: &Meta, again: &Again) -> bool {
    meta.swept < meta.compacted || again.at.is_some()
}

/// Does one step; tells how far it came, if that is farther than any before.
pub fn step(
    disk: &Disk,
    txn: &WriteTransaction,
    meta: &Meta,
    again: &mut Again,
) -> Result<Option<u64>, Box<dyn std::error::Error>> {
    again.begin_if_due(meta);
    if let Some(at) = again.at {
        again.at = look_again(disk, txn, at, meta.swept)?;
        return Ok(None);
    }
    if meta.swept >= meta.compacted {
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
    let mut shortened = Vec::new();
    for row in rows.into_iter().take_while(|row| row.last <= meta.compacted) {
        shorten(disk, &mut events, &row, &mut shortened)?;
        swept = swept.max(row.last);
    }
    drop(events);
    let_go_of_positions(txn, shortened)?;
    if ended {
        // A batch that reaches beyond goes with the next compaction.
        swept = meta.compacted;
    }
    let mut meta = meta.clone();
    meta.swept = swept;
    txn.open_table(META)?.insert(META_MACHINE, frame(&meta)?.as_slice())?;
    Ok(Some(swept))
}

/// Looks at the next rows after `at` that stayed before; tells how far it came, until all have been looked at.
fn look_again(disk: &Disk, txn: &WriteTransaction, at: u64, swept: u64) -> Result<Option<u64>, Box<dyn std::error::Error>> {
    let mut events = txn.open_table(EVENTS)?;
    let mut rows = Vec::new();
    for row in events.range(at..=swept)?.take(ENTRIES_AGAIN_PER_STEP) {
        let (key, value) = row?;
        rows.push(Events::read(key.value(), value.value())?);
    }
    let ended = rows.len() < ENTRIES_AGAIN_PER_STEP;
    let (mut next, mut shortened) = (at, Vec::new());
    for row in rows.into_iter().take_while(|row| row.last <= swept) {
        shorten(disk, &mut events, &row, &mut shortened)?;
        next = row.first + 1;
    }
    drop(events);
    let_go_of_positions(txn, shortened)?;
    Ok((!ended).then_some(next))
}

/// Takes out of a row what snapshots stand for, and says of which streams and versions that was.
fn shorten(
    disk: &Disk,
    events: &mut Table<'_, u64, &'static [u8]>,
    row: &Events,
    shortened: &mut Vec<(Key, u64)>,
) -> Result<(), Box<dyn std::error::Error>> {
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
    Ok(())
}

/// Removes the positions of events that are not there any more.
fn let_go_of_positions(txn: &WriteTransaction, mut shortened: Vec<(Key, u64)>) -> Result<(), Box<dyn std::error::Error>> {
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
    Ok(())
}
