//! A connection to a simulated hypervisor: each call of a driver, at one moment, with its latencies and fault points.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use futures_util::future::BoxFuture;
use hiveward_catalogue::host::{
    protocol::{DiskCopies, DiskCopy, GuestInfo, Marks, Network, Progress},
    simulated::Manners,
    spec::{Capacity, HostUri},
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::{clock::Deadline, fault};
use tokio::{sync::mpsc, time::Instant};

use super::{
    super::{
        Action, CONSOLE_PIECES_MAX, Change, ConsoleBytes, Domain, DomainSpec, Driver, DriverError, Listing, Migration, Off, Run,
        epoch_of,
    },
    BANNER, Copying, Hypervisor, MISSING, Machine, SIMULATED_DISK, disks, hand_over,
};

/// Time for a guest's agent to answer one command.
const AGENT_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Simulated {
    pub hypervisor: Hypervisor,
    pub manners: Manners,
    pub host: HostId,
}

/// Returns the names of the fault points before and after each action.
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

    /// Begins a migration, and returns the machine as it is to be there.
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
        let refusal = if spec.cards.iter().any(|card| inner.switch.plug(&card.source).is_err()) {
            Some("the other host has not all of its networks")
        } else if inner.cut {
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
        let mut inner = self.hypervisor.0.inner.lock();
        inner.machines.get_mut(&vm).filter(|machine| machine.spec.owner == self.host).map(|machine| Domain {
            vm,
            owner: machine.spec.owner,
            run: machine.run,
            boots: Some(machine.boots),
            usage: machine.count(self.manners.busy_percent),
            epoch: epoch_of(&machine.spec.name),
            lag: machine.lag(),
        })
    }

    /// Does the step itself, at one moment.
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
            for card in &spec.cards {
                inner.switch.plug(&card.source)?;
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
                for card in &machine.spec.cards {
                    inner.switch.plug(&card.source)?;
                }
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
                let DomainSpec { cpus, memory_bytes, disks, networks, cards, .. } = *definition;
                for card in &cards {
                    inner.switch.plug(&card.source)?;
                }
                machine.spec.cards = cards;
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

/// Says one command to an agent at a socket, as libvirt says it to that of a guest. Begun, it is ended whoever waits for it: an
/// agent's line does not break.
async fn said_to(agent: std::path::PathBuf, command: String) -> Result<Option<String>, DriverError> {
    let failed = |error: std::io::Error| DriverError::Failed { message: format!("the agent: {error}") };
    let exchange = move || -> std::io::Result<serde_json::Value> {
        let mut agent = UnixStream::connect(agent)?;
        agent.set_read_timeout(Some(AGENT_WITHIN))?;
        agent.write_all(format!("{command}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(agent).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    let exchanged = tokio::task::spawn_blocking(exchange).await;
    let answer = exchanged.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)?;
    match answer["error"]["desc"].as_str() {
        Some(why) => refused(why),
        None => Ok(Some(answer["return"].to_string())),
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
            let mut inner = self.hypervisor.0.inner.lock();
            let domain = |(vm, machine): (&VmId, &mut Machine)| Domain {
                vm: *vm,
                owner: machine.spec.owner,
                run: machine.run,
                boots: Some(machine.boots),
                usage: machine.count(self.manners.busy_percent),
                epoch: epoch_of(&machine.spec.name),
                lag: None,
            };
            let (domains, others): (Vec<_>, Vec<_>) =
                inner.machines.iter_mut().map(domain).partition(|domain| domain.owner == self.host);
            Ok(Listing { domains, foreign: u32::try_from(others.len()).unwrap_or(u32::MAX), others })
        }))
    }

    fn adopt(&self, vms: Vec<VmId>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(by(deadline, async move {
            self.reached()?;
            let mut inner = self.hypervisor.0.inner.lock();
            for vm in vms {
                if let Some(machine) = inner.machines.get_mut(&vm) {
                    machine.spec.owner = self.host;
                }
            }
            Ok(())
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

    /// Returns `None`: there is no guest.
    fn guest(&self, _: VmId, deadline: Deadline) -> BoxFuture<'_, Result<Option<GuestInfo>, DriverError>> {
        Box::pin(by(deadline, async {
            self.reached()?;
            Ok(None)
        }))
    }

    fn guest_command(&self, vm: VmId, command: String, deadline: Deadline) -> BoxFuture<'_, Result<Option<String>, DriverError>> {
        Box::pin(by(deadline, async move {
            self.reached()?;
            let agent = {
                let inner = self.hypervisor.0.inner.lock();
                let runs = inner.machines.get(&vm).is_some_and(|machine| machine.run == Run::Running);
                inner.agent.clone().filter(|_| runs)
            };
            match agent {
                Some(agent) => said_to(agent, command).await,
                None => Ok(None),
            }
        }))
    }

    /// Makes these networks in the model of switches.
    fn ensure_networks(&self, networks: Vec<Network>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(by(deadline, async move {
            fault::point("driver.ensure_networks", Some(&self.host.key())).await.map_err(injected)?;
            self.reached()?;
            self.hypervisor.0.inner.lock().switch.ensure(self.host, networks)
        }))
    }

    fn sweep_networks(&self, keep: Vec<u32>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(by(deadline, async move {
            fault::point("driver.sweep_networks", Some(&self.host.key())).await.map_err(injected)?;
            self.reached()?;
            self.hypervisor.0.inner.lock().sweep_networks(self.host, &keep);
            Ok(())
        }))
    }

    fn sweep(&self, _: Vec<String>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(by(deadline, async { self.reached() }))
    }

    /// Copies disks into files that each say what is in the blocks of a disk.
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
