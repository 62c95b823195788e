//! Durable tasks per second, from submit to recorded result, and the latency of one client.
//!
//! Every acknowledgement is after an fsync. Agents are the built-in `noop`. The disk's own rate is printed beside.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hiveward_actors::{
    client::{ControlPlane, NewAgent, NewSwarm, NewTask, NewWork, SwarmRef},
    node::{Node, NodeConfig},
};
use hiveward_benches::{Figures, fdatasync_per_second, percentile};
use hiveward_catalogue::agent::spec::ConnectorSpec;
use hiveward_runtime::op::Op;
use tokio::sync::{Mutex, oneshot};

const AGENTS: u32 = 8;
const CLIENTS: usize = 512;
const DURING: Duration = Duration::from_secs(10);

type Waiting = Arc<Mutex<HashMap<hiveward_kernel::id::TaskId, oneshot::Sender<()>>>>;

fn op() -> Op {
    Op::internal(Duration::from_secs(60))
}

fn task() -> NewTask {
    NewTask { swarm: Some(SwarmRef::Name("bench".into())), ..NewTask::new(NewWork::Kind { kind: "noop".into(), payload: None }) }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let mut figures = Figures::new("tasks");
    figures.row("this disk: fdatasync of 4 KiB", fdatasync_per_second(dir.path(), Duration::from_secs(2))?, "1/s", "");
    let node = Node::start(NodeConfig { default_agents: 0, ..NodeConfig::new(dir.path().join("node")) }).await?;
    let control = node.control();
    control.create_swarm(op(), NewSwarm { name: "bench".into(), ..NewSwarm::default() }).await?;
    for n in 0..AGENTS {
        let new = NewAgent {
            swarm: Some(SwarmRef::Name("bench".into())),
            connector: ConnectorSpec::Noop,
            max_concurrent_tasks: 256,
            ..NewAgent::command(format!("noop-{n}"))
        };
        control.create_agent(op(), new).await?;
    }
    one_client(&control, &mut figures).await?;
    many_clients(&control, &mut figures).await?;
    node.stop(Duration::from_secs(30)).await;
    figures.row("this disk: fdatasync of 4 KiB, again", fdatasync_per_second(dir.path(), Duration::from_secs(2))?, "1/s", "");
    figures.write()?;
    Ok(())
}

/// One task at a time: from submit to the end recorded in the ledger.
async fn one_client(control: &ControlPlane, figures: &mut Figures) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let (mut tail, begun) = (control.event_tail(control.head(), Default::default()), Instant::now());
    while begun.elapsed() < DURING / 2 {
        let at = Instant::now();
        let id = control.submit_tasks(op(), vec![task()]).await?.value[0].id();
        'ended: loop {
            for event in tail.next().await? {
                if event.task == Some(id) && &*event.kind == "TaskAttemptEnded" {
                    break 'ended;
                }
            }
        }
        times.push(at.elapsed());
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    figures.row(
        "one client, submit to recorded result, p50",
        ms(percentile(&mut times, 0.5)),
        "ms",
        "at most 3, goal 1; PostgreSQL 0.85, Restate 3.1",
    );
    figures.row("one client, submit to recorded result, p99", ms(percentile(&mut times, 0.99)), "ms", "");
    figures.row("one client, tasks", times.len() as f64 / (DURING / 2).as_secs_f64(), "1/s", "");
    Ok(())
}

/// Many clients, each waiting for its task's end before the next.
async fn many_clients(control: &ControlPlane, figures: &mut Figures) -> anyhow::Result<()> {
    let waiting: Waiting = Waiting::default();
    let early: Arc<Mutex<std::collections::HashSet<hiveward_kernel::id::TaskId>>> = Arc::default();
    let done = Arc::new(AtomicU64::new(0));
    let mut tail = control.event_tail(control.head(), Default::default());
    let (told, seen_early) = (waiting.clone(), early.clone());
    let follower = tokio::spawn(async move {
        while let Ok(events) = tail.next().await {
            let mut told = told.lock().await;
            for event in events.iter().filter(|event| &*event.kind == "TaskAttemptEnded") {
                let Some(task) = event.task else { continue };
                match told.remove(&task) {
                    Some(waiter) => drop(waiter.send(())),
                    None => drop(seen_early.lock().await.insert(task)),
                }
            }
        }
    });
    let mut clients = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CLIENTS {
        let (control, waiting, early, done) = (control.clone(), waiting.clone(), early.clone(), done.clone());
        clients.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < DURING {
                let at = Instant::now();
                let Ok(submitted) = control.submit_tasks(op(), vec![task()]).await else { continue };
                let id = submitted.value[0].id();
                let (send, wait) = oneshot::channel();
                {
                    let mut waiting = waiting.lock().await;
                    if !early.lock().await.remove(&id) {
                        waiting.insert(id, send);
                        drop(waiting);
                        if wait.await.is_err() {
                            break;
                        }
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
                times.push(at.elapsed());
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(client) = clients.join_next().await {
        times.extend(client?);
    }
    let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    follower.abort();
    figures.row(
        &format!("{CLIENTS} clients, durable tasks"),
        rate,
        "1/s",
        "at least 8000, goal 20000; PostgreSQL SKIP LOCKED 4000, Restate 1800",
    );
    figures.row(&format!("{CLIENTS} clients, p99"), percentile(&mut times, 0.99).as_secs_f64() * 1e3, "ms", "");
    let sample = control.metrics_sample()?;
    figures.row("events in the ledger", sample.events_total as f64, "", "");
    if let Some(bytes) = sample.resident_bytes {
        figures.row("resident memory after it", bytes as f64 / 1e6, "MB", "");
    }
    figures.row("views behind at the end", control.cluster().view_lag as f64, "events", "");
    Ok(())
}
