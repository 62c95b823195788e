//! One life of the store: the open file, its writer and the consensus over it.
//!
//! After an error of the disk a core takes no more writes for good; the keeper closes it and opens another, which checks
//! the file anew. Until then reads go on.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redb::{ReadableDatabase, ReadableTable};
use tokio::sync::watch;

use super::{
    Cursor, LedgerConfig, OpenError, ReadError,
    append::Claims,
    file::{Reserve, Witness},
    machine::{Machine, Meta},
    open::{self, Files},
    raft::{Consensus, Group, Leadership, Outcomes, RaftSetup},
    record::{events_in, read_entry},
    ring::Ring,
    tables::{LOG, META_MACHINE, META_PURGED, corrupt, meta, storage},
    writer::{self, Disk, Failed, Job, Jobs},
};
use crate::file::make_dir;

pub struct Core {
    pub consensus: Box<dyn Consensus>,
    pub disk: Arc<Disk>,
    pub outcomes: Arc<Outcomes>,
    jobs: Jobs,
    failed: Failed,
    writers: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Core {
    /// Opens and checks the files, starts the writer and the consensus. Events in the tables can be read before it takes writes.
    pub async fn open(
        config: &LedgerConfig,
        head: Arc<watch::Sender<Cursor>>,
        reserve: Arc<Reserve>,
        leadership: Arc<watch::Sender<Leadership>>,
        claims: Claims,
    ) -> Result<Self, OpenError> {
        let (path, within) = (config.file(), config.open_timeout);
        let storage_error = |what: String| OpenError::Storage { path: path.clone(), what };
        let opening = config.clone();
        let (disk, witness) = tokio::task::spawn_blocking(move || open_disk(&opening, reserve))
            .await
            .map_err(|error| storage_error(error.to_string()))??;
        let disk = Arc::new(disk);
        let failed: Failed = Arc::new(watch::Sender::new(None));
        let (jobs, threads) = writer::start(disk.clone(), failed.clone()).map_err(|error| storage_error(error.to_string()))?;
        let outcomes = Arc::new(Outcomes::new(head));
        // What is in the tables can be read before anything else is applied.
        outcomes.moved(disk.machine.lock().meta.head);
        let setup = RaftSetup { dir: config.dir.clone(), ..config.raft.clone() };
        let started =
            Group::start(disk.clone(), jobs.clone(), outcomes.clone(), witness, within, setup, leadership, claims).await;
        let consensus = match started {
            Ok(started) => started,
            Err(error) => {
                let why = failed.borrow().clone();
                drop(jobs);
                drop(disk);
                join(threads).await;
                return Err(match (why, error) {
                    (Some(what), _) | (None, OpenError::Storage { what, .. }) => storage_error(what),
                    (None, other) => other,
                });
            }
        };
        Ok(Self { consensus: Box::new(consensus), disk, outcomes, jobs, failed, writers: Mutex::new(threads) })
    }

    /// Returns why it takes no more writes; `None` while it does.
    pub fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    /// Marks it as failed for this reason, for good; it takes no more writes.
    pub fn fail(&self, why: &str) {
        writer::fail(&self.failed, why);
    }

    /// Waits until it has failed.
    pub async fn failing(&self) {
        let mut failed = self.failed.subscribe();
        while failed.borrow_and_update().is_none() {
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Asks the writer to do something that no other command is there for, and waits until it is done.
    pub async fn mend(&self, job: impl FnOnce(writer::Done) -> Job) -> std::io::Result<()> {
        self.jobs.done(job).await
    }

    /// Writes what it holds and releases the file; the last one to drop it closes it.
    pub async fn stop(&self) {
        self.consensus.stop().await;
        if let Err(error) = self.jobs.stop().await
            && self.failure().is_none()
        {
            tracing::warn!(%error, "the ledger's writer did not stop in order");
        }
        let threads = std::mem::take(&mut *self.writers.lock());
        join(threads).await;
    }
}

async fn join(threads: Vec<std::thread::JoinHandle<()>>) {
    for thread in threads {
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::warn!("one of the ledger's writers panicked");
        }
    }
}

fn open_disk(config: &LedgerConfig, reserve: Arc<Reserve>) -> Result<(Disk, Witness), OpenError> {
    let path = config.file();
    let storage_error = |error: std::io::Error| OpenError::Storage { path: path.clone(), what: error.to_string() };
    make_dir(&config.dir).map_err(storage_error)?;
    let witness = Witness::open(&config.dir.join("ledger.witness")).map_err(storage_error)?;
    let Files { tables: mut db, log } = open::open(&path, &config.backend, &reserve, config.verify_bytes_max)?;
    config.holes.close_up(&path, &mut db);
    let loaded = || -> Result<(Machine, Option<u64>, u64), ReadError> {
        let machine = Machine::load(&db, meta::<Meta>(&db, META_MACHINE)?.unwrap_or_default())?;
        let purged: Option<openraft::LogId<u64>> = meta(&log, META_PURGED)?;
        let txn = log.begin_read().map_err(storage)?;
        let table = txn.open_table(LOG).map_err(storage)?;
        let last = table.last().map_err(storage)?.map(|row| row.0.value());
        let applied = machine.meta.applied.map(|applied| applied.index);
        let mut may_reach = machine.meta.head;
        for row in table.range(applied.map_or(0, |applied| applied + 1)..).map_err(storage)? {
            let (index, value) = row.map_err(storage)?;
            let index = index.value();
            let entry = read_entry(index, value.value()).map_err(|what| corrupt("raft_log", format!("index {index}"), what))?;
            may_reach += events_in(&entry);
        }
        Ok((machine, last.max(purged.map(|purged| purged.index)).max(applied), may_reach))
    };
    let (machine, last, may_reach) = loaded().map_err(|error| match error {
        ReadError::Corrupt { table, position, what } => OpenError::Corrupt { path: path.clone(), table, position, what },
        other => OpenError::Storage { path: path.clone(), what: other.to_string() },
    })?;
    let seen = witness.last();
    if seen > last {
        let index = seen.unwrap_or_default();
        let found = last.map_or_else(|| "none".into(), |last| last.to_string());
        return Err(OpenError::Corrupt {
            path,
            table: "raft_log",
            position: format!("index {index}"),
            what: format!("it was acknowledged, and the last entry found is {found}; to go on without it, remove ledger.witness"),
        });
    }
    let disk = Disk {
        written: machine.meta.head.into(),
        compacted: machine.meta.compacted.into(),
        db,
        log,
        machine: Mutex::new(machine),
        ring: Arc::new(Ring::default()),
        installing: false.into(),
        asked: false.into(),
        may_reach,
    };
    Ok((disk, witness))
}

/// Forgets pages of the file that do not wait to be written: after an error of the disk, memory may differ from the disk.
pub fn forget_pages(config: &LedgerConfig) {
    let forgotten = std::fs::File::open(config.file()).and_then(|file| {
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(std::io::Error::from)
    });
    if let Err(error) = forgotten {
        tracing::warn!(%error, "pages of the ledger's file cannot be read anew");
    }
}

/// Returns how long to wait before the file is opened again: from 20 ms up to about 10 s.
pub fn backoff(tries: u32) -> Duration {
    Duration::from_millis(20).saturating_mul(1 << tries.min(9))
}

/// Opens the files in a test, with a writer and no consensus.
#[cfg(test)]
pub fn open_for_test(config: &LedgerConfig) -> (Arc<Disk>, Jobs) {
    let reserve = Arc::new(Reserve::new(config.dir.join("ledger.reserve"), 0));
    let disk = Arc::new(open_disk(config, reserve).unwrap().0);
    let (jobs, _) = writer::start(disk.clone(), Arc::new(watch::Sender::new(None))).unwrap();
    (disk, jobs)
}
