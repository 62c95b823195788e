use std::{io::Write, os::unix::process::ExitStatusExt, process::ExitCode};

use hiveward_runtime::clock::Deadline;

use super::{watchdog::tests::Heard, *};
use crate::host::driver::{Action, Run, contract, simulated};

const NEVER_ASKED: fn() -> Option<Duration> = || None;

fn now() -> Duration {
    BootClock.now().unwrap().0
}

/// Returns a fence whose keepers are what `script` does, with its directory as `$2`.
fn fence(dir: &Path, script: &str) -> Fence {
    use std::os::unix::fs::PermissionsExt;

    let program = dir.join("keeper.sh");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    patient(Fence::new(dir, ShimProgram { program, args: Vec::new(), owner: None, lease: None }))
}

/// Returns the fence with a patience that a test can wait out.
fn patient(mut fence: Fence) -> Fence {
    Arc::get_mut(&mut fence.0).unwrap().keeper_within = Duration::from_millis(500);
    fence
}

/// Script that holds the lock as a keeper does, and says that it was started. It ends when this directory is gone.
const STAYS: &str = r#"echo started >> "$2/started"
exec 9> "$2/keeper.lock"
flock -n 9 || exit 1
while [ -d "$2" ]; do sleep 0.05; done"#;

/// A process whose command line is that of a VM's QEMU. Killed when dropped.
struct Qemu(Child, std::process::ChildStdin);

impl Qemu {
    fn of(host: HostId, vm: VmId) -> Self {
        let uuid = format!("{:032x}", vm.as_u128());
        let name = format!("{}web,debug-threads=on", qemu::mark(host));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read -r _", "-name", &name, "-uuid", &uuid]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        Self(child, stdin)
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended and returns by which signal. It does not end by itself while its input is open.
    fn signal(&mut self) -> Option<i32> {
        assert!(self.1.write_all(b"").is_ok());
        self.0.wait().unwrap().signal()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_keeper_ends_the_qemus_of_its_list_when_the_lease_is_over_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("fence");
    let (host, vm) = (HostId::new(), VmId::new());
    let (mut listed, mut other) = (Qemu::of(host, vm), Qemu::of(HostId::new(), vm));
    assert!(!keeper::is_kept(&dir).unwrap());
    write_kept(&dir, &Machines::from([((host, vm), Machine::Qemu), ((host, VmId::new()), Machine::Simulated("x".into()))]))
        .unwrap();
    assert_eq!(read_kept(&dir), Some(vec![(host, vm)]), "what is in the node's own process ends with it");
    fs::write(dir.join(WATCHDOG), "/dev/of-this-test").unwrap();
    LeasePage::write(&dir, now() + Duration::from_secs(3600)).unwrap();
    let heard = Heard::default();
    let (kept, opens) = (dir.clone(), heard.clone());
    let keeper = thread::spawn(move || {
        keeper::keep(&kept, Duration::from_millis(200), |device| {
            assert_eq!(device, Path::new("/dev/of-this-test"));
            opens.0.lock().push("arm");
            Ok(Box::new(opens.clone()))
        })
    });
    until(|| fs::read_to_string(dir.join(WATCHDOG_SAID)).is_ok_and(|said| said == ARMED));
    assert!(keeper::is_kept(&dir).unwrap());
    assert_eq!(keeper::keep(&dir, Duration::ZERO, |_| panic!("there is one")), ExitCode::FAILURE, "a second one does not stay");
    until(|| heard.0.lock().len() > 8);
    assert!(listed.runs(), "the lease runs on, and the keeper waits longer than it would with nothing to do");
    LeasePage::write(&dir, now()).unwrap();
    assert_eq!(listed.signal(), Some(9));
    assert_eq!(keeper.join().unwrap(), ExitCode::SUCCESS, "there is nothing more to end");
    assert!(other.runs(), "the same VM on another host of this machine");
    assert_eq!(fs::read_to_string(dir.join(WATCHDOG_SAID)).unwrap(), "", "it is not said to be armed any more");
    let heard = heard.0.lock();
    assert_eq!((heard.first(), heard.last()), (Some(&"arm"), Some(&"disarm")));
    assert!(heard[1..heard.len() - 1].iter().all(|heard| *heard == "kick"), "{heard:?}");
}

#[test]
fn a_keeper_ends_with_its_directory_and_says_why_a_watchdog_is_not_armed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("fence");
    fs::create_dir_all(&dir).unwrap();
    write_kept(&dir, &Machines::from([((HostId::new(), VmId::new()), Machine::Qemu)])).unwrap();
    fs::write(dir.join(WATCHDOG), "/dev/of-this-test").unwrap();
    let kept = dir.clone();
    let tried = Arc::new(Mutex::new(0));
    let tries = tried.clone();
    let keeper = thread::spawn(move || {
        keeper::keep(&kept, Duration::from_millis(100), |_| {
            *tries.lock() += 1;
            Err(std::io::Error::other("it is held by another"))
        })
    });
    until(|| *tried.lock() > 8);
    assert!(keeper::is_kept(&dir).unwrap(), "its node lives and is alone: it stays longer than with nothing to do");
    until(|| fs::read_to_string(dir.join(WATCHDOG_SAID)).is_ok_and(|said| said == "it is held by another"));
    // A list that cannot be read is no list: it stays, and does nothing, until there is one again.
    fs::write(dir.join("machines.json"), "half").unwrap();
    assert_eq!(read_kept(&dir), None);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(keeper.join().unwrap(), ExitCode::SUCCESS);
}

#[test]
fn what_outlives_a_node_is_listed_on_disk_and_has_one_keeper_before_it_may_run() {
    let dir = tempfile::tempdir().unwrap();
    let (fence, at) = (fence(dir.path(), STAYS), Fence::dir_of(dir.path()));
    let ours = host("qemu:///system");
    let (first, second) = (VmId::new(), VmId::new());
    fence.hold(&ours, first).unwrap();
    assert!(!at.exists(), "a node without a lease to count ends nothing");
    let counting = fence.count(NEVER_ASKED);
    // Any node can look at these, and they are not this one's alone.
    for uri in ["qemu+ssh://root@elsewhere/system", "test:///default", "no uri"] {
        fence.hold(&host(uri), VmId::new()).unwrap();
    }
    fence.hold(&host("simulated://in-this-process"), VmId::new()).unwrap();
    assert_eq!(read_kept(&at), None);
    fence.hold(&ours, second).unwrap();
    let listed = |vms: &[VmId]| read_kept(&at).map(|kept| kept == vms.iter().map(|vm| (ours.id, *vm)).collect::<Vec<_>>());
    assert_eq!(listed(&[first, second]), Some(true));
    assert!(keeper::is_kept(&at).unwrap());
    for _ in 0..3 {
        fence.hold(&ours, second).unwrap();
    }
    assert_eq!(fs::read_to_string(at.join("started")).unwrap().lines().count(), 1, "one keeper");
    let host_and_vm = (HostId::new(), second);
    fence.let_go(host_and_vm.0, |vm| vm == second);
    assert_eq!(listed(&[first, second]), Some(true), "it was said of another host");
    fence.let_go(ours.id, |vm| vm == first);
    assert_eq!(listed(&[second]), Some(true));
    // Nobody counts on when the lease is not counted any more.
    drop(counting);
    until(|| Arc::strong_count(&fence.0) == 1);
    // The next life of the node reads what this one held.
    let next = Fence::new(dir.path(), fence.0.program.clone());
    assert_eq!(next.0.state.lock().machines, Machines::from([((ours.id, second), Machine::Qemu)]));
}

#[test]
fn nothing_that_must_be_ended_in_time_starts_without_a_keeper_or_an_armed_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, vm) = (host("qemu:///system"), VmId::new());
    let refused = |fence: &Fence| {
        let _counting = fence.count(NEVER_ASKED);
        fence.hold(&ours, vm).unwrap_err()
    };
    let program = ShimProgram { program: dir.path().join("none"), args: Vec::new(), owner: None, lease: None };
    assert!(refused(&Fence::new(dir.path(), program)).contains("does not start"));
    assert!(refused(&fence(dir.path(), "exit 3")).contains("ended at its start: exit status: 3"));
    assert!(refused(&fence(dir.path(), "exec sleep 2")).contains("does not start"), "it runs, and does not hold the lock");
    let silent = fence(dir.path(), STAYS);
    silent.set_watchdog(Some("/dev/of-this-test".into())).unwrap();
    let dir = Fence::dir_of(dir.path());
    assert_eq!(read_watchdog(&dir).as_deref(), Some(Path::new("/dev/of-this-test")));
    let why = refused(&silent);
    assert!(why.contains("/dev/of-this-test is not armed") && why.contains("says nothing"), "{why}");
    fs::write(dir.join(WATCHDOG_SAID), "it is no watchdog").unwrap();
    assert!(refused(&silent).contains("it is no watchdog"));
    fs::write(dir.join(WATCHDOG_SAID), ARMED).unwrap();
    silent.hold(&ours, vm).unwrap();
    silent.set_watchdog(None).unwrap();
    assert_eq!(read_watchdog(&dir), None, "the keeper is told that there is none");
    fs::remove_file(dir.join(WATCHDOG_SAID)).unwrap();
    silent.hold(&ours, vm).unwrap();
}

#[test]
fn a_vm_waits_for_the_keeper_to_arm_the_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    // The keeper needs a while to arm it.
    let fence = fence(dir.path(), &STAYS.replace("while", r#"sleep 0.1; printf armed > "$2/watchdog.said"; while"#));
    fence.set_watchdog(Some("/dev/of-this-test".into())).unwrap();
    let _counting = fence.count(NEVER_ASKED);
    fence.hold(&host("qemu:///system"), VmId::new()).unwrap();
}

#[test]
fn only_who_may_kill_any_process_can_end_what_runs_on_its_hypervisors() {
    assert_eq!(Fence::can_end(), nix::unistd::geteuid().is_root());
}

#[test]
fn a_watchdog_is_written_down_only_where_one_was_ever_named() {
    let dir = tempfile::tempdir().unwrap();
    fence(dir.path(), STAYS).set_watchdog(None).unwrap();
    assert!(!Fence::dir_of(dir.path()).exists());
}

#[test]
fn a_qemu_of_the_list_ends_with_the_lease_also_without_a_keeper() {
    let dir = tempfile::tempdir().unwrap();
    let fence = fence(dir.path(), "exit 1");
    let (host, vm) = (HostId::new(), VmId::new());
    let mut runs = Qemu::of(host, vm);
    fence.0.state.lock().machines.insert((host, vm), Machine::Qemu);
    fence.0.state.lock().counting = true;
    let mut until = None;
    fence.look(&mut until, &|| None);
    assert_eq!((until, fence.holds_nothing()), (None, true), "nothing was granted, so nothing is over");
    fence.look(&mut until, &|| Some(Duration::from_secs(60)));
    assert!(until.is_some_and(|until| until > now() + Duration::from_secs(50)) && runs.runs());
    fence.look(&mut until, &|| Some(Duration::ZERO));
    assert_eq!(runs.signal(), Some(9));
    fence.look(&mut until, &|| None);
    assert!(fence.holds_nothing(), "what was granted last is over, and nothing of it runs");
    // A new lease: what runs from now on is not over.
    let mut again = Qemu::of(host, vm);
    fence.look(&mut until, &|| Some(Duration::from_secs(60)));
    assert!(!fence.0.state.lock().over && !fence.0.state.lock().ended && again.runs());
}

#[test]
fn a_node_that_cannot_say_that_all_has_ended_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    let fence = fence(dir.path(), STAYS);
    let said = |counting, over, ended, holds| {
        let machines = if holds { Machines::from([((HostId::new(), VmId::new()), Machine::Qemu)]) } else { Machines::new() };
        *fence.0.state.lock() = State { counting, over, ended, machines, ..State::default() };
        fence.holds_nothing()
    };
    assert!(!said(true, true, false, true));
    assert!(said(false, true, false, true) && said(true, false, false, true));
    assert!(said(true, true, true, true) && said(true, true, false, false));
}

#[test]
fn a_later_end_of_the_lease_is_told_in_steps_and_a_sooner_one_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (fence, at) = (fence(dir.path(), STAYS), Fence::dir_of(dir.path()));
    let (base, ms) = (Duration::from_secs(1000), Duration::from_millis(1));
    let mut told = None;
    fence.tell(None, &mut told);
    assert_eq!((told, LeasePage::read(&at)), (None, None));
    let mut tell = |until: Duration| {
        fence.tell(Some(until), &mut told);
        (told, LeasePage::read(&at))
    };
    assert_eq!(tell(base), (Some(base), Some(base)));
    assert_eq!(tell(base + TELL_STEP - ms), (Some(base), Some(base)));
    let later = base + TELL_STEP;
    assert_eq!(tell(later), (Some(later), Some(later)));
    assert_eq!(tell(later - ms), (Some(later - ms), Some(later - ms)));
}

fn host(uri: &str) -> HostSpec {
    HostSpec::new(HostId::new(), "h", uri)
}

async fn runs(host: &HostSpec, vm: VmId) -> Run {
    let uri = HostUri::parse(&host.uri).unwrap();
    let connection = simulated::open(&uri, host.id).unwrap();
    let deadline = || Deadline::after(Duration::from_secs(10));
    let define = Action::Define(Box::new(contract::small(host.id)));
    connection.driver.act(vm, define, deadline()).await.unwrap();
    connection.driver.act(vm, Action::Start, deadline()).await.unwrap().unwrap().run
}

#[tokio::test]
async fn what_is_listed_is_ended_when_the_lease_is_over_and_nothing_is_let_run_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let fence = Fence::new(dir.path(), ShimProgram { program: "/bin/false".into(), args: Vec::new(), owner: None, lease: None });
    let ours = host("simulated://fence-ends");
    let (listed, other) = (VmId::new(), VmId::new());
    let left = Arc::new(Mutex::new(None));
    let says = left.clone();
    let _counting = fence.count(move || *says.lock());
    fence.hold(&ours, listed).unwrap();
    assert_eq!([runs(&ours, listed).await, runs(&ours, other).await], [Run::Running; 2]);
    // Before the first lease nothing is over.
    assert!(fence.holds_nothing());
    *left.lock() = Some(Duration::ZERO);
    let all = || Hypervisor::named("fence-ends").domains();
    while all()[&listed].is_on() || !fence.holds_nothing() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(all()[&other], Run::Running, "it does not come back elsewhere, and is left alone");
    assert!(fence.hold(&ours, other).unwrap_err().contains("lease"), "nothing is let run after it");
    *left.lock() = Some(Duration::from_secs(60));
    while fence.hold(&ours, other).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_lease_is_read_as_it_was_written_and_none_of_another_start_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(LeasePage::read(dir.path()), None);
    for until in [Duration::from_millis(5), Duration::MAX, Duration::from_secs(77)] {
        LeasePage::write(dir.path(), until).unwrap();
        let read = LeasePage::read(dir.path()).unwrap();
        assert_eq!(read, until.min(Duration::from_millis(u64::MAX)));
    }
    fs::write(dir.path().join("lease"), "another-boot 00000000000000000005 00000000000000000005\n").unwrap();
    assert_eq!(LeasePage::read(dir.path()), None);
    fs::write(dir.path().join("lease"), "half").unwrap();
    assert_eq!(LeasePage::read(dir.path()), None);
}
