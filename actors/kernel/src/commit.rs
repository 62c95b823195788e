//! Commits what an entity decided, in order, and only then lets it be seen.
//!
//! An entity decides and applies in memory, and hands over the events together with what is to follow: answers, leases,
//! cancellations. While one append is on its way to disk the next ones gather and become one append. Nothing leaves before its
//! events are durable. If an append fails, what was to follow is dropped (an asker then hears that the outcome is unknown), and
//! the entity must die and replay: [`Committer::hand_over`] fails from then on. A full disk and a busy ledger are no such
//! failures: nothing was written, so the append waits for room while its entity lives on. What is too large for an append is
//! refused before it is decided on ([`fits`]).

mod batch;

use std::{sync::Arc, time::Duration};

use hiveward_runtime::{
    call::Reply,
    error::Refused,
    id::Key,
    ledger::{Append, AppendError, Appended, Cursor, Ledger},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use batch::{APPEND_BYTES_WANTED, EVENTS_PER_APPEND_MAX, Gathered, appends_of};
pub use batch::{After, Batch, TOGETHER_BYTES_MAX, fits};

/// The most batches that wait behind the one on its way; a further one makes the entity wait, and its mailbox fills.
const BATCHES_MAX: usize = 256;
/// The most bytes of batches that wait; a further batch makes the entity wait too. A larger batch waits until it is alone.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// The unit in which bytes that wait are counted.
const BYTES_PER_PERMIT: usize = 1 << 10;
const ROOM_LOOKED_FOR_EVERY: Duration = Duration::from_millis(200);
/// How long an append waits when the ledger has too much waiting, at first and at last.
const BUSY_WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

pub struct Committer {
    /// The batches on their way. Boxed, because a channel keeps room for 32: this is most of what an idle entity would cost.
    batches: mpsc::Sender<Box<Waiting>>,
    /// The room for what waits, in units of [`BYTES_PER_PERMIT`].
    room: Arc<Semaphore>,
}

struct Waiting {
    batch: Batch,
    bytes: usize,
    /// The room that is given back when the batch is in the ledger.
    _room: OwnedSemaphorePermit,
}

/// The error of a committer that gave up; what it held may or may not be in the ledger.
#[derive(Debug, thiserror::Error)]
#[error("the ledger refused an append; what was decided since is dropped and the stream is replayed")]
pub struct Abandoned;

impl Committer {
    /// Makes a committer, and the future that does its work, which the owner runs. Calls `failed` once, when an append fails.
    pub fn new(
        ledger: Ledger,
        stream: Key,
        incarnation: u64,
        version: u64,
        failed: impl FnOnce(AppendError) + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (batches, waiting) = mpsc::channel(BATCHES_MAX);
        let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX / BYTES_PER_PERMIT));
        (Self { batches, room }, run(ledger, stream, incarnation, version, waiting, failed))
    }

    /// Hands over a batch; waits while too many batches, or too many bytes of them, wait before it.
    pub async fn hand_over(&self, batch: Batch) -> Result<(), Abandoned> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = batch.bytes();
        let permits = bytes.min(WAITING_BYTES_MAX) / BYTES_PER_PERMIT;
        let room = self.room.clone().acquire_many_owned(u32::try_from(permits).unwrap_or(u32::MAX)).await;
        let room = room.map_err(|_| Abandoned)?;
        self.batches.send(Box::new(Waiting { batch, bytes, _room: room })).await.map_err(|_| Abandoned)
    }

    /// Returns another handle to the same committer, for what is made beside the entity's own turns.
    pub fn another(&self) -> Self {
        Self { batches: self.batches.clone(), room: self.room.clone() }
    }
}

async fn run(
    ledger: Ledger,
    stream: Key,
    incarnation: u64,
    mut version: u64,
    mut waiting: mpsc::Receiver<Box<Waiting>>,
    failed: impl FnOnce(AppendError) + Send,
) {
    // Covers all that was replayed: an answer that is repeated without a new event stands on that.
    let mut cursor = ledger.head();
    while let Some(first) = waiting.recv().await {
        let (mut events, mut bytes) = (first.batch.events.len(), first.bytes);
        let (mut batches, mut rooms) = (vec![first.batch], vec![first._room]);
        while events < EVENTS_PER_APPEND_MAX && bytes < APPEND_BYTES_WANTED {
            let Ok(next) = waiting.try_recv() else { break };
            events += next.batch.events.len();
            bytes += next.bytes;
            batches.push(next.batch);
            rooms.push(next._room);
        }
        for Gathered { events, after, snapshot, part, .. } in appends_of(batches) {
            if !events.is_empty() || snapshot.is_some() || part.is_some() {
                let append = Append { stream: stream.clone(), incarnation, expected_version: version, events, snapshot, part };
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
}

/// Returns how long an append waits that found the ledger busy once more.
fn longer(wait: Duration) -> Duration {
    (wait * 2).min(BUSY_WAIT.1)
}

/// Appends, and tries again while the disk is full or the ledger is busy: in both cases nothing was written. What clients ask
/// is refused before it gets here; this is what the house itself must record, such as an end.
async fn append_when_there_is_room(ledger: &Ledger, append: Append) -> Result<Appended, AppendError> {
    let (mut told, mut busy_wait) = (false, BUSY_WAIT.0);
    loop {
        let wait = match ledger.append(append.clone()).await {
            Err(error @ AppendError::DiskFull { .. }) => {
                if !told {
                    tracing::warn!(stream = %append.stream, %error, "an append waits for room");
                    told = true;
                }
                ROOM_LOOKED_FOR_EVERY
            }
            Err(AppendError::Busy { .. }) => {
                busy_wait = longer(busy_wait);
                busy_wait
            }
            answered => return answered,
        };
        tokio::time::sleep(wait).await;
    }
}

/// An answer that is in the ledger, and the cursor after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Committed<T> {
    pub value: T,
    pub cursor: Cursor,
}

pub type CommitReply<T> = Reply<Result<Committed<T>, Refused>>;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;
    use hiveward_runtime::{
        error::Code,
        ledger::{APPEND_BYTES_MAX, LedgerConfig, NewEvent, SnapshotPart, StreamSnapshot},
    };
    use tokio::sync::oneshot;

    use super::*;

    /// Returns the cursor that follows a batch, in a new life of the stream.
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

    fn batch(events: &[usize], may_cut: bool) -> Batch {
        let mut batch = Batch::default();
        for bytes in events {
            if may_cut {
                batch.may_cut_here();
            }
            batch.push("Happened", 1, vec![0; *bytes].into());
        }
        batch.then(|_| {});
        batch
    }

    #[test]
    fn batches_become_appends_by_bytes_and_what_must_stay_together_does() {
        let sizes = |batches: Vec<Batch>| -> Vec<(Vec<usize>, usize)> {
            let appends = appends_of(batches).into_iter();
            appends.map(|append| (append.events.iter().map(|event| event.body.len()).collect(), append.after.len())).collect()
        };
        let mega = 1 << 20;
        let small = || batch(&[10, 10], false);
        assert_eq!(sizes(vec![small(), small()]), [(vec![10; 4], 2)]);
        // A further megabyte does not fit; who waits for a batch is told with the last of it.
        assert_eq!(sizes(vec![batch(&[mega, 10], false), batch(&[mega], false)]), [(vec![mega, 10], 1), (vec![mega], 1)]);
        assert_eq!(
            sizes(vec![batch(&[mega; 5], true)]),
            [(vec![mega], 0), (vec![mega], 0), (vec![mega], 0), (vec![mega], 0), (vec![mega], 1)]
        );
        assert_eq!(sizes(vec![batch(&[mega; 5], false), small()]), [(vec![mega; 5], 1), (vec![10; 2], 1)]);
        // Nothing but who waits.
        assert_eq!(sizes(vec![batch(&[], false)]), [(vec![], 1)]);
        // A snapshot is of the state right behind its batch, and a piece of one goes alone.
        let mut snapshot = small();
        snapshot.snapshot = Some(StreamSnapshot { format: 1, body: Bytes::new() });
        assert_eq!(sizes(vec![small(), snapshot, small()]), [(vec![10; 4], 2), (vec![10; 2], 1)]);
        let piece = StreamSnapshot { format: 1, body: Bytes::new() };
        let piece = SnapshotPart { at_version: 1, number: 0, last: true, snapshot: piece };
        let mut part = Batch::of_part(piece);
        part.then(|_| {});
        assert_eq!(sizes(vec![small(), part, small()]), [(vec![10; 2], 1), (vec![], 1), (vec![10; 2], 1)]);
    }

    #[test]
    fn appends_are_filled_to_the_event_and_to_the_byte() {
        let appends = |batches: Vec<Batch>| appends_of(batches).iter().map(|append| append.events.len()).collect::<Vec<_>>();
        let (half, rest) = (vec![0; EVENTS_PER_APPEND_MAX / 2], vec![0; EVENTS_PER_APPEND_MAX / 2 + 1]);
        assert_eq!(appends(vec![batch(&half, false), batch(&half, false)]), [EVENTS_PER_APPEND_MAX]);
        assert_eq!(appends(vec![batch(&half, false), batch(&rest, false)]), [half.len(), rest.len()]);
        let event = batch(&[0], false).bytes();
        let most = APPEND_BYTES_WANTED - 2 * event;
        assert_eq!(appends(vec![batch(&[most], false), batch(&[0], false)]), [2]);
        assert_eq!(appends(vec![batch(&[most + 1], false), batch(&[0], false)]), [1, 1]);
        assert_eq!(appends(vec![]), [0; 0]);
        // Nobody waits for them, and they are written all the same; those who wait for nothing get no append.
        let mut silent = batch(&[10], false);
        silent.after.clear();
        assert_eq!(appends(vec![silent]), [1]);
        let nobody = || Batch { after: Vec::new(), ..batch(&[], false) };
        assert_eq!(appends(vec![nobody()]), [0; 0]);
        // Those who wait for what stands already are not held up behind a piece of a snapshot.
        let snapshot = StreamSnapshot { format: 1, body: Bytes::new() };
        let piece = || Batch::of_part(SnapshotPart { at_version: 1, number: 0, last: true, snapshot: snapshot.clone() });
        assert_eq!(appends(vec![piece()]), [0], "it needs no append before it");
        assert_eq!(appends(vec![batch(&[], false), piece()]), [0, 0]);
    }

    #[test]
    fn a_batch_counts_its_events_its_snapshot_and_its_piece() {
        let snapshot = || StreamSnapshot { format: 1, body: vec![0; 700].into() };
        let mut whole = batch(&[10, 20], false);
        let events = whole.bytes();
        assert!(events >= 30);
        whole.snapshot = Some(snapshot());
        assert_eq!(whole.bytes(), events + 700);
        let part = || SnapshotPart { at_version: 1, number: 0, last: true, snapshot: snapshot() };
        whole.part = Some(part());
        assert_eq!(whole.bytes(), events + 1400);
        assert!(Batch::default().is_empty());
        let nobody = |mut batch: Batch| {
            batch.after.clear();
            batch
        };
        for not_empty in [
            nobody(batch(&[0], false)),
            batch(&[], false),
            Batch { snapshot: Some(snapshot()), ..Batch::default() },
            Batch::of_part(part()),
        ] {
            assert!(!not_empty.is_empty());
        }
    }

    #[test]
    fn an_append_that_finds_the_ledger_busy_waits_longer_each_time_up_to_a_bound() {
        let waits: Vec<Duration> = std::iter::successors(Some(BUSY_WAIT.0), |wait| Some(longer(*wait))).take(100).collect();
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == BUSY_WAIT.1));
        assert_eq!(waits.last(), Some(&BUSY_WAIT.1));
    }

    #[tokio::test]
    async fn a_piece_of_a_snapshot_that_comes_alone_is_written_before_anybody_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let stream = Key::trusted("swarm_test");
        let (ledger, _) = small_ledger(dir.path(), &stream).await;
        cursor_after(&ledger, &stream, batch(&[10, 10], false)).await;
        let snapshot = StreamSnapshot { format: 1, body: Bytes::from_static(b"state") };
        let piece = SnapshotPart { at_version: 2, number: 0, last: true, snapshot: snapshot.clone() };
        cursor_after(&ledger, &stream, Batch::of_part(piece)).await;
        let life = ledger.claim(&stream).await.unwrap();
        assert_eq!(life.parts.map(|parts| (parts.version, parts.count)), Some((2, 1)));
        let whole = Batch { snapshot: Some(snapshot.clone()), ..Batch::default() };
        cursor_after(&ledger, &stream, whole).await;
        assert_eq!(ledger.claim(&stream).await.unwrap().snapshot.map(|(_, snapshot)| snapshot), Some(snapshot));
        ledger.stop().await;
    }

    #[test]
    fn what_is_too_large_for_one_append_is_refused_before_it_is_decided_on() {
        assert_eq!(TOGETHER_BYTES_MAX * 2, APPEND_BYTES_MAX);
        fits("items", TOGETHER_BYTES_MAX).unwrap();
        for bytes in [TOGETHER_BYTES_MAX + 1, TOGETHER_BYTES_MAX * 1000] {
            let refused = fits("items", bytes).unwrap_err();
            assert_eq!((refused.code, refused.field.as_deref()), (Code::Limit, Some("items")));
            assert!(refused.message.contains(&bytes.to_string()), "{}", refused.message);
        }
    }

    /// Opens a ledger in `dir` and claims `stream` in it.
    async fn small_ledger(dir: &std::path::Path, stream: &Key) -> (Ledger, u64) {
        let ledger = Ledger::open(LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(dir) }).await.unwrap();
        let incarnation = ledger.claim(stream).await.unwrap().incarnation;
        (ledger, incarnation)
    }

    #[tokio::test]
    async fn what_waits_together_becomes_durable_together_and_each_is_told_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let stream = Key::trusted("swarm_test");
        let (ledger, incarnation) = small_ledger(dir.path(), &stream).await;
        let (committer, committing) = Committer::new(ledger.clone(), stream, incarnation, 0, |error| panic!("{error}"));
        let (told, mut hears) = mpsc::unbounded_channel();
        // Of these six the first three are full.
        let sizes: [&[usize]; 6] = [&[1 << 20], &[1 << 20], &[10], &[1, 1], &[], &[1]];
        for (number, events) in sizes.into_iter().enumerate() {
            let (mut batch, told) = (batch(events, false), told.clone());
            batch.then(move |cursor| told.send((number, cursor.0)).unwrap());
            committer.another().hand_over(batch).await.unwrap();
        }
        drop(committer);
        committing.await;
        let all: Vec<(usize, u64)> = std::iter::from_fn(|| hears.try_recv().ok()).collect();
        let numbers: Vec<usize> = all.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        let first = all[0].1;
        let after: Vec<u64> = all.iter().map(|(_, cursor)| cursor - first).collect();
        assert_eq!(after, [0, 1, 5, 5, 5, 5], "what fits goes into one append, whose last event all of it stands on");
        ledger.stop().await;
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_batches_and_in_bytes_and_goes_on_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let stream = Key::trusted("swarm_test");
        let (ledger, incarnation) = small_ledger(dir.path(), &stream).await;
        // Whether there is room, whatever the runtime thinks of so many calls at once.
        fn tried<T>(handing: impl Future<Output = T>) -> Option<T> {
            tokio::task::unconstrained(handing).now_or_never()
        }
        let new = || Committer::new(ledger.clone(), stream.clone(), incarnation, 0, |error| panic!("{error}"));
        // Counted, whatever they hold.
        let (committer, _not_run) = new();
        for _ in 0..BATCHES_MAX {
            tried(committer.hand_over(batch(&[], false))).expect("there is room").unwrap();
        }
        assert!(tried(committer.hand_over(batch(&[], false))).is_none(), "one more than may wait");
        // In bytes: to the last unit of room, and not one more.
        let (committer, _not_run) = new();
        let event = batch(&[0], false).bytes();
        let unit = BYTES_PER_PERMIT - event;
        tried(committer.hand_over(batch(&[WAITING_BYTES_MAX - BYTES_PER_PERMIT - event], false))).unwrap().unwrap();
        tried(committer.hand_over(batch(&[unit], false))).expect("there is room").unwrap();
        assert!(tried(committer.hand_over(batch(&[unit], false))).is_none());
        // What is larger than all the room waits until it is alone, and is not refused.
        let (committer, _not_run) = new();
        tried(committer.hand_over(batch(&[WAITING_BYTES_MAX * 2], false))).expect("it is alone").unwrap();
        assert!(tried(committer.hand_over(batch(&[unit], false))).is_none());
        // Room comes back when a batch is in the ledger.
        let (committer, committing) = new();
        let large = || batch(&[TOGETHER_BYTES_MAX - event], false);
        for _ in 0..WAITING_BYTES_MAX / TOGETHER_BYTES_MAX {
            tried(committer.hand_over(large())).expect("there is room").unwrap();
        }
        let mut one_more = Box::pin(committer.hand_over(large()));
        assert!((&mut one_more).now_or_never().is_none());
        let committing = tokio::spawn(committing);
        one_more.await.unwrap();
        drop(committer);
        committing.await.unwrap();
        assert_eq!(ledger.head(), Cursor(5), "all five are written");
        ledger.stop().await;
    }

    #[tokio::test]
    async fn an_entity_that_is_fenced_off_hears_it_once_and_nothing_of_it_follows() {
        let dir = tempfile::tempdir().unwrap();
        let stream = Key::trusted("swarm_test");
        let (ledger, incarnation) = small_ledger(dir.path(), &stream).await;
        ledger.claim(&stream).await.unwrap();
        let (failed, mut hears) = mpsc::unbounded_channel();
        let (committer, committing) =
            Committer::new(ledger.clone(), stream, incarnation, 0, move |error| failed.send(error).unwrap());
        let (told, follows) = oneshot::channel::<Cursor>();
        let mut lost = batch(&[10], false);
        lost.then(move |cursor| told.send(cursor).unwrap());
        committer.hand_over(lost).await.unwrap();
        committing.await;
        assert!(matches!(hears.recv().await, Some(AppendError::Fenced { .. })));
        assert!(hears.recv().await.is_none(), "it is said once");
        follows.await.unwrap_err();
        committer.hand_over(batch(&[10], false)).await.unwrap_err();
        committer.hand_over(Batch::default()).await.unwrap();
        assert_eq!(ledger.head(), Cursor(0));
        ledger.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_entity_whose_append_finds_the_ledger_busy_lives_and_its_append_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(dir.path()) }).await.unwrap();
        let (stream, mut others) = (Key::trusted("swarm_test"), tokio::task::JoinSet::new());
        let life = ledger.claim(&stream).await.unwrap();
        let small = |incarnation, stream: Key, bytes: usize| Append {
            stream,
            incarnation,
            expected_version: 0,
            events: vec![NewEvent { kind: "Happened", format: 1, body: vec![0; bytes].into() }],
            snapshot: None,
            part: None,
        };
        let mut lives = Vec::new();
        for n in 0..8 {
            let other = Key::trusted(format!("swarm_other{n}"));
            lives.push((ledger.claim(&other).await.unwrap().incarnation, other));
        }
        let busy = Key::trusted("swarm_busy");
        let incarnation = ledger.claim(&busy).await.unwrap().incarnation;
        hiveward_runtime::fault::arm_from_text("ledger.before_fsync=delay:1500").unwrap();
        for (incarnation, other) in lives {
            let ledger = ledger.clone();
            others.spawn(async move { ledger.append(small(incarnation, other, 12 << 20)).await });
        }
        // The first of them holds up the others at the disk.
        while !matches!(ledger.append(small(incarnation, busy.clone(), 1)).now_or_never(), Some(Err(AppendError::Busy { .. }))) {
            tokio::task::yield_now().await;
        }
        let append = small(life.incarnation, stream.clone(), 1);
        assert_eq!(append_when_there_is_room(&ledger, append).await.unwrap().version, 1);
        while let Some(other) = others.join_next().await {
            // Some of them found it busy as well.
            let _ = other.unwrap();
        }
        ledger.stop().await;
    }
}
