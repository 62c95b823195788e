//! What is made of a VM is whole or not there, and needs nothing of the VM that it came from.

use hiveward_actors::client::{NewClone, NewSize};

use super::*;

fn named(name: &str) -> NewClone {
    NewClone { name: name.into(), host: None, start: true }
}

impl Here {
    /// Nothing of a copy is left where it was on its way.
    fn staging(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("copies")).map_or(0, Iterator::count)
    }

    fn clone_named(&self, name: &str) -> Option<VmRecord> {
        let control = self.control();
        control.vm(control.vm_named(name)?).unwrap().filter(|record| record.state.active().is_none())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_has_what_its_vm_has_and_an_identity_of_its_own_and_outlives_it() {
    let here = Here::start().await;
    let control = here.control();
    let new = NewVm {
        user_data: Some("#cloud-config\n".into()),
        networks: vec!["blue".into()],
        ..NewVm::new("web", "debian-12", 2, 1 << 30)
    };
    let vm = control.create_vm(op(), new).await.unwrap().value.spec.id;
    let disk = hiveward_catalogue::vm::spec::DiskSpec { name: "data".into(), size_bytes: 1 << 30 };
    control.attach_vm_disk(op(), vm, disk).await.unwrap();
    let source = control.clone_vm(op(), vm, named("twin")).await.unwrap().value;
    assert_eq!((source.spec.id, source.status), (vm, VmStatus::Running));
    let twin =
        support::until("the clone to run", || here.clone_named("twin").filter(|twin| twin.status == VmStatus::Running)).await;
    assert_ne!(twin.spec.id, vm);
    assert_eq!((twin.spec.cpus, twin.spec.memory_bytes, &*twin.spec.networks), (2, 1 << 30, &["blue".to_owned()][..]));
    assert_eq!(twin.spec.user_data, source.spec.user_data);
    let disks: Vec<_> = twin.spec.disks.iter().map(|disk| &*disk.name).collect();
    assert_eq!((disks, twin.spec.bases.len(), twin.spec.base.is_some()), (vec!["root", "data"], 1, true));
    assert_eq!(here.staging(), 0);
    // What its disks begin as nobody else sees.
    assert!(control.images(None, 10).unwrap().items.is_empty());
    let taken = control.clone_vm(op(), vm, named("twin")).await.unwrap_err();
    assert_eq!((taken.code, taken.field.as_deref()), (Code::Conflict, Some("name")));
    // Also who may ask the same again, as a dashboard does, is told at once, and nothing goes on for hours.
    for attempt in ["one", "another"] {
        let again = Op { operation: Some(attempt.into()), ..op() };
        let taken = control.clone_vm(again, vm, named("twin")).await.unwrap_err();
        assert!(taken.message.contains("there is a VM named \"twin\" already"), "{taken:?}");
        assert!(control.vm(vm).unwrap().unwrap().state.active().is_none());
    }
    let nowhere = NewClone { host: Some(HostId::new()), ..named("other") };
    assert_eq!(control.clone_vm(op(), vm, nowhere).await.unwrap_err().code, Code::NotFound);
    // There is no room for another: nothing of it is left.
    control.resize_vm(op(), vm, NewSize { memory_bytes: Some(200 << 30), ..NewSize::default() }).await.unwrap();
    let refused = control.clone_vm(op(), vm, named("third")).await.unwrap_err();
    assert!(refused.code == Code::Refused && refused.message.contains("no host is eligible"), "{refused:?}");
    assert_eq!((control.vm_named("third"), here.staging()), (None, 0));
    // A simulated disk holds nothing that an image could be made of.
    let refused = control.make_image_of_vm(op(), vm, "golden".into()).await.unwrap_err();
    assert!(refused.message.contains("simulated"), "{refused:?}");

    control.remove_vm(op(), vm, true).await.unwrap();
    control.stop_vm(op(), twin.spec.id, true, None).await.unwrap();
    assert_eq!(control.start_vm(op(), twin.spec.id).await.unwrap().value.status, VmStatus::Running);
    let off = control.stop_vm(op(), twin.spec.id, true, None).await.unwrap().value;
    let again = control.clone_vm(op(), off.spec.id, NewClone { start: false, ..named("again") }).await.unwrap().value;
    assert_eq!(again.status, VmStatus::Stopped);
    let again = support::until("a clone of a clone", || here.clone_named("again")).await;
    for vm in [twin.spec.id, again.spec.id] {
        control.remove_vm(op(), vm, true).await.unwrap();
    }
    here.nothing_left().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_is_broken_off_is_made_once_or_not_at_all() {
    let mut here = Here::start().await;
    let vm = here.vm("web").await;
    let faults = [
        ("vm.copy", Fault::Panic),
        ("vm.copy.done", Fault::Panic),
        ("driver.backup", error()),
        ("driver.backup.done", error()),
        ("vm.publish", Fault::Panic),
        ("vm.publish.done", Fault::Panic),
    ];
    for (round, (point, fault)) in faults.into_iter().enumerate() {
        let control = here.control();
        arm(point, vm, fault);
        let name = format!("twin{round}");
        drop(control.clone_vm(short(), vm, named(&name)).await);
        let source = support::until(&format!("the end, after {point}"), || idle(&control, vm)).await;
        assert!(struck(point), "{point} was not passed");
        fault::disarm(point);
        let last = source.state.operations.back().unwrap();
        assert_eq!(last.ended.as_ref().map(|(_, outcome)| outcome), Some(&Outcome::Done), "after {point}");
        support::until(&format!("the clone, after {point}"), || here.clone_named(&name)).await;
        assert_eq!(here.control().host(here.host).unwrap().vms as usize, round + 2, "after {point}");
        assert_eq!(here.staging(), 0, "after {point}");
        if round == 3 {
            here.restart().await;
            let control = here.control();
            support::until("the host to be reached", || control.host(here.host).filter(|host| host.status == HostStatus::Up))
                .await;
        }
    }
    // One that is cancelled leaves nothing.
    let control = here.control();
    arm("driver.backup", vm, Fault::Delay(Duration::from_secs(1)));
    let begun = control.clone_vm(short(), vm, named("late")).await.unwrap().value;
    assert!(begun.state.active().is_some());
    control.cancel_vm_migration(op(), vm).await.unwrap();
    let source = support::until("the end of it", || idle(&control, vm)).await;
    let last = source.state.operations.back().unwrap();
    assert!(matches!(&last.ended, Some((_, Outcome::Failed { message })) if message.contains("cancelled")), "{last:?}");
    assert_eq!((control.vm_named("late"), here.staging()), (None, 0));
    let all: Vec<VmId> = control.vms(&Default::default(), None, 20).unwrap().items.iter().map(|(_, vm)| vm.spec.id).collect();
    for vm in all {
        control.remove_vm(op(), vm, true).await.unwrap();
    }
    here.nothing_left().await;
    here.stop().await;
}
