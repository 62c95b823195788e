//! Ten thousand VMs on five hundred simulated hosts on one node: every VM an actor; what they hold, how fast their life goes
//! and how fast a page of them is read meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use hiveward_actors::{
    client::{ControlPlane, NewHost, NewVm},
    node::{Node, NodeConfig},
};
use hiveward_benches::{
    Figures, load, ms, percentile, resident_mb,
    served::{TOKEN, serve},
    wire::Http,
};
use hiveward_kernel::id::VmId;
use hiveward_machines::host::record::HostStatus;
use hiveward_runtime::op::Op;

const HOSTS: usize = 500;
const VMS: usize = 10_000;
const AT_ONCE: usize = 128;

fn op() -> Op {
    Op::internal(Duration::from_secs(120))
}

/// How many; for a short look `HIVEWARD_VMS` says fewer.
fn vms() -> usize {
    std::env::var("HIVEWARD_VMS").ok().and_then(|count| count.parse().ok()).unwrap_or(VMS)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(std::env::var_os("HIVEWARD_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))?;
    let (mut figures, count) = (Figures::new("vms"), vms());
    figures.row("load of the machine", load()?, "", "");
    let node = Node::start(NodeConfig { default_agents: 0, ..NodeConfig::new(dir.path().join("node")) }).await?;
    let control = node.control();
    let begun = Instant::now();
    hosts(&control).await?;
    figures.row("hosts registered and reached", HOSTS as f64 / begun.elapsed().as_secs_f64(), "1/s", "");
    figures.row("a node with 500 hosts, resident", resident_mb()?, "MB", "");

    let server = serve(control.clone()).await?;
    let (address, over) = (server.address(), Arc::new(AtomicBool::new(false)));
    let pages = std::thread::spawn({
        let over = over.clone();
        move || pages(address, &over)
    });
    let begun = Instant::now();
    let new = |n| NewVm::new(format!("vm-{n}"), "debian-12", 1 + n as u32 % 4, (1 + n as u64 % 8) << 30);
    let made = stream::iter(0..count).map(|n| control.create_vm(op(), new(n))).buffer_unordered(AT_ONCE);
    let made: Vec<VmId> = made.map_ok(|done| done.value.spec.id).try_collect().await?;
    figures.row("VMs placed, defined, started and in the views", count as f64 / begun.elapsed().as_secs_f64(), "1/s", "");
    figures.row(&format!("the node with {count} running VMs, resident"), resident_mb()?, "MB", "");
    let begun = Instant::now();
    let stopped = stream::iter(&made).map(|vm| control.stop_vm(op(), *vm, true, None)).buffer_unordered(AT_ONCE);
    stopped.try_for_each(|_| async { Ok(()) }).await?;
    figures.row("VMs stopped", count as f64 / begun.elapsed().as_secs_f64(), "1/s", "");
    let begun = Instant::now();
    let removed = stream::iter(&made).map(|vm| control.remove_vm(op(), *vm, true)).buffer_unordered(AT_ONCE);
    removed.try_for_each(|_| async { Ok(()) }).await?;
    figures.row("VMs removed, with all that was reserved", count as f64 / begun.elapsed().as_secs_f64(), "1/s", "");
    over.store(true, Ordering::Relaxed);
    let mut times = pages.join().map_err(|_| anyhow::anyhow!("reading pages broke off"))??;
    figures.row("pages of 50 VMs over HTTP while that went on", times.len() as f64, "", "");
    figures.row("such a page, p50", ms(percentile(&mut times, 0.5)), "ms", "");
    figures.row("such a page, p99", ms(percentile(&mut times, 0.99)), "ms", "under 100");
    server.stop(Duration::from_secs(5)).await;
    let left: u32 = control.hosts(&[], None, HOSTS)?.items.iter().map(|(_, host)| host.reserved_cpus + host.vms).sum();
    figures.row("reservations leaked", f64::from(left), "", "0");
    node.stop(Duration::from_secs(60)).await;
    figures.write()?;
    Ok(())
}

async fn hosts(control: &ControlPlane) -> anyhow::Result<()> {
    let new = |n| NewHost { name: format!("host-{n}"), uri: format!("simulated://bench-{n}"), ..NewHost::default() };
    let made = stream::iter(0..HOSTS).map(|n| control.register_host(op(), new(n))).buffer_unordered(AT_ONCE);
    made.try_for_each(|_| async { Ok(()) }).await?;
    while control.hosts(&[HostStatus::Up], None, HOSTS)?.items.len() < HOSTS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

const PAGE: &str = "query($after:String){vms(first:50,after:$after){nodes{id name status observed host{id name} \
    usage{cpuTimeNs memoryBytes}} pageInfo{endCursor hasNextPage}}}";

/// Walks all pages of VMs again and again, as a client with a connection of its own, until it is over. How long each took.
fn pages(address: SocketAddr, over: &AtomicBool) -> anyhow::Result<Vec<Duration>> {
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    client.block_on(async {
        let mut http = Http::open(address, TOKEN).await?;
        let (mut times, mut after) = (Vec::new(), None::<String>);
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let asked = serde_json::json!({ "query": PAGE, "variables": { "after": after } }).to_string();
            let answer: serde_json::Value = serde_json::from_slice(http.post(&asked).await?)?;
            times.push(begun.elapsed());
            anyhow::ensure!(answer.get("errors").is_none(), "{answer}");
            let info = &answer["data"]["vms"]["pageInfo"];
            after = if info["hasNextPage"] == true { info["endCursor"].as_str().map(str::to_owned) } else { None };
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(times)
    })
}
