//! VMs that move between simulated hosts of one node: whatever breaks off at whichever step, one of them runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use hiveward_actors::{
    client::{BalanceRules, ControlPlane, NewHost, NewMove, NewVm},
    node::{Node, NodeConfig},
};
use hiveward_catalogue::{
    host::placing::Basis,
    placement::vm::{Strategy, rebalance::Rules},
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_machines::{
    host::{
        driver::{Run, simulated::Hypervisor},
        record::HostStatus,
    },
    vm::{
        event::{OperationKind, Outcome, Wanted},
        record::{VmRecord, VmStatus},
    },
};
use hiveward_runtime::{
    error::{Code, Refused},
    fault::{self, Armed, Fault},
    op::Op,
};

struct Two {
    _dir: tempfile::TempDir,
    node: Node,
    hosts: [HostId; 2],
    hypervisors: [Hypervisor; 2],
}

fn op() -> Op {
    Op::internal(Duration::from_secs(30))
}

impl Two {
    async fn start(query: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig { reserve_bytes: 0, default_agents: 0, shim: support::shim(), ..NodeConfig::new(dir.path()) };
        let node = Node::start(config).await.unwrap();
        let control = node.control();
        let name = format!("m{:x}", VmId::new().as_u128());
        let mut hosts = Vec::new();
        for n in 0..2 {
            let new = NewHost { name: format!("h{n}"), uri: format!("simulated://{name}-{n}?{query}"), ..NewHost::default() };
            let host = control.register_host(op(), new).await.unwrap().value.spec.id;
            support::until("a host to be reached", || control.host(host).filter(|host| host.status == HostStatus::Up)).await;
            hosts.push(host);
        }
        let hypervisors = [0, 1].map(|n| Hypervisor::named(&format!("{name}-{n}")));
        Self { _dir: dir, node, hosts: [hosts[0], hosts[1]], hypervisors }
    }

    fn control(&self) -> ControlPlane {
        self.node.control()
    }

    async fn vm(&self, name: &str) -> VmId {
        let new = NewVm { host: Some(self.hosts[0]), ..NewVm::new(name, "debian-12", 1, 1 << 30) };
        self.control().create_vm(op(), new).await.unwrap().value.spec.id
    }

    /// What each host has of it.
    fn runs(&self, vm: VmId) -> [Option<Run>; 2] {
        [0, 1].map(|n| self.hypervisors[n].domains().get(&vm).copied())
    }

    /// It runs once, where it is said to be, and is reserved for there alone.
    fn runs_once(&self, vm: VmId, what: &str) {
        let record = self.control().vm(vm).unwrap().unwrap();
        let at = self.hosts.iter().position(|host| *host == record.host).unwrap();
        let mut wanted = [None, None];
        wanted[at] = Some(Run::Running);
        assert_eq!((self.runs(vm), record.status), (wanted, VmStatus::Running), "{what}: {record:#?}");
        let reserved = self.hosts.map(|host| self.control().host(host).unwrap().reserved_cpus);
        let mut only = [0, 0];
        only[at] = 1;
        assert_eq!(reserved, only, "{what}");
    }

    async fn stop(self) {
        self.node.stop(Duration::from_secs(10)).await;
    }
}

/// Until it has ended, as the command line waits.
async fn migrate(control: &ControlPlane, vm: VmId, to: NewMove) -> Result<VmRecord, Refused> {
    let asked = control.migrate_vm(op(), vm, to).await?.value;
    let number = asked.state.operations.back().unwrap().number;
    let ended = || {
        let record = control.vm(vm).unwrap()?;
        let ended = record.state.operation(number)?.ended.clone()?;
        Some((record, ended.1))
    };
    match support::until("the migration's end", ended).await {
        (_, Outcome::Failed { message }) => Err(Refused::new(Code::Refused, message)),
        (record, _) => Ok(record),
    }
}

fn to(host: HostId) -> NewMove {
    NewMove { host: Some(host), ..NewMove::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_moves_and_what_is_reserved_for_it_moves_with_it() {
    let two = Two::start("").await;
    let (control, vm) = (two.control(), two.vm("a").await);
    let moved = migrate(&control, vm, to(two.hosts[1])).await.unwrap();
    assert_eq!(moved.host, two.hosts[1]);
    two.runs_once(vm, "moved");
    assert_eq!(two.hypervisors[1].boots(vm), 1, "it was started anew");
    let same = migrate(&control, vm, to(two.hosts[1])).await.unwrap_err();
    assert!(same.message.contains("on that host already"), "{}", same.message);
    // The best other host, frozen as it is.
    control.pause_vm(op(), vm).await.unwrap();
    let back = migrate(&control, vm, NewMove::default()).await.unwrap();
    assert_eq!((back.host, back.status), (two.hosts[0], VmStatus::Paused));
    control.resume_vm(op(), vm).await.unwrap();
    two.runs_once(vm, "back");
    assert_eq!(control.cancel_vm_migration(op(), vm).await.unwrap_err().code, Code::Refused);
    control.stop_vm(op(), vm, true, None).await.unwrap();
    assert_eq!(migrate(&control, vm, to(two.hosts[1])).await.unwrap_err().code, Code::Refused);
    control.remove_vm(op(), vm, true).await.unwrap();
    assert_eq!(two.runs(vm), [None, None]);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_broken_off_at_any_step_ends_and_the_vm_runs_once() {
    let two = Two::start("migrateMs=5").await;
    let control = two.control();
    let mut points = Vec::new();
    for step in ["reserve", "prepare", "migrate", "compare", "clean_here", "settle"] {
        points.extend([(format!("vm.{step}"), Fault::Panic), (format!("vm.{step}.done"), Fault::Panic)]);
    }
    for point in ["driver.migrate", "driver.migrate.copied", "driver.migrate.done"] {
        points.push((point.into(), Fault::Error("broken off".into())));
    }
    for (round, (point, fault)) in points.into_iter().enumerate() {
        let vm = two.vm(&format!("vm-{round}")).await;
        fault::arm(Armed { point: point.clone(), key: Some(vm.to_string()), fault, times: 1 });
        let moved = migrate(&control, vm, to(two.hosts[1])).await;
        let failed = matches!(point.as_str(), "driver.migrate" | "driver.migrate.copied");
        assert_eq!(moved.is_err(), failed, "{point}: {moved:?}");
        let ended = || {
            let record = control.vm(vm).unwrap()?;
            record.state.active().is_none().then_some(record)
        };
        let record = support::until("its end", ended).await;
        assert_eq!(record.host, two.hosts[usize::from(!failed)], "{point}");
        two.runs_once(vm, &point);
        // By then the other host's actor may have taken over, and this one does nothing any more.
        let may_be_over = point == "vm.settle.done";
        let struck = fault::list().iter().any(|known| known.armed.point == point && known.struck > 0);
        assert!(struck || may_be_over, "{point} was never come to");
        fault::disarm(&point);
        control.remove_vm(op(), vm, true).await.unwrap();
        assert_eq!(two.runs(vm), [None, None], "{point}");
    }
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_cancelled_or_loses_the_other_host_leaves_the_vm_where_it_was() {
    let two = Two::start("migrateMs=60000").await;
    let (control, vm) = (two.control(), two.vm("a").await);
    let (other, moving) = (control.clone(), to(two.hosts[1]));
    let moved = tokio::spawn(async move { migrate(&other, vm, moving).await });
    support::until("it to be on its way", || (two.runs(vm)[1] == Some(Run::Moving)).then_some(())).await;
    let record = control.vm(vm).unwrap().unwrap();
    assert_eq!((record.status, record.host), (VmStatus::Migrating, two.hosts[0]));
    let stop = control.stop_vm(op(), vm, true, None).await.unwrap_err();
    assert!(stop.message.contains("migrate is under way"), "{}", stop.message);
    control.cancel_vm_migration(op(), vm).await.unwrap();
    assert!(moved.await.unwrap().unwrap_err().message.contains("cancelled"));
    two.runs_once(vm, "cancelled");

    let (other, moving) = (control.clone(), NewMove { limit_ms: 1_000, ..to(two.hosts[1]) });
    let moved = tokio::spawn(async move { migrate(&other, vm, moving).await });
    support::until("it to be on its way", || (two.runs(vm)[1] == Some(Run::Moving)).then_some(())).await;
    two.hypervisors[1].cut(true);
    assert!(moved.await.unwrap().unwrap_err().message.contains("limit"));
    let record = control.vm(vm).unwrap().unwrap();
    assert_eq!((record.host, record.status, two.runs(vm)[0]), (two.hosts[0], VmStatus::Running, Some(Run::Running)));
    two.hypervisors[1].cut(false);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_moves_what_can_be_moved_as_its_plan_said_and_stops_the_rest() {
    let two = Two::start("cpus=1&migrateMs=20").await;
    let control = two.control();
    let mut vms = Vec::new();
    for n in 0..3 {
        vms.push(two.vm(&format!("vm-{n}")).await);
    }
    // The other host has room for two of them.
    let filler = NewVm { host: Some(two.hosts[1]), ..NewVm::new("filler", "debian-12", 2, 1 << 30) };
    control.create_vm(op(), filler).await.unwrap();
    let plan = control.host_drain_plan(two.hosts[0]);
    let moved = plan.iter().filter(|(_, to)| to.as_deref() == Ok("h1")).count();
    assert_eq!((plan.len(), moved), (3, 2), "{plan:?}");
    // One with a snapshot cannot move: that is said before, and the others go in its place.
    control.snapshot_vm(op(), vms[0], "s".into()).await.unwrap();
    let plan = control.host_drain_plan(two.hosts[0]);
    let why = plan.iter().find(|(vm, _)| vm == "vm-0").unwrap().1.clone().unwrap_err();
    assert!(why.contains("snapshots"), "{why}");
    assert!(plan.iter().filter(|(vm, _)| vm != "vm-0").all(|(_, to)| to.as_deref() == Ok("h1")), "{plan:?}");
    control.drain_host(op(), two.hosts[0]).await.unwrap();
    support::until("the drain's end", || control.host(two.hosts[0]).filter(|host| host.status == HostStatus::Drained)).await;
    let there = vms.iter().filter(|vm| two.runs(**vm) == [None, Some(Run::Running)]).count();
    let stopped = vms.iter().filter(|vm| matches!(two.runs(**vm), [Some(Run::Off(_)), None])).count();
    assert_eq!((there, stopped), (2, 1), "{:?}", vms.iter().map(|vm| two.runs(*vm)).collect::<Vec<_>>());
    for (n, vm) in vms.into_iter().enumerate() {
        let record = control.vm(vm).unwrap().unwrap();
        let tried = record.state.operations.iter().filter(|operation| operation.kind == OperationKind::Migrate).count();
        assert_eq!(tried, usize::from(n > 0), "{record:#?}");
    }
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_where_a_vm_would_go_answers_as_making_it_does_and_changes_nothing() {
    let two = Two::start("cpus=2").await;
    let control = two.control();
    let before = control.head();
    let wish = NewVm { host: Some(two.hosts[1]), ..NewVm::new("web", "debian-12", 2, 1 << 30) };
    let asked = control.select_host(&wish).unwrap();
    let decision = asked.decision.unwrap();
    assert_eq!((decision.chosen, decision.eligible), (two.hosts[1], 1));
    let said: Vec<_> = asked.verdicts.iter().map(|verdict| (verdict.name.as_str(), verdict.score.is_ok())).collect();
    assert_eq!(said, [("h1", true), ("h0", false)]);
    assert_eq!(asked.verdicts[1].score.unwrap_err().words(), "is not the host that was named");
    let large = control.select_host(&NewVm::new("large", "debian-12", 9, 1 << 30)).unwrap();
    let why = large.decision.unwrap_err();
    assert!(why.code == Code::Refused && why.message.contains("2 has too little free CPU"), "{why:?}");
    let wrong = control.select_host(&NewVm::new("wrong", "debian-12", 0, 1 << 30)).unwrap_err();
    assert_eq!((wrong.code, wrong.field.as_deref()), (Code::Invalid, Some("cpus")));
    let nowhere = NewVm { host: Some(HostId::from_u128(7)), ..wish.clone() };
    assert_eq!(control.select_host(&nowhere).unwrap_err().field.as_deref(), Some("host"));
    assert_eq!(control.head(), before, "nothing was written");
    let made = control.create_vm(op(), wish).await.unwrap().value;
    assert_eq!((made.host, &*made.decision), (two.hosts[1], &decision));
    two.stop().await;
}

fn at_once() -> BalanceRules {
    BalanceRules { hold: Duration::ZERO, ..BalanceRules::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalancing_moves_what_its_plan_said_and_then_rests() {
    let two = Two::start("cpus=2&migrateMs=20").await;
    let control = two.control();
    let mut vms = Vec::new();
    for n in 0..6 {
        vms.push(two.vm(&format!("vm-{n}")).await);
    }
    control.snapshot_vm(op(), vms[0], "s".into()).await.unwrap();
    control.stop_vm(op(), vms[1], true, None).await.unwrap();
    // The imbalance has not lasted yet.
    let early = control.rebalance_plan(BalanceRules::default()).await.unwrap();
    assert!(!early.due && early.why.as_ref().unwrap().contains("must last for 5"), "{:?}", early.why);
    let nothing = control.rebalance(op(), BalanceRules::default()).await.unwrap();
    assert!(nothing.begun.is_empty() && !nothing.plan.unwrap().due);
    let plan = control.rebalance_plan(at_once()).await.unwrap();
    assert!(plan.due && plan.moves.len() == 3, "{plan:#?}");
    assert_eq!(plan.plan.forecast.iter().map(|host| host.before.share.cpu).collect::<Vec<_>>(), [0.75, 0.0]);
    assert_eq!(plan.plan.forecast.iter().map(|host| host.after.share.cpu).collect::<Vec<_>>(), [0.375, 0.375]);
    let mine = Op { operation: Some("balance-1".into()), ..op() };
    let begun = control.rebalance(mine.clone(), at_once()).await.unwrap();
    assert_eq!(begun.begun.len(), 3);
    let planned: Vec<_> = plan.moves.iter().map(|planned| planned.step.vm).collect();
    assert_eq!(begun.begun.iter().map(|begun| begun.vm).collect::<Vec<_>>(), planned);
    for begun in &begun.begun {
        let there = || control.vm(begun.vm).unwrap().filter(|record| record.host == begun.to && record.state.active().is_none());
        support::until("it to be there", there).await;
        assert_eq!(two.runs(begun.vm), [None, Some(Run::Running)]);
    }
    assert!(!planned.contains(&vms[0]) && !planned.contains(&vms[1]), "one has a snapshot, one is off");
    // Asked again under the same id, and asked anew: nothing moves.
    let again = control.rebalance(mine.clone(), at_once()).await.unwrap();
    assert!(again.plan.is_none());
    let mut same: Vec<_> = again.begun.iter().map(|begun| begun.vm).collect();
    same.sort_by_key(|vm| planned.iter().position(|planned| planned == vm));
    assert_eq!(same, planned);
    let other = BalanceRules { cool_down: Duration::ZERO, ..at_once() };
    assert_eq!(control.rebalance(mine, other.clone()).await.unwrap_err().code, Code::Conflict);
    let rest = control.rebalance(op(), other).await.unwrap();
    let why = rest.plan.unwrap().why.unwrap();
    assert!(rest.begun.is_empty() && why.contains("the threshold of 10.0 % allows"), "{why}");
    let tried = vms.iter().map(|vm| control.vm(*vm).unwrap().unwrap().state.operations);
    let tried = tried.flatten().filter(|operation| operation.kind == OperationKind::Migrate).count();
    assert_eq!(tried, 3);
    for (rules, field) in [
        (BalanceRules { strategy: Strategy::Pack, ..at_once() }, "strategy"),
        (BalanceRules { hold: Duration::from_secs(1 << 20), ..at_once() }, "holdMs"),
        (BalanceRules { basis: Basis::Used, rules: Rules { moves_max: 0, ..Rules::default() }, ..at_once() }, "movesMax"),
    ] {
        assert_eq!(control.rebalance_plan(rules).await.unwrap_err().field.as_deref(), Some(field));
    }
    // A simulated machine uses nothing that could be measured: hosts with any take no part.
    let used = control.rebalance_plan(BalanceRules { basis: Basis::Used, ..at_once() }).await.unwrap();
    assert!(used.moves.is_empty() && used.apart.len() == 2, "{used:?}");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_somebody_moved_with_the_hypervisors_own_tool_is_found_there_and_never_started_twice() {
    let two = Two::start("").await;
    let control = two.control();
    let vm = two.vm("a").await;
    let found = async |at: usize, what: &str| {
        let there = || {
            let record = control.vm(vm).unwrap().unwrap();
            (record.host == two.hosts[at] && record.status == VmStatus::Running).then_some(())
        };
        support::until(what, there).await;
        two.runs_once(vm, what);
        assert_eq!(two.hypervisors[at].boots(vm), 1, "{what}: it was started anew");
    };
    two.hypervisors[0].carry(vm, &two.hypervisors[1]);
    found(1, "found on the other host").await;
    two.hypervisors[1].carry(vm, &two.hypervisors[0]);
    found(0, "found where it was made").await;
    // From there on it is led as any other.
    two.hypervisors[0].carry(vm, &two.hypervisors[1]);
    found(1, "found once more").await;
    assert_eq!(control.pause_vm(op(), vm).await.unwrap().value.status, VmStatus::Paused);
    assert_eq!(control.resume_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    migrate(&control, vm, to(two.hosts[0])).await.unwrap();
    two.runs_once(vm, "moved back");
    control.remove_vm(op(), vm, true).await.unwrap();
    assert_eq!(two.runs(vm), [None, None]);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_may_be_on_a_host_that_cannot_be_asked_is_not_started_before_that_is_known() {
    let two = Two::start("").await;
    let control = two.control();
    let vm = two.vm("a").await;
    let unreachable = || control.host(two.hosts[1]).filter(|host| host.status == HostStatus::Unreachable);
    let withheld = || {
        let record = control.vm(vm).unwrap().unwrap();
        (record.status == VmStatus::Failed).then_some(record.state.withheld).flatten()
    };
    two.hypervisors[1].cut(true);
    support::until("a host not to answer", unreachable).await;
    two.hypervisors[0].carry(vm, &two.hypervisors[1]);
    let why = support::until("it is said why it is not started", withheld).await;
    assert!(why.contains("h1 cannot be asked") && why.contains("declare-lost h1"), "{why}");
    assert_eq!(two.runs(vm), [None, Some(Run::Running)]);
    // A person is told the same: it may run there, so it is neither started here nor said to be stopped.
    let started = control.start_vm(op(), vm).await.unwrap_err();
    assert!(started.message.contains("h1 cannot be asked"), "{}", started.message);
    let stopped = control.stop_vm(op(), vm, true, None).await.unwrap_err();
    assert!(stopped.message.contains("h1 cannot be asked"), "{}", stopped.message);
    support::until("it is said why", withheld).await;
    assert_eq!(two.runs(vm), [None, Some(Run::Running)]);
    let started = control.start_vm(op(), vm).await.unwrap_err();
    assert!(started.message.contains("h1 cannot be asked"), "{}", started.message);
    assert_eq!(two.runs(vm), [None, Some(Run::Running)]);
    // Answered, it is found there.
    two.hypervisors[1].cut(false);
    let found = || {
        let record = control.vm(vm).unwrap().unwrap();
        (record.host == two.hosts[1] && record.status == VmStatus::Running).then_some(record)
    };
    let record = support::until("found where it was moved to", found).await;
    assert_eq!(record.state.withheld, None);
    two.runs_once(vm, "found");
    assert_eq!(two.hypervisors[1].boots(vm), 1);

    // What is asked in the meantime is done where it is.
    two.hypervisors[1].carry(vm, &two.hypervisors[0]);
    assert_eq!(control.stop_vm(op(), vm, true, None).await.unwrap().value.status, VmStatus::Stopped);
    assert_eq!(control.vm(vm).unwrap().unwrap().host, two.hosts[0]);
    assert!(matches!(two.runs(vm), [Some(Run::Off(_)), None]), "{:?}", two.runs(vm));
    control.start_vm(op(), vm).await.unwrap();
    two.runs_once(vm, "started where it is");
    migrate(&control, vm, to(two.hosts[1])).await.unwrap();

    // Stopped while nobody can say where it is, it stays so where no host has it.
    two.hypervisors[0].cut(true);
    let unreachable = || control.host(two.hosts[0]).filter(|host| host.status == HostStatus::Unreachable);
    support::until("the other host not to answer", unreachable).await;
    two.hypervisors[1].forget(vm);
    support::until("it is said again", withheld).await;
    let stopped = control.stop_vm(op(), vm, true, None).await.unwrap_err();
    assert!(stopped.message.contains("h0 cannot be asked"), "{}", stopped.message);
    two.hypervisors[0].cut(false);
    let stopped = || (control.vm(vm).unwrap().unwrap().status == VmStatus::Stopped).then_some(());
    support::until("it is known to be off", stopped).await;
    assert_eq!(two.runs(vm), [None, None]);
    control.start_vm(op(), vm).await.unwrap();
    two.runs_once(vm, "started again");

    // Nobody has it, and a person says that the host that cannot be asked is off: it is made again.
    two.hypervisors[0].cut(true);
    support::until("the other host not to answer", unreachable).await;
    two.hypervisors[1].forget(vm);
    support::until("it is said again", withheld).await;
    assert_eq!(two.runs(vm), [None, None]);
    control.declare_host_lost(op(), two.hosts[0], "h0".into()).await.unwrap();
    let back = || (control.vm(vm).unwrap().unwrap().status == VmStatus::Running).then_some(());
    support::until("made again", back).await;
    two.runs_once(vm, "made again");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_may_run_on_a_host_that_cannot_be_asked_is_removed_when_that_is_known_or_with_force() {
    let two = Two::start("").await;
    let control = two.control();
    let (found, gone, forced) = (two.vm("found").await, two.vm("gone").await, two.vm("forced").await);
    let record = |vm: VmId| control.vm(vm).unwrap();
    two.hypervisors[1].cut(true);
    let unreachable = || control.host(two.hosts[1]).filter(|host| host.status == HostStatus::Unreachable);
    support::until("a host not to answer", unreachable).await;
    two.hypervisors[0].carry(found, &two.hypervisors[1]);
    two.hypervisors[0].forget(gone);
    two.hypervisors[0].carry(forced, &two.hypervisors[1]);
    for vm in [found, gone, forced] {
        let withheld = || record(vm).filter(|record| record.state.withheld.is_some());
        support::until("it is said why nothing is done with it", withheld).await;
        let refused = control.remove_vm(op(), vm, false).await.unwrap_err();
        assert!(refused.message.contains("h1 cannot be asked") && refused.message.contains("With force"), "{refused:?}");
    }
    control.remove_vm(op(), forced, true).await.unwrap();
    assert!(record(forced).is_none());
    assert_eq!(two.runs(forced), [None, Some(Run::Running)], "who forces it is told so");
    two.hypervisors[1].cut(false);
    // Nobody ends what somebody has running, and what is nowhere goes.
    let runs = || record(found).filter(|record| record.host == two.hosts[1] && record.status == VmStatus::Running);
    support::until("found where it was moved to", runs).await;
    two.runs_once(found, "found");
    support::until("removed", || record(gone).is_none().then_some(())).await;
    assert_eq!(two.runs(gone), [None, None]);
    // One that is looked for, and found, is not ended either, but with force.
    let missed = async |from: usize, to: usize| {
        let slow = Fault::Delay(Duration::from_secs(1));
        fault::arm(Armed { point: "vm.seek".into(), key: Some(found.to_string()), fault: slow, times: 1 });
        two.hypervisors[from].carry(found, &two.hypervisors[to]);
        support::until("it to be missed", || record(found).filter(|record| !record.state.is_on())).await;
    };
    missed(1, 0).await;
    let refused = control.remove_vm(op(), found, false).await.unwrap_err();
    assert_eq!(refused.message, "remove of found failed: it runs; stop it, or use force");
    let kept = record(found).unwrap();
    assert_eq!((kept.host, kept.status, kept.state.wanted), (two.hosts[0], VmStatus::Running, Wanted::Running));
    two.runs_once(found, "found and kept");
    missed(0, 1).await;
    control.remove_vm(op(), found, true).await.unwrap();
    assert!(record(found).is_none());
    assert_eq!(two.runs(found), [None, None]);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_back_waits_for_no_host_that_is_silent_and_where_it_ran_since_it_is_not_started_twice() {
    let two = Two::start("").await;
    let control = two.control();
    let name = format!("m{:x}", VmId::new().as_u128());
    let new = NewHost { name: "h2".into(), uri: format!("simulated://{name}"), ..NewHost::default() };
    let third = control.register_host(op(), new).await.unwrap().value.spec.id;
    support::until("a host to be reached", || control.host(third).filter(|host| host.status == HostStatus::Up)).await;
    let unreachable = |host: HostId| control.host(host).filter(|host| host.status == HostStatus::Unreachable);
    let third_of = Hypervisor::named(&name);
    let runs = |vm: VmId| [two.runs(vm)[0], two.runs(vm)[1], third_of.domains().get(&vm).copied()];
    let is = |vm: VmId, status: VmStatus| control.vm(vm).unwrap().filter(|record| record.status == status);
    let made = |name: &'static str| {
        let new = NewVm { host: Some(two.hosts[0]), ha: true, ..NewVm::new(name, "debian-12", 1, 1 << 30) };
        async { control.create_vm(op(), new).await.unwrap().value.spec.id }
    };
    let (running, off) = (made("running").await, made("off").await);
    control.stop_vm(op(), off, true, None).await.unwrap();
    third_of.cut(true);
    support::until("a host not to answer", || unreachable(third)).await;
    two.hypervisors[0].cut(true);
    support::until("its host not to answer", || unreachable(two.hosts[0])).await;
    two.hypervisors[0].power_cycle();
    // Before its host was looked at, nothing is said of it there.
    let (slow, key) = (Fault::Delay(Duration::from_millis(500)), two.hosts[1].to_string());
    fault::arm(Armed { point: "driver.list".into(), key: Some(key), fault: slow, times: 3 });
    control.declare_host_lost(op(), two.hosts[0], "h0".into()).await.unwrap();
    let come = || control.vm(running).unwrap().filter(|record| record.host == two.hosts[1]);
    let record = support::until("it to come back", come).await;
    assert!(record.status != VmStatus::Running || runs(running)[1].is_some(), "{record:#?}");
    let there = |vm: VmId, status| move || is(vm, status).filter(|record| record.host == two.hosts[1]);
    support::until("it to run again", there(running, VmStatus::Running)).await;
    support::until("the other to be there", there(off, VmStatus::Stopped)).await;
    // One by its recovery, one by a person: both have run in this place now.
    control.start_vm(op(), off).await.unwrap();
    for vm in [running, off] {
        support::until("it to run", there(vm, VmStatus::Running)).await;
        two.hypervisors[1].carry(vm, &third_of);
    }
    for vm in [running, off] {
        let record = support::until("it is not started", there(vm, VmStatus::Failed)).await;
        let why = record.state.withheld.unwrap();
        assert!(why.contains("h2 cannot be asked"), "{why}");
        assert_eq!(runs(vm)[1..], [None, Some(Run::Running)]);
    }
    third_of.cut(false);
    for vm in [running, off] {
        let found = || is(vm, VmStatus::Running).filter(|record| record.host == third);
        support::until("found where it was moved to", found).await;
        assert_eq!(runs(vm)[1..], [None, Some(Run::Running)]);
        assert_eq!(third_of.boots(vm), 1, "it was started anew");
    }
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_no_host_has_any_more_is_made_again_where_it_was() {
    let two = Two::start("").await;
    let control = two.control();
    let vm = two.vm("a").await;
    two.hypervisors[0].forget(vm);
    let back = || {
        let record = control.vm(vm).unwrap().unwrap();
        let recovered = record.state.operations.iter().any(|operation| operation.kind == OperationKind::Recover);
        (recovered && record.status == VmStatus::Running).then_some(())
    };
    support::until("made again", back).await;
    two.runs_once(vm, "made again");
    two.stop().await;
}
