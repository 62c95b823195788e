//! The Raft log in the ledger's file. Entries just appended are kept decoded: they are read again at once to be applied.

use std::{
    collections::VecDeque,
    fmt::Debug,
    ops::{Bound, RangeBounds},
    sync::{Arc, atomic::Ordering},
};

use openraft::{
    AnyError, Entry, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use redb::{ReadableDatabase, ReadableTable};

use super::TypeConfig;
use crate::ledger::{
    ReadError,
    record::{frame, read_entry, write_entry},
    tables::{LOG, META_PURGED, META_VOTE, corrupt, meta, storage},
    writer::{Disk, Job, Jobs},
};

/// The number of entries that are kept decoded.
const RECENT_ENTRIES: usize = 32;

#[derive(Default)]
struct Memory {
    recent: VecDeque<Entry<TypeConfig>>,
    last: Option<LogId<u64>>,
    purged: Option<LogId<u64>>,
}

#[derive(Clone)]
pub struct LogStore {
    disk: Arc<Disk>,
    jobs: Jobs,
    memory: Arc<Mutex<Memory>>,
}

fn error(verb: ErrorVerb, error: impl std::fmt::Display) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::Logs, verb, AnyError::error(error)).into()
}

fn decode(index: u64, bytes: &[u8]) -> Result<Entry<TypeConfig>, ReadError> {
    read_entry(index, bytes).map_err(|what| corrupt("raft_log", format!("index {index}"), what))
}

impl LogStore {
    /// Opens the log as it is in the file.
    pub fn load(disk: Arc<Disk>, jobs: Jobs) -> Result<Self, ReadError> {
        let purged = meta(&disk.log, META_PURGED)?;
        let mut memory = Memory { purged, last: purged, ..Memory::default() };
        let txn = disk.log.begin_read().map_err(storage)?;
        if let Some(row) = txn.open_table(LOG).map_err(storage)?.last().map_err(storage)? {
            memory.last = Some(decode(row.0.value(), row.1.value())?.log_id);
        }
        drop(txn);
        Ok(Self { disk, jobs, memory: Arc::new(Mutex::new(memory)) })
    }

    /// Returns the id of the last entry, flushed or on its way.
    pub fn last(&self) -> Option<LogId<u64>> {
        self.memory.lock().last
    }

    /// Reads entries from the file, but for those up to `purged`, which leave it in their own time.
    fn read<RB: RangeBounds<u64> + Clone>(
        &self,
        range: &RB,
        purged: Option<LogId<u64>>,
    ) -> Result<Vec<Entry<TypeConfig>>, ReadError> {
        let txn = self.disk.log.begin_read().map_err(storage)?;
        let log = txn.open_table(LOG).map_err(storage)?;
        let mut entries = Vec::new();
        for row in log.range(range.clone()).map_err(storage)? {
            let (index, bytes) = row.map_err(storage)?;
            if purged.is_none_or(|purged| index.value() > purged.index) {
                entries.push(decode(index.value(), bytes.value())?);
            }
        }
        Ok(entries)
    }
}

/// The bytes of entries that one message to another node may hold, beyond its first.
const ENTRIES_BYTES_MAX: usize = 4 << 20;

fn weight(entry: &Entry<TypeConfig>) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(crate::ledger::record::Command::Batch(batch)) => batch.bodies.len() + 128,
        _ => 256,
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        let mut entries = self.try_get_log_entries(start..end).await?;
        let mut bytes = 0;
        let fit = entries.iter().take_while(|entry| {
            bytes += weight(entry);
            bytes <= ENTRIES_BYTES_MAX
        });
        let fit = fit.count().max(1);
        entries.truncate(fit);
        Ok(entries)
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        {
            let memory = self.memory.lock();
            let first = memory.recent.front().map(|entry| entry.log_id.index);
            let begins_within = match range.start_bound() {
                Bound::Included(start) => first.is_some_and(|first| first <= *start),
                Bound::Excluded(start) => first.is_some_and(|first| first <= start + 1),
                Bound::Unbounded => false,
            };
            if begins_within {
                return Ok(memory.recent.iter().filter(|entry| range.contains(&entry.log_id.index)).cloned().collect());
            }
        }
        // Entries that are still on their way to the table are among the recent ones, and they begin too late for this.
        let purged = self.memory.lock().purged;
        self.read(&range, purged).map_err(|what| error(ErrorVerb::Read, what))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let memory = self.memory.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let frame = frame(vote).map_err(|what| error(ErrorVerb::Write, what))?;
        self.jobs.done(|done| Job::Vote { frame, done }).await.map_err(|what| error(ErrorVerb::Write, what))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        meta(&self.disk.log, META_VOTE).map_err(|what| error(ErrorVerb::Read, what))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut frames = Vec::new();
        {
            let mut memory = self.memory.lock();
            let before = memory.recent.len();
            for entry in entries {
                frames.push((entry.log_id.index, write_entry(&entry).map_err(|what| error(ErrorVerb::Write, what))?));
                memory.last = Some(entry.log_id);
                memory.recent.push_back(entry);
            }
            // Those before this append are in the table: appends come one after the other.
            let forget = memory.recent.len().saturating_sub(RECENT_ENTRIES).min(before);
            memory.recent.drain(..forget);
        }
        let job = Job::Log { entries: frames, done: Box::new(move |result| callback.log_io_completed(result)) };
        self.jobs.send(job).await.map_err(|what| error(ErrorVerb::Write, what))
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.jobs.done(|done| Job::Truncate { from: log_id.index, done }).await.map_err(|what| error(ErrorVerb::Delete, what))?;
        let mut memory = self.memory.lock();
        memory.recent.retain(|entry| entry.log_id.index < log_id.index);
        let last = match memory.recent.back() {
            Some(entry) => Some(entry.log_id),
            None => self
                .read(&(..log_id.index), memory.purged)
                .map_err(|what| error(ErrorVerb::Read, what))?
                .last()
                .map(|entry| entry.log_id)
                .or(memory.purged),
        };
        memory.last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        // What a snapshot stands for that is being installed goes along with it, in one commit: a crash in between must not
        // leave a log that begins after what is in the tables.
        let installing = self.disk.installing.load(Ordering::Acquire) && self.disk.machine.lock().meta.applied < Some(log_id);
        if !installing {
            let frame = frame(&log_id).map_err(|what| error(ErrorVerb::Write, what))?;
            // Nobody waits for it: the tables take a checkpoint first. An error is told by whatever is written next.
            let job = Job::Purge { up_to: log_id.index, frame, done: Box::new(|_| ()) };
            self.jobs.send(job).await.map_err(|what| error(ErrorVerb::Delete, what))?;
        }
        let mut memory = self.memory.lock();
        memory.purged = Some(log_id);
        memory.recent.retain(|entry| entry.log_id.index > log_id.index);
        if memory.last.is_none_or(|last| last < log_id) {
            memory.last = Some(log_id);
        }
        Ok(())
    }
}
