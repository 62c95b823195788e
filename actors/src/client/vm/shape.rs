//! Changing the shape of a VM: its CPUs, its memory, its disks and its networks.
//!
//! Each is an operation: reserved before the hypervisor is asked, undone as a whole if it fails. What cannot change while the
//! guest runs is so when it is started again, and the VM says until then what it runs with.

use hiveward_access::verb::Verb;
use hiveward_catalogue::vm::spec::DiskSpec;
use hiveward_kernel::id::VmId;
use hiveward_machines::vm::{
    event::{OperationKind, Subject},
    record::VmRecord,
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::{
    super::{ControlPlane, Done, check},
    new::{check_cpus, check_disk_bytes, check_memory},
};

const NETWORK_BYTES_MAX: usize = 128;

/// The size that a VM is to have; what is absent stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewSize {
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
    /// Whether what runs is left alone, so that the change comes with its next start.
    pub offline: bool,
}

impl ControlPlane {
    /// Changes the CPUs or the memory of a VM. Refused if its host has no room for more, or if it could not come back elsewhere
    /// any more. A guest that runs is given memory, or gives it back, up to what it was started with; everything else comes with
    /// its next start, and [`VmState::lag`](hiveward_machines::vm::state::VmState::lag) says so.
    pub async fn resize_vm(&self, op: Op, vm: VmId, to: NewSize) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::ResizeVm, vm).await?;
        to.cpus.map_or(Ok(()), check_cpus)?;
        to.memory_bytes.map_or(Ok(()), check_memory)?;
        let NewSize { cpus, memory_bytes, offline } = to;
        let subject = Subject::Resize { cpus, memory_bytes, offline };
        self.command_vm(op, vm, OperationKind::Resize, |ask| ask.subject = Some(subject)).await
    }

    /// Adds an empty disk, which is there at once for a guest that runs. A name that it has already is a conflict.
    pub async fn attach_vm_disk(&self, op: Op, vm: VmId, disk: DiskSpec) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::AttachVmDisk, vm).await?;
        check::name("name", &disk.name)?;
        check_disk_bytes("sizeBytes", disk.size_bytes)?;
        let subject = Subject::Disk { name: disk.name.into(), size_bytes: disk.size_bytes };
        self.command_vm(op, vm, OperationKind::AttachDisk, |ask| ask.subject = Some(subject)).await
    }

    /// Removes a disk with its data, which must be said with `delete`: what is left of a disk that no VM has would be kept where
    /// nobody knows of it.
    pub async fn detach_vm_disk(&self, op: Op, vm: VmId, name: String, delete: bool) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::DetachVmDisk, vm).await?;
        check::name("name", &name)?;
        if !delete {
            let message = "the data of a disk goes with it: back it up if you need it, and say that it may be deleted";
            return Err(Refused { field: Some("delete".into()), ..Refused::new(Code::Refused, message) });
        }
        let subject = Subject::Disk { name: name.into(), size_bytes: 0 };
        self.command_vm(op, vm, OperationKind::DetachDisk, |ask| ask.subject = Some(subject)).await
    }

    /// Adds a network: `bridge:NAME`, or one of the hypervisor's. The first that is named takes the place of the usual one.
    pub async fn attach_vm_network(&self, op: Op, vm: VmId, network: String) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::AttachVmNetwork, vm).await?;
        check_network(&network)?;
        let subject = Subject::Network { name: network.into() };
        self.command_vm(op, vm, OperationKind::AttachNetwork, |ask| ask.subject = Some(subject)).await
    }

    /// Removes a network from a VM, but not its only one, without which it would get the usual one.
    pub async fn detach_vm_network(&self, op: Op, vm: VmId, network: String) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::DetachVmNetwork, vm).await?;
        check_network(&network)?;
        let subject = Subject::Network { name: network.into() };
        self.command_vm(op, vm, OperationKind::DetachNetwork, |ask| ask.subject = Some(subject)).await
    }
}

fn check_network(name: &str) -> Result<(), Refused> {
    if name.is_empty() || name.len() > NETWORK_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Refused::invalid("network", format!("1 to {NETWORK_BYTES_MAX} bytes")));
    }
    Ok(())
}
