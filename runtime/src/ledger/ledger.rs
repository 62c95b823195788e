//! The door to the ledger: append, claim, watch, compact, and the keeper that opens a failed store again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redb::ReadableDatabase;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Append, AppendError, Appended, Cursor, DiskState, LedgerConfig, LedgerStatus, Life, OpenError, ReadError,
    append::{Claims, CoreNow, Inbox, batcher},
    core::{self, Core},
    damage::{Damages, checked},
    file::Reserve,
    raft::{Applied, Change, ChangeError, Leadership, ProposeError, wire},
    record::Command,
    ring::Ring,
    tables::{EVENTS, storage},
    writer::Job,
};
use crate::{
    clock::{BootTime, Deadline},
    fault,
    id::Key,
    net::rpc::Service,
    op::NodeId,
};

/// The time for which a look at the free space is believed.
const FREE_LOOKED_AT: Duration = Duration::from_millis(100);
/// The largest part of the reserve that is really taken on the disk.
const RESERVE_HELD_MAX: u64 = 16 << 20;
/// The time that a claim waits for a leader, and for this node to have what the leader had.
const CLAIM_WITHIN: Duration = Duration::from_secs(20);
const CLAIM_RETRY: Duration = Duration::from_millis(20);
/// The time that a ledger that stops waits for the outcome of what it has proposed. After that the outcome is unknown.
const PROPOSED_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// The same time for a ledger that is alone. Its node gives it less.
const ALONE_ENDS_WITHIN: Duration = Duration::from_secs(3_600);
/// The number of claims remembered before those that the tables remember too are forgotten.
const CLAIMS_MAX: usize = 200_000;

/// The ledger of this node. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    config: LedgerConfig,
    core: CoreNow,
    /// The ring of the newest core: it still answers while that is being reopened.
    pub(super) ring: Arc<ArcSwap<Ring>>,
    pub(super) head: Arc<watch::Sender<Cursor>>,
    leadership: Arc<watch::Sender<Leadership>>,
    claims: Claims,
    claimed: AtomicU64,
    inbox: Mutex<Option<Inbox>>,
    reserve: Arc<Reserve>,
    free: Mutex<Option<(Instant, Option<u64>)>>,
    damages: Damages,
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
        let leadership = Arc::new(watch::Sender::new(Leadership::default()));
        let claims: Claims = Arc::default();
        let first = Core::open(&config, head.clone(), reserve.clone(), leadership.clone(), claims.clone()).await?;
        let first = Arc::new(first);
        reserve.hold();
        let ring = Arc::new(ArcSwap::new(first.disk.ring.clone()));
        let core: CoreNow = Arc::new(ArcSwapOption::new(Some(first)));
        let (inbox, batching) = batcher(core.clone(), claims.clone(), config.clock.clone());
        let (stop_keeper, stopped) = oneshot::channel();
        let keeper = Keeper {
            config: config.clone(),
            core: core.clone(),
            ring: ring.clone(),
            head: head.clone(),
            reserve: reserve.clone(),
            leadership: leadership.clone(),
            claims: claims.clone(),
        };
        let lanes = config.raft.lanes.clone();
        let tasks = vec![tokio::spawn(batching), tokio::spawn(keeper.run(stopped))];
        let inner = Inner {
            config,
            core,
            ring,
            head,
            leadership,
            claims,
            claimed: AtomicU64::new(0),
            inbox: Mutex::new(Some(inbox)),
            reserve,
            free: Mutex::new(None),
            damages: Damages::default(),
            stop_keeper: Mutex::new(Some(stop_keeper)),
            tasks: Mutex::new(tasks),
        };
        let ledger = Self { inner: Arc::new(inner) };
        if let Some(lanes) = lanes {
            let serve: Arc<dyn Service> = Arc::new(Serve(Arc::downgrade(&ledger.inner)));
            lanes.raft.serve(wire::SERVICE, serve.clone());
            lanes.bulk.serve(wire::SERVICE, serve);
        }
        Ok(ledger)
    }

    pub(super) fn core(&self) -> Result<Arc<Core>, ReadError> {
        match self.inner.core.load_full() {
            Some(core) => Ok(core),
            None if self.inner.inbox.lock().is_none() => Err(ReadError::Stopped),
            None => Err(ReadError::Storage("the store is being reopened".into())),
        }
    }

    /// Appends events to a stream, all or none. Answers when they are durable. Dropping the future does not take it back.
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

    /// Tells why an append would be refused now, as far as the disk and the quorum are concerned. Asking first spares an entity a
    /// decision that could not be written.
    pub fn takes_writes(&self) -> Result<(), AppendError> {
        if let Some(error) = self.full() {
            return Err(error);
        }
        match self.core() {
            Ok(core) => match core.failure() {
                Some(why) => Err(AppendError::Failed { why }),
                None => core.consensus.quorum().map_err(|why| AppendError::NoQuorum { why }),
            },
            Err(ReadError::Stopped) => Err(AppendError::Stopped),
            Err(error) => Err(AppendError::Failed { why: error.to_string() }),
        }
    }

    /// Tells why there is no room, if there is none.
    fn full(&self) -> Option<AppendError> {
        let (reserve, config) = (&self.inner.reserve, &self.inner.config);
        let free_bytes = self.free_bytes()?;
        if free_bytes >= config.reserve_bytes && (reserve.is_held() || reserve.hold()) {
            return None;
        }
        Some(AppendError::DiskFull { dir: config.dir.display().to_string(), free_bytes, reserve_bytes: config.reserve_bytes })
    }

    /// Returns the free bytes on the disk; absent if that cannot be told.
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

    /// Begins a new life of a stream's entity: from its return on, appends of older lives are refused, on every node.
    /// Writes nothing. Waits for a leader for a while, and until this node has what the leader had.
    pub async fn claim(&self, stream: &Key) -> Result<Life, ReadError> {
        self.claim_page(stream, usize::MAX).await
    }

    /// Claims as [`claim`](Self::claim), with at most `events_max` of the events, and fewer where they are large, for a stream
    /// that may not fit in memory at once. [`read_stream`](Self::read_stream) gives the rest.
    pub async fn claim_page(&self, stream: &Key, events_max: usize) -> Result<Life, ReadError> {
        let deadline = Deadline::after(CLAIM_WITHIN);
        let inbox = self.inner.inbox.lock().clone().ok_or(ReadError::Stopped)?;
        loop {
            let why = match self.try_claim(stream, &inbox, deadline, events_max).await? {
                Ok(life) => return Ok(life),
                Err(why) => why,
            };
            if deadline.passed() {
                return Err(ReadError::NoQuorum { why });
            }
            tokio::time::sleep(CLAIM_RETRY.min(deadline.remaining())).await;
        }
    }

    /// Claims once. The inner error says why there is no leader to ask, or none that this node keeps up with.
    async fn try_claim(
        &self,
        stream: &Key,
        inbox: &Inbox,
        deadline: Deadline,
        events_max: usize,
    ) -> Result<Result<Life, String>, ReadError> {
        let core = self.core()?;
        let (incarnation, index) = if self.inner.leadership.borrow().is_me {
            let Some(claimed) = self.claim_as_leader(&core, stream, inbox).await? else {
                return Ok(Err("the leader changes".into()));
            };
            claimed
        } else {
            match core.consensus.ask_claim(stream, deadline).await {
                Ok(wire::Claimed::Life { incarnation, index }) => {
                    self.remember_claim(stream, incarnation);
                    if !inbox.settle(stream).await {
                        return Err(ReadError::Stopped);
                    }
                    (incarnation, index)
                }
                Ok(wire::Claimed::NotLeading) => return Ok(Err("the leader changes".into())),
                Err(why) => return Ok(Err(why)),
            }
        };
        if !core.consensus.applied(index, deadline).await {
            return Ok(Err("this node lags behind the leader".into()));
        }
        drop(core);
        self.replay(stream, incarnation, events_max).await.map(Ok)
    }

    /// Returns the new incarnation, and the index of the last entry that may hold something of the lives before; `None` if this
    /// node ceased to lead.
    async fn claim_as_leader(&self, core: &Core, stream: &Key, inbox: &Inbox) -> Result<Option<(u64, u64)>, ReadError> {
        let epoch = {
            let leadership = self.inner.leadership.borrow();
            if !leadership.is_me {
                return Ok(None);
            }
            leadership.epoch
        };
        let incarnation = (epoch << 32) | (self.inner.claimed.fetch_add(1, Ordering::Relaxed) + 1);
        self.remember_claim(stream, incarnation);
        if !inbox.settle(stream).await {
            return Err(ReadError::Stopped);
        }
        // What other nodes brought for the lives before: refused from now on, or in the log by then. One that votes alone has
        // others that bring proposals, too.
        let Ok(index) = core.consensus.let_in().await else { return Ok(None) };
        Ok(Some((incarnation, index)))
    }

    fn remember_claim(&self, stream: &Key, incarnation: u64) {
        let mut claims = self.inner.claims.lock();
        if claims.len() >= CLAIMS_MAX {
            self.forget_claims(&mut claims);
        }
        let newest = claims.entry(stream.clone()).or_default();
        *newest = (*newest).max(incarnation);
    }

    /// Forgets claims that the tables know as well.
    fn forget_claims(&self, claims: &mut HashMap<Key, u64>) {
        let Ok(core) = self.core() else { return };
        let mut machine = core.disk.machine.lock();
        claims.retain(|stream, newest| machine.head(&core.disk.db, stream).map_or(true, |head| head.row.incarnation < *newest));
    }

    /// Returns the cursor of the last committed event.
    pub fn head(&self) -> Cursor {
        *self.inner.head.borrow()
    }

    /// Returns a cursor that no event is after, as far as this node knows: it may not have taken in all that its log holds.
    pub(super) fn may_reach(&self) -> Cursor {
        let of_log = self.core().map_or(0, |core| core.disk.may_reach);
        self.head().max(Cursor(of_log))
    }

    /// Waits until the ledger has reached `cursor`; false if it has not by the deadline.
    pub async fn reached(&self, cursor: Cursor, deadline: Deadline) -> bool {
        let mut head = self.inner.head.subscribe();
        tokio::time::timeout_at(deadline.instant(), head.wait_for(|head| *head >= cursor)).await.is_ok_and(|found| found.is_ok())
    }

    /// Waits until this node has all that was acknowledged before this call, on whichever node: what is read then is not
    /// older. On a lone node that is so at once.
    pub async fn linearize(&self, deadline: Deadline) -> Result<(), ReadError> {
        let core = self.core()?;
        if core.consensus.is_alone() {
            return Ok(());
        }
        core.consensus.linearize(deadline).await.map_err(|why| ReadError::NoQuorum { why })
    }

    /// Drops events up to `keep_after` that no stream's replay needs, in its own time. Answers the cursor up to which they
    /// may be gone.
    pub async fn compact(&self, keep_after: Cursor) -> Result<Cursor, AppendError> {
        let core = self.core().map_err(|error| AppendError::Failed { why: error.to_string() })?;
        if !self.inner.leadership.borrow().is_me {
            // Its leader sees to it, for all nodes.
            return Ok(Cursor(core.disk.compacted.load(Ordering::Acquire)));
        }
        match core.consensus.propose(Command::Compact { keep_after }).await {
            Ok(Applied::Compacted(oldest)) => Ok(Cursor(oldest)),
            Ok(other) => Err(AppendError::Unknown { why: format!("unexpected answer {other:?}") }),
            Err(ProposeError::NotLeading(why)) => Err(AppendError::NoQuorum { why }),
            Err(error) => Err(AppendError::Unknown { why: error.to_string() }),
        }
    }

    /// Returns a receiver of who leads, as this node knows; on a lone node that is itself.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Tells whether this node is the only one that votes.
    pub fn is_alone(&self) -> bool {
        self.core().is_ok_and(|core| core.consensus.is_alone())
    }

    /// Returns, on a leader, its term and the latest moment at which a quorum is known to have followed it.
    pub fn confirmed(&self) -> Option<(u64, BootTime)> {
        self.core().ok()?.consensus.confirmed()
    }

    /// Changes who keeps the ledger, and who votes. Answers when it is committed.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let core = self.core().map_err(|error| ChangeError::Refused(error.to_string()))?;
        core.consensus.change(change).await
    }

    /// Lets another voter lead; tells whether one does by then.
    pub async fn step_aside(&self, within: Duration) -> bool {
        match self.core() {
            Ok(core) => core.consensus.step_aside(within).await,
            Err(_) => true,
        }
    }

    /// Returns the state of the ledger on this node: who leads, who keeps it, how far it is, and how its disk is.
    pub fn status(&self) -> LedgerStatus {
        let core = self.core();
        let (consensus, oldest) = core
            .as_ref()
            .map_or_else(|_| Default::default(), |core| (core.consensus.status(), core.disk.compacted.load(Ordering::Acquire)));
        let no_quorum = core.as_ref().ok().and_then(|core| core.consensus.quorum().err());
        let disk = match &core {
            Err(error) => DiskState::Failed { why: error.to_string() },
            Ok(core) => match (core.failure(), self.full()) {
                (Some(why), _) => DiskState::Failed { why },
                (None, Some(AppendError::DiskFull { free_bytes, .. })) => DiskState::Full { free_bytes },
                (None, _) => DiskState::Ok,
            },
        };
        LedgerStatus {
            term: consensus.term,
            leader: consensus.leader,
            members: consensus.members,
            changing: consensus.changing,
            head: self.head(),
            oldest: Cursor(oldest),
            disk,
            no_quorum,
            file_bytes: std::fs::metadata(self.inner.config.file()).map_or(0, |meta| meta.len()),
            log_last: consensus.log_last,
            log_entries: consensus.log_last.saturating_sub(consensus.log_purged),
        }
    }

    /// Notes how many bytes all values in the file have together, as the scrubber found it.
    pub(super) fn holds(&self, live_bytes: u64) {
        let (holes, path) = (self.inner.config.holes, self.inner.config.file());
        match holes.note(&path, live_bytes) {
            Ok(false) => {}
            Ok(true) => tracing::info!(live_bytes, "the ledger's file is mostly holes; the next start makes it smaller"),
            Err(error) => tracing::warn!(%error, "it cannot be noted that the ledger's file is mostly holes"),
        }
    }

    /// Returns the list of what was found damaged in the ledger or the views, and not found whole since.
    pub fn damages(&self) -> Damages {
        self.inner.damages.clone()
    }

    /// Takes the value that begins with a cursor, which is damaged or missing here, from another node, and missing ones behind
    /// it, too; tells whether the first is whole now.
    pub(super) async fn mend_events(&self, from: u64, deadline: Deadline) -> Result<bool, ReadError> {
        let (mut next, mut mended) = (from, false);
        loop {
            let core = self.core()?;
            let Some(value) = core.consensus.events_of_others(next, deadline).await else { return Ok(mended) };
            let last = checked(next, &value).map_err(storage)?;
            let job = |done| Job::Mend { from: next, value, done };
            core.mend(job).await.map_err(storage)?;
            let txn = core.disk.db.begin_read().map_err(storage)?;
            let table = txn.open_table(EVENTS).map_err(storage)?;
            let whole = table.get(next).map_err(storage)?.is_some_and(|row| checked(next, row.value()).is_ok());
            if next == from {
                mended = whole;
            }
            let follows = table.get(last + 1).map_err(storage)?.is_some();
            if !whole || follows || last >= self.head().0 || deadline.passed() {
                return Ok(mended);
            }
            next = last + 1;
        }
    }

    /// Stops taking appends, writes what it holds and closes the file.
    pub async fn stop(&self) {
        self.inner.inbox.lock().take();
        self.inner.stop_keeper.lock().take();
        // Others are still answered: what was proposed here ends when their leader says that it is committed. A ledger that is
        // alone commits by itself, however long its disk takes.
        let lanes = self.inner.config.raft.lanes.as_ref();
        let deadline = Deadline::after(if lanes.is_some() { PROPOSED_ENDS_WITHIN } else { ALONE_ENDS_WITHIN });
        let (tasks, mut left) = (std::mem::take(&mut *self.inner.tasks.lock()), Vec::new());
        for mut task in tasks {
            match tokio::time::timeout_at(deadline.instant(), &mut task).await {
                Ok(ended) => in_order(ended),
                Err(_) => left.push(task),
            }
        }
        if let Some(lanes) = lanes {
            lanes.raft.close(wire::SERVICE);
            lanes.bulk.close(wire::SERVICE);
        }
        let core = self.inner.core.swap(None);
        if let Some(core) = &core {
            core.stop().await;
        }
        // What is not committed by now has no outcome that this node could know.
        for task in left {
            in_order(task.await);
        }
        if let Some(core) = core {
            closed(core).await;
        }
    }
}

fn in_order(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err() {
        tracing::warn!("a task of the ledger did not end in order");
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

/// The service that answers other members, through whichever core there is.
struct Serve(Weak<Inner>);

impl Service for Serve {
    fn serve(&self, peer: NodeId, body: Bytes) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let inner = self.0.upgrade();
        Box::pin(async move {
            let ledger = Ledger { inner: inner.ok_or("this node is stopping")? };
            let kind = body.first().and_then(|kind| wire::Kind::read(*kind));
            let kind = kind.ok_or("a question of a kind that is unknown here: are both nodes of adjacent versions?")?;
            let core = ledger.core().map_err(|error| error.to_string())?;
            let body = body.slice(1..);
            if kind != wire::Kind::Claim {
                let answer = core.consensus.serve(peer, kind, body);
                drop(core);
                return answer.await;
            }
            let asked: wire::AskClaim = wire::read(&body)?;
            let inbox = ledger.inner.inbox.lock().clone().ok_or("this node is stopping")?;
            let claimed = ledger.claim_as_leader(&core, &asked.stream, &inbox).await.map_err(|error| error.to_string())?;
            wire::answer(&match claimed {
                Some((incarnation, index)) => wire::Claimed::Life { incarnation, index },
                None => wire::Claimed::NotLeading,
            })
        })
    }
}

/// The task that opens a failed store again.
struct Keeper {
    config: LedgerConfig,
    core: CoreNow,
    ring: Arc<ArcSwap<Ring>>,
    head: Arc<watch::Sender<Cursor>>,
    reserve: Arc<Reserve>,
    leadership: Arc<watch::Sender<Leadership>>,
    claims: Claims,
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
                let (leadership, claims) = (self.leadership.clone(), self.claims.clone());
                match Core::open(&self.config, self.head.clone(), self.reserve.clone(), leadership, claims).await {
                    Ok(core) => {
                        tracing::info!("the ledger's store is open again, and checked");
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
