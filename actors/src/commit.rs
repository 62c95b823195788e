//! Commits what an entity decided, in order, and only then lets it be seen.
//!
//! An entity decides and applies in memory, and hands over the events together with what is to follow: answers, leases,
//! cancellations. While one append is on its way to disk the next ones gather and become one append. Nothing leaves
//! before its events are durable. If an append fails, what was to follow is dropped (an asker then hears that the
//! outcome is unknown), and the entity must die and replay: [`Committer::hand_over`] fails from then on. A full disk is no
//! such failure: nothing was written, so the append waits for room while its entity lives on.

use std::time::Duration;

use bytes::Bytes;
use hiveward_runtime::{
    id::Key,
    ledger::{Append, AppendError, Appended, Cursor, Ledger, NewEvent, StreamSnapshot},
};
use tokio::sync::mpsc;

/// Batches that wait behind the one on its way; a further one makes the entity wait, and its mailbox fills.
const BATCHES_MAX: usize = 256;
/// One append takes at most this many events of several batches.
const EVENTS_PER_APPEND_MAX: usize = 4096;
const ROOM_LOOKED_FOR_EVERY: Duration = Duration::from_millis(200);

/// What follows once the events before it are durable. Runs on the committer's task: it must not block.
pub type After = Box<dyn FnOnce(Cursor) + Send>;

#[derive(Default)]
pub struct Batch {
    pub events: Vec<NewEvent>,
    pub after: Vec<After>,
    /// Of the state after these events.
    pub snapshot: Option<StreamSnapshot>,
}

impl Batch {
    pub fn push(&mut self, kind: &'static str, format: u16, body: Bytes) {
        self.events.push(NewEvent { kind, format, body });
    }

    pub fn then(&mut self, after: impl FnOnce(Cursor) + Send + 'static) {
        self.after.push(Box::new(after));
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.after.is_empty() && self.snapshot.is_none()
    }
}

pub struct Committer {
    /// Boxed, because a channel keeps room for 32: this is most of what an idle entity would cost.
    batches: mpsc::Sender<Box<Batch>>,
}

/// The committer gave up; what it held may or may not be in the ledger.
#[derive(Debug, thiserror::Error)]
#[error("the ledger refused an append; what was decided since is dropped and the stream is replayed")]
pub struct Abandoned;

impl Committer {
    /// `failed` is called once, when an append fails. The future is the committer itself: its owner runs it.
    pub fn new(
        ledger: Ledger,
        stream: Key,
        incarnation: u64,
        version: u64,
        failed: impl FnOnce(AppendError) + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (batches, waiting) = mpsc::channel(BATCHES_MAX);
        (Self { batches }, run(ledger, stream, incarnation, version, waiting, failed))
    }

    /// Waits while too many batches wait before it.
    pub async fn hand_over(&self, batch: Batch) -> Result<(), Abandoned> {
        if batch.is_empty() {
            return Ok(());
        }
        self.batches.send(Box::new(batch)).await.map_err(|_| Abandoned)
    }
}

async fn run(
    ledger: Ledger,
    stream: Key,
    incarnation: u64,
    mut version: u64,
    mut waiting: mpsc::Receiver<Box<Batch>>,
    failed: impl FnOnce(AppendError) + Send,
) {
    // Covers all that was replayed: an answer that is repeated without a new event stands on that.
    let mut cursor = ledger.head();
    while let Some(first) = waiting.recv().await {
        let Batch { mut events, mut after, mut snapshot } = *first;
        while snapshot.is_none() && events.len() < EVENTS_PER_APPEND_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            events.extend(next.events);
            after.extend(next.after);
            snapshot = next.snapshot;
        }
        if !events.is_empty() || snapshot.is_some() {
            let append = Append { stream: stream.clone(), incarnation, expected_version: version, events, snapshot };
            // Boxed: while nothing is appended, which is most of an entity's life, it takes no room.
            match Box::pin(append_when_there_is_room(&ledger, append)).await {
                Ok(appended) => {
                    version = appended.version;
                    cursor = appended.cursor;
                }
                Err(error) => {
                    tracing::warn!(%stream, %error, "append failed; the entity is replayed");
                    waiting.close();
                    failed(error);
                    return;
                }
            }
        }
        for follow in after {
            follow(cursor);
        }
    }
}

/// What clients ask is refused before it gets here; this is what the house itself must record, such as an end.
async fn append_when_there_is_room(ledger: &Ledger, append: Append) -> Result<Appended, AppendError> {
    let mut told = false;
    loop {
        match ledger.append(append.clone()).await {
            Err(error @ AppendError::DiskFull { .. }) => {
                if !told {
                    tracing::warn!(stream = %append.stream, %error, "an append waits for room");
                    told = true;
                }
                tokio::time::sleep(ROOM_LOOKED_FOR_EVERY).await;
            }
            answered => return answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use hiveward_runtime::ledger::LedgerConfig;
    use tokio::sync::oneshot;

    use super::*;

    /// The cursor that follows a batch, in a new life of the stream.
    async fn cursor_after(ledger: &Ledger, stream: &Key, batch: Batch) -> Cursor {
        let life = ledger.claim(stream).await.unwrap();
        let (committer, committing) =
            Committer::new(ledger.clone(), stream.clone(), life.incarnation, life.version, |error| panic!("{error}"));
        let running = tokio::spawn(committing);
        let (told, hears) = oneshot::channel();
        let mut batch = batch;
        batch.then(move |cursor| told.send(cursor).unwrap());
        committer.hand_over(batch).await.unwrap();
        let cursor = hears.await.unwrap();
        drop(committer);
        running.await.unwrap();
        cursor
    }

    #[tokio::test]
    async fn an_answer_repeated_in_a_new_life_stands_on_everything_that_was_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(LedgerConfig::new(dir.path())).await.unwrap();
        let stream = Key::trusted("swarm_test");
        let mut first = Batch::default();
        first.push("Happened", 1, Bytes::from_static(b"x"));
        let written = cursor_after(&ledger, &stream, first).await;
        let repeated = cursor_after(&ledger, &stream, Batch::default()).await;
        assert!(
            repeated >= written && written > Cursor(0),
            "{repeated} is before {written}: who waits for it may not see the first answer"
        );
    }
}
