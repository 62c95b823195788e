//! Opens the ledger's file and checks it: what is damaged is named, never served and never mended by guessing.
//!
//! The store mends what a crash leaves half done, and cannot tell that from damage to its last commit. So a file that
//! was closed in order is first read without the right to change it, and a file that was not is held against the witness.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openraft::{LogId, Vote};
use redb::{Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::{
    OpenError, ReadError, StreamSnapshot,
    file::{Backend, Guarded, Reserve},
    head::{Chunk, HeadRow, digest},
    machine::{Meta, decode_head},
    pieces::row_of,
    record::{Events, read_entry, unframe},
    tables::{self, CHUNKS, EVENTS, LOG, META, META_MACHINE, META_PURGED, META_VOTE, SNAPSHOTS, STREAMS, corrupt, meta, storage},
};
use crate::{fault, id::Key};

/// The two files. The Raft log has one of its own: so what is synced with each append is small, and what the store looks through
/// after a crash. The tables are synced at checkpoints only, each with the store's own bookkeeping, so that they open without a
/// look through all of them.
pub struct Files {
    pub tables: Database,
    pub log: Database,
}

/// Returns the path of the log's file, beside that of the tables.
pub fn log_path(path: &Path) -> PathBuf {
    path.with_file_name(LOG_FILE)
}

const LOG_FILE: &str = "ledger-log.redb";

/// Opens the files, made if need be. Tables of up to `verify_bytes_max` are read and checked from end to end, and so is the log,
/// which is short.
pub fn open(path: &Path, backend: &Backend, reserve: &Arc<Reserve>, verify_bytes_max: u64) -> Result<Files, OpenError> {
    let log_path = log_path(path);
    let tables = open_file(path, backend, reserve.clone(), verify_bytes_max, 64 << 20, |db| {
        walk(db)?;
        walk_log(db, false)
    })?;
    let opened = folded(&tables).and_then(|folded| {
        // What the tables have is the truth; the log that was there before is older, and need not even be whole.
        if folded && log_path.exists() {
            std::fs::remove_file(&log_path).map_err(|error| ReadError::Storage(error.to_string()))?;
        }
        Ok(())
    });
    if let Err(error) = opened {
        close(tables);
        return Err(named(path, error));
    }
    let opened = open_file(&log_path, backend, reserve.clone(), LOG_VERIFY_BYTES_MAX, 16 << 20, |db| walk_log(db, true));
    let log = match opened {
        Ok(log) => log,
        Err(error) => {
            close(tables);
            return Err(error);
        }
    };
    let files = Files { tables, log };
    let adopted =
        guard(|| adopt(&files)).unwrap_or_else(|panic| Err(corrupt("file", "tree", panic))).and_then(|()| agree(&files));
    match adopted {
        Ok(()) => Ok(files),
        Err(error) => {
            close(files);
            Err(named(path, error))
        }
    }
}

/// The size up to which a log is looked through at start; one that is larger has a burst of large entries behind it.
const LOG_VERIFY_BYTES_MAX: u64 = 256 << 20;

fn open_file(
    path: &Path,
    backend: &Backend,
    reserve: Arc<Reserve>,
    verify_bytes_max: u64,
    cache_bytes: usize,
    look: impl Fn(&dyn AnyDatabase) -> Result<(), ReadError>,
) -> Result<Database, OpenError> {
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
        tracing::info!(path = %path.display(), bytes, "too large to be checked from end to end at start; each value is checked when it is read, and all of them by and by");
    }
    let mut walked = false;
    if verify {
        match guard(|| ReadOnlyDatabase::open(path)) {
            Ok(Ok(db)) => {
                let checked = check(path, &db, &look);
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
        let (shown, begun) = (path.to_owned(), AtomicBool::new(false));
        let repairing = move |session: &mut redb::RepairSession| {
            if begun.swap(true, Ordering::Relaxed) {
                return;
            }
            tracing::info!(path = %shown.display(), "it was not closed in order, and all of it is looked through");
            let tables = !shown.ends_with(LOG_FILE);
            if tables && fault::point_sync("ledger.before_repair", None).is_err() {
                session.abort();
            }
        };
        Database::builder().set_cache_size(cache_bytes).set_repair_callback(repairing).create_with_backend(guarded)
    });
    let mut db = opened.map_err(|panic| named("file", "header or tree", panic))?.map_err(|error| database_error(path, error))?;
    let whole = if verify { verified(path, &mut db, walked, &look) } else { Ok(()) };
    let made = whole.and_then(|()| {
        let made = guard(|| -> Result<(), redb::Error> {
            let mut txn = db.begin_write()?;
            // The next opening needs the store's bookkeeping as of the last commit that was synced.
            txn.set_quick_repair(true);
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

/// Moves the log to its own file if it is with its tables, as a ledger that was stopped in order, or a version that knew one file
/// only, leaves it. It is the truth then: it is copied first, and only after that taken from the tables.
fn adopt(files: &Files) -> Result<(), ReadError> {
    let from = files.tables.begin_read().map_err(broken)?;
    let (log, metas) = (from.open_table(LOG).map_err(broken)?, from.open_table(META).map_err(broken)?);
    let kept =
        |key| -> Result<Option<Vec<u8>>, ReadError> { Ok(metas.get(key).map_err(broken)?.map(|row| row.value().to_vec())) };
    let (vote, purged) = (kept(META_VOTE)?, kept(META_PURGED)?);
    if !folded(&files.tables)? {
        return Ok(());
    }
    let moved = || -> Result<(), redb::Error> {
        let txn = files.log.begin_write()?;
        copy_log(&log, &txn, vote.as_deref(), purged.as_deref())?;
        txn.commit()?;
        let mut txn = files.tables.begin_write()?;
        txn.set_quick_repair(true);
        txn.open_table(LOG)?.retain(|_, _| false)?;
        for key in [META_VOTE, META_PURGED] {
            txn.open_table(META)?.remove(key)?;
        }
        Ok(txn.commit()?)
    };
    moved().map_err(storage)
}

fn folded(tables: &Database) -> Result<bool, ReadError> {
    let look = || -> Result<bool, ReadError> {
        let txn = tables.begin_read().map_err(broken)?;
        let metas = txn.open_table(META).map_err(broken)?;
        let kept = |key| -> Result<bool, ReadError> { Ok(metas.get(key).map_err(broken)?.is_some()) };
        Ok(kept(META_VOTE)? || kept(META_PURGED)? || !txn.open_table(LOG).map_err(broken)?.is_empty().map_err(broken)?)
    };
    guard(look).unwrap_or_else(|panic| Err(corrupt("file", "tree", panic)))
}

/// Replaces the log that `into` has.
fn copy_log(
    from: &impl ReadableTable<u64, &'static [u8]>,
    into: &WriteTransaction,
    vote: Option<&[u8]>,
    purged: Option<&[u8]>,
) -> Result<(), redb::Error> {
    let mut log = into.open_table(LOG)?;
    log.retain(|_, _| false)?;
    for row in from.iter()? {
        let (index, value) = row?;
        log.insert(index.value(), value.value())?;
    }
    let mut metas = into.open_table(META)?;
    for (key, value) in [(META_VOTE, vote), (META_PURGED, purged)] {
        match value {
            Some(value) => drop(metas.insert(key, value)?),
            None => drop(metas.remove(key)?),
        }
    }
    Ok(())
}

/// Puts the log with the tables again, as the last thing before they are closed: then one file is all there is, for whoever
/// copies it and for the version before.
pub fn fold(log: &Database, into: &WriteTransaction) -> Result<(), Box<dyn std::error::Error>> {
    let from = log.begin_read()?;
    let metas = from.open_table(META)?;
    let kept = |key| -> Result<Option<Vec<u8>>, redb::StorageError> { Ok(metas.get(key)?.map(|row| row.value().to_vec())) };
    let (vote, purged) = (kept(META_VOTE)?, kept(META_PURGED)?);
    Ok(copy_log(&from.open_table(LOG)?, into, vote.as_deref(), purged.as_deref())?)
}

/// Checks that the log belongs to the tables: nothing that was not taken in has left it.
fn agree(files: &Files) -> Result<(), ReadError> {
    let vote: Option<Vote<u64>> = meta(&files.log, META_VOTE)?;
    let purged: Option<LogId<u64>> = meta(&files.log, META_PURGED)?;
    let found: Option<Meta> = meta(&files.tables, META_MACHINE)?;
    let txn = files.log.begin_read().map_err(broken)?;
    let any = !txn.open_table(LOG).map_err(broken)?.is_empty().map_err(broken)?;
    let used = any || found.as_ref().is_some_and(|meta| meta.applied.is_some());
    // Before the first checkpoint the tables have nothing, and all there is comes from the log.
    let tables = files.tables.begin_read().map_err(broken)?;
    let none = || -> Result<bool, ReadError> {
        let events = tables.open_table(EVENTS).map_err(broken)?.is_empty().map_err(broken)?;
        Ok(events && tables.open_table(STREAMS).map_err(broken)?.is_empty().map_err(broken)?)
    };
    if used && vote.is_none() {
        return Err(corrupt("meta", META_VOTE, "it is missing"));
    }
    if found.is_none() && (purged.is_some() || !none()?) {
        return Err(corrupt("meta", META_MACHINE, "it is missing"));
    }
    let applied = found.and_then(|meta| meta.applied).map(|applied| applied.index);
    match purged.map(|purged| purged.index) {
        Some(purged) if Some(purged) > applied => {
            let next = applied.map_or(0, |applied| applied + 1);
            Err(corrupt("raft_log", format!("index {next}"), format!("entries up to {purged} were not taken in and are missing")))
        }
        _ => Ok(()),
    }
}

/// An open file of either kind.
pub trait AnyDatabase {
    fn look(&self) -> Result<redb::ReadTransaction, redb::TransactionError>;
}

impl<T: ReadableDatabase> AnyDatabase for T {
    fn look(&self) -> Result<redb::ReadTransaction, redb::TransactionError> {
        self.begin_read()
    }
}

fn meta_of<T: serde::de::DeserializeOwned>(txn: &redb::ReadTransaction, key: &'static str) -> Result<Option<T>, ReadError> {
    let table = txn.open_table(META).map_err(broken)?;
    let Some(row) = table.get(key).map_err(broken)? else { return Ok(None) };
    unframe(row.value()).map(Some).map_err(|what| corrupt("meta", key, what))
}

/// Checks the store's own bookkeeping, and all that is in it unless that was `walked` already.
fn verified(
    path: &Path,
    db: &mut Database,
    mut walked: bool,
    look: &impl Fn(&dyn AnyDatabase) -> Result<(), ReadError>,
) -> Result<(), OpenError> {
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
    if walked { Ok(()) } else { check(path, db, look) }
}

/// Closes a store that panicked. It may panic again, for its locks are poisoned; what was found before is what is told.
fn close(db: impl Sized) {
    if let Err(panic) = guard(|| drop(db)) {
        tracing::debug!(panic, "while the damaged store was closed");
    }
}

/// Runs something that may panic, as the store may on bytes it never wrote; the error says what it panicked with.
pub fn guard<T>(run: impl FnOnce() -> T) -> Result<T, String> {
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

fn check(path: &Path, db: &dyn AnyDatabase, look: &impl Fn(&dyn AnyDatabase) -> Result<(), ReadError>) -> Result<(), OpenError> {
    guard(|| look(db)).unwrap_or_else(|panic| Err(corrupt("file", "tree", panic))).map_err(|error| named(path, error))
}

fn named(path: &Path, error: ReadError) -> OpenError {
    let path = path.to_owned();
    match error {
        ReadError::Corrupt { table, position, what } => OpenError::Corrupt { path, table, position, what },
        ReadError::Storage(what) => OpenError::Storage { path, what },
        other => OpenError::Corrupt { path, table: "file", position: "tree".into(), what: other.to_string() },
    }
}

fn broken(error: impl std::fmt::Display) -> ReadError {
    corrupt("file", "tree", error.to_string())
}

/// Reads every entry of the log, and checks that none is missing. `alone` is true for the log's own file: the tables have a log
/// only while they are closed.
fn walk_log(db: &dyn AnyDatabase, alone: bool) -> Result<(), ReadError> {
    let txn = db.look().map_err(broken)?;
    if txn.list_tables().map_err(broken)?.next().is_none() {
        // Made, and never used.
        return Ok(());
    }
    let log = txn.open_table(LOG).map_err(broken)?;
    let vote: Option<Vote<u64>> = meta_of(&txn, META_VOTE)?;
    let purged: Option<LogId<u64>> = meta_of(&txn, META_PURGED)?;
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
    if alone {
        return Ok(());
    }
    let applied = meta_of::<Meta>(&txn, META_MACHINE)?.and_then(|meta| meta.applied);
    if vote.is_some() && applied.is_some_and(|applied| applied.index >= next) {
        return Err(corrupt("raft_log", format!("index {next}"), "entries that were applied are missing"));
    }
    Ok(())
}

/// Reads every value of the tables, and checks that none is missing.
pub fn walk(db: &dyn AnyDatabase) -> Result<(), ReadError> {
    let txn = db.look().map_err(broken)?;
    if txn.list_tables().map_err(broken)?.next().is_none() {
        // Made, and never used.
        return Ok(());
    }
    let events = txn.open_table(EVENTS).map_err(broken)?;
    let found: Option<Meta> = meta_of(&txn, META_MACHINE)?;
    if found.is_none() && !events.is_empty().map_err(broken)? {
        return Err(corrupt("meta", META_MACHINE, "it is missing"));
    }
    let meta = found.unwrap_or_default();
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
        snapshot_rows += head.pieces.rows();
        let gathered = head.pieces.gathered.into_iter();
        for (version, count) in gathered.chain([(head.snapshot_version, head.pieces.whole)]) {
            for number in 0..count {
                read_snapshot(&snapshots, &row_of(stream, version, number), version)?;
            }
        }
        if head.snapshot_version > 0 && head.pieces.whole == 0 {
            snapshot_rows += 1;
            let (version, _) = read_snapshot(&snapshots, stream, head.snapshot_version)?;
            if version != head.snapshot_version {
                let what = format!("it is at version {version}, should be at {}", head.snapshot_version);
                return Err(corrupt("stream_snapshots", stream, what));
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

/// Reads a snapshot, or a piece of one, and its version, which is `version` or a newer one.
pub fn read_snapshot(
    table: &impl redb::ReadableTable<&'static str, &'static [u8]>,
    row: &str,
    version: u64,
) -> Result<(u64, StreamSnapshot), ReadError> {
    let damaged = |what: String| corrupt("stream_snapshots", row, what);
    let Some(value) = table.get(row).map_err(broken)? else { return Err(damaged("it is missing".into())) };
    let (named, is, snapshot): (String, u64, StreamSnapshot) = unframe(value.value()).map_err(damaged)?;
    if named != row || is < version {
        return Err(damaged(format!("it is of {named} at version {is}, should be at {version}")));
    }
    Ok((is, snapshot))
}

/// Reads a chunk of positions. Errors: `Corrupt` if it is damaged, or belongs elsewhere.
pub fn decode_chunk(stream: &str, after: u64, value: &[u8]) -> Result<Chunk, ReadError> {
    let position = || format!("{stream} after version {after}");
    let (named, chunk): (String, Chunk) = unframe(value).map_err(|what| corrupt("stream_positions", position(), what))?;
    if named != stream || chunk.after != after {
        return Err(corrupt("stream_positions", position(), format!("it is of {named} after version {}", chunk.after)));
    }
    Ok(chunk)
}
