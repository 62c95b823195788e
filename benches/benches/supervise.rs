//! What supervision costs: from a panic to answering again (beside Erlang/OTP where it is installed), a message through
//! our doors against bare ractor in the same run, and ten thousand idle actors.
//!
//! Prints one line per figure and appends the same as JSON lines to `target/bench/supervise.json`.

use std::{
    hint::black_box,
    io::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use hiveward_runtime::{
    call::{Door, Reply},
    clock::{Deadline, WallMs},
    supervise::{Behaviour, ChildSpec, Context, Failure, Intensity, Strategy, Supervisor, SupervisorSpec, Tree},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

const RESTARTS: usize = 5_000;
const TELLS: u32 = 1_000_000;
/// Messages told before the client waits for the actor, as a bounded mailbox makes it do.
const BURST: u32 = 1_000;
const ASKS: u32 = 200_000;
const ROUNDS: usize = 5;
const IDLE: usize = 10_000;

type Done = anyhow::Result<()>;

enum Msg {
    Add(u32),
    Sum(Reply<u32>),
    Panic,
}

struct Ours;

impl Behaviour for Ours {
    type Msg = Msg;
    type State = u32;

    async fn start(&self, _: &Context<Msg>) -> Result<u32, Failure> {
        Ok(0)
    }

    #[allow(clippy::panic)] // It is what is measured.
    async fn handle(&self, _: &Context<Msg>, msg: Msg, sum: &mut u32) -> Result<(), Failure> {
        match msg {
            Msg::Add(n) => *sum = sum.wrapping_add(n),
            Msg::Sum(reply) => reply.answer(*sum),
            Msg::Panic => panic!("told to"),
        }
        Ok(())
    }
}

enum BareMsg {
    Add(u32),
    Sum(RpcReplyPort<u32>),
}

impl ractor::Message for BareMsg {}

struct Bare;

impl Actor for Bare {
    type Msg = BareMsg;
    type State = u32;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<BareMsg>, (): ()) -> Result<u32, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(&self, _: ActorRef<BareMsg>, msg: BareMsg, sum: &mut u32) -> Result<(), ActorProcessingErr> {
        match msg {
            BareMsg::Add(n) => *sum = sum.wrapping_add(n),
            // Who asked may have given up.
            BareMsg::Sum(reply) => drop(reply.send(*sum)),
        }
        Ok(())
    }
}

struct Report(std::fs::File);

impl Report {
    fn open() -> anyhow::Result<Self> {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
        std::fs::create_dir_all(&dir)?;
        Ok(Self(std::fs::OpenOptions::new().create(true).append(true).open(dir.join("supervise.json"))?))
    }

    fn figure(&mut self, name: &str, value: f64, unit: &str) -> Done {
        println!("{name}: {value:.2} {unit}");
        let line = serde_json::json!({ "bench": "supervise", "at": WallMs::now(), "figure": name, "value": value, "unit": unit });
        Ok(writeln!(self.0, "{line}")?)
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * share) as usize).copied().unwrap_or(f64::NAN)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

async fn one(mailbox: usize) -> anyhow::Result<(Supervisor, Door<Msg>)> {
    let (spec, door) = ChildSpec::actor("child", "bench", || Ours).mailbox(mailbox).build();
    let always = Intensity { restarts_max: u32::MAX, period: Duration::from_secs(1) };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne, vec![spec]).intensity(always);
    Ok((Supervisor::root(spec, Tree::default()).await?, door))
}

/// A client tells it to panic and asks it until the next life answers.
async fn panic_to_answer(door: &Door<Msg>) -> f64 {
    let start = Instant::now();
    let mut told = door.tell(Msg::Panic).is_ok();
    while !told || door.ask(soon(), Msg::Sum).await.is_err() {
        if !told {
            told = door.tell(Msg::Panic).is_ok();
        }
        tokio::task::yield_now().await;
    }
    start.elapsed().as_secs_f64() * 1e6
}

async fn restarts(report: &mut Report) -> Done {
    let (root, door) = one(64).await?;
    for _ in 0..500 {
        panic_to_answer(&door).await;
    }
    let mut times = Vec::with_capacity(RESTARTS);
    for _ in 0..RESTARTS {
        times.push(panic_to_answer(&door).await);
    }
    let times = sorted(times);
    report.figure("panic to answering again, p50", at(&times, 0.5), "µs")?;
    report.figure("panic to answering again, p99", at(&times, 0.99), "µs")?;
    root.shutdown(Duration::from_secs(5)).await;

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/supervise_otp.escript");
    match Command::new("escript").arg(script).arg(RESTARTS.to_string()).output() {
        Err(_) => println!("Erlang/OTP: not installed (Debian package erlang-base), not measured"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let mut ns = text.split_whitespace().map(str::parse::<f64>);
            let (Some(Ok(p50)), Some(Ok(p99))) = (ns.next(), ns.next()) else {
                return Err(anyhow!("the Erlang side said {text:?} and {:?}", String::from_utf8_lossy(&output.stderr)));
            };
            report.figure("Erlang/OTP supervisor, crash to answering again, p50", p50 / 1e3, "µs")?;
            report.figure("Erlang/OTP supervisor, crash to answering again, p99", p99 / 1e3, "µs")?;
        }
    }
    Ok(())
}

/// Nanoseconds per message until the last one was handled.
async fn tell_ours(door: &Door<Msg>) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..TELLS / BURST {
        for n in 0..BURST {
            door.tell(Msg::Add(n)).map_err(|error| anyhow!("{error:?}"))?;
        }
        black_box(door.ask(soon(), Msg::Sum).await?);
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(TELLS))
}

async fn tell_bare(actor: &ActorRef<BareMsg>) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..TELLS / BURST {
        for n in 0..BURST {
            actor.send_message(BareMsg::Add(n)).map_err(|error| anyhow!("{error}"))?;
        }
        black_box(actor.call(BareMsg::Sum, Some(Duration::from_secs(30))).await.map_err(|error| anyhow!("{error}"))?);
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(TELLS))
}

async fn ask_ours(door: &Door<Msg>) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..ASKS {
        black_box(door.ask(soon(), Msg::Sum).await?);
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(ASKS))
}

async fn ask_bare(actor: &ActorRef<BareMsg>) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..ASKS {
        black_box(actor.call(BareMsg::Sum, Some(Duration::from_secs(30))).await.map_err(|error| anyhow!("{error}"))?);
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(ASKS))
}

/// Ours and bare ractor in turns, so that what else the machine does harms both alike; the median of each.
async fn messages(report: &mut Report, workers: usize) -> Done {
    let (root, door) = one(BURST as usize + 1).await?;
    let (bare, _) = Actor::spawn(None, Bare, ()).await?;
    let mut figures: [Vec<f64>; 4] = Default::default();
    for _ in 0..=ROUNDS {
        figures[0].push(tell_ours(&door).await?);
        figures[1].push(tell_bare(&bare).await?);
        figures[2].push(ask_ours(&door).await?);
        figures[3].push(ask_bare(&bare).await?);
    }
    // The first round warms up.
    let [tell, bare_tell, ask, bare_ask] = figures.map(|mut values| at(&sorted(values.split_off(1)), 0.5));
    for (what, ours, theirs) in [("tell", tell, bare_tell), ("ask", ask, bare_ask)] {
        report.figure(&format!("{what}, {workers} worker threads, ours"), ours, "ns")?;
        report.figure(&format!("{what}, {workers} worker threads, bare ractor"), theirs, "ns")?;
        report.figure(&format!("{what}, {workers} worker threads, ours / bare ractor"), ours / theirs, "times")?;
    }
    bare.stop(None);
    root.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

fn resident_bytes() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    Ok(line.trim_end_matches("kB").trim().parse::<f64>()? * 1024.0)
}

async fn idle(report: &mut Report) -> Done {
    let tree = Tree::default();
    let root = Supervisor::root(SupervisorSpec::new("root", Strategy::OneForOne, vec![]), tree.clone()).await?;
    let before = resident_bytes()?;
    let start = Instant::now();
    let mut doors = Vec::with_capacity(IDLE);
    for n in 0..IDLE {
        let (spec, door) = ChildSpec::actor(format!("child-{n}"), "bench", || Ours).build();
        root.start_child(spec, soon()).await?;
        doors.push(door);
    }
    report.figure("start of one child out of 10,000, one by one", start.elapsed().as_secs_f64() * 1e6 / IDLE as f64, "µs")?;
    report.figure("memory of 10,000 idle supervised actors", (resident_bytes()? - before) / 1e6, "MB")?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        let snapshot = black_box(tree.snapshot(None, usize::MAX));
        times.push(start.elapsed().as_secs_f64() * 1e3);
        let seen = snapshot.map_or(0, |node| node.children.len());
        anyhow::ensure!(seen == IDLE, "the tree shows {seen} children");
    }
    let times = sorted(times);
    report.figure("snapshot of a tree of 10,000, p50", at(&times, 0.5), "ms")?;
    report.figure("snapshot of a tree of 10,000, p99", at(&times, 0.99), "ms")?;
    let start = Instant::now();
    root.shutdown(Duration::from_secs(30)).await;
    report.figure("shutdown of 10,000 actors", start.elapsed().as_secs_f64() * 1e3, "ms")?;
    Ok(())
}

fn runtime(workers: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?)
}

fn on<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    future: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    runtime.block_on(async { tokio::spawn(future).await })?
}

fn main() -> Done {
    // Without this every panic is printed; the Erlang side has its logger off as well.
    std::panic::set_hook(Box::new(|_| {}));
    // In a task, as in the node: the thread that enters the runtime is not one of its workers. The idle ones first, while
    // nothing was freed that they could take.
    // `cargo bench --bench supervise -- idle` runs that part alone.
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted("idle") {
        on(&runtime(2)?, async { idle(&mut Report::open()?).await })?;
    }
    if wanted("restarts") {
        on(&runtime(2)?, async { restarts(&mut Report::open()?).await })?;
    }
    if wanted("messages") {
        for workers in [1, 2] {
            on(&runtime(workers)?, async move { messages(&mut Report::open()?, workers).await })?;
        }
    }
    Ok(())
}
