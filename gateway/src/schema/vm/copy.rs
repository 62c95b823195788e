//! What is made of a VM while it runs on: other VMs, and images.

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{Done, NewClone};
use hiveward_machines::vm::record::VmRecord;

use super::{
    super::{Result, door, host::host_id, op, parse, scalars::Cursor},
    Vm,
    input::vm_id,
    mutation::payloads,
};

#[derive(InputObject)]
pub struct CloneVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// Of the new VM: unique in the cluster.
    name: String,
    /// By key or name; the best one if absent.
    host: Option<ID>,
    #[graphql(default = true)]
    start: bool,
}

#[derive(InputObject)]
pub struct CreateImageFromVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// Of the image: unique in the cluster.
    name: String,
}

payloads!(CloneVmPayload, CreateImageFromVmPayload);

#[derive(Default)]
pub struct CopyMutation;

/// Each is an operation of the VM that it is made of, which runs on. What takes longer than a moment goes on, and `operation`
/// says how it is; one that fails leaves nothing.
#[Object]
impl CopyMutation {
    /// A VM like this one whose disks begin as this one's are at one moment, with an id, a name, addresses and a first boot
    /// of its own. What a guest that runs had not written to its disks by then it does not have. It needs nothing of the
    /// VM that it came from.
    async fn clone_vm(&self, ctx: &Context<'_>, input: CloneVmInput) -> Result<CloneVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        let host = input.host.map(|host| host_id(ctx, "host", &host)).transpose()?;
        let new = NewClone { name: parse::name("name", input.name)?, host, start: input.start };
        Ok(door(ctx)?.clone_vm(op(ctx, input.operation_id.as_ref())?, id, new).await?.into())
    }
    /// An image of its system disk as it is at one moment. What is private to the guest, such as its keys, is in it.
    async fn create_image_from_vm(&self, ctx: &Context<'_>, input: CreateImageFromVmInput) -> Result<CreateImageFromVmPayload> {
        let (id, name) = (vm_id(ctx, &input.vm)?, parse::name("name", input.name)?);
        Ok(door(ctx)?.make_image_of_vm(op(ctx, input.operation_id.as_ref())?, id, name).await?.into())
    }
}
