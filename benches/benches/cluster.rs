//! Whole clusters of real processes on this machine: a mesh of many nodes, and durable tasks on three beside one.
//!
//! `HIVEWARD_BENCH_ONLY=mesh|tasks` runs one part, `HIVEWARD_BENCH_NODES` sets the mesh's size, `HIVEWARD_BENCH_SHORT` cuts
//! times. `HIVEWARD_BIN` is the program, or it is built.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hiveward_benches::{Figures, fdatasync_per_second, load, ms, nodes::Nodes, percentile};
use serde_json::{Value, json};

const AGENTS: u32 = 2_000;
const JOINING_AT_ONCE: usize = 4;
const AGENTS_PER_REQUEST: u32 = 250;
const LANES: usize = 3;

const CLIENTS: usize = 16;
const BATCH: usize = 100;
/// Submitted and not yet ended, over all clients: longer queues measure the queue.
const OPEN_MAX: u64 = 10_000;

fn short() -> bool {
    std::env::var_os("HIVEWARD_BENCH_SHORT").is_some()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let only = std::env::var("HIVEWARD_BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let mut figures = Figures::new("cluster");
    figures.row("load of the machine before", load()?, "", "of 2 cores here: other work slows all of these");
    if only.is_empty() || only == "tasks" {
        tasks(&dir.path().join("tasks"), &mut figures).await?;
    }
    if only.is_empty() || only == "mesh" {
        mesh(&dir.path().join("mesh"), &mut figures).await?;
    }
    figures.row("load of the machine after", load()?, "", "");
    figures.write()?;
    Ok(())
}

/// Node 0 alone, then all others joined, a few at a time.
async fn grow(nodes: &mut Nodes, to: usize) -> anyhow::Result<()> {
    if nodes.nodes.is_empty() {
        let first = nodes.add()?;
        nodes.spawn(first, None)?;
        nodes.ready(first).await?;
    }
    while nodes.nodes.len() < to {
        let mut joining = Vec::new();
        for _ in 0..JOINING_AT_ONCE.min(to - nodes.nodes.len()) {
            let (token, node) = (nodes.token()?, nodes.add()?);
            nodes.spawn(node, Some((0, &token)))?;
            joining.push(node);
        }
        for node in joining {
            nodes.ready(node).await?;
        }
    }
    Ok(())
}

/// Links that are up, over all nodes, as node 0 hears from each; and how many did not answer it.
async fn links_up(nodes: &Nodes) -> anyhow::Result<(usize, usize)> {
    let said = nodes.ask(0, "{cluster{nodes{id generation links{up}}}}", Value::Null).await?;
    let all = said["cluster"]["nodes"].as_array().context("no nodes")?;
    let up = |node: &Value| node["links"].as_array().into_iter().flatten().filter(|link| link["up"] == true).count();
    Ok((all.iter().map(up).sum(), all.iter().filter(|node| node["generation"].is_null()).count()))
}

async fn full(nodes: &Nodes, begun: Instant) -> anyhow::Result<Duration> {
    let wanted = nodes.nodes.len() * (nodes.nodes.len() - 1) * LANES;
    let mut last = (0, 0);
    loop {
        let looked = begun.elapsed();
        if let Ok(Ok(seen)) = tokio::time::timeout(Duration::from_secs(10), links_up(nodes)).await {
            if seen.0 >= wanted {
                return Ok(looked);
            }
            if seen != last {
                println!(
                    "  {:6.2} s: {} of {wanted} ends of links are up, {} nodes silent",
                    looked.as_secs_f64(),
                    seen.0,
                    seen.1
                );
            }
            last = seen;
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "the mesh is not full: {last:?} of {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn mesh(dir: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let size: usize =
        std::env::var("HIVEWARD_BENCH_NODES").ok().and_then(|size| size.parse().ok()).unwrap_or(if short() { 10 } else { 50 });
    let mut nodes = Nodes::new(hiveward_benches::nodes::binary()?, dir)?;
    let few = (size / 5).max(3);
    grow(&mut nodes, few).await?;
    full(&nodes, Instant::now()).await?;
    let small = idle(&nodes, figures, "no agents").await?;
    let begun = Instant::now();
    grow(&mut nodes, size).await?;
    figures.row(
        &format!("{size} nodes: all of {} more joined", size - few),
        begun.elapsed().as_secs_f64(),
        "s",
        &format!("{JOINING_AT_ONCE} at a time, each with a token of its own"),
    );
    let took = full(&nodes, Instant::now()).await?;
    figures.row(&format!("{size} nodes: full mesh after the last one is ready"), took.as_secs_f64(), "s", "under 5");
    let large = idle(&nodes, figures, "no agents").await?;
    // What each further peer costs, from the difference: pings on all lanes; at the leader leases and heartbeats too.
    let each = |at: fn(&Idle) -> f64| (at(&large) - at(&small)) / (size - few) as f64;
    figures.row("processor of a follower per peer", each(|idle| idle.follower) * 1e4, "us/s", "for docs/scale.md");
    figures.row("processor of the leader per peer", each(|idle| idle.leader) * 1e4, "us/s", "");
    figures.row(
        "processor of a follower, whatever the peers",
        (small.follower - each(|idle| idle.follower) * few as f64) * 1e4,
        "us/s",
        "",
    );
    figures.row("resident memory per peer", each(|idle| idle.memory) * 1024.0, "kB", "");
    figures.row("resident memory, whatever the peers", small.memory - each(|idle| idle.memory) * few as f64, "MB", "");

    let before = load()?;
    nodes.kill_all();
    let begun = Instant::now();
    for node in 0..size {
        nodes.spawn(node, None)?;
    }
    figures.row(
        &format!("{size} nodes killed and started at once: started"),
        begun.elapsed().as_secs_f64(),
        "s",
        &format!("load {before}"),
    );
    for node in 0..size {
        nodes.ready(node).await?;
    }
    figures.row(&format!("{size} nodes started at once: all answer and know a leader"), begun.elapsed().as_secs_f64(), "s", "");
    let took = full(&nodes, begun).await?;
    figures.row(&format!("{size} nodes started at once: full mesh"), took.as_secs_f64(), "s", "under 5");
    let cpu: Duration = (0..size).map(|node| nodes.cpu(node)).sum::<anyhow::Result<_>>()?;
    figures.row(
        &format!("{size} nodes started at once: processor time used by all"),
        cpu.as_secs_f64(),
        "s",
        "divided by the cores: what no design can undercut here",
    );

    let home = size - 1;
    place_agents(&nodes, home, figures).await?;
    idle(&nodes, figures, &format!("{AGENTS} agents on one")).await?;
    figures.row("resident memory of the node with the agents", nodes.resident_mb(home)?, "MB", "");
    Ok(())
}

/// One node holds them all.
async fn place_agents(nodes: &Nodes, home: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let id = nodes.id(home)?;
    nodes
        .ask(0, "mutation($input:CreateSwarmInput!){createSwarm(input:$input){swarm{id}}}", json!({"input": {"name": "bench"}}))
        .await?;
    let begun = Instant::now();
    let spent = || (0..nodes.nodes.len()).map(|node| nodes.cpu(node)).sum::<anyhow::Result<Duration>>();
    let before = spent()?;
    // A few requests, each within its own deadline.
    let template = json!({"connector": {"noop": true}, "node": id});
    for agents in (AGENTS_PER_REQUEST..=AGENTS).step_by(AGENTS_PER_REQUEST as usize) {
        let input = json!({"swarm": "bench", "agents": agents, "template": template});
        nodes
            .ask(0, "mutation($input:ScaleSwarmInput!){scaleSwarm(input:$input){swarm{agentCount}}}", json!({"input": input}))
            .await?;
    }
    let each = (spent()? - before).as_secs_f64() * 1e3 / f64::from(AGENTS);
    figures.row("processor of all nodes per agent created", each, "ms", "every node applies every event");
    figures.row(&format!("{AGENTS} agents created on one node of them"), begun.elapsed().as_secs_f64(), "s", "");
    loop {
        let said = nodes.ask(0, "{cluster{nodes{id entities}}}", Value::Null).await?;
        let placed = said["cluster"]["nodes"].as_array().into_iter().flatten().find(|node| node["id"] == *id);
        if placed.is_some_and(|node| node["entities"].as_u64() >= Some(u64::from(AGENTS))) {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(180), "the agents are not placed: {placed:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    figures.row(&format!("{AGENTS} agents placed there"), begun.elapsed().as_secs_f64(), "s", "");
    Ok(())
}

struct Idle {
    /// Per cent of a core.
    follower: f64,
    leader: f64,
    memory: f64,
}

async fn idle(nodes: &Nodes, figures: &mut Figures, state: &str) -> anyhow::Result<Idle> {
    tokio::time::sleep(Duration::from_secs(if short() { 2 } else { 10 })).await;
    let during = Duration::from_secs(if short() { 5 } else { 20 });
    let size = nodes.nodes.len();
    let said = nodes.ask(0, "{cluster{leader{id}}}", Value::Null).await?;
    let leads = said["cluster"]["leader"]["id"].as_str().context("no leader")?.to_owned();
    let leader = (0..size).find(|node| nodes.id(*node).is_ok_and(|id| id == leads)).context("an unknown leader")?;
    let all = || (0..size).map(|node| nodes.cpu(node)).collect::<anyhow::Result<Vec<_>>>();
    let before = all()?;
    tokio::time::sleep(during).await;
    let shares: Vec<f64> = all()?
        .iter()
        .zip(&before)
        .map(|(after, before)| (*after - *before).as_secs_f64() / during.as_secs_f64() * 100.0)
        .collect();
    let follower = (shares.iter().sum::<f64>() - shares[leader]) / (size - 1) as f64;
    let name = format!("{size} nodes idle, {state}");
    figures.row(&format!("{name}: processor per follower"), follower, "% core", "ractor_cluster's bare mesh of 50: 0.28");
    figures.row(&format!("{name}: processor of the leader"), shares[leader], "% core", "");
    let memory = (0..size).map(|node| nodes.resident_mb(node)).sum::<anyhow::Result<f64>>()? / size as f64;
    figures.row(&format!("{name}: resident memory per node"), memory, "MB", &format!("load {:.1}", load()?));
    Ok(Idle { follower, leader: shares[leader], memory })
}

async fn tasks(dir: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let binary = hiveward_benches::nodes::binary()?;
    let mut rates = Vec::new();
    for size in [1, 3] {
        let dir = dir.join(format!("of{size}"));
        std::fs::create_dir_all(&dir)?;
        figures.row(
            &format!("this disk before {size} nodes: fdatasync of 4 KiB"),
            fdatasync_per_second(&dir, Duration::from_secs(2))?,
            "1/s",
            "",
        );
        let mut nodes = Nodes::new(binary.clone(), &dir)?;
        grow(&mut nodes, size).await?;
        full(&nodes, Instant::now()).await?;
        rates.push(throughput(&nodes, figures).await?);
    }
    figures.row("tasks on three nodes to one", rates[1] / rates[0], "ratio", "three nodes share this machine's cores and disk");
    Ok(())
}

async fn ended(nodes: &Nodes) -> anyhow::Result<u64> {
    let said = nodes.ask(0, "{swarms{nodes{name taskCounts{status count}}}}", Value::Null).await?;
    let swarms = said["swarms"]["nodes"].as_array().context("no swarms")?;
    let bench = swarms.iter().find(|swarm| swarm["name"] == "bench").context("no swarm")?;
    let count = |count: &Value| count["count"].as_u64().or_else(|| count["count"].as_str()?.parse().ok()).unwrap_or(0);
    Ok(bench["taskCounts"].as_array().into_iter().flatten().filter(|one| one["status"] == "SUCCEEDED").map(count).sum())
}

/// The same clients whatever the size: each submits batches to the node that is its, and never more than a few open.
async fn throughput(nodes: &Nodes, figures: &mut Figures) -> anyhow::Result<f64> {
    let size = nodes.nodes.len();
    let during = Duration::from_secs(if short() { 5 } else { 20 });
    nodes
        .ask(
            0,
            "mutation($input:CreateSwarmInput!){createSwarm(input:$input){swarm{id}}}",
            json!({"input": {"name": "bench", "maxQueued": 100_000}}),
        )
        .await?;
    let template = json!({"connector": {"noop": true}, "maxConcurrentTasks": 256});
    let input = json!({"swarm": "bench", "agents": 9, "template": template});
    nodes
        .ask(0, "mutation($input:ScaleSwarmInput!){scaleSwarm(input:$input){swarm{agentCount}}}", json!({"input": input}))
        .await?;
    let one = json!({"kind": "noop"});
    let body = json!({
        "query": "mutation($input:SubmitTasksInput!){submitTasks(input:$input){cursor}}",
        "variables": {"input": {"swarm": "bench", "tasks": vec![one; BATCH]}},
    })
    .to_string();
    let body: Arc<str> = body.into();
    let (submitted, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counters =
        || (0..size).map(|node| Ok((nodes.cpu(node)?, nodes.written(node)?))).collect::<anyhow::Result<Vec<(Duration, u64)>>>();
    let (before, begun) = (counters()?, Instant::now());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (mut http, body) = (nodes.http(client % size).await?, body.clone());
        let (submitted, done) = (submitted.clone(), done.clone());
        clients.spawn(async move {
            let (mut times, mut refused) = (Vec::new(), 0_u64);
            while begun.elapsed() < during {
                if submitted.load(Ordering::Relaxed) > done.load(Ordering::Relaxed) + OPEN_MAX {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                }
                let at = Instant::now();
                match http.post(&body).await {
                    Ok(_) => {
                        submitted.fetch_add(BATCH as u64, Ordering::Relaxed);
                        times.push(at.elapsed());
                    }
                    Err(error) => {
                        if refused == 0 {
                            println!("  refused: {error}");
                        }
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            (times, refused)
        });
    }
    let (mut seen, mut end) = (0, None);
    while begun.elapsed() < during {
        seen = ended(nodes).await?;
        done.store(seen, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut times, mut refused) = (Vec::new(), 0);
    while let Some(client) = clients.join_next().await {
        let (took, turned_away) = client?;
        times.extend(took);
        refused += turned_away;
    }
    let submitted = submitted.load(Ordering::Relaxed);
    while seen < submitted && begun.elapsed() < during + Duration::from_secs(60) {
        seen = ended(nodes).await?.max(seen);
        end = Some(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (after, took) = (counters()?, end.unwrap_or_else(|| begun.elapsed()));
    let rate = seen as f64 / took.as_secs_f64();
    let name = format!("{size} {}", if size == 1 { "node" } else { "nodes" });
    figures.row(
        &format!("{name}: durable tasks, submitted to ended"),
        rate,
        "1/s",
        &format!("{CLIENTS} clients, batches of {BATCH}, load {:.1}", load()?),
    );
    figures.row(&format!("{name}: tasks not ended"), (submitted - seen.min(submitted)) as f64, "", "must be 0");
    figures.row(&format!("{name}: batches refused"), refused as f64, "", "");
    figures.row(&format!("{name}: one batch acknowledged, p50"), ms(percentile(&mut times, 0.5)), "ms", "");
    figures.row(&format!("{name}: one batch acknowledged, p99"), ms(percentile(&mut times, 0.99)), "ms", "");
    for node in 0..size {
        let (cpu, written) = (after[node].0 - before[node].0, after[node].1 - before[node].1);
        figures.row(&format!("{name}: node {node}, processor"), cpu.as_secs_f64() / took.as_secs_f64() * 100.0, "% core", "");
        figures.row(&format!("{name}: node {node}, processor per task"), cpu.as_secs_f64() * 1e6 / seen.max(1) as f64, "us", "");
        figures.row(&format!("{name}: node {node}, written to disk per task"), written as f64 / seen.max(1) as f64, "B", "");
    }
    Ok(rate)
}
