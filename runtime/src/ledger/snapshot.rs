//! The snapshot: the state of the whole ledger as another node takes it over, everything but the Raft log.
//!
//! The tables are the snapshot. A sender reads them page by page under one read transaction; a receiver stages what comes
//! in a file of its own, and copies it in one commit when it is whole. Neither ever holds more than a page in memory. Each
//! row keeps its own checksum, and is checked before it is copied.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use serde_bytes::ByteBuf;

use super::{
    ReadError,
    machine::{Meta, decode_head},
    raft::wire::Rows,
    record::{Events, body, frame, unframe},
    tables::{self, CHUNKS, EVENTS, META, META_MACHINE, SNAPSHOTS, STREAMS, corrupt, storage},
    writer::Disk,
};

/// The bytes from which on one part takes no more rows; it has at least one.
const PART_BYTES: usize = 1 << 20;
/// The file in which an incoming snapshot is staged, beside the ledger's file.
const STAGED_FILE: &str = "incoming.redb";

/// The rows of a snapshot and its record. The fields are dropped from the top: the rows before the file they are in.
#[derive(Default)]
pub struct Image {
    pub meta: Meta,
    rows: Option<Arc<ReadTransaction>>,
    _database: Option<Database>,
    _staged: Option<Staged>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image(up to event {})", self.meta.head)
    }
}

impl Image {
    /// Makes the snapshot without its rows.
    pub fn only(meta: Meta) -> Self {
        Self { meta, ..Self::default() }
    }

    /// Makes the snapshot of what the tables hold; the writer must have flushed all heads before.
    pub fn of(disk: &Disk) -> Result<Self, ReadError> {
        Self::read(disk.db.begin_read().map_err(storage)?)
    }

    fn read(txn: ReadTransaction) -> Result<Self, ReadError> {
        // Of the same transaction as the rows.
        let meta = match txn.open_table(META).map_err(storage)?.get(META_MACHINE).map_err(storage)? {
            Some(row) => unframe(row.value()).map_err(|what| corrupt("meta", META_MACHINE, what))?,
            None => Meta::default(),
        };
        Ok(Self { meta, rows: Some(Arc::new(txn)), ..Self::default() })
    }

    /// Writes the machine's own record, as it is on disk.
    pub fn machine(&self) -> Result<Vec<u8>, String> {
        frame(&self.meta).map_err(|error| error.to_string())
    }

    /// Returns the rows from the beginning, to be read a page at a time.
    pub fn parts(&self) -> Parts {
        Parts { rows: self.rows.clone(), at: At::Events(0) }
    }

    /// Replaces what the tables hold by rows that check.
    pub fn write(&self, txn: &WriteTransaction) -> Result<(), Box<dyn std::error::Error>> {
        let Some(rows) = &self.rows else { return Err("a snapshot without rows cannot be installed".into()) };
        let mut events = txn.open_table(EVENTS)?;
        events.retain(|_, _| false)?;
        for row in rows.open_table(EVENTS)?.iter()? {
            let (key, value) = row?;
            Events::read(key.value(), value.value())?;
            events.insert(key.value(), value.value())?;
        }
        let mut streams = txn.open_table(STREAMS)?;
        streams.retain(|_, _| false)?;
        for row in rows.open_table(STREAMS)?.iter()? {
            let (key, value) = row?;
            decode_head(key.value(), value.value())?;
            streams.insert(key.value(), value.value())?;
        }
        let mut chunks = txn.open_table(CHUNKS)?;
        chunks.retain(|_, _| false)?;
        for row in rows.open_table(CHUNKS)?.iter()? {
            let (key, value) = row?;
            body(value.value())?;
            chunks.insert(key.value(), value.value())?;
        }
        let mut snapshots = txn.open_table(SNAPSHOTS)?;
        snapshots.retain(|_, _| false)?;
        for row in rows.open_table(SNAPSHOTS)?.iter()? {
            let (key, value) = row?;
            body(value.value())?;
            snapshots.insert(key.value(), value.value())?;
        }
        txn.open_table(META)?.insert(META_MACHINE, frame(&self.meta)?.as_slice())?;
        Ok(())
    }
}

#[derive(Clone)]
enum At {
    /// The next key.
    Events(u64),
    /// The key after which to go on.
    Streams(Option<String>),
    Chunks(Option<(String, u64)>),
    Snapshots(Option<String>),
    Done,
}

/// The rows of a snapshot, a page at a time.
pub struct Parts {
    rows: Option<Arc<ReadTransaction>>,
    at: At,
}

impl Parts {
    /// Reads the next page on a thread of its own; `None` at the end. Dropping the future reads that page again next time.
    pub async fn next(&mut self) -> Result<Option<Rows>, String> {
        let Some(rows) = self.rows.clone() else { return Err("a snapshot without rows cannot be sent".into()) };
        let at = self.at.clone();
        let read = tokio::task::spawn_blocking(move || page(&rows, at)).await.map_err(|error| error.to_string())?;
        let (part, at) = read.map_err(|error: ReadError| error.to_string())?;
        self.at = at;
        Ok(part)
    }
}

fn page(txn: &ReadTransaction, mut at: At) -> Result<(Option<Rows>, At), ReadError> {
    use std::ops::Bound::{Excluded, Unbounded};
    loop {
        let mut bytes = 0;
        match at {
            At::Events(from) => {
                let mut rows = Vec::new();
                for row in txn.open_table(EVENTS).map_err(storage)?.range(from..).map_err(storage)? {
                    let (key, value) = row.map_err(storage)?;
                    bytes += value.value().len();
                    rows.push((key.value(), ByteBuf::from(value.value())));
                    if bytes >= PART_BYTES {
                        break;
                    }
                }
                match rows.last() {
                    Some((last, _)) => {
                        let next = At::Events(last + 1);
                        return Ok((Some(Rows::Events(rows)), next));
                    }
                    None => at = At::Streams(None),
                }
            }
            At::Streams(ref after) | At::Snapshots(ref after) => {
                let streams = matches!(at, At::Streams(_));
                let table = txn.open_table(if streams { STREAMS } else { SNAPSHOTS }).map_err(storage)?;
                let from = after.as_deref().map_or(Unbounded, Excluded);
                let mut rows = Vec::new();
                for row in table.range::<&str>((from, Unbounded)).map_err(storage)? {
                    let (key, value) = row.map_err(storage)?;
                    bytes += value.value().len() + key.value().len();
                    rows.push((key.value().to_owned(), ByteBuf::from(value.value())));
                    if bytes >= PART_BYTES {
                        break;
                    }
                }
                let last = rows.last().map(|(last, _)| last.clone());
                match (last, streams) {
                    (Some(last), true) => return Ok((Some(Rows::Streams(rows)), At::Streams(Some(last)))),
                    (Some(last), false) => return Ok((Some(Rows::Snapshots(rows)), At::Snapshots(Some(last)))),
                    (None, true) => at = At::Chunks(None),
                    (None, false) => at = At::Done,
                }
            }
            At::Chunks(ref after) => {
                let table = txn.open_table(CHUNKS).map_err(storage)?;
                let from = after.as_ref().map_or(Unbounded, |(stream, at)| Excluded((stream.as_str(), *at)));
                let mut rows = Vec::new();
                for row in table.range::<(&str, u64)>((from, Unbounded)).map_err(storage)? {
                    let (key, value) = row.map_err(storage)?;
                    let (stream, at) = key.value();
                    bytes += value.value().len() + stream.len();
                    rows.push((stream.to_owned(), at, ByteBuf::from(value.value())));
                    if bytes >= PART_BYTES {
                        break;
                    }
                }
                let last = rows.last().map(|(stream, at, _)| (stream.clone(), *at));
                match last {
                    Some(last) => return Ok((Some(Rows::Chunks(rows)), At::Chunks(Some(last)))),
                    None => at = At::Snapshots(None),
                }
            }
            At::Done => return Ok((None, At::Done)),
        }
    }
}

/// The file of an incoming snapshot; it is removed with this.
struct Staged {
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // The next one replaces it if this fails.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A snapshot that comes in part by part.
pub struct Staging {
    db: Database,
    staged: Staged,
    meta: Meta,
    parts: u64,
}

type Step<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

impl Staging {
    /// Begins to stage a snapshot in `dir`; what an earlier one left there is replaced.
    pub fn begin(dir: &Path, machine: &[u8]) -> Step<Self> {
        let meta = unframe(machine)?;
        let staged = Staged { path: dir.join(STAGED_FILE) };
        match std::fs::remove_file(&staged.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let db = Database::builder().set_cache_size(16 << 20).create(&staged.path)?;
        let txn = db.begin_write()?;
        tables::create(&txn)?;
        txn.commit()?;
        Ok(Self { db, staged, meta, parts: 0 })
    }

    /// Takes in the next part. Errors: it is not the one that was due, or the disk failed.
    pub fn part(&mut self, number: u64, rows: Rows) -> Step {
        if number != self.parts {
            return Err(format!("part {number} came when {} was due", self.parts).into());
        }
        let mut txn = self.db.begin_write()?;
        // It is thrown away by a crash anyway.
        txn.set_durability(Durability::None)?;
        match rows {
            Rows::Events(rows) => {
                let mut table = txn.open_table(EVENTS)?;
                for (key, value) in rows {
                    table.insert(key, value.as_slice())?;
                }
            }
            Rows::Streams(rows) => {
                let mut table = txn.open_table(STREAMS)?;
                for (key, value) in rows {
                    table.insert(key.as_str(), value.as_slice())?;
                }
            }
            Rows::Chunks(rows) => {
                let mut table = txn.open_table(CHUNKS)?;
                for (stream, after, value) in rows {
                    table.insert((stream.as_str(), after), value.as_slice())?;
                }
            }
            Rows::Snapshots(rows) => {
                let mut table = txn.open_table(SNAPSHOTS)?;
                for (key, value) in rows {
                    table.insert(key.as_str(), value.as_slice())?;
                }
            }
        }
        txn.commit()?;
        self.parts += 1;
        Ok(())
    }

    /// Ends the staging and returns the snapshot. Errors: not all of its parts have come.
    pub fn end(self, parts: u64) -> Step<Image> {
        if parts != self.parts {
            return Err(format!("{} of {parts} parts came", self.parts).into());
        }
        let rows = Arc::new(self.db.begin_read()?);
        Ok(Image { meta: self.meta, rows: Some(rows), _database: Some(self.db), _staged: Some(self.staged) })
    }
}
