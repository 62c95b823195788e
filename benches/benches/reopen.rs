//! How long a ledger takes to open after `kill -9`, and what that costs its commits.
//!
//! One line per figure; all of them as JSON in `target/bench/reopen.json`. `LEDGER_BENCH_DIR` chooses the disk and
//! `LEDGER_BENCH_MB` how many bytes of bodies there are (the files take three times as much), `LEDGER_BENCH_ONLY=ledger` leaves
//! the store alone. The file of the store alone is opened, too, with and without what it calls
//! quick repair: that is what the design of the files rests on.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hiveward_benches::Figures;
use hiveward_runtime::{
    id::Key,
    ledger::{Append, Ledger, LedgerConfig, NewEvent},
};
use redb::{Database, Durability, TableDefinition};

const CHILD: &str = "LEDGER_BENCH_CHILD";
const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

fn main() -> Result<()> {
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let mb = std::env::var("LEDGER_BENCH_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(1_024_u64);
    if let Some(what) = std::env::var_os(CHILD) {
        let dir = std::env::args().next_back().context("no directory")?;
        return child(&what.to_string_lossy(), Path::new(&dir), mb << 20);
    }
    let root = std::env::var_os("LEDGER_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let mut figures = Figures::new("reopen");
    let all = std::env::var_os("LEDGER_BENCH_ONLY").is_none_or(|only| only != "ledger");
    for quick in [false, true].into_iter().filter(|_| all) {
        store(&root, quick, mb, &mut figures)?;
    }
    ledger(&root, &mut figures)?;
    Ok(figures.write()?)
}

/// Has a process of its own write, and kills it in the middle of that; what it said last.
fn killed(what: &str, dir: &Path) -> Result<String> {
    let mut child = Command::new(std::env::current_exe()?).arg(dir).env(CHILD, what).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut said = String::new();
    for line in lines {
        said = line?;
        if said.starts_with("full") {
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(said)
}

fn child(what: &str, dir: &Path, bytes: u64) -> Result<()> {
    let say = |text: String| -> Result<()> {
        println!("{text}");
        Ok(std::io::stdout().flush()?)
    };
    match what {
        "ledger" => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(fill(dir, bytes))?;
            say("full".into())?;
            runtime.block_on(std::future::pending::<()>());
        }
        quick => {
            let db = Database::create(dir.join("store.redb"))?;
            let value = vec![42; 4_000];
            let commit = |from: u64, rows: u64, quick: bool| -> Result<()> {
                let mut txn = db.begin_write()?;
                txn.set_durability(Durability::Immediate)?;
                txn.set_quick_repair(quick);
                {
                    let mut table = txn.open_table(ROWS)?;
                    for row in from..from + rows {
                        table.insert(row, value.as_slice())?;
                    }
                }
                Ok(txn.commit()?)
            };
            let mut at = 0;
            while at * 4_096 < bytes {
                commit(at, 8_192, false)?;
                at += 8_192;
            }
            let mut took = Vec::new();
            for _ in 0..300 {
                let began = Instant::now();
                commit(at, 1, quick == "quick")?;
                took.push(began.elapsed());
                at += 1;
            }
            took.sort_unstable();
            say(format!("full {}", took[took.len() / 2].as_micros()))?;
            loop {
                std::thread::park();
            }
        }
    }
    Ok(())
}

fn store(root: &Path, quick: bool, mb: u64, figures: &mut Figures) -> Result<()> {
    let dir = tempfile::tempdir_in(root)?;
    let said = killed(if quick { "quick" } else { "slow" }, dir.path())?;
    let with = if quick { "with" } else { "without" };
    let commit: f64 = said.split_once(' ').context("no figure")?.1.parse()?;
    figures.row(&format!("store of {mb} MB, commit {with} quick repair, p50"), commit, "us", "");
    forget(&dir.path().join("store.redb"))?;
    let began = Instant::now();
    let db = Database::create(dir.path().join("store.redb"))?;
    figures.row(&format!("store of {mb} MB, open after kill -9 {with} quick repair"), ms(began.elapsed()), "ms", "");
    drop(db);
    Ok(())
}

fn ledger(root: &Path, figures: &mut Figures) -> Result<()> {
    let dir = tempfile::tempdir_in(root)?;
    killed("ledger", dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for entry in std::fs::read_dir(dir.path())? {
        forget(&entry?.path())?;
    }
    runtime.block_on(async {
        let began = Instant::now();
        let ledger = Ledger::open(config(dir.path())).await?;
        let took = began.elapsed();
        let mb = ledger.status().file_bytes >> 20;
        figures.row(&format!("ledger of {mb} MB, open after kill -9"), ms(took), "ms", "goal: under 5 s at 50 GB");
        if ledger.head().0 == 0 {
            bail!("the ledger is empty");
        }
        ledger.stop().await;
        drop(ledger);
        let began = Instant::now();
        let ledger = Ledger::open(config(dir.path())).await?;
        figures.row(&format!("ledger of {mb} MB, open after a stop"), ms(began.elapsed()), "ms", "");
        ledger.stop().await;
        Ok(())
    })
}

fn config(dir: &Path) -> LedgerConfig {
    // A large file is not read from end to end at start, and neither is this one.
    LedgerConfig { verify_bytes_max: 0, reserve_bytes: 0, ..LedgerConfig::new(dir) }
}

async fn fill(dir: &Path, bytes: u64) -> Result<()> {
    const AT_ONCE: u64 = 64;
    const BODY: usize = 16 << 10;
    let ledger = Ledger::open(config(dir)).await?;
    let each = bytes / AT_ONCE / BODY as u64;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..AT_ONCE {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            let stream = Key::trusted(format!("probe_{n:032x}"));
            let life = ledger.claim(&stream).await?;
            for version in 0..each {
                let append = Append {
                    stream: stream.clone(),
                    incarnation: life.incarnation,
                    expected_version: version,
                    events: vec![NewEvent { kind: "Probed", format: 1, body: vec![42; BODY].into() }],
                    snapshot: None,
                    part: None,
                };
                ledger.append(append).await?;
            }
            anyhow::Ok(())
        });
    }
    for ended in tasks.join_all().await {
        ended?;
    }
    Ok(())
}

/// The pages of a file that are in the machine's memory do not help who opens it.
fn forget(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path)?;
    file.sync_all()?;
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
