//! A week in fast-forward: tasks with bodies, agents and VMs that come and go, and retention that lets go of them, on one
//! node. Disk, memory and pages are looked at each "day"; after the first they must be flat.
//!
//! `HIVEWARD_BENCH_SECONDS` is how long a day takes (60), `HIVEWARD_BENCH_DIR` another disk. What is kept is scaled with it: a
//! day's tasks and no more.

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hiveward_actors::{
    agent::{ConnectorSpec, session::shim},
    client::{ControlPlane, NewAgent, NewHost, NewSwarm, NewTask, NewVm, NewWork, SwarmRef},
    node::{Node, NodeConfig},
    platform::LedgerRetention,
    retention::{Keep, OperationRetention, Retention, TaskRetention, TranscriptRetention, blobs::BlobRetention},
    task::search::{TaskFilter, TaskOrder},
};
use hiveward_benches::{Figures, ms, percentile, resident_mb};
use hiveward_runtime::{error::Refused, op::Op};
use serde_json::Value;

const DAYS: u32 = 7;
const SWARM: &str = "week";
const CLIENTS: usize = 16;
const PER_SUBMISSION: usize = 10;
/// Payloads of nothing to twice what is kept in the ledger itself.
const PAYLOAD_MAX: usize = 8 << 10;
/// Kept of what has ended.
const TASKS_KEPT: u64 = 20_000;
const EVENTS_KEPT: u64 = 200_000;
const PAGES_PER_DAY: u32 = 200;

fn op() -> Op {
    Op::internal(Duration::from_secs(60))
}

fn retention() -> Retention {
    let keep = |count_max| Keep { age: Duration::from_secs(3600), count_max, bytes_max: 8 << 30 };
    Retention {
        look_every: Duration::from_millis(500),
        tasks: TaskRetention(keep(TASKS_KEPT)),
        operations: OperationRetention(keep(TASKS_KEPT)),
        blobs: BlobRetention { look_every: Duration::from_secs(10), unnamed: Duration::from_secs(20) },
        transcripts: TranscriptRetention {
            keep: Duration::from_secs(5),
            look_every: Duration::from_secs(2),
            ..TranscriptRetention::default()
        },
    }
}

fn main() -> Result<ExitCode> {
    // The node here starts this very binary to hold its programs. Without this each of them would be another bench.
    if std::env::args().nth(1).as_deref() == Some("shim") {
        return Ok(shim::main());
    }
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(week()).map(|()| ExitCode::SUCCESS)
}

async fn week() -> Result<()> {
    let seconds = std::env::var("HIVEWARD_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let mut figures = Figures::new("week");
    let ledger = LedgerRetention { events_max: EVENTS_KEPT, ..LedgerRetention::default() };
    let data = dir.path().join("node");
    let config = || NodeConfig { default_agents: 0, retention: retention(), ledger, ..NodeConfig::new(&data) };
    let node = Node::start(config()).await?;
    let control = node.control();
    prepare(&control).await?;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut busy = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        busy.spawn(tasks(control.clone(), client, stop.clone(), done.clone()));
    }
    busy.spawn(agents(control.clone(), stop.clone()));
    busy.spawn(machines(control.clone(), stop.clone()));
    let mut days = Vec::new();
    for day in 1..=DAYS {
        let mut pages = Vec::new();
        for _ in 0..PAGES_PER_DAY {
            tokio::time::sleep(Duration::from_secs(seconds) / PAGES_PER_DAY).await;
            let at = Instant::now();
            control.tasks(&TaskFilter::default(), TaskOrder::default(), None, 50)?;
            pages.push(at.elapsed());
        }
        let (memory, disk) = (resident_mb()?, bytes_below(&data) as f64 / 1e6);
        figures.row(&format!("day {day}: tasks so far"), done.load(Ordering::Relaxed) as f64, "", "");
        figures.row(&format!("day {day}: memory, with this bench"), memory, "MB", "");
        figures.row(&format!("day {day}: disk"), disk, "MB", "");
        figures.row(&format!("day {day}: a page of 50 tasks, p99"), ms(percentile(&mut pages, 0.99)), "ms", "under 50");
        days.push((memory, disk));
    }
    stop.store(true, Ordering::Release);
    while let Some(ended) = busy.join_next().await {
        ended??;
    }
    let (memory, disk) = days.last().context("no day")?;
    let second = days.get(1).context("one day only")?;
    figures.row("memory on the last day, of the second", memory / second.0, "times", "flat: 1");
    figures.row("disk on the last day, of the second", disk / second.1, "times", "flat: 1");
    node.stop(Duration::from_secs(60)).await;
    let at = Instant::now();
    let node = Node::start(config()).await?;
    figures.row("started again in", at.elapsed().as_secs_f64(), "s", "at most 5");
    node.stop(Duration::from_secs(60)).await;
    Ok(figures.write()?)
}

async fn prepare(control: &ControlPlane) -> Result<()> {
    control.create_swarm(op(), NewSwarm { name: SWARM.into(), ..NewSwarm::default() }).await?;
    for n in 0..4 {
        let connector = if n == 0 { ConnectorSpec::Command } else { ConnectorSpec::Noop };
        let swarm = Some(SwarmRef::Name(SWARM.into()));
        let new = NewAgent { swarm, connector, max_concurrent_tasks: 64, ..NewAgent::command(format!("agent-{n}")) };
        control.create_agent(op(), new).await?;
    }
    let host = NewHost { name: "host".into(), uri: "simulated://week?cpus=64".into(), ..NewHost::default() };
    control.register_host(op(), host).await?;
    Ok(())
}

/// One client: batches of tasks with payloads, each under an operation id, and now and then a program that gives back what it
/// was given. Who is told to come again does.
async fn tasks(control: ControlPlane, client: usize, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Result<()> {
    let mut dice = fastrand::Rng::with_seed(client as u64);
    for n in 0_u64.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let program = n.is_multiple_of(50);
        let all: Vec<NewTask> = (0..if program { 1 } else { PER_SUBMISSION })
            .map(|_| {
                let body = "wörk ".repeat(dice.usize(0..=PAYLOAD_MAX / 6));
                let work = if program {
                    NewWork::Command { argv: vec!["cat".into()], env: Vec::new(), cwd: None, stdin: Some(body.into_bytes()) }
                } else {
                    NewWork::Kind { kind: "noop".into(), payload: Some(Value::String(body)) }
                };
                NewTask { swarm: Some(SwarmRef::Name(SWARM.into())), ..NewTask::new(work) }
            })
            .collect();
        let count = all.len() as u64;
        let op = Op { operation: Some(format!("{client}-{n}").into()), ..op() };
        match control.submit_tasks(op, all).await {
            Ok(_) => drop(done.fetch_add(count, Ordering::Relaxed)),
            Err(refused) => wait_or(refused).await?,
        }
    }
    Ok(())
}

async fn wait_or(refused: Refused) -> Result<()> {
    if !refused.code.retryable() {
        return Err(refused.into());
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

async fn agents(control: ControlPlane, stop: Arc<AtomicBool>) -> Result<()> {
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let swarm = Some(SwarmRef::Name(SWARM.into()));
        let new = NewAgent { swarm, connector: ConnectorSpec::Noop, ..NewAgent::command(format!("passing-{n}")) };
        let agent = control.create_agent(op(), new).await?.value.spec.id;
        tokio::time::sleep(Duration::from_millis(200)).await;
        control.remove_agent(op(), agent, true).await?;
    }
    Ok(())
}

async fn machines(control: ControlPlane, stop: Arc<AtomicBool>) -> Result<()> {
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let vm = match control.create_vm(op(), NewVm::new(format!("vm-{n}"), "debian-12", 1, 1 << 30)).await {
            Ok(made) => made.value.spec.id,
            // The host was not reached yet.
            Err(_) if n < 5 => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            Err(refused) => return Err(refused.into()),
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        control.remove_vm(op(), vm, true).await?;
    }
    Ok(())
}

/// What files take, holes not counted.
fn bytes_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // What has gone meanwhile takes nothing.
        let Ok(meta) = entry.metadata() else { continue };
        bytes += if meta.is_dir() { bytes_below(&entry.path()) } else { meta.blocks() * 512 };
    }
    bytes
}
