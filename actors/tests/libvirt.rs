//! The libvirt driver as the node uses it: its program, built beside the workspace, against libvirt's own test hypervisor.
//! Skipped, and said so, where the program was not built: it needs libvirt's headers (see `docs/how_to/add_libvirt_hosts.md`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{path::PathBuf, time::Duration};

use hiveward_actors::{
    client::{NewHost, NewVm},
    node::{Node, NodeConfig},
};
use hiveward_catalogue::host::{protocol::Pool, spec::HostUri};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_machines::{
    host::{
        driver::{
            self, Action, Change, contract,
            libvirt::{PROGRAM_VARIABLE, use_program},
        },
        record::HostStatus,
    },
    vm::record::VmStatus,
};
use hiveward_runtime::{clock::Deadline, op::Op};

fn built() -> Option<PathBuf> {
    let built = |profile: &str| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"));
        target.join("libvirt-driver").join(profile).join("hiveward-libvirt-driver")
    };
    if let Some(given) = std::env::var_os(PROGRAM_VARIABLE) {
        return Some(given.into());
    }
    // An older one speaks another protocol.
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    [built("release"), built("debug")].into_iter().filter(|path| age(path).is_some()).max_by_key(age)
}

/// False, and a word on standard error, where there is none.
fn has_driver() -> bool {
    match built() {
        Some(path) => {
            use_program(path);
            true
        }
        None => {
            eprintln!("skipped: hiveward-libvirt-driver was not built");
            false
        }
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

fn uri() -> HostUri {
    HostUri::parse("test:///default").unwrap()
}

#[tokio::test]
async fn the_libvirt_driver_keeps_the_contract_on_libvirts_test_hypervisor() {
    if has_driver() {
        contract::keeps(false, async |host| driver::open(&uri(), host, &Pool::default(), soon()).await).await;
    }
}

/// Of the program that serves a connection of this process.
fn child() -> i32 {
    let me = std::process::id();
    let of_me = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut children = of_me.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
        stat.contains("(hiveward-libvir)") && rest.split_whitespace().nth(1) == Some(&me.to_string())
    });
    children.next().expect("the driver's process")
}

#[tokio::test]
async fn a_driver_that_is_killed_or_hangs_harms_its_connection_and_nothing_else() {
    if !has_driver() {
        return;
    }
    let connection = driver::open(&uri(), HostId::new(), &Pool::default(), soon()).await.unwrap();
    let mut changes = connection.changes;
    let pumping = tokio::spawn(connection.pump);
    connection.driver.list(soon()).await.unwrap();
    let pid = nix::unistd::Pid::from_raw(child());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let hung = connection.driver.list(Deadline::after(Duration::from_millis(100))).await;
    assert!(matches!(hung, Err(driver::DriverError::Expired { .. })), "{hung:?}");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let said = changes.recv().await;
    assert!(matches!(&said, Some(Change::Closed { why }) if why.contains("signal: 9")), "{said:?}");
    assert!(connection.driver.list(soon()).await.unwrap_err().is_of_host());
    pumping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_lives_on_a_libvirt_host_and_comes_back_when_its_hypervisor_was_killed() {
    if !has_driver() {
        return;
    }
    let (dir, op) = (tempfile::tempdir().unwrap(), || Op::internal(Duration::from_secs(20)));
    let config = NodeConfig { reserve_bytes: 0, default_agents: 0, shim: support::shim(), ..NodeConfig::new(dir.path()) };
    let node = Node::start(config).await.unwrap();
    let control = node.control();
    let new = NewHost { name: "lv".into(), uri: "test:///default".into(), ..NewHost::default() };
    let host = control.register_host(op(), new).await.unwrap().value.spec.id;
    let up = || control.host(host).filter(|record| record.status == HostStatus::Up);
    let record = support::until("the host to be reached", up).await;
    assert!(record.capacity.unwrap().version.contains("libvirt"));
    let vm = control.create_vm(op(), NewVm::new("a", "any", 1, 64 << 20)).await.unwrap().value;
    assert_eq!(vm.status, VmStatus::Running);
    let vm = vm.spec.id;
    assert_eq!(control.pause_vm(op(), vm).await.unwrap().value.status, VmStatus::Paused);
    assert_eq!(control.resume_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    assert_eq!(control.reboot_vm(op(), vm).await.unwrap().value.status, VmStatus::Running);
    // The test hypervisor lives in the driver's process: all it had is gone, as when a host's power fails.
    support::kill_9(child());
    let recovered = || {
        let record = control.vm(vm).unwrap()?;
        let recovered =
            record.state.operations.iter().any(|operation| operation.kind.name() == "recover" && operation.ended.is_some());
        (recovered && record.status == VmStatus::Running).then_some(())
    };
    support::until("the VM to run again", recovered).await;
    assert_eq!(control.stop_vm(op(), vm, false, None).await.unwrap().value.status, VmStatus::Stopped);
    control.remove_vm(op(), vm, false).await.unwrap();
    let left = control.host(host).unwrap();
    assert_eq!((left.vms, left.reserved_memory_bytes), (0, 0));
    node.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_look_at_a_thousand_vms_with_their_statistics_is_one_call_of_libvirt() {
    const VMS: usize = 1_000;
    let Some(built) = built() else {
        has_driver();
        return;
    };
    // Libvirt itself writes down each call of its interface.
    let dir = tempfile::tempdir().unwrap();
    let (log, wrapped) = (dir.path().join("calls.log"), dir.path().join("driver"));
    let script = format!(
        "#!/bin/sh\nLIBVIRT_LOG_FILTERS=1:libvirt LIBVIRT_LOG_OUTPUTS=1:file:{} exec {}\n",
        log.display(),
        built.display()
    );
    std::fs::write(&wrapped, script).unwrap();
    std::fs::set_permissions(&wrapped, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    use_program(wrapped);
    let host = HostId::new();
    let connection = driver::open(&uri(), host, &Pool::default(), soon()).await.unwrap();
    let pumping = tokio::spawn(connection.pump);
    for _ in 0..VMS {
        connection.driver.act(VmId::new(), Action::Define(Box::new(contract::small(host))), soon()).await.unwrap();
    }
    let calls = || {
        let text = std::fs::read_to_string(&log).unwrap();
        let names = text.lines().filter_map(|line| line.split(" debug : vir").nth(1)?.split(':').next().map(str::to_owned));
        // What frees what was returned, or reads what its handle holds, asks the hypervisor nothing.
        let is_local = |name: &str| name.ends_with("Free") || ["DomainGetName", "DomainGetUUID"].contains(&name);
        names.filter(|name| !is_local(name)).collect::<Vec<_>>()
    };
    let before = calls().len();
    assert!(before >= VMS, "{before}");
    let listing = connection.driver.list(soon()).await.unwrap();
    assert_eq!(listing.domains.len(), VMS);
    let made = calls().split_off(before);
    assert_eq!(made.iter().filter(|name| name.as_str() == "ConnectGetAllDomainStats").count(), 1, "{made:?}");
    assert!(made.len() < 10, "{made:?}");
    drop(connection.driver);
    pumping.await.unwrap();
}

#[tokio::test]
async fn a_host_whose_driver_is_not_installed_says_what_to_install() {
    use_program("/nowhere/hiveward-libvirt-driver".into());
    let error = driver::open(&uri(), HostId::new(), &Pool::default(), soon()).await.err().unwrap();
    assert!(error.to_string().contains("install hiveward-libvirt-driver"), "{error}");
}
