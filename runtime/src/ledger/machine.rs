//! What a committed entry means: which appends are accepted, and what the tables and those who tail are told.
//!
//! The heads of all streams are in memory and rebuilt from the tables at start. Deterministic: the same entries give the
//! same heads on every node.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use openraft::{LogId, StoredMembership};
use parking_lot::RwLock;
use redb::{ReadableDatabase, ReadableTable};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Cursor, Event, ReadError, StreamSnapshot,
    disk::{Changes, Disk, EVENTS, Job, META_MACHINE, SNAPSHOTS, STREAMS, all_rows, storage},
    raft::Node,
    record::{Applied, AppendRefused, Batch, Command, ProposedAppend, Run, frame, unframe},
};
use crate::{clock::WallMs, id::Key};

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) version: u64,
    pub(super) incarnation: u64,
    /// Replay begins after it.
    pub(super) snapshot_version: u64,
}

/// What is kept beside the tables' rows, in the same transaction.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct MachineMeta {
    pub(super) applied: Option<LogId<u64>>,
    pub(super) membership: StoredMembership<u64, Node>,
    pub(super) epoch: u64,
    pub(super) head: u64,
    /// Events up to this one may be gone.
    pub(super) compacted: u64,
    pub(super) snapshot_taken: bool,
}

/// Batches of events kept in memory, so that who tails reads no disk.
const RING_BATCHES: usize = 1024;
const RING_EVENTS: usize = 100_000;

#[derive(Default)]
pub(super) struct Ring {
    pub(super) batches: VecDeque<Arc<Vec<Event>>>,
    events: usize,
}

/// What readers share with the machine.
pub(super) struct Shared {
    pub(super) ring: RwLock<Ring>,
    pub(super) head: watch::Sender<Cursor>,
    pub(super) compacted: std::sync::atomic::AtomicU64,
    pub(super) heads: RwLock<HashMap<Key, Head>>,
    pub(super) epoch: std::sync::atomic::AtomicU64,
}

pub(super) struct Machine {
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    pub(super) meta: MachineMeta,
}

impl Machine {
    pub(super) fn load(disk: Disk) -> Result<Self, ReadError> {
        let meta: MachineMeta = disk.meta(META_MACHINE)?.unwrap_or_default();
        let mut heads = HashMap::new();
        for (stream, bytes) in all_rows(&disk, STREAMS)? {
            let head: Head = unframe(&bytes).map_err(|what| ReadError::Corrupt { table: "streams", position: stream.clone(), what })?;
            heads.insert(Key::trusted(stream), head);
        }
        disk.written.store(meta.head, Ordering::Release);
        let shared = Shared {
            ring: RwLock::default(),
            head: watch::Sender::new(Cursor(meta.head)),
            compacted: meta.compacted.into(),
            heads: RwLock::new(heads),
            epoch: meta.epoch.into(),
        };
        Ok(Self { disk, shared: Arc::new(shared), meta })
    }

    pub(super) fn apply(&mut self, log_id: LogId<u64>, command: Option<&Command>, membership: Option<StoredMembership<u64, Node>>) -> std::io::Result<Applied> {
        let mut changes = Changes::default();
        let mut events = Vec::new();
        let answer = match command {
            None => Applied::Nothing,
            Some(Command::NextEpoch) => {
                self.meta.epoch += 1;
                self.shared.epoch.store(self.meta.epoch, Ordering::Release);
                Applied::Epoch(self.meta.epoch)
            }
            Some(Command::Appends { at, appends }) => self.appends(*at, appends, &mut changes, &mut events)?,
            Some(Command::Compact { keep_after }) => {
                self.compact(*keep_after, &mut changes)?;
                Applied::Compacted { oldest: Cursor(self.meta.compacted) }
            }
        };
        if let Some(membership) = membership {
            self.meta.membership = membership;
        }
        self.meta.applied = Some(log_id);
        changes.machine = encode(&self.meta)?;
        changes.head = self.meta.head;
        self.disk.send(Job::Changes(Box::new(changes)))?;
        if !events.is_empty() {
            self.publish(events);
        }
        Ok(answer)
    }

    fn appends(&mut self, at: WallMs, appends: &[ProposedAppend], changes: &mut Changes, events: &mut Vec<Event>) -> std::io::Result<Applied> {
        let mut answers = Vec::with_capacity(appends.len());
        let mut batch = Batch { at, runs: Vec::with_capacity(appends.len()) };
        let key = self.meta.head + 1;
        let mut heads = self.shared.heads.write();
        let mut touched: Vec<Key> = Vec::with_capacity(appends.len());
        for append in appends {
            let head = heads.entry(append.stream.clone()).or_default();
            if append.incarnation < head.incarnation {
                answers.push(Err(AppendRefused::Fenced { newest: head.incarnation }));
                continue;
            }
            if append.expected_version != head.version {
                answers.push(Err(AppendRefused::Version { is: head.version, expected: append.expected_version }));
                continue;
            }
            head.incarnation = append.incarnation;
            if !append.events.is_empty() {
                let run = Run {
                    stream: append.stream.clone(),
                    incarnation: append.incarnation,
                    first_version: head.version + 1,
                    first_cursor: self.meta.head + 1,
                    events: append.events.clone(),
                };
                head.version += append.events.len() as u64;
                self.meta.head = run.last_cursor();
                changes.runs.push((append.stream.clone(), run.first_version, key));
                events.extend(run.read(at));
                batch.runs.push(run);
            }
            if let Some(snapshot) = &append.snapshot {
                head.snapshot_version = head.version;
                changes.snapshots.push((append.stream.clone(), encode(&(head.version, snapshot))?));
            }
            touched.push(append.stream.clone());
            answers.push(Ok((Cursor(self.meta.head), head.version)));
        }
        touched.sort_unstable();
        touched.dedup();
        for stream in touched {
            let head = heads.get(&stream).copied().unwrap_or_default();
            changes.streams.push((stream, encode(&head)?));
        }
        drop(heads);
        if !batch.runs.is_empty() {
            changes.events.push((key, encode(&batch)?));
        }
        Ok(Applied::Appends(answers))
    }

    /// Lets those who tail see the events, and forgets the oldest that are in the tables.
    fn publish(&self, events: Vec<Event>) {
        let mut ring = self.shared.ring.write();
        ring.events += events.len();
        ring.batches.push_back(Arc::new(events));
        let written = self.disk.written.load(Ordering::Acquire);
        while ring.batches.len() > RING_BATCHES || ring.events > RING_EVENTS {
            let oldest_is_written = ring.batches.front().and_then(|batch| batch.last()).is_some_and(|last| last.cursor.0 <= written);
            if !oldest_is_written || ring.batches.len() == 1 {
                break;
            }
            if let Some(oldest) = ring.batches.pop_front() {
                ring.events -= oldest.len();
            }
        }
        drop(ring);
        self.shared.head.send_replace(Cursor(self.meta.head));
    }

    /// Drops the events up to `keep_after` that no stream's replay needs.
    fn compact(&mut self, keep_after: Cursor, changes: &mut Changes) -> std::io::Result<()> {
        let keep_after = keep_after.0.min(self.meta.head);
        if keep_after <= self.meta.compacted {
            return Ok(());
        }
        self.disk.flush()?;
        let heads = self.shared.heads.read();
        let txn = self.disk.db.begin_read().map_err(std::io::Error::other)?;
        let table = txn.open_table(EVENTS).map_err(std::io::Error::other)?;
        for row in table.range(..=keep_after).map_err(std::io::Error::other)? {
            let (key, bytes) = row.map_err(std::io::Error::other)?;
            let mut batch: Batch = unframe(bytes.value()).map_err(std::io::Error::other)?;
            let before = batch.runs.len();
            batch.runs.retain(|run| {
                let last_version = run.first_version + run.events.len() as u64 - 1;
                let needed = heads.get(&run.stream).is_some_and(|head| last_version > head.snapshot_version);
                if !needed && run.last_cursor() <= keep_after {
                    changes.dropped_runs.push((run.stream.clone(), run.first_version));
                    return false;
                }
                true
            });
            if batch.runs.is_empty() {
                changes.dropped_events.push(key.value());
            } else if batch.runs.len() < before {
                changes.events.push((key.value(), encode(&batch)?));
            }
        }
        self.meta.compacted = keep_after;
        self.shared.compacted.store(keep_after, Ordering::Release);
        Ok(())
    }

    /// Everything but the log, as another node's machine takes it over.
    pub(super) fn image(&self) -> Result<Image, ReadError> {
        self.disk.flush().map_err(storage)?;
        let txn = self.disk.db.begin_read().map_err(storage)?;
        let mut image = Image { meta: self.meta.clone(), ..Image::default() };
        for row in txn.open_table(EVENTS).map_err(storage)?.iter().map_err(storage)? {
            let (key, value) = row.map_err(storage)?;
            image.events.push((key.value(), value.value().to_vec()));
        }
        drop(txn);
        image.streams = all_rows(&self.disk, STREAMS)?;
        image.snapshots = all_rows(&self.disk, SNAPSHOTS)?;
        Ok(image)
    }

    pub(super) fn install(&mut self, image: &Image) -> Result<(), ReadError> {
        let corrupt = |table, position: String, what| ReadError::Corrupt { table, position, what };
        let mut changes = Changes { reset: true, machine: frame(&image.meta).map_err(storage)?, head: image.meta.head, ..Changes::default() };
        let mut heads = HashMap::new();
        for (stream, bytes) in &image.streams {
            heads.insert(Key::trusted(stream.as_str()), unframe(bytes).map_err(|what| corrupt("streams", stream.clone(), what))?);
            changes.streams.push((Key::trusted(stream.as_str()), bytes.clone()));
        }
        for (key, bytes) in &image.events {
            let batch: Batch = unframe(bytes).map_err(|what| corrupt("events", key.to_string(), what))?;
            changes.runs.extend(batch.runs.iter().map(|run| (run.stream.clone(), run.first_version, *key)));
            changes.events.push((*key, bytes.clone()));
        }
        for (stream, bytes) in &image.snapshots {
            let _: (u64, StreamSnapshot) = unframe(bytes).map_err(|what| corrupt("stream_snapshots", stream.clone(), what))?;
            changes.snapshots.push((Key::trusted(stream.as_str()), bytes.clone()));
        }
        self.disk.send(Job::Changes(Box::new(changes))).map_err(storage)?;
        self.disk.flush().map_err(storage)?;
        self.meta = image.meta.clone();
        *self.shared.heads.write() = heads;
        *self.shared.ring.write() = Ring::default();
        self.shared.compacted.store(self.meta.compacted, Ordering::Release);
        self.shared.epoch.store(self.meta.epoch, Ordering::Release);
        self.shared.head.send_replace(Cursor(self.meta.head));
        Ok(())
    }
}

/// The machine's state as a snapshot carries it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) meta: MachineMeta,
    pub(super) events: Vec<(u64, Vec<u8>)>,
    pub(super) streams: Vec<(String, Vec<u8>)>,
    pub(super) snapshots: Vec<(String, Vec<u8>)>,
}

fn encode<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    frame(value).map_err(std::io::Error::other)
}
