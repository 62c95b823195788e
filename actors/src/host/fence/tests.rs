use super::*;
use crate::host::driver::{Action, Run, contract, simulated};
use hiveward_runtime::clock::Deadline;

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
