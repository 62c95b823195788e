//! What a ledger does when it is opened again after `kill -9`: it looks at its tail, and not through all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, time::Duration};

use hiveward_runtime::{
    clock::{Deadline, WallMs},
    fault,
    id::Key,
    ledger::{Append, Cursor, Ledger, LedgerConfig, NewEvent, StreamSnapshot, holes::Holes, scrub::scrub},
};
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};

const BODY: usize = 16 << 10;

fn key(n: u64) -> Key {
    format!("probe_{n:032x}").parse().unwrap()
}

/// As a ledger of many gigabytes: it is not checked from end to end at start.
fn config(dir: &Path) -> LedgerConfig {
    LedgerConfig { reserve_bytes: 0, verify_bytes_max: 0, ..LedgerConfig::new(dir) }
}

fn body(stream: u64, version: u64) -> Vec<u8> {
    let mut body = vec![(stream + version) as u8; BODY];
    body[..8].copy_from_slice(&version.to_le_bytes());
    body
}

async fn fill(ledger: &Ledger, streams: u64, each: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..streams {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            let life = ledger.claim_page(&key(n), 1).await.unwrap();
            for version in life.version..life.version + each {
                let events = vec![NewEvent { kind: "Probed", format: 1, body: body(n, version + 1).into() }];
                let (stream, incarnation) = (key(n), life.incarnation);
                let append = Append { stream, incarnation, expected_version: version, events, snapshot: None, part: None };
                ledger.append(append).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

/// The files as they are now, as a process leaves them that is killed now.
fn killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    // The witness first: it must not know more than the log.
    for name in ["ledger.witness", "ledger-log.redb", "ledger.redb"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// How often the tables were looked through since the test began. Tests run in a process each.
fn looked_through() -> u32 {
    fault::list().iter().map(|place| place.struck).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_nine_a_ledger_is_opened_by_its_tail_and_has_all_that_was_acknowledged() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fault::arm_from_text("ledger.before_repair=delay:0*1000").unwrap();
    let ledger = Ledger::open(config(dir.path())).await.unwrap();
    let mut each = 0;
    for (round, more) in [1, 150, 150, 1].into_iter().enumerate() {
        fill(&ledger, 32, more).await;
        each += more;
        let copy = copies.path().join(round.to_string());
        killed(dir.path(), &copy);
        let again = Ledger::open(config(&copy)).await.unwrap();
        assert_eq!(looked_through(), 0, "round {round}");
        assert_eq!(again.head().0, 32 * each);
        for n in [0, 17, 31] {
            let events = again.read_stream(&key(n), each - 3.min(each), 10).unwrap();
            for event in &events {
                assert_eq!(event.body, body(n, event.version));
            }
            assert_eq!(events.last().unwrap().version, each);
        }
        again.stop().await;
    }
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_stopped_in_order_is_one_file_and_one_that_has_only_that_is_opened() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledger = Ledger::open(config(dir.path())).await.unwrap();
    fill(&ledger, 4, 10).await;
    ledger.stop().await;
    drop(ledger);
    {
        // As the version before looks for it.
        let db = Database::open(dir.path().join("ledger.redb")).unwrap();
        let txn = db.begin_read().unwrap();
        let log = txn.open_table(TableDefinition::<u64, &[u8]>::new("raft_log")).unwrap();
        let meta = txn.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
        assert!(log.len().unwrap() >= 10 && meta.get("vote").unwrap().is_some() && meta.get("machine").unwrap().is_some());
    }
    for name in ["ledger.redb", "ledger.witness"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    // What an older life left of its log is not believed, whatever is in it.
    std::fs::write(copy.path().join("ledger-log.redb"), b"of another life").unwrap();
    for verify_bytes_max in [0, u64::MAX] {
        let again = Ledger::open(LedgerConfig { verify_bytes_max, ..config(copy.path()) }).await.unwrap();
        fill(&again, 4, 1).await;
        again.stop().await;
    }
    let again = Ledger::open(config(copy.path())).await.unwrap();
    assert_eq!(again.head().0, 48);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_mostly_holes_is_smaller_after_the_next_start_and_has_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let holes = Holes { percent_max: 50, file_bytes_min: 1 << 20, ..Holes::default() };
    let config = || LedgerConfig { holes, ..config(dir.path()) };
    let ledger = Ledger::open(config()).await.unwrap();
    fill(&ledger, 8, 200).await;
    let per_event = ledger.bytes_per_event().unwrap().unwrap();
    assert!((BODY as f64..BODY as f64 * 1.2).contains(&per_event), "{per_event}");
    for n in 0..8 {
        let life = ledger.claim_page(&key(n), 1).await.unwrap();
        let snapshot = Some(StreamSnapshot { format: 1, body: "state".into() });
        let events = vec![NewEvent { kind: "Probed", format: 1, body: body(n, 201).into() }];
        let (stream, incarnation) = (key(n), life.incarnation);
        let append = Append { stream, incarnation, expected_version: life.version, events, snapshot, part: None };
        ledger.append(append).await.unwrap();
    }
    let head = ledger.head();
    let now = WallMs::now();
    assert_eq!(ledger.older_than(now.plus(Duration::from_secs(60))).unwrap(), head);
    assert_eq!(ledger.older_than(WallMs(0)).unwrap(), Cursor(0));
    ledger.compact(Cursor(head.0 - 4)).await.unwrap();
    // The sweep goes on by itself; a scrub then finds how little is left.
    let deadline = Deadline::after(Duration::from_secs(30));
    let all_events = (8 * 200 * BODY) as u64;
    loop {
        let looked = tokio::task::block_in_place(|| scrub(&ledger, None, None, |_| Ok(()), || false)).unwrap();
        assert_eq!(looked.damaged, 0, "{looked:?}");
        // What is left is the log, which has them as well.
        if looked.bytes < all_events * 3 / 2 && dir.path().join("ledger.holes").exists() {
            break;
        }
        assert!(!deadline.passed(), "it is never seen: {looked:?}");
        tokio::task::yield_now().await;
    }
    ledger.stop().await;
    drop(ledger);
    let bytes = || std::fs::metadata(dir.path().join("ledger.redb")).unwrap().len();
    let before = bytes();
    let again = Ledger::open(config()).await.unwrap();
    let after = bytes();
    assert!(after < before / 2, "{after} bytes of {before}");
    assert!(!dir.path().join("ledger.holes").exists());
    assert_eq!((again.head(), again.read(Cursor(head.0 - 4), 10).unwrap().len()), (head, 4));
    for n in 0..8 {
        let life = again.claim(&key(n)).await.unwrap();
        assert_eq!((life.version, life.snapshot.map(|(at, _)| at)), (201, Some(201)));
    }
    fill(&again, 8, 3).await;
    again.stop().await;
}
