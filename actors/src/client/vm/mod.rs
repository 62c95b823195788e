//! VMs: making, commanding and listing them.
//!
//! Every command is an operation of the VM, in the ledger when the VM has accepted it. A command waits for the end of its
//! operation as long as its deadline lets it; the operation goes on without it.

mod backup;
mod balance;
mod console;
mod copy;
mod guest;
mod metering;
mod new;
mod pack;
mod select;
mod shape;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_runtime::{
    error::{Code, Refused},
    ledger::Cursor,
    op::Op,
};

pub use backup::{CheckedBackup, KeptBackup, NewSchedule, Restore};
pub use balance::{BalanceRules, BalanceView, Begun, HOLD_MAX, PlannedMove, Rebalanced};
pub use console::ConsoleReader;
pub use copy::NewClone;
pub use guest::{GuestExec, NewGuestExec};
pub use metering::Metered;
pub use new::NewVm;
pub(super) use new::check_machine;
use new::{STOP_GRACE_MS_MAX, check_new};

pub use pack::{PackedHost, PackingPlan, PackingSolver};
pub use select::{HostSelection, Verdict};
pub use shape::NewSize;

use hiveward_catalogue::{
    host::{
        event::FleetChange,
        protocol::{GuestInfo, Progress},
    },
    vm::spec::VmSpec,
};
use hiveward_kernel::{
    commit::Committed,
    entity::Entity,
    id::{HostId, VmId},
    page::Page,
};
use hiveward_machines::{
    host::{driver::Usage, message::asks as host, record::HostStatus},
    vm::{
        event::{OperationKind, Outcome, Subject},
        ha::{self, HaState},
        message::asks as vm,
        migrate::{LIMIT_MS_DEFAULT, LIMIT_MS_MAX, Limit, Move},
        record::{VmRecord, VmStatus},
        state::Ask,
        table::VmFilter,
    },
};

use super::{ControlPlane, Done, check, command::operation, query::page_key};
use crate::client::access::Sought;

/// The time between the first looks whether an operation has ended.
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_LONGEST: Duration = Duration::from_millis(50);
/// What is left of a deadline to say that an operation goes on.
const MARGIN: Duration = Duration::from_millis(250);
/// How long a command waits for an operation that takes long: one that ends by then is answered with its end.
const LOOK_SOON: Duration = Duration::from_secs(2);
/// How long a guest's agent may take, which answers several questions.
const GUEST_WITHIN: Duration = Duration::from_secs(10);
const USAGE_WITHIN: Duration = Duration::from_secs(1);

/// A client's wish where a VM is to be brought, and how.
#[derive(Clone, Debug)]
pub struct NewMove {
    /// The host to bring it to; the best one if absent.
    pub host: Option<HostId>,
    /// Whether the guest runs meanwhile.
    pub live: bool,
    /// The most MiB each second; as much as there is if absent.
    pub bandwidth_mib: Option<u64>,
    pub limit_ms: u64,
    pub at_limit: Limit,
}

impl Default for NewMove {
    fn default() -> Self {
        Self { host: None, live: true, bandwidth_mib: None, limit_ms: LIMIT_MS_DEFAULT, at_limit: Limit::default() }
    }
}

impl ControlPlane {
    /// Adds a VM. It is placed and reserved when this answers; with `start` it runs as well, if the deadline leaves time for
    /// that.
    pub async fn create_vm(&self, op: Op, new: NewVm) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::CreateVm, Sought::New(ResourceKind::Vm, self.project())).await?;
        self.takes_writes()?;
        let operation = operation(&op, &new);
        check_new(&new)?;
        let user_data = match new.user_data {
            Some(text) => {
                let house = self.house.clone();
                let stored = tokio::task::spawn_blocking(move || house.store_body(text.as_bytes())).await;
                Some(stored.map_err(|error| Refused::new(Code::Internal, error.to_string()))??)
            }
            None => None,
        };
        let spec = Arc::new(VmSpec {
            id: VmId::new(),
            name: new.name,
            image: new.image,
            cpus: new.cpus,
            memory_bytes: new.memory_bytes,
            disks: new.disks,
            networks: new.networks,
            ssh_keys: new.ssh_keys,
            user_data,
            anti_affinity: new.anti_affinity,
            affinity: new.affinity,
            zone: new.zone,
            host_labels: new.host_labels,
            strategy: new.strategy,
            ha: new.ha,
            start: new.start,
            stop_grace_ms: new.stop_grace_ms,
            base: None,
            restored: None,
            lease: None,
            warm: None,
            project: self.project(),
            bases: Vec::new(),
        });
        let added = self.change_fleet(&op, FleetChange::AddVm { spec, on: new.host }, operation).await?;
        let vm = VmId::try_from(&added.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        self.known_at(&op, added.cursor).await?;
        self.vm_ended(&op, vm, 1, added.cursor).await
    }

    /// Starts a VM and waits for that, at most until the deadline.
    pub async fn start_vm(&self, op: Op, vm: VmId) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::StartVm, vm).await?;
        self.command_vm(op, vm, OperationKind::Start, |_| ()).await
    }

    /// Presses the power button, and pulls the plug after the grace; with `force` at once.
    pub async fn stop_vm(&self, op: Op, vm: VmId, force: bool, grace_ms: Option<u64>) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::StopVm, vm).await?;
        if grace_ms.is_some_and(|grace| grace > STOP_GRACE_MS_MAX) {
            return Err(Refused::invalid("graceMs", format!("at most {STOP_GRACE_MS_MAX}")));
        }
        self.command_vm(op, vm, OperationKind::Stop, |ask| (ask.force, ask.grace_ms) = (force, grace_ms)).await
    }

    /// Reboots the guest of a VM and waits for that, at most until the deadline.
    pub async fn reboot_vm(&self, op: Op, vm: VmId) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::RebootVm, vm).await?;
        self.command_vm(op, vm, OperationKind::Reboot, |_| ()).await
    }

    /// Lets the guest of a VM stand still where it is.
    pub async fn pause_vm(&self, op: Op, vm: VmId) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::PauseVm, vm).await?;
        self.command_vm(op, vm, OperationKind::Pause, |_| ()).await
    }

    /// Lets a paused guest go on.
    pub async fn resume_vm(&self, op: Op, vm: VmId) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::ResumeVm, vm).await?;
        self.command_vm(op, vm, OperationKind::Resume, |_| ()).await
    }

    /// Keeps its disks as they are, and its memory while it is on; the guest stands still until that is written. A name that it
    /// has already is a conflict, and more than [`SNAPSHOTS_MAX`](hiveward_machines::vm::snapshot::SNAPSHOTS_MAX) are refused.
    pub async fn snapshot_vm(&self, op: Op, vm: VmId, name: String) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::SnapshotVm, vm).await?;
        check::name("name", &name)?;
        self.command_vm(op, vm, OperationKind::Snapshot, |ask| ask.subject = snapshot(&name)).await
    }

    /// Makes it what it was when that snapshot was taken, running or not; what was done since is gone. A revert that is
    /// interrupted is done again from its beginning. Asked twice at once it is done once.
    pub async fn revert_vm(&self, op: Op, vm: VmId, name: String) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::RevertVm, vm).await?;
        check::name("name", &name)?;
        self.command_vm(op, vm, OperationKind::Revert, |ask| ask.subject = snapshot(&name)).await
    }

    /// Removes a snapshot of a VM; the VM stays as it is.
    pub async fn remove_vm_snapshot(&self, op: Op, vm: VmId, name: String) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::RemoveVmSnapshot, vm).await?;
        check::name("name", &name)?;
        self.command_vm(op, vm, OperationKind::RemoveSnapshot, |ask| ask.subject = snapshot(&name)).await
    }

    /// Brings it to another host. It answers when that is done, or soon, while it goes on. A migration that fails, or is
    /// cancelled, leaves the VM running where it was.
    pub async fn migrate_vm(&self, op: Op, vm: VmId, to: NewMove) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::MigrateVm, vm).await?;
        if !(1_000..=LIMIT_MS_MAX).contains(&to.limit_ms) {
            return Err(Refused::invalid("limitMs", format!("1000 to {LIMIT_MS_MAX}")));
        }
        if to.bandwidth_mib == Some(0) {
            return Err(Refused::invalid("bandwidthMib", "at least 1"));
        }
        let record = self.known_vm(&op, vm).await?;
        if let Some(host) = to.host
            && self.host(host).is_none()
        {
            return Err(Refused { field: Some("to".into()), ..Refused::not_found(host) });
        }
        let asked = Move {
            from: record.host,
            to: to.host,
            live: to.live,
            bandwidth_mib: to.bandwidth_mib,
            limit_ms: to.limit_ms,
            at_limit: to.at_limit,
        };
        // The host on which it was then is no part of what was asked.
        let operation = operation(&op, &("migrate", vm, &to));
        let ask = Ask::new(OperationKind::Migrate, op.principal.clone(), operation);
        let asked = self.ask_vm(&op, vm, Ask { migration: Some(Box::new(asked)), ..ask }).await?;
        // It is looked at while it goes on, so the answer comes soon.
        let op = Op { deadline: op.deadline.at_most(LOOK_SOON), ..op };
        self.vm_ended(&op, vm, asked.value, asked.cursor).await
    }

    /// Cancels a migration. Answers when the VM knows of it; the operation ends when it is certain where the VM runs.
    pub async fn cancel_vm_migration(&self, op: Op, vm: VmId) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::CancelVmMigration, vm).await?;
        self.cancel_what_goes_on(op, vm).await
    }

    /// Cancels a backup. Answers when the VM knows of it; the operation ends when nothing of it is left.
    pub async fn cancel_vm_backup(&self, op: Op, vm: VmId) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::CancelVmBackup, vm).await?;
        self.cancel_what_goes_on(op, vm).await
    }

    async fn cancel_what_goes_on(&self, op: Op, vm: VmId) -> Result<Done<VmRecord>, Refused> {
        self.admitted(&op)?;
        self.takes_writes()?;
        self.known_vm(&op, vm).await?;
        let principal = op.principal.clone();
        let asked = self.ask(&op, vm, vm::CancelMigration { principal }).await??;
        self.seen(&op, asked.cursor).await?;
        let value = self.vm(vm)?.ok_or_else(|| Refused::not_found(vm))?;
        Ok(Done { value, cursor: asked.cursor })
    }

    /// Asks the host how a migration goes; `None` if none is under way, or nobody can say.
    pub async fn vm_migration(&self, vm: VmId, host: HostId) -> Option<Progress> {
        let deadline = hiveward_runtime::clock::Deadline::after(USAGE_WITHIN);
        self.ask(deadline, host, host::Job { vm }).await.ok().flatten()
    }

    /// Removes a VM: its domain and its disks are gone when this answers, and what was reserved for it is free. Refused while it
    /// runs, unless forced.
    pub async fn remove_vm(&self, op: Op, vm: VmId, force: bool) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::RemoveVm, vm).await?;
        let record = self.known_vm(&op, vm).await?;
        if record.state.is_on() && !force {
            return Err(Refused::new(Code::Refused, format!("{} runs; stop it, or use force", record.spec.name)));
        }
        let asked = self.ask_vm(&op, vm, wish(&op, vm, OperationKind::Remove, |ask| ask.force = force)).await?;
        let mut wait = LOOK_FIRST;
        loop {
            self.seen_soon(&op, asked.cursor).await;
            match self.house.machines.vms.get(vm)? {
                None => {
                    let (value, cursor) = (VmRecord { status: VmStatus::Removed, ..record }, self.head());
                    // What was reserved for it is free also for who looks at its host next.
                    self.seen_soon(&op, cursor).await;
                    return Ok(Done { value, cursor });
                }
                Some(now) => {
                    if let Some(refused) = failure(&now, asked.value) {
                        return Err(refused);
                    }
                    if op.deadline.remaining() < MARGIN {
                        return Ok(Done { value: now, cursor: asked.cursor });
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_LONGEST);
        }
    }

    /// Returns a VM as this node's views have it; one that may run on a host that nobody can ask is shown as lost.
    pub fn vm(&self, vm: VmId) -> Result<Option<VmRecord>, Refused> {
        if !self.sees(vm) {
            return Ok(None);
        }
        let mut record = self.house.machines.vms.get(vm)?;
        if let Some(record) = &mut record {
            self.as_lost(record, &self.lost_hosts());
        }
        Ok(record)
    }

    /// Returns the VM with this name.
    pub fn vm_named(&self, name: &str) -> Option<VmId> {
        self.house.directory.read(|known| known.fleet.vm_named(self.project(), name)).filter(|vm| self.sees(*vm))
    }

    /// Lists VMs in the order of their creation.
    pub fn vms(&self, filter: &VmFilter, after: Option<&str>, first: usize) -> Result<Page<VmRecord>, Refused> {
        let lost = self.lost_hosts();
        let read = |after: Option<&str>, first| {
            let after = after.map(page_key::<VmId>).transpose()?;
            self.house.machines.vms.page(filter, after, first, |record| self.as_lost(record, &lost))
        };
        self.seen_page(after, first, read, |record| self.sees(record.spec.id))
    }

    /// Returns what the hypervisor measured of each at its last look; nothing for those whose host does not answer.
    pub async fn vm_usage(&self, of: &[(VmId, HostId)]) -> HashMap<VmId, Usage> {
        let mut by_host: HashMap<HostId, Vec<VmId>> = HashMap::new();
        for (vm, host) in of {
            by_host.entry(*host).or_default().push(*vm);
        }
        let asked = by_host.into_iter().map(|(host, vms)| async move {
            let deadline = hiveward_runtime::clock::Deadline::after(USAGE_WITHIN);
            self.ask(deadline, host, host::Usage { vms }).await.unwrap_or_default()
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Asks the agent in a guest what it says of itself; `None` if none answers, or its host does not.
    pub async fn vm_guest(&self, vm: VmId, host: HostId) -> Option<GuestInfo> {
        // If its host is nowhere, nobody answers, and waiting for that helps nobody.
        self.house.directory.location(Entity::Host(host))?;
        let deadline = hiveward_runtime::clock::Deadline::after(GUEST_WITHIN);
        self.ask(deadline, host, host::Guest { vm }).await.ok().flatten()
    }

    /// Returns what becomes of it when its host is lost, the reason, and its epoch.
    pub fn vm_ha(&self, vm: VmId) -> Option<(HaState, Option<String>, u64)> {
        self.house.directory.read(|known| ha::state(known, vm))
    }

    /// Returns the hosts that nobody can ask now: what was seen there last may not be so any more.
    fn lost_hosts(&self) -> HashSet<HostId> {
        self.house.directory.read(|known| {
            let lost = known
                .fleet
                .hosts
                .iter()
                .filter(|(_, entry)| matches!(HostStatus::of(entry), HostStatus::Lost | HostStatus::Unreachable));
            lost.map(|(host, _)| *host).collect()
        })
    }

    fn as_lost(&self, record: &mut VmRecord, lost: &HashSet<HostId>) {
        if lost.contains(&record.host) && !matches!(record.status, VmStatus::Stopped | VmStatus::Defined | VmStatus::Failed) {
            record.status = VmStatus::Lost;
        }
    }

    async fn known_vm(&self, op: &Op, vm: VmId) -> Result<VmRecord, Refused> {
        if let Some(record) = self.vm(vm)? {
            return Ok(record);
        }
        self.settled(op).await?;
        self.vm(vm)?.ok_or_else(|| Refused::not_found(vm))
    }

    async fn ask_vm(&self, op: &Op, vm: VmId, ask: Ask) -> Result<Committed<u64>, Refused> {
        self.admitted(op)?;
        self.takes_writes()?;
        let known = self.surely(op, |directory| directory.read(|known| known.fleet.vms.contains_key(&vm).then_some(())));
        if known.await?.is_none() {
            return Err(Refused::not_found(vm));
        }
        self.ask(op, vm, vm::Ask { ask }).await?
    }

    /// Asks for an operation and waits for its end.
    async fn command_vm(
        &self,
        op: Op,
        vm: VmId,
        kind: OperationKind,
        with: impl FnOnce(&mut Ask),
    ) -> Result<Done<VmRecord>, Refused> {
        let asked = self.ask_vm(&op, vm, wish(&op, vm, kind, with)).await?;
        self.vm_ended(&op, vm, asked.value, asked.cursor).await
    }

    /// Waits for the end of an operation. One that has not ended by the deadline goes on, and the record says so.
    async fn vm_ended(&self, op: &Op, vm: VmId, number: u64, cursor: Cursor) -> Result<Done<VmRecord>, Refused> {
        self.seen(op, cursor).await?;
        let mut wait = LOOK_FIRST;
        loop {
            let record = self.vm(vm)?.ok_or_else(|| Refused::not_found(vm))?;
            if let Some(refused) = failure(&record, number) {
                return Err(refused);
            }
            let over = record.state.operation(number).is_none_or(|operation| operation.ended.is_some());
            if over || op.deadline.remaining() < MARGIN {
                let cursor = cursor.max(Cursor(record.cursor));
                return Ok(Done { value: record, cursor });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_LONGEST);
        }
    }

    /// Waits as `seen` does, where a later look does as well.
    async fn seen_soon(&self, op: &Op, cursor: Cursor) {
        let _ = self.seen(op, cursor).await;
    }
}

fn snapshot(name: &str) -> Option<Subject> {
    Some(Subject::Snapshot { name: name.into() })
}

/// Builds what is asked of a VM: an operation of this kind, with what `with` says more of it.
fn wish(op: &Op, vm: VmId, kind: OperationKind, with: impl FnOnce(&mut Ask)) -> Ask {
    let mut ask = Ask::new(kind, op.principal.clone(), None);
    with(&mut ask);
    ask.operation = match &ask.subject {
        None => operation(op, &(kind, vm, ask.force, ask.grace_ms)),
        Some(subject) => operation(op, &(kind, vm, subject)),
    };
    ask
}

fn failure(record: &VmRecord, number: u64) -> Option<Refused> {
    let operation = record.state.operation(number)?;
    let (name, what) = (&record.spec.name, operation.kind.name());
    match &operation.ended.as_ref()?.1 {
        Outcome::Done => None,
        Outcome::Failed { message } => Some(Refused::new(Code::Refused, format!("{what} of {name} failed: {message}"))),
        Outcome::Superseded { .. } => {
            Some(Refused::new(Code::Conflict, format!("{what} of {name} was given up, because something else was asked of it")))
        }
    }
}
