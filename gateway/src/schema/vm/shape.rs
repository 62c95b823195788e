//! Changing the shape of VMs: CPUs, memory, disks and networks.

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{Done, NewSize};
use hiveward_catalogue::{host::protocol::Lag, vm::spec::DiskSpec};
use hiveward_machines::vm::record::VmRecord;

use super::{
    super::{
        Result, door, op, parse,
        scalars::{BigInt, Cursor},
    },
    Vm,
    input::vm_id,
    mutation::payloads,
};

/// What a VM runs with where that is not its shape yet: until it is stopped and started.
#[derive(SimpleObject)]
pub struct VmPendingRestart {
    cpus: u32,
    memory_bytes: BigInt,
    /// Disks and networks that it does not have yet.
    missing: Vec<String>,
    /// All of it in words.
    reason: String,
}

impl From<&Lag> for VmPendingRestart {
    fn from(lag: &Lag) -> Self {
        Self { cpus: lag.cpus, memory_bytes: BigInt(lag.memory_bytes), missing: lag.devices.clone(), reason: lag.words() }
    }
}

#[derive(InputObject)]
pub struct ResizeVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// As many as it has if absent.
    cpus: Option<i32>,
    /// As much as it has if absent.
    memory_bytes: Option<BigInt>,
    /// What runs is left alone: the change comes with its next start.
    #[graphql(default)]
    offline: bool,
}

#[derive(InputObject)]
pub struct AttachVmDiskInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// Unique among the disks of its VM; the guest finds it by it.
    name: String,
    size_bytes: BigInt,
}

#[derive(InputObject)]
pub struct DetachVmDiskInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// Of the disk.
    name: String,
    /// Its data goes with it, and that must be said.
    #[graphql(default)]
    delete: bool,
}

/// The inputs of commands about one network.
macro_rules! network_inputs {
    ($($name:ident),+) => {$(
        #[derive(InputObject)]
        pub struct $name {
            operation_id: Option<ID>,
            /// By key or name.
            vm: ID,
            /// One of the cluster's, `bridge:NAME`, or one of the hypervisor's.
            network: String,
        }
    )+};
}

network_inputs!(AttachVmNetworkInput, DetachVmNetworkInput);
payloads!(ResizeVmPayload, AttachVmDiskPayload, DetachVmDiskPayload, AttachVmNetworkPayload, DetachVmNetworkPayload);

#[derive(Default)]
pub struct ShapeMutation;

/// Each waits for the end of its operation as long as the request's deadline lets it; the operation goes on without it. One
/// that fails leaves the VM as it was. Refused while the VM has snapshots, which are of the shape that it has.
#[Object]
impl ShapeMutation {
    /// Room for more is reserved before anything is done, and the VM is as it was if there is none. A guest that runs is given
    /// memory, or gives it back, up to what it was started with; the rest comes with its next start, and `pendingRestart`
    /// says so until then.
    async fn resize_vm(&self, ctx: &Context<'_>, input: ResizeVmInput) -> Result<ResizeVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        let to = NewSize {
            cpus: parse::optional_natural("cpus", input.cpus)?,
            memory_bytes: input.memory_bytes.map(|bytes| bytes.0),
            offline: input.offline,
        };
        Ok(door(ctx)?.resize_vm(op(ctx, input.operation_id.as_ref())?, id, to).await?.into())
    }
    /// An empty disk, which a guest that runs has at once.
    async fn attach_vm_disk(&self, ctx: &Context<'_>, input: AttachVmDiskInput) -> Result<AttachVmDiskPayload> {
        let id = vm_id(ctx, &input.vm)?;
        let disk = DiskSpec { name: parse::name("name", input.name)?, size_bytes: input.size_bytes.0 };
        Ok(door(ctx)?.attach_vm_disk(op(ctx, input.operation_id.as_ref())?, id, disk).await?.into())
    }
    /// With its data. A guest that does not let go of it keeps it, and that is refused.
    async fn detach_vm_disk(&self, ctx: &Context<'_>, input: DetachVmDiskInput) -> Result<DetachVmDiskPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.detach_vm_disk(op(ctx, input.operation_id.as_ref())?, id, input.name, input.delete).await?.into())
    }
    /// A guest that runs has it at once. The first that is named takes the place of the hypervisor's usual one.
    async fn attach_vm_network(&self, ctx: &Context<'_>, input: AttachVmNetworkInput) -> Result<AttachVmNetworkPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.attach_vm_network(op(ctx, input.operation_id.as_ref())?, id, input.network).await?.into())
    }
    /// Not its only one, without which it would get the usual one.
    async fn detach_vm_network(&self, ctx: &Context<'_>, input: DetachVmNetworkInput) -> Result<DetachVmNetworkPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.detach_vm_network(op(ctx, input.operation_id.as_ref())?, id, input.network).await?.into())
    }
}
