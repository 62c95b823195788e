//! A VM of a real host whose node is cut off, frozen and killed: it is ended there, comes back on the other host from the
//! same disk, and never are there two QEMUs of it (F22, I7).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hiveward_tests::{
    cluster::{Cluster, Shape},
    until_within,
};
use serde_json::Value;

use crate::lab::{Lab, driver, guest};

/// A lease of 8 s, the margin, and a guest that boots without KVM on a busy machine.
const BACK: Duration = Duration::from_secs(120);

/// The processes that ran from a moment on.
type Change = (Instant, Vec<i32>);

/// Looks all the time at the processes themselves, from outside.
struct Watch {
    over: Arc<AtomicBool>,
    /// When how many of it ran, whenever that changed.
    seen: Arc<Mutex<Vec<Change>>>,
    looking: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn begin(lab: &Arc<Lab>) -> Self {
        let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (lab, stop, into) = (lab.clone(), over.clone(), seen.clone());
        let looking = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let pids: Vec<i32> =
                    lab.qemus().into_iter().filter(|(_, line)| line.contains("web")).map(|(pid, _)| pid).collect();
                let mut seen: std::sync::MutexGuard<'_, Vec<Change>> = into.lock().unwrap();
                if seen.last().is_none_or(|(_, last)| *last != pids) {
                    seen.push((Instant::now(), pids));
                }
                drop(seen);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { over, seen, looking: Some(looking) }
    }

    fn end(mut self) -> Vec<Change> {
        self.over.store(true, Ordering::Relaxed);
        self.looking.take().unwrap().join().unwrap();
        self.seen.lock().unwrap().clone()
    }
}

struct Scene {
    lab: Arc<Lab>,
    cluster: Cluster,
}

impl Scene {
    async fn ok(&self, by: usize, args: &[&str]) -> String {
        let ran = self.cluster.cli(by, args).await;
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out
    }

    async fn vm(&self, by: usize) -> Option<Value> {
        let asked = self.cluster.cli(by, &["-o", "json", "vm", "show", "web"]);
        serde_json::from_str(&tokio::time::timeout(Duration::from_secs(20), asked).await.ok()?.out).ok()
    }

    /// Waits until it runs on this host and its guest answers from there.
    async fn runs_on(&self, by: usize, host: usize, epoch: u64) {
        let name = if epoch == 0 { "web".to_owned() } else { format!("web+{epoch}") };
        until_within(BACK, &format!("web runs on h{host}"), async || {
            let vm = self.vm(by).await?;
            let there = vm["host"]["name"] == format!("h{host}") && vm["status"] == "RUNNING";
            there.then_some(())
        })
        .await;
        let boots = until_within(BACK, "the guest to answer", async || {
            self.lab.in_guest(host, &name, &["/bin/cat", "/data/boots"])?.parse::<u64>().ok()
        })
        .await;
        assert_eq!(boots, epoch + 1, "it is not the disk that it had");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_vm_comes_back_when_its_hosts_node_is_cut_off_frozen_or_killed_and_never_runs_twice() {
    let lab = Arc::new(Lab::start(2));
    let shape = Shape::of(3).env("HIVEWARD_LIBVIRT_DRIVER", driver().to_str().unwrap());
    let Some(cluster) = Cluster::joined(&shape).await else { return };
    let mut scene = Scene { lab, cluster };
    // Neither host is of the node that leads: what is measured is the lease, not an election.
    let by = scene.cluster.leader().await;
    let nodes: Vec<usize> = (0..3).filter(|node| *node != by).collect();
    for (at, node) in nodes.iter().enumerate() {
        let (uri, name, id) = (scene.lab.uri(at + 1), format!("h{}", at + 1), scene.cluster.node(*node).id());
        let shared = scene.lab.shared();
        scene.ok(*node, &["host", "add", &uri, "--name", &name, "--node", &id, "--pool", &shared, "--pool-shared"]).await;
    }
    scene.ok(by, &["image", "import", guest(), "--name", "guest"]).await;
    let create =
        ["vm", "create", "web", "--image", "guest", "--memory", "128MiB", "--network", "bridge:br0", "--ha", "--on", "h1"];
    scene.ok(by, &create).await;
    scene.runs_on(by, 1, 0).await;
    let watch = Watch::begin(&scene.lab);

    for (round, how) in ["cut off", "frozen", "killed"].into_iter().enumerate() {
        let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        let node = nodes[from - 1];
        let began = Instant::now();
        match how {
            "cut off" => scene.cluster.net.isolate(node),
            "frozen" => scene.cluster.freeze(node),
            _ => scene.cluster.kill(node),
        }
        scene.runs_on(by, to, round as u64 + 1).await;
        eprintln!("{how}: the guest answers on the other host after {:.1?}", began.elapsed());
        match how {
            "cut off" => scene.cluster.net.heal(),
            "frozen" => scene.cluster.thaw(node),
            _ => scene.cluster.start_again(node).await,
        }
        scene.cluster.settled().await;
        // What was there is removed, and its disk is not: that is the other's now.
        until_within(BACK, "the lost host to be rid of it", async || scene.lab.domains(from).is_empty().then_some(())).await;
        until_within(BACK, "the lost host to be back", async || {
            let shown = scene.cluster.cli(by, &["-o", "json", "host", "show", &format!("h{from}")]).await;
            (serde_json::from_str::<Value>(&shown.out).ok()?["status"] == "UP").then_some(())
        })
        .await;
        assert!(scene.lab.in_guest(to, &format!("web+{}", round + 1), &["/bin/cat", "/data/boots"]).is_some());
    }

    let seen = watch.end();
    for (at, pids) in &seen {
        eprintln!("{:.1?} ago: QEMUs {pids:?}", at.elapsed());
        assert!(pids.len() <= 1, "two of it ran: {seen:?}");
    }

    // The second wall: QEMU itself starts no other one on a disk that is in use.
    let xml = scene.lab.virsh(2, &["dumpxml", &scene.lab.domains(2)[0].0]);
    let file = scene.cluster.own_dir().join("web.xml");
    std::fs::write(&file, xml).unwrap();
    let said = scene.lab.virsh(1, &["create", file.to_str().unwrap()]);
    assert!(said.contains("lock"), "{said}");

    scene.ok(by, &["vm", "remove", "web", "--force"]).await;
    until_within(BACK, "nothing to be left", async || {
        (scene.lab.disks().is_empty() && scene.lab.qemus().is_empty()).then_some(())
    })
    .await;
}
