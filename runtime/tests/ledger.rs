//! What the ledger promises, on a real file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use hiveward_runtime::{
    clock::Deadline,
    id::Key,
    ledger::{
        Append, AppendError, Cursor, Event, Ledger, LedgerConfig, NewEvent, ReadError, StreamSnapshot,
        scrub::scrub,
        view::{View, ViewError, Views, copy_table},
    },
};
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};

fn key(n: u32) -> Key {
    format!("probe_{n:032x}").parse().unwrap()
}

fn event(text: &str) -> NewEvent {
    NewEvent { kind: "Probed", format: 1, body: text.to_owned().into() }
}

fn append(stream: &Key, incarnation: u64, expected_version: u64, texts: &[&str]) -> Append {
    Append {
        stream: stream.clone(),
        incarnation,
        expected_version,
        events: texts.iter().map(|t| event(t)).collect(),
        snapshot: None,
        part: None,
    }
}

fn texts(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()).collect()
}

fn config(dir: &tempfile::TempDir) -> LedgerConfig {
    LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(dir.path()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_is_read_back_in_order_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let (a, b) = (key(1), key(2));
    let life = ledger.claim(&a).await.unwrap();
    assert_eq!((life.version, life.events.len()), (0, 0));
    let first = ledger.append(append(&a, life.incarnation, 0, &["a1", "a2"])).await.unwrap();
    assert_eq!((first.cursor, first.version), (Cursor(2), 2));
    let other = ledger.claim(&b).await.unwrap();
    ledger.append(append(&b, other.incarnation, 0, &["b1"])).await.unwrap();
    ledger.append(append(&a, life.incarnation, 2, &["a3"])).await.unwrap();
    assert_eq!(texts(&ledger.read(Cursor(0), 100).unwrap()), ["a1", "a2", "b1", "a3"]);
    let epoch = ledger.leadership().borrow().epoch;
    ledger.stop().await;
    drop(ledger);

    let ledger = Ledger::open(config(&dir)).await.unwrap();
    assert_eq!(ledger.head(), Cursor(4));
    assert!(ledger.leadership().borrow().epoch > epoch);
    assert_eq!(texts(&ledger.read(Cursor(1), 100).unwrap()), ["a2", "b1", "a3"]);
    let again = ledger.claim(&a).await.unwrap();
    assert!(again.incarnation > life.incarnation);
    assert_eq!((again.version, texts(&again.events)), (3, vec!["a1".into(), "a2".into(), "a3".into()]));
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_life_and_a_stale_version_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let a = key(1);
    let old = ledger.claim(&a).await.unwrap();
    ledger.append(append(&a, old.incarnation, 0, &["a1"])).await.unwrap();
    let new = ledger.claim(&a).await.unwrap();
    let refused = ledger.append(append(&a, old.incarnation, 1, &["from the dead"])).await.unwrap_err();
    assert_eq!(refused, AppendError::Fenced { newest: new.incarnation });
    let refused = ledger.append(append(&a, new.incarnation, 0, &["too late"])).await.unwrap_err();
    assert_eq!(refused, AppendError::Version { is: 1, expected: 0 });
    ledger.append(append(&a, new.incarnation, 1, &["a2"])).await.unwrap();
    assert_eq!(texts(&ledger.read(Cursor(0), 100).unwrap()), ["a1", "a2"]);
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_begins_at_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let a = key(1);
    let life = ledger.claim(&a).await.unwrap();
    let mut with_snapshot = append(&a, life.incarnation, 0, &["a1", "a2"]);
    with_snapshot.snapshot = Some(StreamSnapshot { format: 7, body: "state".into() });
    ledger.append(with_snapshot).await.unwrap();
    ledger.append(append(&a, life.incarnation, 2, &["a3"])).await.unwrap();
    let life = ledger.claim(&a).await.unwrap();
    assert_eq!(life.snapshot.unwrap(), (2, StreamSnapshot { format: 7, body: "state".into() }));
    assert_eq!(texts(&life.events), ["a3"]);
    // What no replay needs is dropped, and who asks for it hears so.
    let oldest = ledger.compact(Cursor(3)).await.unwrap();
    assert_eq!(oldest, Cursor(3));
    let life = ledger.claim(&a).await.unwrap();
    assert_eq!(texts(&life.events), ["a3"]);
    ledger.stop().await;
    drop(ledger);
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    assert!(matches!(ledger.read(Cursor(0), 10), Err(ReadError::Compacted { oldest: Cursor(3) })));
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appenders_share_entries_and_a_tail_sees_every_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let mut tail = ledger.tail(Cursor(0));
    let (streams, each) = (50, 100);
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..streams {
        let ledger = ledger.clone();
        writers.spawn(async move {
            let stream = key(n);
            let life = ledger.claim(&stream).await.unwrap();
            for version in 0..each {
                ledger.append(append(&stream, life.incarnation, version, &["x"])).await.unwrap();
            }
        });
    }
    let total = u64::from(streams) * each;
    let mut seen = Vec::new();
    while seen.len() < total as usize {
        seen.extend(tail.next().await.unwrap().into_iter().map(|event| event.cursor.0));
    }
    assert_eq!(seen, (1..=total).collect::<Vec<_>>());
    while writers.join_next().await.is_some() {}
    // From disk, by small pages, and from the middle: the same.
    let mut at = Cursor(17);
    let mut count = 0;
    while at < Cursor(total) {
        let page = ledger.read(at, 37).unwrap();
        assert_eq!(page[0].cursor.0, at.0 + 1);
        count += page.len() as u64;
        at = page.last().unwrap().cursor;
    }
    assert_eq!(count, total - 17);
    ledger.stop().await;
}

const SEEN: TableDefinition<'_, u64, &str> = TableDefinition::new("seen");

struct SeenView(u32);

impl View for SeenView {
    fn name(&self) -> &'static str {
        "seen"
    }

    fn format(&self) -> u32 {
        self.0
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(SEEN)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(SEEN, from, to)
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut table = txn.open_table(SEEN)?;
        for event in events {
            table.insert(event.cursor.0, std::str::from_utf8(&event.body)?)?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_catches_up_answers_at_a_cursor_and_is_made_anew_when_its_format_changes() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let path = dir.path().join("views.redb");
    let a = key(1);
    let life = ledger.claim(&a).await.unwrap();
    ledger.append(append(&a, life.incarnation, 0, &["a1", "a2"])).await.unwrap();
    for (format, damage) in [(1, false), (1, false), (2, false), (2, true)] {
        if damage {
            let mut bytes = std::fs::read(&path).unwrap();
            let half = bytes.len() / 2;
            bytes.truncate(half);
            bytes[..64].fill(0xff);
            std::fs::write(&path, bytes).unwrap();
        }
        let views = Views::start(&ledger, &path, vec![Box::new(SeenView(format))]).await.unwrap();
        views.at_least(Cursor(2), Deadline::after(Duration::from_secs(10))).await.unwrap();
        let txn = views.read().unwrap();
        let table = txn.open_table(SEEN).unwrap();
        let rows: Vec<_> = table.iter().unwrap().map(|row| row.unwrap().1.value().to_owned()).collect();
        assert_eq!(rows, ["a1", "a2"], "format {format}");
        drop((table, txn));
        assert_eq!(views.lag(), 0);
        views.stop().await;
        drop(views);
    }
    ledger.stop().await;
}

const COUNTED: TableDefinition<'_, u64, ()> = TableDefinition::new("counted");

/// A view that a newer version brings along.
struct CountedView;

impl View for CountedView {
    fn name(&self) -> &'static str {
        "counted"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(COUNTED)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(COUNTED, from, to)
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut table = txn.open_table(COUNTED)?;
        for event in events {
            if table.insert(event.cursor.0, ())?.is_some() {
                return Err(format!("{} comes twice", event.cursor).into());
            }
        }
        Ok(())
    }
}

/// What the two views hold.
const LENGTHS: TableDefinition<'_, u64, u64> = TableDefinition::new("lengths");

/// Panics where it meets an event of thirteen bytes.
struct LengthsView;

impl View for LengthsView {
    fn name(&self) -> &'static str {
        "lengths"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(LENGTHS)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(LENGTHS, from, to)
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut table = txn.open_table(LENGTHS)?;
        for event in events {
            assert_ne!(event.body.len(), 13, "a number it cannot stand");
            table.insert(event.cursor.0, event.body.len() as u64)?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_view_cannot_take_in_is_set_aside_for_it_and_all_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let path = dir.path().join("views.redb");
    let stream = key(1);
    let life = ledger.claim(&stream).await.unwrap();
    // Text, what is no text, and what the second view cannot stand.
    let bodies: Vec<Vec<u8>> = (0..200_usize)
        .map(|n| match n % 50 {
            7 => vec![0xff; n + 20],
            9 => "thirteen byte".into(),
            _ => "é".repeat(n + 7).into_bytes(),
        })
        .collect();
    let bad = |n: usize, of: &[usize]| of.contains(&(n % 50));
    let events = bodies.iter().map(|body| NewEvent { kind: "Probed", format: 1, body: body.clone().into() }).collect();
    let all =
        Append { stream: stream.clone(), incarnation: life.incarnation, expected_version: 0, events, snapshot: None, part: None };
    ledger.append(all).await.unwrap();
    for _ in 0..2 {
        let views = Views::start(&ledger, &path, vec![Box::new(SeenView(1)), Box::new(LengthsView)]).await.unwrap();
        views.at_least(Cursor(200), Deadline::after(Duration::from_secs(10))).await.unwrap();
        assert_eq!((views.failure(), views.set_aside()), (None, 8));
        let txn = views.read().unwrap();
        let seen: Vec<u64> = txn.open_table(SEEN).unwrap().iter().unwrap().map(|row| row.unwrap().0.value()).collect();
        let lengths: Vec<u64> = txn.open_table(LENGTHS).unwrap().iter().unwrap().map(|row| row.unwrap().0.value()).collect();
        let without = |of: &[usize]| (0..200).filter(|n| !bad(*n, of)).map(|n| n as u64 + 1).collect::<Vec<_>>();
        assert_eq!((seen, lengths), (without(&[7]), without(&[9])));
        drop(txn);
        // Also after a restart.
        views.stop().await;
    }
    ledger.stop().await;
}

fn rows(views: &Views) -> (Vec<u64>, Vec<u64>) {
    let txn = views.read().unwrap();
    let seen = txn.open_table(SEEN).unwrap();
    let counted = txn.open_table(COUNTED).unwrap();
    let seen = seen.iter().unwrap().map(|row| row.unwrap().0.value()).collect();
    (seen, counted.iter().unwrap().map(|row| row.unwrap().0.value()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_view_catches_up_with_what_is_kept_and_the_others_lose_nothing_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let path = dir.path().join("views.redb");
    let within = || Deadline::after(Duration::from_secs(10));
    let a = key(1);
    let life = ledger.claim(&a).await.unwrap();
    for version in 0..6 {
        ledger.append(append(&a, life.incarnation, version, &["x"])).await.unwrap();
    }
    let views = Views::start(&ledger, &path, vec![Box::new(SeenView(1))]).await.unwrap();
    views.at_least(Cursor(6), within()).await.unwrap();
    views.stop().await;
    drop(views);
    // Nothing can make what `seen` has of these again.
    ledger.compact(Cursor(4)).await.unwrap();
    ledger.stop().await;
    drop(ledger);
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let life = ledger.claim(&a).await.unwrap();
    let both = || -> Vec<Box<dyn View>> { vec![Box::new(SeenView(1)), Box::new(CountedView)] };
    let views = Views::start(&ledger, &path, both()).await.unwrap();
    views.at_least(Cursor(6), within()).await.unwrap();
    assert_eq!(rows(&views), (vec![1, 2, 3, 4, 5, 6], vec![5, 6]));
    ledger.append(append(&a, life.incarnation, 6, &["x"])).await.unwrap();
    views.at_least(Cursor(7), within()).await.unwrap();
    views.stop().await;
    drop(views);
    // Caught up for good: it takes in nothing twice.
    let views = Views::start(&ledger, &path, both()).await.unwrap();
    views.at_least(Cursor(7), within()).await.unwrap();
    assert_eq!(rows(&views), (vec![1, 2, 3, 4, 5, 6, 7], vec![5, 6, 7]));
    views.stop().await;
    drop(views);
    // Another format cannot be made any more: what was there is kept for the version that made it.
    let views = Views::start(&ledger, &path, vec![Box::new(SeenView(2)), Box::new(CountedView)]).await.unwrap();
    assert_eq!(rows(&views), (vec![], vec![]));
    views.stop().await;
    drop(views);
    std::fs::rename(path.with_extension("replaced"), &path).unwrap();
    let views = Views::start(&ledger, &path, both()).await.unwrap();
    assert_eq!(rows(&views), (vec![1, 2, 3, 4, 5, 6, 7], vec![5, 6, 7]));
    views.stop().await;
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opener_is_told_that_the_file_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::open(config(&dir)).await.unwrap());
    let error = Ledger::open(config(&dir)).await.err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_founded_a_moment_ago_takes_writes() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(config(&dir)).await.unwrap();
        assert!(ledger.leadership().borrow().is_me, "it is the only voter, and does not lead");
        ledger.takes_writes().unwrap();
        ledger.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_writes_are_refused_aloud_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let a = key(1);
    let life = ledger.claim(&a).await.unwrap();
    ledger.append(append(&a, life.incarnation, 0, &["a1"])).await.unwrap();
    ledger.stop().await;
    drop(ledger);
    let ledger = Ledger::open(LedgerConfig { reserve_bytes: u64::MAX - 1, ..LedgerConfig::new(dir.path()) }).await.unwrap();
    let life = ledger.claim(&a).await.unwrap();
    let refused = ledger.append(append(&a, life.incarnation, 1, &["a2"])).await.unwrap_err();
    assert!(matches!(refused, AppendError::DiskFull { .. }), "{refused}");
    assert_eq!(texts(&ledger.read(Cursor(0), 10).unwrap()), ["a1"]);
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_keeps_what_a_replay_needs_and_nothing_else_also_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(config(&dir)).await.unwrap();
    let (cold, hot) = (key(1), key(2));
    let lives = (ledger.claim(&cold).await.unwrap().incarnation, ledger.claim(&hot).await.unwrap().incarnation);
    // More than one chunk of positions each; only one of them ever takes a snapshot.
    for version in 0..600 {
        let text = format!("{version}");
        ledger.append(append(&cold, lives.0, version, &[&text])).await.unwrap();
        let mut with_snapshot = append(&hot, lives.1, version, &[&text]);
        with_snapshot.snapshot = (version == 550).then(|| StreamSnapshot { format: 1, body: "state".into() });
        ledger.append(with_snapshot).await.unwrap();
    }
    let all: Vec<String> = (0..600).map(|version| version.to_string()).collect();
    assert_eq!(texts(&ledger.read_stream(&cold, 0, usize::MAX).unwrap()), all);
    assert_eq!(texts(&ledger.read_stream(&hot, 300, 5).unwrap()), all[300..305]);
    assert_eq!(ledger.compact(Cursor(1_000)).await.unwrap(), Cursor(1_000));
    for round in 0..3 {
        assert_eq!(texts(&ledger.claim(&cold).await.unwrap().events), all, "round {round}");
        let life = ledger.claim(&hot).await.unwrap();
        assert_eq!((life.version, life.snapshot.unwrap().0, texts(&life.events)), (600, 551, all[551..].to_vec()));
        assert_eq!(ledger.read(Cursor(1_000), usize::MAX).unwrap().len(), 200);
        assert_eq!(ledger.streams("probe").unwrap().len(), 2);
        ledger.stop().await;
        drop(ledger);
        ledger = Ledger::open(config(&dir)).await.unwrap();
        assert!(matches!(ledger.read(Cursor(999), 1), Err(ReadError::Compacted { oldest: Cursor(1_000) })), "round {round}");
    }
    let error = ledger.read_stream(&hot, 0, 10).unwrap_err();
    assert!(matches!(error, ReadError::Compacted { .. }), "{error}");
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_stands_for_goes_with_the_next_compaction_though_an_earlier_one_had_to_leave_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let (late, hot) = (key(1), key(2));
    let lives = (ledger.claim(&late).await.unwrap().incarnation, ledger.claim(&hot).await.unwrap().incarnation);
    for version in 0..300 {
        ledger.append(append(&late, lives.0, version, &["late"])).await.unwrap();
        let mut with_snapshot = append(&hot, lives.1, version, &["hot"]);
        with_snapshot.snapshot = (version == 299).then(|| StreamSnapshot { format: 1, body: "state".into() });
        ledger.append(with_snapshot).await.unwrap();
    }
    ledger.stop().await;
    drop(ledger);
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    // Of the log, which keeps its entries, and of the events.
    let rows = || tokio::task::block_in_place(|| scrub(&ledger, None, None, |_| Ok(()), || false)).unwrap().rows;
    let fall_to = async |most: u64| {
        let deadline = Deadline::after(Duration::from_secs(30));
        while rows() > most {
            assert!(!deadline.passed(), "{} rows stay", rows());
            tokio::task::yield_now().await;
        }
    };
    assert!(rows() >= 1_200, "{}", rows());
    ledger.compact(Cursor(600)).await.unwrap();
    fall_to(950).await;
    assert_eq!(ledger.claim(&late).await.unwrap().events.len(), 300);
    let mut with_snapshot = append(&late, ledger.claim(&late).await.unwrap().incarnation, 300, &["last"]);
    with_snapshot.snapshot = Some(StreamSnapshot { format: 1, body: "state".into() });
    ledger.append(with_snapshot).await.unwrap();
    ledger.compact(Cursor(601)).await.unwrap();
    fall_to(650).await;
    let life = ledger.claim(&late).await.unwrap();
    assert_eq!((life.version, life.snapshot.unwrap().0, life.events.len()), (301, 301, 0));
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_what_the_older_life_had_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(config(&dir)).await.unwrap();
    let a = key(1);
    let mut version = 0;
    for _ in 0..50 {
        let life = ledger.claim(&a).await.unwrap();
        assert_eq!(life.version, version);
        let writer = ledger.clone();
        let late = tokio::spawn({
            let append = append(&a, life.incarnation, version, &["from the older life"]);
            async move { writer.append(append).await }
        });
        tokio::task::yield_now().await;
        let newer = ledger.claim(&a).await.unwrap();
        // What the newer life was not told of never happens.
        match late.await.unwrap() {
            Ok(appended) => assert_eq!(appended.version, newer.version),
            Err(error) => assert_eq!((error, newer.version), (AppendError::Fenced { newest: newer.incarnation }, version)),
        }
        version = newer.version;
    }
    ledger.stop().await;
}
