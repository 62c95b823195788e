//! A hypervisor in this process: a realistic state machine with latencies and failures, and no guests.
//!
//! Each name is one hypervisor, which outlives its connections for as long as the process does. Nothing is measured, so its
//! domains have no statistics, unless its URI says how busy its guests are, or a test what they count. Its ways to fail are the
//! fault points `driver.list`, `driver.ACTION` (before anything happened) and `driver.ACTION.done` (it has happened, and nobody
//! hears). Here is the machine room; `calls` is what a connection to it is asked.

use hiveward_catalogue::host::simulated::Manners;

mod calls;
pub mod disks;
mod switch;

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::{Arc, LazyLock},
};

use hiveward_catalogue::{
    host::{protocol::Lag, spec::HostUri},
    vm::spec::Shape,
};
use hiveward_kernel::id::{HostId, VmId};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{CHANGES_MAX, Change, Connection, ConsoleBytes, DomainSpec, DriverError, Off, Run, Usage};
use calls::Simulated;
use disks::{Blocks, Disks};

/// The format of a disk that nothing but this hypervisor reads.
pub const SIMULATED_DISK: &str = "simulated";
/// Beginning of names of images and networks that are said not to exist, and of disks that there is no room for.
const MISSING: &str = "missing";

struct Machine {
    spec: Box<DomainSpec>,
    run: Run,
    boots: u64,
    /// State that it was in when each was taken.
    snapshots: BTreeMap<String, Run>,
    usage: Usage,
    /// Boot that is counted, and since when.
    counted: Option<(u64, Instant)>,
    /// What it runs with: CPUs, memory, and the memory that it was started with; its definition's if absent.
    runs_with: Option<(u32, u64, u64)>,
    /// Disks that were attached and whose data is there.
    volumes: BTreeSet<String>,
    disks: Disks,
}

impl Machine {
    fn new(spec: Box<DomainSpec>, run: Run) -> Self {
        let (snapshots, volumes) = (BTreeMap::new(), BTreeSet::new());
        Self {
            spec,
            run,
            boots: 0,
            snapshots,
            usage: Usage::default(),
            counted: None,
            runs_with: None,
            volumes,
            disks: Disks::default(),
        }
    }

    /// Makes its disks begin as they are to, where a file says what that is.
    fn load(&mut self) -> Result<(), DriverError> {
        let failed =
            |path: &str, error: std::io::Error| DriverError::Failed { message: format!("{path} cannot be read: {error}") };
        for (disk, base) in self.spec.bases.iter().filter(|(_, base)| base.format == SIMULATED_DISK) {
            let bytes = std::fs::read(&base.path).map_err(|error| failed(&base.path, error))?;
            if base.verify && blake3::hash(&bytes).to_hex().as_str() != base.hash {
                return Err(DriverError::Refused { message: format!("{} is damaged: it is not what was written", base.path) });
            }
            self.disks.begin_as(disk, disks::decode(&bytes).map_err(|error| failed(&base.path, error))?);
        }
        Ok(())
    }

    fn size(&self) -> (u32, u64, u64) {
        self.runs_with.unwrap_or((self.spec.cpus, self.spec.memory_bytes, self.spec.memory_bytes))
    }

    /// Returns what is counted of it: what a test said, or what a guest as busy as that would have used since then.
    fn count(&mut self, busy_percent: Option<u64>) -> Usage {
        let Some(busy) = busy_percent.filter(|_| self.run.is_on()) else { return self.usage };
        let now = Instant::now();
        let since = match self.counted {
            Some((boot, since)) if boot == self.boots => since,
            _ => now,
        };
        self.counted = Some((self.boots, since));
        let ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
        let (cpus, memory_bytes, _) = self.size();
        // Bytes in each millisecond, for each percent.
        let moved = |bytes: u64| Some(ms.saturating_mul(busy).saturating_mul(bytes));
        Usage {
            cpu_time_ns: Some(ms.saturating_mul(u64::from(cpus)).saturating_mul(busy).saturating_mul(10_000)),
            memory_bytes: Some(memory_bytes / 100 * busy),
            disk_read_bytes: moved(20),
            disk_written_bytes: moved(10),
            network_received_bytes: moved(8),
            network_sent_bytes: moved(2),
        }
    }

    /// Returns what its run has that its definition has not.
    fn lag(&self) -> Option<Lag> {
        let (cpus, memory_bytes, _) = self.size();
        let other = (cpus, memory_bytes) != (self.spec.cpus, self.spec.memory_bytes);
        (self.run.is_on() && other).then_some(Lag { cpus, memory_bytes, devices: Vec::new() })
    }
}

#[derive(Default)]
struct Inner {
    switch: switch::Switch,
    machines: HashMap<VmId, Machine>,
    /// Guests that heed the power button at these times, in the boot that was then.
    leaving: BinaryHeap<std::cmp::Reverse<(Instant, VmId, u64)>>,
    listeners: Vec<mpsc::Sender<Change>>,
    /// Migrations away from here, and whether they are to end.
    leaving_for: HashMap<VmId, bool>,
    /// Listeners to the consoles of machines.
    consoles: HashMap<VmId, mpsc::Sender<ConsoleBytes>>,
    /// Whether it is unplugged from the network: nobody reaches it.
    cut: bool,
    may_start: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    /// Socket of a real guest agent, for tests, which answers in the place of guests that there are not.
    agent: Option<std::path::PathBuf>,
    /// File for tests that look from outside: when a guest began and ended, on the clock of the machine.
    journal: Option<Arc<std::fs::File>>,
}

/// One simulated hypervisor. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hypervisor(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    moved: Notify,
}

static ALL: LazyLock<Mutex<HashMap<String, Hypervisor>>> = LazyLock::new(Mutex::default);

impl Hypervisor {
    /// Returns the one of this name, for tests to look at from outside and to do to it what happens to machines.
    pub fn named(name: &str) -> Self {
        ALL.lock().entry(name.to_owned()).or_default().clone()
    }

    /// Cuts the power of the machine: every guest is off. What was defined stays.
    pub fn power_cycle(&self) {
        let mut inner = self.0.inner.lock();
        for machine in inner.machines.values_mut().filter(|machine| machine.run.is_on()) {
            machine.run = Run::Off(Off::Crashed);
            machine.disks.lose_marks();
        }
        inner.tell(Change::Everything);
    }

    /// Pulls the plug of one guest.
    pub fn lose_power(&self, owner: HostId, vm: VmId) {
        let mut inner = self.0.inner.lock();
        let lost = inner.machines.get_mut(&vm).filter(|machine| machine.spec.owner == owner && machine.run.is_on());
        if let Some(machine) = lost {
            machine.run = Run::Off(Off::Crashed);
            machine.disks.lose_marks();
            inner.log(vm, "off");
            inner.tell(Change::Domain(vm));
        }
    }

    /// Lets guests start only while this says so, asked at the very moment.
    pub fn guard(&self, may_start: impl Fn() -> bool + Send + Sync + 'static) {
        self.0.inner.lock().may_start = Some(Arc::new(may_start));
    }

    /// Ends connections, and lets no new one be made until it is `false` again; the guests run on.
    pub fn cut(&self, cut: bool) {
        let mut inner = self.0.inner.lock();
        inner.cut = cut;
        if cut {
            inner.consoles.clear();
            inner.tell(Change::Closed { why: "the simulated host was cut off".into() });
            inner.listeners.clear();
        }
    }

    /// Sets how a domain runs, as if another had done it on the host itself.
    pub fn set(&self, vm: VmId, run: Run) {
        let mut inner = self.0.inner.lock();
        if let Some(machine) = inner.machines.get_mut(&vm) {
            if run.is_on() && !machine.run.is_on() {
                machine.boots += 1;
                machine.runs_with = None;
            }
            if run == Run::Off(Off::Crashed) {
                machine.disks.lose_marks();
            }
            machine.run = run;
        }
        inner.tell(Change::Domain(vm));
    }

    /// Writes into a disk as a guest does, whether or not there is one.
    pub fn write(&self, vm: VmId, disk: &str, block: u64, value: u64) {
        if let Some(machine) = self.0.inner.lock().machines.get_mut(&vm) {
            machine.disks.write(disk, block, value);
        }
    }

    /// Returns what a disk of a domain holds.
    pub fn content(&self, vm: VmId, disk: &str) -> Blocks {
        self.0.inner.lock().machines.get(&vm).map(|machine| machine.disks.of(disk)).unwrap_or_default()
    }

    /// Returns how many checkpoints a domain has.
    pub fn checkpoints(&self, vm: VmId) -> usize {
        self.0.inner.lock().machines.get(&vm).map_or(0, |machine| machine.disks.marks())
    }

    /// Sets what is counted of one guest from now on, for tests of what is made of it.
    pub fn count(&self, vm: VmId, usage: Usage) {
        if let Some(machine) = self.0.inner.lock().machines.get_mut(&vm) {
            machine.usage = usage;
        }
    }

    /// Lets a real agent of this machine, which listens at this socket, answer what is said to any guest that runs. For tests.
    pub fn answer_by(&self, agent: impl Into<std::path::PathBuf>) {
        self.0.inner.lock().agent = Some(agent.into());
    }

    /// Moves a domain to a second host, as if another had done that with the hypervisor's own tool, and left nothing here.
    pub fn carry(&self, vm: VmId, to: &Self) {
        let Some(machine) = self.0.inner.lock().machines.remove(&vm) else { return };
        {
            let mut there = to.0.inner.lock();
            there.machines.insert(vm, machine);
            there.tell(Change::Domain(vm));
        }
        self.0.inner.lock().tell(Change::Domain(vm));
    }

    /// Removes a domain, as if another had undefined it on the host itself.
    pub fn forget(&self, vm: VmId) {
        let mut inner = self.0.inner.lock();
        inner.machines.remove(&vm);
        inner.tell(Change::Domain(vm));
    }

    /// Returns the domains that are there, whoever owns them.
    pub fn domains(&self) -> HashMap<VmId, Run> {
        self.0.inner.lock().machines.iter().map(|(vm, machine)| (*vm, machine.run)).collect()
    }

    /// Returns the names of what is kept of a domain.
    pub fn snapshots(&self, vm: VmId) -> Vec<String> {
        self.0.inner.lock().machines.get(&vm).map_or_else(Vec::new, |machine| machine.snapshots.keys().cloned().collect())
    }

    /// Returns what a domain is defined as, and the CPUs and memory that it runs with.
    pub fn shape(&self, vm: VmId) -> Option<(Shape, (u32, u64))> {
        let inner = self.0.inner.lock();
        let machine = inner.machines.get(&vm)?;
        let DomainSpec { cpus, memory_bytes, disks, networks, .. } = (*machine.spec).clone();
        let (runs_cpus, runs_memory, _) = machine.size();
        Some((Shape { cpus, memory_bytes, disks, networks }, (runs_cpus, runs_memory)))
    }

    /// Returns the disks that were attached to a domain and whose data is there.
    pub fn volumes(&self, vm: VmId) -> Vec<String> {
        self.0.inner.lock().machines.get(&vm).map_or_else(Vec::new, |machine| machine.volumes.iter().cloned().collect())
    }

    /// Returns how often a domain was started.
    pub fn boots(&self, vm: VmId) -> u64 {
        self.0.inner.lock().machines.get(&vm).map_or(0, |machine| machine.boots)
    }

    /// Lets guests leave whose time has come; says when the next one is due.
    fn leave(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.0.inner.lock();
        while let Some(std::cmp::Reverse((due, vm, boot))) = inner.leaving.peek().copied() {
            if due > now {
                return Some(due);
            }
            inner.leaving.pop();
            let left = inner.machines.get_mut(&vm).filter(|machine| machine.boots == boot && machine.run == Run::Running);
            if let Some(machine) = left {
                machine.run = Run::Off(Off::Shutdown);
                inner.tell(Change::Domain(vm));
            }
        }
        None
    }

    async fn pump(self) {
        loop {
            let moved = self.0.moved.notified();
            match self.leave(Instant::now()) {
                Some(due) => {
                    tokio::select! {
                        () = moved => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => moved.await,
            }
        }
    }
}

/// Guard that ends a migration which did not come to its end: what is on its way in is gone there, and runs on here.
struct Copying<'a> {
    vm: VmId,
    from: &'a Hypervisor,
    to: &'a Hypervisor,
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.from.0.inner.lock().leaving_for.remove(&self.vm);
        let mut to = self.to.0.inner.lock();
        if to.machines.get(&self.vm).is_some_and(|machine| machine.run == Run::Moving) {
            to.machines.remove(&self.vm);
            to.tell(Change::Domain(self.vm));
        }
    }
}

/// Hands a guest over at one moment: it is gone here, and runs there.
fn hand_over(vm: VmId, from: &Hypervisor, to: &Hypervisor, spec: Box<DomainSpec>) -> Result<(), DriverError> {
    let failed = |message: &str| Err(DriverError::Failed { message: message.into() });
    let gone = {
        let mut inner = from.0.inner.lock();
        match inner.machines.get(&vm).map(|machine| machine.run) {
            Some(Run::Running | Run::Paused) => {}
            _ => return failed("the guest ended meanwhile"),
        }
        let gone = inner.machines.remove(&vm);
        inner.log(vm, "off");
        inner.tell(Change::Domain(vm));
        gone
    };
    let Some(gone) = gone else { return failed("the guest is gone") };
    let mut held = to.0.inner.lock();
    let inner = &mut *held;
    let come = match inner.machines.get_mut(&vm) {
        Some(machine) if machine.run == Run::Moving && !inner.cut => {
            let mut disks = gone.disks.clone();
            disks.lose_marks();
            *machine = Machine { boots: gone.boots, runs_with: gone.runs_with, disks, ..Machine::new(spec, gone.run) };
            true
        }
        _ => false,
    };
    if come {
        inner.log(vm, "on");
        inner.tell(Change::Domain(vm));
        return Ok(());
    }
    drop(held);
    // It was never let run there, so it goes on here.
    let mut inner = from.0.inner.lock();
    inner.machines.insert(vm, gone);
    inner.log(vm, "on");
    inner.tell(Change::Domain(vm));
    failed("the other host was lost")
}

impl Hypervisor {
    async fn aborted(&self, vm: VmId) {
        loop {
            let moved = self.0.moved.notified();
            if self.0.inner.lock().leaving_for.get(&vm) != Some(&false) {
                return;
            }
            moved.await;
        }
    }
}

/// What its console says first: there is no guest that could say anything.
const BANNER: &str = "This machine is simulated: it has no guest, and its console echoes what is typed.\r\n";

impl Inner {
    fn say(&self, vm: VmId, bytes: impl Into<bytes::Bytes>) {
        if let Some(listener) = self.consoles.get(&vm) {
            // Nobody types faster than that, and what is typed is seen to be missing.
            let _ = listener.try_send(ConsoleBytes { missed: 0, bytes: bytes.into() });
        }
    }

    fn log(&self, vm: VmId, what: &str) {
        use std::io::Write;
        let now = hiveward_runtime::clock::BootClock.now().map_or(0, |now| now.0.as_micros());
        if let Some(mut journal) = self.journal.as_deref() {
            // Only tests read it, and miss what is not there.
            let _ = journal.write_all(format!("{now} {vm} {what}\n").as_bytes());
        }
    }

    fn tell(&mut self, change: Change) {
        let on: std::collections::HashSet<VmId> =
            self.consoles.keys().filter(|vm| self.machines.get(vm).is_some_and(|machine| machine.run.is_on())).copied().collect();
        self.consoles.retain(|vm, _| on.contains(vm));
        self.listeners.retain(|listener| match listener.try_send(change.clone()) {
            Ok(()) => true,
            // The listener looks at everything anyhow when it has come so far: see the driver's `changes`.
            Err(mpsc::error::TrySendError::Full(_)) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }
}

/// Opens a connection to the simulated hypervisor that `uri` names. Errors: the URI is wrong, or it is cut off.
pub fn open(uri: &HostUri, host: HostId) -> Result<Connection, DriverError> {
    let manners = Manners::of(&uri.query).map_err(|message| DriverError::Refused { message })?;
    let hypervisor = Hypervisor::named(&uri.authority);
    if let Some(path) = uri.query.get("journal") {
        let opened = std::fs::File::options().create(true).append(true).open(path);
        let journal = opened.map_err(|error| DriverError::Refused { message: format!("journal={path}: {error}") })?;
        hypervisor.0.inner.lock().journal = Some(Arc::new(journal));
    }
    let (listener, changes) = mpsc::channel(CHANGES_MAX);
    {
        let mut inner = hypervisor.0.inner.lock();
        if inner.cut {
            return Err(DriverError::Unreachable { message: "the simulated host is cut off".into() });
        }
        inner.listeners.push(listener);
    }
    let pump = Box::pin(hypervisor.clone().pump());
    Ok(Connection { driver: Arc::new(Simulated { hypervisor, manners, host }), changes, pump })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hiveward_runtime::clock::Deadline;

    use super::*;
    use crate::host::driver::{Action, contract};

    #[tokio::test(start_paused = true)]
    async fn the_simulated_driver_keeps_the_contract() {
        let uri = HostUri::parse("simulated://contract").unwrap();
        contract::keeps(true, async |host| super::open(&uri, host)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_of_a_host_that_says_how_busy_its_guests_are_anything_is_measured() {
        for (query, cpu_ms) in [("", None), ("?busyPercent=50", Some(5_000))] {
            let uri = HostUri::parse(&format!("simulated://measured{}{query}", query.len())).unwrap();
            let host = HostId::new();
            let driver = super::open(&uri, host).unwrap().driver;
            let (vm, spec) = (VmId::new(), DomainSpec { cpus: 1, ..contract::small(host) });
            driver.act(vm, Action::Define(Box::new(spec)), Deadline::after(contract::WITHIN)).await.unwrap();
            driver.act(vm, Action::Start, Deadline::after(contract::WITHIN)).await.unwrap();
            let look = async || driver.list(Deadline::after(contract::WITHIN)).await.unwrap().domains.remove(0).usage.cpu_time_ns;
            let before = look().await;
            tokio::time::advance(Duration::from_secs(10)).await;
            let used = look().await.zip(before).map(|(now, before)| (now - before) / 1_000_000);
            assert_eq!(used, cpu_ms);
            driver.act(vm, Action::Destroy, Deadline::after(contract::WITHIN)).await.unwrap();
            assert_eq!(look().await, None, "of a guest that is off nothing is measured");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn thirty_thousand_machines_are_listed_in_one_call() {
        let uri = HostUri::parse("simulated://many?actionMs=0&startMs=0&memoryGiB=1000000").unwrap();
        let host = HostId::new();
        let connection = super::open(&uri, host).unwrap();
        for _ in 0..30_000 {
            let spec = contract::small(host);
            connection.driver.act(VmId::new(), Action::Define(Box::new(spec)), Deadline::after(contract::WITHIN)).await.unwrap();
        }
        let listing = connection.driver.list(Deadline::after(contract::WITHIN)).await.unwrap();
        assert_eq!((listing.domains.len(), listing.foreign), (30_000, 0));
    }
}
