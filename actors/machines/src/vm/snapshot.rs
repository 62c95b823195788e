//! Snapshots of a VM: which there are, what may be asked of them, and the next step about one. Pure.
//!
//! A snapshot is in its VM's disks, on its host, and goes with them. It is known from the moment that it is certain; one that
//! did not come about is taken away before its operation ends, so that none is left that nobody knows. On the hypervisor each
//! has a name that no other ever has, so every step may be repeated: what is there under it is it.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::vm::spec::VmSpec;
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};
use serde::{Deserialize, Serialize};

use super::{
    event::{OperationKind, Outcome, Seen, Subject, Wanted},
    reconcile::{Doing, Next, OPERATION_WITHIN, Step},
    state::{VmOperation, VmState},
};
use crate::host::driver::{Off, Run};

/// Number of snapshots of one VM at most. Each holds what was written since, and the memory of a guest that ran: one more is
/// refused.
pub const SNAPSHOTS_MAX: usize = 16;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Number of the operation that took it.
    pub number: u64,
    /// Name, which is unique among those that its VM has.
    pub name: Arc<str>,
    pub taken_at: WallMs,
    /// Whether the guest ran, and goes on from there; else it was off, and its disks alone are kept.
    pub with_memory: bool,
}

fn tag(number: u64, name: &str) -> String {
    format!("hw{number}-{name}")
}

impl Snapshot {
    /// Returns what the snapshot is called on the hypervisor.
    pub fn tag(&self) -> String {
        tag(self.number, &self.name)
    }
}

/// Returns what the snapshot that the operation under way is about is called on the hypervisor.
pub fn tag_under_way(state: &VmState) -> Option<String> {
    let active = state.active()?;
    let Some(Subject::Snapshot { name }) = &active.subject else { return None };
    match active.kind {
        OperationKind::Snapshot => Some(tag(active.number, name)),
        _ => state.snapshots.iter().find(|snapshot| snapshot.name == *name).map(Snapshot::tag),
    }
}

/// Checks that this may be asked now. Errors: the name is taken or unknown, the VM has the most snapshots already, its run
/// differs from its definition, or it is not on its host.
pub fn may_ask(state: &VmState, spec: &VmSpec, kind: OperationKind, subject: Option<&Subject>) -> Result<(), Refused> {
    let Some(Subject::Snapshot { name }) = subject else { return Err(Refused::invalid("name", "which snapshot is not said")) };
    let known = state.snapshots.iter().any(|snapshot| snapshot.name == *name);
    if kind == OperationKind::Snapshot {
        if known {
            let message = format!("{} has a snapshot named {name:?}; choose another name, or remove that one", spec.name);
            return Err(Refused { code: Code::Conflict, message, field: Some("name".into()) });
        }
        if state.snapshots.len() >= SNAPSHOTS_MAX {
            let message = format!("{} has {SNAPSHOTS_MAX} snapshots, which is the most; remove one first", spec.name);
            return Err(Refused::new(Code::Limit, message));
        }
        if let Some(lag) = &state.lag {
            // A later revert would have it run with what is not reserved for it any more.
            let message = format!("{} is not what it is defined as: {}; take it then", spec.name, lag.words());
            return Err(Refused::new(Code::Refused, message));
        }
    } else if !known {
        let message = format!("{} has no snapshot named {name:?}", spec.name);
        return Err(Refused { code: Code::NotFound, message, field: Some("name".into()) });
    }
    state.must_be_here(spec)
}

/// Returns what to do next about the operation on a snapshot under way.
pub fn next(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs) -> Next {
    let age = now.since(active.asked_at);
    let failed = |message: String| Next::End(Outcome::Failed { message });
    if let Some(why) = &active.abandoned {
        return match state.seen {
            _ if doing.done == Some(Step::RemoveSnapshot) => failed(why.clone()),
            // It went with the disks.
            Seen::Absent => failed(why.clone()),
            _ if age >= OPERATION_WITHIN * 2 => failed(format!("{why}; what was written of it may be left in its disks")),
            _ => Next::Do(Step::RemoveSnapshot),
        };
    }
    let (step, late) = (step(active.kind), age >= OPERATION_WITHIN);
    if doing.done == Some(step) {
        return Next::End(Outcome::Done);
    }
    let why = match state.seen {
        _ if late => "it was not done in time",
        Seen::Absent => "its host has nothing of it any more",
        Seen::There(Run::Moving) => return Next::Wait { until: now.plus(LOOK_AGAIN) },
        Seen::There(Run::Off(Off::Moved)) => "another host has it",
        // What it was to keep is gone, and the next thing is to start it again.
        Seen::There(Run::Off(_)) if active.kind == OperationKind::Snapshot && state.wanted != Wanted::Stopped => {
            "the guest ended meanwhile"
        }
        Seen::There(_) => return Next::Do(step),
    };
    if active.kind == OperationKind::Snapshot { Next::Abandon { why: why.into() } } else { failed(why.into()) }
}

const fn step(kind: OperationKind) -> Step {
    match kind {
        OperationKind::Revert => Step::Revert,
        OperationKind::RemoveSnapshot => Step::RemoveSnapshot,
        _ => Step::Snapshot,
    }
}

/// Applies what an operation on a snapshot leaves that has come to a good end: a snapshot more, or one less.
pub fn done(state: &mut VmState, number: u64, at: WallMs) {
    let Some(operation) = state.operation(number) else { return };
    let Some(Subject::Snapshot { name }) = operation.subject.clone() else { return };
    match operation.kind {
        OperationKind::Snapshot => {
            let with_memory = state.is_on();
            state.snapshots.push(Snapshot { number, name, taken_at: at, with_memory });
        }
        OperationKind::RemoveSnapshot => state.snapshots.retain(|snapshot| snapshot.name != name),
        _ => {}
    }
}
