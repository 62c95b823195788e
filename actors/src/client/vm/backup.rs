//! Backups of VMs, VMs that are made of them, and drills.

use std::sync::Arc;

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_catalogue::{
    host::event::FleetChange,
    vm::spec::{DiskSpec, Layer, Restored, VmSpec},
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_machines::{
    host::{
        backup::{restore, scratch, targets},
        driver::simulated::SIMULATED_DISK,
    },
    vm::{
        backup::{Drilled, Manifest},
        event::{OperationKind, Subject},
        message::asks as vm,
        record::VmRecord,
        schedule::Schedule,
    },
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::{
    super::{ControlPlane, Done, check, command::operation},
    LOOK_SOON,
};
use crate::client::access::Sought;

/// A backup in a directory of this node or in an object store.
#[derive(Clone, Debug)]
pub struct KeptBackup {
    pub path: String,
    pub name: String,
    /// Its manifest, or what is wrong with it in words: then it is damaged.
    pub manifest: Result<Manifest, String>,
    pub drilled: Option<Drilled>,
}

/// The outcome of reading a backup and all that it is based on.
#[derive(Clone, Debug)]
pub struct CheckedBackup {
    /// The bytes of all of its files.
    pub bytes: u64,
    /// A line for each file that is not what was written, which says what is wrong with it.
    pub damage: Vec<String>,
}

/// A VM that is made of a backup.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The backup's directory, on the node that is asked and on the one that holds the host, or its place in an object store.
    pub from: String,
    pub name: String,
    /// The host to make it on; the best one if absent.
    pub host: Option<HostId>,
    pub start: bool,
}

/// A schedule of backups that a VM is to make by itself.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// Five fields, and a time zone behind them; it is UTC without.
    pub cron: String,
    /// A directory that each node has which may hold the VM's host, or a place in an object store.
    pub to: String,
    /// The number of backups that are kept; older ones are removed when no other is based on them.
    pub keep: u32,
    /// How often a backup is full: one in so many, the others hold what was written since the one before. With 1 all are full.
    pub full_every: u32,
}

fn not_there(field: &str, given: &str, error: &dyn std::fmt::Display) -> Refused {
    let message = format!("there is no backup in {given}: {error}");
    Refused { field: Some(field.into()), ..Refused::new(Code::NotFound, message) }
}

impl ControlPlane {
    /// Copies its disks, all as they are at one moment, into a directory of the node that holds its host or an object store, and
    /// goes on when this has answered. The guest runs meanwhile. With `incremental` it is what was written since its last backup
    /// there, or all where that is not known: then the backup says why. One that does not succeed leaves nothing.
    pub async fn backup_vm(&self, op: Op, vm: VmId, to: String, incremental: bool) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::BackupVm, Sought::Cluster(ResourceKind::Cluster)).await?;
        targets::check("to", &to)?;
        let subject = Subject::Backup { to: to.into(), incremental };
        let ask = super::wish(&op, vm, OperationKind::Backup, |ask| ask.subject = Some(subject));
        let asked = self.ask_vm(&op, vm, ask).await?;
        let op = Op { deadline: op.deadline.at_most(LOOK_SOON), ..op };
        self.vm_ended(&op, vm, asked.value, asked.cursor).await
    }

    /// Sets the schedule by which the VM makes backups by itself, in place of any that it had; `None` removes it. Those that it
    /// has made are kept to their number for as long as it has a schedule. The same again changes nothing.
    pub async fn schedule_vm_backups(&self, op: Op, vm: VmId, new: Option<NewSchedule>) -> Result<Done<VmRecord>, Refused> {
        let op = match new {
            Some(_) => self.may(op, Verb::ScheduleVmBackups, Sought::Cluster(ResourceKind::Cluster)).await?,
            None => self.may(op, Verb::UnscheduleVmBackups, vm).await?,
        };
        self.takes_writes()?;
        self.known_vm(&op, vm).await?;
        let schedule = match new {
            None => None,
            Some(NewSchedule { cron, to, keep, full_every }) => {
                targets::check("to", &to)?;
                Some(Schedule::new(&cron, &to, keep, full_every, op.principal.clone(), self.house.clock.now())?)
            }
        };
        let asked = self.ask(&op, vm, vm::Schedule { schedule }).await??;
        self.seen(&op, asked.cursor).await?;
        let value = self.vm(vm)?.ok_or_else(|| Refused::not_found(vm))?;
        Ok(Done { value, cursor: asked.cursor })
    }

    /// Lists the backups in a directory of this node or in an object store, including what is there as one and is damaged.
    pub async fn backups_in(&self, place: &str) -> Result<Vec<KeptBackup>, Refused> {
        targets::check("in", place)?;
        let listed = async { targets::open(place, &scratch(&self.house.machines))?.list().await };
        let listed = listed.await.map_err(|error| {
            let message = format!("{place} cannot be read: {error}");
            Refused { field: Some("in".into()), ..Refused::new(Code::NotFound, message) }
        })?;
        let kept = listed.into_iter().map(|targets::Listed { name, manifest, drilled }| {
            let path = targets::join(place, &name);
            KeptBackup { path, name, manifest, drilled }
        });
        Ok(kept.collect())
    }

    /// Reads every file of a backup and of those that it is based on, and says which is not what was written. `None` if that
    /// is not known by the deadline: it reads on, and the same question goes on with it.
    pub async fn check_backup(&self, op: &Op, from: &str) -> Result<Option<CheckedBackup>, Refused> {
        targets::check("from", from)?;
        let Some(checked) = restore::check(&self.house.machines, from, op.deadline).await else { return Ok(None) };
        let (bytes, damage) = checked.map_err(|error| not_there("from", from, &error))?;
        Ok(Some(CheckedBackup { bytes, damage }))
    }

    async fn chain(&self, field: &'static str, given: &str) -> Result<(Manifest, Vec<Layer>), Refused> {
        targets::check(field, given)?;
        let read = async {
            let (place, name) = targets::split(given)?;
            targets::chain(&*targets::open(place, &scratch(&self.house.machines))?, name).await
        };
        let mut chain = read.await.map_err(|error| not_there(field, given, &error))?;
        let Some(last) = chain.pop() else { return Err(Refused::new(Code::Internal, "a chain without a backup")) };
        Ok((last, chain.into_iter().map(|below| Layer { name: below.name, disks: below.disks }).collect()))
    }

    /// Makes a VM whose disks begin as those of a backup. A copy that is not what was written is refused before it starts.
    pub async fn restore_vm(&self, op: Op, new: Restore) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::RestoreVm, Sought::Cluster(ResourceKind::Cluster)).await?;
        let operation = operation(&op, &("restore", &new));
        let chain = self.chain("from", &new.from).await?;
        self.add_restored(op, chain, new, false, operation).await
    }

    /// Starts a VM of a backup without any network, checks whether its guest answers, and removes it. This answers when it has
    /// begun; the outcome is with the backup, and in the events of the VM.
    pub async fn drill_backup(&self, op: Op, from: String, host: Option<HostId>) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::DrillVmBackup, Sought::Cluster(ResourceKind::Cluster)).await?;
        let operation = operation(&op, &("drill", &from, host));
        let chain = self.chain("from", &from).await?;
        if chain.0.disks.iter().any(|disk| disk.format == SIMULATED_DISK) {
            return Err(Refused::new(Code::Refused, "this is a backup of a simulated VM: there is no guest that could answer"));
        }
        let name = format!("drill-{:x}", VmId::new().as_u128() & 0xffff_ffff_ffff);
        let op = Op { deadline: op.deadline.at_most(LOOK_SOON), ..op };
        self.add_restored(op, chain, Restore { from, name, host, start: true }, true, operation).await
    }

    async fn add_restored(
        &self,
        op: Op,
        (manifest, under): (Manifest, Vec<Layer>),
        new: Restore,
        drill: bool,
        operation: Option<hiveward_kernel::operation::Operation>,
    ) -> Result<Done<VmRecord>, Refused> {
        self.takes_writes()?;
        check::name("name", &new.name)?;
        let Manifest { spec, disks, .. } = manifest;
        let sizes = disks.iter().map(|disk| {
            let known = spec.disks.iter().find(|known| known.name == disk.disk).map_or(0, |known| known.size_bytes);
            DiskSpec { name: disk.disk.clone(), size_bytes: known.max(disk.virtual_bytes) }
        });
        let spec = Arc::new(VmSpec {
            id: VmId::new(),
            name: new.name,
            disks: sizes.collect(),
            restored: Some(Restored { path: new.from, disks, drill, under }),
            // It is for looking at, and takes nobody's room for long.
            ha: spec.ha && !drill,
            start: new.start,
            base: None,
            lease: None,
            project: self.project(),
            bases: Vec::new(),
            ..spec
        });
        let added = self.change_fleet(&op, FleetChange::AddVm { spec, on: new.host }, operation).await?;
        let vm = VmId::try_from(&added.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        self.known_at(&op, added.cursor).await?;
        self.vm_ended(&op, vm, 1, added.cursor).await
    }
}
