//! The gateway under load: pages out of 10,000 agents beside a bare async-graphql server with a static list, and one
//! event to 1,000 WebSocket subscribers.
//!
//! The node runs on two workers, the clients on a thread of their own; all share the machine's cores.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema, SimpleObject};
use axum::{Json, Router, extract::State, routing::post};
use futures_util::{StreamExt, TryStreamExt, stream};
use hiveward_actors::{
    client::{ControlPlane, NewAgent, NewSwarm, NewTask, NewWork, SwarmRef},
    node::{Node, NodeConfig},
};
use hiveward_benches::{
    Figures, ms, percentile, resident_mb,
    served::{TOKEN, serve},
    wire::{Http, Subscriber},
};
use hiveward_catalogue::agent::spec::ConnectorSpec;
use hiveward_gateway::serve::Server;
use hiveward_runtime::op::Op;
use tokio::task::JoinSet;

const AGENTS: usize = 10_000;
const PAGE: usize = 50;
const RATE: u32 = 500;
const CONNECTIONS: u32 = 50;
const DURING: Duration = Duration::from_secs(10);
/// Closed loop: each asks again as soon as it has its answer.
const BUSY_CONNECTIONS: usize = 8;
const BUSY_FOR: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
const SUBSCRIBERS: usize = 1_000;
const SINGLE_EVENTS: usize = 100;
const BURST: u64 = 1_000;
const PAGE_QUERY: &str = "query($after:String){agents(first:50,after:$after){nodes{id name status maxConcurrentTasks running createdAt} pageInfo{endCursor hasNextPage}}}";

fn op() -> Op {
    Op::internal(Duration::from_secs(60))
}

fn main() -> anyhow::Result<()> {
    // Both ends of a thousand sockets are in this process.
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let mut figures = Figures::new("gateway");

    let (node, server) = servers.block_on(ours(dir.path()))?;
    let (address, control) = (server.address(), node.control());
    let bare = servers.block_on(bare())?;
    let measured: anyhow::Result<()> = clients.block_on(async {
        pages(address, bare, &mut figures).await?;
        fan_out(address, &control, &mut figures).await
    });
    servers.block_on(async {
        server.stop(Duration::from_secs(1)).await;
        node.stop(Duration::from_secs(30)).await;
    });
    measured?;
    figures.write()?;
    Ok(())
}

/// A whole node with 10,000 idle agents behind the real gateway.
async fn ours(dir: &std::path::Path) -> anyhow::Result<(Node, Server)> {
    let node = Node::start(NodeConfig { default_agents: 0, ..NodeConfig::new(dir.join("node")) }).await?;
    let control = node.control();
    control.create_swarm(op(), NewSwarm { name: "bench".into(), ..NewSwarm::default() }).await?;
    stream::iter(0..AGENTS)
        .map(|n| {
            let control = control.clone();
            async move {
                let new = NewAgent {
                    swarm: Some(SwarmRef::Name("bench".into())),
                    connector: ConnectorSpec::Noop,
                    ..NewAgent::command(format!("agent-{n}"))
                };
                control.create_agent(op(), new).await
            }
        })
        .buffer_unordered(128)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok((node, serve(control).await?))
}

#[derive(SimpleObject, Clone)]
#[graphql(rename_fields = "camelCase")]
struct BareAgent {
    id: String,
    name: String,
    status: String,
    max_concurrent_tasks: u32,
    running: u32,
    created_at: String,
}

#[derive(SimpleObject)]
struct BarePageInfo {
    end_cursor: Option<String>,
    has_next_page: bool,
}

#[derive(SimpleObject)]
struct BarePage {
    nodes: Vec<BareAgent>,
    page_info: BarePageInfo,
}

/// The same fields over a list in memory, with nothing around it: no credential, no limits, no views.
struct BareQuery(Vec<BareAgent>);

#[Object]
impl BareQuery {
    async fn agents(&self, first: usize, after: Option<String>) -> BarePage {
        let from = after.and_then(|after| after.parse::<usize>().ok()).unwrap_or(0).min(self.0.len());
        let end = (from + first).min(self.0.len());
        let info = BarePageInfo { end_cursor: Some(end.to_string()), has_next_page: end < self.0.len() };
        BarePage { nodes: self.0[from..end].to_vec(), page_info: info }
    }
}

type BareSchema = Schema<BareQuery, EmptyMutation, EmptySubscription>;

async fn bare() -> anyhow::Result<SocketAddr> {
    let agents = (0..AGENTS).map(|n| BareAgent {
        id: format!("agent_{n:032x}"),
        name: format!("agent-{n}"),
        status: "IDLE".into(),
        max_concurrent_tasks: 1,
        running: 0,
        created_at: "2026-01-01T00:00:00.000Z".into(),
    });
    let schema = Schema::new(BareQuery(agents.collect()), EmptyMutation, EmptySubscription);
    async fn answer(
        State(schema): State<BareSchema>,
        Json(request): Json<async_graphql::Request>,
    ) -> Json<async_graphql::Response> {
        Json(schema.execute(request).await)
    }
    let router = Router::new().route("/graphql", post(answer)).with_state(schema);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    // Ends with the bench's process.
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

fn page(after: Option<&str>) -> String {
    serde_json::json!({ "query": PAGE_QUERY, "variables": { "after": after } }).to_string()
}

/// One request for every page there is, walked once.
async fn every_page(address: SocketAddr) -> anyhow::Result<Vec<String>> {
    let mut http = Http::open(address, TOKEN).await?;
    let (mut requests, mut seen, mut after) = (Vec::new(), 0, None);
    loop {
        let request = page(after.as_deref());
        let answer: serde_json::Value = serde_json::from_slice(http.post(&request).await?)?;
        let agents = &answer["data"]["agents"];
        seen += agents["nodes"].as_array().context("no nodes")?.len();
        requests.push(request);
        if agents["pageInfo"]["hasNextPage"] != true {
            break;
        }
        after = agents["pageInfo"]["endCursor"].as_str().map(str::to_owned);
    }
    anyhow::ensure!((seen, requests.len()) == (AGENTS, AGENTS / PAGE), "{seen} agents on {} pages", requests.len());
    Ok(requests)
}

async fn pages(address: SocketAddr, bare: SocketAddr, figures: &mut Figures) -> anyhow::Result<()> {
    let requests = Arc::new(every_page(address).await?);
    let bare_requests = Arc::new(every_page(bare).await?);
    let mut times = at_a_rate(address, &requests).await?;
    let what = format!("a page of {PAGE} of {AGENTS} agents at {RATE} requests/s");
    figures.row(&format!("{what}, p50"), ms(percentile(&mut times, 0.5)), "ms", "from when it was due, timer included");
    figures.row(&format!("{what}, p99"), ms(percentile(&mut times, 0.99)), "ms", "under 10");
    let mut times = at_a_rate(bare, &bare_requests).await?;
    figures.row("the same from a bare async-graphql server, p99", ms(percentile(&mut times, 0.99)), "ms", "");
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        here.push(as_fast_as_it_goes(address, &requests).await?);
        there.push(as_fast_as_it_goes(bare, &bare_requests).await?);
    }
    here.sort_by(f64::total_cmp);
    there.sort_by(f64::total_cmp);
    let (here, there) = (here[ROUNDS / 2], there[ROUNDS / 2]);
    figures.row("such pages, as many as it can", here, "1/s", "");
    figures.row("a bare async-graphql server with a static list", there, "1/s", "in the same run");
    figures.row("of the bare server", here / there, "ratio", "at least 0.5");
    Ok(())
}

/// Open loop: requests are due at fixed times, whether the ones before were answered or not.
async fn at_a_rate(address: SocketAddr, requests: &Arc<Vec<String>>) -> anyhow::Result<Vec<Duration>> {
    let mut connections = JoinSet::new();
    let begin = tokio::time::Instant::now() + Duration::from_millis(50);
    for n in 0..CONNECTIONS {
        let (requests, mut http) = (requests.clone(), Http::open(address, TOKEN).await?);
        connections.spawn(async move {
            let (mut times, mut due) = (Vec::new(), begin + Duration::from_secs(1) / RATE * n);
            while due < begin + DURING {
                tokio::time::sleep_until(due).await;
                http.post(&requests[fastrand::usize(..requests.len())]).await?;
                times.push(due.elapsed());
                due += Duration::from_secs(1) / RATE * CONNECTIONS;
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = connections.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}

async fn as_fast_as_it_goes(address: SocketAddr, requests: &Arc<Vec<String>>) -> anyhow::Result<f64> {
    let mut connections = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..BUSY_CONNECTIONS {
        let (requests, mut http) = (requests.clone(), Http::open(address, TOKEN).await?);
        connections.spawn(async move {
            let mut answers = 0_u32;
            while begun.elapsed() < BUSY_FOR {
                http.post(&requests[fastrand::usize(..requests.len())]).await?;
                answers += 1;
            }
            anyhow::Ok(answers)
        });
    }
    let mut all = 0;
    while let Some(answers) = connections.join_next().await {
        all += answers??;
    }
    Ok(f64::from(all) / begun.elapsed().as_secs_f64())
}

/// A task that waits for an hour: one event, and nothing follows.
fn one_event() -> NewTask {
    let work = NewWork::Kind { kind: "noop".into(), payload: None };
    NewTask { swarm: Some(SwarmRef::Name("bench".into())), delay_ms: 3_600_000, ..NewTask::new(work) }
}

async fn fan_out(address: SocketAddr, control: &ControlPlane, figures: &mut Figures) -> anyhow::Result<()> {
    let payload = r#"{"query":"subscription($f:EventFilter){events(filter:$f){cursor at kind stream task}}","variables":{"f":{"kind":["TaskSubmitted"]}}}"#;
    let delivered = Arc::new(AtomicU64::new(0));
    let before = resident_mb()?;
    let mut subscribers = JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        let (mut subscriber, delivered) = (Subscriber::open(address, TOKEN, payload).await?, delivered.clone());
        subscribers.spawn(async move {
            loop {
                let new = match subscriber.deliveries().await {
                    Ok(new) => new,
                    Err(error) => return error,
                };
                delivered.fetch_add(new, Ordering::Relaxed);
            }
        });
    }
    let mut expected = 0;
    // The first may meet subscriptions that have only just been asked for: everybody counts from the second on.
    let settled = async {
        loop {
            control.submit_tasks(op(), vec![one_event()]).await?;
            let had = delivered.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
            let has = delivered.swap(0, Ordering::Relaxed);
            if has == SUBSCRIBERS as u64 && had <= has {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.context("not every subscriber hears")??;
    figures.row("1,000 subscribers, both ends in this process", resident_mb()? - before, "MB", "");
    let mut times = Vec::new();
    for _ in 0..SINGLE_EVENTS {
        let at = Instant::now();
        control.submit_tasks(op(), vec![one_event()]).await?;
        expected += SUBSCRIBERS as u64;
        all_have(&delivered, expected, &mut subscribers).await?;
        times.push(at.elapsed());
    }
    figures.row("one event, from submit to the last of 1,000 subscribers, p50", ms(percentile(&mut times, 0.5)), "ms", "");
    figures.row(
        "one event, from submit to the last of 1,000 subscribers, max",
        ms(percentile(&mut times, 1.0)),
        "ms",
        "under 100",
    );
    let at = Instant::now();
    let burst = stream::iter(0..BURST).map(|_| control.submit_tasks(op(), vec![one_event()])).buffer_unordered(16);
    let burst = burst.try_for_each(|_| async { Ok(()) });
    expected += BURST * SUBSCRIBERS as u64;
    let (submitted, all) = tokio::join!(burst, all_have(&delivered, expected, &mut subscribers));
    submitted?;
    all?;
    let rate = (BURST * SUBSCRIBERS as u64) as f64 / at.elapsed().as_secs_f64();
    figures.row("1,000 events to 1,000 subscribers, deliveries", rate, "1/s", "at least 100,000");
    Ok(())
}

async fn all_have(delivered: &AtomicU64, expected: u64, subscribers: &mut JoinSet<anyhow::Error>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match delivered.load(Ordering::Relaxed) {
            has if has == expected => return Ok(()),
            has if has > expected => anyhow::bail!("{has} deliveries where {expected} were due"),
            has => anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "{has} of {expected} deliveries after a minute"),
        }
        if let Some(ended) = subscribers.try_join_next() {
            return Err(ended?.context("a subscriber was cut"));
        }
        // The clients' runtime has one thread: let them read.
        tokio::task::yield_now().await;
    }
}
