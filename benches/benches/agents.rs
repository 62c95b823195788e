//! Ten thousand idle agents as actors: what they hold, and how fast tree and queries still answer; and how fast one
//! that panics has replayed its stream and answers again.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use hiveward_actors::{
    client::{ControlPlane, NewAgent, NewSwarm, SwarmRef},
    node::{Node, NodeConfig},
};
use hiveward_agents::table::AgentFilter;
use hiveward_benches::{Figures, ms, percentile, resident_mb};
use hiveward_catalogue::agent::spec::ConnectorSpec;
use hiveward_runtime::{
    fault::{self, Armed, Fault},
    op::Op,
};

const AGENTS: usize = 10_000;
const READS: usize = 200;
const RESTARTS: usize = 300;

fn op() -> Op {
    Op::internal(Duration::from_secs(60))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let mut figures = Figures::new("agents");
    let node = Node::start(NodeConfig { default_agents: 0, ..NodeConfig::new(dir.path().join("node")) }).await?;
    let control = node.control();
    control.create_swarm(op(), NewSwarm { name: "bench".into(), ..NewSwarm::default() }).await?;
    figures.row("a node without agents, resident", resident_mb()?, "MB", "");
    let begun = Instant::now();
    create(&control).await?;
    figures.row("agents created, started and in the views", AGENTS as f64 / begun.elapsed().as_secs_f64(), "1/s", "");
    figures.row("the node with 10,000 idle agents, resident", resident_mb()?, "MB", "under 250");
    reads(&control, &mut figures)?;
    restarts(&control, &mut figures).await?;
    node.stop(Duration::from_secs(60)).await;
    let begun = Instant::now();
    let node = Node::start(NodeConfig { default_agents: 0, ..NodeConfig::new(dir.path().join("node")) }).await?;
    figures.row("a start of the node with 10,000 agents", begun.elapsed().as_secs_f64(), "s", "");
    node.stop(Duration::from_secs(60)).await;
    figures.write()?;
    Ok(())
}

fn noop(name: String) -> NewAgent {
    NewAgent { swarm: Some(SwarmRef::Name("bench".into())), connector: ConnectorSpec::Noop, ..NewAgent::command(name) }
}

async fn create(control: &ControlPlane) -> anyhow::Result<()> {
    let created = stream::iter(0..AGENTS).map(|n| control.create_agent(op(), noop(format!("agent-{n}")))).buffer_unordered(128);
    let last = created.try_fold(None, |_, done| async move { Ok(Some(done.cursor)) }).await?;
    if let Some(cursor) = last {
        control.at_least(&op(), cursor).await?;
    }
    Ok(())
}

fn reads(control: &ControlPlane, figures: &mut Figures) -> anyhow::Result<()> {
    let mut trees = Vec::new();
    for _ in 0..READS {
        let at = Instant::now();
        let tree = control.tree().snapshot(None, usize::MAX);
        trees.push(at.elapsed());
        std::hint::black_box(tree);
    }
    figures.row("the whole tree, p99", ms(percentile(&mut trees, 0.99)), "ms", "under 100");
    let mut pages = Vec::new();
    for _ in 0..READS {
        let at = Instant::now();
        let page = control.agents(&AgentFilter::default(), None, 50)?;
        pages.push(at.elapsed());
        anyhow::ensure!(page.items.len() == 50, "a page has {} agents", page.items.len());
    }
    figures.row("a page of 50 agents from the views, p99", ms(percentile(&mut pages, 0.99)), "ms", "under 100");
    Ok(())
}

/// A panic in the agent's own actor; then the next question, until it is answered by a new life that replayed the stream.
async fn restarts(control: &ControlPlane, figures: &mut Figures) -> anyhow::Result<()> {
    // What is measured is the way back, not the printing of a backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    let mut times = Vec::new();
    for n in 0..RESTARTS {
        let agent = control.create_agent(op(), noop(format!("victim-{n}"))).await?.value.spec.id;
        let key = agent.to_string();
        anyhow::ensure!(
            fault::arm(Armed { point: "actor.handle".into(), key: Some(key), fault: Fault::Panic, times: 1 }),
            "too many faults are armed"
        );
        let at = Instant::now();
        // The one that is struck: it is not heard.
        let struck = control.resume_agent(op(), agent).await;
        anyhow::ensure!(struck.is_err(), "the fault did not strike");
        // One that reached the old mailbox as it closed is told so; asking again is what a client does.
        while let Err(refused) = control.resume_agent(op(), agent).await {
            anyhow::ensure!(at.elapsed() < Duration::from_secs(10), "{refused}");
        }
        times.push(at.elapsed());
    }
    figures.row(
        "an agent, from its panic to an answer after the replay, p50",
        ms(percentile(&mut times, 0.5)),
        "ms",
        "goal under 1",
    );
    figures.row("an agent, from its panic to an answer after the replay, p99", ms(percentile(&mut times, 0.99)), "ms", "");
    Ok(())
}
