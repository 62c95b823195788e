//! Backups of VMs: what there is, and what can be asked.

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::{
    client::{Done, KeptBackup, NewSchedule, Restore},
    vm::{VmRecord, backup::Backup, schedule::Schedule},
};

use super::{
    super::{
        Result, administrators_only, door,
        host::host_id,
        op, parse,
        scalars::{BigInt, Cursor, DateTime},
    },
    Vm,
    input::{inputs, vm_id},
    mutation::payloads,
};

/// A backup that its VM knows of.
#[derive(SimpleObject)]
pub struct VmBackup {
    /// Its directory, on the node that held the VM's host then.
    path: String,
    taken_at: DateTime,
    /// Of its files.
    bytes: BigInt,
    /// The VM made it by itself, and lets it go when it is old.
    scheduled: bool,
}

impl From<&Backup> for VmBackup {
    fn from(backup: &Backup) -> Self {
        Self {
            path: backup.path.clone(),
            taken_at: backup.taken_at.into(),
            bytes: BigInt(backup.bytes),
            scheduled: backup.scheduled,
        }
    }
}

/// Backups that a VM makes by itself.
#[derive(SimpleObject)]
pub struct VmBackupSchedule {
    /// Minute, hour, day, month, weekday, and perhaps a time zone; UTC without.
    cron: String,
    to: String,
    /// How many of them; older ones are removed.
    keep: u32,
    /// Who asked for it.
    asked_by: String,
    /// When the next is due; one that was missed is made as soon as it can be.
    next_at: Option<DateTime>,
    /// When the last was begun, whatever came of it; `operations` says what.
    last_at: Option<DateTime>,
}

impl From<&Schedule> for VmBackupSchedule {
    fn from(schedule: &Schedule) -> Self {
        Self {
            cron: schedule.cron.to_string(),
            to: schedule.to.to_string(),
            keep: schedule.keep,
            asked_by: schedule.principal.to_string(),
            next_at: schedule.due().map(Into::into),
            last_at: schedule.last_at.map(Into::into),
        }
    }
}

/// A backup as its own manifest has it; its VM may be gone.
#[derive(SimpleObject)]
pub struct StoredBackup {
    path: String,
    /// Of the VM, as it was called then.
    vm_name: String,
    vm: ID,
    taken_at: DateTime,
    /// The guest ran: what it had not written to its disks by then is not in it.
    running: bool,
    bytes: BigInt,
    disks: Vec<BackupDisk>,
    /// What came of its last drill; absent if there was none.
    drill: Option<BackupDrill>,
}

#[derive(SimpleObject)]
pub struct BackupDisk {
    name: String,
    bytes: BigInt,
    virtual_bytes: BigInt,
    format: String,
    /// BLAKE3, of the file.
    hash: String,
}

#[derive(SimpleObject)]
pub struct BackupDrill {
    /// The VM that was made for it, and is gone.
    vm: ID,
    at: DateTime,
    /// The guest answered.
    passed: bool,
    /// Why not.
    failure: Option<String>,
}

impl From<KeptBackup> for StoredBackup {
    fn from(KeptBackup { path, manifest, drilled }: KeptBackup) -> Self {
        let at = hiveward_runtime::clock::WallMs;
        Self {
            path,
            vm_name: manifest.spec.name.clone(),
            vm: manifest.spec.id.to_string().into(),
            taken_at: at(manifest.taken_at_ms).into(),
            running: manifest.running,
            bytes: BigInt(manifest.disks.iter().map(|disk| disk.bytes).sum()),
            disks: manifest
                .disks
                .into_iter()
                .map(|disk| BackupDisk {
                    name: disk.disk,
                    bytes: BigInt(disk.bytes),
                    virtual_bytes: BigInt(disk.virtual_bytes),
                    format: disk.format,
                    hash: disk.hash,
                })
                .collect(),
            drill: drilled.map(|drilled| BackupDrill {
                vm: drilled.vm.into(),
                at: at(drilled.at_ms).into(),
                passed: drilled.failure.is_none(),
                failure: drilled.failure,
            }),
        }
    }
}

#[derive(Default)]
pub struct BackupQuery;

#[Object]
impl BackupQuery {
    /// Whole backups in a directory of the node that is asked, an absolute path, by their names; at most 1,000.
    /// Administrators only.
    async fn vm_backups(&self, ctx: &Context<'_>, #[graphql(name = "in")] dir: String) -> Result<Vec<StoredBackup>> {
        administrators_only(ctx)?;
        Ok(door(ctx)?.backups_in(&dir).await?.into_iter().map(StoredBackup::from).collect())
    }
}

#[derive(InputObject)]
pub struct BackupVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// A directory that is there, on the node that holds the VM's host: an absolute path.
    to: String,
}

#[derive(InputObject)]
pub struct RestoreVmInput {
    operation_id: Option<ID>,
    /// The backup's directory: an absolute path on the node that is asked, and on the one that holds the host.
    from: String,
    /// Of the new VM; unique in the cluster.
    name: String,
    /// By key or name; the best one if absent.
    host: Option<ID>,
    #[graphql(default = true)]
    start: bool,
}

#[derive(InputObject)]
pub struct DrillVmBackupInput {
    operation_id: Option<ID>,
    /// The backup's directory: an absolute path on the node that is asked, and on the one that holds the host.
    from: String,
    /// By key or name; the best one if absent.
    host: Option<ID>,
}

#[derive(InputObject)]
pub struct ScheduleVmBackupsInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// Minute, hour, day, month, weekday, and perhaps a time zone: `0 3 * * * Europe/Berlin`. UTC without.
    cron: String,
    /// A directory that is there on each node that may hold the VM's host: an absolute path.
    to: String,
    /// How many of them; older ones are removed.
    #[graphql(default = 7)]
    keep: i32,
}

payloads!(ScheduleVmBackupsPayload, UnscheduleVmBackupsPayload);
inputs!(UnscheduleVmBackupsInput);
payloads!(BackupVmPayload, CancelVmBackupPayload, RestoreVmPayload, DrillVmBackupPayload);

inputs!(CancelVmBackupInput);

#[derive(Default)]
pub struct BackupMutation;

/// Administrators only: files are read and written on nodes.
#[Object]
impl BackupMutation {
    /// Copies a VM's disks, all as they are at one moment, while it runs on. Answers soon, and goes on: `operation` says how
    /// it is. One that does not succeed leaves nothing.
    async fn backup_vm(&self, ctx: &Context<'_>, input: BackupVmInput) -> Result<BackupVmPayload> {
        administrators_only(ctx)?;
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.backup_vm(op(ctx, input.operation_id.as_ref())?, id, input.to).await?.into())
    }
    /// Answers when that is known. The operation ends when nothing of it is left.
    async fn cancel_vm_backup(&self, ctx: &Context<'_>, input: CancelVmBackupInput) -> Result<CancelVmBackupPayload> {
        administrators_only(ctx)?;
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.cancel_vm_migration(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Has a VM make backups by itself, in place of any schedule that it had. Repeated, it changes nothing.
    async fn schedule_vm_backups(&self, ctx: &Context<'_>, input: ScheduleVmBackupsInput) -> Result<ScheduleVmBackupsPayload> {
        administrators_only(ctx)?;
        let id = vm_id(ctx, &input.vm)?;
        let new = NewSchedule { cron: input.cron, to: input.to, keep: parse::natural("keep", input.keep)? };
        Ok(door(ctx)?.schedule_vm_backups(op(ctx, input.operation_id.as_ref())?, id, Some(new)).await?.into())
    }
    /// It makes none by itself any more; those that it has made stay.
    async fn unschedule_vm_backups(
        &self,
        ctx: &Context<'_>,
        input: UnscheduleVmBackupsInput,
    ) -> Result<UnscheduleVmBackupsPayload> {
        administrators_only(ctx)?;
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.schedule_vm_backups(op(ctx, input.operation_id.as_ref())?, id, None).await?.into())
    }
    /// Makes a VM whose disks begin as those of a backup. A copy that is not what was written is refused.
    async fn restore_vm(&self, ctx: &Context<'_>, input: RestoreVmInput) -> Result<RestoreVmPayload> {
        administrators_only(ctx)?;
        let host = input.host.map(|host| host_id(ctx, "host", &host)).transpose()?;
        let new = Restore { from: input.from, name: parse::name("name", input.name)?, host, start: input.start };
        Ok(door(ctx)?.restore_vm(op(ctx, input.operation_id.as_ref())?, new).await?.into())
    }
    /// Starts a VM of a backup without any network, sees whether its guest answers, and removes it. Answers when it has
    /// begun; what came of it is in `vmBackups`.
    async fn drill_vm_backup(&self, ctx: &Context<'_>, input: DrillVmBackupInput) -> Result<DrillVmBackupPayload> {
        administrators_only(ctx)?;
        let host = input.host.map(|host| host_id(ctx, "host", &host)).transpose()?;
        Ok(door(ctx)?.drill_backup(op(ctx, input.operation_id.as_ref())?, input.from, host).await?.into())
    }
}
