//! A hypervisor in this process: a realistic state machine with latencies and failures, and no guests.
//!
//! Each name is one hypervisor, which outlives its connections for as long as the process does. Nothing is measured, so
//! its domains have no statistics, unless a test says what they count. Its ways to fail are the fault points `driver.list`, `driver.ACTION` (before anything
//! happened) and `driver.ACTION.done` (it has happened, and nobody hears).

pub mod disks;

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use hiveward_runtime::{clock::Deadline, fault};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use self::disks::{Blocks, Disks};
use super::{
    Action, CHANGES_MAX, CONSOLE_PIECES_MAX, Change, Connection, ConsoleBytes, DiskCopies, DiskCopy, Domain, DomainSpec, Driver,
    DriverError, GuestInfo, Lag, Listing, Marks, Migration, Off, Progress, Run, Usage, epoch_of,
};
use crate::{
    host::spec::{Capacity, HostUri},
    id::{HostId, VmId},
    vm::spec::Shape,
};

/// The format of a disk that nothing but this hypervisor reads.
pub const SIMULATED_DISK: &str = "simulated";
/// Of images and networks that are said not to exist, and of disks that there is no room for.
const MISSING: &str = "missing";

/// How it behaves; each may be given in the URI's query.
#[derive(Clone, Copy, Debug)]
struct Manners {
    cpus: u32,
    memory_bytes: u64,
    /// Of each action.
    action: Duration,
    /// Of a start, in addition.
    start: Duration,
    /// Until the guest has heeded the power button.
    shutdown: Duration,
    /// Whether it ever does.
    heeds: bool,
    /// Of a migration.
    migrate: Duration,
}

impl Manners {
    fn of(query: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut manners = Self {
            cpus: 64,
            memory_bytes: 256 << 30,
            action: Duration::from_millis(1),
            start: Duration::from_millis(20),
            shutdown: Duration::from_millis(50),
            heeds: true,
            migrate: Duration::from_millis(50),
        };
        for (key, value) in query {
            let bad = || {
                let known = "cpus, memoryGiB, actionMs, startMs, shutdownMs, migrateMs (numbers) and heeds (true or false)";
                format!("{key}={value} is nothing that a simulated host knows; there are {known}")
            };
            let number = || value.parse::<u64>().map_err(|_| bad());
            match key.as_str() {
                "cpus" => manners.cpus = value.parse().map_err(|_| bad())?,
                "memoryGiB" => manners.memory_bytes = number()? << 30,
                "actionMs" => manners.action = Duration::from_millis(number()?),
                "startMs" => manners.start = Duration::from_millis(number()?),
                "shutdownMs" => manners.shutdown = Duration::from_millis(number()?),
                "migrateMs" => manners.migrate = Duration::from_millis(number()?),
                "journal" => {}
                "heeds" => manners.heeds = value.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        Ok(manners)
    }
}

/// Whether a simulated host can be as this query of its URI says; else why not.
pub fn check(query: &BTreeMap<String, String>) -> Result<(), String> {
    Manners::of(query).map(drop)
}

struct Machine {
    spec: Box<DomainSpec>,
    run: Run,
    boots: u64,
    /// What it was when each was taken.
    snapshots: BTreeMap<String, Run>,
    usage: Usage,
    /// What it runs with: CPUs, memory, and the memory that it was started with; its definition's if absent.
    runs_with: Option<(u32, u64, u64)>,
    /// Disks that were attached and whose data is there.
    volumes: BTreeSet<String>,
    disks: Disks,
}

impl Machine {
    fn new(spec: Box<DomainSpec>, run: Run) -> Self {
        let (snapshots, volumes) = (BTreeMap::new(), BTreeSet::new());
        Self { spec, run, boots: 0, snapshots, usage: Usage::default(), runs_with: None, volumes, disks: Disks::default() }
    }

    /// Its disks begin as they are to, where a file says what that is.
    fn load(&mut self) -> Result<(), DriverError> {
        let failed =
            |path: &str, error: std::io::Error| DriverError::Failed { message: format!("{path} cannot be read: {error}") };
        for (disk, base) in self.spec.bases.iter().filter(|(_, base)| base.format == SIMULATED_DISK) {
            let bytes = std::fs::read(&base.path).map_err(|error| failed(&base.path, error))?;
            if base.verify && blake3::hash(&bytes).to_hex().as_str() != base.hash {
                return refused(format!("{} is damaged: it is not what was written", base.path));
            }
            self.disks.begin_as(disk, disks::decode(&bytes).map_err(|error| failed(&base.path, error))?);
        }
        Ok(())
    }

    fn size(&self) -> (u32, u64, u64) {
        self.runs_with.unwrap_or((self.spec.cpus, self.spec.memory_bytes, self.spec.memory_bytes))
    }

    /// What its run has that its definition has not.
    fn lag(&self) -> Option<Lag> {
        let (cpus, memory_bytes, _) = self.size();
        let other = (cpus, memory_bytes) != (self.spec.cpus, self.spec.memory_bytes);
        (self.run.is_on() && other).then_some(Lag { cpus, memory_bytes, devices: Vec::new() })
    }
}

#[derive(Default)]
struct Inner {
    machines: HashMap<VmId, Machine>,
    /// Guests that heed the power button at these times, in the boot that was then.
    leaving: BinaryHeap<std::cmp::Reverse<(Instant, VmId, u64)>>,
    listeners: Vec<mpsc::Sender<Change>>,
    /// Migrations away from here, and whether they are to end.
    leaving_for: HashMap<VmId, bool>,
    /// Who listens to the console of a machine.
    consoles: HashMap<VmId, mpsc::Sender<ConsoleBytes>>,
    /// Unplugged from the network: nobody reaches it.
    cut: bool,
    may_start: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    /// For tests that look from outside: when a guest began and ended, on the clock of the machine.
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
    /// The one of this name, for tests to look at from outside and to do to it what happens to machines.
    pub fn named(name: &str) -> Self {
        ALL.lock().entry(name.to_owned()).or_default().clone()
    }

    /// Its power fails: every guest is off. What was defined stays.
    pub fn power_cycle(&self) {
        let mut inner = self.0.inner.lock();
        for machine in inner.machines.values_mut().filter(|machine| machine.run.is_on()) {
            machine.run = Run::Off(Off::Crashed);
            machine.disks.lose_marks();
        }
        inner.tell(Change::Everything);
    }

    /// The plug of one guest is pulled.
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

    /// Guests start only while this says so, asked at the very moment.
    pub fn guard(&self, may_start: impl Fn() -> bool + Send + Sync + 'static) {
        self.0.inner.lock().may_start = Some(Arc::new(may_start));
    }

    /// Connections end and no new one is made until it is `false` again; the guests run on.
    pub fn cut(&self, cut: bool) {
        let mut inner = self.0.inner.lock();
        inner.cut = cut;
        if cut {
            inner.consoles.clear();
            inner.tell(Change::Closed { why: "the simulated host was cut off".into() });
            inner.listeners.clear();
        }
    }

    /// As if another had done it on the host itself.
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

    /// A guest writes, whether or not there is one.
    pub fn write(&self, vm: VmId, disk: &str, block: u64, value: u64) {
        if let Some(machine) = self.0.inner.lock().machines.get_mut(&vm) {
            machine.disks.write(disk, block, value);
        }
    }

    /// What a disk of a domain holds.
    pub fn content(&self, vm: VmId, disk: &str) -> Blocks {
        self.0.inner.lock().machines.get(&vm).map(|machine| machine.disks.of(disk)).unwrap_or_default()
    }

    /// How many checkpoints a domain has.
    pub fn checkpoints(&self, vm: VmId) -> usize {
        self.0.inner.lock().machines.get(&vm).map_or(0, |machine| machine.disks.marks())
    }

    /// What is counted of one guest from now on, for tests of what is made of it.
    pub fn count(&self, vm: VmId, usage: Usage) {
        if let Some(machine) = self.0.inner.lock().machines.get_mut(&vm) {
            machine.usage = usage;
        }
    }

    /// As if another had undefined it on the host itself.
    pub fn forget(&self, vm: VmId) {
        let mut inner = self.0.inner.lock();
        inner.machines.remove(&vm);
        inner.tell(Change::Domain(vm));
    }

    /// What is there, whoever owns it.
    pub fn domains(&self) -> HashMap<VmId, Run> {
        self.0.inner.lock().machines.iter().map(|(vm, machine)| (*vm, machine.run)).collect()
    }

    /// Names of what is kept of a domain.
    pub fn snapshots(&self, vm: VmId) -> Vec<String> {
        self.0.inner.lock().machines.get(&vm).map_or_else(Vec::new, |machine| machine.snapshots.keys().cloned().collect())
    }

    /// What a domain is defined as, and the CPUs and memory that it runs with.
    pub fn shape(&self, vm: VmId) -> Option<(Shape, (u32, u64))> {
        let inner = self.0.inner.lock();
        let machine = inner.machines.get(&vm)?;
        let DomainSpec { cpus, memory_bytes, disks, networks, .. } = (*machine.spec).clone();
        let (runs_cpus, runs_memory, _) = machine.size();
        Some((Shape { cpus, memory_bytes, disks, networks }, (runs_cpus, runs_memory)))
    }

    /// Disks that were attached to a domain and whose data is there.
    pub fn volumes(&self, vm: VmId) -> Vec<String> {
        self.0.inner.lock().machines.get(&vm).map_or_else(Vec::new, |machine| machine.volumes.iter().cloned().collect())
    }

    /// How often a domain was started.
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

/// Ends a migration that did not come to its end: what is on its way in is gone there, and runs on here.
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

/// At one moment: gone here, and running there.
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
        let now = hiveward_runtime::cluster::lease::BootClock.now().map_or(0, |now| now.0.as_micros());
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

struct Simulated {
    hypervisor: Hypervisor,
    manners: Manners,
    host: HostId,
}

/// The names of the fault points before and after each action.
const fn points(action: &Action) -> (&'static str, &'static str) {
    match action {
        Action::Define(_) => ("driver.define", "driver.define.done"),
        Action::Start => ("driver.start", "driver.start.done"),
        Action::Shutdown => ("driver.shutdown", "driver.shutdown.done"),
        Action::Destroy => ("driver.destroy", "driver.destroy.done"),
        Action::Suspend => ("driver.suspend", "driver.suspend.done"),
        Action::Resume => ("driver.resume", "driver.resume.done"),
        Action::Reboot => ("driver.reboot", "driver.reboot.done"),
        Action::Undefine => ("driver.undefine", "driver.undefine.done"),
        Action::Dismiss => ("driver.dismiss", "driver.dismiss.done"),
        Action::Prepare(_) => ("driver.prepare", "driver.prepare.done"),
        Action::Discard => ("driver.discard", "driver.discard.done"),
        Action::Snapshot { .. } => ("driver.snapshot", "driver.snapshot.done"),
        Action::Revert { .. } => ("driver.revert", "driver.revert.done"),
        Action::EndBackup => ("driver.end_backup", "driver.end_backup.done"),
        Action::Reshape { .. } => ("driver.reshape", "driver.reshape.done"),
        Action::DropDisk { .. } => ("driver.drop_disk", "driver.drop_disk.done"),
        Action::RemoveSnapshot { .. } => ("driver.remove_snapshot", "driver.remove_snapshot.done"),
    }
}

fn injected(error: fault::InjectedError) -> DriverError {
    DriverError::Failed { message: error.to_string() }
}

fn refused<T>(message: impl Into<String>) -> Result<T, DriverError> {
    Err(DriverError::Refused { message: message.into() })
}

async fn by<T>(deadline: Deadline, work: impl Future<Output = Result<T, DriverError>>) -> Result<T, DriverError> {
    let waited_ms = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
    tokio::time::timeout_at(deadline.instant(), work).await.unwrap_or(Err(DriverError::Expired { waited_ms }))
}

impl Simulated {
    fn reached(&self) -> Result<(), DriverError> {
        if self.hypervisor.0.inner.lock().cut {
            return Err(DriverError::Unreachable { message: "the simulated host is cut off".into() });
        }
        Ok(())
    }

    /// Begins a migration; the machine as it is to be there.
    fn leaving(&self, vm: VmId, other: &Hypervisor, migration: &Migration) -> Result<Box<DomainSpec>, DriverError> {
        let spec = {
            let mut inner = self.hypervisor.0.inner.lock();
            let machine = inner.machines.get(&vm).filter(|machine| machine.spec.owner == self.host);
            let Some(machine) = machine else { return refused("there is no such domain") };
            if !matches!(machine.run, Run::Running | Run::Paused) {
                return refused("it does not run");
            }
            if !machine.snapshots.is_empty() {
                return refused("it has snapshots, which do not move");
            }
            let spec = Box::new(DomainSpec { owner: migration.to, ..(*machine.spec).clone() });
            if inner.leaving_for.insert(vm, false).is_some() {
                return Err(DriverError::Failed { message: "a migration of it is under way already".into() });
            }
            spec
        };
        let mut inner = other.0.inner.lock();
        let refusal = if inner.cut {
            Some("the other host is cut off")
        } else if inner.machines.contains_key(&vm) {
            Some("the other host has a domain with this UUID")
        } else {
            None
        };
        if let Some(message) = refusal {
            drop(inner);
            self.hypervisor.0.inner.lock().leaving_for.remove(&vm);
            return Err(DriverError::Failed { message: message.into() });
        }
        inner.machines.insert(vm, Machine::new(spec.clone(), Run::Moving));
        inner.tell(Change::Domain(vm));
        Ok(spec)
    }

    fn seen(&self, vm: VmId) -> Option<Domain> {
        self.hypervisor.0.inner.lock().machines.get(&vm).filter(|machine| machine.spec.owner == self.host).map(|machine| Domain {
            vm,
            owner: machine.spec.owner,
            run: machine.run,
            boots: Some(machine.boots),
            usage: machine.usage,
            epoch: epoch_of(&machine.spec.name),
            lag: machine.lag(),
        })
    }

    /// The step itself, at one moment.
    fn take(&self, vm: VmId, action: Action) -> Result<(), DriverError> {
        let mut inner = self.hypervisor.0.inner.lock();
        let inner = &mut *inner;
        if let Action::Define(spec) = action {
            if spec.image.starts_with(MISSING) {
                return refused(format!("there is no image {:?}", spec.image));
            }
            if spec.owner != self.host {
                return refused("it is marked as another host's");
            }
            match inner.machines.get_mut(&vm) {
                Some(machine) if machine.spec.owner != spec.owner => return refused("a domain of another owner has this UUID"),
                // What runs keeps what it has until it is started again.
                Some(machine) => machine.spec = spec,
                None => {
                    let mut machine = Machine::new(spec, Run::Off(Off::Unknown));
                    machine.load()?;
                    inner.machines.insert(vm, machine);
                }
            }
            inner.tell(Change::Domain(vm));
            return Ok(());
        }
        if matches!(action, Action::Prepare(_) | Action::Discard | Action::EndBackup) {
            return Ok(());
        }
        let used: u64 = inner.machines.values().filter(|machine| machine.run.is_on()).map(|machine| machine.size().1).sum();
        let Some(machine) = inner.machines.get_mut(&vm).filter(|machine| machine.spec.owner == self.host) else {
            let is_so = matches!(
                action,
                Action::Undefine | Action::Destroy | Action::Dismiss | Action::RemoveSnapshot { .. } | Action::DropDisk { .. }
            );
            return if is_so { Ok(()) } else { refused("there is no such domain") };
        };
        match (action, machine.run) {
            // It has no disks.
            (Action::Define(_) | Action::Prepare(_) | Action::Discard | Action::EndBackup, _) => {}
            (Action::Start, Run::Running)
            | (Action::Suspend, Run::Paused)
            | (Action::Resume, Run::Running)
            | (Action::Destroy | Action::Shutdown, Run::Off(_)) => return Ok(()),
            (Action::Start, Run::Paused | Run::Moving) => return refused("it is paused; resume it"),
            (Action::Start, Run::Off(_)) => {
                if used + machine.spec.memory_bytes > self.manners.memory_bytes {
                    return Err(DriverError::Failed { message: "the host has not enough free memory".into() });
                }
                if inner.may_start.as_ref().is_some_and(|may_start| !may_start()) {
                    return Err(DriverError::Failed { message: "the lease of its node is over".into() });
                }
                (machine.run, machine.boots, machine.runs_with) = (Run::Running, machine.boots + 1, None);
                machine.runs_with = Some(machine.size());
                inner.log(vm, "on");
            }
            (Action::Shutdown, Run::Running) => {
                if self.manners.heeds {
                    let leaves = std::cmp::Reverse((Instant::now() + self.manners.shutdown, vm, machine.boots));
                    inner.leaving.push(leaves);
                    self.hypervisor.0.moved.notify_waiters();
                }
                return Ok(());
            }
            // A guest that does not run does not see the button.
            (Action::Shutdown, Run::Paused | Run::Moving) => return Ok(()),
            (Action::Destroy, run) => {
                machine.run = Run::Off(Off::Destroyed);
                if run.is_on() {
                    inner.log(vm, "off");
                }
            }
            (Action::Suspend, Run::Running) => machine.run = Run::Paused,
            (Action::Resume, Run::Paused | Run::Moving) => machine.run = Run::Running,
            (Action::Reboot, Run::Running) => machine.boots += 1,
            (Action::Suspend | Action::Resume | Action::Reboot, _) => return refused("it does not run"),
            (Action::Snapshot { .. } | Action::Revert { .. }, Run::Moving) => return refused("it is on its way elsewhere"),
            (Action::Snapshot { name }, run) => {
                machine.disks.keep(&name);
                machine.snapshots.entry(name).or_insert(run);
            }
            (Action::Revert { name }, _) => {
                let Some(then) = machine.snapshots.get(&name).copied() else { return refused("there is no such snapshot") };
                machine.disks.revert(&name);
                if then.is_on() {
                    if !machine.run.is_on() && used + machine.spec.memory_bytes > self.manners.memory_bytes {
                        return Err(DriverError::Failed { message: "the host has not enough free memory".into() });
                    }
                    // It begins to run once more, from where it was.
                    machine.runs_with = None;
                    machine.boots += 1;
                }
                machine.run = if then.is_on() { then } else { Run::Off(Off::Unknown) };
            }
            (Action::Reshape { .. }, Run::Moving) => return refused("it is on its way elsewhere"),
            (Action::Reshape { definition, live }, run) => {
                if definition.owner != self.host {
                    return refused("it is marked as another host's");
                }
                machine.volumes.extend(definition.disks.iter().map(|disk| disk.name.clone()));
                if let Some(disk) = definition.disks.iter().find(|disk| disk.name.starts_with(MISSING)) {
                    return refused(format!("there is no room for disk {:?}", disk.name));
                }
                if let Some(network) = definition.networks.iter().find(|name| name.starts_with(MISSING)) {
                    return refused(format!("there is no network {network:?}"));
                }
                machine.runs_with = run.is_on().then(|| {
                    let (cpus, memory, most) = machine.size();
                    // Memory goes and comes as far as it was there at the start; CPUs stay.
                    (cpus, if live { definition.memory_bytes.min(most) } else { memory }, most)
                });
                let DomainSpec { cpus, memory_bytes, disks, networks, .. } = *definition;
                (machine.spec.cpus, machine.spec.memory_bytes) = (cpus, memory_bytes);
                (machine.spec.disks, machine.spec.networks) = (disks, networks);
            }
            (Action::DropDisk { name }, _) if machine.spec.disks.iter().any(|disk| disk.name == name) => {
                return refused("it has that disk");
            }
            (Action::DropDisk { name }, _) => drop(machine.volumes.remove(&name)),
            (Action::RemoveSnapshot { name }, _) => {
                machine.disks.forget(&name);
                machine.snapshots.remove(&name);
            }
            (Action::Undefine | Action::Dismiss, Run::Off(_)) => drop(inner.machines.remove(&vm)),
            (Action::Undefine | Action::Dismiss, _) => return refused("it runs; stop it first"),
        }
        inner.tell(Change::Domain(vm));
        Ok(())
    }
}

impl Driver for Simulated {
    fn capacity(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capacity, DriverError>> {
        Box::pin(by(deadline, async {
            self.reached()?;
            let Manners { cpus, memory_bytes, .. } = self.manners;
            Ok(Capacity { cpus, memory_bytes, version: "simulated".into() })
        }))
    }

    fn list(&self, deadline: Deadline) -> BoxFuture<'_, Result<Listing, DriverError>> {
        Box::pin(by(deadline, async {
            fault::point("driver.list", Some(&self.host.key())).await.map_err(injected)?;
            self.reached()?;
            self.hypervisor.leave(Instant::now());
            let inner = self.hypervisor.0.inner.lock();
            let domains: Vec<_> = inner
                .machines
                .iter()
                .filter(|(_, machine)| machine.spec.owner == self.host)
                .map(|(vm, machine)| Domain {
                    vm: *vm,
                    owner: machine.spec.owner,
                    run: machine.run,
                    boots: Some(machine.boots),
                    usage: machine.usage,
                    epoch: epoch_of(&machine.spec.name),
                    lag: None,
                })
                .collect();
            let foreign = u32::try_from(inner.machines.len() - domains.len()).unwrap_or(u32::MAX);
            Ok(Listing { domains, foreign })
        }))
    }

    fn act(&self, vm: VmId, action: Action, deadline: Deadline) -> BoxFuture<'_, Result<Option<Domain>, DriverError>> {
        Box::pin(by(deadline, async move {
            let (before, after) = points(&action);
            let key = vm.key();
            fault::point(before, Some(&key)).await.map_err(injected)?;
            self.reached()?;
            let starts = matches!(action, Action::Start);
            tokio::time::sleep(self.manners.action + if starts { self.manners.start } else { Duration::ZERO }).await;
            self.reached()?;
            self.take(vm, action)?;
            fault::point(after, Some(&key)).await.map_err(injected)?;
            self.hypervisor.leave(Instant::now());
            Ok(self.seen(vm))
        }))
    }

    /// There is no guest.
    fn guest(&self, _: VmId, deadline: Deadline) -> BoxFuture<'_, Result<Option<GuestInfo>, DriverError>> {
        Box::pin(by(deadline, async {
            self.reached()?;
            Ok(None)
        }))
    }

    fn guest_command(&self, _: VmId, _: String, deadline: Deadline) -> BoxFuture<'_, Result<Option<String>, DriverError>> {
        Box::pin(by(deadline, async {
            self.reached()?;
            Ok(None)
        }))
    }

    /// There are no images.
    fn sweep(&self, _: Vec<String>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(by(deadline, async { self.reached() }))
    }

    /// Each file says what is in the blocks of a disk.
    fn backup<'a>(
        &'a self,
        vm: VmId,
        dir: &'a std::path::Path,
        only: Option<&'a str>,
        marks: Marks,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<DiskCopies, DriverError>> {
        Box::pin(by(deadline, async move {
            let key = vm.key();
            fault::point("driver.backup", Some(&key)).await.map_err(injected)?;
            self.reached()?;
            let copy = {
                let mut inner = self.hypervisor.0.inner.lock();
                let machine = inner.machines.get_mut(&vm).filter(|machine| machine.spec.owner == self.host);
                let Some(Machine { spec, run, disks, .. }) = machine else { return refused("there is no such domain") };
                let others = spec.disks.iter().map(|disk| disk.name.as_str()).filter(|name| *name != "root");
                let names = std::iter::once("root").chain(others).filter(|disk| only.is_none_or(|only| only == *disk));
                disks.copy(&names.collect::<Vec<_>>(), &marks, run.is_on())
            };
            let mut copies = DiskCopies { disks: Vec::new(), since: copy.since, mark: copy.mark, why: copy.why };
            for (disk, blocks) in copy.disks {
                let failed =
                    |error: std::io::Error| DriverError::Failed { message: format!("the copy cannot be written: {error}") };
                let (file, body) = (format!("{disk}.simulated"), disks::encode(&disk, &blocks).map_err(failed)?);
                std::fs::write(dir.join(&file), &body).map_err(failed)?;
                copies.disks.push(DiskCopy {
                    disk,
                    file,
                    bytes: body.len() as u64,
                    virtual_bytes: 0,
                    format: SIMULATED_DISK.into(),
                    hash: blake3::hash(&body).to_hex().to_string(),
                });
            }
            fault::point("driver.backup.done", Some(&key)).await.map_err(injected)?;
            Ok(copies)
        }))
    }

    fn records_consoles(&self) -> bool {
        false
    }

    fn console(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<mpsc::Receiver<ConsoleBytes>, DriverError>> {
        Box::pin(by(deadline, async move {
            self.reached()?;
            let mut inner = self.hypervisor.0.inner.lock();
            let on = inner.machines.get(&vm).is_some_and(|machine| machine.spec.owner == self.host && machine.run.is_on());
            if !on {
                return refused("it does not run");
            }
            if inner.consoles.get(&vm).is_some_and(|listener| !listener.is_closed()) {
                return refused("another listens to its console");
            }
            let (listener, said) = mpsc::channel(CONSOLE_PIECES_MAX);
            inner.consoles.insert(vm, listener);
            inner.say(vm, BANNER);
            Ok(said)
        }))
    }

    fn type_console(&self, vm: VmId, bytes: Vec<u8>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(by(deadline, async move {
            self.reached()?;
            let inner = self.hypervisor.0.inner.lock();
            if !inner.consoles.contains_key(&vm) {
                return refused("nobody listens to its console");
            }
            inner.say(vm, bytes);
            Ok(())
        }))
    }

    fn migrate(&self, vm: VmId, migration: Migration, deadline: Deadline) -> BoxFuture<'_, Result<Progress, DriverError>> {
        Box::pin(by(deadline, async move {
            let key = vm.key();
            fault::point("driver.migrate", Some(&key)).await.map_err(injected)?;
            self.reached()?;
            let uri = HostUri::parse(&migration.uri).map_err(|refused| DriverError::Refused { message: refused.message })?;
            let other = Hypervisor::named(&uri.authority);
            let spec = self.leaving(vm, &other, &migration)?;
            let _guard = Copying { vm, from: &self.hypervisor, to: &other };
            tokio::select! {
                () = tokio::time::sleep(self.manners.migrate) => {}
                () = self.hypervisor.aborted(vm) => {
                    return Err(DriverError::Failed { message: "the migration was aborted".into() });
                }
                () = tokio::time::sleep(Duration::from_millis(migration.limit_ms)) => {
                    return Err(DriverError::Failed { message: "the migration was not done within its limit".into() });
                }
            }
            fault::point("driver.migrate.copied", Some(&key)).await.map_err(injected)?;
            hand_over(vm, &self.hypervisor, &other, spec)?;
            fault::point("driver.migrate.done", Some(&key)).await.map_err(injected)?;
            // Nothing stood still, and nothing is made up.
            Ok(Progress::default())
        }))
    }

    fn job(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<Option<Progress>, DriverError>> {
        Box::pin(by(deadline, async move {
            self.reached()?;
            Ok(self.hypervisor.0.inner.lock().leaving_for.contains_key(&vm).then(Progress::default))
        }))
    }

    fn abort(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(by(deadline, async move {
            let mut inner = self.hypervisor.0.inner.lock();
            match inner.leaving_for.get_mut(&vm) {
                Some(aborted) => *aborted = true,
                None => return refused("no migration of it is under way"),
            }
            drop(inner);
            self.hypervisor.0.moved.notify_waiters();
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::driver::contract;

    #[tokio::test(start_paused = true)]
    async fn the_simulated_driver_keeps_the_contract() {
        let uri = HostUri::parse("simulated://contract").unwrap();
        contract::keeps(true, async |host| super::open(&uri, host)).await;
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
