//! The ledger's one file, and the one thread that writes it.
//!
//! A log entry is acknowledged after a commit with an fsync. What an entry changed in the other tables is written with
//! the next commit: until then it can be made again from the log, so a crash loses nothing, and an append costs one
//! fsync. After any error of the disk nothing is acknowledged any more until the file has been opened and checked anew.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{OpenError, ReadError, record};
use crate::{fault, id::Key};

pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("raft_log");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Cursor of the first event → the events of one entry.
pub(super) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// Stream → its head.
pub(super) const STREAMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("streams");
/// (stream, first version of a run) → key in `EVENTS`.
pub(super) const RUNS: TableDefinition<'_, (&str, u64), u64> = TableDefinition::new("stream_runs");
pub(super) const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("stream_snapshots");

pub(super) const META_VOTE: &str = "vote";
pub(super) const META_PURGED: &str = "purged";
pub(super) const META_MACHINE: &str = "machine";

/// Jobs that wait for the writer; whoever brings one more waits.
const JOBS_MAX: usize = 256;
/// What an entry changed is written after this long at the latest.
const DEFER_MAX: Duration = Duration::from_millis(50);
/// Changes that may wait for the next commit, in bytes.
const DEFERRED_BYTES_MAX: usize = 8 << 20;

pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(super) enum Job {
    /// Log entries by index.
    Log { entries: Vec<(u64, Vec<u8>)>, done: Done },
    Vote { frame: Vec<u8>, done: Done },
    Truncate { from: u64, done: Done },
    Purge { up_to: u64, frame: Vec<u8>, done: Done },
    Changes(Box<Changes>),
    /// Answers when everything before it can be read from the tables.
    Flush { done: Done },
    Stop,
}

/// What applied entries change in the tables.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) events: Vec<(u64, Vec<u8>)>,
    pub(super) dropped_events: Vec<u64>,
    pub(super) dropped_runs: Vec<(Key, u64)>,
    pub(super) streams: Vec<(Key, Vec<u8>)>,
    pub(super) runs: Vec<(Key, u64, u64)>,
    pub(super) snapshots: Vec<(Key, Vec<u8>)>,
    pub(super) machine: Vec<u8>,
    /// All events up to this cursor are in the tables once this is.
    pub(super) head: u64,
    /// Everything is replaced.
    pub(super) reset: bool,
}

impl Changes {
    fn bytes(&self) -> usize {
        self.events.iter().map(|(_, frame)| frame.len()).sum::<usize>() + self.snapshots.iter().map(|(_, frame)| frame.len()).sum::<usize>() + 256
    }
}

/// Cheap to clone; the last one to go ends the writer.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) db: Arc<Database>,
    pub(super) path: Arc<PathBuf>,
    jobs: SyncSender<Job>,
    failed: Arc<Mutex<Option<String>>>,
    /// Events up to this cursor can be read from the tables.
    pub(super) written: Arc<AtomicU64>,
    writer: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl Disk {
    /// Opens or makes the file. A damaged one is reported, never repaired by guessing.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let storage = |what: String| OpenError::Storage { path: path.to_owned(), what };
        // The store's own recovery may panic on bytes it never wrote.
        let opened = std::panic::catch_unwind(|| Database::builder().set_cache_size(64 << 20).create(path));
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => return Err(OpenError::InUse { path: path.to_owned() }),
            Ok(Err(error)) => {
                return Err(OpenError::Corrupt { path: path.to_owned(), table: "file", position: "header or tree".into(), what: error.to_string() });
            }
            Err(_) => {
                return Err(OpenError::Corrupt {
                    path: path.to_owned(),
                    table: "file",
                    position: "header or tree".into(),
                    what: "the store cannot make sense of it".into(),
                });
            }
        };
        let txn = db.begin_write().map_err(|error| storage(error.to_string()))?;
        open_tables(&txn).map_err(|error| storage(error.to_string()))?;
        txn.commit().map_err(|error| storage(error.to_string()))?;
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        let (db, failed, written) = (Arc::new(db), Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
        let writer = Writer { db: db.clone(), failed: failed.clone(), written: written.clone(), deferred: Vec::new(), deferred_bytes: 0 };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| storage(error.to_string()))?;
        Ok(Self { db, path: Arc::new(path.to_owned()), jobs, failed, written, writer: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Hands a job to the writer. Blocks while too many wait.
    pub(super) fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| io::Error::other("the ledger's writer has stopped"))
    }

    /// Waits until what was applied so far can be read from the tables.
    pub(super) fn flush(&self) -> io::Result<()> {
        let (done, wait) = std::sync::mpsc::channel();
        self.send(Job::Flush {
            done: Box::new(move |result| {
                // Nobody waits any more.
                let _ = done.send(result);
            }),
        })?;
        wait.recv().map_err(|_| io::Error::other("the ledger's writer has stopped"))?
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Ends the writer after what it holds.
    pub(super) fn stop(&self) {
        // It may have stopped before.
        let _ = self.jobs.send(Job::Stop);
        if let Some(thread) = self.writer.lock().take() {
            // A panic in the writer was reported as a failure of the store.
            let _ = thread.join();
        }
    }

    pub(super) fn meta<T: serde::de::DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, ReadError> {
        let txn = self.db.begin_read().map_err(storage)?;
        let table = txn.open_table(META).map_err(storage)?;
        let Some(row) = table.get(key).map_err(storage)? else { return Ok(None) };
        record::unframe(row.value()).map(Some).map_err(|what| ReadError::Corrupt { table: "meta", position: key.into(), what })
    }
}

pub(super) fn storage(error: impl std::fmt::Display) -> ReadError {
    ReadError::Storage(error.to_string())
}

fn open_tables(txn: &WriteTransaction) -> Result<(), redb::TableError> {
    txn.open_table(LOG)?;
    txn.open_table(META)?;
    txn.open_table(EVENTS)?;
    txn.open_table(STREAMS)?;
    txn.open_table(RUNS)?;
    txn.open_table(SNAPSHOTS)?;
    Ok(())
}

struct Writer {
    db: Arc<Database>,
    failed: Arc<Mutex<Option<String>>>,
    written: Arc<AtomicU64>,
    deferred: Vec<Changes>,
    deferred_bytes: usize,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Job>) {
        loop {
            let first = if self.deferred.is_empty() {
                waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                waiting.recv_timeout(DEFER_MAX)
            };
            let mut jobs = match first {
                Ok(job) => vec![job],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while jobs.len() < JOBS_MAX
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            let stop = jobs.iter().any(|job| matches!(job, Job::Stop));
            // Changes alone wait for company, but not for long and not for much.
            let only_changes = jobs.iter().all(|job| matches!(job, Job::Changes(_)));
            if only_changes && !jobs.is_empty() {
                for job in jobs {
                    self.defer(job);
                }
                if self.deferred_bytes < DEFERRED_BYTES_MAX {
                    continue;
                }
                jobs = Vec::new();
            }
            self.commit(jobs);
            if stop {
                break;
            }
        }
        self.commit(Vec::new());
    }

    fn defer(&mut self, job: Job) {
        if let Job::Changes(changes) = job {
            self.deferred_bytes += changes.bytes();
            self.deferred.push(*changes);
        }
    }

    /// One transaction for all of it; those who wait are told afterwards.
    fn commit(&mut self, jobs: Vec<Job>) {
        let mut waiting = Vec::new();
        let mut writes = Vec::new();
        let mut durable = false;
        for job in jobs {
            match job {
                Job::Changes(_) => self.defer(job),
                Job::Log { entries, done } => {
                    durable = true;
                    writes.push(Write::Log(entries));
                    waiting.push(done);
                }
                Job::Vote { frame, done } => {
                    durable = true;
                    writes.push(Write::Vote(frame));
                    waiting.push(done);
                }
                Job::Truncate { from, done } => {
                    durable = true;
                    writes.push(Write::Truncate(from));
                    waiting.push(done);
                }
                Job::Purge { up_to, frame, done } => {
                    writes.push(Write::Purge(up_to, frame));
                    waiting.push(done);
                }
                Job::Flush { done } => waiting.push(done),
                Job::Stop => durable = true,
            }
        }
        let nothing = writes.is_empty() && self.deferred.is_empty() && !durable;
        let failed = self.failed.lock().clone();
        let result = match failed {
            Some(why) => Err(why),
            None if nothing => Ok(()),
            None => self.write(&writes, durable),
        };
        if let Err(why) = &result {
            self.failed.lock().get_or_insert_with(|| {
                tracing::error!(%why, "the ledger's store failed; nothing is acknowledged any more until it is reopened");
                why.clone()
            });
        }
        for done in waiting {
            done(result.clone().map_err(io::Error::other));
        }
    }

    fn write(&mut self, writes: &[Write], durable: bool) -> Result<(), String> {
        let deferred = std::mem::take(&mut self.deferred);
        self.deferred_bytes = 0;
        let head = deferred.last().map(|changes| changes.head);
        let db = self.db.clone();
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(&db, &deferred, writes, durable)));
        match written {
            Ok(Ok(())) => {
                if let Some(head) = head {
                    self.written.store(head, Ordering::Release);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the store panicked".into()),
        }
    }
}

enum Write {
    Log(Vec<(u64, Vec<u8>)>),
    Vote(Vec<u8>),
    Truncate(u64),
    Purge(u64, Vec<u8>),
}

fn write(db: &Database, deferred: &[Changes], writes: &[Write], durable: bool) -> Result<(), Box<dyn std::error::Error>> {
    let mut txn = db.begin_write()?;
    txn.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
    for changes in deferred {
        write_changes(&txn, changes)?;
    }
    for write in writes {
        match write {
            Write::Log(entries) => {
                let mut log = txn.open_table(LOG)?;
                for (index, frame) in entries {
                    log.insert(index, frame.as_slice())?;
                }
            }
            Write::Vote(frame) => drop(txn.open_table(META)?.insert(META_VOTE, frame.as_slice())?),
            Write::Truncate(from) => txn.open_table(LOG)?.retain_in(*from.., |_, _| false)?,
            Write::Purge(up_to, frame) => {
                txn.open_table(LOG)?.retain_in(..=*up_to, |_, _| false)?;
                txn.open_table(META)?.insert(META_PURGED, frame.as_slice())?;
            }
        }
    }
    if durable {
        fault::point_sync("ledger.before_fsync", None)?;
    }
    txn.commit()?;
    if durable {
        fault::point_sync("ledger.after_fsync", None)?;
    }
    Ok(())
}

fn write_changes(txn: &WriteTransaction, changes: &Changes) -> Result<(), Box<dyn std::error::Error>> {
    if changes.reset {
        txn.open_table(EVENTS)?.retain(|_, _| false)?;
        txn.open_table(STREAMS)?.retain(|_, _| false)?;
        txn.open_table(RUNS)?.retain(|_, _| false)?;
        txn.open_table(SNAPSHOTS)?.retain(|_, _| false)?;
    }
    let mut events = txn.open_table(EVENTS)?;
    for key in &changes.dropped_events {
        events.remove(key)?;
    }
    for (key, frame) in &changes.events {
        events.insert(key, frame.as_slice())?;
    }
    let mut runs = txn.open_table(RUNS)?;
    for (stream, version) in &changes.dropped_runs {
        runs.remove((stream.as_str(), *version))?;
    }
    for (stream, version, key) in &changes.runs {
        runs.insert((stream.as_str(), *version), key)?;
    }
    let mut streams = txn.open_table(STREAMS)?;
    for (stream, frame) in &changes.streams {
        streams.insert(stream.as_str(), frame.as_slice())?;
    }
    let mut snapshots = txn.open_table(SNAPSHOTS)?;
    for (stream, frame) in &changes.snapshots {
        snapshots.insert(stream.as_str(), frame.as_slice())?;
    }
    txn.open_table(META)?.insert(META_MACHINE, changes.machine.as_slice())?;
    Ok(())
}

/// All rows of a table, in order.
pub(super) fn all_rows(disk: &Disk, table: TableDefinition<'static, &'static str, &'static [u8]>) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let txn = disk.db.begin_read().map_err(storage)?;
    let table = txn.open_table(table).map_err(storage)?;
    let mut rows = Vec::new();
    for row in table.iter().map_err(storage)? {
        let (key, value) = row.map_err(storage)?;
        rows.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok(rows)
}
