//! The one thread that writes the ledger's file.
//!
//! A log entry is acknowledged after a commit with an fsync. What applied entries changed goes along with the next
//! commit: until then it can be made again from the log, so a crash loses nothing, and an append costs one fsync.
//! After any error of the disk nothing is acknowledged any more until the file has been opened and checked anew.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use redb::{Database, Durability, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    machine::{Machine, Taken},
    record::frame,
    ring::Ring,
    snapshot::Image,
    sweep,
    tables::{CHUNKS, EVENTS, LOG, META, META_MACHINE, META_PURGED, META_VOTE, SNAPSHOTS, STREAMS},
};
use crate::fault;

/// Jobs that wait for the writer; whoever brings one more waits.
const JOBS_MAX: usize = 256;

pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub enum Job {
    /// Log entries by index.
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
    /// Answers when everything applied so far can be read from the tables.
    Flush {
        all_heads: bool,
        done: Done,
    },
    /// Everything but the log is replaced.
    Install {
        image: Box<Image>,
        done: Done,
    },
    Stop {
        done: Done,
    },
}

/// Why the store has failed, if it has.
pub type Failed = Arc<watch::Sender<Option<String>>>;

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

/// What the writer shares with those who apply and read.
pub struct Disk {
    pub db: Database,
    pub machine: Mutex<Machine>,
    pub ring: Arc<Ring>,
    /// Events up to this cursor can be read from the tables.
    pub written: AtomicU64,
    pub compacted: AtomicU64,
    /// A snapshot of another node is being installed: what it stands for leaves the log with it.
    pub installing: AtomicBool,
}

/// Brings jobs to the writer. Cheap to clone; when the last is gone the writer ends.
#[derive(Clone)]
pub struct Jobs {
    jobs: mpsc::Sender<Job>,
}

impl Jobs {
    pub async fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| io::Error::other("the ledger's writer has stopped"))
    }

    /// Sends a job and waits until it is done.
    pub async fn done(&self, make: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        // Who waited may be gone.
        self.send(make(Box::new(move |result| drop(done.send(result))))).await?;
        wait.await.map_err(|_| io::Error::other("the ledger's writer has stopped"))?
    }
}

/// Starts the writer.
pub fn start(disk: Arc<Disk>, failed: Failed) -> io::Result<(Jobs, std::thread::JoinHandle<()>)> {
    let (jobs, waiting) = mpsc::channel(JOBS_MAX);
    let writer = Writer { disk, failed, commits: 0 };
    let thread = std::thread::Builder::new().name("ledger-writer".into()).spawn(move || writer.run(waiting))?;
    Ok((Jobs { jobs }, thread))
}

struct Writer {
    disk: Arc<Disk>,
    failed: Failed,
    commits: u64,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        loop {
            let sweeping = self.failed.borrow().is_none() && sweep::wanted(&self.disk.machine.lock().meta);
            let first = if sweeping { waiting.try_recv().ok() } else { waiting.blocking_recv() };
            if first.is_none() && (!sweeping || waiting.is_closed()) {
                return;
            }
            let mut jobs: Vec<Job> = first.into_iter().collect();
            while jobs.len() < JOBS_MAX
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            let stop = jobs.iter().any(|job| matches!(job, Job::Stop { .. }));
            self.commit(jobs);
            if stop {
                return;
            }
        }
    }

    /// One transaction for all of it; those who wait are told afterwards.
    fn commit(&mut self, mut jobs: Vec<Job>) {
        self.commits += 1;
        let failed = self.failed.borrow().clone();
        let result = match failed {
            Some(why) => Err(why),
            None => {
                let sweep = jobs.is_empty() || self.commits.is_multiple_of(16);
                let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(&self.disk, &mut jobs, sweep)));
                match written {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("the store panicked".into()),
                }
            }
        };
        if let Err(why) = &result {
            fail(&self.failed, why);
        }
        for job in jobs {
            match job {
                Job::Log { done, .. }
                | Job::Vote { done, .. }
                | Job::Truncate { done, .. }
                | Job::Purge { done, .. }
                | Job::Flush { done, .. }
                | Job::Install { done, .. }
                | Job::Stop { done } => done(result.clone().map_err(io::Error::other)),
            }
        }
    }
}

type Written<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn write(disk: &Disk, jobs: &mut [Job], sweep: bool) -> Written {
    let all_heads = jobs.iter().any(|job| matches!(job, Job::Flush { all_heads: true, .. } | Job::Stop { .. }));
    let durable = jobs.iter().any(|job| !matches!(job, Job::Purge { .. } | Job::Flush { .. }));
    let mut txn = disk.db.begin_write()?;
    txn.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
    let (taken, meta) = {
        let mut machine = disk.machine.lock();
        let all_heads = all_heads || (sweep && sweep::wanted(&machine.meta));
        (machine.take(all_heads)?, machine.meta.clone())
    };
    write_taken(&txn, &taken)?;
    let swept = if sweep { sweep::step(disk, &txn, &meta)? } else { None };
    for job in jobs.iter_mut() {
        match job {
            Job::Log { entries, .. } => {
                let mut log = txn.open_table(LOG)?;
                for (index, frame) in entries.iter() {
                    log.insert(index, frame.as_slice())?;
                }
            }
            Job::Vote { frame, .. } => drop(txn.open_table(META)?.insert(META_VOTE, frame.as_slice())?),
            Job::Truncate { from, .. } => txn.open_table(LOG)?.retain_in(*from.., |_, _| false)?,
            Job::Purge { up_to, frame, .. } => {
                txn.open_table(LOG)?.retain_in(..=*up_to, |_, _| false)?;
                txn.open_table(META)?.insert(META_PURGED, frame.as_slice())?;
            }
            Job::Install { image, .. } => {
                image.write(&txn)?;
                // The log goes on after it.
                if let Some(upto) = image.meta.applied {
                    txn.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
                    txn.open_table(META)?.insert(META_PURGED, frame(&upto)?.as_slice())?;
                }
            }
            Job::Flush { .. } | Job::Stop { .. } => {}
        }
    }
    if durable {
        fault::point_sync("ledger.before_fsync", None)?;
    }
    txn.commit()?;
    if durable {
        fault::point_sync("ledger.after_fsync", None)?;
    }
    {
        let mut machine = disk.machine.lock();
        machine.taken(&taken);
        if let Some(swept) = swept {
            machine.meta.swept = swept;
        }
    }
    disk.written.fetch_max(taken.head, Ordering::AcqRel);
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
        for (stream, snapshot) in &taken.snapshots {
            snapshots.insert(stream.as_str(), snapshot.as_slice())?;
        }
    }
    txn.open_table(META)?.insert(META_MACHINE, taken.meta.as_slice())?;
    Ok(())
}
