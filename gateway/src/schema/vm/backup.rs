//! Backups of VMs: what there is, and what can be asked.

use std::{collections::VecDeque, time::Duration};

use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{CheckedBackup, Done, KeptBackup, NewSchedule, Restore};
use hiveward_machines::vm::{backup::Backup, record::VmRecord, schedule::Schedule};
use hiveward_runtime::op::Op;

use super::{
    super::{
        Result, door,
        host::host_id,
        op, parse,
        scalars::{BigInt, Cursor, DateTime},
    },
    Vm,
    input::{inputs, vm_id},
    mutation::payloads,
};

#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum BackupKind {
    /// All that was on the disks.
    Full,
    /// What was written since the one that it is based on.
    Incremental,
}

const fn kind(is_based: bool) -> BackupKind {
    if is_based { BackupKind::Incremental } else { BackupKind::Full }
}

/// A backup that its VM knows of.
#[derive(SimpleObject)]
pub struct VmBackup {
    /// Its directory, on the node that held the VM's host then, or where it is in an object store.
    path: String,
    kind: BackupKind,
    /// Of an incremental one: the path of the one that it is based on, which is needed for as long as this one is.
    basis: Option<String>,
    /// Why it is a full one though an incremental one was asked for, or why none can be based on it.
    full_because: Option<String>,
    taken_at: DateTime,
    /// Of its files.
    bytes: BigInt,
    /// The VM made it by itself, and lets it go when it is old.
    scheduled: bool,
}

impl VmBackup {
    pub fn of(backup: &Backup, all: &VecDeque<Backup>) -> Self {
        let below = all.iter().find(|below| Some(below.number) == backup.basis);
        Self {
            path: backup.path.clone(),
            kind: kind(backup.basis.is_some()),
            basis: below.map(|below| below.path.clone()),
            full_because: backup.whole_because.clone(),
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
    /// How many of them; older ones are removed when none is based on them.
    keep: u32,
    /// One in so many is full, the others are incremental.
    full_every: u32,
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
            full_every: schedule.full_every,
            asked_by: schedule.principal.to_string(),
            next_at: schedule.due().map(Into::into),
            last_at: schedule.last_at.map(Into::into),
        }
    }
}

/// A backup as its own manifest has it; its VM may be gone. Of one that is damaged only its name and its path are known.
#[derive(SimpleObject)]
pub struct StoredBackup {
    path: String,
    name: String,
    /// What is wrong with it, as far as that is seen without reading all of it; absent if it is whole.
    damage: Option<String>,
    /// Of the VM, as it was called then.
    vm_name: Option<String>,
    vm: Option<ID>,
    taken_at: Option<DateTime>,
    kind: Option<BackupKind>,
    /// Of an incremental one: the name of the one beside it that it is based on.
    basis: Option<String>,
    /// Why it is a full one though an incremental one was asked for, or why none can be based on it.
    full_because: Option<String>,
    /// The guest ran: what it had not written to its disks by then is not in it.
    running: Option<bool>,
    /// Of its own files.
    bytes: Option<BigInt>,
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
    fn from(KeptBackup { path, name, manifest, drilled }: KeptBackup) -> Self {
        let at = hiveward_runtime::clock::WallMs;
        let (whole, damage) = match manifest {
            Ok(manifest) => (Some(manifest), None),
            Err(why) => (None, Some(why)),
        };
        let of = whole.as_ref();
        Self {
            path,
            name,
            damage,
            vm_name: of.map(|manifest| manifest.spec.name.clone()),
            vm: of.map(|manifest| manifest.spec.id.to_string().into()),
            taken_at: of.map(|manifest| at(manifest.taken_at_ms).into()),
            kind: of.map(|manifest| kind(manifest.basis.is_some())),
            basis: of.and_then(|manifest| manifest.basis.clone()),
            full_because: of.and_then(|manifest| manifest.whole_because.clone()),
            running: of.map(|manifest| manifest.running),
            bytes: of.map(|manifest| BigInt(manifest.bytes())),
            disks: whole
                .into_iter()
                .flat_map(|manifest| manifest.disks)
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

/// What came of reading a backup and all that it is based on.
#[derive(SimpleObject)]
pub struct BackupCheck {
    /// Else it reads on: ask again.
    done: bool,
    /// Every file is what was written.
    whole: Option<bool>,
    /// Of all files.
    bytes: Option<BigInt>,
    /// Of each file that is not, what is wrong with it.
    damage: Vec<String>,
}

impl From<Option<CheckedBackup>> for BackupCheck {
    fn from(checked: Option<CheckedBackup>) -> Self {
        match checked {
            Some(CheckedBackup { bytes, damage }) => {
                Self { done: true, whole: Some(damage.is_empty()), bytes: Some(BigInt(bytes)), damage }
            }
            None => Self { done: false, whole: None, bytes: None, damage: Vec::new() },
        }
    }
}

/// Nobody holds a request for longer.
const CHECK_SOON: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct BackupQuery;

#[Object]
impl BackupQuery {
    /// Backups in a directory of the node that is asked, an absolute path, or in an object store, by their names; at most 1,000.
    /// Those that are damaged say so.
    /// Administrators only.
    async fn vm_backups(&self, ctx: &Context<'_>, #[graphql(name = "in")] dir: String) -> Result<Vec<StoredBackup>> {
        Ok(door(ctx)?.backups_in(&dir).await?.into_iter().map(StoredBackup::from).collect())
    }
    /// Reads every file of a backup and of those that it is based on. Answers when that is done, or soon: then it reads on, and
    /// the same question goes on with it.
    async fn vm_backup_check(&self, ctx: &Context<'_>, from: String) -> Result<BackupCheck> {
        let op = op(ctx, None)?;
        let soon = Op { deadline: op.deadline.at_most(CHECK_SOON), ..op };
        Ok(door(ctx)?.check_backup(&soon, &from).await?.into())
    }
}

#[derive(InputObject)]
pub struct BackupVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// A directory that is there, on the node that holds the VM's host: an absolute path. Or `s3://BUCKET/PREFIX`.
    to: String,
    /// What was written since its last backup there. Where that is not known it is a full one, and says why.
    #[graphql(default = false)]
    incremental: bool,
}

#[derive(InputObject)]
pub struct RestoreVmInput {
    operation_id: Option<ID>,
    /// The backup's directory: an absolute path on the node that is asked, and on the one that holds the host. Or where it is in
    /// an object store.
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
    /// The backup's directory: an absolute path on the node that is asked, and on the one that holds the host. Or where it is in
    /// an object store.
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
    /// A directory that is there on each node that may hold the VM's host: an absolute path. Or `s3://BUCKET/PREFIX`.
    to: String,
    /// How many of them; older ones are removed when none is based on them.
    #[graphql(default = 7)]
    keep: i32,
    /// One in so many is full, the others are incremental: 1 to 16.
    #[graphql(default = 1)]
    full_every: i32,
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
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.backup_vm(op(ctx, input.operation_id.as_ref())?, id, input.to, input.incremental).await?.into())
    }
    /// Answers when that is known. The operation ends when nothing of it is left.
    async fn cancel_vm_backup(&self, ctx: &Context<'_>, input: CancelVmBackupInput) -> Result<CancelVmBackupPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.cancel_vm_backup(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Has a VM make backups by itself, in place of any schedule that it had. Repeated, it changes nothing.
    async fn schedule_vm_backups(&self, ctx: &Context<'_>, input: ScheduleVmBackupsInput) -> Result<ScheduleVmBackupsPayload> {
        let id = vm_id(ctx, &input.vm)?;
        let keep = parse::natural("keep", input.keep)?;
        let full_every = parse::natural("fullEvery", input.full_every)?;
        let new = NewSchedule { cron: input.cron, to: input.to, keep, full_every };
        Ok(door(ctx)?.schedule_vm_backups(op(ctx, input.operation_id.as_ref())?, id, Some(new)).await?.into())
    }
    /// It makes none by itself any more; those that it has made stay.
    async fn unschedule_vm_backups(
        &self,
        ctx: &Context<'_>,
        input: UnscheduleVmBackupsInput,
    ) -> Result<UnscheduleVmBackupsPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.schedule_vm_backups(op(ctx, input.operation_id.as_ref())?, id, None).await?.into())
    }
    /// Makes a VM whose disks begin as those of a backup. A copy that is not what was written is refused.
    async fn restore_vm(&self, ctx: &Context<'_>, input: RestoreVmInput) -> Result<RestoreVmPayload> {
        let host = input.host.map(|host| host_id(ctx, "host", &host)).transpose()?;
        let new = Restore { from: input.from, name: parse::name("name", input.name)?, host, start: input.start };
        Ok(door(ctx)?.restore_vm(op(ctx, input.operation_id.as_ref())?, new).await?.into())
    }
    /// Starts a VM of a backup without any network, sees whether its guest answers, and removes it. Answers when it has
    /// begun; what came of it is in `vmBackups`.
    async fn drill_vm_backup(&self, ctx: &Context<'_>, input: DrillVmBackupInput) -> Result<DrillVmBackupPayload> {
        let host = input.host.map(|host| host_id(ctx, "host", &host)).transpose()?;
        Ok(door(ctx)?.drill_backup(op(ctx, input.operation_id.as_ref())?, input.from, host).await?.into())
    }
}
