//! The contract that every driver keeps, on real QEMU.

use std::time::Duration;

use hiveward_catalogue::{
    host::{
        protocol::{Base, Pool},
        spec::HostUri,
    },
    vm::spec::DiskSpec,
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_machines::host::driver::{self, Action, contract, libvirt::use_program};
use hiveward_runtime::clock::Deadline;

use crate::lab::{Lab, guest};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

#[tokio::test]
async fn the_libvirt_driver_keeps_the_contract_on_real_qemu_and_leaves_nothing_on_its_host() {
    use_program(crate::lab::driver());
    let lab = Lab::start(1);
    let uri = HostUri::parse(&lab.uri(1)).unwrap();
    let bytes = std::fs::metadata(guest()).unwrap().len();
    let base = Base {
        hash: "0123456789abcdef".repeat(4),
        path: guest().to_owned(),
        bytes,
        virtual_bytes: 96 << 20,
        format: "qcow2".into(),
        verify: false,
    };
    let spec = |host| driver::DomainSpec {
        base: Some(base.clone()),
        disks: vec![DiskSpec { name: "data".into(), size_bytes: 8 << 20 }],
        user_data: b"#cloud-config\n{}\n".to_vec(),
        ..contract::small(host)
    };
    let ready = async |driver: &dyn driver::Driver, vm| {
        let begun = std::time::Instant::now();
        while driver.guest(vm, soon()).await.unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(90), "the guest never answered");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    contract::keeps_with(true, async |host| driver::open(&uri, host, &Pool::default(), soon()).await, spec, ready).await;
    assert_eq!(lab.domains(1), Vec::new());
    assert_eq!(lab.disks(), Vec::<String>::new());
    assert!(std::fs::read_dir(lab.images(1)).unwrap().count() == 1, "the image is not kept");
    // No VM of the cluster is made of it any more.
    let host = HostId::new();
    let connection = driver::open(&uri, host, &Pool::default(), soon()).await.unwrap();
    let pump = tokio::spawn(connection.pump);
    connection.driver.sweep(vec![base.hash.clone()], soon()).await.unwrap();
    assert_eq!(std::fs::read_dir(lab.images(1)).unwrap().count(), 1, "an image that is wanted was swept");
    connection.driver.sweep(Vec::new(), soon()).await.unwrap();
    assert_eq!(std::fs::read_dir(lab.images(1)).unwrap().count(), 0, "an image that nobody needs stays");

    // One that a disk is made of stays, whether or not anybody knows the image any more.
    let vm = VmId::new();
    let act = async |action| connection.driver.act(vm, action, soon()).await.unwrap();
    act(Action::Define(Box::new(driver::DomainSpec { owner: host, ..spec(host) }))).await;
    connection.driver.sweep(Vec::new(), soon()).await.unwrap();
    assert_eq!(lab.images_of(1).len(), 1, "the base of a disk was swept");
    assert!(act(Action::Start).await.is_some_and(|domain| domain.run.is_on()), "its disk has lost what it is made of");
    act(Action::Destroy).await;
    act(Action::Undefine).await;
    connection.driver.sweep(Vec::new(), soon()).await.unwrap();
    assert_eq!(std::fs::read_dir(lab.images(1)).unwrap().count(), 0, "what nothing is made of any more stays");
    pump.abort();
}
