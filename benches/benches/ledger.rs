//! What the ledger costs: appends per second and their latency, beside what this machine's disk can do at all.
//!
//! One line per figure; all of them as JSON in `target/bench/ledger.json`. `LEDGER_BENCH_DIR` chooses the disk.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hiveward_benches::{Figures, fdatasync_per_second};
use hiveward_runtime::{
    id::Key,
    ledger::{Append, Cursor, Ledger, LedgerConfig, NewEvent, StreamSnapshot},
};

const EVENT_BYTES: usize = 150;
const RUN: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    // `cargo test` runs benches too, with this argument; they are not timed tests.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let root = std::env::var_os("LEDGER_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let mut figures = Figures::new("ledger");
    disk(&root, &mut figures)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(ledger(&root, &mut figures))?;
    disk(&root, &mut figures)?;
    Ok(figures.write()?)
}

fn disk(root: &Path, figures: &mut Figures) -> Result<()> {
    figures.row("this disk: fdatasync of 4 KiB appended", fdatasync_per_second(root, Duration::from_secs(1))?, "1/s", "");
    Ok(())
}

fn stream(n: usize) -> Key {
    Key::trusted(format!("probe_{n:032x}"))
}

fn event() -> NewEvent {
    NewEvent { kind: "Probed", format: 1, body: vec![42; EVENT_BYTES].into() }
}

async fn ledger(root: &Path, figures: &mut Figures) -> Result<()> {
    let dir = tempfile::tempdir_in(root)?;
    let began = Instant::now();
    let ledger = Ledger::open(LedgerConfig::new(dir.path())).await?;
    figures.row("open, empty", ms(began.elapsed()), "ms", "");

    alone(&ledger, figures).await?;
    for (appenders, events_each, name) in [
        (16, 1, "append, 16 at once"),
        (256, 1, "append, 256 at once"),
        (2_000, 1, "append, 2,000 at once"),
        (2_000, 4, "append of 4 events, 2,000 at once"),
    ] {
        many(&ledger, appenders, events_each, name, figures).await?;
    }
    replay(&ledger, figures).await?;

    let began = Instant::now();
    let mut at = Cursor(0);
    let mut events = 0_u64;
    while began.elapsed() < RUN {
        let page = ledger.read(at, 4_096)?;
        let Some(last) = page.last() else { break };
        events += page.len() as u64;
        at = last.cursor;
    }
    figures.row("read from disk, pages of 4,096", events as f64 / began.elapsed().as_secs_f64(), "events/s", "");

    let bytes = ledger.status().file_bytes;
    figures.row("file per event", bytes as f64 / ledger.head().0 as f64, "bytes", "");
    ledger.stop().await;
    drop(ledger);
    let began = Instant::now();
    let ledger = Ledger::open(LedgerConfig::new(dir.path())).await?;
    figures.row(&format!("open after a stop, {} MB", bytes / 1_000_000), ms(began.elapsed()), "ms", "");
    ledger.stop().await;
    Ok(())
}

async fn alone(ledger: &Ledger, figures: &mut Figures) -> Result<()> {
    let stream = stream(1_000_000);
    let life = ledger.claim(&stream).await?;
    let mut took = Vec::new();
    let began = Instant::now();
    while began.elapsed() < RUN {
        let at = Instant::now();
        let expected_version = took.len() as u64;
        ledger
            .append(Append {
                stream: stream.clone(),
                incarnation: life.incarnation,
                expected_version,
                events: vec![event()],
                snapshot: None,
                part: None,
            })
            .await?;
        took.push(at.elapsed());
    }
    took.sort_unstable();
    figures.row("append alone, p50", us(took[took.len() / 2]), "us", "goal: one fsync + 150 us");
    figures.row("append alone, p99", us(took[took.len() * 99 / 100]), "us", "");
    Ok(())
}

async fn many(ledger: &Ledger, appenders: usize, events_each: usize, name: &str, figures: &mut Figures) -> Result<()> {
    let (stop, appended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    let cpu = cpu_seconds()?;
    let began = Instant::now();
    for n in 0..appenders {
        let (ledger, stop, appended) = (ledger.clone(), stop.clone(), appended.clone());
        tasks.spawn(async move {
            let stream = stream(n);
            let life = ledger.claim(&stream).await?;
            let mut version = life.version;
            let mut took = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let events = (0..events_each).map(|_| event()).collect();
                let at = Instant::now();
                let snapshot =
                    (version % 128 < events_each as u64).then(|| StreamSnapshot { format: 1, body: vec![1; 500].into() });
                let append = Append {
                    stream: stream.clone(),
                    incarnation: life.incarnation,
                    expected_version: version,
                    events,
                    snapshot,
                    part: None,
                };
                version = ledger.append(append).await?.version;
                took.push(at.elapsed());
                appended.fetch_add(events_each as u64, Ordering::Relaxed);
            }
            anyhow::Ok(took)
        });
    }
    tokio::time::sleep(RUN).await;
    let events = appended.load(Ordering::Relaxed) as f64;
    let elapsed = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds()? - cpu;
    stop.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    while let Some(task) = tasks.join_next().await {
        took.extend(task??);
    }
    took.sort_unstable();
    figures.row(name, events / elapsed, "events/s", "goal with many: 60,000");
    figures.row(&format!("{name}, p99"), us(took[took.len() * 99 / 100]), "us", "");
    figures.row(&format!("{name}, processor time"), cpu / events * 1e6, "us/event", "");
    Ok(())
}

/// A claim of a stream with some hundred events after its snapshot, as an entity does when it starts again.
async fn replay(ledger: &Ledger, figures: &mut Figures) -> Result<()> {
    let mut took = Vec::new();
    let mut events = 0;
    for n in 0..1_000 {
        let at = Instant::now();
        let life = ledger.claim(&stream(n)).await?;
        took.push(at.elapsed());
        events += life.events.len();
    }
    took.sort_unstable();
    figures.row(&format!("claim with {} events on average, p50", events / took.len()), us(took[took.len() / 2]), "us", "");
    figures.row("claim, p99", us(took[took.len() * 99 / 100]), "us", "");
    Ok(())
}

fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
    // User and system time in ticks of 10 ms.
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
