//! Fifty VMs on libvirt's test hypervisor through a node, beside bare calls of libvirt in a program of its own, in turn.
//!
//! Needs what links libvirt, built beside the workspace:
//! `(cd actors/libvirt-driver && cargo build --release --bin hiveward-libvirt-driver --example bare)`, found in
//! `HIVEWARD_LIBVIRT_BUILT` or in `actors/libvirt-driver/target/release`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{StreamExt, TryStreamExt, stream};
use hiveward_actors::{
    client::{ControlPlane, NewHost, NewVm},
    node::{Node, NodeConfig},
};
use hiveward_benches::{Figures, load};
use hiveward_kernel::id::VmId;
use hiveward_machines::host::{driver::libvirt::use_program, record::HostStatus};
use hiveward_runtime::op::Op;

const VMS: usize = 50;
const ROUNDS: usize = 9;
const URI: &str = "test:///default";
const STEPS: [&str; 4] = ["create", "stop", "start", "remove"];

fn op() -> Op {
    Op::internal(Duration::from_secs(60))
}

fn built() -> PathBuf {
    std::env::var_os("HIVEWARD_LIBVIRT_BUILT")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../actors/libvirt-driver/target/release"), PathBuf::from)
}

/// Milliseconds of each step, of all VMs.
type Times = BTreeMap<String, f64>;

fn bare(program: &Path) -> anyhow::Result<Times> {
    let ran = Command::new(program).args([URI, &VMS.to_string()]).output()?;
    anyhow::ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let micros: BTreeMap<String, f64> = serde_json::from_slice(&ran.stdout)?;
    Ok(micros.into_iter().map(|(step, micros)| (step, micros / 1000.0)).collect())
}

/// All at once, as a client that has fifty to do would ask; each is answered when it is durable and done on the host.
async fn ours(control: &ControlPlane, round: usize) -> anyhow::Result<Times> {
    let mut times = Times::new();
    let mut took = |step: usize, begun: Instant| times.insert(STEPS[step].to_owned(), begun.elapsed().as_secs_f64() * 1000.0);
    let begun = Instant::now();
    let new = |n| NewVm::new(format!("vm-{round}-{n}"), "any", 1, 32 << 20);
    let made = stream::iter(0..VMS).map(|n| control.create_vm(op(), new(n))).buffer_unordered(VMS);
    let made: Vec<VmId> = made.map_ok(|done| done.value.spec.id).try_collect().await?;
    took(0, begun);
    let begun = Instant::now();
    let stopped = stream::iter(&made).map(|vm| control.stop_vm(op(), *vm, true, None)).buffer_unordered(VMS);
    stopped.try_for_each(|_| async { Ok(()) }).await?;
    took(1, begun);
    let begun = Instant::now();
    let started = stream::iter(&made).map(|vm| control.start_vm(op(), *vm)).buffer_unordered(VMS);
    started.try_for_each(|_| async { Ok(()) }).await?;
    took(2, begun);
    let begun = Instant::now();
    let removed = stream::iter(&made).map(|vm| control.remove_vm(op(), *vm, true)).buffer_unordered(VMS);
    removed.try_for_each(|_| async { Ok(()) }).await?;
    took(3, begun);
    Ok(times)
}

fn median(rounds: &[Times], step: &str) -> f64 {
    let mut of: Vec<f64> = rounds.iter().filter_map(|times| times.get(step).copied()).collect();
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let (driver, program) = (built().join("hiveward-libvirt-driver"), built().join("examples/bare"));
    if !driver.exists() || !program.exists() {
        println!("left out: {} or {} is not built", driver.display(), program.display());
        return Ok(());
    }
    use_program(driver);
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let mut figures = Figures::new("libvirt");
    figures.row("load of the machine", load()?, "", "");
    let node = Node::start(NodeConfig { default_agents: 0, ..NodeConfig::new(dir.path().join("node")) }).await?;
    let control = node.control();
    let new = NewHost { name: "lv".into(), uri: URI.into(), cpu_overcommit: Some(64.0), ..NewHost::default() };
    let host = control.register_host(op(), new).await?.value.spec.id;
    while control.host(host).context("the host")?.status != HostStatus::Up {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        without.push(bare(&program)?);
        with.push(ours(&control, round).await?);
    }
    for step in STEPS {
        let (bare, ours) = (median(&without, step), median(&with, step));
        let beside = format!("{:.1} times {bare:.1} ms of bare calls", ours / bare);
        figures.row(&format!("{VMS} VMs, {step}, median of {ROUNDS}"), ours, "ms", &beside);
    }
    node.stop(Duration::from_secs(30)).await;
    figures.write()?;
    Ok(())
}
