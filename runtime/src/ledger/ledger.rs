//! The door to the ledger: append, claim, watch, compact, and the keeper that opens a failed store again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Append, AppendError, Appended, Cursor, DiskState, LedgerConfig, LedgerStatus, Life, OpenError, ReadError,
    append::{Claims, CoreNow, Inbox, batcher},
    core::{self, Core},
    file::Reserve,
    raft::{Applied, NODE, ProposeError},
    record::Command,
    ring::Ring,
};
use crate::{clock::Deadline, fault, id::Key};

/// How long a look at the free space is believed.
const FREE_LOOKED_AT: Duration = Duration::from_millis(100);
/// The largest part of the reserve that is really taken on the disk.
const RESERVE_HELD_MAX: u64 = 16 << 20;
/// Claims remembered before those that the tables remember too are forgotten.
const CLAIMS_MAX: usize = 200_000;

/// The ledger of this node. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    config: LedgerConfig,
    core: CoreNow,
    /// Of the newest core: it still answers while that is being reopened.
    pub(super) ring: Arc<ArcSwap<Ring>>,
    pub(super) head: Arc<watch::Sender<Cursor>>,
    claims: Claims,
    claimed: AtomicU64,
    inbox: Mutex<Option<Inbox>>,
    reserve: Arc<Reserve>,
    free: Mutex<Option<(Instant, Option<u64>)>>,
    stop_keeper: Mutex<Option<oneshot::Sender<()>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl Ledger {
    /// Opens the ledger in `config.dir`, or makes it, and waits until it takes writes.
    pub async fn open(config: LedgerConfig) -> Result<Self, OpenError> {
        let reserve = Arc::new(Reserve::new(config.dir.join("ledger.reserve"), config.reserve_bytes.min(RESERVE_HELD_MAX)));
        let head = Arc::new(watch::Sender::new(Cursor::default()));
        let first = Arc::new(Core::open(&config, head.clone(), reserve.clone()).await?);
        reserve.hold();
        let ring = Arc::new(ArcSwap::new(first.disk.ring.clone()));
        let core: CoreNow = Arc::new(ArcSwapOption::new(Some(first)));
        let claims: Claims = Arc::default();
        let (inbox, batching) = batcher(core.clone(), claims.clone());
        let (stop_keeper, stopped) = oneshot::channel();
        let keeper = Keeper {
            config: config.clone(),
            core: core.clone(),
            ring: ring.clone(),
            head: head.clone(),
            reserve: reserve.clone(),
        };
        let tasks = vec![tokio::spawn(batching), tokio::spawn(keeper.run(stopped))];
        let inner = Inner {
            config,
            core,
            ring,
            head,
            claims,
            claimed: AtomicU64::new(0),
            inbox: Mutex::new(Some(inbox)),
            reserve,
            free: Mutex::new(None),
            stop_keeper: Mutex::new(Some(stop_keeper)),
            tasks: Mutex::new(tasks),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn core(&self) -> Result<Arc<Core>, ReadError> {
        match self.inner.core.load_full() {
            Some(core) => Ok(core),
            None if self.inner.inbox.lock().is_none() => Err(ReadError::Stopped),
            None => Err(ReadError::Storage("the store is being reopened".into())),
        }
    }

    /// Appends events to a stream, all or none. Answers when they are durable.
    ///
    /// Dropping the future does not take the append back.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let inbox = self.inner.inbox.lock().clone().ok_or(AppendError::Stopped)?;
        if let Some(error) = self.full() {
            return Err(error);
        }
        let failed = |error: fault::InjectedError| AppendError::Failed { why: error.to_string() };
        fault::point("ledger.before_append", Some(&append.stream)).await.map_err(failed)?;
        let stream = append.stream.clone();
        let appended = inbox.append(append).await?;
        let unknown = |error: fault::InjectedError| AppendError::Unknown { why: error.to_string() };
        fault::point("ledger.after_append", Some(&stream)).await.map_err(unknown)?;
        Ok(appended)
    }

    /// Why an append would be refused now, as far as the disk is concerned. Asking first spares an entity a decision
    /// that could not be written.
    pub fn takes_writes(&self) -> Result<(), AppendError> {
        if let Some(error) = self.full() {
            return Err(error);
        }
        match self.core() {
            Ok(core) => core.failure().map_or(Ok(()), |why| Err(AppendError::Failed { why })),
            Err(ReadError::Stopped) => Err(AppendError::Stopped),
            Err(error) => Err(AppendError::Failed { why: error.to_string() }),
        }
    }

    /// Why there is no room, if there is none.
    fn full(&self) -> Option<AppendError> {
        let (reserve, config) = (&self.inner.reserve, &self.inner.config);
        let free_bytes = self.free_bytes()?;
        if free_bytes >= config.reserve_bytes && (reserve.is_held() || reserve.hold()) {
            return None;
        }
        Some(AppendError::DiskFull { dir: config.dir.display().to_string(), free_bytes, reserve_bytes: config.reserve_bytes })
    }

    /// Absent if it cannot be told.
    fn free_bytes(&self) -> Option<u64> {
        let mut looked = self.inner.free.lock();
        match *looked {
            Some((at, free)) if at.elapsed() < FREE_LOOKED_AT && self.inner.reserve.is_held() => free,
            _ => {
                let free = nix::sys::statvfs::statvfs(&self.inner.config.dir)
                    .ok()
                    .map(|stat| stat.blocks_available() * stat.fragment_size());
                *looked = Some((Instant::now(), free));
                free
            }
        }
    }

    /// Begins a new life of a stream's entity: from its return on, appends of older lives are refused. Writes nothing.
    pub async fn claim(&self, stream: &Key) -> Result<Life, ReadError> {
        let inbox = self.inner.inbox.lock().clone().ok_or(ReadError::Stopped)?;
        let incarnation = (self.core()?.epoch << 32) | (self.inner.claimed.fetch_add(1, Ordering::Relaxed) + 1);
        {
            let mut claims = self.inner.claims.lock();
            if claims.len() >= CLAIMS_MAX {
                self.forget_claims(&mut claims);
            }
            let newest = claims.entry(stream.clone()).or_default();
            *newest = (*newest).max(incarnation);
        }
        if !inbox.settle(stream).await {
            return Err(ReadError::Stopped);
        }
        self.replay(stream, incarnation).await
    }

    /// What the tables know as well need not be remembered.
    fn forget_claims(&self, claims: &mut HashMap<Key, u64>) {
        let Ok(core) = self.core() else { return };
        let mut machine = core.disk.machine.lock();
        claims.retain(|stream, newest| machine.head(&core.disk.db, stream).map_or(true, |head| head.row.incarnation < *newest));
    }

    /// The last committed event.
    pub fn head(&self) -> Cursor {
        *self.inner.head.borrow()
    }

    /// Waits until the ledger has reached `cursor`; false if it has not by the deadline.
    pub async fn reached(&self, cursor: Cursor, deadline: Deadline) -> bool {
        let mut head = self.inner.head.subscribe();
        tokio::time::timeout_at(deadline.instant(), head.wait_for(|head| *head >= cursor)).await.is_ok_and(|found| found.is_ok())
    }

    /// Drops events up to `keep_after` that no stream's replay needs, in its own time. Answers the cursor up to which they
    /// may be gone.
    pub async fn compact(&self, keep_after: Cursor) -> Result<Cursor, AppendError> {
        let core = self.core().map_err(|error| AppendError::Failed { why: error.to_string() })?;
        match core.consensus.propose(Command::Compact { keep_after }).await {
            Ok(Applied::Compacted(oldest)) => Ok(Cursor(oldest)),
            Ok(other) => Err(AppendError::Unknown { why: format!("unexpected answer {other:?}") }),
            Err(ProposeError::NotLeading(why)) => Err(AppendError::NoQuorum { why }),
            Err(ProposeError::Lost(why)) => Err(AppendError::Unknown { why }),
        }
    }

    pub fn status(&self) -> LedgerStatus {
        let core = self.core();
        let (consensus, epoch, oldest) = core.as_ref().map_or_else(
            |_| Default::default(),
            |core| (core.consensus.status(), core.epoch, core.disk.compacted.load(Ordering::Acquire)),
        );
        let disk = match &core {
            Err(error) => DiskState::Failed { why: error.to_string() },
            Ok(core) => match (core.failure(), self.full()) {
                (Some(why), _) => DiskState::Failed { why },
                (None, Some(AppendError::DiskFull { free_bytes, .. })) => DiskState::Full { free_bytes },
                (None, _) => DiskState::Ok,
            },
        };
        LedgerStatus {
            node: NODE,
            term: consensus.term,
            leader: consensus.leader,
            voters: consensus.voters,
            head: self.head(),
            oldest: Cursor(oldest),
            epoch,
            disk,
            file_bytes: std::fs::metadata(self.inner.config.file()).map_or(0, |meta| meta.len()),
            log_entries: consensus.log_last.saturating_sub(consensus.log_purged),
        }
    }

    /// Stops taking appends, writes what it holds and closes the file.
    pub async fn stop(&self) {
        self.inner.inbox.lock().take();
        self.inner.stop_keeper.lock().take();
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            if task.await.is_err() {
                tracing::warn!("a task of the ledger did not end in order");
            }
        }
        if let Some(core) = self.inner.core.swap(None) {
            core.stop().await;
            closed(core).await;
        }
    }
}

/// Drops the core once nobody reads with it any more; then its file is closed.
async fn closed(core: Arc<Core>) {
    let mut core = core;
    for _ in 0..1_000 {
        match Arc::try_unwrap(core) {
            Ok(core) => {
                // Closing writes and syncs.
                if tokio::task::spawn_blocking(move || drop(core)).await.is_err() {
                    tracing::warn!("the ledger's file was not closed in order");
                }
                return;
            }
            Err(shared) => core = shared,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tracing::warn!("somebody still reads the ledger; its file is closed when they are done");
}

/// Opens a failed store again.
struct Keeper {
    config: LedgerConfig,
    core: CoreNow,
    ring: Arc<ArcSwap<Ring>>,
    head: Arc<watch::Sender<Cursor>>,
    reserve: Arc<Reserve>,
}

impl Keeper {
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let Some(core) = self.core.load_full() else { return };
            tokio::select! {
                _ = &mut stopped => return,
                _ = core.failing() => {}
            }
            core.stop().await;
            // Reads from disk fail from here on until the file is open again; those of the newest events do not.
            self.core.store(None);
            closed(core).await;
            let mut tries = 0;
            loop {
                tokio::select! {
                    _ = &mut stopped => return,
                    () = tokio::time::sleep(core::backoff(tries)) => {}
                }
                core::forget_pages(&self.config);
                match Core::open(&self.config, self.head.clone(), self.reserve.clone()).await {
                    Ok(core) => {
                        tracing::info!(epoch = core.epoch, "the ledger's store is open again, and checked");
                        self.ring.store(core.disk.ring.clone());
                        self.core.store(Some(Arc::new(core)));
                        break;
                    }
                    Err(error) => {
                        tracing::error!(%error, tries, "the ledger's store cannot be opened");
                        tries += 1;
                    }
                }
            }
        }
    }
}
