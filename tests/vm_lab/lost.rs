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

/// A VM of a tenant that this test looks at.
struct Tenant<'a> {
    scene: &'a Scene,
    by: usize,
}

impl Tenant<'_> {
    async fn vm(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&self.scene.cluster.cli(self.by, &["-o", "json", "vm", "show", name]).await.out).ok()
    }

    /// Until it runs on a host that will do, and its guest answers; which one, and its card and address.
    async fn up(&self, name: &str, epoch: u64, will_do: impl Fn(usize) -> bool) -> (usize, String, String) {
        let (host, card) = until_within(BACK, &format!("{name} to run"), async || {
            let mut vm = self.vm(name).await?;
            let host: usize = vm["host"]["name"].as_str()?.strip_prefix('h')?.parse().ok()?;
            (vm["status"] == "RUNNING" && will_do(host)).then(|| (host, vm["networkAddresses"][0].take()))
        })
        .await;
        let address = card["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        let domain = if epoch == 0 { name.to_owned() } else { format!("{name}+{epoch}") };
        let has = format!("ip addr | grep -c '{address}/24'; cat /sys/class/net/eth0/address");
        let mac = card["mac"].as_str().unwrap().to_owned();
        until_within(BACK, &format!("{name} to take its address"), async || {
            let said = self.scene.lab.in_guest(host, &domain, &["/bin/sh", "-c", &has])?;
            (said == format!("1\n{mac}")).then_some(())
        })
        .await;
        (host, mac, address)
    }

    fn pings(&self, host: usize, domain: &str, address: &str) -> Option<bool> {
        let line = format!("ping -c 3 -W 1 {address} >/dev/null 2>&1 && echo answered || echo silent");
        let said = self.scene.lab.in_guest(host, domain, &["/bin/sh", "-c", &line])?;
        Some(said == "answered")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_on_an_overlay_comes_back_with_its_card_and_its_address_and_the_lost_host_keeps_nothing_of_the_network() {
    let lab = Arc::new(Lab::start(3));
    let shape = Shape::of(3).env("HIVEWARD_LIBVIRT_DRIVER", driver().to_str().unwrap());
    let Some(cluster) = Cluster::joined(&shape).await else { return };
    let scene = Scene { lab, cluster };
    let by = scene.cluster.leader().await;
    // That of h1 does not lead: what is measured is the lease, not an election.
    let nodes: Vec<usize> = (0..3).filter(|node| *node != by).chain([by]).collect();
    for (at, node) in nodes.iter().enumerate() {
        let host = at + 1;
        let (uri, name, id) = (scene.lab.uri(host), format!("h{host}"), scene.cluster.node(*node).id());
        let (shared, underlay) = (scene.lab.shared(), scene.lab.underlay(host));
        let add =
            ["host", "add", &uri, "--name", &name, "--node", &id, "--pool", &shared, "--pool-shared", "--underlay", &underlay];
        scene.ok(*node, &add).await;
    }
    scene.ok(by, &["image", "import", guest(), "--name", "guest"]).await;
    for tenant in ["red", "blue"] {
        scene.ok(by, &["network", "create", tenant, "--kind", "overlay", "--cidr", "10.77.0.0/24"]).await;
    }
    // The other tenant's are first, so that they have other addresses than who looks for them.
    let all = [
        ("blue0", "blue", "h3", false),
        ("blue1", "blue", "h3", false),
        ("red1", "red", "h1", true),
        ("red2", "red", "h3", false),
    ];
    for (name, network, host, ha) in all {
        let create = ["vm", "create", name, "--image", "guest", "--memory", "128MiB", "--network", network, "--on", host];
        scene.ok(by, &[&create[..], if ha { &["--ha"] } else { &[] }].concat()).await;
    }
    let tenant = Tenant { scene: &scene, by };
    let (_, mac, address) = tenant.up("red1", 0, |host| host == 1).await;
    let (_, _, other) = tenant.up("red2", 0, |_| true).await;
    tenant.up("blue0", 0, |_| true).await;
    tenant.up("blue1", 0, |_| true).await;
    // What no guest of the other tenant has.
    let own = "10.77.0.60";
    let take = ["/bin/sh", "-c", "ip addr add 10.77.0.60/24 dev eth0 && echo taken"];
    assert_eq!(scene.lab.in_guest(3, "red2", &take).as_deref(), Some("taken"));
    assert_eq!(tenant.pings(1, "red1", &other), Some(true), "before it is lost");
    assert!(!scene.lab.devices(1).is_empty());

    let node = nodes[0];
    scene.cluster.net.isolate(node);
    let (host, its_mac, its_address) = tenant.up("red1", 1, |host| host != 1).await;
    assert_eq!((its_mac, &its_address), (mac, &address), "it is another one on its network");
    eprintln!("it is back on h{host}");
    let answered = async |host, domain, address: &str| {
        until_within(BACK, &format!("{domain} to reach {address}"), async || tenant.pings(host, domain, address)?.then_some(()))
            .await;
    };
    answered(3, "red2", &address).await;
    answered(host, "red1+1", own).await;
    assert_eq!(tenant.pings(3, "blue1", own), Some(false), "the other tenant reaches it");
    scene.cluster.net.heal();
    until_within(BACK, "the lost host to be rid of it", async || {
        (scene.lab.domains(1).is_empty() && scene.lab.devices(1).is_empty()).then_some(())
    })
    .await;
    assert_eq!(tenant.pings(3, "red2", &address), Some(true), "after the lost host came back");
    assert_eq!(tenant.pings(3, "blue1", own), Some(false), "the other tenant reaches it");

    scene.ok(by, &["vm", "remove", "red1", "red2", "blue0", "blue1", "--force"]).await;
    until_within(BACK, "nothing to be left", async || {
        let devices = (1..=3).all(|host| scene.lab.devices(host).is_empty());
        (devices && scene.lab.disks().is_empty() && scene.lab.qemus().is_empty()).then_some(())
    })
    .await;
}
