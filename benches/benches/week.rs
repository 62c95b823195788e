//! A week in fast-forward on real nodes, one and then three: tasks with bodies, agents and VMs that come and go, and retention
//! that lets go of what has ended. Disk, memory and pages are looked at all day; after the first day they must be flat. At the
//! end all nodes are killed at once and started again.
//!
//! `HIVEWARD_BENCH_SECONDS` is how long a day takes (60), `HIVEWARD_BENCH_RATE` how many tasks a second are submitted (1,000: ten
//! times what the week is to bear), `HIVEWARD_BENCH_DIR` another disk, `HIVEWARD_BENCH_ONLY=1|3` how many nodes. What is kept is
//! scaled with it: a part of a day's tasks and no more. `HIVEWARD_BIN` is the program, or it is built.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hiveward_benches::{Figures, fdatasync_per_second, load, ms, nodes::Nodes, percentile, wire::Http};
use serde_json::{Value, json};

const DAYS: u32 = 7;
const CLIENTS: usize = 16;
const PER_SUBMISSION: usize = 10;
/// One submission in so many is a program.
const PROGRAM_IN: u64 = 50;
/// Payloads of nothing to twice what is kept in the ledger itself.
const PAYLOAD_MAX: usize = 8 << 10;
const PAGE: Duration = Duration::from_millis(250);
/// How often one mutation is sent again before the bench gives up.
const TRIES: u32 = 200;

/// The settings that let go of what has ended; a day of the default length has three times as many tasks.
const KEPT: &str = "
retention:
  operations: { count_max: 20000 }
  tasks: { count_max: 20000 }
  blobs: { unnamed_minutes: 1, look_every_ms: 10000 }
node:
  transcripts: { attempts_max: 500, look_every_ms: 2000 }
  ledger: { events_max: 200000 }
";

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let root = std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    let mut figures = Figures::new("week");
    figures.row("load of the machine before", load()?, "", "of 2 cores here: other work slows all of these");
    for size in [1, 3] {
        if set("HIVEWARD_BENCH_ONLY").is_none_or(|only| only == size) {
            let dir = tempfile::tempdir_in(&root)?;
            week(usize::try_from(size)?, dir.path(), &mut figures).await?;
        }
    }
    Ok(figures.write()?)
}

struct Shared {
    nodes: Nodes,
    stop: AtomicBool,
    submitted: AtomicU64,
    made: AtomicU64,
}

impl Shared {
    /// A mutation that is answered, if need be after it was asked to come again; it names its operation, so that none is done
    /// twice.
    async fn change(&self, http: &mut Http, query: &str, input: &Value) -> Result<Value> {
        let body = json!({ "query": query, "variables": { "input": input } }).to_string();
        for _ in 0..TRIES {
            match http.post(&body).await {
                Ok(answer) => return Ok(serde_json::from_slice(answer)?),
                Err(refused) if refused.to_string().contains("\"retryable\":true") => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(refused) => return Err(refused.context(format!("{query:.40}"))),
            }
        }
        bail!("refused {TRIES} times: {query:.40}")
    }
}

async fn week(size: usize, dir: &Path, figures: &mut Figures) -> Result<()> {
    let name = |what: &str| format!("{size}n {what}");
    figures.row(&name("fdatasync of 4 KiB"), fdatasync_per_second(dir, Duration::from_secs(2))?, "a second", "");
    let mut nodes = Nodes::configured(hiveward_benches::nodes::binary()?, dir, KEPT)?;
    for number in 0..size {
        let join = if number > 0 { Some(nodes.token()?) } else { None };
        nodes.add()?;
        nodes.spawn(number, join.as_deref().map(|token| (0, token)))?;
        nodes.ready(number).await?;
    }
    let shared = Arc::new(Shared { nodes, stop: AtomicBool::new(false), submitted: AtomicU64::new(0), made: AtomicU64::new(0) });
    prepare(&shared).await?;
    let mut busy = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        busy.spawn(tasks(shared.clone(), client));
    }
    busy.spawn(agents(shared.clone()));
    busy.spawn(machines(shared.clone()));
    let watched = days(&shared, dir, size, figures).await;
    shared.stop.store(true, Ordering::Release);
    while let Some(ended) = busy.join_next().await {
        ended??;
    }
    let days = watched?;
    let (last, second) = (days.last().context("no day")?, days.get(1).context("one day only")?);
    figures.row(&name("memory on the last day, of the second"), last.0 / second.0, "times", "flat: 1");
    figures.row(&name("disk on the last day, of the second"), last.1 / second.1, "times", "flat: 1");
    let mut shared = Arc::into_inner(shared).context("a client is still there")?;
    shared.nodes.kill_all();
    let at = Instant::now();
    for number in 0..size {
        shared.nodes.spawn(number, None)?;
    }
    for number in 0..size {
        shared.nodes.ready(number).await?;
    }
    figures.row(&name("all killed, started again, ready in"), at.elapsed().as_secs_f64(), "s", "under 5");
    Ok(())
}

/// Memory of the largest node and disk of all, in MB, at the end of each day.
async fn days(shared: &Shared, dir: &Path, size: usize, figures: &mut Figures) -> Result<Vec<(f64, f64)>> {
    let day = Duration::from_secs(set("HIVEWARD_BENCH_SECONDS").unwrap_or(60));
    // Not the node that leads, if there is another.
    let mut http = shared.nodes.http(size - 1).await?;
    let page = json!({ "query": "{tasks(first:50){edges{node{id status createdAt swarm{name} labels{key value} attempts{number status}}}}}" }).to_string();
    let mut days = Vec::new();
    for number in 1..=DAYS {
        let (begun, before, mut pages) = (Instant::now(), shared.submitted.load(Ordering::Relaxed), Vec::new());
        while begun.elapsed() < day {
            tokio::time::sleep(PAGE).await;
            let at = Instant::now();
            http.post(&page).await?;
            pages.push(at.elapsed());
        }
        let rate = (shared.submitted.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        let memory = (0..size).map(|node| shared.nodes.resident_mb(node)).collect::<Result<Vec<_>>>()?;
        let (memory, disk) = (memory.into_iter().fold(0.0, f64::max), bytes_below(dir) as f64 / 1e6);
        let name = |what: &str| format!("{size}n day {number}: {what}");
        figures.row(&name("tasks submitted"), rate, "a second", "100");
        figures.row(&name("agents and VMs made and removed so far"), shared.made.load(Ordering::Relaxed) as f64, "", "");
        figures.row(&name("memory of the largest node"), memory, "MB", "");
        figures.row(&name("disk of all"), disk, "MB", "");
        figures.row(&name("a page of 50 tasks, p50"), ms(percentile(&mut pages, 0.5)), "ms", "");
        figures.row(&name("a page of 50 tasks, p99"), ms(percentile(&mut pages, 0.99)), "ms", "under 50");
        days.push((memory, disk));
    }
    Ok(days)
}

async fn prepare(shared: &Shared) -> Result<()> {
    let mut http = shared.nodes.http(0).await?;
    let make = "mutation($input:CreateSwarmInput!){createSwarm(input:$input){cursor}}";
    shared.change(&mut http, make, &json!({ "name": "week", "maxQueued": 100_000 })).await?;
    for number in 0..6 {
        let connector = if number < 2 { json!({ "command": true }) } else { json!({ "noop": true }) };
        let new = json!({
            "name": format!("agent-{number}"), "swarm": "week", "connector": connector, "maxConcurrentTasks": 64,
        });
        shared.change(&mut http, MAKE_AGENT, &new).await?;
    }
    let host = "mutation($input:RegisterHostInput!){registerHost(input:$input){cursor}}";
    shared.change(&mut http, host, &json!({ "name": "host", "uri": "simulated://week?cpus=64" })).await?;
    Ok(())
}

const MAKE_AGENT: &str = "mutation($input:CreateAgentInput!){createAgent(input:$input){agent{id}}}";

/// One client: batches of tasks with payloads, each under an operation id, at its part of the rate, and now and then a program
/// that gives back what it was given.
async fn tasks(shared: Arc<Shared>, client: usize) -> Result<()> {
    let mut dice = fastrand::Rng::with_seed(client as u64);
    let rate = set("HIVEWARD_BENCH_RATE").unwrap_or(1_000).max(1);
    let every = Duration::from_secs_f64((PER_SUBMISSION * CLIENTS) as f64 / rate as f64);
    let mut turns = tokio::time::interval(every);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut http = shared.nodes.http(client % shared.nodes.nodes.len()).await?;
    for turn in 0_u64.. {
        turns.tick().await;
        if shared.stop.load(Ordering::Acquire) {
            break;
        }
        let program = turn.is_multiple_of(PROGRAM_IN);
        let all: Vec<Value> = (0..if program { 1 } else { PER_SUBMISSION })
            .map(|_| {
                let body = "wörk ".repeat(dice.usize(0..=PAYLOAD_MAX / 6));
                if program {
                    json!({ "command": { "argv": ["cat"], "stdin": body } })
                } else {
                    json!({ "kind": "noop", "payload": body })
                }
            })
            .collect();
        let count = all.len() as u64;
        let input = json!({ "swarm": "week", "tasks": all, "operationId": format!("{client}-{turn}") });
        let submit = "mutation($input:SubmitTasksInput!){submitTasks(input:$input){cursor}}";
        shared.change(&mut http, submit, &input).await?;
        shared.submitted.fetch_add(count, Ordering::Relaxed);
    }
    Ok(())
}

fn id_of<'a>(answer: &'a Value, path: &str) -> Result<&'a str> {
    answer.pointer(path).and_then(Value::as_str).with_context(|| format!("no {path} in {answer}"))
}

async fn agents(shared: Arc<Shared>) -> Result<()> {
    let mut http = shared.nodes.http(0).await?;
    for number in 0.. {
        if shared.stop.load(Ordering::Acquire) {
            break;
        }
        let new = json!({
            "name": format!("passing-{number}"), "swarm": "week", "connector": { "noop": true },
            "operationId": format!("agent-{number}"),
        });
        let made = shared.change(&mut http, MAKE_AGENT, &new).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let old = json!({
            "agent": id_of(&made, "/data/createAgent/agent/id")?, "force": true, "operationId": format!("no-agent-{number}"),
        });
        shared.change(&mut http, "mutation($input:RemoveAgentInput!){removeAgent(input:$input){cursor}}", &old).await?;
        shared.made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn machines(shared: Arc<Shared>) -> Result<()> {
    let mut http = shared.nodes.http(0).await?;
    let begun = Instant::now();
    for number in 0.. {
        if shared.stop.load(Ordering::Acquire) {
            break;
        }
        let new = json!({
            "name": format!("vm-{number}"), "image": "debian-12", "cpus": 1, "memoryBytes": (1_u64 << 30).to_string(),
            "operationId": format!("vm-{number}"),
        });
        let make = "mutation($input:CreateVmInput!){createVm(input:$input){vm{id}}}";
        let made = match shared.change(&mut http, make, &new).await {
            Ok(made) => made,
            // The host was not reached yet.
            Err(refused) => {
                ensure!(begun.elapsed() < Duration::from_secs(20), refused);
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        let old = json!({
            "vm": id_of(&made, "/data/createVm/vm/id")?, "force": true, "operationId": format!("no-vm-{number}"),
        });
        shared.change(&mut http, "mutation($input:RemoveVmInput!){removeVm(input:$input){cursor}}", &old).await?;
        shared.made.fetch_add(1, Ordering::Relaxed);
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
