//! A swarm in which a million tasks wait: what they take in memory, how long others are held up while they come and are
//! written down, and how soon the node is back after `kill -9`.
//!
//! `HIVEWARD_BENCH_TASKS` is another number of tasks, `HIVEWARD_BENCH_DIR` another disk. The node is a process of its own,
//! killed and started again by this one; another swarm submits one small task after the other meanwhile.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hiveward_actors::{
    client::{ControlPlane, NewAgent, NewSwarm, NewTask, NewWork, SwarmRef},
    node::{Node, NodeConfig},
};
use hiveward_benches::{Figures, percentile, resident_mb_of};
use hiveward_catalogue::agent::spec::ConnectorSpec;
use hiveward_runtime::op::Op;
use serde_json::{Value, json};

const CHILD: &str = "HIVEWARD_BENCH_CHILD";
const TASKS: usize = 1_000_000;
const PER_SUBMISSION: usize = 500;
const AT_ONCE: usize = 4;
/// Payloads of 0 to 4 KiB, a hundred megabytes of a million.
const PAYLOAD_MAX: usize = 4_000;
const LARGE: &str = "large";
const OTHER: &str = "other";
/// Between two tasks of the other swarm.
const PACE: Duration = Duration::from_millis(5);

fn op() -> Op {
    Op::internal(Duration::from_secs(120))
}

fn tasks() -> usize {
    std::env::var("HIVEWARD_BENCH_TASKS").ok().and_then(|text| text.parse().ok()).unwrap_or(TASKS)
}

fn main() -> Result<()> {
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    if let Some(what) = std::env::var_os(CHILD) {
        let dir = std::env::args().next_back().context("no directory")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        return runtime.block_on(child(&what.to_string_lossy(), Path::new(&dir)));
    }
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let mut figures = Figures::new("waiting");
    let (mut first, mut lines) = start("fill", dir.path())?;
    let filled = said(&mut lines)?;
    let mb = |figures: &mut Figures, what: &str, pid: u32, compare: &str| -> Result<()> {
        figures.row(what, resident_mb_of(&pid.to_string())?, "MB", compare);
        Ok(())
    };
    for (what, field, unit, compare) in [
        ("tasks that wait", "tasks", "", ""),
        ("their payloads", "payload_mb", "MB", "100 of a million"),
        ("submitted and durable", "per_second", "1/s", ""),
        ("another swarm's submission meanwhile, p50", "other_p50_ms", "ms", ""),
        ("another swarm's submission meanwhile, p99", "other_p99_ms", "ms", ""),
        ("another swarm's submission meanwhile, longest", "other_max_ms", "ms", "see below: of an append, not of a snapshot"),
        ("the same, nothing else going on, longest", "quiet_max_ms", "ms", "what this machine does by itself"),
        ("written down once more: it took", "snapshot_s", "s", ""),
        ("another swarm's submission during that, longest", "snapshot_max_ms", "ms", "at most 50"),
    ] {
        figures.row(what, filled[field].as_f64().context(field)?, unit, compare);
    }
    mb(&mut figures, "the node with them", first.id(), "")?;
    first.kill()?;
    first.wait()?;
    let began = Instant::now();
    let (mut second, mut lines) = start("open", dir.path())?;
    let opened = said(&mut lines)?;
    figures.row("after kill -9: a submission to that swarm is answered", began.elapsed().as_secs_f64(), "s", "at most 10");
    figures.row("tasks that wait after it", opened["tasks"].as_f64().context("tasks")?, "", "as before, and one");
    mb(&mut figures, "the node after that", second.id(), "")?;
    second.kill()?;
    second.wait()?;
    Ok(figures.write()?)
}

fn start(what: &str, dir: &Path) -> Result<(Child, BufReader<ChildStdout>)> {
    let mut child = Command::new(std::env::current_exe()?).arg(dir).env(CHILD, what).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?);
    Ok((child, lines))
}

fn said(lines: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    if line.is_empty() {
        bail!("the node ended before it said anything");
    }
    Ok(serde_json::from_str(&line)?)
}

fn say(what: &Value) -> Result<()> {
    println!("{what}");
    Ok(std::io::stdout().flush()?)
}

fn to(swarm: &str, payload: Option<Value>) -> NewTask {
    // Nobody has the skill: they wait.
    let skills = if swarm == LARGE { vec!["nobodys".into()] } else { Vec::new() };
    let work = NewWork::Kind { kind: "noop".into(), payload };
    NewTask { swarm: Some(SwarmRef::Name(swarm.into())), skills, ..NewTask::new(work) }
}

/// How long each submission to the other swarm took, until it is stopped.
async fn others(control: ControlPlane, stop: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let at = Instant::now();
        control.submit_tasks(op(), vec![to(OTHER, None)]).await?;
        times.push(at.elapsed());
        tokio::time::sleep(PACE).await;
    }
    Ok(times)
}

/// What others wait for while something is done.
async fn beside<T>(control: &ControlPlane, done: impl Future<Output = Result<T>>) -> Result<(T, Vec<Duration>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let meanwhile = tokio::spawn(others(control.clone(), stop.clone()));
    let value = done.await?;
    stop.store(true, Ordering::Release);
    Ok((value, meanwhile.await??))
}

async fn child(what: &str, dir: &Path) -> Result<()> {
    let node = Node::start(NodeConfig { default_agents: 0, ..NodeConfig::new(dir.join("node")) }).await?;
    let control = node.control();
    if what == "open" {
        control.submit_tasks(op(), vec![to(LARGE, None)]).await?;
        say(&json!({ "tasks": waiting(&control).await? }))?;
    } else {
        fill(&control).await?;
    }
    // Until it is killed.
    std::future::pending::<()>().await;
    Ok(())
}

async fn observed(control: &ControlPlane) -> Result<Value> {
    let swarm = control.swarm_named(LARGE)?.context("no swarm")?.spec.id;
    Ok(control.tree().observe(&swarm.to_string(), op().deadline).await?)
}

async fn waiting(control: &ControlPlane) -> Result<u64> {
    let seen = observed(control).await?;
    seen["liveTasks"].as_u64().with_context(|| format!("{seen}"))
}

async fn fill(control: &ControlPlane) -> Result<()> {
    // And those that come and go.
    let queued_max = u32::try_from(tasks() + 2 * AT_ONCE * PER_SUBMISSION)?;
    control.create_swarm(op(), NewSwarm { name: LARGE.into(), queued_max, ..NewSwarm::default() }).await?;
    control.create_swarm(op(), NewSwarm { name: OTHER.into(), ..NewSwarm::default() }).await?;
    let agent = NewAgent {
        swarm: Some(SwarmRef::Name(OTHER.into())),
        connector: ConnectorSpec::Noop,
        max_concurrent_tasks: 64,
        ..NewAgent::command("noop")
    };
    control.create_agent(op(), agent).await?;
    let (_, mut quiet) = beside(control, async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    })
    .await?;
    let (began, mut dice, mut payload_bytes) = (Instant::now(), fastrand::Rng::with_seed(1), 0);
    let submitting = async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..tasks().div_ceil(PER_SUBMISSION) {
            while clients.len() >= AT_ONCE {
                clients.join_next().await.context("none")???;
            }
            let all: Vec<NewTask> = (0..PER_SUBMISSION)
                .map(|_| {
                    // Most are small: the fortieth part of the largest on average.
                    let length = (dice.f64().powi(39) * PAYLOAD_MAX as f64) as usize;
                    payload_bytes += length;
                    to(LARGE, Some(Value::String("p".repeat(length))))
                })
                .collect();
            let control = control.clone();
            clients.spawn(async move { control.submit_tasks(op(), all).await.map(drop).map_err(anyhow::Error::from) });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    };
    let ((), mut times) = beside(control, submitting).await?;
    let took = began.elapsed();
    // So much more comes and goes that it is written down: twice what it takes itself.
    while observed(control).await?["writingDown"] != true {
        let mut clients = tokio::task::JoinSet::new();
        (0..AT_ONCE).for_each(|_| drop(clients.spawn(come_and_go(control.clone()))));
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
    }
    let at = Instant::now();
    let writing = async {
        while observed(control).await?["writingDown"] == true {
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    };
    let ((), mut during) = beside(control, writing).await?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    say(&json!({
        "tasks": waiting(control).await?,
        "payload_mb": payload_bytes as f64 / 1e6,
        "per_second": tasks() as f64 / took.as_secs_f64(),
        "other_p50_ms": ms(percentile(&mut times, 0.5)),
        "other_p99_ms": ms(percentile(&mut times, 0.99)),
        "other_max_ms": ms(percentile(&mut times, 1.0)),
        "quiet_max_ms": ms(percentile(&mut quiet, 1.0)),
        "snapshot_s": at.elapsed().as_secs_f64(),
        "snapshot_max_ms": ms(percentile(&mut during, 1.0)),
    }))
}

/// Large tasks that are cancelled at once.
async fn come_and_go(control: ControlPlane) -> Result<()> {
    let payload = || Some(Value::String("p".repeat(PAYLOAD_MAX)));
    let all = (0..PER_SUBMISSION).map(|_| to(LARGE, payload())).collect();
    let submitted = control.submit_tasks(op(), all).await?.value;
    let cancelled = submitted.iter().map(|task| control.cancel_task(op(), task.id()));
    futures_util::future::try_join_all(cancelled).await?;
    Ok(())
}
