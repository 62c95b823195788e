//! Snapshots that are larger than an append, and replays that are larger than memory should hold at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hiveward_runtime::{
    id::Key,
    ledger::{APPEND_BYTES_MAX, Append, AppendError, Ledger, LedgerConfig, Life, NewEvent, SnapshotPart, StreamSnapshot},
};

const PIECE_BYTES: usize = 500 << 10;

fn stream() -> Key {
    format!("probe_{:032x}", 7).parse().unwrap()
}

struct Bed {
    dir: tempfile::TempDir,
    ledger: Ledger,
    life: Life,
    version: u64,
}

impl Bed {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(dir.path()) }).await.unwrap();
        let life = ledger.claim(&stream()).await.unwrap();
        Self { dir, ledger, version: life.version, life }
    }

    /// The whole file is checked when it is opened again.
    async fn again(self) -> Self {
        self.ledger.stop().await;
        drop(self.ledger);
        let ledger = Ledger::open(LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(self.dir.path()) }).await.unwrap();
        let life = ledger.claim(&stream()).await.unwrap();
        Self { dir: self.dir, ledger, version: life.version, life }
    }

    async fn append(&mut self, bytes: usize, snapshot: Option<StreamSnapshot>, part: Option<SnapshotPart>) {
        let events = (bytes > 0).then(|| NewEvent { kind: "Probed", format: 1, body: vec![self.version as u8; bytes].into() });
        let (incarnation, expected_version) = (self.life.incarnation, self.version);
        let append =
            Append { stream: stream(), incarnation, expected_version, events: events.into_iter().collect(), snapshot, part };
        self.version = self.ledger.append(append).await.unwrap().version;
    }

    async fn piece(&mut self, at_version: u64, number: u32, last: bool) {
        let snapshot = StreamSnapshot { format: 2, body: vec![(at_version as u8) ^ (number as u8); PIECE_BYTES].into() };
        self.append(0, None, Some(SnapshotPart { at_version, number, last, snapshot })).await;
    }

    /// The pieces that a replay begins from: their version and how many there are; each is looked at.
    fn pieces(&self) -> Option<(u64, u32)> {
        let parts = self.life.parts?;
        for number in 0..parts.count {
            let part = self.ledger.snapshot_part(&stream(), parts, number).unwrap();
            assert_eq!(part.body.len(), PIECE_BYTES);
            assert!(part.body.iter().all(|byte| *byte == (parts.version as u8) ^ (number as u8)), "piece {number}");
        }
        assert_eq!(self.life.snapshot, None);
        assert_eq!(self.life.events.first().map_or(self.version, |event| event.version - 1), parts.version);
        Some((parts.version, parts.count))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_may_be_larger_than_an_append_and_holds_when_its_last_piece_is_there() {
    let pieces = u32::try_from(2 * APPEND_BYTES_MAX / PIECE_BYTES).unwrap();
    let mut bed = Bed::open().await;
    for _ in 0..10 {
        bed.append(100, None, None).await;
    }
    for number in 0..pieces {
        // What happens meanwhile is not held up, and is replayed after it.
        bed.piece(10, number, number + 1 == pieces).await;
        bed.append(10, None, None).await;
        if number == 5 {
            bed = bed.again().await;
            assert_eq!((bed.pieces(), bed.life.events.len()), (None, 16), "until then all events are replayed");
        }
    }
    bed = bed.again().await;
    assert_eq!(bed.pieces(), Some((10, pieces)));
    // Another life dies amid the next one; the one before holds.
    for number in 0..4 {
        bed.piece(20, number, false).await;
    }
    bed = bed.again().await;
    assert_eq!(bed.pieces(), Some((10, pieces)));
    // What that life left behind goes with the first piece of the next snapshot, and the older one with its last.
    for number in 0..3 {
        bed.piece(30, number, number == 2).await;
    }
    bed = bed.again().await;
    assert_eq!(bed.pieces(), Some((30, 3)));
    // A whole one takes the place of pieces, and pieces that of a whole one.
    bed.append(10, Some(StreamSnapshot { format: 1, body: "whole".into() }), None).await;
    bed = bed.again().await;
    assert_eq!(bed.life.snapshot.as_ref().map(|(version, kept)| (*version, &kept.body[..])), Some((bed.version, &b"whole"[..])));
    assert_eq!((bed.life.parts, bed.life.events.len()), (None, 0));
    bed.append(10, None, None).await;
    bed.piece(bed.version, 0, true).await;
    bed = bed.again().await;
    assert_eq!(bed.pieces(), Some((bed.version, 1)));
    bed.ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_by_pages_holds_a_few_megabytes_at_a_time_and_misses_nothing() {
    let mut bed = Bed::open().await;
    for _ in 0..40 {
        bed.append(1 << 20, None, None).await;
    }
    bed = bed.again().await;
    let (all, mut seen, mut pages) = (bed.version, 0, 0);
    let life = bed.ledger.claim_page(&stream(), 1_000).await.unwrap();
    let mut page = life.events;
    while !page.is_empty() {
        assert!(page.iter().map(|event| event.body.len()).sum::<usize>() <= 9 << 20);
        for event in &page {
            assert_eq!((event.version, event.body[0]), (seen + 1, seen as u8));
            seen += 1;
        }
        pages += 1;
        page = bed.ledger.read_stream(&stream(), seen, 1_000).unwrap();
    }
    assert_eq!(seen, all);
    assert!(pages >= 5, "{pages}");
    bed.ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_at_its_limit_is_taken_and_one_byte_more_is_refused_with_nothing_written() {
    let bed = Bed::open().await;
    let of = |bytes: usize| Append {
        stream: stream(),
        incarnation: bed.life.incarnation,
        expected_version: 0,
        events: vec![NewEvent { kind: "Probed", format: 1, body: vec![1; bytes].into() }],
        snapshot: None,
        part: None,
    };
    // What an append takes beside the body.
    let AppendError::TooLarge { bytes, .. } = bed.ledger.append(of(APPEND_BYTES_MAX)).await.unwrap_err() else { panic!() };
    let most = APPEND_BYTES_MAX - (bytes - APPEND_BYTES_MAX);
    let refused = bed.ledger.append(of(most + 1)).await.unwrap_err();
    assert_eq!(refused, AppendError::TooLarge { bytes: APPEND_BYTES_MAX + 1, bytes_max: APPEND_BYTES_MAX });
    assert_eq!(bed.ledger.head().0, 0);
    assert_eq!(bed.ledger.append(of(most)).await.unwrap().version, 1);
    bed.ledger.stop().await;
}
