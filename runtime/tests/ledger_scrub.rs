//! Damage in the ledger's and the views' files: found by a scrub or by who reads, and never served.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use hiveward_runtime::{
    clock::Deadline,
    id::Key,
    ledger::{
        Append, Cursor, Event, Ledger, LedgerConfig, NewEvent, OpenError, ReadError, StreamSnapshot,
        row::{pack, unpack},
        scrub::{self, RowPlace, RowsScrubbed},
        view::{TableWalk, View, ViewError, Views, copy_table},
    },
};
use redb::{Database, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("raft_log");
const STREAMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("streams");
const CHUNKS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("stream_positions");
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("stream_snapshots");
const STREAMS_COUNT: u64 = 8;

fn key(n: u64) -> Key {
    format!("probe_{n:032x}").parse().unwrap()
}

fn text(stream: u64, version: u64) -> String {
    format!("event {version} of {stream} {}", "x".repeat((version % 90) as usize))
}

/// Too large for a look from end to end at start, as it were.
fn config(dir: &Path) -> LedgerConfig {
    LedgerConfig { reserve_bytes: 0, verify_bytes_max: 0, ..LedgerConfig::new(dir.join("ledger")) }
}

async fn made(dir: &Path, each: u64) {
    let ledger = Ledger::open(config(dir)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..STREAMS_COUNT {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            let life = ledger.claim(&key(n)).await.unwrap();
            for version in 0..each {
                let events = vec![NewEvent { kind: "Probed", format: 1, body: text(n, version + 1).into() }];
                // Once, so that most chunks of positions stay.
                let snapshot = (version == 10).then(|| StreamSnapshot { format: 1, body: "state".into() });
                let (stream, incarnation) = (key(n), life.incarnation);
                let append = Append { stream, incarnation, expected_version: version, events, snapshot, part: None };
                ledger.append(append).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    ledger.stop().await;
}

fn flipped(value: &[u8], bit: usize) -> Vec<u8> {
    let mut value = value.to_vec();
    let at = bit % (value.len() * 8);
    value[at / 8] ^= 1 << (at % 8);
    value
}

/// Finds where the pages begin that lead to rows; they begin with a 2 in the store's files. A bit at random is seldom of them.
fn leading_to_rows(file: &[u8]) -> Vec<usize> {
    (0..file.len()).step_by(4096).filter(|page| file[*page] == 2).collect()
}

/// Gives the dice of a run; `HIVEWARD_SEED` gives the same again, though the file is not the same in each run.
fn dice() -> fastrand::Rng {
    let seed = std::env::var("HIVEWARD_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("HIVEWARD_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// All of it, or in turns as a person's scrub does it.
async fn scrubbed(ledger: &Ledger, views: Option<&Views>, in_turns: bool) -> RowsScrubbed {
    let (ledger, views) = (ledger.clone(), views.cloned());
    let run = move || -> io::Result<RowsScrubbed> {
        let mut sum = RowsScrubbed::default();
        let mut from: Option<RowPlace> = None;
        loop {
            let turn = scrub::scrub(&ledger, views.as_ref(), from, |_| Ok(()), || in_turns)?;
            sum.rows += turn.rows;
            sum.damaged += turn.damaged;
            sum.repaired += turn.repaired;
            sum.lost.extend(turn.lost);
            match turn.next {
                Some(next) => from = Some(next.to_string().parse().unwrap()),
                None => return Ok(sum),
            }
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap().unwrap()
}

/// What can be read is what was written; whether all of it can be.
async fn nothing_wrong_is_served(ledger: &Ledger) -> bool {
    let (mut whole, mut after) = (true, Cursor(0));
    let mut versions: BTreeMap<Key, u64> = BTreeMap::new();
    while after < ledger.head() {
        match ledger.read(after, 100) {
            Ok(page) => {
                for event in page {
                    let stream = u64::from_str_radix(&event.stream.as_str()[6..], 16).unwrap();
                    assert_eq!(event.body, text(stream, event.version), "{event:?}");
                    assert!(event.cursor > after);
                    after = event.cursor;
                    versions.insert(event.stream, event.version);
                }
            }
            Err(ReadError::Corrupt { .. } | ReadError::Storage(_)) => {
                whole = false;
                after = Cursor(after.0 + 1);
            }
            Err(error) => panic!("{error}"),
        }
    }
    for n in 0..STREAMS_COUNT {
        match ledger.read_stream(&key(n), 0, 100_000) {
            Ok(events) => {
                for (event, version) in events.iter().zip(1..) {
                    assert_eq!((event.version, &event.body[..]), (version, text(n, version).as_bytes()));
                }
            }
            Err(_) => whole = false,
        }
    }
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_or_missing_value_of_a_ledger_is_found_by_a_scrub_and_none_is_served() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 700).await;
    let path = config(dir.path()).file();
    let right = std::fs::read(&path).unwrap();
    let witness = std::fs::read(path.with_extension("witness")).unwrap();
    let mut random = fastrand::Rng::with_seed(21);
    for round in 0..30 {
        std::fs::write(&path, &right).unwrap();
        std::fs::write(path.with_extension("witness"), &witness).unwrap();
        let db = Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        let bit = random.usize(..);
        let table = ["events", "raft_log", "stream_positions", "stream_snapshots", "streams", "a missing event"][round % 6];
        {
            fn any<K: redb::Key + 'static>(
                table: &impl ReadableTable<K, &'static [u8]>,
                random: &mut fastrand::Rng,
            ) -> (Vec<u8>, Vec<u8>) {
                let count = table.iter().unwrap().count();
                let row = table.iter().unwrap().nth(random.usize(..count)).unwrap().unwrap();
                (K::as_bytes(&row.0.value()).as_ref().to_vec(), row.1.value().to_vec())
            }
            match table {
                "events" | "raft_log" | "a missing event" => {
                    let mut rows = txn.open_table(if table == "raft_log" { LOG } else { EVENTS }).unwrap();
                    let (key, value) = any(&rows, &mut random);
                    let key = u64::from_le_bytes(key.try_into().unwrap());
                    if table == "a missing event" {
                        rows.remove(key).unwrap();
                    } else {
                        rows.insert(key, flipped(&value, bit).as_slice()).unwrap();
                    }
                }
                "stream_positions" => {
                    let mut rows = txn.open_table(CHUNKS).unwrap();
                    let (key, value) = any(&rows, &mut random);
                    let key = <(&str, u64) as redb::Value>::from_bytes(&key);
                    rows.insert(key, flipped(&value, bit).as_slice()).unwrap();
                }
                _ => {
                    let mut rows = txn.open_table(if table == "streams" { STREAMS } else { SNAPSHOTS }).unwrap();
                    let (key, value) = any(&rows, &mut random);
                    rows.insert(std::str::from_utf8(&key).unwrap(), flipped(&value, bit).as_slice()).unwrap();
                }
            }
        }
        txn.commit().unwrap();
        drop(db);
        let ledger = match Ledger::open(config(dir.path())).await {
            Ok(ledger) => ledger,
            // What is needed at once is looked at when it is opened.
            Err(OpenError::Corrupt { .. } | OpenError::Storage { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        for in_turns in [false, true] {
            let found = scrubbed(&ledger, None, in_turns).await;
            assert!(found.damaged > 0 && !found.lost.is_empty(), "round {round}, {table}: {found:?}");
        }
        assert!(ledger.damages().count() > 0);
        let whole = nothing_wrong_is_served(&ledger).await;
        assert!(!whole || !table.contains("event"), "round {round}, {table}");
        ledger.stop().await;
    }
    std::fs::write(&path, &right).unwrap();
    std::fs::write(path.with_extension("witness"), &witness).unwrap();
    let ledger = Ledger::open(config(dir.path())).await.unwrap();
    for in_turns in [false, true] {
        let found = scrubbed(&ledger, None, in_turns).await;
        assert!(found.rows > 100 && found.damaged == 0, "{found:?}");
    }
    assert!(nothing_wrong_is_served(&ledger).await && ledger.damages().count() == 0);
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_anywhere_in_the_file_is_found_or_harmless_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 700).await;
    let path = config(dir.path()).file();
    let right = std::fs::read(&path).unwrap();
    let witness = std::fs::read(path.with_extension("witness")).unwrap();
    let mut random = dice();
    let (mut named, mut found_by_scrub, mut harmless) = (0, 0, 0);
    // `HIVEWARD_FLIPS=1000` for as many.
    let rounds = std::env::var("HIVEWARD_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for round in 0..rounds {
        let at = random.usize(..right.len());
        let mut bytes = right.clone();
        bytes[at] ^= 1 << random.u8(..8);
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(path.with_extension("witness"), &witness).unwrap();
        let Ok(ledger) = Ledger::open(config(dir.path())).await else {
            named += 1;
            continue;
        };
        let found = scrubbed(&ledger, None, false).await;
        let read = std::panic::AssertUnwindSafe(nothing_wrong_is_served(&ledger));
        let whole = futures_util::FutureExt::catch_unwind(read).await;
        match whole {
            Ok(true) => harmless += 1,
            _ => {
                assert!(found.damaged > 0, "round {round}, byte {at}: {whole:?} and {found:?}");
                found_by_scrub += 1;
            }
        }
        ledger.stop().await;
    }
    println!("{rounds} bits: {named} named at the start, {found_by_scrub} found by the scrub, {harmless} in unused parts");
    assert!(named + found_by_scrub > 3 && harmless > 3, "{named}, {found_by_scrub} and {harmless}");
}

// ---- views ----

const BODIES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("bodies");

/// Keeps every event's body by its cursor.
struct BodyView;

impl View for BodyView {
    fn name(&self) -> &'static str {
        "bodies"
    }
    fn format(&self) -> u32 {
        1
    }
    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(BODIES)?;
        Ok(())
    }
    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(BODIES, from, to)
    }
    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(BODIES, txn, |at, row| unpack::<String>(at, row).map(drop))
    }
    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut rows = txn.open_table(BODIES)?;
        for event in events {
            let at = u128::from(event.cursor.0);
            // As views do that add to what they have.
            if let Some(before) = rows.get(at - 1)? {
                unpack::<String>(at - 1, before.value())?;
            }
            rows.insert(at, pack(at, &String::from_utf8_lossy(&event.body))?.as_slice())?;
        }
        Ok(())
    }
}

async fn views(ledger: &Ledger, dir: &Path) -> Views {
    let views = Views::start(ledger, &dir.join("views.redb"), vec![Box::new(BodyView)]).await.unwrap();
    views.at_least(ledger.head(), Deadline::after(Duration::from_secs(20))).await.unwrap();
    views
}

fn shown(views: &Views, ledger: &Ledger) -> Result<Vec<String>, ViewError> {
    let rows = views.read()?.open_table(BODIES)?;
    let all = (1..=ledger.head().0).map(|at| {
        let row = rows.get(u128::from(at))?.ok_or("it is missing")?;
        Ok(unpack(u128::from(at), row.value())?)
    });
    all.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_rows_of_views_are_never_served_and_are_made_again_from_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 100).await;
    let ledger = Ledger::open(config(dir.path())).await.unwrap();
    let first = views(&ledger, dir.path()).await;
    let right = shown(&first, &ledger).unwrap();
    assert_eq!((right.len(), scrubbed(&ledger, Some(&first), true).await.damaged), (800, 0));
    let (mut stopped, mut random) = (first, fastrand::Rng::with_seed(3));
    for round in 0..8 {
        stopped.stop().await;
        drop(stopped);
        let db = Database::open(dir.path().join("views.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut rows = txn.open_table(BODIES).unwrap();
            for _ in 0..=round {
                let at = random.u128(1..=800);
                let value = rows.get(at).unwrap().unwrap().value().to_vec();
                rows.insert(at, flipped(&value, random.usize(..)).as_slice()).unwrap();
            }
        }
        txn.commit().unwrap();
        drop(db);
        let again = views(&ledger, dir.path()).await;
        assert!(shown(&again, &ledger).is_err(), "damage is an error and no data");
        let found = scrubbed(&ledger, Some(&again), false).await;
        assert!(found.damaged > 0 && found.repaired == found.damaged && found.lost.is_empty(), "{found:?}");
        assert_eq!((shown(&again, &ledger).unwrap(), ledger.damages().count()), (right.clone(), 0));
        stopped = again;
    }
    stopped.stop().await;
    drop(stopped);
    // Found by who takes in the next event, before any scrub.
    let db = Database::open(dir.path().join("views.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(BODIES).unwrap().insert(800, &b"\xff"[..]).unwrap();
    txn.commit().unwrap();
    drop(db);
    let last = views(&ledger, dir.path()).await;
    let life = ledger.claim(&key(0)).await.unwrap();
    let events = vec![NewEvent { kind: "Probed", format: 1, body: "one more".into() }];
    let (stream, incarnation, expected_version) = (key(0), life.incarnation, life.version);
    let append = Append { stream, incarnation, expected_version, events, snapshot: None, part: None };
    let appended = ledger.append(append).await.unwrap();
    last.at_least(appended.cursor, Deadline::after(Duration::from_secs(20))).await.unwrap();
    let mut wanted = right;
    wanted.push("one more".into());
    assert_eq!((shown(&last, &ledger).unwrap(), last.failure()), (wanted, None));
    last.stop().await;
    ledger.stop().await;
}

/// Makes a ledger with so many events of each stream, and views of them whose file nobody has open; gives what they show.
async fn with_views_at_rest(dir: &Path, each: u64) -> (Ledger, Vec<String>) {
    made(dir, each).await;
    let ledger = Ledger::open(config(dir)).await.unwrap();
    let first = views(&ledger, dir).await;
    let wanted = shown(&first, &ledger).unwrap();
    first.stop().await;
    (ledger, wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_anywhere_in_the_file_of_views_is_mended_or_harmless_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, wanted) = with_views_at_rest(dir.path(), 60).await;
    let path = dir.path().join("views.redb");
    let right = std::fs::read(&path).unwrap();
    let (inner, mut random) = (leading_to_rows(&right), dice());
    let (mut mended, mut harmless) = (0, 0);
    // `HIVEWARD_FLIPS=1000` for as many.
    let rounds = std::env::var("HIVEWARD_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    for round in 0..rounds {
        let at = match random.choice(&inner) {
            Some(page) if round % 4 > 0 => page + random.usize(..1024),
            _ => random.usize(..right.len()),
        };
        let mut bytes = right.clone();
        bytes[at] ^= 1 << random.u8(..8);
        std::fs::write(&path, &bytes).unwrap();
        let again = views(&ledger, dir.path()).await;
        let read = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shown(&again, &ledger)));
        let before = read();
        if let Ok(Ok(read)) = &before {
            assert!(*read == wanted, "round {round}, byte {at}: other rows were served");
        }
        scrubbed(&ledger, Some(&again), false).await;
        let after = read();
        assert!(matches!(&after, Ok(Ok(read)) if *read == wanted), "round {round}, byte {at}: {after:?}");
        if matches!(before, Ok(Ok(_))) {
            harmless += 1
        } else {
            mended += 1
        }
        again.stop().await;
    }
    println!("{rounds} bits: {mended} mended by the scrub, {harmless} in unused parts or mended at the start");
    assert!(mended > 0 && harmless > 0, "{mended} and {harmless}");
    ledger.stop().await;
}

/// A name of the file is a few bytes of it: a bit at random is hardly ever of one.
#[tokio::test(flavor = "multi_thread")]
async fn views_whose_tables_lost_their_names_are_made_again_and_not_shown_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, wanted) = with_views_at_rest(dir.path(), 20).await;
    let path = dir.path().join("views.redb");
    let right = std::fs::read(&path).unwrap();
    for name in ["bodies", "views_meta"] {
        let places: Vec<usize> = (0..right.len()).filter(|at| right[*at..].starts_with(name.as_bytes())).collect();
        assert!(!places.is_empty(), "{name}");
        // Of the table, of its view, and what is noted of either; some stand in pages that are used no more.
        for place in places {
            let mut bytes = right.clone();
            bytes[place] ^= 8;
            std::fs::write(&path, bytes).unwrap();
            let again = views(&ledger, dir.path()).await;
            assert!(shown(&again, &ledger).is_ok_and(|shown| shown == wanted), "{name} at {place}");
            again.stop().await;
        }
    }
    ledger.stop().await;
}
