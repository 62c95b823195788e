//! Gives committed entries to the machine, and tells those who wait, those who tail, and the witness.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use openraft::{
    AnyError, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership, storage::RaftStateMachine,
};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::{Applied, Node, TypeConfig};
use crate::{
    fault,
    ledger::{
        AppendError, Appended, Cursor, Event,
        file::Witness,
        machine::{Answer, AppendRefused, Machine, Meta},
        record::Command,
        snapshot::Image,
        writer::{Disk, Job, Jobs},
    },
};

/// The bytes of applied changes that may wait for the next commit; only reached when many entries are applied again at start.
const PENDING_BYTES_MAX: usize = 16 << 20;

/// The asker that waits for one append.
pub type Landed = oneshot::Sender<Result<Appended, AppendError>>;

/// The askers that wait for what becomes of their batches, and those that wait for the head to move.
pub struct Outcomes {
    /// The number of this life of the store in the batches that it proposes: those of other nodes are not waited for here.
    pub origin: u64,
    waiting: Mutex<HashMap<u64, Vec<Landed>>>,
    pub head: Arc<watch::Sender<Cursor>>,
}

impl Outcomes {
    /// Makes the outcomes of a new life of the store.
    pub fn new(head: Arc<watch::Sender<Cursor>>) -> Self {
        Self { origin: fastrand::u64(1..), waiting: Mutex::default(), head }
    }

    /// Moves the head forward, and never back: after a reopening, what was seen before is applied again.
    pub fn moved(&self, head: u64) {
        self.head.send_if_modified(|seen| std::mem::replace(seen, (*seen).max(Cursor(head))) < Cursor(head));
    }

    /// Enters the askers of a batch that is about to be proposed.
    pub fn wait(&self, batch: u64, landed: Vec<Landed>) {
        self.waiting.lock().insert(batch, landed);
    }

    /// Takes out the askers of a batch whose outcome has not been told.
    pub fn take(&self, batch: u64) -> Vec<Landed> {
        self.waiting.lock().remove(&batch).unwrap_or_default()
    }
}

fn tell(landed: Vec<Landed>, answers: Vec<Answer>) {
    for (landed, answer) in landed.into_iter().zip(answers) {
        // Who asked may be gone; the append stands.
        let _ = landed.send(match answer {
            Ok((cursor, version)) => Ok(Appended { cursor, version }),
            Err(AppendRefused::Fenced { newest }) => Err(AppendError::Fenced { newest }),
            Err(AppendRefused::Version { is, expected }) => Err(AppendError::Version { is, expected }),
        });
    }
}

fn error(verb: ErrorVerb, error: impl std::fmt::Display) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::StateMachine, verb, AnyError::error(error)).into()
}

/// The machine as openraft holds it.
#[derive(Clone)]
pub struct MachineStore {
    disk: Arc<Disk>,
    jobs: Jobs,
    outcomes: Arc<Outcomes>,
    witness: Arc<Mutex<Option<Witness>>>,
}

impl MachineStore {
    /// Makes the machine for openraft; without a witness nothing is written down of what is acknowledged.
    pub fn new(disk: Arc<Disk>, jobs: Jobs, outcomes: Arc<Outcomes>, witness: Option<Witness>) -> Self {
        Self { disk, jobs, outcomes, witness: Arc::new(Mutex::new(witness)) }
    }

    async fn one(&self, entry: Entry<TypeConfig>) -> Result<Applied, StorageError<u64>> {
        fault::point("ledger.before_apply", None).await.map_err(|what| error(ErrorVerb::Write, what))?;
        let mut told = None;
        let mut events: Vec<Event> = Vec::new();
        let (applied, pending_bytes, waits) = {
            let mut machine = self.disk.machine.lock();
            let machine: &mut Machine = &mut machine;
            let applied = match &entry.payload {
                EntryPayload::Blank => Applied::Nothing,
                EntryPayload::Membership(membership) => {
                    machine.meta.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    Applied::Nothing
                }
                EntryPayload::Normal(Command::NextEpoch) => {
                    machine.meta.epoch += 1;
                    Applied::Epoch(machine.meta.epoch)
                }
                EntryPayload::Normal(Command::Compact { keep_after }) => {
                    let compacted = machine.compact(*keep_after).0;
                    self.disk.compacted.store(compacted, Ordering::Release);
                    Applied::Compacted(compacted)
                }
                EntryPayload::Normal(Command::Batch(batch)) => {
                    let (answers, made) = machine.apply(&self.disk.db, batch).map_err(|what| error(ErrorVerb::Write, what))?;
                    events = made;
                    told = (batch.origin == self.outcomes.origin).then_some((batch.id, answers));
                    Applied::Nothing
                }
            };
            machine.meta.applied = Some(entry.log_id);
            // Before the lock goes: what the writer takes is in the ring until it is in the tables.
            self.disk.ring.push(std::mem::take(&mut events), self.disk.written.load(Ordering::Acquire));
            self.outcomes.moved(machine.meta.head);
            // Where nothing else comes, what was let go of would stay for ever.
            let waits = machine.waits() || matches!(applied, Applied::Compacted(_));
            (applied, machine.pending_bytes, waits)
        };
        if waits && !self.disk.asked.swap(true, Ordering::AcqRel) {
            self.jobs.take();
        }
        if let Some(witness) = self.witness.lock().as_mut() {
            witness.saw(entry.log_id.index).map_err(|what| error(ErrorVerb::Write, what))?;
        }
        fault::point("ledger.after_apply", None).await.map_err(|what| error(ErrorVerb::Write, what))?;
        if let Some((batch, answers)) = told {
            let landed = self.outcomes.take(batch);
            match fault::point("ledger.before_reply", None).await {
                Ok(()) => tell(landed, answers),
                Err(error) => tracing::warn!(%error, "answers are withheld"),
            }
        }
        if pending_bytes > PENDING_BYTES_MAX {
            self.jobs.done(|done| Job::Flush { all_heads: false, done }).await.map_err(|what| error(ErrorVerb::Write, what))?;
        }
        Ok(applied)
    }
}

fn snapshot_meta(meta: &Meta) -> SnapshotMeta<u64, Node> {
    SnapshotMeta {
        last_log_id: meta.applied,
        last_membership: meta.membership.clone(),
        snapshot_id: meta.applied.map_or_else(|| "0".into(), |log_id| log_id.to_string()),
    }
}

impl RaftSnapshotBuilder<TypeConfig> for MachineStore {
    /// Makes the snapshot, which the tables are: entries up to here may leave the log, because whatever takes them out of it
    /// commits what they changed along with that. The rows are gathered when a node asks.
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let mut machine = self.disk.machine.lock();
        machine.meta.snapshot_taken = true;
        Ok(Snapshot { meta: snapshot_meta(&machine.meta), snapshot: Box::new(Image::only(machine.meta.clone())) })
    }
}

impl RaftStateMachine<TypeConfig> for MachineStore {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Node>), StorageError<u64>> {
        let machine = self.disk.machine.lock();
        Ok((machine.meta.applied, machine.meta.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let mut applied = Vec::with_capacity(entries.len());
        for entry in entries {
            applied.push(self.one(entry).await?);
        }
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Image>, StorageError<u64>> {
        Ok(Box::new(Image::default()))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta<u64, Node>, snapshot: Box<Image>) -> Result<(), StorageError<u64>> {
        let mut image = snapshot;
        image.meta.applied = meta.last_log_id;
        image.meta.membership = meta.last_membership.clone();
        image.meta.snapshot_taken = true;
        let head = image.meta.head;
        self.jobs.done(|done| Job::Install { image, done }).await.map_err(|what| error(ErrorVerb::Write, what))?;
        self.outcomes.moved(head);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        if !self.disk.machine.lock().meta.snapshot_taken {
            return Ok(None);
        }
        self.jobs.done(|done| Job::Flush { all_heads: true, done }).await.map_err(|what| error(ErrorVerb::Write, what))?;
        let disk = self.disk.clone();
        let image = tokio::task::spawn_blocking(move || Image::of(&disk))
            .await
            .map_err(|what| error(ErrorVerb::Read, what))?
            .map_err(|what| error(ErrorVerb::Read, what))?;
        Ok(Some(Snapshot { meta: snapshot_meta(&image.meta), snapshot: Box::new(image) }))
    }
}
