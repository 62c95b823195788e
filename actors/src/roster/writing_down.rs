//! What writes the roster's state down beside its turns, so that nobody need replay its stream from the first event.
//!
//! A part of the roster's actor. One piece is on its way at a time. If the life ends amid them, the snapshot before holds.

use std::sync::{Arc, atomic::Ordering};

use hiveward_catalogue::{directory::snapshot, roster::event::RosterEvent};
use hiveward_kernel::commit::{Batch, Committer};
use hiveward_runtime::{
    ledger::{ReadError, SnapshotPart},
    supervise::{Context, Failure},
};
use hiveward_work::swarm::pieces::WritingDown;

use super::{
    RosterMsg,
    actor::{Acting, Roster},
};

/// The number of events that a replay is of, about, or as many as the roster has entries where these are more.
pub const EVENTS_PER_SNAPSHOT: u64 = 4_096;

/// Tells whether so many events since the last snapshot are worth another.
fn is_due(events: u64, entries: usize) -> bool {
    events >= EVENTS_PER_SNAPSHOT.max(entries as u64)
}

impl Roster {
    pub(super) fn write_down_if_due(&self, ctx: &Context<RosterMsg>, acting: &mut Acting) -> Result<(), Failure> {
        let written = match self.house.ledger.snapshot_parts(&RosterEvent::stream()) {
            Ok(parts) => parts.map_or(0, |parts| parts.version),
            // The store is being reopened: it is looked at again soon.
            Err(ReadError::Storage(_) | ReadError::Stopped) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let due = self
            .house
            .directory
            .read(|known| is_due(known.version.saturating_sub(written), known.entries()) && known.all_read_snapshots());
        if !due || acting.writing_down.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let taking = WritingDown(Arc::clone(&acting.writing_down));
        // Entries are shared: this is short, and who reads waits for it no more than for another reader.
        let known = self.house.directory.read(Clone::clone);
        let committer = acting.committer.another();
        ctx.task(async move {
            match tokio::task::spawn_blocking(move || snapshot::pieces_of(&known)).await {
                Ok(Ok(pieces)) => hand_over(pieces, committer).await,
                Ok(Err(error)) => tracing::error!(%error, "the roster cannot be written down; its events are kept instead"),
                // The node stops.
                Err(_) => {}
            }
            drop(taking);
        });
        Ok(())
    }
}

/// Hands all pieces to the committer; ends when they are durable, or when the committer has given up.
async fn hand_over(pieces: Vec<SnapshotPart>, committer: Committer) {
    for piece in pieces {
        let mut batch = Batch::of_part(piece);
        let (send, durable) = tokio::sync::oneshot::channel();
        // Nobody waits only if this task has ended.
        batch.then(move |_| {
            let _ = send.send(());
        });
        if committer.hand_over(batch).await.is_err() || durable.await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_bounded_and_a_large_roster_is_not_written_down_for_few_events() {
        assert!(!is_due(EVENTS_PER_SNAPSHOT - 1, 10));
        assert!(is_due(EVENTS_PER_SNAPSHOT, 10));
        assert!(!is_due(99_999, 100_000));
        assert!(is_due(100_000, 100_000));
    }
}
