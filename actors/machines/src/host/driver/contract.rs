//! What every driver promises, as one function that any of them can be run through. Panics where it is broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

use std::time::Duration;

use hiveward_catalogue::{
    host::protocol::{CHECKPOINT_MARK, Card, DiskCopies, DiskCopy, Make, Marks, Network},
    vm::spec::DiskSpec,
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::clock::Deadline;

use super::{Action, Change, Connection, Domain, DomainSpec, Driver, DriverError, Off, Run};

pub const WITHIN: Duration = Duration::from_secs(30);

/// Returns the spec of a machine that any host has room for.
pub fn small(owner: HostId) -> DomainSpec {
    DomainSpec {
        owner,
        name: format!("contract-{:x}", VmId::new().as_u128() & 0xffff_ffff),
        cpus: 1,
        memory_bytes: 128 << 20,
        image: "contract".into(),
        base: None,
        bases: Vec::new(),
        isolated: false,
        disks: Vec::new(),
        networks: Vec::new(),
        ssh_keys: Vec::new(),
        user_data: Vec::new(),
        cards: Vec::new(),
    }
}

struct Bed<'a> {
    driver: &'a dyn Driver,
    vm: VmId,
}

impl Bed<'_> {
    async fn act(&self, action: Action) -> Result<Option<Domain>, DriverError> {
        self.driver.act(self.vm, action, Deadline::after(WITHIN)).await
    }

    /// Does an action twice, and checks that the second answers as the first did.
    async fn twice(&self, action: Action) -> Option<Run> {
        let name = action.name();
        let first = self.act(action.clone()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = self.act(action).await.unwrap_or_else(|error| panic!("{name} repeated: {error}"));
        let run = |domain: &Option<Domain>| domain.as_ref().map(|domain| domain.run);
        assert_eq!(run(&first), run(&again), "{name} repeated is not what it was");
        assert_eq!(run(&again), self.listed().await.map(|domain| domain.run), "{name}: the list says otherwise");
        assert_eq!(run(&again), self.glanced().await, "{name}: a glance says otherwise");
        run(&again)
    }

    async fn refused(&self, action: Action) {
        let name = action.name();
        let error = self.act(action).await.expect_err(name);
        assert!(!error.may_pass(), "{name} is never possible now: {error:?}");
    }

    async fn listed(&self) -> Option<Domain> {
        let listing = self.driver.list(Deadline::after(WITHIN)).await.unwrap();
        listing.domains.into_iter().find(|domain| domain.vm == self.vm)
    }

    /// Returns how the domain is, by a look without what is measured.
    async fn glanced(&self) -> Option<Run> {
        let listing = self.driver.glance(Deadline::after(WITHIN)).await.unwrap();
        listing.domains.into_iter().find(|domain| domain.vm == self.vm).map(|domain| domain.run)
    }
}

/// Copies disks into a directory that is gone afterwards, and checks the copies.
async fn copies(bed: &Bed<'_>, only: Option<&str>, marks: Marks) -> Result<DiskCopies, DriverError> {
    let dir = std::env::temp_dir().join(format!("hiveward-contract-{:x}", VmId::new().as_u128()));
    std::fs::create_dir(&dir).unwrap();
    let copied = bed.driver.backup(bed.vm, &dir, only, marks, Deadline::after(WITHIN * 4)).await;
    if let Ok(copies) = &copied {
        for copy in &copies.disks {
            let bytes = std::fs::read(dir.join(&copy.file)).unwrap();
            assert_eq!(bytes.len() as u64, copy.bytes, "{copy:?}");
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), copy.hash, "{copy:?}");
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), copies.disks.len());
    }
    std::fs::remove_dir_all(&dir).unwrap();
    copied
}

/// Checks backups of a machine that is off, and is off afterwards. A hypervisor that has no disks refuses them.
async fn backup(bed: &Bed<'_>) {
    for on in [false, true] {
        if on {
            bed.act(Action::Start).await.unwrap();
        }
        match copies(bed, None, Marks::default()).await {
            Ok(all) => {
                assert!(all.disks.iter().any(|copy| copy.disk == "root"), "{all:?}");
                assert_eq!((all.since, all.mark, all.why), (None, None, None), "nothing of that was asked for");
            }
            Err(error) => assert!(!error.may_pass(), "{error:?}"),
        }
        if let Ok(one) = copies(bed, Some("root"), Marks::default()).await {
            let names: Vec<_> = one.disks.iter().map(|copy| &*copy.disk).collect();
            assert_eq!(names, ["root"], "one was asked for");
            increments(bed, on).await;
        }
        bed.twice(Action::EndBackup).await;
        assert_eq!(bed.listed().await.unwrap().run.is_on(), on, "a backup leaves it as it is");
        bed.act(Action::Destroy).await.unwrap();
    }
}

/// Checks that a copy has what was written since a checkpoint only where that is known, and says why where it is not.
async fn increments(bed: &Bed<'_>, on: bool) {
    let name = |number: u32| format!("{CHECKPOINT_MARK}contract-{number}");
    let marks = |since: Option<u32>, new: u32, keep: &[u32]| Marks {
        new: Some(name(new)),
        since: since.map(name),
        keep: keep.iter().map(|number| name(*number)).collect(),
    };
    let first = copies(bed, None, marks(None, 1, &[])).await.unwrap();
    assert_eq!(first.since, None);
    if !on {
        assert!(first.mark.is_none() && first.why.is_some(), "nothing is marked of what is off: {first:?}");
        return;
    }
    assert_eq!((first.mark, first.why), (Some(name(1)), None));
    let second = copies(bed, None, marks(Some(1), 2, &[1])).await.unwrap();
    assert_eq!((second.since, second.mark, second.why), (Some(name(1)), Some(name(2)), None));
    let size = |copies: &[DiskCopy]| copies.iter().map(|copy| copy.bytes).sum::<u64>();
    assert!(size(&second.disks) <= size(&first.disks));
    // Repeated, it begins where it began.
    let again = copies(bed, None, marks(Some(1), 2, &[1])).await.unwrap();
    assert_eq!((again.since, again.mark), (Some(name(1)), Some(name(2))));
    // One that is not to be kept is gone, and that is said.
    copies(bed, None, marks(Some(2), 3, &[])).await.unwrap();
    let lost = copies(bed, None, marks(Some(1), 4, &[3])).await.unwrap();
    assert!(lost.since.is_none() && lost.why.is_some() && lost.mark == Some(name(4)), "{lost:?}");
    // A snapshot comes back although there are checkpoints, which then are no more.
    bed.act(Action::Snapshot { name: "hw1-marked".into() }).await.unwrap();
    bed.act(Action::Revert { name: "hw1-marked".into() }).await.unwrap();
    bed.act(Action::RemoveSnapshot { name: "hw1-marked".into() }).await.unwrap();
    let reverted = copies(bed, None, marks(Some(4), 5, &[])).await.unwrap();
    assert!(reverted.since.is_none() && reverted.why.is_some(), "{reverted:?}");
    // Off they give way to snapshots as well.
    bed.act(Action::Destroy).await.unwrap();
    bed.act(Action::Snapshot { name: "hw1-off".into() }).await.unwrap();
    bed.act(Action::Revert { name: "hw1-off".into() }).await.unwrap();
    bed.act(Action::RemoveSnapshot { name: "hw1-off".into() }).await.unwrap();
    bed.act(Action::Start).await.unwrap();
}

/// Checks snapshots of a machine that is off, and is off afterwards.
async fn snapshots(bed: &Bed<'_>) {
    let name = |name: &str| name.to_owned();
    for action in [Action::Revert { name: name("hw0-none") }, Action::Revert { name: String::new() }] {
        bed.refused(action).await;
    }
    assert!(!bed.twice(Action::Snapshot { name: name("hw1-off") }).await.unwrap().is_on(), "a snapshot does not start it");
    bed.act(Action::Start).await.unwrap();
    assert_eq!(bed.twice(Action::Snapshot { name: name("hw2-on") }).await, Some(Run::Running), "it runs on after its snapshot");
    bed.act(Action::Suspend).await.unwrap();
    assert_eq!(bed.twice(Action::Revert { name: name("hw2-on") }).await, Some(Run::Running), "it is what it was then");
    bed.act(Action::Destroy).await.unwrap();
    assert_eq!(bed.twice(Action::Revert { name: name("hw2-on") }).await, Some(Run::Running), "its memory is back as well");
    assert!(!bed.twice(Action::Revert { name: name("hw1-off") }).await.unwrap().is_on(), "it was off then");
    for gone in ["hw2-on", "hw1-off"] {
        bed.twice(Action::RemoveSnapshot { name: name(gone) }).await;
        bed.refused(Action::Revert { name: name(gone) }).await;
    }
    assert!(!bed.listed().await.unwrap().run.is_on());
}

/// Checks changes of shape of a machine that is off, and is off afterwards, in the shape that it had.
async fn shapes(bed: &Bed<'_>, spec: &DomainSpec, ready: &impl AsyncFn(&dyn Driver, VmId)) {
    let disk = DiskSpec { name: "more".into(), size_bytes: 16 << 20 };
    let smaller = DomainSpec { memory_bytes: spec.memory_bytes - (16 << 20), ..spec.clone() };
    let larger = DomainSpec { cpus: spec.cpus + 1, memory_bytes: spec.memory_bytes + (16 << 20), ..spec.clone() };
    let more = DomainSpec { disks: spec.disks.iter().cloned().chain([disk]).collect(), ..spec.clone() };
    let to = |spec: &DomainSpec, live| Action::Reshape { definition: Box::new(spec.clone()), live };
    let shape = async |spec: &DomainSpec, live| {
        let on = bed.listed().await.unwrap().run;
        assert_eq!(bed.twice(to(spec, live)).await, Some(on), "a change of shape leaves it on or off");
        // Once more, for what it says of its run.
        bed.act(to(spec, live)).await.unwrap().unwrap().lag
    };
    // While it is off it is all there is to it.
    for spec in [&larger, &more, spec] {
        assert_eq!(shape(spec, true).await, None);
    }
    bed.refused(Action::Reshape { definition: Box::new(DomainSpec { owner: HostId::new(), ..spec.clone() }), live: true }).await;
    bed.twice(Action::DropDisk { name: "more".into() }).await;
    bed.act(Action::Start).await.unwrap();
    ready(bed.driver, bed.vm).await;
    // What it cannot be while it runs it says, and is when it is started again.
    let lag = shape(&larger, true).await.expect("it runs as it was started");
    assert_eq!((lag.cpus, lag.memory_bytes), (spec.cpus, spec.memory_bytes));
    assert_eq!(shape(spec, true).await, None, "it is what it was");
    let lag = shape(&smaller, false).await.expect("what runs was to be left alone");
    assert_eq!((lag.cpus, lag.memory_bytes), (spec.cpus, spec.memory_bytes));
    // Devices come and go while it runs.
    shape(&more, true).await;
    // Where there are disks the data of one that it has is not removed.
    let dropped = bed.act(Action::DropDisk { name: "more".into() }).await;
    assert!(dropped.as_ref().is_ok_and(Option::is_some) || dropped.is_err_and(|error| !error.may_pass()));
    shape(spec, true).await;
    bed.twice(Action::DropDisk { name: "more".into() }).await;
    shape(&larger, true).await;
    bed.act(Action::Destroy).await.unwrap();
    bed.act(Action::Start).await.unwrap();
    assert_eq!(shape(&larger, true).await, None, "a new start has what was wanted");
    bed.act(Action::Destroy).await.unwrap();
    assert_eq!(shape(spec, true).await, None);
}

/// Checks networks of a machine that is off, and is off afterwards; `others` is another host's connection, to the same hypervisor
/// or not.
async fn networks(bed: &Bed<'_>, others: &dyn Driver, shared: bool, spec: &DomainSpec) {
    let number = 1 << 23 | u32::try_from(VmId::new().as_u128() & 0xf_ffff).unwrap();
    let network = |make: Make| vec![Network { number, name: "contract".into(), make }];
    let ensure = async |driver: &dyn Driver, make: Make| driver.ensure_networks(network(make), Deadline::after(WITHIN)).await;
    let sweep = async |driver: &dyn Driver, keep: &[u32]| {
        driver.sweep_networks(keep.to_vec(), Deadline::after(WITHIN)).await.unwrap();
    };
    let peers = |last: &[u8]| last.iter().map(|last| format!("192.0.2.{last}")).collect();
    let overlay = |peers: Vec<String>| Make::Overlay { local: "192.0.2.1".into(), peers, mtu: 1_450 };
    let kinds = [Make::Isolated, overlay(peers(&[2, 3])), overlay(peers(&[3, 4])), overlay(Vec::new())];
    for make in kinds {
        // What a hypervisor cannot have it says so for good.
        if let Err(error) = ensure(bed.driver, make.clone()).await {
            assert!(make != Make::Isolated && !error.may_pass(), "{make:?}: {error:?}");
            continue;
        }
        ensure(bed.driver, make.clone()).await.expect("again it is so already");
        let theirs = async || {
            let theirs = ensure(others, make.clone()).await;
            assert_eq!(theirs.is_err_and(|error| !error.may_pass()), shared, "{make:?} is ours, and another host takes it");
            sweep(others, &[]).await;
        };
        let source = network(make.clone())[0].source();
        let mac = "02:00:5e:00:53:01".to_owned();
        let card = Card { network: "contract".into(), source, mac, mtu: None, address: None };
        let on = DomainSpec { networks: vec!["contract".into()], cards: vec![card], ..spec.clone() };
        sweep(bed.driver, &[number]).await;
        bed.act(Action::Define(Box::new(on))).await.unwrap();
        assert_eq!(bed.twice(Action::Start).await, Some(Run::Running), "it is kept by its number");
        theirs().await;
        // A guest that is on it keeps it.
        sweep(bed.driver, &[]).await;
        theirs().await;
        bed.act(Action::Destroy).await.unwrap();
        ensure(bed.driver, make.clone()).await.unwrap();
        theirs().await;
        assert_eq!(bed.twice(Action::Start).await, Some(Run::Running), "another host took it away");
        bed.act(Action::Destroy).await.unwrap();
        bed.act(Action::Define(Box::new(spec.clone()))).await.unwrap();
        sweep(bed.driver, &[]).await;
        // What is gone is anybody's.
        ensure(others, make.clone()).await.expect("nobody uses it any more, and it is there still");
        sweep(others, &[]).await;
    }
}

/// Runs a driver through everything that is promised of all. Leaves nothing behind.
///
/// `shared` says whether two connections lead to one hypervisor.
pub async fn keeps(shared: bool, open: impl AsyncFn(HostId) -> Result<Connection, DriverError>) {
    keeps_with(shared, open, small, async |_, _| ()).await;
}

/// Runs a driver as [`keeps`] does, where a machine is made as `spec` says and takes its time before it heeds the power button:
/// until `ready`.
pub async fn keeps_with(
    shared: bool,
    open: impl AsyncFn(HostId) -> Result<Connection, DriverError>,
    spec: impl Fn(HostId) -> DomainSpec,
    ready: impl AsyncFn(&dyn Driver, VmId),
) {
    let small = spec;
    let host = HostId::new();
    let Connection { driver, mut changes, pump } = open(host).await.unwrap();
    let pumping = tokio::spawn(pump);
    let bed = Bed { driver: &*driver, vm: VmId::new() };

    let capacity = driver.capacity(Deadline::after(WITHIN)).await.unwrap();
    assert!(capacity.cpus > 0 && capacity.memory_bytes > 0 && !capacity.version.is_empty(), "{capacity:?}");

    // What is not there can be gone, and nothing else.
    assert_eq!(bed.listed().await, None);
    assert_eq!(bed.twice(Action::Undefine).await, None);
    assert_eq!(bed.twice(Action::Destroy).await, None);
    for action in [Action::Start, Action::Suspend, Action::Resume, Action::Reboot] {
        bed.refused(action).await;
    }

    let spec = small(host);
    let define = || Action::Define(Box::new(spec.clone()));
    assert_eq!(bed.twice(define()).await, Some(Run::Off(Off::Unknown)));
    assert_eq!(changes.recv().await, Some(Change::Domain(bed.vm)));
    for action in [Action::Suspend, Action::Resume, Action::Reboot] {
        bed.refused(action).await;
    }
    assert_eq!(bed.twice(Action::Start).await, Some(Run::Running));
    let boots = bed.listed().await.unwrap().boots;
    bed.refused(Action::Undefine).await;
    assert_eq!(bed.twice(define()).await, Some(Run::Running), "a definition repeated does not touch what runs");
    assert_eq!(bed.twice(Action::Suspend).await, Some(Run::Paused));
    assert_eq!(bed.twice(Action::Resume).await, Some(Run::Running));
    assert_eq!(bed.listed().await.unwrap().boots, boots, "what was paused did not boot");
    bed.act(Action::Reboot).await.unwrap();
    let rebooted = bed.listed().await.unwrap();
    assert_eq!(rebooted.run, Run::Running);
    assert!(boots.is_none() || rebooted.boots > boots, "a reboot is a boot: {boots:?}, {:?}", rebooted.boots);
    assert_eq!(bed.twice(Action::Destroy).await, Some(Run::Off(Off::Destroyed)));

    snapshots(&bed).await;
    backup(&bed).await;
    shapes(&bed, &spec, &ready).await;

    // The power button: it takes its time, and a change says when it was heeded.
    bed.act(Action::Start).await.unwrap();
    ready(&*driver, bed.vm).await;
    while changes.try_recv().is_ok() {}
    bed.act(Action::Shutdown).await.unwrap();
    let until = tokio::time::Instant::now() + WITHIN;
    while bed.listed().await.unwrap().run.is_on() {
        tokio::time::timeout_at(until, changes.recv()).await.expect("a change when the guest is off").expect("a connection");
    }
    assert_eq!(bed.listed().await.unwrap().run, Run::Off(Off::Shutdown));

    // Another host's connection to the same hypervisor sees it, and does not touch it.
    let other = open(HostId::new()).await.unwrap();
    let others_pump = tokio::spawn(other.pump);
    let others = Bed { driver: &*other.driver, vm: bed.vm };
    assert_eq!(others.listed().await, None);
    others.refused(Action::Start).await;
    others.refused(Action::Define(Box::new(small(host)))).await;
    networks(&bed, &*other.driver, shared, &spec).await;
    if shared {
        assert!(other.driver.list(Deadline::after(WITHIN)).await.unwrap().foreign >= 1);
    }
    let _ = others.act(Action::Undefine).await;
    assert!(bed.listed().await.is_some(), "what another owns was removed");

    // A call ends by its deadline.
    let late = driver.list(Deadline::after(Duration::ZERO)).await;
    assert!(late.is_ok() || matches!(late, Err(DriverError::Expired { .. })), "{late:?}");

    assert_eq!(bed.twice(Action::Undefine).await, None);
    assert_eq!(bed.listed().await, None);
    pumping.abort();
    others_pump.abort();
}
