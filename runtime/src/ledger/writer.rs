//! The two threads that write the ledger's files.
//!
//! A log entry is acknowledged after a commit of the log with an fsync. What applied entries changed is brought to the tables by
//! and by, and synced at checkpoints: until then it can be made again from the log, so a crash loses nothing, and an append
//! costs one fsync. Nothing leaves the log before a checkpoint has it.
//! After any error of the disk nothing is acknowledged any more until the files have been opened and checked anew.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use parking_lot::Mutex;
use redb::{Database, Durability, ReadableTable, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    damage::checked,
    machine::{Machine, Meta, Taken},
    open::fold,
    record::frame,
    ring::Ring,
    snapshot::Image,
    sweep,
    tables::{CHUNKS, EVENTS, LOG, META, META_MACHINE, META_PURGED, META_VOTE, SNAPSHOTS, STREAMS},
};
use crate::fault;

/// The largest number of jobs that wait for a writer; whoever brings one more waits.
const JOBS_MAX: usize = 256;
/// The bytes after which a checkpoint is made: a start makes at most this again from the log.
const CHECKPOINT_BYTES: usize = 32 << 20;
/// The same in commits, for those that changed little: what they wrote over is free only then.
const CHECKPOINT_COMMITS: u64 = 1_024;

pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub enum Job {
    /// New log entries, by index.
    Log {
        entries: Vec<(u64, Vec<u8>)>,
        done: Done,
    },
    Vote {
        frame: Vec<u8>,
        done: Done,
    },
    Truncate {
        from: u64,
        done: Done,
    },
    Purge {
        up_to: u64,
        frame: Vec<u8>,
        done: Done,
    },
    /// A request that is answered when everything applied so far can be read from the tables.
    Flush {
        all_heads: bool,
        done: Done,
    },
    /// A value of the events' table in the place of one that is damaged or missing, from another node.
    Mend {
        from: u64,
        value: Vec<u8>,
        done: Done,
    },
    /// A snapshot that replaces everything but the log, in the tables and in memory: the next commit writes the record of what is
    /// in memory, so nothing comes between the two.
    Install {
        image: Box<Image>,
        done: Done,
    },
    /// A request to bring what was applied to the tables; nobody waits.
    Take,
    Stop {
        done: Done,
    },
}

/// The reason why the store has failed, if it has.
pub type Failed = Arc<watch::Sender<Option<String>>>;

/// Marks the store as failed, for good. Only the first reason counts.
pub fn fail(failed: &Failed, why: &str) {
    failed.send_if_modified(|failed| {
        let first = failed.is_none();
        if first {
            tracing::error!(%why, "the ledger's store failed; nothing is acknowledged any more until it is reopened");
            *failed = Some(why.to_owned());
        }
        first
    });
}

/// The state that the writer shares with those who apply and read.
pub struct Disk {
    /// The tables.
    pub db: Database,
    /// The Raft log.
    pub log: Database,
    pub machine: Mutex<Machine>,
    pub ring: Arc<Ring>,
    /// The cursor up to which events can be read from the tables.
    pub written: AtomicU64,
    pub compacted: AtomicU64,
    /// True while a snapshot of another node is being installed: what it stands for leaves the log with it.
    pub installing: AtomicBool,
    /// True while the tables' writer was asked to take what was applied, and has not yet.
    pub asked: AtomicBool,
    /// The number of events that there may be once the log that was found at start is applied.
    pub may_reach: u64,
}

/// The way to bring jobs to the writers. Cheap to clone; when the last is gone the writers end.
#[derive(Clone)]
pub struct Jobs {
    log: mpsc::Sender<Job>,
    tables: mpsc::Sender<Job>,
}

impl Jobs {
    /// Sends a job to the writer it is for, and waits while too many wait. Errors: the writers have ended.
    pub async fn send(&self, job: Job) -> io::Result<()> {
        let writer =
            if matches!(job, Job::Log { .. } | Job::Vote { .. } | Job::Truncate { .. }) { &self.log } else { &self.tables };
        writer.send(job).await.map_err(|_| stopped())
    }

    /// Asks the tables' writer to take what was applied, in its own time; if it has much to do it takes it anyway.
    pub fn take(&self) {
        let _ = self.tables.try_send(Job::Take);
    }

    /// Ends the log's writer, then the tables'. Whoever calls this brings no other jobs any more.
    pub async fn stop(&self) -> io::Result<()> {
        let mut ended = Ok(());
        // Each of them, whatever comes of the other.
        for writer in [&self.log, &self.tables] {
            let (done, wait) = oneshot::channel();
            let done: Done = Box::new(move |result| drop(done.send(result)));
            let sent = writer.send(Job::Stop { done }).await.map_err(|_| stopped());
            let its = match sent {
                Ok(()) => wait.await.map_err(|_| stopped()).flatten(),
                Err(error) => Err(error),
            };
            ended = ended.and(its);
        }
        ended
    }

    /// Sends a job and waits until it is done.
    pub async fn done(&self, make: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        // Who waited may be gone.
        self.send(make(Box::new(move |result| drop(done.send(result))))).await?;
        wait.await.map_err(|_| stopped())?
    }
}

fn stopped() -> io::Error {
    io::Error::other("the ledger's writer has stopped")
}

/// Starts the writers.
pub fn start(disk: Arc<Disk>, failed: Failed) -> io::Result<(Jobs, Vec<JoinHandle<()>>)> {
    let ((log, log_waiting), (tables, tables_waiting)) = (mpsc::channel(JOBS_MAX), mpsc::channel(JOBS_MAX));
    let (of_log, its_failed) = (disk.clone(), failed.clone());
    let again = sweep::Again::after(&disk.machine.lock().meta);
    let tables_writer = Tables { disk, failed, commits: 0, unsynced_commits: 0, unsynced_bytes: 0, again };
    let threads = vec![
        std::thread::Builder::new().name("ledger-log".into()).spawn(move || write_log(&of_log, &its_failed, log_waiting))?,
        std::thread::Builder::new().name("ledger-tables".into()).spawn(move || tables_writer.run(tables_waiting))?,
    ];
    Ok((Jobs { log, tables }, threads))
}

/// Gathers the jobs that came first, and those that wait behind them.
fn gather(first: Option<Job>, waiting: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut jobs: Vec<Job> = first.into_iter().collect();
    while jobs.len() < JOBS_MAX
        && let Ok(job) = waiting.try_recv()
    {
        jobs.push(job);
    }
    jobs
}

/// Does jobs in one transaction, unless the store has failed; those who wait are told afterwards.
fn commit(failed: &Failed, mut jobs: Vec<Job>, write: impl FnOnce(&mut [Job]) -> Written) {
    let why = failed.borrow().clone();
    let result = match why {
        Some(why) => Err(why),
        None => match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(&mut jobs))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the store panicked".into()),
        },
    };
    if let Err(why) = &result {
        fail(failed, why);
    }
    for job in jobs {
        match job {
            Job::Log { done, .. }
            | Job::Vote { done, .. }
            | Job::Truncate { done, .. }
            | Job::Purge { done, .. }
            | Job::Flush { done, .. }
            | Job::Mend { done, .. }
            | Job::Install { done, .. }
            | Job::Stop { done } => done(result.clone().map_err(io::Error::other)),
            Job::Take => {}
        }
    }
}

type Written<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Writes the log, which is what appends wait for: nothing else goes with it.
fn write_log(disk: &Disk, failed: &Failed, mut waiting: mpsc::Receiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let jobs = gather(Some(first), &mut waiting);
        let stop = jobs.iter().any(|job| matches!(job, Job::Stop { .. }));
        commit(failed, jobs, |jobs| {
            let mut txn = disk.log.begin_write()?;
            txn.set_durability(Durability::Immediate)?;
            for job in jobs {
                match job {
                    Job::Log { entries, .. } => {
                        let mut log = txn.open_table(LOG)?;
                        for (index, frame) in entries.iter() {
                            log.insert(index, frame.as_slice())?;
                        }
                    }
                    Job::Vote { frame, .. } => drop(txn.open_table(META)?.insert(META_VOTE, frame.as_slice())?),
                    Job::Truncate { from, .. } => txn.open_table(LOG)?.retain_in(*from.., |_, _| false)?,
                    _ => {}
                }
            }
            fault::point_sync("ledger.before_fsync", None)?;
            txn.commit()?;
            fault::point_sync("ledger.after_fsync", None)?;
            Ok(())
        });
        if stop {
            return;
        }
    }
}

/// Removes entries from the log that the tables hold for good.
fn purge(disk: &Disk, up_to: u64, frame: &[u8], durability: Durability) -> Written {
    let mut txn = disk.log.begin_write()?;
    txn.set_durability(durability)?;
    txn.open_table(LOG)?.retain_in(..=up_to, |_, _| false)?;
    txn.open_table(META)?.insert(META_PURGED, frame)?;
    Ok(txn.commit()?)
}

/// The writer that brings what was applied to the tables. Only a checkpoint syncs: the rest is made again from the log.
struct Tables {
    disk: Arc<Disk>,
    failed: Failed,
    commits: u64,
    /// The commits since the last checkpoint.
    unsynced_commits: u64,
    unsynced_bytes: usize,
    again: sweep::Again,
}

impl Tables {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        loop {
            let sweeping = self.failed.borrow().is_none() && sweep::wanted(&self.disk.machine.lock().meta, &self.again);
            let first = if sweeping { waiting.try_recv().ok() } else { waiting.blocking_recv() };
            if first.is_none() && (!sweeping || waiting.is_closed()) {
                return;
            }
            let jobs = gather(first, &mut waiting);
            let stop = jobs.iter().any(|job| matches!(job, Job::Stop { .. }));
            self.commits += 1;
            let failed = self.failed.clone();
            commit(&failed, jobs, |jobs| self.write(jobs));
            if stop {
                return;
            }
        }
    }

    fn write(&mut self, jobs: &mut [Job]) -> Written {
        let disk = self.disk.clone();
        let sweep = jobs.is_empty() || self.commits.is_multiple_of(16);
        let all_heads = jobs.iter().any(|job| matches!(job, Job::Flush { all_heads: true, .. } | Job::Stop { .. }));
        let (taken, meta) = {
            let mut machine = disk.machine.lock();
            let all_heads = all_heads || (sweep && sweep::wanted(&machine.meta, &self.again));
            (machine.take(all_heads)?, machine.meta.clone())
        };
        disk.asked.store(false, Ordering::Release);
        self.unsynced_commits += 1;
        self.unsynced_bytes += taken.events.iter().map(|(_, value)| value.len()).sum::<usize>();
        let asked = |job: &Job| matches!(job, Job::Purge { .. } | Job::Mend { .. } | Job::Install { .. } | Job::Stop { .. });
        let checkpoint =
            jobs.iter().any(asked) || self.unsynced_commits >= CHECKPOINT_COMMITS || self.unsynced_bytes >= CHECKPOINT_BYTES;
        let mut txn = disk.db.begin_write()?;
        txn.set_durability(if checkpoint { Durability::Immediate } else { Durability::None })?;
        txn.set_quick_repair(checkpoint);
        write_taken(&txn, &taken)?;
        let swept = if sweep { sweep::step(&disk, &txn, &meta, &mut self.again)? } else { None };
        let mut installed: Option<Meta> = None;
        for job in jobs.iter() {
            match job {
                Job::Mend { from, value, .. } => mend(&txn, *from, value)?,
                Job::Install { image, .. } => {
                    image.write(&txn)?;
                    installed = Some(image.meta.clone());
                }
                Job::Stop { .. } => fold(&disk.log, &txn)?,
                _ => {}
            }
        }
        txn.commit()?;
        if checkpoint {
            (self.unsynced_commits, self.unsynced_bytes) = (0, 0);
        }
        // Only now: the tables hold what they mean.
        for job in jobs.iter() {
            match job {
                Job::Purge { up_to, frame, .. } => purge(&disk, *up_to, frame, Durability::None)?,
                // The log goes on after it.
                Job::Install { image, .. } => {
                    if let Some(upto) = image.meta.applied {
                        purge(&disk, upto.index, &frame(&upto)?, Durability::Immediate)?;
                    }
                }
                _ => {}
            }
        }
        {
            let mut machine = disk.machine.lock();
            machine.taken(&taken);
            if let Some(swept) = swept {
                machine.meta.swept = swept;
            }
        }
        match installed {
            Some(meta) => replace_machine(&disk, meta),
            None => {
                disk.written.fetch_max(taken.head, Ordering::AcqRel);
                Ok(())
            }
        }
    }
}

/// Puts a value in the place of a damaged or missing one. Whatever is whole stays as it is.
fn mend(txn: &WriteTransaction, from: u64, value: &[u8]) -> Written {
    let mut events = txn.open_table(EVENTS)?;
    if events.get(from)?.is_some_and(|row| checked(from, row.value()).is_ok()) {
        return Ok(());
    }
    let last = checked(from, value)?;
    let next = events.range(from + 1..)?.next().transpose()?.map(|row| row.0.value());
    if next.is_none_or(|next| last < next) {
        events.insert(from, value)?;
    }
    Ok(())
}

/// Forgets what was applied before: the tables are those of a snapshot now, and `meta` is their record.
fn replace_machine(disk: &Disk, meta: Meta) -> Written {
    let machine = Machine::load(&disk.db, meta)?;
    disk.written.store(machine.meta.head, Ordering::Release);
    disk.compacted.store(machine.meta.compacted, Ordering::Release);
    disk.ring.clear();
    *disk.machine.lock() = machine;
    Ok(())
}

fn write_taken(txn: &WriteTransaction, taken: &Taken) -> Written {
    if !taken.events.is_empty() {
        let mut events = txn.open_table(EVENTS)?;
        for (key, value) in &taken.events {
            events.insert(key, value.as_slice())?;
        }
    }
    if !taken.heads.is_empty() {
        let mut streams = txn.open_table(STREAMS)?;
        for (stream, row) in &taken.heads {
            streams.insert(stream.as_str(), row.as_slice())?;
        }
        let mut chunks = txn.open_table(CHUNKS)?;
        for (stream, after, chunk) in &taken.chunks {
            chunks.insert((stream.as_str(), *after), chunk.as_slice())?;
        }
        let mut snapshots = txn.open_table(SNAPSHOTS)?;
        for (from, to) in &taken.parts_gone {
            snapshots.retain_in(from.as_str()..to.as_str(), |_, _| false)?;
        }
        for stream in &taken.snapshots_gone {
            snapshots.remove(stream.as_str())?;
        }
        for (row, snapshot) in &taken.snapshots {
            snapshots.insert(row.as_str(), snapshot.as_slice())?;
        }
    }
    txn.open_table(META)?.insert(META_MACHINE, taken.meta.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests;
