//! Consensus: openraft over [`Disk`] and [`Machine`], with one voter from the first day, behind [`Ledger`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    AnyError, BasicNode, Config, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, Raft, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy, StorageError, StorageIOError, StoredMembership, Vote,
    error::{InitializeError, RPCError, RaftError, Unreachable},
    network::{RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
};
use parking_lot::Mutex;
use redb::{ReadableDatabase, ReadableTable};
use tokio::sync::Notify;

use super::{
    Append, AppendError, Appended, Cursor, DiskState, LedgerConfig, LedgerStatus, Life, OpenError, ReadError, StreamSnapshot,
    append::Batcher,
    disk::{Disk, Job, LOG, META_PURGED, META_VOTE, SNAPSHOTS, storage},
    machine::{Image, Machine, Shared},
    record::{Applied, Command, frame, unframe},
};
use crate::{clock::Deadline, id::Key};

pub(super) type Node = BasicNode;

openraft::declare_raft_types!(
    pub(super) TypeConfig:
        D = Command,
        R = Applied,
        NodeId = u64,
        Node = Node,
        SnapshotData = Image,
);

/// Log entries kept decoded: those just appended are read again at once to be applied.
const RECENT_ENTRIES: usize = 512;
/// Entries after which the log's older part is dropped; the tables have what they meant.
const LOG_ENTRIES_PER_SNAPSHOT: u64 = 5_000;
const LOG_ENTRIES_KEPT: u64 = 1_000;

#[derive(Default)]
struct LogMemory {
    recent: VecDeque<Entry<TypeConfig>>,
    last: Option<LogId<u64>>,
    purged: Option<LogId<u64>>,
}

#[derive(Clone)]
pub(super) struct LogStore {
    disk: Disk,
    memory: Arc<Mutex<LogMemory>>,
}

fn log_error(verb: ErrorVerb, error: impl std::fmt::Display) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::Logs, verb, AnyError::error(error)).into()
}

impl LogStore {
    pub(super) fn load(disk: Disk) -> Result<Self, ReadError> {
        let mut memory = LogMemory { purged: disk.meta(META_PURGED)?, ..LogMemory::default() };
        memory.last = memory.purged;
        let txn = disk.db.begin_read().map_err(storage)?;
        let log = txn.open_table(LOG).map_err(storage)?;
        if let Some(row) = log.last().map_err(storage)? {
            memory.last = Some(decode_entry(row.0.value(), row.1.value())?.log_id);
        }
        drop(log);
        drop(txn);
        Ok(Self { disk, memory: Arc::new(Mutex::new(memory)) })
    }

    async fn job(&self, verb: ErrorVerb, make: impl FnOnce(super::disk::Done) -> Job) -> Result<(), StorageError<u64>> {
        let (done, wait) = tokio::sync::oneshot::channel();
        let job = make(Box::new(move |result| {
            // Who waited may be gone.
            let _ = done.send(result);
        }));
        self.disk.send(job).map_err(|error| log_error(verb, error))?;
        match wait.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(log_error(verb, error)),
            Err(_) => Err(log_error(verb, "the ledger's writer has stopped")),
        }
    }
}

fn decode_entry(index: u64, bytes: &[u8]) -> Result<Entry<TypeConfig>, ReadError> {
    unframe(bytes).map_err(|what| ReadError::Corrupt { table: "raft_log", position: format!("index {index}"), what })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        {
            let memory = self.memory.lock();
            let first = memory.recent.front().map(|entry| entry.log_id.index);
            let begins_within = match range.start_bound() {
                std::ops::Bound::Included(start) => first.is_some_and(|first| first <= *start),
                std::ops::Bound::Excluded(start) => first.is_some_and(|first| first <= start + 1),
                std::ops::Bound::Unbounded => false,
            };
            if begins_within {
                return Ok(memory.recent.iter().filter(|entry| range.contains(&entry.log_id.index)).cloned().collect());
            }
        }
        self.disk.flush().map_err(|error| log_error(ErrorVerb::Read, error))?;
        let read = || -> Result<Vec<Entry<TypeConfig>>, ReadError> {
            let txn = self.disk.db.begin_read().map_err(storage)?;
            let log = txn.open_table(LOG).map_err(storage)?;
            let mut entries = Vec::new();
            for row in log.range(range.clone()).map_err(storage)? {
                let (index, bytes) = row.map_err(storage)?;
                entries.push(decode_entry(index.value(), bytes.value())?);
            }
            Ok(entries)
        };
        read().map_err(|error| log_error(ErrorVerb::Read, error))
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
        let frame = frame(vote).map_err(|error| log_error(ErrorVerb::Write, error))?;
        self.job(ErrorVerb::Write, |done| Job::Vote { frame, done }).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        self.disk.meta(META_VOTE).map_err(|error| log_error(ErrorVerb::Read, error))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut frames = Vec::new();
        {
            let mut memory = self.memory.lock();
            for entry in entries {
                frames.push((entry.log_id.index, frame(&entry).map_err(|error| log_error(ErrorVerb::Write, error))?));
                memory.last = Some(entry.log_id);
                memory.recent.push_back(entry);
            }
            while memory.recent.len() > RECENT_ENTRIES {
                memory.recent.pop_front();
            }
        }
        self.disk
            .send(Job::Log { entries: frames, done: Box::new(move |result| callback.log_io_completed(result)) })
            .map_err(|error| log_error(ErrorVerb::Write, error))
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.job(ErrorVerb::Delete, |done| Job::Truncate { from: log_id.index, done }).await?;
        let last = {
            let mut memory = self.memory.lock();
            memory.recent.retain(|entry| entry.log_id.index < log_id.index);
            memory.recent.back().map(|entry| entry.log_id)
        };
        let last = match last {
            Some(last) => Some(last),
            None => {
                let before = self.try_get_log_entries(..log_id.index).await?;
                before.last().map(|entry| entry.log_id).or(self.memory.lock().purged)
            }
        };
        self.memory.lock().last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        let frame = frame(&log_id).map_err(|error| log_error(ErrorVerb::Write, error))?;
        self.job(ErrorVerb::Delete, |done| Job::Purge { up_to: log_id.index, frame, done }).await?;
        let mut memory = self.memory.lock();
        memory.purged = Some(log_id);
        memory.recent.retain(|entry| entry.log_id.index > log_id.index);
        if memory.last.is_none_or(|last| last < log_id) {
            memory.last = Some(log_id);
        }
        Ok(())
    }
}

fn machine_error(verb: ErrorVerb, error: impl std::fmt::Display) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::StateMachine, verb, AnyError::error(error)).into()
}

/// The machine as openraft holds it.
pub(super) struct MachineStore(pub(super) Arc<Mutex<Machine>>);

/// Makes the snapshot that another node would begin from.
pub(super) struct Builder(Arc<Mutex<Machine>>);

fn snapshot(machine: &Machine) -> Result<Snapshot<TypeConfig>, ReadError> {
    let image = machine.image()?;
    let meta = SnapshotMeta {
        last_log_id: image.meta.applied,
        last_membership: image.meta.membership.clone(),
        snapshot_id: image.meta.applied.map_or_else(|| "0".into(), |log_id| log_id.to_string()),
    };
    Ok(Snapshot { meta, snapshot: Box::new(image) })
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let mut machine = self.0.lock();
        machine.meta.snapshot_taken = true;
        // The tables are the snapshot: what is written by now is what another node would get. Its bytes are gathered
        // only when one asks.
        let meta = SnapshotMeta {
            last_log_id: machine.meta.applied,
            last_membership: machine.meta.membership.clone(),
            snapshot_id: machine.meta.applied.map_or_else(|| "0".into(), |log_id| log_id.to_string()),
        };
        machine.disk.flush().map_err(|error| machine_error(ErrorVerb::Write, error))?;
        let image = Image { meta: machine.meta.clone(), ..Image::default() };
        Ok(Snapshot { meta, snapshot: Box::new(image) })
    }
}

impl RaftStateMachine<TypeConfig> for MachineStore {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Node>), StorageError<u64>> {
        let machine = self.0.lock();
        Ok((machine.meta.applied, machine.meta.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut machine = self.0.lock();
        let mut answers = Vec::new();
        for entry in entries {
            let (command, membership) = match &entry.payload {
                EntryPayload::Blank => (None, None),
                EntryPayload::Normal(command) => (Some(command), None),
                EntryPayload::Membership(membership) => (None, Some(StoredMembership::new(Some(entry.log_id), membership.clone()))),
            };
            let answer = machine.apply(entry.log_id, command, membership).map_err(|error| machine_error(ErrorVerb::Write, error))?;
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.0.clone())
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Image>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta<u64, Node>, snapshot: Box<Image>) -> Result<(), StorageError<u64>> {
        let mut image = *snapshot;
        image.meta.applied = meta.last_log_id;
        image.meta.membership = meta.last_membership.clone();
        image.meta.snapshot_taken = true;
        self.0.lock().install(&image).map_err(|error| machine_error(ErrorVerb::Write, error))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let machine = self.0.lock();
        if !machine.meta.snapshot_taken {
            return Ok(None);
        }
        snapshot(&machine).map(Some).map_err(|error| machine_error(ErrorVerb::Read, error))
    }
}

/// No other node is there yet.
pub(super) struct NoPeers;

pub(super) struct NoPeer(u64);

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: u64, _: &Node) -> NoPeer {
        NoPeer(target)
    }
}

impl NoPeer {
    fn unreachable<E: std::error::Error>(&self) -> RPCError<u64, Node, E> {
        RPCError::Unreachable(Unreachable::new(&io::Error::other(format!("node {} has no address", self.0))))
    }
}

impl RaftNetwork<TypeConfig> for NoPeer {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Node, RaftError<u64>>> {
        Err(self.unreachable())
    }

    async fn vote(&mut self, _: VoteRequest<u64>, _: RPCOption) -> Result<VoteResponse<u64>, RPCError<u64, Node, RaftError<u64>>> {
        Err(self.unreachable())
    }

    async fn full_snapshot(
        &mut self,
        _: Vote<u64>,
        _: Snapshot<TypeConfig>,
        _: impl Future<Output = openraft::error::ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, openraft::error::StreamingError<TypeConfig, openraft::error::Fatal<u64>>> {
        Err(openraft::error::StreamingError::Unreachable(Unreachable::new(&io::Error::other(format!("node {} has no address", self.0)))))
    }
}

/// The newest claim on each stream, and appends on their way.
#[derive(Default)]
pub(super) struct Fences {
    streams: Mutex<HashMap<Key, (u64, usize)>>,
    landed: Notify,
}

/// One append on its way; when it is dropped the append has landed or never will.
pub(super) struct OnItsWay {
    fences: Arc<Fences>,
    stream: Key,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if let Some((_, on_their_way)) = self.fences.streams.lock().get_mut(&self.stream) {
            *on_their_way = on_their_way.saturating_sub(1);
        }
        self.fences.landed.notify_waiters();
    }
}

/// The ledger of this node. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: LedgerConfig,
    pub(super) raft: Raft<TypeConfig>,
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    batcher: Batcher,
    fences: Arc<Fences>,
    epoch: u64,
    claims: AtomicU64,
}

const NODE: u64 = 1;

impl Ledger {
    /// Opens the ledger in `config.dir`, or makes it, and waits until it takes writes.
    pub async fn open(config: LedgerConfig) -> Result<Self, OpenError> {
        let path = config.dir.join("ledger.redb");
        let storage_error = |what: String| OpenError::Storage { path: path.clone(), what };
        std::fs::create_dir_all(&config.dir).map_err(|error| storage_error(error.to_string()))?;
        let opening = path.clone();
        let (disk, log, machine) = tokio::task::spawn_blocking(move || -> Result<_, OpenError> {
            let disk = Disk::open(&opening)?;
            let named = |error: ReadError| match error {
                ReadError::Corrupt { table, position, what } => OpenError::Corrupt { path: opening.clone(), table, position, what },
                other => OpenError::Storage { path: opening.clone(), what: other.to_string() },
            };
            let loaded = LogStore::load(disk.clone()).and_then(|log| Ok((log, Machine::load(disk.clone())?)));
            match loaded {
                Ok((log, machine)) => Ok((disk, log, machine)),
                Err(error) => {
                    disk.stop();
                    Err(named(error))
                }
            }
        })
        .await
        .map_err(|error| storage_error(error.to_string()))??;
        let shared = machine.shared.clone();
        let raft_config = Config {
            cluster_name: "hiveward".into(),
            heartbeat_interval: 250,
            election_timeout_min: 1_000,
            election_timeout_max: 2_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(LOG_ENTRIES_PER_SNAPSHOT),
            max_in_snapshot_log_to_keep: LOG_ENTRIES_KEPT,
            max_payload_entries: 64,
            ..Config::default()
        };
        let raft_config = Arc::new(raft_config.validate().map_err(|error| storage_error(error.to_string()))?);
        let machine = MachineStore(Arc::new(Mutex::new(machine)));
        let raft = Raft::new(NODE, raft_config, NoPeers, log, machine).await.map_err(|error| storage_error(error.to_string()))?;
        let epoch = match begin(&raft, config.open_timeout).await {
            Ok(epoch) => epoch,
            Err(error) => {
                // It failed to become ready; what matters is the error we have.
                let _ = raft.shutdown().await;
                disk.stop();
                return Err(match disk.failure() {
                    Some(what) => storage_error(what),
                    None => error,
                });
            }
        };
        let batcher = Batcher::start(raft.clone(), disk.clone(), &config);
        let inner = Inner { config, raft, disk, shared, batcher, fences: Arc::default(), epoch, claims: AtomicU64::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Appends events to a stream, all or none. Answers when they are durable.
    ///
    /// Dropping the future does not take the append back.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let fences = &self.inner.fences;
        {
            let mut streams = fences.streams.lock();
            let (newest, on_their_way) = streams.entry(append.stream.clone()).or_default();
            if append.incarnation < *newest {
                return Err(AppendError::Fenced { newest: *newest });
            }
            *on_their_way += 1;
        }
        let on_its_way = OnItsWay { fences: fences.clone(), stream: append.stream.clone() };
        self.inner.batcher.append(append, on_its_way).await
    }

    /// Begins a new life of a stream's entity: from its return on, appends of older lives are refused.
    pub async fn claim(&self, stream: &Key) -> Result<Life, ReadError> {
        let inner = &self.inner;
        let incarnation = (inner.epoch << 32) | (inner.claims.fetch_add(1, Ordering::Relaxed) + 1);
        inner.fences.streams.lock().entry(stream.clone()).or_default().0 = incarnation;
        loop {
            let landed = inner.fences.landed.notified();
            tokio::pin!(landed);
            // Listening before looking, or the last landing could be missed.
            landed.as_mut().enable();
            if inner.fences.streams.lock().get(stream).is_none_or(|(_, on_their_way)| *on_their_way == 0) {
                break;
            }
            landed.await;
        }
        let Some(head) = inner.shared.heads.read().get(stream).copied() else {
            return Ok(Life { incarnation, version: 0, snapshot: None, events: Vec::new() });
        };
        let ledger = self.clone();
        let stream = stream.clone();
        let read = move || -> Result<Life, ReadError> {
            let snapshot = ledger.stream_snapshot(&stream)?;
            let after = snapshot.as_ref().map_or(0, |(version, _)| *version);
            let events = ledger.read_stream(&stream, after, usize::MAX)?;
            Ok(Life { incarnation, version: head.version, snapshot, events })
        };
        if head.version.saturating_sub(head.snapshot_version) < 64 && head.snapshot_version == 0 {
            return read();
        }
        tokio::task::spawn_blocking(read).await.map_err(|error| ReadError::Storage(error.to_string()))?
    }

    fn stream_snapshot(&self, stream: &Key) -> Result<Option<(u64, StreamSnapshot)>, ReadError> {
        if self.inner.shared.heads.read().get(stream).is_none_or(|head| head.snapshot_version == 0) {
            return Ok(None);
        }
        self.inner.disk.flush().map_err(storage)?;
        let txn = self.inner.disk.db.begin_read().map_err(storage)?;
        let table = txn.open_table(SNAPSHOTS).map_err(storage)?;
        let Some(row) = table.get(stream.as_str()).map_err(storage)? else { return Ok(None) };
        unframe(row.value())
            .map(Some)
            .map_err(|what| ReadError::Corrupt { table: "stream_snapshots", position: stream.to_string(), what })
    }

    /// The last committed event.
    pub fn head(&self) -> Cursor {
        *self.inner.shared.head.borrow()
    }

    /// Every stream there is, and its version.
    pub fn streams(&self, noun: &str) -> Vec<(Key, u64)> {
        let heads = self.inner.shared.heads.read();
        heads.iter().filter(|(key, _)| key.noun() == noun).map(|(key, head)| (key.clone(), head.version)).collect()
    }

    /// Waits until the ledger has reached `cursor`; false if it has not by the deadline.
    pub async fn reached(&self, cursor: Cursor, deadline: Deadline) -> bool {
        let mut head = self.inner.shared.head.subscribe();
        tokio::time::timeout_at(deadline.instant(), head.wait_for(|head| *head >= cursor)).await.is_ok_and(|found| found.is_ok())
    }

    /// Drops events up to `keep_after` that no stream's replay needs. Answers the cursor up to which they may be gone.
    pub async fn compact(&self, keep_after: Cursor) -> Result<Cursor, AppendError> {
        match self.inner.raft.client_write(Command::Compact { keep_after }).await {
            Ok(written) => match written.data {
                Applied::Compacted { oldest } => Ok(oldest),
                other => Err(AppendError::Unknown { why: format!("unexpected answer {other:?}") }),
            },
            Err(error) => Err(AppendError::Unknown { why: error.to_string() }),
        }
    }

    pub fn status(&self) -> LedgerStatus {
        let metrics = self.inner.raft.metrics().borrow().clone();
        let disk = match self.inner.disk.failure() {
            Some(why) => DiskState::Failed { why },
            None => match self.inner.batcher.free_bytes() {
                Some(free_bytes) if free_bytes < self.inner.config.reserve_bytes => DiskState::Full { free_bytes },
                _ => DiskState::Ok,
            },
        };
        LedgerStatus {
            node: NODE,
            term: metrics.current_term,
            leader: metrics.current_leader,
            voters: metrics.membership_config.membership().voter_ids().collect(),
            head: self.head(),
            oldest: Cursor(self.inner.shared.compacted.load(Ordering::Acquire)),
            epoch: self.inner.epoch,
            disk,
            file_bytes: std::fs::metadata(&*self.inner.disk.path).map_or(0, |meta| meta.len()),
        }
    }

    /// Stops taking appends, writes what it holds and closes the file.
    pub async fn stop(&self) {
        self.inner.batcher.stop().await;
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        let disk = self.inner.disk.clone();
        if tokio::task::spawn_blocking(move || disk.stop()).await.is_err() {
            tracing::warn!("the ledger's writer did not stop in order");
        }
    }
}

/// Makes a lone node its own leader at once and takes a new epoch.
async fn begin(raft: &Raft<TypeConfig>, within: Duration) -> Result<u64, OpenError> {
    let waited_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let ready = async {
        let members = BTreeMap::from([(NODE, Node::new(""))]);
        match raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(error.to_string()),
        }
        raft.trigger().elect().await.map_err(|error| error.to_string())?;
        loop {
            match raft.client_write(Command::NextEpoch).await {
                Ok(written) => match written.data {
                    Applied::Epoch(epoch) => return Ok(epoch),
                    other => return Err(format!("unexpected answer {other:?}")),
                },
                Err(RaftError::Fatal(fatal)) => return Err(fatal.to_string()),
                // Not the leader yet.
                Err(RaftError::APIError(_)) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    match tokio::time::timeout(within, ready).await {
        Ok(Ok(epoch)) => Ok(epoch),
        Ok(Err(what)) => Err(OpenError::Storage { path: "ledger.redb".into(), what }),
        Err(_) => Err(OpenError::NotReady { waited_ms }),
    }
}
