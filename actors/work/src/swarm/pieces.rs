//! Writes a coordinator's state down piece by piece while it goes on, and reads it again.
//!
//! A part of the coordinator's actor. One piece is on its way at a time, so that what clients ask never waits behind more
//! than one. If the life ends amid them, the snapshot before holds, and the next life takes another.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use hiveward_kernel::commit::{Batch, Committer};
use hiveward_runtime::{
    id::Key,
    ledger::{Event, Life, SnapshotPart, StreamSnapshot},
    supervise::Failure,
};

use super::{
    actor::Coordinator,
    event::SwarmEvent,
    snapshot::{self, Piece, Pieces, Restoring, Snapshot},
    state::Swarm,
};

/// A guard while which lives the flag is true; dropping it makes it false.
pub struct WritingDown(pub Arc<AtomicBool>);

impl Drop for WritingDown {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The state that a new life found in its stream.
pub struct Replayed {
    pub swarm: Swarm,
    /// The number of events after the snapshot, and below their bytes.
    pub events: u64,
    pub bytes: usize,
}

/// Writes all pieces down; ends when they are durable, or when their coordinator's committer has given up.
pub async fn write_down(taking: WritingDown, mut pieces: Pieces, at_version: u64, committer: Committer) {
    for number in 0.. {
        // Encoded beside the threads that others wait for.
        let Ok((next, rest)) = tokio::task::spawn_blocking(move || (pieces.take_next(), pieces)).await else { return };
        pieces = rest;
        let (body, last) = match next {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "a snapshot of a swarm cannot be encoded; its events are kept instead");
                break;
            }
        };
        let snapshot = StreamSnapshot { format: snapshot::PIECE_FORMAT, body };
        let part = SnapshotPart { at_version, number, last, snapshot };
        let mut batch = Batch::of_part(part);
        let (send, durable) = tokio::sync::oneshot::channel();
        // Nobody waits only if this task has ended.
        batch.then(move |_| {
            let _ = send.send(());
        });
        if committer.hand_over(batch).await.is_err() || durable.await.is_err() {
            return;
        }
    }
    drop(taking);
}

impl Coordinator {
    /// Puts the state together from what the stream keeps, a few megabytes at a time.
    pub(super) async fn replay(&self, stream: &Key, life: &Life) -> Result<Replayed, Failure> {
        let now = self.now();
        let ledger = self.services.ledger.clone();
        let known = |found: u16, wanted: u16| match found == wanted {
            true => Ok(()),
            false => Err(Failure::new(format!("its snapshot has format {found}, which this version does not know"))),
        };
        let (mut swarm, mut version) = match (&life.snapshot, life.parts) {
            (Some((version, kept)), _) => {
                known(kept.format, snapshot::FORMAT)?;
                (rmp_serde::from_slice::<Snapshot>(&kept.body)?.restore(self.spec.clone(), now), *version)
            }
            (None, Some(parts)) => {
                let mut restoring = Restoring::new(self.spec.clone());
                for number in 0..parts.count {
                    let (ledger, stream) = (ledger.clone(), stream.clone());
                    let read = move || -> Result<Piece, Failure> {
                        let part = ledger.snapshot_part(&stream, parts, number)?;
                        known(part.format, snapshot::PIECE_FORMAT)?;
                        Ok(rmp_serde::from_slice(&part.body)?)
                    };
                    restoring.take(tokio::task::spawn_blocking(read).await??);
                }
                (restoring.done(now), parts.version)
            }
            (None, None) => (Swarm::new(self.spec.clone()), 0),
        };
        let (mut events, mut bytes) = (0, 0);
        let mut apply = |swarm: &mut Swarm, page: &[Event]| -> Result<Option<u64>, Failure> {
            for event in page {
                let what = SwarmEvent::decode(&event.kind, event.format, &event.body)?;
                swarm.apply(&what, event.at, now);
                events += 1;
                bytes += event.body.len();
            }
            Ok(page.last().map(|last| last.version))
        };
        version = apply(&mut swarm, &life.events)?.unwrap_or(version);
        while version < life.version {
            let (ledger, stream, most) = (ledger.clone(), stream.clone(), (life.version - version) as usize);
            let read = move || ledger.read_stream(&stream, version, most.min(super::actor::EVENTS_PER_PAGE));
            let page = tokio::task::spawn_blocking(read).await??;
            // What another life wrote since is not ours to know: the first append finds out.
            version = apply(&mut swarm, &page)?.ok_or_else(|| Failure::new("events of its stream are missing"))?;
            tokio::task::yield_now().await;
        }
        Ok(Replayed { swarm, events, bytes })
    }
}
