//! Opens the ledger's file and checks it: what is damaged is named, never served and never mended by guessing.
//!
//! The store mends what a crash leaves half done, and cannot tell that from damage to its last commit. So a file that
//! was closed in order is first read without the right to change it, and a file that was not is held against the witness.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use openraft::{LogId, Vote};
use redb::{Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::{
    OpenError, ReadError,
    file::{Backend, Guarded, Reserve},
    head::{Chunk, HeadRow, digest},
    machine::{Meta, decode_head},
    record::{Events, read_entry, unframe},
    tables::{self, CHUNKS, EVENTS, LOG, META_MACHINE, META_PURGED, META_VOTE, SNAPSHOTS, STREAMS, corrupt, meta},
};
use crate::id::Key;

/// Opens the file, made if need be. One of up to `verify_bytes_max` is read and checked from end to end.
pub fn open(path: &Path, backend: &Backend, reserve: Arc<Reserve>, verify_bytes_max: u64) -> Result<Database, OpenError> {
    let named = |table: &'static str, position: &str, what: String| OpenError::Corrupt {
        path: path.to_owned(),
        table,
        position: position.to_owned(),
        what,
    };
    let storage = |what: String| OpenError::Storage { path: path.to_owned(), what };
    let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let verify = bytes > 0 && bytes <= verify_bytes_max;
    if bytes > verify_bytes_max {
        tracing::info!(path = %path.display(), bytes, "too large to be checked from end to end at start; each value is checked when it is read");
    }
    let mut walked = false;
    if verify {
        match guard(|| ReadOnlyDatabase::open(path)) {
            Ok(Ok(db)) => {
                let checked = check(path, &db);
                close(db);
                checked?;
                walked = true;
            }
            // It was not closed in order.
            Ok(Err(DatabaseError::RepairAborted)) => {}
            Ok(Err(error)) => return Err(database_error(path, error)),
            Err(panic) => return Err(named("file", "header or tree", panic)),
        }
    }
    let opened = guard(|| {
        let guarded = Guarded::open(path, backend, reserve).map_err(|error| DatabaseError::Storage(error.into()))?;
        Database::builder().set_cache_size(64 << 20).create_with_backend(guarded)
    });
    let mut db = opened.map_err(|panic| named("file", "header or tree", panic))?.map_err(|error| database_error(path, error))?;
    let whole = if verify { verified(path, &mut db, walked) } else { Ok(()) };
    let made = whole.and_then(|()| {
        let made = guard(|| -> Result<(), redb::Error> {
            let txn = db.begin_write()?;
            tables::create(&txn)?;
            Ok(txn.commit()?)
        });
        made.map_err(|panic| named("file", "tree", panic))?.map_err(|error| storage(error.to_string()))
    });
    if let Err(error) = made {
        close(db);
        return Err(error);
    }
    Ok(db)
}

/// Whether the store finds its own bookkeeping right, and all that is in it is; but for what was `walked` already.
fn verified(path: &Path, db: &mut Database, mut walked: bool) -> Result<(), OpenError> {
    match guard(|| db.check_integrity()) {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            tracing::warn!(path = %path.display(), "the store mended its own bookkeeping");
            walked = false;
        }
        Ok(Err(error)) => return Err(database_error(path, error)),
        Err(what) => {
            return Err(OpenError::Corrupt { path: path.to_owned(), table: "file", position: "tree".into(), what });
        }
    }
    if walked { Ok(()) } else { check(path, db) }
}

/// What panicked once may do so again when it is closed: its locks are poisoned. What was found before is what is told.
fn close(db: impl Sized) {
    if let Err(panic) = guard(|| drop(db)) {
        tracing::debug!(panic, "while the damaged store was closed");
    }
}

/// The store may panic on bytes it never wrote.
fn guard<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        format!("the store cannot make sense of it: {}", said.unwrap_or("it panicked"))
    })
}

fn database_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            OpenError::Storage { path, what: error.to_string() }
        }
        other => OpenError::Corrupt { path, table: "file", position: "header or tree".into(), what: other.to_string() },
    }
}

fn check(path: &Path, db: &impl ReadableDatabase) -> Result<(), OpenError> {
    let named = |error: ReadError| match error {
        ReadError::Corrupt { table, position, what } => OpenError::Corrupt { path: path.to_owned(), table, position, what },
        other => OpenError::Corrupt { path: path.to_owned(), table: "file", position: "tree".into(), what: other.to_string() },
    };
    guard(|| walk(db)).unwrap_or_else(|panic| Err(corrupt("file", "tree", panic))).map_err(named)
}

fn broken(error: impl std::fmt::Display) -> ReadError {
    corrupt("file", "tree", error.to_string())
}

/// Reads every value of every table, and whether any is missing.
pub fn walk(db: &impl ReadableDatabase) -> Result<(), ReadError> {
    let txn = db.begin_read().map_err(broken)?;
    if txn.list_tables().map_err(broken)?.next().is_none() {
        // Made, and never used.
        return Ok(());
    }
    let log = txn.open_table(LOG).map_err(broken)?;
    let events = txn.open_table(EVENTS).map_err(broken)?;
    let found: Option<Meta> = meta(db, META_MACHINE)?;
    let vote: Option<Vote<u64>> = meta(db, META_VOTE)?;
    let purged: Option<LogId<u64>> = meta(db, META_PURGED)?;
    let used = !(log.is_empty().map_err(broken)? && events.is_empty().map_err(broken)?);
    if used && (vote.is_none() || found.is_none()) {
        return Err(corrupt("meta", if vote.is_none() { META_VOTE } else { META_MACHINE }, "it is missing"));
    }
    let meta = found.unwrap_or_default();
    let mut next = purged.map_or(0, |purged| purged.index + 1);
    for row in log.iter().map_err(broken)? {
        let (index, value) = row.map_err(broken)?;
        let index = index.value();
        if index != next {
            return Err(corrupt("raft_log", format!("index {next}"), format!("it is missing; the next is {index}")));
        }
        read_entry(index, value.value()).map_err(|what| corrupt("raft_log", format!("index {index}"), what))?;
        next = index + 1;
    }
    if meta.applied.is_some_and(|applied| applied.index >= next) {
        return Err(corrupt("raft_log", format!("index {next}"), "entries that were applied are missing"));
    }
    let mut next = None;
    for row in events.iter().map_err(broken)? {
        let (key, value) = row.map_err(broken)?;
        let key = key.value();
        let wanted = next.unwrap_or(meta.swept + 1);
        if key > meta.swept && key != wanted {
            return Err(corrupt("events", format!("cursor {wanted}"), format!("it is missing; the next is {key}")));
        }
        let read = Events::read(key, value.value()).map_err(|what| corrupt("events", format!("cursor {key}"), what))?;
        next = Some(read.last.max(meta.swept) + 1);
    }
    let last = next.map_or(meta.swept, |next| next - 1);
    if last != meta.head {
        return Err(corrupt("events", format!("cursor {}", last + 1), format!("events up to {} are missing", meta.head)));
    }
    walk_streams(&txn, &meta)
}

fn walk_streams(txn: &redb::ReadTransaction, meta: &Meta) -> Result<(), ReadError> {
    let streams = txn.open_table(STREAMS).map_err(broken)?;
    let chunks = txn.open_table(CHUNKS).map_err(broken)?;
    let snapshots = txn.open_table(SNAPSHOTS).map_err(broken)?;
    let (mut rows, mut sum, mut chunk_rows, mut snapshot_rows) = (0, 0_u64, 0, 0);
    for row in streams.iter().map_err(broken)? {
        let (stream, value) = row.map_err(broken)?;
        let stream = stream.value();
        let head: HeadRow = decode_head(stream, value.value())?;
        rows += 1;
        sum = sum.wrapping_add(digest(&Key::trusted(stream)));
        if head.snapshot_version > 0 {
            snapshot_rows += 1;
            let row = snapshots.get(stream).map_err(broken)?;
            let (named, version) = match row {
                Some(row) => {
                    let (named, version, _): (String, u64, super::StreamSnapshot) =
                        unframe(row.value()).map_err(|what| corrupt("stream_snapshots", stream, what))?;
                    (named, version)
                }
                None => return Err(corrupt("stream_snapshots", stream, "it is missing")),
            };
            if named != stream || version != head.snapshot_version {
                return Err(corrupt(
                    "stream_snapshots",
                    stream,
                    format!("it is of {named} at version {version}, should be at {}", head.snapshot_version),
                ));
            }
        }
        let mut end = None;
        for row in chunks.range((stream, 0)..=(stream, u64::MAX)).map_err(broken)? {
            let (key, value) = row.map_err(broken)?;
            let after = key.value().1;
            let chunk = decode_chunk(stream, after, value.value())?;
            chunk_rows += 1;
            let follows = end.map_or(after <= head.snapshot_version, |end| end == after);
            if !follows {
                return Err(corrupt("stream_positions", format!("{stream} after version {}", end.unwrap_or(0)), "it is missing"));
            }
            end = Some(chunk.end_version());
        }
        let follows = end.map_or(head.chunk.after <= head.snapshot_version, |end| end == head.chunk.after);
        if !follows || head.chunk.end_version() != head.version {
            return Err(corrupt("stream_positions", format!("{stream} before version {}", head.chunk.after), "it is missing"));
        }
    }
    if (rows, sum) != (meta.streams, meta.streams_digest) {
        return Err(corrupt("streams", "all", format!("{rows} rows are not the {} that were written", meta.streams)));
    }
    for (table, wanted, found) in [
        ("stream_positions", chunk_rows, chunks.len().map_err(broken)?),
        ("stream_snapshots", snapshot_rows, snapshots.len().map_err(broken)?),
    ] {
        if wanted != found {
            return Err(corrupt(table, "all", format!("{found} rows where {wanted} have a stream")));
        }
    }
    Ok(())
}

pub fn decode_chunk(stream: &str, after: u64, value: &[u8]) -> Result<Chunk, ReadError> {
    let position = || format!("{stream} after version {after}");
    let (named, chunk): (String, Chunk) = unframe(value).map_err(|what| corrupt("stream_positions", position(), what))?;
    if named != stream || chunk.after != after {
        return Err(corrupt("stream_positions", position(), format!("it is of {named} after version {}", chunk.after)));
    }
    Ok(chunk)
}
