//! Backups of VMs, VMs that are made of them, and drills.

use std::{path::PathBuf, sync::Arc};

use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::{
    super::{ControlPlane, Done, check, command::operation},
    LOOK_SOON,
};
use crate::{
    host::{backup_target, driver::simulated::SIMULATED_DISK, event::FleetChange},
    id::{HostId, VmId},
    vm::{
        DiskSpec, VmRecord, VmSpec,
        backup::{Drilled, Manifest, Restored},
        event::{OperationKind, Subject},
        message::VmMsg,
        schedule::Schedule,
        wire::VmWire,
    },
};

const PATH_BYTES_MAX: usize = 1_024;

/// A backup in a directory of this node.
#[derive(Clone, Debug)]
pub struct KeptBackup {
    pub path: String,
    pub manifest: Manifest,
    pub drilled: Option<Drilled>,
}

/// A VM that is made of a backup.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The backup's directory, on the node that is asked and on the one that holds the host.
    pub from: String,
    pub name: String,
    /// The best one if absent.
    pub host: Option<HostId>,
    pub start: bool,
}

fn path(field: &str, given: &str) -> Result<PathBuf, Refused> {
    let path = PathBuf::from(given);
    let odd = path.components().any(|part| part == std::path::Component::ParentDir);
    if !path.is_absolute() || odd || given.len() > PATH_BYTES_MAX || given.chars().any(char::is_control) {
        return Err(Refused::invalid(field, "an absolute path on the node that holds the VM's host"));
    }
    Ok(path)
}

async fn read(field: &'static str, given: &str) -> Result<Manifest, Refused> {
    let dir = path(field, given)?;
    let read = tokio::task::spawn_blocking(move || backup_target::read(&dir)).await;
    read.map_err(std::io::Error::other).flatten().map_err(|error| {
        let message = format!("there is no backup in {given}: {error}");
        Refused { field: Some(field.into()), ..Refused::new(Code::NotFound, message) }
    })
}

/// Backups that a VM is to make by itself.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// Five fields, and a time zone behind them; UTC without.
    pub cron: String,
    /// A directory that each node has which may hold the VM's host.
    pub to: String,
    /// How many of them; older ones are removed.
    pub keep: u32,
}

impl ControlPlane {
    /// Copies its disks, all as they are at one moment, into a directory of the node that holds its host, and goes on when
    /// this has answered. The guest runs meanwhile. A backup that does not succeed leaves nothing.
    pub async fn backup_vm(&self, op: Op, vm: VmId, to: String) -> Result<Done<VmRecord>, Refused> {
        path("to", &to)?;
        let ask = super::wish(&op, vm, OperationKind::Backup, |ask| ask.subject = Some(Subject::Backup { to: to.into() }));
        let asked = self.ask_vm(&op, vm, ask).await?;
        let op = Op { deadline: op.deadline.at_most(LOOK_SOON), ..op };
        self.vm_ended(&op, vm, asked.value, asked.cursor).await
    }

    /// Has it make backups by itself from now on, in place of any schedule that it had; with `None` none any more. Those that it
    /// has made are kept to their number for as long as it has a schedule. The same again changes nothing.
    pub async fn schedule_vm_backups(&self, op: Op, vm: VmId, new: Option<NewSchedule>) -> Result<Done<VmRecord>, Refused> {
        self.takes_writes()?;
        self.known_vm(&op, vm).await?;
        let schedule = match new {
            None => None,
            Some(NewSchedule { cron, to, keep }) => {
                path("to", &to)?;
                Some(Schedule::new(&cron, &to, keep, op.principal.clone(), self.house.clock.now())?)
            }
        };
        let make = |reply| VmMsg::Schedule { schedule: schedule.clone(), reply };
        let asked = self.route_vm(op.deadline, vm, make, || VmWire::Schedule { schedule: schedule.clone() }).await??;
        self.seen(&op, asked.cursor).await?;
        let value = self.vm(vm)?.ok_or_else(|| Refused::not_found(vm))?;
        Ok(Done { value, cursor: asked.cursor })
    }

    /// Whole backups in a directory of this node.
    pub async fn backups_in(&self, dir: &str) -> Result<Vec<KeptBackup>, Refused> {
        let given = path("in", dir)?;
        let listed = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<KeptBackup>> {
            let found = backup_target::list(&given)?.into_iter();
            Ok(found
                .map(|(path, manifest)| {
                    let drilled = backup_target::drilled(&path);
                    KeptBackup { path: path.display().to_string(), manifest, drilled }
                })
                .collect())
        });
        listed.await.map_err(std::io::Error::other).flatten().map_err(|error| {
            let message = format!("{dir} cannot be read: {error}");
            Refused { field: Some("in".into()), ..Refused::new(Code::NotFound, message) }
        })
    }

    /// Makes a VM whose disks begin as those of a backup. A copy that is not what was written is refused before it starts.
    pub async fn restore_vm(&self, op: Op, new: Restore) -> Result<Done<VmRecord>, Refused> {
        let operation = operation(&op, &("restore", &new));
        let manifest = read("from", &new.from).await?;
        self.add_restored(op, manifest, new, false, operation).await
    }

    /// Starts a VM of a backup without any network, sees whether its guest answers, and removes it. Answers when it has
    /// begun; what came of it is with the backup, and in the events of the VM.
    pub async fn drill_backup(&self, op: Op, from: String, host: Option<HostId>) -> Result<Done<VmRecord>, Refused> {
        let operation = operation(&op, &("drill", &from, host));
        let manifest = read("from", &from).await?;
        if manifest.disks.iter().any(|disk| disk.format == SIMULATED_DISK) {
            return Err(Refused::new(Code::Refused, "this is a backup of a simulated VM: there is no guest that could answer"));
        }
        let name = format!("drill-{:x}", VmId::new().as_u128() & 0xffff_ffff_ffff);
        let op = Op { deadline: op.deadline.at_most(LOOK_SOON), ..op };
        self.add_restored(op, manifest, Restore { from, name, host, start: true }, true, operation).await
    }

    async fn add_restored(
        &self,
        op: Op,
        manifest: Manifest,
        new: Restore,
        drill: bool,
        operation: Option<crate::swarm::event::Operation>,
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
            restored: Some(Restored { path: new.from, disks, drill }),
            // It is for looking at, and takes nobody's room for long.
            ha: spec.ha && !drill,
            start: new.start,
            base: None,
            lease: None,
            bases: Vec::new(),
            ..spec
        });
        let added = self.change_fleet(&op, FleetChange::AddVm { spec, on: new.host }, operation).await?;
        let vm = VmId::try_from(&added.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        self.known_at(&op, added.cursor).await?;
        self.vm_ended(&op, vm, 1, added.cursor).await
    }
}
