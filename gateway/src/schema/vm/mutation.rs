//! What can be asked of VMs.

use async_graphql::{Context, Object, SimpleObject};
use hiveward_actors::client::{Done, NewMove};
use hiveward_machines::vm::record::VmRecord;

use super::{
    super::{Result, door, host::host_id, op, parse, scalars::Cursor},
    Vm,
    input::*,
};
use crate::schema::{door_in, op_in};

/// The payloads of all VM mutations have the same shape and each its own name.
macro_rules! payloads {
    ($($name:ident),+) => {$(
        #[derive(SimpleObject)]
        pub struct $name {
            vm: Vm,
            cursor: Cursor,
        }

        impl From<Done<VmRecord>> for $name {
            fn from(done: Done<VmRecord>) -> Self {
                Self { vm: done.value.into(), cursor: done.cursor.into() }
            }
        }
    )+};
}
pub(super) use payloads;

payloads!(SnapshotVmPayload, RevertVmPayload, RemoveVmSnapshotPayload);
payloads!(MigrateVmPayload, CancelVmMigrationPayload);
payloads!(CreateVmPayload, StartVmPayload, StopVmPayload, RebootVmPayload, PauseVmPayload, ResumeVmPayload, RemoveVmPayload);

#[derive(Default)]
pub struct VmMutation;

/// Each waits for the end of its operation as long as the request's deadline lets it; the operation goes on without it.
#[Object]
impl VmMutation {
    /// Placed, reserved and, with `start`, running when it answers.
    async fn create_vm(&self, ctx: &Context<'_>, input: CreateVmInput) -> Result<CreateVmPayload> {
        let control = door_in(ctx, input.project.as_ref())?;
        let op = op_in(ctx, &control, input.operation_id.as_ref())?;
        let new = input.parse(ctx)?;
        Ok(control.create_vm(op, new).await?.into())
    }
    async fn start_vm(&self, ctx: &Context<'_>, input: StartVmInput) -> Result<StartVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.start_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Presses the power button, and pulls the plug after the grace.
    async fn stop_vm(&self, ctx: &Context<'_>, input: StopVmInput) -> Result<StopVmPayload> {
        let (id, grace) = (vm_id(ctx, &input.vm)?, parse::optional_natural("graceMs", input.grace_ms)?);
        Ok(door(ctx)?.stop_vm(op(ctx, input.operation_id.as_ref())?, id, input.force, grace).await?.into())
    }
    async fn reboot_vm(&self, ctx: &Context<'_>, input: RebootVmInput) -> Result<RebootVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.reboot_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    async fn pause_vm(&self, ctx: &Context<'_>, input: PauseVmInput) -> Result<PauseVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.pause_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    async fn resume_vm(&self, ctx: &Context<'_>, input: ResumeVmInput) -> Result<ResumeVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.resume_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Brings it to another host. A migration that fails or is cancelled leaves it running where it was. What takes
    /// longer than a moment goes on, and `operation` says how it is.
    async fn migrate_vm(&self, ctx: &Context<'_>, input: MigrateVmInput) -> Result<MigrateVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        let to = NewMove {
            host: input.to.map(|host| host_id(ctx, "to", &host)).transpose()?,
            live: input.live,
            bandwidth_mib: parse::optional_natural("bandwidthMib", input.bandwidth_mib)?,
            limit_ms: parse::natural("limitMs", input.limit_ms)?,
            at_limit: input.at_limit.into(),
        };
        Ok(door(ctx)?.migrate_vm(op(ctx, input.operation_id.as_ref())?, id, to).await?.into())
    }
    /// Answers when that is known. The operation ends when it is certain where the VM runs: where it was, unless it had
    /// gone by then.
    async fn cancel_vm_migration(&self, ctx: &Context<'_>, input: CancelVmMigrationInput) -> Result<CancelVmMigrationPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.cancel_vm_migration(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Keeps its disks as they are now and, while it is on, its memory: the guest stands still until that is written. A name
    /// that it has already is `CONFLICT`, one more than a VM may have is `LIMIT`.
    async fn snapshot_vm(&self, ctx: &Context<'_>, input: SnapshotVmInput) -> Result<SnapshotVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.snapshot_vm(op(ctx, input.operation_id.as_ref())?, id, input.name).await?.into())
    }
    /// Makes it what it was then, running or off. What was done since is gone.
    async fn revert_vm(&self, ctx: &Context<'_>, input: RevertVmInput) -> Result<RevertVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.revert_vm(op(ctx, input.operation_id.as_ref())?, id, input.name).await?.into())
    }
    /// The VM stays as it is.
    async fn remove_vm_snapshot(&self, ctx: &Context<'_>, input: RemoveVmSnapshotInput) -> Result<RemoveVmSnapshotPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.remove_vm_snapshot(op(ctx, input.operation_id.as_ref())?, id, input.name).await?.into())
    }
    /// Its domain, its disks and its reservation are gone when it answers, and its status is `REMOVED`.
    async fn remove_vm(&self, ctx: &Context<'_>, input: RemoveVmInput) -> Result<RemoveVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.remove_vm(op(ctx, input.operation_id.as_ref())?, id, input.force).await?.into())
    }
}
