//! What the ledger promises when the disk, the file or the process fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hiveward_runtime::{
    clock::Deadline,
    id::Key,
    ledger::{Append, AppendError, Backend, Cursor, DiskState, Event, Ledger, LedgerConfig, NewEvent, OpenError, StreamSnapshot},
};
use parking_lot::Mutex;
use redb::StorageBackend;

fn key(n: u64) -> Key {
    format!("probe_{n:032x}").parse().unwrap()
}

fn body(stream: u64, version: u64) -> String {
    format!("event {version} of {stream} {}", "x".repeat((version % 200) as usize))
}

fn append(stream: u64, incarnation: u64, expected_version: u64) -> Append {
    let body = body(stream, expected_version + 1);
    let snapshot = (expected_version % 16 == 15)
        .then(|| StreamSnapshot { format: 1, body: format!("state at {}", expected_version + 1).into() });
    Append {
        stream: key(stream),
        incarnation,
        expected_version,
        events: vec![NewEvent { kind: "Probed", format: 1, body: body.into() }],
        snapshot,
        part: None,
    }
}

fn config(dir: &Path) -> LedgerConfig {
    LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(dir) }
}

/// Every event there is, and per stream what a life would find; panics if anything is not as it was written.
async fn everything(ledger: &Ledger) -> (Vec<Event>, BTreeMap<Key, u64>) {
    let mut events = Vec::new();
    let mut versions = BTreeMap::new();
    loop {
        let page = ledger.read(Cursor(events.len() as u64), 1_000).unwrap();
        if page.is_empty() {
            break;
        }
        for event in page {
            assert_eq!(event.cursor.0, events.len() as u64 + 1);
            let version = versions.entry(event.stream.clone()).or_insert(0);
            *version += 1;
            assert_eq!(event.version, *version);
            let stream = u64::from_str_radix(&event.stream.as_str()[6..], 16).unwrap();
            assert_eq!(event.body, body(stream, event.version));
            events.push(event);
        }
    }
    assert_eq!(ledger.head().0, events.len() as u64);
    for (stream, version) in &versions {
        let life = ledger.claim(stream).await.unwrap();
        assert_eq!(life.version, *version);
        let from = life.snapshot.as_ref().map_or(0, |(version, snapshot)| {
            assert_eq!(snapshot.body, format!("state at {version}"));
            *version
        });
        assert_eq!(from, version - version % 16);
        assert_eq!(life.events.iter().map(|event| event.version).collect::<Vec<_>>(), (from + 1..=*version).collect::<Vec<_>>());
    }
    (events, versions)
}

/// Appends to some streams at once until told to stop or refused; gives what was acknowledged.
async fn load(ledger: &Ledger, streams: u64, stop: Arc<AtomicBool>, each: u64) -> BTreeMap<Key, u64> {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..streams {
        let (ledger, stop) = (ledger.clone(), stop.clone());
        tasks.spawn(async move {
            let Ok(life) = ledger.claim(&key(n)).await else { return (key(n), 0) };
            let mut version = life.version;
            for _ in 0..each {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                match ledger.append(append(n, life.incarnation, version)).await {
                    Ok(appended) => version = appended.version,
                    Err(_) => break,
                }
            }
            (key(n), version)
        });
    }
    tasks.join_all().await.into_iter().filter(|(_, version)| *version > 0).collect()
}

fn at_least(found: &BTreeMap<Key, u64>, acknowledged: &BTreeMap<Key, u64>) {
    for (stream, version) in acknowledged {
        let found = found.get(stream).copied().unwrap_or(0);
        assert!(found >= *version, "{stream}: version {version} was acknowledged, {found} is there");
    }
}

// ---- kill -9 ----

const CHILD_DIR: &str = "HIVEWARD_TEST_LEDGER_DIR";

/// Not a test of its own: the process that the next one kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let ledger = Ledger::open(config(Path::new(&dir))).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            let life = ledger.claim(&key(n)).await.unwrap();
            let mut version = life.version;
            loop {
                version = ledger.append(append(n, life.incarnation, version)).await.unwrap().version;
                let mut out = io::stdout().lock();
                writeln!(out, "acknowledged {n} {version}").unwrap();
                out.flush().unwrap();
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_at_any_instant_loses_no_acknowledged_event() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<Key, u64> = BTreeMap::new();
    let mut random = fastrand::Rng::with_seed(8812);
    for _ in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed after so many acknowledgements, in the middle of whatever it does then.
        let lines_max = random.usize(1..400);
        let mut lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((stream, version)) = line.split_once("acknowledged ").and_then(|(_, said)| said.split_once(' ')) else {
                continue;
            };
            let (Ok(stream), Ok(version)) = (stream.parse(), version.parse::<u64>()) else { continue };
            let newest = acknowledged.entry(key(stream)).or_default();
            *newest = (*newest).max(version);
            lines += 1;
            if lines == lines_max {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lines >= lines_max, "the child ended by itself after {lines} lines");
    }
    let ledger = Ledger::open(config(dir.path())).await.unwrap();
    let (_, versions) = everything(&ledger).await;
    at_least(&versions, &acknowledged);
    ledger.stop().await;
}

// ---- a disk that fails, and a power cut ----

/// A disk in memory: what was written and not synced is lost, or half of it, when the power is cut.
#[derive(Debug, Default)]
struct Platter {
    kept: Vec<u8>,
    seen: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Faults {
    /// By the name of the file.
    platters: Mutex<BTreeMap<PathBuf, Platter>>,
    /// Writes and syncs until one fails; 0 for never.
    fail_in: AtomicU64,
    failing: AtomicBool,
    full: AtomicBool,
}

impl Faults {
    fn step(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.fail_in.load(Ordering::Relaxed) > 0 && self.fail_in.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.failing.store(true, Ordering::Relaxed);
        }
        if self.failing.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    /// What a power cut leaves: all that was synced, and of the rest each write whole, torn or not at all.
    fn cut(&self, random: &mut fastrand::Rng) {
        for platter in self.platters.lock().values_mut() {
            for (offset, data) in std::mem::take(&mut platter.unsynced) {
                let n = match random.u8(0..3) {
                    0 => data.len(),
                    1 => random.usize(0..=data.len()) / 512 * 512,
                    _ => 0,
                };
                let end = offset as usize + n;
                if platter.kept.len() < end {
                    platter.kept.resize(end, 0);
                }
                platter.kept[offset as usize..end].copy_from_slice(&data[..n]);
            }
            let len = platter.seen.len().max(platter.kept.len());
            platter.kept.resize(len, 0);
            platter.seen = platter.kept.clone();
        }
        self.failing.store(false, Ordering::Relaxed);
        self.fail_in.store(0, Ordering::Relaxed);
    }
}

/// One opening of the faulty disk.
#[derive(Debug)]
struct Faulty(Arc<Faults>, PathBuf);

impl Faulty {
    fn with<T>(&self, run: impl FnOnce(&mut Platter) -> T) -> T {
        run(self.0.platters.lock().entry(self.1.clone()).or_default())
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|platter| platter.seen.len() as u64))
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|platter| {
            let bytes = platter.seen.get(offset as usize..offset as usize + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.step()?;
        self.with(|platter| platter.seen.resize(len as usize, 0));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.step()?;
        self.with(|platter| {
            platter.unsynced.clear();
            platter.kept = platter.seen.clone();
        });
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.step()?;
        self.with(|platter| {
            platter.seen[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            platter.unsynced.push((offset, data.to_vec()));
        });
        Ok(())
    }
}

fn faulty(dir: &Path, faults: &Arc<Faults>) -> LedgerConfig {
    let faults = faults.clone();
    LedgerConfig { backend: Backend::new(move |path, _| Ok(Box::new(Faulty(faults.clone(), path.to_owned())))), ..config(dir) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_write_loses_no_acknowledged_event() {
    for seed in 0..25 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::new(Faults::default());
        let mut acknowledged = BTreeMap::new();
        for round in 0..3 {
            let ledger = Ledger::open(faulty(dir.path(), &faults))
                .await
                .unwrap_or_else(|error| panic!("seed {seed} round {round}: {error}"));
            let (_, versions) = everything(&ledger).await;
            at_least(&versions, &acknowledged);
            faults.fail_in.store(random.u64(1..300), Ordering::Relaxed);
            let some = load(&ledger, 6, Arc::default(), 200).await;
            acknowledged.extend(some);
            // The dead disk refuses what a stop would write; then the power is cut.
            faults.failing.store(true, Ordering::Relaxed);
            ledger.stop().await;
            drop(ledger);
            faults.cut(&mut random);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_error_of_the_disk_nothing_is_acknowledged_until_the_store_was_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let ledger = Ledger::open(faulty(dir.path(), &faults)).await.unwrap();
    let life = ledger.claim(&key(1)).await.unwrap();
    ledger.append(append(1, life.incarnation, 0)).await.unwrap();
    let epoch = ledger.leadership().borrow().epoch;
    faults.failing.store(true, Ordering::Relaxed);
    let error = ledger.append(append(1, life.incarnation, 1)).await.unwrap_err();
    assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
    let error = ledger.append(append(1, life.incarnation, 1)).await.unwrap_err();
    assert!(matches!(error, AppendError::Failed { .. }), "{error}");
    assert!(matches!(ledger.status().disk, DiskState::Failed { .. }));
    // The newest events are still read.
    assert_eq!(ledger.read(Cursor(0), 10).unwrap().len(), 1);
    faults.failing.store(false, Ordering::Relaxed);
    let deadline = Deadline::after(Duration::from_secs(20));
    while ledger.status().disk != DiskState::Ok {
        assert!(!deadline.passed(), "it does not come back: {:?}", ledger.status());
        tokio::task::yield_now().await;
    }
    assert!(ledger.leadership().borrow().epoch > epoch, "it was opened anew");
    let life = ledger.claim(&key(1)).await.unwrap();
    ledger.append(append(1, life.incarnation, life.version)).await.unwrap();
    everything(&ledger).await;
    ledger.stop().await;
}

// ---- damage ----

enum Damage {
    Flip { at: u64, bit: u8 },
    Zero { page: u64 },
    Truncate { to: u64 },
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_the_file_is_named_or_harmless_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    let ledger = Ledger::open(config(&made)).await.unwrap();
    load(&ledger, 20, Arc::default(), 60).await;
    let (events, versions) = everything(&ledger).await;
    ledger.stop().await;
    drop(ledger);
    let file = config(&made).file();
    let len = std::fs::metadata(&file).unwrap().len();
    let mut random = fastrand::Rng::with_seed(8812);
    let (mut named, mut harmless) = (0, 0);
    for n in 0..200 {
        let damage = match n % 10 {
            0 => Damage::Truncate { to: random.u64(0..len) },
            1..=3 => Damage::Zero { page: random.u64(0..len / 4096) },
            _ => Damage::Flip { at: random.u64(0..len), bit: random.u8(0..8) },
        };
        let damaged = dir.path().join("damaged");
        std::fs::create_dir_all(&damaged).unwrap();
        for name in ["ledger.redb", "ledger.witness"] {
            std::fs::copy(made.join(name), damaged.join(name)).unwrap();
        }
        let copy = File::options().read(true).write(true).open(config(&damaged).file()).unwrap();
        let what = match damage {
            Damage::Flip { at, bit } => {
                let mut byte = [0];
                copy.read_exact_at(&mut byte, at).unwrap();
                byte[0] ^= 1 << bit;
                copy.write_all_at(&byte, at).unwrap();
                format!("bit {bit} of byte {at} flipped")
            }
            Damage::Zero { page } => {
                copy.write_all_at(&[0; 4096], page * 4096).unwrap();
                format!("page {page} zeroed")
            }
            Damage::Truncate { to } => {
                copy.set_len(to).unwrap();
                format!("cut to {to} bytes")
            }
        };
        drop(copy);
        match Ledger::open(config(&damaged)).await {
            Err(OpenError::Corrupt { path, .. }) => {
                assert_eq!(path, config(&damaged).file());
                named += 1;
            }
            Err(other) => panic!("{what}: {other:?}"),
            Ok(ledger) => {
                let found = everything(&ledger).await;
                assert_eq!(found, (events.clone(), versions.clone()), "{what}");
                harmless += 1;
                ledger.stop().await;
            }
        }
        std::fs::remove_dir_all(&damaged).unwrap();
    }
    println!("{named} named, {harmless} in unused parts of the file");
    assert!(named >= 50, "only {named} of 200 were in used parts");
}

// ---- a full disk ----

/// Is counted where `deploy/count-skipped.sh` runs the tests.
fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
    if let Some(list) = std::env::var_os("HIVEWARD_SKIPPED") {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let mut list = std::fs::File::options().append(true).open(list).unwrap();
        std::io::Write::write_all(&mut list, format!("{test}: {why}\n").as_bytes()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_writes_are_refused_reads_go_on_and_it_recovers_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(dir.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skipped("a small file system cannot be mounted here (not root?), so a really full disk was not tried");
    }
    let _unmount = Unmount(dir.path().to_owned());
    let ledger = Ledger::open(LedgerConfig { reserve_bytes: 4 << 20, ..config(&dir.path().join("ledger")) }).await.unwrap();
    let life = ledger.claim(&key(1)).await.unwrap();
    let mut version = ledger.append(append(1, life.incarnation, 0)).await.unwrap().version;
    for round in 0..3 {
        // Somebody else takes all the room there is, between two looks at it.
        let ballast = dir.path().join("ballast");
        let mut file = File::create(&ballast).unwrap();
        while file.write_all(&[0; 65_536]).is_ok() {}
        drop(file);
        let deadline = Deadline::after(Duration::from_secs(20));
        let refused = loop {
            assert!(!deadline.passed(), "it is never refused");
            match ledger.append(append(1, life.incarnation, version)).await {
                Ok(appended) => version = appended.version,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::DiskFull { .. }), "round {round}: {refused}");
        assert!(matches!(ledger.status().disk, DiskState::Full { .. }));
        assert_eq!(ledger.read(Cursor(0), usize::MAX).unwrap().len() as u64, version);
        std::fs::remove_file(&ballast).unwrap();
        let deadline = Deadline::after(Duration::from_secs(20));
        loop {
            match ledger.append(append(1, life.incarnation, version)).await {
                Ok(appended) => break version = appended.version,
                Err(AppendError::DiskFull { .. }) if !deadline.passed() => tokio::task::yield_now().await,
                Err(error) => panic!("round {round}: {error}"),
            }
        }
    }
    everything(&ledger).await;
    ledger.stop().await;
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
