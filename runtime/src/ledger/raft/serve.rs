//! The answers of this node's ledger to other nodes, but for claims: those are the ledger's own.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::{Snapshot, SnapshotMeta, Vote, error::ClientWriteError, raft::AppendEntriesResponse};
use redb::ReadableDatabase;

use super::{
    Node, elect,
    group::Shared,
    wire::{self, Kind},
};
use crate::{
    fault,
    ledger::{
        ReadError,
        damage::checked,
        record::Command,
        snapshot::Staging,
        tables::{EVENTS, storage},
        writer::Disk,
    },
    op::NodeId,
};

/// A snapshot that comes in; one at a time, a newer transfer replaces it.
pub struct Incoming {
    transfer: u64,
    vote: Vote<u64>,
    meta: SnapshotMeta<u64, Node>,
    staging: Staging,
}

impl Shared {
    pub(super) async fn serve(&self, peer: NodeId, kind: Kind, body: Bytes) -> Result<Vec<u8>, String> {
        match kind {
            Kind::Append => {
                let request = wire::read::<wire::Append>(&body)?.request()?;
                let answer = self.raft.append_entries(request).await.map_err(|error| error.to_string())?;
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.hear();
                }
                wire::answer(&answer)
            }
            Kind::Vote => {
                let answer = self.raft.vote(wire::read::<wire::AskVote>(&body)?).await.map_err(|error| error.to_string())?;
                if answer.vote_granted {
                    self.hear_candidate();
                }
                wire::answer(&answer)
            }
            Kind::PreVote => wire::answer(&elect::pre_vote(self, peer, &wire::read(&body)?)),
            Kind::Propose => wire::answer(&self.proposed(Command::parse(&body)?).await),
            Kind::ReadIndex => wire::answer(&self.read_index()),
            Kind::SnapshotBegin => self.snapshot_begin(wire::read(&body)?).await,
            Kind::SnapshotPart => self.snapshot_part(wire::read(&body)?).await,
            Kind::SnapshotEnd => self.snapshot_end(wire::read(&body)?).await,
            Kind::Events => {
                let asked: wire::AskEvents = wire::read(&body)?;
                let disk = self.disk.clone();
                let read = tokio::task::spawn_blocking(move || whole_events(&disk, asked.from)).await;
                wire::answer(&read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?)
            }
            Kind::Claim => Err("claims are the ledger's own".into()),
        }
    }

    async fn proposed(&self, command: Command) -> wire::Proposed {
        // Before its epoch a leader does not know of claims that others gave.
        if !self.leadership.borrow().is_me || self.aside.load(Ordering::Acquire) {
            return wire::Proposed::NotLeading { leader: self.leader() };
        }
        // Held from the look at the claims until it is on its way into the log: a claim waits for whoever is in between.
        let letting_in = self.letting_in.read().await;
        if let Command::Batch(batch) = &command {
            let claims = self.claims.lock();
            let stale = batch.appends.iter().enumerate().filter_map(|(place, append)| {
                let newest = *claims.get(&append.stream)?;
                (append.incarnation < newest).then_some((u32::try_from(place).unwrap_or(u32::MAX), newest))
            });
            let appends: Vec<_> = stale.collect();
            if !appends.is_empty() {
                return wire::Proposed::Fenced { appends };
            }
        }
        if let Err(error) = fault::point("ledger.before_let_in", None).await {
            return wire::Proposed::Lost { why: error.to_string() };
        }
        let written = self.raft.client_write_ff(command).await;
        drop(letting_in);
        let written = match written {
            Ok(written) => written.await,
            Err(error) => return wire::Proposed::Lost { why: error.to_string() },
        };
        match written {
            Ok(Ok(written)) => wire::Proposed::At { index: written.log_id.index, applied: written.data },
            // Also said of what was in the log when this node ceased to lead.
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => wire::Proposed::Lost { why: "the leader changed".into() },
            Ok(Err(error)) => wire::Proposed::Lost { why: error.to_string() },
            Err(_) => wire::Proposed::Lost { why: "this node's ledger stopped before it answered".into() },
        }
    }

    async fn snapshot_begin(&self, begin: wire::SnapshotBegin) -> Result<Vec<u8>, String> {
        // A snapshot is a word of the leader: it is heard for as long as parts come.
        self.hear();
        let mut incoming = self.incoming.lock().await;
        // First, so that its file is gone before the new one's is made.
        *incoming = None;
        let dir = self.setup.dir.clone();
        let staging = tokio::task::spawn_blocking(move || Staging::begin(&dir, &begin.machine)).await;
        let staging = staging.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        *incoming = Some(Incoming { transfer: begin.transfer, vote: begin.vote, meta: begin.meta, staging });
        wire::answer(&())
    }

    async fn snapshot_part(&self, part: wire::SnapshotPart) -> Result<Vec<u8>, String> {
        self.hear();
        let mut slot = self.incoming.lock().await;
        let mut incoming = slot.take().filter(|incoming| incoming.transfer == part.transfer).ok_or("no such transfer")?;
        let staged = tokio::task::spawn_blocking(move || {
            incoming.staging.part(part.number, part.rows).map(|()| incoming).map_err(|error| error.to_string())
        });
        *slot = Some(staged.await.map_err(|error| error.to_string())??);
        wire::answer(&())
    }

    async fn snapshot_end(&self, end: wire::SnapshotEnd) -> Result<Vec<u8>, String> {
        self.hear();
        let incoming = self.incoming.lock().await.take();
        let incoming = incoming.filter(|incoming| incoming.transfer == end.transfer).ok_or("no such transfer")?;
        let image = incoming.staging.end(end.parts).map_err(|error| error.to_string())?;
        let snapshot = Snapshot { meta: incoming.meta, snapshot: Box::new(image) };
        let _installing = Installing::begin(&self.disk.installing);
        let installed = self.raft.install_full_snapshot(incoming.vote, snapshot).await;
        wire::answer(&installed.map_err(|error| error.to_string())?)
    }
}

/// Returns a value that another node may have lost. One that is damaged here, too, counts as none.
fn whole_events(disk: &Disk, from: u64) -> Result<wire::EventsAt, ReadError> {
    if let Some(value) = disk.machine.lock().pending_at(from) {
        return Ok(Some(value.to_vec().into()));
    }
    let txn = disk.db.begin_read().map_err(storage)?;
    let table = txn.open_table(EVENTS).map_err(storage)?;
    let row = table.get(from).map_err(storage)?;
    let whole = row.filter(|row| checked(from, row.value()).is_ok());
    Ok(whole.map(|row| row.value().to_vec().into()))
}

/// A mark that an installation is under way; it ends also when nobody waits for the answer any more.
struct Installing<'a>(&'a AtomicBool);

impl<'a> Installing<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Release);
        Self(flag)
    }
}

impl Drop for Installing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
