//! Ends what comes back elsewhere, before this node's lease is over: nobody else can be sure of it.
//!
//! Owns the list of such VMs on this node's own hypervisors, kept on this node's disk, and a thread that counts the lease.
//! Asks nobody: neither the ledger nor the hypervisor need answer. A QEMU is killed as the process that it is; guests of a
//! simulated host are in this process. Because this process may be dead or frozen, a second one, the keeper, reads the
//! same list and counts the same lease, and outlives it. After a restart the list is read again, and what the lease was
//! holds until a new one is granted.

pub mod keeper;
mod qemu;
mod watchdog;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hiveward_catalogue::host::spec::{HostSpec, HostUri, Scheme};
use hiveward_kernel::{
    id::{HostId, VmId},
    shim::ShimProgram,
};
use hiveward_runtime::{clock::BootClock, cluster::lease::LeasePage, file::replace};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::driver::simulated::Hypervisor;

/// Interval between looks at the lease and, once it is over, at what runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time by which the end of the lease must be later before that is told to those who read it; else each look would tell it.
const TELL_STEP: Duration = Duration::from_millis(250);
/// Time that a keeper may take to start before nothing is started that it would have to end.
const KEEPER_WITHIN: Duration = Duration::from_secs(5);

/// Place of a VM that must be ended in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Machine {
    /// The VM is in this process, on the simulated host of this name.
    Simulated(String),
    Qemu,
}

type Machines = BTreeMap<(HostId, VmId), Machine>;

/// One VM on one host, as it is on disk.
#[derive(Serialize, Deserialize)]
struct Kept {
    host: HostId,
    vm: VmId,
}

/// Writes the list of what runs on when this node does not: only that needs a keeper.
fn write_kept(dir: &Path, machines: &Machines) -> std::io::Result<()> {
    let kept = machines.iter().filter(|(_, machine)| **machine == Machine::Qemu);
    let kept: Vec<Kept> = kept.map(|((host, vm), _)| Kept { host: *host, vm: *vm }).collect();
    replace(&dir.join("machines.json"), &serde_json::to_vec(&kept).map_err(std::io::Error::other)?)
}

/// Reads the list; `None` where there is none, or where it cannot be read.
pub(super) fn read_kept(dir: &Path) -> Option<Vec<(HostId, VmId)>> {
    let kept: Vec<Kept> = serde_json::from_slice(&fs::read(dir.join("machines.json")).ok()?).ok()?;
    Some(kept.into_iter().map(|kept| (kept.host, kept.vm)).collect())
}

/// Names of the files in which the keeper finds which watchdog it arms, and in which it says how that went.
const WATCHDOG: &str = "watchdog";
const WATCHDOG_SAID: &str = "watchdog.said";
const ARMED: &str = "armed";

/// Returns the watchdog's device, if the node was told of one.
fn read_watchdog(dir: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;

    let path = fs::read(dir.join(WATCHDOG)).ok().filter(|path| !path.is_empty())?;
    Some(std::ffi::OsString::from_vec(path).into())
}

/// The fence of a node. Cheap to clone.
#[derive(Clone)]
pub struct Fence(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    program: ShimProgram,
    keeper_within: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    machines: Machines,
    /// Whether the lease is counted, as that of a node among others is.
    counting: bool,
    keeper: Option<Child>,
    /// Watchdog of this machine; armed by the keeper for as long as something is listed.
    watchdog: Option<PathBuf>,
    /// Whether the lease is over, or about to be.
    over: bool,
    /// Whether a look since it is over found that nothing of it runs.
    ended: bool,
}

impl Fence {
    /// Returns the fence of a node, with what is on its list; `program` is started as its keeper.
    pub fn new(data_dir: &Path, program: ShimProgram) -> Self {
        let dir = Self::dir_of(data_dir);
        let kept = read_kept(&dir).unwrap_or_default();
        let machines = kept.into_iter().map(|of| (of, Machine::Qemu)).collect();
        let state = Mutex::new(State { machines, ..State::default() });
        Self(Arc::new(Inner { dir, program, keeper_within: KEEPER_WITHIN, state }))
    }

    /// Returns where it keeps its list, and tells of the node's lease.
    pub fn dir_of(data_dir: &Path) -> PathBuf {
        data_dir.join("fence")
    }

    /// Tells whether this node can end what runs on its own hypervisors, whoever it belongs to there.
    pub fn can_end() -> bool {
        nix::unistd::geteuid().is_root() && BootClock.now().is_some()
    }

    /// Sets the machine's watchdog, such as `/dev/watchdog`, to be armed for as long as this node has VMs that come back
    /// elsewhere.
    pub fn set_watchdog(&self, device: Option<PathBuf>) -> std::io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let mut state = self.0.state.lock();
        if device.is_some() || self.0.dir.join(WATCHDOG).exists() {
            fs::create_dir_all(&self.0.dir)?;
            let path = device.as_ref().map(|device| device.as_os_str().as_bytes()).unwrap_or_default();
            replace(&self.0.dir.join(WATCHDOG), path)?;
        }
        state.watchdog = device;
        Ok(())
    }

    /// Sees to it that from now on this VM is ended on this host before the lease is over. To be called before it may run; an
    /// error says that it must not.
    pub fn hold(&self, host: &HostSpec, vm: VmId) -> Result<(), String> {
        let Ok(uri) = HostUri::parse(&host.uri) else { return Ok(()) };
        let machine = match uri.scheme {
            Scheme::Simulated => Machine::Simulated(uri.authority.clone()),
            Scheme::Libvirt if uri.is_local() && uri.has_disks() => Machine::Qemu,
            // Any node can reach it, and looks.
            Scheme::Libvirt => return Ok(()),
        };
        let mut state = self.0.state.lock();
        if state.over {
            return Err("the lease of this node is over: it may not run here".into());
        }
        let known = state.machines.insert((host.id, vm), machine.clone()).is_some();
        if machine != Machine::Qemu || !state.counting {
            return Ok(());
        }
        let kept = || -> std::io::Result<()> {
            if !known {
                fs::create_dir_all(&self.0.dir)?;
                write_kept(&self.0.dir, &state.machines)?;
            }
            Ok(())
        };
        kept().map_err(|error| format!("it cannot be kept that this node must end it in time: {error}"))?;
        self.keep(&mut state)?;
        self.armed(&state)
    }

    /// Waits until the keeper has armed the watchdog, if there is one.
    fn armed(&self, state: &State) -> Result<(), String> {
        let Some(device) = &state.watchdog else { return Ok(()) };
        let begun = Instant::now();
        loop {
            // Not there before the keeper has looked.
            let said = fs::read_to_string(self.0.dir.join(WATCHDOG_SAID)).unwrap_or_default();
            if said == ARMED {
                return Ok(());
            }
            if begun.elapsed() > self.0.keeper_within {
                let why = if said.is_empty() { "the keeper says nothing of it".to_owned() } else { said };
                return Err(format!("the watchdog {} is not armed: {why}", device.display()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes from the list the VMs of a host that are `gone`: they do not run there, and are not to.
    pub fn let_go(&self, host: HostId, gone: impl Fn(VmId) -> bool) {
        let mut state = self.0.state.lock();
        let before = state.machines.len();
        state.machines.retain(|(on, vm), _| *on != host || !gone(*vm));
        if state.machines.len() != before
            && self.0.dir.exists()
            && let Err(error) = write_kept(&self.0.dir, &state.machines)
        {
            // What is listed in vain is looked for in vain.
            tracing::warn!(%error, "the list of what this node must end in time could not be shortened");
        }
    }

    /// Tells whether nothing that had to be ended runs here.
    pub fn holds_nothing(&self) -> bool {
        let state = self.0.state.lock();
        !state.counting || !state.over || state.ended || state.machines.is_empty()
    }

    /// Sees that there is a keeper: started by this life of the node, or one before.
    fn keep(&self, state: &mut State) -> Result<(), String> {
        if let Some(keeper) = &mut state.keeper
            && keeper.try_wait().is_ok_and(|ended| ended.is_none())
        {
            return Ok(());
        }
        state.keeper = None;
        let failed = |error: std::io::Error| format!("the keeper that would end it in time does not start: {error}");
        if keeper::is_kept(&self.0.dir).map_err(failed)? {
            return Ok(());
        }
        // This is left of a keeper that is gone.
        match fs::remove_file(self.0.dir.join(WATCHDOG_SAID)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut command = Command::new(&self.0.program.program);
        // Whatever ends this node's group leaves it alone.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.arg("fence").arg(&self.0.dir).env_clear();
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = state.keeper.insert(streams.spawn().map_err(failed)?);
        let begun = Instant::now();
        while !keeper::is_kept(&self.0.dir).map_err(failed)? {
            if let Some(status) = started.try_wait().map_err(failed)? {
                return Err(format!("the keeper that would end it in time ended at its start: {status}"));
            }
            if begun.elapsed() > self.0.keeper_within {
                return Err("the keeper that would end it in time does not start".into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Counts the lease from now on, until the answer is dropped. `stops_in` says how long this node may hold what it
    /// holds; none before it was granted a lease, and the greatest where nobody else could.
    pub fn count(&self, stops_in: impl Fn() -> Option<Duration> + Send + 'static) -> Counting {
        self.0.state.lock().counting = true;
        let (fence, held) = (self.clone(), Arc::new(()));
        let alive = Arc::downgrade(&held);
        let spawned = thread::Builder::new().name("fence".into()).spawn(move || {
            let mut until = LeasePage::read(&fence.0.dir);
            let mut told = until;
            while alive.strong_count() > 0 {
                fence.look(&mut until, &stops_in);
                fence.tell(until, &mut told);
                thread::sleep(LOOK_EVERY);
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "this node cannot count its lease: nothing that comes back elsewhere starts here");
            self.0.state.lock().over = true;
        }
        Counting { _held: held }
    }

    fn look(&self, until: &mut Option<Duration>, stops_in: &impl Fn() -> Option<Duration>) {
        let Some(now) = BootClock.now().map(|now| now.0) else { return };
        if let Some(left) = stops_in() {
            *until = Some(now.saturating_add(left));
        }
        let over = until.is_some_and(|until| now >= until);
        let (machines, began) = {
            let mut state = self.0.state.lock();
            let began = over && !state.over;
            state.over = over;
            state.ended &= over;
            (if over { state.machines.clone() } else { Machines::new() }, began)
        };
        if over {
            let left = end(&machines);
            if began && !machines.is_empty() {
                tracing::warn!(vms = machines.len(), left, "this node's lease ends: VMs that come back elsewhere are ended here");
            }
            self.0.state.lock().ended = left == 0;
        }
        let mut state = self.0.state.lock();
        if state.machines.values().any(|machine| *machine == Machine::Qemu)
            && let Err(why) = self.keep(&mut state)
        {
            tracing::warn!(why, "nothing would end VMs here if this node died");
        }
    }

    /// Tells the keeper and the shims of the agents' programs until when this node holds what it holds.
    fn tell(&self, until: Option<Duration>, told: &mut Option<Duration>) {
        let Some(until) = until else { return };
        if told.is_some_and(|told| told <= until && until - told < TELL_STEP) {
            return;
        }
        match LeasePage::write(&self.0.dir, until) {
            Ok(()) => *told = Some(until),
            Err(error) => {
                tracing::warn!(%error, "the processes beside this node cannot be told of its lease, and will take it to be over");
            }
        }
    }
}

/// Guard: while it is held, a node's lease is counted.
pub struct Counting {
    _held: Arc<()>,
}

/// Ends all that runs; returns how many of it do still.
fn end(machines: &Machines) -> usize {
    let simulated = |((host, vm), machine): (&(HostId, VmId), &Machine)| match machine {
        Machine::Simulated(name) => Hypervisor::named(name).lose_power(*host, *vm),
        Machine::Qemu => {}
    };
    machines.iter().for_each(simulated);
    let qemu = machines.iter().filter(|(_, machine)| **machine == Machine::Qemu).map(|(of, _)| *of);
    qemu::end(&qemu.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
