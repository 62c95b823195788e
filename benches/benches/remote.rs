//! Messages between two processes: tells and asks through the router over its encrypted links, beside a hand-written TCP
//! loop and bare ractor_cluster in the same run; and what a receiver costs that is stopped or slow.
//!
//! This program starts itself as the other node. `HIVEWARD_BENCH_SHORT` cuts all times; `HIVEWARD_BENCH_ONLY=tell|ask|bounds`
//! runs one part.

use std::{
    io::{BufRead, BufReader as StdReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use hiveward_benches::{
    Figures, load, percentile,
    remote::{Counter, DoorFn, Payload, Routed, cpu_time, found},
    resident_mb_of,
};
use hiveward_runtime::{
    clock::Deadline,
    cluster::router::{Inbound, Location, NotDelivered, RouteError},
    id::Key,
    net::identity::Identity,
    op::NodeId,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ractor::ActorRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const SLOW_MAILBOX: usize = 1024;
const SLOW_BODY: usize = 1000;
const SLOW_EACH: Duration = Duration::from_millis(1);

/// As long as real keys are.
fn key(number: u8) -> Key {
    Key::trusted(format!("agent_{number:032x}"))
}

fn counting() -> Key {
    key(1)
}

fn echoing() -> Key {
    key(2)
}

fn slow() -> Key {
    key(3)
}

fn short() -> bool {
    std::env::var_os("HIVEWARD_BENCH_SHORT").is_some()
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let args: Vec<String> = std::env::args().collect();
    match args.get(1..5) {
        Some([role, dir, node, near]) if role == "child" => runtime.block_on(serve(Path::new(dir), node.parse()?, near.parse()?)),
        _ => runtime.block_on(measure()),
    }
}

/// The other node. Says where it listens, then answers `wait WHICH COUNT` lines until its input ends.
async fn serve(dir: &Path, node: NodeId, near: NodeId) -> anyhow::Result<()> {
    let identity = Identity::open(dir, node)?.context("no identity")?;
    let routed = Routed::start(&identity).await?;
    routed.let_in(near);
    let (hand_actor, by_hand) = Counter::spawn().await?;
    let (actor, by_router) = Counter::spawn().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {}", routed.manager.address(), listener.local_addr()?);
    tokio::spawn(receive_by_hand(listener, hand_actor));
    let count = DoorFn(move |inbound: &Inbound<'_>| actor.send_message(inbound.read()?).map_err(|_| NotDelivered::Gone));
    routed.router.open(&counting(), 1, Arc::new(count));
    let echo = DoorFn(|inbound: &Inbound<'_>| {
        inbound.reply()?.answer(inbound.read::<u64>()?);
        Ok(())
    });
    routed.router.open(&echoing(), 1, Arc::new(echo));
    let (to, mut from) = mpsc::channel::<Payload>(SLOW_MAILBOX);
    tokio::spawn(async move {
        while from.recv().await.is_some() {
            tokio::time::sleep(SLOW_EACH).await;
        }
    });
    let slowly = DoorFn(move |inbound: &Inbound<'_>| to.try_send(inbound.read()?).map_err(|_| NotDelivered::Busy));
    routed.router.open(&slow(), 1, Arc::new(slowly));
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let mut words = line.split(' ').skip(1);
            let counter = if words.next() == Some("hand") { &by_hand } else { &by_router };
            let wanted: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            while counter.load(Ordering::Relaxed) < wanted {
                std::thread::sleep(Duration::from_micros(200));
            }
            println!("done");
        }
    })
    .await?;
    Ok(())
}

async fn receive_by_hand(listener: TcpListener, actor: ActorRef<Payload>) -> anyhow::Result<()> {
    let mut from = BufReader::with_capacity(64 * 1024, listener.accept().await?.0);
    let mut body = Vec::new();
    while let Ok(length) = from.read_u32().await {
        body.resize(length as usize, 0);
        from.read_exact(&mut body).await?;
        actor.send_message(rmp_serde::from_slice(&body)?)?;
    }
    Ok(())
}

struct Pair {
    near: Routed,
    there: Location,
    child: Child,
    input: ChildStdin,
    output: StdReader<ChildStdout>,
    hand: TcpStream,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pair {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let (identity, other) = found(dir)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["child".into(), dir.join("b"), PathBuf::from(other.to_string()), PathBuf::from(identity.node().to_string())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        let mut output = StdReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let (link, hand) = line.trim().split_once(' ').context("the other node did not start")?;
        let near = Routed::start(&identity).await?;
        near.link_to(other, link).await;
        let there = Location { node: other, incarnation: 1 };
        for key in [counting(), echoing(), slow()] {
            near.router.learn(&key, there);
        }
        let hand = TcpStream::connect(hand).await?;
        Ok(Self { near, there, child, input, output, hand })
    }

    /// Returns once the other node's counter says so.
    fn counted(&mut self, which: &str, total: u64) -> anyhow::Result<()> {
        writeln!(self.input, "wait {which} {total}")?;
        self.output.read_line(&mut String::new())?;
        Ok(())
    }

    fn cpu(&self) -> anyhow::Result<(Duration, Duration)> {
        Ok((cpu_time(std::process::id())?, cpu_time(self.child.id())?))
    }

    fn resident(&self) -> anyhow::Result<(f64, f64)> {
        Ok((resident_mb_of("self")?, resident_mb_of(&self.child.id().to_string())?))
    }
}

async fn measure() -> anyhow::Result<()> {
    let only = std::env::var("HIVEWARD_BENCH_ONLY").unwrap_or_default();
    let mut figures = Figures::new("remote");
    let dir = tempfile::tempdir()?;
    let mut pair = Pair::start(dir.path()).await?;
    figures.row("load of the machine before", load()?, "", "of 2 cores here: other work slows all of these");
    if only.is_empty() || only == "tell" {
        tells(&mut pair, &mut figures).await?;
    }
    if only.is_empty() || only == "ask" {
        asks(&pair, &mut figures).await?;
    }
    if only.is_empty() || only == "bounds" {
        bounds(&mut pair, &mut figures).await?;
    }
    figures.row("load of the machine after", load()?, "", "");
    figures.write()?;
    Ok(())
}

#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    near_ns: f64,
    far_ns: f64,
}

async fn tell_run(pair: &mut Pair, which: &str, tells: u64, told: &mut u64) -> anyhow::Result<Run> {
    let (before, begun) = (pair.cpu()?, Instant::now());
    if which == "hand" {
        // On a worker, as the router's sender is.
        let stream = std::mem::replace(&mut pair.hand, unconnected().await?);
        pair.hand = tokio::spawn(send_by_hand(stream, tells)).await??;
    } else {
        tokio::spawn(send_by_router(pair.near.router.clone(), tells)).await??;
    }
    *told += tells;
    pair.counted(which, *told)?;
    let took = begun.elapsed();
    let after = pair.cpu()?;
    let each = |time: Duration| time.as_secs_f64() * 1e9 / tells as f64;
    Ok(Run { per_second: tells as f64 / took.as_secs_f64(), near_ns: each(after.0 - before.0), far_ns: each(after.1 - before.1) })
}

/// Holds the place of the stream that is away.
async fn unconnected() -> anyhow::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(TcpStream::connect(listener.local_addr()?).await?)
}

async fn send_by_hand(stream: TcpStream, tells: u64) -> anyhow::Result<TcpStream> {
    let mut to = BufWriter::with_capacity(64 * 1024, stream);
    let mut payload = Payload { id: 0, ts: 0, bytes: vec![7; 100] };
    let mut body = Vec::new();
    for id in 0..tells {
        payload.id = id;
        body.clear();
        rmp_serde::encode::write(&mut body, &payload)?;
        to.write_u32(u32::try_from(body.len())?).await?;
        to.write_all(&body).await?;
    }
    to.flush().await?;
    Ok(to.into_inner())
}

async fn send_by_router(router: hiveward_runtime::cluster::router::Router, tells: u64) -> anyhow::Result<()> {
    let (deadline, dst) = (Deadline::after(Duration::from_secs(120)), counting());
    let mut payload = Payload { id: 0, ts: 0, bytes: vec![7; 100] };
    for id in 0..tells {
        payload.id = id;
        router.tell_wait(deadline, &dst, &payload).await?;
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

async fn tells(pair: &mut Pair, figures: &mut Figures) -> anyhow::Result<()> {
    let (rounds, tells) = if short() { (3, 500_000) } else { (7, 3_000_000) };
    let (mut by_hand, mut by_router) = (Vec::new(), Vec::new());
    let (mut told_hand, mut told_router) = (0, 0);
    tell_run(pair, "hand", tells / 10, &mut told_hand).await?;
    tell_run(pair, "router", tells / 10, &mut told_router).await?;
    for _ in 0..rounds {
        let hand = tell_run(pair, "hand", tells, &mut told_hand).await?;
        let router = tell_run(pair, "router", tells, &mut told_router).await?;
        println!(
            "  by hand {:.0}/s, by router {:.0}/s: {:.2}",
            hand.per_second,
            router.per_second,
            router.per_second / hand.per_second
        );
        by_hand.push(hand);
        by_router.push(router);
    }
    let (hand, router) = (median(by_hand.iter().map(|run| run.per_second)), median(by_router.iter().map(|run| run.per_second)));
    figures.row("tell of 100 B by hand: TCP, rmp-serde, ractor actor", hand, "1/s", "no encryption, no destination, no credit");
    figures.row("tell of 100 B by the router, into a ractor actor", router, "1/s", "goal 2,000,000; Erlang 270,000 casts/s");
    let ratios = by_hand.iter().zip(&by_router).map(|(hand, router)| router.per_second / hand.per_second);
    figures.row("router to hand, median of the rounds", median(ratios), "ratio", "at least 0.7");
    let spent = |runs: &[Run]| median(runs.iter().map(|run| run.near_ns + run.far_ns));
    figures.row(
        "the same in processor time per tell",
        spent(&by_hand) / spent(&by_router),
        "ratio",
        "at least 0.7, whatever else runs",
    );
    for (who, runs) in [("by hand", &by_hand), ("by router", &by_router)] {
        figures.row(&format!("processor of the sender per tell, {who}"), median(runs.iter().map(|run| run.near_ns)), "ns", "");
        figures.row(&format!("processor of the receiver per tell, {who}"), median(runs.iter().map(|run| run.far_ns)), "ns", "");
    }
    Ok(())
}

/// The program of the package beside this one, built on demand: its features must not reach the workspace's ractor.
fn bare_cluster() -> anyhow::Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("ractor_cluster");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| package.join("target"), |target| PathBuf::from(target).join("bare"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(&package)
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(&target)
        .status()?;
    anyhow::ensure!(built.success(), "the bare ractor_cluster program was not built");
    Ok(target.join("release/bare-ractor-cluster"))
}

async fn asks(pair: &Pair, figures: &mut Figures) -> anyhow::Result<()> {
    let (rounds, calls) = if short() { (2, 3_000) } else { (5, 10_000) };
    let bare = bare_cluster()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let output = Command::new(&bare).arg(calls.to_string()).stderr(Stdio::inherit()).output()?;
        anyhow::ensure!(output.status.success(), "bare ractor_cluster failed");
        let mut round: Vec<Duration> = String::from_utf8(output.stdout)?
            .lines()
            .map(|line| line.parse().map(|us: f64| Duration::from_secs_f64(us / 1e6)))
            .collect::<Result<_, _>>()?;
        theirs.push((percentile(&mut round, 0.5), percentile(&mut round, 0.99)));
        let router = pair.near.router.clone();
        let mut round = tokio::spawn(async move {
            let (mut took, dst) = (Vec::with_capacity(calls), echoing());
            for number in 0..calls as u64 {
                let asked = Instant::now();
                let answer: u64 = router.ask(Deadline::after(Duration::from_secs(5)), &dst, &number).await?;
                took.push(asked.elapsed());
                anyhow::ensure!(answer == number, "another answer");
            }
            anyhow::Ok(took)
        })
        .await??;
        ours.push((percentile(&mut round, 0.5), percentile(&mut round, 0.99)));
    }
    let us = |times: &[(Duration, Duration)], at: fn(&(Duration, Duration)) -> Duration| {
        median(times.iter().map(|time| at(time).as_secs_f64() * 1e6))
    };
    let (our, their) = (us(&ours, |time| time.0), us(&theirs, |time| time.0));
    figures.row("ask round trip by the router over TLS, idle, p50", our, "us", "Erlang's distribution 55");
    figures.row("ask round trip by the router over TLS, idle, p99", us(&ours, |time| time.1), "us", "");
    figures.row("call by bare ractor_cluster over TCP, idle, p50", their, "us", "");
    figures.row("call by bare ractor_cluster over TCP, idle, p99", us(&theirs, |time| time.1), "us", "");
    figures.row("router to ractor_cluster, p50", our / their, "ratio", "under 1.3");
    Ok(())
}

#[derive(Default)]
struct Outcomes {
    accepted: AtomicU64,
    /// The destination's mailbox is full.
    busy: AtomicU64,
    /// The link's queue is full.
    way_full: AtomicU64,
    unreachable: AtomicU64,
}

/// Tells without ever waiting, and says what the callers heard and how much both sides held at most.
async fn flood(pair: &Pair, dst: Key, during: Duration) -> anyhow::Result<(Outcomes, (f64, f64), f64)> {
    let outcomes = Arc::new(Outcomes::default());
    let (router, there, heard) = (pair.near.router.clone(), pair.there, outcomes.clone());
    let sender = tokio::spawn(async move {
        let (until, payload) = (Instant::now() + during, Payload { id: 0, ts: 0, bytes: vec![7; SLOW_BODY] });
        while Instant::now() < until {
            for _ in 0..100 {
                let counter = match router.tell_at(there, &dst, &payload) {
                    Ok(()) => &heard.accepted,
                    Err(RouteError::Busy { .. }) => &heard.busy,
                    Err(RouteError::WayFull { .. }) => &heard.way_full,
                    Err(_) => &heard.unreachable,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tokio::task::yield_now().await;
        }
    });
    let (mut most, mut queued) = ((0.0_f64, 0.0_f64), 0);
    while !sender.is_finished() {
        let now = pair.resident()?;
        most = (most.0.max(now.0), most.1.max(now.1));
        let links = pair.near.manager.links().snapshot().links;
        queued = queued.max(links.iter().map(|link| link.queued_bytes).sum());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sender.await?;
    let outcomes = Arc::into_inner(outcomes).context("still held")?;
    Ok((outcomes, most, queued as f64 / 1048576.0))
}

async fn bounds(pair: &mut Pair, figures: &mut Figures) -> anyhow::Result<()> {
    let during = Duration::from_secs(if short() { 5 } else { 60 });
    let config = hiveward_runtime::net::link::LinkConfig::new(pair.near.manager.address());
    let mib = |bytes: usize| bytes as f64 / 1048576.0;
    let sender_bound =
        format!("bound {:.2}: LinkConfig::outbound_bytes_max and one frame", mib(config.outbound_bytes_max + 256 * 1024));
    for stopped in [false, true] {
        let name = if stopped { "stopped receiver" } else { "slow receiver" };
        let before = pair.resident()?;
        let pid = Pid::from_raw(i32::try_from(pair.child.id())?);
        if stopped {
            kill(pid, Signal::SIGSTOP)?;
        }
        let flooded = flood(pair, slow(), during).await;
        if stopped {
            kill(pid, Signal::SIGCONT)?;
        }
        let (outcomes, most, queued) = flooded?;
        let seconds = during.as_secs_f64();
        figures.row(
            &format!("{name}: tells of 1000 B tried"),
            total(&outcomes) / seconds,
            "1/s",
            &format!("for {seconds} s, never waiting"),
        );
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        figures.row(&format!("{name}: accepted"), count(&outcomes.accepted), "", "");
        figures.row(&format!("{name}: refused as Busy (its mailbox is full)"), count(&outcomes.busy), "", "");
        figures.row(&format!("{name}: refused as WayFull (code BUSY)"), count(&outcomes.way_full), "", "");
        figures.row(
            &format!("{name}: refused as unreachable"),
            count(&outcomes.unreachable),
            "",
            "silent for LinkConfig::read_idle: the link is closed",
        );
        figures.row(&format!("{name}: most queued by the sender"), queued, "MiB", &sender_bound);
        figures.row(&format!("{name}: sender's memory before"), before.0, "MB", "");
        figures.row(&format!("{name}: sender's memory at most"), most.0, "MB", "");
        figures.row(&format!("{name}: receiver's memory before"), before.1, "MB", "");
        let far_bound = format!(
            "{:.1} more at most: LinkConfig::window_bytes, a piece, two frames, a mailbox of {SLOW_MAILBOX} x {SLOW_BODY} B",
            mib(config.window_bytes as usize + 64 * 1024 + 512 * 1024 + SLOW_MAILBOX * SLOW_BODY)
        );
        figures.row(&format!("{name}: receiver's memory at most"), most.1, "MB", &far_bound);
    }
    // It is itself again: linked, and answering.
    let back = Instant::now();
    while pair.near.router.ask::<_, u64>(Deadline::after(Duration::from_secs(5)), &echoing(), &1_u64).await.is_err() {
        anyhow::ensure!(back.elapsed() < Duration::from_secs(60), "it never came back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    figures.row(
        "stopped receiver: answers again after it goes on",
        back.elapsed().as_secs_f64(),
        "s",
        "LinkConfig::backoff, at most 10 and half",
    );
    Ok(())
}

fn total(outcomes: &Outcomes) -> f64 {
    let all = [&outcomes.accepted, &outcomes.busy, &outcomes.way_full, &outcomes.unreachable];
    all.iter().map(|counter| counter.load(Ordering::Relaxed)).sum::<u64>() as f64
}
