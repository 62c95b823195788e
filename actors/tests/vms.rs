//! What hosts and VMs promise, on one node over simulated hypervisors that outlive it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use hiveward_actors::{
    client::{ControlPlane, NewHost, NewImage, NewKind, NewNetwork, NewVm},
    node::{Node, NodeConfig},
};
use hiveward_catalogue::host::spec::{HostSpec, HostUri};
use hiveward_kernel::id::{HostId, NetworkId, VmId};
use hiveward_machines::{
    host::{
        driver::{
            Action, Off, Run, contract,
            simulated::{self, Hypervisor},
        },
        fence::Fence,
        record::HostStatus,
    },
    vm::{
        event::OperationKind,
        record::{VmRecord, VmStatus},
        table::VmFilter,
    },
};
use hiveward_runtime::{
    clock::Deadline,
    error::Code,
    fault::{self, Armed, Fault},
    op::Op,
};

const GIB: u64 = 1 << 30;

struct Here {
    dir: tempfile::TempDir,
    node: Option<Node>,
    hypervisor: Hypervisor,
    name: String,
}

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    NodeConfig { reserve_bytes: 0, default_agents: 0, shim: support::shim(), ..NodeConfig::new(dir.path()) }
}

fn op() -> Op {
    Op::internal(Duration::from_secs(20))
}

fn named(operation: &str) -> Op {
    Op { operation: Some(operation.into()), ..op() }
}

impl Here {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(&dir)).await.unwrap();
        let name = format!("h{:x}", VmId::new().as_u128());
        Self { dir, node: Some(node), hypervisor: Hypervisor::named(&name), name }
    }

    fn control(&self) -> ControlPlane {
        self.node.as_ref().unwrap().control()
    }

    /// Registered and reached.
    async fn host(&self, query: &str) -> HostId {
        self.host_named("h1", &self.name, query).await
    }

    async fn host_named(&self, name: &str, place: &str, query: &str) -> HostId {
        let control = self.control();
        let new = NewHost { name: name.into(), uri: format!("simulated://{place}?{query}"), ..NewHost::default() };
        let host = control.register_host(op(), new).await.unwrap().value.spec.id;
        status(&control, host, HostStatus::Up).await;
        host
    }

    async fn restart(&mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
        self.node = Some(Node::start(config(&self.dir)).await.unwrap());
    }

    async fn stop(mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
    }
}

async fn status(control: &ControlPlane, host: HostId, wanted: HostStatus) {
    support::until(&format!("{wanted:?}"), || control.host(host).filter(|record| record.status == wanted)).await;
}

async fn until(control: &ControlPlane, vm: VmId, what: &str, holds: impl Fn(&VmRecord) -> bool) -> VmRecord {
    for _ in 0..3_000 {
        if let Some(record) = control.vm(vm).unwrap()
            && holds(&record)
        {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}: {:#?}", control.vm(vm).unwrap());
}

fn small(name: &str) -> NewVm {
    NewVm::new(name, "debian-12", 2, 2 * GIB)
}

fn run(here: &Here, vm: VmId) -> Option<Run> {
    here.hypervisor.domains().get(&vm).copied()
}

/// Nothing of any VM is left anywhere.
async fn nothing_left(here: &Here, host: HostId) {
    let control = here.control();
    let record = control.host(host).unwrap();
    assert_eq!((record.vms, record.reserved_cpus, record.reserved_memory_bytes), (0, 0, 0));
    assert!(here.hypervisor.domains().is_empty(), "{:?}", here.hypervisor.domains());
    assert!(control.vms(&VmFilter::default(), None, 10).unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_lives_as_it_is_told_and_leaves_nothing_behind() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("").await);
    let made = control.create_vm(op(), small("web")).await.unwrap().value;
    let vm = made.spec.id;
    assert_eq!((made.status, made.host, run(&here, vm)), (VmStatus::Running, host, Some(Run::Running)));
    assert_eq!((made.decision.chosen, made.decision.eligible), (host, 1));
    let record = control.host(host).unwrap();
    assert_eq!((record.vms, record.reserved_cpus, record.reserved_memory_bytes), (1, 2, 2 * GIB));

    assert_eq!(control.pause_vm(op(), vm).await.unwrap().value.status, VmStatus::Paused);
    assert_eq!(control.start_vm(op(), vm).await.unwrap_err().code, Code::Refused);
    assert_eq!(control.resume_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    let boots = here.hypervisor.boots(vm);
    assert_eq!(control.reboot_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    assert_eq!(here.hypervisor.boots(vm), boots + 1);
    assert_eq!(control.remove_vm(op(), vm, false).await.unwrap_err().code, Code::Refused);
    let stopped = control.stop_vm(op(), vm, false, None).await.unwrap().value;
    assert_eq!((stopped.status, run(&here, vm)), (VmStatus::Stopped, Some(Run::Off(Off::Shutdown))));
    assert_eq!(control.reboot_vm(op(), vm).await.unwrap_err().code, Code::Refused);
    assert_eq!(control.start_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    control.remove_vm(op(), vm, true).await.unwrap();
    nothing_left(&here, host).await;
    assert_eq!(control.start_vm(op(), vm).await.unwrap_err().code, Code::NotFound);
    control.remove_host(op(), host, false).await.unwrap();
    assert!(control.host(host).is_none());
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_heed_the_power_button_loses_its_plug_after_the_grace() {
    let here = Here::start().await;
    let (control, _) = (here.control(), here.host("heeds=false").await);
    let vm = control.create_vm(op(), small("deaf")).await.unwrap().value.spec.id;
    let stopped = control.stop_vm(op(), vm, false, Some(100)).await.unwrap().value;
    assert_eq!((stopped.status, run(&here, vm)), (VmStatus::Stopped, Some(Run::Off(Off::Destroyed))));
    control.start_vm(op(), vm).await.unwrap();
    // While one stop waits for the guest, a forced one takes over, and the first ends and says so.
    let waiting = tokio::spawn({
        let control = control.clone();
        async move { control.stop_vm(op(), vm, false, Some(600_000)).await }
    });
    until(&control, vm, "stopping", |record| record.status == VmStatus::Stopping).await;
    control.stop_vm(op(), vm, true, None).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code, Code::Conflict);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_operation_gets_the_same_answer_and_another_input_is_a_conflict() {
    let here = Here::start().await;
    let (control, _) = (here.control(), here.host("").await);
    let first = control.create_vm(named("c"), small("one")).await.unwrap().value;
    let again = control.create_vm(named("c"), small("one")).await.unwrap().value;
    assert_eq!(first.spec.id, again.spec.id);
    assert_eq!(control.create_vm(named("c"), small("two")).await.unwrap_err().code, Code::Conflict);
    assert_eq!(control.create_vm(op(), small("one")).await.unwrap_err().code, Code::Conflict);
    let vm = first.spec.id;
    control.reboot_vm(named("r"), vm).await.unwrap();
    let boots = here.hypervisor.boots(vm);
    control.reboot_vm(named("r"), vm).await.unwrap();
    assert_eq!(here.hypervisor.boots(vm), boots, "the same reboot was done twice");
    assert_eq!(control.stop_vm(named("r"), vm, true, None).await.unwrap_err().code, Code::Conflict);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_request_is_named_and_changes_nothing() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("cpus=2&memoryGiB=8").await);
    for (new, field) in [
        (NewVm::new("", "i", 1, GIB), "name"),
        (NewVm::new("a", "../i", 1, GIB), "image"),
        (NewVm::new("a", "i", 0, GIB), "cpus"),
        (NewVm::new("a", "i", 1, 1), "memoryBytes"),
        (NewVm { affinity: vec!["g".into()], anti_affinity: vec!["g".into()], ..small("a") }, "affinity"),
        (NewVm { host: Some(HostId::new()), ..small("a") }, "host"),
        (NewVm { ha: true, ..small("a") }, "ha"),
    ] {
        assert_eq!(control.create_vm(op(), new).await.unwrap_err().field.as_deref(), Some(field));
    }
    let refused = control.create_vm(op(), NewVm::new("a", "i", 1, 9 * GIB)).await.unwrap_err();
    assert!(refused.code == Code::Refused && refused.message.contains("one has too little free memory"), "{}", refused.message);
    // Four times the CPUs may be promised.
    let refused = control.create_vm(op(), NewVm::new("a", "i", 9, GIB)).await.unwrap_err();
    assert!(refused.message.contains("one has too little free CPU"), "{}", refused.message);
    nothing_left(&here, host).await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_whose_image_is_missing_fails_and_says_so_and_can_be_removed() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("").await);
    let refused = control.create_vm(op(), NewVm::new("lost", "missing-image", 1, GIB)).await.unwrap_err();
    assert!(refused.code == Code::Refused && refused.message.contains("missing-image"), "{refused:?}");
    let vm = control.vm_named("lost").unwrap();
    let record = control.vm(vm).unwrap().unwrap();
    assert_eq!(record.status, VmStatus::Failed);
    control.remove_vm(op(), vm, false).await.unwrap();
    nothing_left(&here, host).await;
    here.stop().await;
}

fn arm(point: &str, vm: Option<VmId>, fault: Fault) {
    assert!(fault::arm(Armed { point: point.into(), key: vm.map(|vm| vm.to_string()), fault, times: 1 }));
}

fn struck(point: &str) -> bool {
    fault::list().iter().any(|status| status.armed.point == point && status.struck > 0)
}

/// Every step of every operation: its actor dies before it, and after it while nothing was written; the hypervisor fails
/// before it, and after it without saying that it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_is_broken_off_at_any_step_comes_to_its_end_and_leaves_nothing() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("shutdownMs=1").await);
    let faults = |step: &str| {
        let error = || Fault::Error("broken off".into());
        [
            (format!("vm.{step}"), Fault::Panic),
            (format!("vm.{step}.done"), Fault::Panic),
            (format!("driver.{step}"), error()),
            (format!("driver.{step}.done"), error()),
        ]
    };
    let mut tried = 0;
    for step in ["define", "start", "shutdown", "destroy", "suspend", "resume", "reboot", "undefine"] {
        for (point, fault) in faults(step) {
            let name = format!("vm-{tried}");
            tried += 1;
            if matches!(step, "define" | "start") {
                // Which VM it will be is not known yet; there is one alone.
                arm(&point, None, fault.clone());
            }
            let vm = control.create_vm(op(), small(&name)).await.unwrap().value.spec.id;
            if !matches!(step, "define" | "start") {
                arm(&point, Some(vm), fault.clone());
            }
            assert_eq!(control.pause_vm(op(), vm).await.unwrap().value.status, VmStatus::Paused, "{point}");
            assert_eq!(control.resume_vm(op(), vm).await.unwrap().value.status, VmStatus::Running, "{point}");
            control.reboot_vm(op(), vm).await.unwrap();
            assert_eq!(control.stop_vm(op(), vm, false, None).await.unwrap().value.status, VmStatus::Stopped, "{point}");
            assert_eq!(control.start_vm(op(), vm).await.unwrap().value.status, VmStatus::Running, "{point}");
            control.remove_vm(op(), vm, true).await.unwrap();
            nothing_left(&here, host).await;
            assert!(struck(&point), "{point} was never come to");
            fault::disarm(&point);
        }
    }
    assert_eq!(tried, 32);
    here.stop().await;
}

/// The node stops while the hypervisor is at the step, and the next start of the node goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_was_under_way_when_the_node_stopped_is_ended_by_its_next_start() {
    let mut here = Here::start().await;
    let host = here.host("shutdownMs=1").await;
    for (round, step) in ["define", "define.done", "start", "start.done", "destroy", "destroy.done", "undefine", "undefine.done"]
        .into_iter()
        .enumerate()
    {
        let point = format!("driver.{step}");
        let name = format!("vm-{round}");
        let making = step.starts_with("define") || step.starts_with("start");
        // Room must be reserved by then; what is done on the host hangs.
        let short = || Op::internal(Duration::from_secs(1));
        if making {
            arm(&point, None, Fault::Hang);
            let asked = here.control().create_vm(short(), small(&name)).await.unwrap().value;
            assert_eq!(asked.status, VmStatus::Starting, "{point}: its operation is under way");
            support::until(&point, || struck(&point).then_some(())).await;
            here.restart().await;
            let vm = asked.spec.id;
            let record = until(&here.control(), vm, "running", |record| record.status == VmStatus::Running).await;
            assert!(record.state.operation(1).unwrap().ended.is_some(), "{point}");
            assert_eq!(here.hypervisor.boots(vm), 1, "{point}: it was started once");
            here.control().remove_vm(op(), vm, true).await.unwrap();
        } else {
            let vm = here.control().create_vm(op(), small(&name)).await.unwrap().value.spec.id;
            arm(&point, Some(vm), Fault::Hang);
            here.control().remove_vm(short(), vm, true).await.unwrap();
            support::until(&point, || struck(&point).then_some(())).await;
            here.restart().await;
            let control = here.control();
            support::until("its end", || control.vm(vm).unwrap().is_none().then_some(())).await;
            // What is found by looking, and not by waiting for an answer, may be found one after the other: its room is
            // given back by the roster, which hears of its end later.
            support::until("its room", || (control.host(host).unwrap().vms == 0).then_some(())).await;
        }
        fault::disarm(&point);
        nothing_left(&here, host).await;
    }
    here.stop().await;
}

// Threads enough that the directory's sleep is nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn who_is_answered_that_a_vm_is_removed_finds_nothing_reserved_for_it() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("shutdownMs=1").await);
    let vm = control.create_vm(op(), small("web")).await.unwrap().value.spec.id;
    let slow = Fault::Delay(Duration::from_millis(500));
    assert!(fault::arm(Armed { point: "directory.fold".into(), key: None, fault: slow, times: 10_000 }));
    control.remove_vm(op(), vm, true).await.unwrap();
    nothing_left(&here, host).await;
    fault::disarm("directory.fold");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hypervisor_says_wins_over_what_was_remembered() {
    let here = Here::start().await;
    let (control, _) = (here.control(), here.host("").await);
    let vm = control.create_vm(op(), small("web")).await.unwrap().value.spec.id;
    // The guest's own will, and another's on the host, are heeded.
    here.hypervisor.set(vm, Run::Off(Off::Shutdown));
    until(&control, vm, "stopped", |record| record.status == VmStatus::Stopped).await;
    here.hypervisor.set(vm, Run::Running);
    until(&control, vm, "running", |record| record.status == VmStatus::Running).await;
    here.hypervisor.set(vm, Run::Paused);
    until(&control, vm, "paused", |record| record.status == VmStatus::Paused).await;
    here.hypervisor.set(vm, Run::Running);
    until(&control, vm, "running", |record| record.status == VmStatus::Running).await;
    // Accidents are mended.
    let ended = |record: &VmRecord| {
        record
            .state
            .operations
            .iter()
            .filter(|operation| operation.kind == OperationKind::Recover && operation.ended.is_some())
            .count()
    };
    here.hypervisor.set(vm, Run::Off(Off::Crashed));
    until(&control, vm, "recovered", |record| ended(record) == 1 && record.status == VmStatus::Running).await;
    here.hypervisor.forget(vm);
    until(&control, vm, "defined anew", |record| ended(record) == 2 && record.status == VmStatus::Running).await;
    here.hypervisor.power_cycle();
    until(&control, vm, "back after the power failed", |record| ended(record) == 3 && record.status == VmStatus::Running).await;
    // But not for ever.
    here.hypervisor.set(vm, Run::Off(Off::Crashed));
    let record = until(&control, vm, "given up", |record| record.status == VmStatus::Failed).await;
    assert!(record.state.failed.unwrap().contains("4 times"), "{:?}", run(&here, vm));
    assert_eq!(control.start_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_be_reached_is_shown_so_and_no_other_host_waits_for_it() {
    let here = Here::start().await;
    let control = here.control();
    let (one, other_place) = (here.host("").await, format!("{}b", here.name));
    let other = here.host_named("h2", &other_place, "").await;
    let vm = control.create_vm(op(), NewVm { host: Some(one), ..small("a") }).await.unwrap().value.spec.id;
    here.hypervisor.cut(true);
    status(&control, one, HostStatus::Unreachable).await;
    assert_eq!(control.vm(vm).unwrap().unwrap().status, VmStatus::Lost);
    let elsewhere = control.create_vm(op(), small("b")).await.unwrap().value;
    assert_eq!((elsewhere.host, elsewhere.status), (other, VmStatus::Running));
    assert_eq!(run(&here, vm), Some(Run::Running), "that nobody could ask it did not stop it");
    // What is asked meanwhile is under way until it can be done.
    let asked = control.stop_vm(Op::internal(Duration::from_millis(500)), vm, true, None).await.unwrap().value;
    assert!(asked.state.active().is_some());
    here.hypervisor.cut(false);
    status(&control, one, HostStatus::Up).await;
    until(&control, vm, "stopped", |record| record.status == VmStatus::Stopped).await;
    here.stop().await;
}

/// Its operations are more than it keeps, so that it has the views looked at for each that has an id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_that_ask_a_vm_at_once_is_answered() {
    let here = Here::start().await;
    here.host("cpus=64").await;
    let control = here.control();
    let vm = control.create_vm(op(), small("busy")).await.unwrap().value.spec.id;
    for _ in 0..10 {
        control.stop_vm(op(), vm, true, None).await.unwrap();
        control.start_vm(op(), vm).await.unwrap();
    }
    let all: Vec<String> = (0..2_000).map(|n| format!("resume-{n}")).collect();
    let asked = all.iter().map(|operation| control.resume_vm(named(operation), vm));
    for answer in futures_util::future::join_all(asked).await {
        let unknown = answer.as_ref().is_err_and(|refused| refused.code == Code::UnknownOutcome);
        assert!(!unknown, "{answer:?}");
    }
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_of_a_vm_that_was_forgotten_is_removed_and_those_of_others_are_left_alone() {
    let mut here = Here::start().await;
    let host = here.host("").await;
    let vm = here.control().create_vm(op(), small("a")).await.unwrap().value.spec.id;
    // Another owner's, on the same hypervisor.
    let other = here.host_named("h2", &here.name, "cpus=8").await;
    let foreign = here.control().create_vm(op(), NewVm { host: Some(other), ..small("b") }).await.unwrap().value.spec.id;
    here.control().remove_host(op(), other, true).await.unwrap();
    here.control().remove_vm(op(), vm, true).await.unwrap();
    here.restart().await;
    status(&here.control(), host, HostStatus::Up).await;
    // With this host's mark, and no VM of it.
    let uri = HostUri::parse(&format!("simulated://{}", here.name)).unwrap();
    let behind = simulated::open(&uri, host).unwrap().driver;
    let (stray, within) = (VmId::new(), Deadline::after(Duration::from_secs(5)));
    behind.act(stray, Action::Define(Box::new(contract::small(host))), within).await.unwrap();
    behind.act(stray, Action::Start, within).await.unwrap();
    support::until("the stray to be removed", || run(&here, stray).is_none().then_some(())).await;
    assert_eq!(run(&here, foreign), Some(Run::Running));
    assert_eq!(run(&here, vm), None);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_removed_is_not_found_a_second_time_and_the_same_operation_answers_as_it_did() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("").await);
    let file = here.dir.path().join("disk.raw");
    std::fs::write(&file, vec![7_u8; 4_096]).unwrap();
    let new = NewImage { name: "i".into(), source: file.display().to_string(), checksum: None };
    let image = control.import_image(op(), new).await.unwrap().value.spec.id;
    let new = NewNetwork { name: "n".into(), kind: NewKind::Isolated, cidr: None, bridge: None, mtu: None };
    let network = control.create_network(op(), new).await.unwrap().value.spec.id;
    let vm = control.create_vm(op(), small("a")).await.unwrap().value.spec.id;
    control.remove_vm(op(), vm, true).await.unwrap();
    assert_eq!(control.remove_vm(op(), vm, true).await.unwrap_err().code, Code::NotFound);
    // The same twice, then another.
    for (twice, again) in [(true, false), (true, true), (false, true)] {
        let asked = |noun: &str| if twice { named(&format!("remove-{noun}")) } else { op() };
        let image = control.remove_image(asked("image"), image).await.map(|done| done.value.is_none());
        let network = control.remove_network(asked("network"), network).await.map(|done| done.value.is_none());
        let host = control.remove_host(asked("host"), host, false).await.map(|done| done.value.is_none());
        for (noun, removed) in [("image", image), ("network", network), ("host", host)] {
            let removed = removed.map_err(|refused| refused.code);
            assert_eq!(removed, if twice { Ok(again) } else { Err(Code::NotFound) }, "{noun}");
        }
    }
    let about: Option<NetworkId> = control.was_about(&named("remove-network"));
    assert_eq!(about, Some(network), "whoever says its name again means that one");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_began_before_a_vm_was_removed_takes_nothing_for_a_stray() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("").await);
    let vm = control.create_vm(op(), small("a")).await.unwrap().value.spec.id;
    let arm = |point: &str, key: String, fault, times| {
        assert!(fault::arm(Armed { point: point.into(), key: Some(key), fault, times }));
    };
    let struck =
        |point: &str| fault::list().iter().filter(|status| status.armed.point == point).map(|status| status.struck).sum();
    arm("host.listed", host.to_string(), Fault::Delay(Duration::from_secs(1)), 2);
    let looks = async |count: u32| {
        support::until("a look", || (struck("host.listed") >= count).then_some(())).await;
    };
    // It saw the VM, and says so when that is no more.
    looks(1).await;
    control.remove_vm(op(), vm, true).await.unwrap();
    arm("driver.destroy", vm.to_string(), Fault::Error("who asks?".into()), 1);
    looks(2).await;
    let asked: u32 = struck("driver.destroy");
    assert_eq!(asked, 0, "what was removed in order was ended once more");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_takes_long_to_say_what_its_vms_use_is_asked_everything_else_meanwhile() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("").await);
    let vm = control.create_vm(op(), small("a")).await.unwrap().value.spec.id;
    let fault = Fault::Delay(Duration::from_secs(3_600));
    assert!(fault::arm(Armed { point: "host.figured".into(), key: Some(host.to_string()), fault, times: u32::MAX }));
    let asked = || -> u32 {
        let figured =
            |status: &fault::PointStatus| status.armed.point == "host.figured" && status.armed.key == Some(host.to_string());
        fault::list().iter().filter(|status| figured(status)).map(|status| status.struck).sum()
    };
    support::until("what they use to be asked", || (asked() == 1).then_some(())).await;
    assert_eq!(control.stop_vm(op(), vm, true, None).await.unwrap().value.status, VmStatus::Stopped);
    assert_eq!(control.start_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    // What happens by itself is seen by looks alone.
    here.hypervisor.set(vm, Run::Off(Off::Crashed));
    until(&control, vm, "started again", |record| {
        record.status == VmStatus::Running && record.state.operations.iter().any(|done| done.kind == OperationKind::Recover)
    })
    .await;
    assert_eq!(asked(), 1, "it was asked again before it had answered");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_stops_what_runs_takes_nothing_new_and_ends() {
    let here = Here::start().await;
    let (control, host) = (here.control(), here.host("").await);
    let mut vms = Vec::new();
    for n in 0..5 {
        vms.push(control.create_vm(op(), small(&format!("vm-{n}"))).await.unwrap().value.spec.id);
    }
    control.drain_host(op(), host).await.unwrap();
    status(&control, host, HostStatus::Drained).await;
    assert!(vms.iter().all(|vm| run(&here, *vm) == Some(Run::Off(Off::Shutdown))));
    let refused = control.create_vm(op(), small("late")).await.unwrap_err();
    assert!(refused.message.contains("one is drained"), "{}", refused.message);
    control.cancel_host_drain(op(), host).await.unwrap();
    status(&control, host, HostStatus::Up).await;
    assert_eq!(control.start_vm(op(), vms[0]).await.unwrap().value.status, VmStatus::Running);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_is_admitted_only_where_those_that_are_to_come_back_still_could_whichever_host_is_lost() {
    let here = Here::start().await;
    let control = here.control();
    for n in 0..2 {
        here.host_named(&format!("h{n}"), &format!("{}-{n}", here.name), "cpus=8&memoryGiB=4").await;
    }
    let ha = |name: &str| NewVm { ha: true, ..small(name) };
    control.create_vm(op(), ha("a")).await.unwrap();
    control.create_vm(op(), ha("b")).await.unwrap();
    // Each host has one; the loss of either fills the other.
    let refused = control.create_vm(op(), ha("c")).await.unwrap_err();
    assert!(refused.field.as_deref() == Some("ha") && refused.message.contains("could not come back"), "{}", refused.message);
    // What need not come back may not have their room either.
    let refused = control.create_vm(op(), NewVm { memory_bytes: GIB, ..small("d") }).await.unwrap_err();
    assert!(refused.field.as_deref() == Some("memory") && refused.message.contains("could not come back"), "{}", refused.message);
    here.host_named("h2", &format!("{}-2", here.name), "cpus=8&memoryGiB=4").await;
    control.create_vm(op(), NewVm { memory_bytes: GIB, ..small("d") }).await.unwrap();
    here.stop().await;
}

/// Decided together, as one commit: each on what the others will have made.
#[tokio::test(flavor = "multi_thread")]
async fn vms_that_are_asked_for_at_once_never_share_a_name_nor_take_more_than_a_host_has() {
    let here = Here::start().await;
    let host = here.host("cpus=64&memoryGiB=16").await;
    let control = here.control();
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..60 {
        let control = control.clone();
        // Every name twice, and every operation twice.
        let (name, operation) = (format!("vm-{}", n / 2 % 15), format!("op-{}", n % 30));
        asked.spawn(async move { control.create_vm(named(&operation), small(&name)).await.map(|done| done.value.spec.id) });
    }
    let answers = asked.join_all().await;
    let mut made: Vec<VmId> = answers.iter().filter_map(|answer| answer.as_ref().ok().copied()).collect();
    made.sort_unstable();
    made.dedup();
    // Two GiB each.
    assert_eq!(made.len(), 8, "{answers:?}");
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(matches!(refused.code, Code::Conflict | Code::Refused), "{refused:?}");
    }
    let all = control.vms(&VmFilter::default(), None, 100).unwrap().items;
    let mut names: Vec<_> = all.iter().map(|(_, vm)| vm.spec.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((all.len(), names.len()), (8, 8));
    for vm in made {
        control.remove_vm(op(), vm, true).await.unwrap();
    }
    nothing_left(&here, host).await;
    here.stop().await;
}

#[test]
fn where_the_watchdog_cannot_be_armed_nothing_runs_that_it_is_to_stand_behind() {
    let dir = tempfile::tempdir().unwrap();
    let fence = Fence::new(dir.path(), support::shim());
    fence.set_watchdog(Some("/dev/null".into())).unwrap();
    let _counting = fence.count(|| Some(Duration::from_secs(60)));
    let host = HostSpec::new(HostId::new(), "h", "qemu:///system");
    let refused = fence.hold(&host, VmId::new()).unwrap_err();
    assert!(refused.contains("/dev/null is not armed: it is no watchdog"), "{refused}");
    // Without one the keeper alone is enough.
    fence.set_watchdog(None).unwrap();
    fence.hold(&host, VmId::new()).unwrap();
}
