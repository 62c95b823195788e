//! Networks of VMs on simulated hosts of one node, where a model of switches says who reaches whom.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use hiveward_actors::{
    client::{ControlPlane, NewHost, NewKind, NewMove, NewNetwork, NewVm},
    node::{Node, NodeConfig},
};
use hiveward_catalogue::host::{network::book::NetworkEntry, protocol::Make};
use hiveward_kernel::id::{HostId, NetworkId, VmId};
use hiveward_machines::{
    host::{driver::simulated::Hypervisor, record::HostStatus},
    vm::record::{VmRecord, VmStatus},
};
use hiveward_runtime::{
    error::Code,
    fault::{self, Armed, Fault},
    op::Op,
};

struct Here {
    dir: tempfile::TempDir,
    node: Option<Node>,
    hosts: Vec<HostId>,
    hypervisors: Vec<Hypervisor>,
}

fn op() -> Op {
    Op::internal(Duration::from_secs(30))
}

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    NodeConfig { reserve_bytes: 0, default_agents: 0, shim: support::shim(), ..NodeConfig::new(dir.path()) }
}

fn overlay(name: &str) -> NewNetwork {
    NewNetwork { name: name.into(), kind: NewKind::Overlay, cidr: Some("10.7.0.0/24".into()), bridge: None, mtu: None }
}

impl Here {
    async fn start(count: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(&dir)).await.unwrap();
        let (control, name) = (node.control(), format!("n{:x}", VmId::new().as_u128()));
        let (mut hosts, mut hypervisors) = (Vec::new(), Vec::new());
        for n in 0..count {
            let underlay = Some(format!("192.168.7.{}", n + 1));
            let uri = format!("simulated://{name}-{n}?migrateMs=10&startMs=1");
            let new = NewHost { name: format!("h{n}"), uri, underlay, ..NewHost::default() };
            let host = control.register_host(op(), new).await.unwrap().value.spec.id;
            support::until("a host to be reached", || control.host(host).filter(|host| host.status == HostStatus::Up)).await;
            hosts.push(host);
            hypervisors.push(Hypervisor::named(&format!("{name}-{n}")));
        }
        Self { dir, node: Some(node), hosts, hypervisors }
    }

    fn control(&self) -> ControlPlane {
        self.node.as_ref().unwrap().control()
    }

    async fn network(&self, new: NewNetwork) -> NetworkEntry {
        self.control().create_network(op(), new).await.unwrap().value
    }

    async fn vm(&self, name: &str, host: usize, networks: &[&str]) -> VmId {
        let networks = networks.iter().map(|name| (*name).to_owned()).collect();
        let new = NewVm { host: Some(self.hosts[host]), networks, ..NewVm::new(name, "debian-12", 1, 1 << 30) };
        let made = self.control().create_vm(op(), new).await.unwrap().value;
        assert_eq!(made.status, VmStatus::Running, "{made:#?}");
        made.spec.id
    }

    fn at(&self, vm: VmId) -> usize {
        let host = self.control().vm(vm).unwrap().unwrap().host;
        self.hosts.iter().position(|known| *known == host).unwrap()
    }

    fn reaches(&self, from: VmId, to: VmId) -> bool {
        self.hypervisors[self.at(from)].reaches(from, &self.hypervisors[self.at(to)], to)
    }

    async fn until_they_meet(&self, one: VmId, other: VmId) {
        let both = || (self.reaches(one, other) && self.reaches(other, one)).then_some(());
        support::until("two of a network to reach each other", both).await;
    }

    async fn migrate(&self, vm: VmId, to: usize) {
        let to = NewMove { host: Some(self.hosts[to]), ..NewMove::default() };
        let control = self.control();
        let asked = control.migrate_vm(op(), vm, to.clone()).await.unwrap().value;
        let number = asked.state.operations.back().unwrap().number;
        let there = |record: &VmRecord| {
            record.state.operation(number).is_some_and(|operation| operation.ended.is_some()) && Some(record.host) == to.host
        };
        support::until("a migration's end", || control.vm(vm).unwrap().filter(there)).await;
    }

    /// Until a host has just these.
    async fn made(&self, host: usize, numbers: &[u32]) {
        support::until("what is not used any more to go", || (self.hypervisors[host].networks() == numbers).then_some(())).await;
    }

    async fn stop(mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_with_the_same_addresses_never_meet_wherever_their_vms_go() {
    let mut here = Here::start(3).await;
    let (red, blue) = (here.network(overlay("red")).await, here.network(overlay("blue")).await);
    assert_ne!(red.number, blue.number);
    let (red0, blue0) = (here.vm("red0", 0, &["red"]).await, here.vm("blue0", 0, &["blue"]).await);
    let (red1, blue1) = (here.vm("red1", 1, &["red"]).await, here.vm("blue1", 1, &["blue"]).await);
    let address = |here: &Here, vm: VmId| here.control().vm_cards(vm)[0].card.clone();
    assert_eq!(address(&here, red0).address, address(&here, blue0).address);
    assert_ne!(address(&here, red0).mac, address(&here, blue0).mac);
    let apart = |here: &Here, when: &str| {
        for red in [red0, red1] {
            for blue in [blue0, blue1] {
                assert!(!here.reaches(red, blue) && !here.reaches(blue, red), "{when}: tenants meet");
            }
        }
    };
    here.until_they_meet(red0, red1).await;
    here.until_they_meet(blue0, blue1).await;
    apart(&here, "as they were made");

    let before = address(&here, red1);
    here.migrate(red1, 2).await;
    here.until_they_meet(red0, red1).await;
    here.made(1, &[blue.number]).await;
    apart(&here, "after one moved");
    assert_eq!(address(&here, red1), before, "it takes its place along");
    let peers = || match here.hypervisors[0].network(red.number)?.make {
        Make::Overlay { peers, .. } => (peers == ["192.168.7.3"]).then_some(()),
        _ => None,
    };
    support::until("who left to be forgotten", peers).await;

    // Who gave it out knows it after a restart as well.
    here.node.take().unwrap().stop(Duration::from_secs(10)).await;
    here.node = Some(Node::start(config(&here.dir)).await.unwrap());
    support::until("the hosts to be reached", || {
        let up = |host: &HostId| here.control().host(*host).is_some_and(|host| host.status == HostStatus::Up);
        here.hosts.iter().all(up).then_some(())
    })
    .await;
    assert_eq!(address(&here, red1), before);
    here.migrate(red1, 0).await;
    here.until_they_meet(red0, red1).await;
    apart(&here, "on one host");

    let control = here.control();
    let refused = control.remove_network(op(), red.spec.id).await.unwrap_err();
    assert!(refused.code == Code::Refused && refused.message.contains("red0 and 1 more are on network red"), "{refused:?}");
    for vm in [red0, red1, blue0, blue1] {
        control.remove_vm(op(), vm, true).await.unwrap();
    }
    let removed = Op { operation: Some("once".into()), ..op() };
    for _ in 0..2 {
        // Repeated it is so already.
        control.remove_network(removed.clone(), red.spec.id).await.unwrap();
    }
    assert_eq!(control.remove_network(op(), NetworkId::new()).await.unwrap_err().code, Code::NotFound);
    control.remove_network(op(), blue.spec.id).await.unwrap();
    for host in 0..3 {
        here.made(host, &[]).await;
    }
    // Its number was somebody's once.
    assert!(here.network(overlay("red")).await.number > blue.number);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_comes_and_goes_with_a_vm_that_runs() {
    let here = Here::start(2).await;
    let control = here.control();
    let red = here.network(overlay("red")).await;
    let den = NewNetwork { name: "den".into(), kind: NewKind::Isolated, cidr: None, bridge: None, mtu: None };
    let den = here.network(den).await;
    let (one, other) = (here.vm("one", 0, &["bridge:br0"]).await, here.vm("other", 1, &["red"]).await);
    let near = here.vm("near", 0, &["den"]).await;
    assert!(!here.reaches(one, other) && !here.reaches(one, near));
    for network in ["red", "den"] {
        control.attach_vm_network(op(), one, network.into()).await.unwrap();
    }
    here.until_they_meet(one, other).await;
    here.until_they_meet(one, near).await;
    assert!(!here.reaches(near, other), "what is on both is no way from one to the other");
    let cards = control.vm_cards(one);
    assert_eq!(
        cards.iter().map(|card| (&*card.network, card.card.address.is_some())).collect::<Vec<_>>(),
        [("red", true), ("den", false)]
    );
    control.detach_vm_network(op(), one, "red".into()).await.unwrap();
    assert!(!here.reaches(one, other));
    here.made(0, &[den.number]).await;
    here.made(1, &[red.number]).await;
    // What is of each host is never another host's.
    here.migrate(near, 1).await;
    assert!(!here.reaches(one, near), "an isolated network leads to another host");
    here.made(1, &[red.number, den.number]).await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_cannot_be_made_now_is_made_soon_and_one_that_never_can_says_why() {
    let here = Here::start(1).await;
    let control = here.control();
    here.network(overlay("red")).await;
    let (point, key) = ("driver.ensure_networks".into(), Some(here.hosts[0].to_string()));
    assert!(fault::arm(Armed { point, key, fault: Fault::Error("the kernel is out of sorts".into()), times: 2 }));
    let one = here.vm("one", 0, &["red"]).await;
    assert_eq!(here.hypervisors[0].networks().len(), 1);

    here.network(overlay("missing-red")).await;
    let new = NewVm { networks: vec!["missing-red".into()], ..NewVm::new("two", "debian-12", 1, 1 << 30) };
    let failed = control.create_vm(op(), new).await;
    let why = match failed {
        Ok(done) => done.value.state.failed.clone().map(|why| why.to_string()).unwrap_or_default(),
        Err(refused) => refused.message,
    };
    assert!(why.contains("network missing-red cannot be made on the host"), "{why}");
    let two = control.vm_named("two").unwrap();
    control.remove_vm(op(), two, true).await.unwrap();
    control.remove_vm(op(), one, true).await.unwrap();
    here.made(0, &[]).await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_removed_keeps_no_network_but_what_its_vms_are_on() {
    let here = Here::start(2).await;
    let (control, red) = (here.control(), here.network(overlay("red")).await);
    let one = here.vm("one", 0, &["red"]).await;
    here.vm("other", 1, &["red"]).await;
    // What is left where it could not be swept goes with the host.
    let (point, key) = ("driver.sweep_networks".into(), Some(here.hosts[0].to_string()));
    assert!(fault::arm(Armed { point, key, fault: Fault::Error("the kernel is out of sorts".into()), times: 1 }));
    control.remove_vm(op(), one, true).await.unwrap();
    let struck = || fault::list().iter().any(|status| status.struck == 1).then_some(());
    support::until("a sweep that fails", struck).await;
    assert_eq!(here.hypervisors[0].networks(), [red.number]);
    control.remove_host(op(), here.hosts[0], false).await.unwrap();
    assert_eq!(here.hypervisors[0].networks(), [0_u32; 0]);
    // A VM that is left running where it was keeps what it needs.
    control.remove_host(op(), here.hosts[1], true).await.unwrap();
    assert_eq!(here.hypervisors[1].networks(), [red.number]);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_names_its_field_and_changes_nothing() {
    let here = Here::start(1).await;
    let control = here.control();
    let nat = |name: &str, cidr: &str| NewNetwork { kind: NewKind::Nat, cidr: Some(cidr.into()), ..overlay(name) };
    here.network(nat("out", "10.9.0.0/16")).await;
    let of = |kind| NewNetwork { kind, cidr: None, ..overlay("x") };
    for (new, field) in [
        (NewNetwork { name: "a b".into(), ..overlay("") }, "name"),
        (overlay("out"), "name"),
        (NewNetwork { cidr: Some("10.7.0.1/24".into()), ..overlay("x") }, "cidr"),
        (NewNetwork { mtu: Some(100), ..overlay("x") }, "mtu"),
        (NewNetwork { bridge: Some("br0".into()), ..overlay("x") }, "bridge"),
        (of(NewKind::Nat), "cidr"),
        (of(NewKind::Bridge), "bridge"),
        (NewNetwork { bridge: Some("hwb7".into()), ..of(NewKind::Bridge) }, "bridge"),
        (NewNetwork { kind: NewKind::Isolated, ..overlay("x") }, "cidr"),
        (NewNetwork { mtu: Some(1_400), ..of(NewKind::Isolated) }, "mtu"),
        (nat("x", "10.9.3.0/24"), "cidr"),
    ] {
        let refused = control.create_network(op(), new.clone()).await.unwrap_err();
        assert_eq!(refused.field.as_deref(), Some(field), "{new:?}: {refused:?}");
    }
    let host = |uri: &str, underlay: &str| NewHost {
        name: "other".into(),
        uri: uri.into(),
        underlay: Some(underlay.into()),
        ..NewHost::default()
    };
    for (uri, underlay) in [
        ("simulated://x", "x"),
        ("simulated://x", "127.0.0.1"),
        ("simulated://x", "192.168.7.1"),
        ("qemu+ssh://k/system", "10.0.0.1"),
    ] {
        let refused = control.register_host(op(), host(uri, underlay)).await.unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("underlay"), "{uri} {underlay}: {refused:?}");
    }
    let vm = NewVm { networks: vec!["bridge:hwb4097".into()], ..NewVm::new("sly", "debian-12", 1, 1 << 30) };
    let refused = control.create_vm(op(), vm).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("networks.0"), "{refused:?}");
    assert_eq!(control.networks(None, 10).unwrap().items.len(), 1);
    here.stop().await;
}
