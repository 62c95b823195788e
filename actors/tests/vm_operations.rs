//! What VMs promise beyond being on and off: snapshots, consoles, backups. On one node over a simulated hypervisor that outlives it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "vm_operations/copy.rs"]
mod copy;
#[path = "vm_operations/increments.rs"]
mod increments;
#[path = "vm_operations/shape.rs"]
mod shape;
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hiveward_actors::{
    client::{ControlPlane, NewHost, NewMove, NewSchedule, NewVm, Restore},
    node::{Node, NodeConfig},
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_machines::{
    host::{
        driver::{Off, Run, simulated::Hypervisor},
        record::HostStatus,
    },
    vm::{
        console::From,
        event::Outcome,
        record::{VmRecord, VmStatus},
        snapshot::SNAPSHOTS_MAX,
    },
};
use hiveward_runtime::{
    clock::{Clock, WallMs},
    error::Code,
    fault::{self, Armed, Fault},
    op::Op,
};

struct Here {
    dir: tempfile::TempDir,
    node: Option<Node>,
    hypervisor: Hypervisor,
    host: HostId,
}

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    NodeConfig { reserve_bytes: 0, default_agents: 0, shim: support::shim(), ..NodeConfig::new(dir.path()) }
}

fn op() -> Op {
    Op::internal(Duration::from_secs(20))
}

fn short() -> Op {
    Op::internal(Duration::from_secs(1))
}

impl Here {
    async fn start() -> Self {
        Self::start_on("").await
    }

    /// With this query in the URI of its host.
    async fn start_on(query: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(&dir)).await.unwrap();
        let (control, name) = (node.control(), format!("o{:x}", VmId::new().as_u128()));
        let new = NewHost { name: "h1".into(), uri: format!("simulated://{name}{query}"), ..NewHost::default() };
        let host = control.register_host(op(), new).await.unwrap().value.spec.id;
        support::until("the host to be reached", || control.host(host).filter(|host| host.status == HostStatus::Up)).await;
        Self { dir, node: Some(node), hypervisor: Hypervisor::named(&name), host }
    }

    fn control(&self) -> ControlPlane {
        self.node.as_ref().unwrap().control()
    }

    async fn vm(&self, name: &str) -> VmId {
        let made = self.control().create_vm(op(), NewVm::new(name, "debian-12", 1, 1 << 30)).await.unwrap().value;
        assert_eq!(made.status, VmStatus::Running);
        made.spec.id
    }

    fn run(&self, vm: VmId) -> Option<Run> {
        self.hypervisor.domains().get(&vm).copied()
    }

    /// From now on the node reads the time of this clock.
    async fn by_clock(&mut self, clock: &Arc<AtomicI64>) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
        let config = NodeConfig { clock: Clock::Manual(clock.clone()), ..config(&self.dir) };
        self.node = Some(Node::start(config).await.unwrap());
    }

    async fn restart(&mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
        self.node = Some(Node::start(config(&self.dir)).await.unwrap());
    }

    async fn stop(mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
    }

    async fn nothing_left(&self) {
        let record = self.control().host(self.host).unwrap();
        assert_eq!((record.vms, record.reserved_cpus, record.reserved_memory_bytes), (0, 0, 0));
        assert!(self.hypervisor.domains().is_empty(), "{:?}", self.hypervisor.domains());
    }
}

fn names(record: &VmRecord) -> Vec<String> {
    record.state.snapshots.iter().map(|snapshot| snapshot.name.to_string()).collect()
}

fn idle(control: &ControlPlane, vm: VmId) -> Option<VmRecord> {
    control.vm(vm).unwrap().filter(|record| record.state.active().is_none())
}

fn arm(point: &str, vm: VmId, fault: Fault) {
    assert!(fault::arm(Armed { point: point.into(), key: Some(vm.to_string()), fault, times: 1 }));
}

fn struck(point: &str) -> bool {
    fault::list().iter().any(|status| status.armed.point == point && status.struck > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_goes_back_to_what_it_was_when_its_snapshot_was_taken_running_or_off() {
    let here = Here::start().await;
    let (control, vm) = (here.control(), here.vm("web").await);
    let taken = control.snapshot_vm(op(), vm, "on".into()).await.unwrap().value;
    assert_eq!((names(&taken), taken.state.snapshots[0].with_memory, taken.status), (vec!["on".into()], true, VmStatus::Running));
    assert_eq!(control.snapshot_vm(op(), vm, "on".into()).await.unwrap_err().code, Code::Conflict);
    control.stop_vm(op(), vm, true, None).await.unwrap();
    let taken = control.snapshot_vm(op(), vm, "off".into()).await.unwrap().value;
    assert_eq!((names(&taken).len(), taken.state.snapshots[1].with_memory), (2, false));
    // What it is afterwards is how it is wanted: nothing is started or stopped again.
    assert_eq!(control.revert_vm(op(), vm, "on".into()).await.unwrap().value.status, VmStatus::Running);
    assert_eq!(control.revert_vm(op(), vm, "off".into()).await.unwrap().value.status, VmStatus::Stopped);
    assert_eq!(here.run(vm), Some(Run::Off(Off::Unknown)));
    assert_eq!(control.revert_vm(op(), vm, "none".into()).await.unwrap_err().code, Code::NotFound);
    let bad = control.snapshot_vm(op(), vm, "a/b".into()).await.unwrap_err();
    assert_eq!((bad.code, bad.field.as_deref()), (Code::Invalid, Some("name")));

    // What has snapshots stays where it is, and says why.
    control.start_vm(op(), vm).await.unwrap();
    let stays = control.migrate_vm(op(), vm, NewMove::default()).await.unwrap_err();
    assert!(stays.code == Code::Refused && stays.message.contains("snapshots"), "{stays:?}");
    let left = control.remove_vm_snapshot(op(), vm, "on".into()).await.unwrap().value;
    assert_eq!((names(&left), here.hypervisor.snapshots(vm).len()), (vec!["off".into()], 1));
    for n in 1..SNAPSHOTS_MAX {
        control.snapshot_vm(op(), vm, format!("s{n}")).await.unwrap();
    }
    assert_eq!(control.snapshot_vm(op(), vm, "more".into()).await.unwrap_err().code, Code::Limit);
    let gone = control.remove_vm(op(), vm, true).await.unwrap().value;
    assert_eq!(gone.status, VmStatus::Removed);
    here.nothing_left().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_broken_off_comes_about_or_leaves_nothing() {
    let mut here = Here::start().await;
    let vm = here.vm("web").await;
    let faults = [
        ("vm.snapshot", Fault::Panic),
        ("vm.snapshot.done", Fault::Panic),
        ("driver.snapshot", error()),
        ("driver.snapshot.done", error()),
        ("vm.revert", Fault::Panic),
        ("vm.revert.done", Fault::Panic),
        ("driver.revert.done", error()),
        ("vm.remove_snapshot.done", Fault::Panic),
        ("driver.remove_snapshot.done", error()),
    ];
    for (point, fault) in faults {
        let control = here.control();
        arm(point, vm, fault);
        control.snapshot_vm(op(), vm, "s".into()).await.unwrap();
        control.revert_vm(op(), vm, "s".into()).await.unwrap();
        assert_eq!(here.hypervisor.snapshots(vm).len(), 1, "{point}");
        control.remove_vm_snapshot(op(), vm, "s".into()).await.unwrap();
        assert!(struck(point), "{point}");
        assert_eq!(here.hypervisor.snapshots(vm), Vec::<String>::new(), "{point}");
        assert_eq!(here.run(vm), Some(Run::Running), "{point}");
        fault::disarm(point);
    }
    // The node stops amid the step, before and after the hypervisor has done it.
    for point in ["driver.snapshot", "driver.snapshot.done"] {
        arm(point, vm, Fault::Hang);
        let begun = here.control().snapshot_vm(short(), vm, "s".into()).await.unwrap().value;
        assert!(begun.state.active().is_some() && names(&begun).is_empty(), "{point}");
        // Nothing comes between but its removal.
        let stop = here.control().stop_vm(short(), vm, true, None).await.unwrap_err();
        assert!(stop.code == Code::Refused && stop.message.contains("snapshot is under way"), "{stop:?}");
        here.restart().await;
        let control = here.control();
        let record = support::until("its end", || idle(&control, vm)).await;
        assert_eq!((names(&record), here.hypervisor.snapshots(vm).len()), (vec!["s".into()], 1), "{point}");
        control.remove_vm_snapshot(op(), vm, "s".into()).await.unwrap();
        fault::disarm(point);
    }
    // The guest ends amid it: what was written is taken away, and the guest is started again.
    arm("driver.snapshot.done", vm, Fault::Hang);
    here.control().snapshot_vm(short(), vm, "s".into()).await.unwrap();
    here.hypervisor.set(vm, Run::Off(Off::Crashed));
    here.restart().await;
    let control = here.control();
    let record = support::until("it to run again", || idle(&control, vm).filter(|vm| vm.status == VmStatus::Running)).await;
    assert_eq!((names(&record), here.hypervisor.snapshots(vm)), (Vec::new(), Vec::new()));
    fault::disarm("driver.snapshot.done");
    control.remove_vm(op(), vm, true).await.unwrap();
    here.nothing_left().await;
    here.stop().await;
}

fn error() -> Fault {
    Fault::Error("broken off".into())
}

/// Reads on until `wanted` has been said; all that was read.
async fn said(control: &ControlPlane, vm: VmId, from: From, wanted: &str) -> (String, u64) {
    let mut reader = control.vm_console(&op(), vm).await.unwrap();
    let (mut all, mut from) = (Vec::new(), from);
    let reading = async {
        loop {
            let piece = reader.next(from).await.unwrap();
            all.extend_from_slice(&piece.bytes);
            if !piece.bytes.is_empty() {
                from = From::Byte(piece.next_byte());
            }
            if String::from_utf8_lossy(&all).contains(wanted) {
                return (String::from_utf8(all).unwrap(), piece.next_byte());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it was never said")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_is_recorded_and_a_reader_goes_on_where_it_was_after_the_node_was_away() {
    let mut here = Here::start().await;
    let vm = here.vm("web").await;
    // It says what it is: nothing that looks like a guest.
    let (first, after) = said(&here.control(), vm, From::Byte(0), "echoes").await;
    assert!(first.starts_with("This machine is simulated"), "{first:?}");
    here.control().type_vm_console(&op(), vm, b"uname -a\r".to_vec()).await.unwrap();
    let (echo, next) = said(&here.control(), vm, From::Byte(after), "uname -a\r").await;
    assert!("echoes what is typed.\r\nuname -a\r".ends_with(&echo), "{echo:?}");
    // Two read the same, and each from where it wants.
    assert_eq!(said(&here.control(), vm, From::Byte(0), "uname").await.0, format!("{first}{echo}"));
    assert_eq!(said(&here.control(), vm, From::Last(5), "a\r").await.0, "e -a\r");

    here.restart().await;
    let control = here.control();
    let (later, _) = said(&control, vm, From::Byte(next), "echoes").await;
    assert!(later.starts_with("This machine is simulated"), "another life goes on behind it: {later:?}");
    assert!(said(&control, vm, From::Byte(0), &later).await.0.starts_with(&format!("{first}{echo}")));

    control.stop_vm(op(), vm, true, None).await.unwrap();
    let mut reader = control.vm_console(&op(), vm).await.unwrap();
    let end = loop {
        let piece = reader.next(From::Last(0)).await.unwrap();
        if let Some(why) = piece.closed {
            break why;
        }
    };
    assert!(end.contains("does not run"), "{end}");
    let typed = control.type_vm_console(&op(), vm, b"x".to_vec()).await.unwrap_err();
    assert_eq!(typed.code, Code::Refused);
    let dir = here.dir.path().join("consoles").join(vm.to_string());
    assert!(dir.exists());
    control.remove_vm(op(), vm, true).await.unwrap();
    support::until("the recording to go with its VM", || (!dir.exists()).then_some(())).await;
    here.stop().await;
}

/// Whole backups in a directory, and what is there besides.
fn kept(dir: &std::path::Path) -> (usize, Vec<String>) {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let (odd, whole): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with('.'));
    (whole.len(), odd)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_broken_off_is_made_whole_or_leaves_nothing_and_a_vm_is_made_of_it() {
    let mut here = Here::start().await;
    let (vm, dir) = (here.vm("web").await, tempfile::tempdir().unwrap());
    let to = || dir.path().to_str().unwrap().to_owned();
    let mut whole = 0;
    for (point, fault) in [
        ("vm.backup", Fault::Panic),
        ("vm.backup.done", Fault::Panic),
        ("driver.backup", error()),
        ("driver.backup.done", error()),
    ] {
        let control = here.control();
        arm(point, vm, fault);
        control.backup_vm(op(), vm, to(), false).await.unwrap();
        let record = support::until("its end", || idle(&control, vm)).await;
        whole += 1;
        assert!(struck(point), "{point}");
        assert_eq!((record.state.backups.len(), kept(dir.path())), (whole, (whole, Vec::new())), "{point}");
        fault::disarm(point);
    }
    // The node stops amid it.
    for point in ["driver.backup", "driver.backup.done"] {
        arm(point, vm, Fault::Hang);
        here.control().backup_vm(short(), vm, to(), false).await.unwrap();
        support::until("the step", || struck(point).then_some(())).await;
        assert_eq!(kept(dir.path()).1.len(), 1, "what is not whole has another name");
        here.restart().await;
        let control = here.control();
        support::until("its end", || idle(&control, vm)).await;
        whole += 1;
        assert_eq!(kept(dir.path()), (whole, Vec::new()), "{point}");
        fault::disarm(point);
    }
    let control = here.control();
    // What fails again and again is given up, and what cannot be is said at once.
    for _ in 0..8 {
        arm("driver.backup.done", vm, error());
    }
    control.backup_vm(op(), vm, to(), false).await.ok();
    let record = support::until("its end", || idle(&control, vm)).await;
    let last = record.state.operations.back().unwrap();
    assert!(matches!(&last.ended, Some((_, Outcome::Failed { message })) if message.contains("broken off")), "{last:?}");
    assert_eq!((record.status, kept(dir.path())), (VmStatus::Running, (whole, Vec::new())));
    fault::disarm("driver.backup.done");
    let nowhere = control.backup_vm(op(), vm, format!("{}/no", to()), false).await.unwrap_err();
    assert!(nowhere.message.contains("written"), "{nowhere:?}");
    assert_eq!(control.backup_vm(op(), vm, "relative".into(), false).await.unwrap_err().field.as_deref(), Some("to"));

    // It outlives its VM.
    control.remove_vm(op(), vm, true).await.unwrap();
    let all = control.backups_in(&to()).await.unwrap();
    assert_eq!(all.len(), whole);
    let first = &all[0];
    let manifest = first.manifest.as_ref().unwrap();
    assert_eq!((&*manifest.spec.name, manifest.running, manifest.disks.len()), ("web", true, 1));
    let new = |name: &str| Restore { from: first.path.clone(), name: name.into(), host: None, start: true };
    let again = control.restore_vm(op(), new("again")).await.unwrap().value;
    assert_eq!((again.status, again.spec.cpus, again.spec.id == vm), (VmStatus::Running, 1, false));
    assert_eq!(control.restore_vm(op(), new("again")).await.unwrap_err().code, Code::Conflict);
    // A simulated guest answers nobody, and no drill says that it does.
    let drill = control.drill_backup(op(), first.path.clone(), None).await.unwrap_err();
    assert!(drill.message.contains("simulated"), "{drill:?}");
    assert_eq!(control.restore_vm(op(), Restore { from: to(), ..new("x") }).await.unwrap_err().code, Code::NotFound);
    control.remove_vm(op(), again.spec.id, true).await.unwrap();
    here.nothing_left().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_backs_itself_up_when_it_is_due_and_keeps_the_newest_of_them_and_whatever_was_asked_for() {
    const DAY_MS: i64 = 86_400_000;
    let mut here = Here::start().await;
    let clock = Arc::new(AtomicI64::new(WallMs::now().0));
    here.by_clock(&clock).await;
    let (vm, dir) = (here.vm("web").await, tempfile::tempdir().unwrap());
    let to = || dir.path().to_str().unwrap().to_owned();
    let daily = |keep| Some(NewSchedule { cron: "0 3 * * *".into(), to: to(), keep, full_every: 1 });
    here.control().backup_vm(op(), vm, to(), false).await.unwrap();
    let record = support::until("a person's backup", || idle(&here.control(), vm)).await;
    let mine = record.state.backups[0].path.clone();
    let bad = Some(NewSchedule { cron: "0 25 * * *".into(), to: to(), keep: 2, full_every: 1 });
    assert_eq!(here.control().schedule_vm_backups(op(), vm, bad).await.unwrap_err().field.as_deref(), Some("cron"));
    let set = here.control().schedule_vm_backups(op(), vm, daily(2)).await.unwrap().value;
    assert!(set.state.schedule.unwrap().due().unwrap().0 > clock.load(Ordering::Relaxed));
    for (day, point) in [(1, None), (2, Some("vm.backup.done")), (3, Some("vm.prune")), (4, Some("vm.prune.done"))] {
        let made = |record: &VmRecord| record.state.operations.iter().filter(|past| &*past.principal == "hiveward").count();
        let before = made(&here.control().vm(vm).unwrap().unwrap());
        if let Some(point) = point {
            arm(point, vm, Fault::Panic);
        }
        clock.fetch_add(DAY_MS, Ordering::Relaxed);
        // Said again it changes nothing, and it looks at the time.
        here.control().schedule_vm_backups(op(), vm, daily(2)).await.unwrap();
        let kept_now = 1 + day.min(2);
        let record = support::until("the day's backup", || {
            let record = idle(&here.control(), vm).filter(|record| made(record) > before)?;
            (record.state.backups.len() == kept_now).then_some(record)
        })
        .await;
        if let Some(point) = point {
            support::until(point, || struck(point).then_some(())).await;
            fault::disarm(point);
        }
        assert_eq!(made(&record), before + 1, "day {day}: once a day");
        support::until("old ones to be gone", || (kept(dir.path()) == (kept_now, Vec::new())).then_some(())).await;
        assert!(std::path::Path::new(&mine).exists(), "day {day}: what a person asked for is gone");
    }
    // Without one all stay, and nothing more is made.
    let control = here.control();
    control.schedule_vm_backups(op(), vm, None).await.unwrap();
    clock.fetch_add(3 * DAY_MS, Ordering::Relaxed);
    let record = control.schedule_vm_backups(op(), vm, None).await.unwrap().value;
    assert_eq!((record.state.schedule, record.state.backups.len()), (None, 3));
    control.remove_vm(op(), vm, true).await.unwrap();
    assert_eq!(kept(dir.path()), (3, Vec::new()), "backups outlive their VM");
    here.nothing_left().await;
    here.stop().await;
}
