//! The shape of a VM changes, and what is reserved is what it may use, whatever breaks off the change.

use hiveward_actors::client::{NewMove, NewSize};
use hiveward_catalogue::vm::spec::{DiskSpec, Shape};
use hiveward_machines::vm::event::OperationKind;

use super::*;

const GIB: u64 = 1 << 30;

fn memory(bytes: u64) -> NewSize {
    NewSize { memory_bytes: Some(bytes), ..NewSize::default() }
}

fn data() -> DiskSpec {
    DiskSpec { name: "data".into(), size_bytes: GIB }
}

impl Here {
    fn reserved(&self) -> (u32, u64) {
        let record = self.control().host(self.host).unwrap();
        (record.reserved_cpus, record.reserved_memory_bytes)
    }

    async fn reserves(&self, cpus: u32, bytes: u64) {
        let wanted = (cpus, bytes);
        support::until(&format!("{wanted:?} to be reserved"), || (self.reserved() == wanted).then_some(())).await;
    }

    fn defined(&self, vm: VmId) -> (Shape, (u32, u64)) {
        self.hypervisor.shape(vm).expect("a domain of it")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_grows_and_shrinks_and_what_is_reserved_is_what_it_may_use() {
    let mut here = Here::start_on("?cpus=4&memoryGiB=4").await;
    let (control, vm) = (here.control(), here.vm("web").await);
    assert_eq!(here.reserved(), (1, GIB));
    // More than it was started with comes with the next start, and is reserved at once.
    let grown = control.resize_vm(op(), vm, NewSize { cpus: Some(2), ..memory(2 * GIB) }).await.unwrap().value;
    let lag = grown.state.lag.clone().expect("it runs as it was started");
    assert_eq!((grown.spec.cpus, grown.spec.memory_bytes, lag.cpus, lag.memory_bytes), (2, 2 * GIB, 1, GIB));
    assert!(lag.words().contains("1 CPU and 1024 MiB until"), "{}", lag.words());
    assert_eq!((here.reserved(), here.defined(vm).1), ((2, 2 * GIB), (1, GIB)));
    let early = control.snapshot_vm(op(), vm, "early".into()).await.unwrap_err();
    assert!(early.code == Code::Refused && early.message.contains("until it is stopped and started"), "{early:?}");
    control.stop_vm(op(), vm, true, None).await.unwrap();
    let again = control.start_vm(op(), vm).await.unwrap().value;
    assert_eq!((again.state.lag, here.defined(vm).1), (None, (2, 2 * GIB)));

    // Memory goes while it runs; what was given back is free.
    let shrunk = control.resize_vm(op(), vm, memory(GIB)).await.unwrap().value;
    assert_eq!((shrunk.state.lag, here.defined(vm).1), (None, (2, GIB)));
    here.reserves(2, GIB).await;
    // What is left alone is held until it is stopped, also by another life of the node.
    let later = control.resize_vm(op(), vm, NewSize { offline: true, cpus: Some(1), memory_bytes: Some(GIB / 2) }).await;
    let later = later.unwrap().value;
    assert_eq!(later.state.lag.map(|lag| (lag.cpus, lag.memory_bytes)), Some((2, GIB)));
    assert_eq!(here.reserved(), (2, GIB));
    here.restart().await;
    let control = here.control();
    support::until("the host to be reached", || control.host(here.host).filter(|host| host.status == HostStatus::Up)).await;
    assert_eq!(here.reserved(), (2, GIB));
    assert!(control.vm(vm).unwrap().unwrap().state.lag.is_some());
    control.stop_vm(op(), vm, true, None).await.unwrap();
    here.reserves(1, GIB / 2).await;

    // What is not there is refused, and nothing was changed.
    let before = control.vm(vm).unwrap().unwrap().spec;
    let refused = control.resize_vm(op(), vm, memory(5 * GIB)).await.unwrap_err();
    assert!(refused.code == Code::Refused && refused.message.contains("memory to promise"), "{refused:?}");
    let refused = control.resize_vm(op(), vm, NewSize { cpus: Some(17), ..NewSize::default() }).await.unwrap_err();
    assert!(refused.message.contains("h1 has 15 CPUs to promise, and web would take 16 more"), "{refused:?}");
    let bad = control.resize_vm(op(), vm, NewSize { cpus: Some(0), ..NewSize::default() }).await.unwrap_err();
    assert_eq!((bad.code, bad.field.as_deref()), (Code::Invalid, Some("cpus")));
    let bad = control.resize_vm(op(), vm, NewSize::default()).await.unwrap_err();
    assert_eq!((bad.code, bad.field.as_deref()), (Code::Invalid, Some("cpus")));
    let after = idle(&control, vm).unwrap();
    assert_eq!((after.spec, after.status), (before, VmStatus::Stopped));
    here.reserves(1, GIB / 2).await;
    control.remove_vm(op(), vm, true).await.unwrap();
    here.nothing_left().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_and_networks_come_and_go_and_what_cannot_be_is_refused_with_words() {
    let here = Here::start().await;
    let (control, vm) = (here.control(), here.vm("web").await);
    let has = control.attach_vm_disk(op(), vm, data()).await.unwrap().value;
    assert_eq!((has.spec.disks.clone(), here.defined(vm).0.disks), (vec![data()], vec![data()]));
    let twice = control.attach_vm_disk(op(), vm, data()).await.unwrap_err();
    assert_eq!((twice.code, twice.field.as_deref()), (Code::Conflict, Some("name")));
    let root = DiskSpec { name: "root".into(), ..data() };
    assert_eq!(control.attach_vm_disk(op(), vm, root).await.unwrap_err().code, Code::Conflict);
    for (name, delete, code) in [("root", true, Code::Refused), ("none", true, Code::NotFound), ("data", false, Code::Refused)] {
        let refused = control.detach_vm_disk(op(), vm, name.into(), delete).await.unwrap_err();
        assert_eq!(refused.code, code, "{refused:?}");
    }
    // One that does not come about leaves nothing that the next one of its name would find.
    let refused = control.attach_vm_disk(op(), vm, DiskSpec { name: "missing".into(), ..data() }).await.unwrap_err();
    assert!(refused.message.contains("no room"), "{refused:?}");
    assert_eq!((here.hypervisor.volumes(vm), here.defined(vm).0.disks), (vec!["data".into()], vec![data()]));
    for network in ["blue", "bridge:br1"] {
        control.attach_vm_network(op(), vm, network.into()).await.unwrap();
    }
    let names = || here.defined(vm).0.networks;
    assert_eq!(names(), ["blue", "bridge:br1"]);
    assert_eq!(control.attach_vm_network(op(), vm, "blue".into()).await.unwrap_err().code, Code::Conflict);
    // The hypervisor has none of that name: it is as it was, and nothing is left of the wish.
    let refused = control.attach_vm_network(op(), vm, "missing-1".into()).await.unwrap_err();
    assert!(refused.message.contains("no network"), "{refused:?}");
    assert_eq!((names(), idle(&control, vm).unwrap().spec.networks.len()), (vec!["blue".into(), "bridge:br1".into()], 2));
    control.detach_vm_network(op(), vm, "blue".into()).await.unwrap();
    let only = control.detach_vm_network(op(), vm, "bridge:br1".into()).await.unwrap_err();
    assert!(only.code == Code::Refused && only.message.contains("only network"), "{only:?}");

    // What has snapshots keeps its shape.
    control.snapshot_vm(op(), vm, "one".into()).await.unwrap();
    for refused in [
        control.detach_vm_disk(op(), vm, "data".into(), true).await,
        control.attach_vm_network(op(), vm, "red".into()).await,
        control.resize_vm(op(), vm, memory(2 * GIB)).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.code == Code::Refused && refused.message.contains("snapshots"), "{refused:?}");
    }
    control.remove_vm_snapshot(op(), vm, "one".into()).await.unwrap();
    // A VM that is made of its backup has its shape.
    let dir = tempfile::tempdir().unwrap();
    let kept = control.backup_vm(op(), vm, dir.path().to_str().unwrap().into(), false).await.unwrap().value;
    let from = kept.state.backups[0].path.clone();
    let again = Restore { from, name: "again".into(), host: None, start: false };
    let again = control.restore_vm(op(), again).await.unwrap().value;
    assert!(again.spec.disks.iter().any(|disk| disk.name == "data") && again.spec.networks == ["bridge:br1"], "{:?}", again.spec);
    control.remove_vm(op(), again.spec.id, true).await.unwrap();
    let gone = control.detach_vm_disk(op(), vm, "data".into(), true).await.unwrap().value;
    assert_eq!((gone.spec.disks.len(), here.defined(vm).0.disks.len()), (0, 0));
    assert_eq!(here.hypervisor.volumes(vm), Vec::<String>::new());
    control.remove_vm(op(), vm, true).await.unwrap();
    here.nothing_left().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_shape_that_is_broken_off_comes_about_whole_or_not_at_all() {
    let mut here = Here::start_on("?cpus=16&memoryGiB=64").await;
    let vm = here.vm("web").await;
    let mut faults = Vec::new();
    for point in ["claim", "reshape", "enact", "drop_disk"] {
        faults.push((format!("vm.{point}"), Fault::Panic));
        faults.push((format!("vm.{point}.done"), Fault::Panic));
    }
    for point in ["driver.reshape", "driver.reshape.done", "driver.drop_disk", "driver.drop_disk.done"] {
        faults.push((point.into(), error()));
    }
    for (round, (point, fault)) in faults.iter().enumerate() {
        let control = here.control();
        arm(point, vm, fault.clone());
        let bytes = (2 + round as u64) * GIB;
        let attached = control.attach_vm_disk(short(), vm, data()).await;
        drop(attached);
        let settled = || idle(&control, vm).filter(|record| record.spec.disks.len() == 1);
        support::until(&format!("the disk, after {point}"), settled).await;
        drop(control.resize_vm(short(), vm, memory(bytes)).await);
        support::until(&format!("the size, after {point}"), || {
            idle(&control, vm).filter(|record| record.spec.memory_bytes == bytes)
        })
        .await;
        drop(control.detach_vm_disk(short(), vm, "data".into(), true).await);
        let record = support::until(&format!("no disk, after {point}"), || {
            idle(&control, vm).filter(|record| record.spec.disks.is_empty())
        })
        .await;
        assert!(struck(point), "{point} was not passed");
        fault::disarm(point);
        assert_eq!(here.defined(vm).0, record.spec.shape(), "after {point}");
        assert_eq!(here.reserved(), (1, bytes), "after {point}");
        assert_eq!(here.run(vm), Some(Run::Running), "after {point}");
        assert_eq!(here.hypervisor.volumes(vm), Vec::<String>::new(), "after {point}");
        let done = |kind| {
            let last = record.state.operations.iter().rfind(|operation| operation.kind == kind);
            last.and_then(|operation| operation.ended.clone()).map(|(_, outcome)| outcome)
        };
        for kind in [OperationKind::AttachDisk, OperationKind::Resize, OperationKind::DetachDisk] {
            assert_eq!(done(kind), Some(Outcome::Done), "{kind:?} after {point}");
        }
    }
    here.control().remove_vm(op(), vm, true).await.unwrap();
    // What is refused when it was claimed is given back, also when its actor dies amid that.
    let vm = here.vm("other").await;
    for point in ["vm.unshape", "vm.unshape.done", "vm.drop_disk.done", "vm.give_back", "vm.give_back.done"] {
        let control = here.control();
        arm(point, vm, Fault::Panic);
        drop(control.attach_vm_disk(short(), vm, DiskSpec { name: "missing".into(), ..data() }).await);
        let record = support::until(&format!("the end, after {point}"), || idle(&control, vm)).await;
        assert!(struck(point), "{point} was not passed");
        fault::disarm(point);
        assert_eq!((here.defined(vm).0, here.reserved()), (record.spec.shape(), (1, record.spec.memory_bytes)), "after {point}");
        assert_eq!(here.hypervisor.volumes(vm), Vec::<String>::new(), "after {point}");
    }
    arm("vm.let_go", vm, Fault::Panic);
    let control = here.control();
    control.resize_vm(op(), vm, memory(GIB)).await.unwrap();
    control.stop_vm(op(), vm, true, None).await.unwrap();
    control.start_vm(op(), vm).await.unwrap();
    let grown = control.resize_vm(op(), vm, NewSize { offline: true, ..memory(GIB / 2) }).await.unwrap().value;
    assert!(grown.state.lag.is_some());
    assert_eq!(here.reserved(), (1, GIB));
    control.stop_vm(op(), vm, true, None).await.unwrap();
    here.reserves(1, GIB / 2).await;
    here.restart().await;
    assert_eq!(here.reserved(), (1, GIB / 2));
    let control = here.control();
    support::until("the host to be reached", || control.host(here.host).filter(|host| host.status == HostStatus::Up)).await;
    control.remove_vm(op(), vm, true).await.unwrap();
    here.nothing_left().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_holds_goes_with_it_to_another_host() {
    let here = Here::start_on("?cpus=16&memoryGiB=64").await;
    let (control, vm) = (here.control(), here.vm("web").await);
    let name = format!("o{:x}", VmId::new().as_u128());
    let new = NewHost { name: "h2".into(), uri: format!("simulated://{name}"), ..NewHost::default() };
    let other = control.register_host(op(), new).await.unwrap().value.spec.id;
    support::until("the host to be reached", || control.host(other).filter(|host| host.status == HostStatus::Up)).await;
    control.resize_vm(op(), vm, NewSize { offline: true, ..memory(GIB / 2) }).await.unwrap();
    let to = NewMove { host: Some(other), ..NewMove::default() };
    control.migrate_vm(op(), vm, to).await.unwrap();
    let moved = support::until("it to be there", || idle(&control, vm).filter(|record| record.host == other)).await;
    assert_eq!((moved.spec.memory_bytes, moved.state.lag.map(|lag| lag.memory_bytes)), (GIB / 2, Some(GIB)));
    assert_eq!((here.reserved(), control.host(other).unwrap().reserved_memory_bytes), ((0, 0), GIB));
    control.stop_vm(op(), vm, true, None).await.unwrap();
    let free = || control.host(other).filter(|host| host.reserved_memory_bytes == GIB / 2);
    support::until("what it held to be free", free).await;
    control.remove_vm(op(), vm, true).await.unwrap();
    here.nothing_left().await;
    here.stop().await;
}
