//! Changes of a VM's shape: what may be asked, what it comes to, and the next step about it. Pure.
//!
//! First the roster reserves what the new shape needs, then the hypervisor makes it so, then the roster says that it is: from
//! then on it is this shape wherever the VM is defined. What fails before that is undone, and what was reserved given back;
//! what is after that, the data of a disk that was detached, is done until it succeeds. What the present run does not have
//! of its shape, or has beyond it, is known with the VM and held by the roster until it is started again.

use std::time::Duration;

use hiveward_catalogue::vm::spec::{DiskSpec, Shape, VmSpec};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};

use super::{
    event::{OperationKind, Outcome, Seen, Subject},
    reconcile::{Doing, Next, OPERATION_WITHIN, Step},
    state::{VmOperation, VmState},
};
use crate::host::driver::{Off, Run};

/// Number of disks of one VM at most, with its root.
pub const DISKS_MAX: usize = 32;
pub const NETWORKS_MAX: usize = 64;
/// The disk that it boots from, which is never attached or detached.
pub const ROOT: &str = "root";
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the roster has of a change of shape that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claim {
    /// The roster has nothing of it.
    #[default]
    Free,
    /// What the new shape needs is reserved.
    Held,
    /// The new shape is the VM's by now.
    Enacted,
}

/// Returns the shape that the VM has after this change. Errors: why it cannot be made, and which field says so.
pub fn target(spec: &VmSpec, kind: OperationKind, subject: Option<&Subject>) -> Result<Shape, Refused> {
    let mut shape = spec.shape();
    let name = &spec.name;
    let bad = |code: Code, field: &str, message: String| Err(Refused { code, message, field: Some(field.into()) });
    match (kind, subject) {
        (OperationKind::Resize, Some(Subject::Resize { cpus, memory_bytes, .. })) => {
            if cpus.is_none() && memory_bytes.is_none() {
                return Err(Refused::invalid("cpus", "neither CPUs nor memory are given: there is nothing to change"));
            }
            shape.cpus = cpus.unwrap_or(shape.cpus);
            shape.memory_bytes = memory_bytes.unwrap_or(shape.memory_bytes);
        }
        (OperationKind::AttachDisk, Some(Subject::Disk { name: disk, size_bytes })) => {
            if **disk == *ROOT || shape.disks.iter().any(|known| *known.name == **disk) {
                return bad(Code::Conflict, "name", format!("{name} has a disk named {disk:?}; choose another name"));
            }
            if shape.disks.len() >= DISKS_MAX {
                return bad(Code::Limit, "name", format!("{name} has {DISKS_MAX} disks, which is the most; detach one first"));
            }
            shape.disks.push(DiskSpec { name: disk.to_string(), size_bytes: *size_bytes });
        }
        (OperationKind::DetachDisk, Some(Subject::Disk { name: disk, .. })) => {
            if **disk == *ROOT {
                return bad(Code::Refused, "name", format!("{name} boots from its disk {ROOT:?}, which stays"));
            }
            if !shape.disks.iter().any(|known| *known.name == **disk) {
                return bad(Code::NotFound, "name", format!("{name} has no disk named {disk:?}"));
            }
            shape.disks.retain(|known| *known.name != **disk);
        }
        (OperationKind::AttachNetwork, Some(Subject::Network { name: network })) => {
            if shape.networks.iter().any(|known| **known == **network) {
                return bad(Code::Conflict, "network", format!("{name} is on network {network:?} already"));
            }
            if shape.networks.len() >= NETWORKS_MAX {
                let message = format!("{name} is on {NETWORKS_MAX} networks, which is the most; detach one first");
                return bad(Code::Limit, "network", message);
            }
            shape.networks.push(network.to_string());
        }
        (OperationKind::DetachNetwork, Some(Subject::Network { name: network })) => {
            if !shape.networks.iter().any(|known| **known == **network) {
                return bad(Code::NotFound, "network", format!("{name} is on no network named {network:?}"));
            }
            shape.networks.retain(|known| **known != **network);
            if shape.networks.is_empty() {
                let message =
                    format!("{network:?} is the only network of {name}, which would get the usual one; attach another first");
                return bad(Code::Refused, "network", message);
            }
        }
        _ => return Err(Refused::invalid("vm", "what is to change is not said")),
    }
    Ok(shape)
}

/// Checks that this change of shape may be asked for now. Errors: it cannot be made, the VM has snapshots, or it is not on its
/// host.
pub fn may_ask(state: &VmState, spec: &VmSpec, kind: OperationKind, subject: Option<&Subject>) -> Result<(), Refused> {
    target(spec, kind, subject)?;
    if !state.snapshots.is_empty() {
        let message = format!("{} has snapshots, which are of the shape that it has; remove them first", spec.name);
        return Err(Refused::new(Code::Refused, message));
    }
    state.must_be_here(spec)
}

/// Returns the name of the disk that this operation detaches, whose data is then removed; `None` for any other operation.
pub fn drops(operation: &VmOperation) -> Option<&str> {
    match (&operation.subject, operation.kind) {
        (Some(Subject::Disk { name, .. }), OperationKind::DetachDisk) => Some(name),
        _ => None,
    }
}

/// Returns what to do next about the change of shape under way.
pub fn next(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs) -> Next {
    let age = now.since(active.asked_at);
    let (late, hopeless) = (age >= OPERATION_WITHIN, age >= OPERATION_WITHIN * 2);
    let made = active.kind == OperationKind::AttachDisk;
    let failed = |message: &str| Next::End(Outcome::Failed { message: message.into() });
    let abandon = |why: &str| Next::Abandon { why: why.into() };
    match (doing.claim, &active.abandoned) {
        (Claim::Enacted, _) => match drops(active) {
            Some(_) if doing.done == Some(Step::DropDisk) => Next::End(Outcome::Done),
            Some(_) if hopeless => failed("it is detached, and its data may be left on its host"),
            Some(_) => Next::Do(Step::DropDisk),
            None => Next::End(Outcome::Done),
        },
        (Claim::Free, Some(why)) => failed(why),
        (Claim::Free, None) => match state.seen {
            _ if late => failed("it was not done in time, and nothing was changed"),
            Seen::Absent => failed("its host has nothing of it any more"),
            Seen::There(Run::Off(Off::Moved)) => failed("another host has it"),
            Seen::There(Run::Moving) => Next::Wait { until: now.plus(LOOK_AGAIN) },
            Seen::There(_) => Next::Do(Step::Claim),
        },
        (Claim::Held, None) => match state.seen {
            _ if doing.done == Some(Step::Reshape) => Next::Do(Step::Enact),
            _ if late => abandon("it was not done in time"),
            Seen::Absent => abandon("its host has nothing of it any more"),
            Seen::There(Run::Off(Off::Moved)) => abandon("another host has it"),
            Seen::There(Run::Moving) => Next::Wait { until: now.plus(LOOK_AGAIN) },
            Seen::There(_) => Next::Do(Step::Reshape),
        },
        (Claim::Held, Some(_)) => match state.seen {
            _ if doing.done == Some(Step::DropDisk) || hopeless => Next::Do(Step::GiveBack),
            // A disk that did not come about is not found by the next one of its name.
            _ if doing.done == Some(Step::Unshape) && made => Next::Do(Step::DropDisk),
            _ if doing.done == Some(Step::Unshape) => Next::Do(Step::GiveBack),
            Seen::Absent if made => Next::Do(Step::DropDisk),
            Seen::Absent | Seen::There(Run::Off(Off::Moved)) => Next::Do(Step::GiveBack),
            Seen::There(Run::Moving) => Next::Wait { until: now.plus(LOOK_AGAIN) },
            Seen::There(_) => Next::Do(Step::Unshape),
        },
    }
}
