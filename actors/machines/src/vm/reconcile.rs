//! The next thing to do about a VM, by what is wanted and what is seen. Pure: no I/O, the time is passed in.
//!
//! What is seen wins over what is remembered: a guest that shut itself down is not started again, one that crashed is, and
//! what another did on the host is taken over as the new wish.

use std::time::Duration;

use hiveward_kernel::id::HostId;
use hiveward_runtime::clock::WallMs;

use super::{
    backup, copy,
    event::{OperationKind, Outcome, Seen, VmEvent, Wanted},
    migrate::{self, Compared, Side},
    reshape::{self, Claim},
    schedule, snapshot,
    state::{HOUSE, VmOperation, VmState},
};
use crate::host::driver::{Off, Run};

/// Time after which an operation that has not come to its end has failed.
pub const OPERATION_WITHIN: Duration = Duration::from_secs(300);
/// Recoveries within [`RECOVERY_PERIOD`] after which a VM is not started again by itself.
pub const RECOVERIES_MAX: usize = 3;
const MOVING_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
pub const RECOVERY_PERIOD: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Define,
    Start,
    Shutdown,
    Destroy,
    Suspend,
    Resume,
    Reboot,
    Undefine,
    Snapshot,
    Revert,
    RemoveSnapshot,

    // Steps of backups and their drills.
    Backup,
    /// Removes what is left of a backup that did not come to its end.
    EndBackup,
    /// Asks whether the guest answers.
    Check,
    /// Writes beside the backup what came of its drill.
    Report,

    /// Removes a backup that is old.
    Prune,

    // Steps of a migration.
    /// Has the roster reserve room on another host.
    Reserve,
    /// Has the other host expect the VM, with its disks where they must be brought.
    Prepare,
    /// Migrates the VM, and waits until that has ended, however it does.
    Migrate,
    /// Looks whether anything is under way, then what is there, then what is here.
    Compare,
    Abort,
    /// Removes the definition here of a VM that was handed over, but not its disks.
    DropHere,
    /// Removes there what is on its way in and nobody brings any more.
    DropThere,
    /// Removes the disks here that were copied and are left.
    CleanHere,
    /// Removes what was prepared on the other host.
    Clear,
    /// Has the roster say that the VM belongs to the other host from then on.
    Settle,
    /// Has the roster reserve nothing for the VM on the other host any more.
    Release,

    // Steps of a change of shape.
    /// Has the roster reserve what the new shape needs.
    Claim,
    /// Changes what is defined and, as far as that can be, what runs.
    Reshape,
    /// Changes what is defined and what runs back to what it was.
    Unshape,
    /// Has the roster say that the VM has this shape from then on.
    Enact,
    /// Has the roster reserve nothing for the new shape any more.
    GiveBack,
    /// Removes the data of a disk that was detached.
    DropDisk,
    /// Has the roster reserve nothing any more for a run that is over.
    LetGo,

    // Steps of a VM that somebody else moved.
    /// Looks whether another host has the VM, of all that can be asked.
    Seek,
    /// Has the roster say that the VM belongs from then on to the host that has it.
    Follow,

    // Steps of a template or a clone.
    /// Copies the VM's disks to the blobs.
    Copy,
    /// Removes what is left of a copy that did not come to its end.
    EndCopy,
    /// Has the roster add the image or the VM.
    Publish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    /// Nothing is to be done until then, or until something changes.
    Wait {
        until: WallMs,
    },
    End(Outcome),
    /// The operation is not gone on with, and ends when it is certain what came of it.
    Abandon {
        why: String,
    },
    Recover,
    /// Hiveward itself asks for this operation.
    Ask {
        kind: OperationKind,
    },
    Adopt {
        wanted: Wanted,
        why: String,
    },
    GiveUp {
        message: String,
    },
    Idle,
}

/// What this life of the actor knows besides the VM's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// Number of times that the VM began to run, as seen now.
    pub boots: Option<u64>,
    /// The last step of the operation under way that succeeded in this life.
    pub done: Option<Step>,
    /// Where this actor stands in a migration.
    pub side: Side,
    pub compared: Option<Compared>,
    pub looked_at: Option<WallMs>,
    /// Whether the attempt that the VM was made for is over.
    pub over: bool,
    /// What the roster has of a change of shape.
    pub claim: Claim,
    /// Whether the roster holds what no run uses any more.
    pub holds: bool,
    /// Whether the VM belongs to its host because it came back there, and did not run there yet.
    pub comes_back: bool,
    /// Place of a VM that is not where it was, if that is known.
    pub sought: Option<Sought>,
}

/// Where a VM is that is not where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    On(HostId),
    /// No host that may have it has it.
    Nowhere,
}

/// Returns what to do next about a VM, by what is wanted and what is seen at the time `now`.
pub fn next(state: &VmState, doing: Doing, now: WallMs) -> Next {
    match state.active() {
        Some(active) if active.kind == OperationKind::Migrate => migrate::next(state, active, doing, now),
        Some(active) => match active.kind {
            OperationKind::Snapshot | OperationKind::Revert | OperationKind::RemoveSnapshot => {
                snapshot::next(state, active, doing, now)
            }
            OperationKind::Backup => backup::next(state, active, doing, now),
            OperationKind::Drill => backup::drill(state, active, doing, now),
            kind if kind.is_of_shape() => reshape::next(state, active, doing, now),
            OperationKind::Template | OperationKind::Clone => copy::next(state, active, doing, now),
            _ => within_operation(state, doing, now),
        },
        None if state.removed => Next::Idle,
        None if doing.over => Next::Ask { kind: OperationKind::Remove },
        None => match backup::between(state).unwrap_or_else(|| between_operations(state, doing, now)) {
            Next::Idle if doing.holds => Next::Do(Step::LetGo),
            Next::Idle => schedule::next(state, now).unwrap_or(Next::Idle),
            next => next,
        },
    }
}

/// Returns the event that follows for the operation under way from a refused step, unless it is a migration.
pub fn refused(state: &VmState, why: String) -> Option<VmEvent> {
    let active = state.active()?;
    let number = active.number;
    Some(match &active.abandoned {
        None if active.kind.is_undone() => VmEvent::Abandoned { number, why },
        None => VmEvent::Ended { number, outcome: Outcome::Failed { message: why } },
        // What is reserved for it is still to be given back.
        Some(_) if active.kind.is_of_shape() => {
            VmEvent::Abandoned { number, why: format!("what was changed of it may be left: {why}") }
        }
        Some(first) => VmEvent::Ended { number, outcome: Outcome::Failed { message: format!("{first}; then: {why}") } },
    })
}

fn within_operation(state: &VmState, doing: Doing, now: WallMs) -> Next {
    let Some(active) = state.active() else { return Next::Idle };
    let failed = |message: &str| Next::End(Outcome::Failed { message: message.into() });
    let booted = match (doing.boots, active.boots) {
        (Some(now), Some(before)) => now > before,
        _ => false,
    };
    // To make a restored VM, all of its backup is read.
    let reads = state.is_restored && active.kind == OperationKind::Create;
    let within = OPERATION_WITHIN + if reads { backup::BACKUP_WITHIN } else { Duration::ZERO };
    let late = now.since(active.asked_at) >= within + Duration::from_millis(active.grace_ms);
    let next = match (active.kind, state.seen) {
        // It is answered, and gone on with when that is known.
        (kind, _)
            if kind.is_of_run()
                && let Some(why) = &state.withheld =>
        {
            failed(why)
        }
        (kind, seen) if kind.is_of_run() && may_be_elsewhere(state, seen, doing) => look_for(doing),
        (OperationKind::Create | OperationKind::Start | OperationKind::Recover, Seen::Absent) => Next::Do(Step::Define),
        (OperationKind::Create, Seen::There(_)) if state.wanted != Wanted::Running => Next::End(Outcome::Done),
        (OperationKind::Create | OperationKind::Start | OperationKind::Recover, Seen::There(run)) => match run {
            Run::Running => Next::End(Outcome::Done),
            Run::Paused => Next::Do(Step::Resume),
            Run::Moving => Next::Wait { until: now.plus(MOVING_LOOKED_AT_EVERY) },
            Run::Off(Off::Moved) => failed("another host has it"),
            Run::Off(Off::Shutdown | Off::Destroyed) if booted => Next::End(Outcome::Done),
            Run::Off(Off::Crashed) if booted => failed("it started and crashed"),
            Run::Off(_) => Next::Do(Step::Start),
        },
        (OperationKind::Stop, Seen::Absent | Seen::There(Run::Off(_))) => Next::End(Outcome::Done),
        (OperationKind::Stop, Seen::There(_)) => {
            let plug = active.asked_at.plus(Duration::from_millis(active.grace_ms));
            match state.seen {
                _ if active.force || now >= plug => Next::Do(Step::Destroy),
                // A guest that does not run does not see the power button.
                Seen::There(Run::Paused) => Next::Do(Step::Resume),
                Seen::There(Run::Moving) => Next::Wait { until: plug },
                _ if doing.done == Some(Step::Shutdown) => Next::Wait { until: plug },
                _ => Next::Do(Step::Shutdown),
            }
        }
        (OperationKind::Reboot, Seen::There(Run::Running)) => {
            let counted = doing.boots.is_some() && active.boots.is_some();
            if (counted && booted) || (!counted && doing.done == Some(Step::Reboot)) {
                Next::End(Outcome::Done)
            } else {
                Next::Do(Step::Reboot)
            }
        }
        (OperationKind::Pause, Seen::There(Run::Running)) => Next::Do(Step::Suspend),
        (OperationKind::Pause, Seen::There(Run::Paused)) => Next::End(Outcome::Done),
        (OperationKind::Resume, Seen::There(Run::Paused)) => Next::Do(Step::Resume),
        (OperationKind::Resume, Seen::There(Run::Running)) => Next::End(Outcome::Done),
        // Other functions treat these.
        (OperationKind::Backup | OperationKind::Drill, _) => return Next::Idle,
        (OperationKind::Resize | OperationKind::AttachDisk | OperationKind::DetachDisk, _) => return Next::Idle,
        (OperationKind::AttachNetwork | OperationKind::DetachNetwork, _) => return Next::Idle,
        (OperationKind::Template | OperationKind::Clone, _) => return Next::Idle,
        (OperationKind::Migrate | OperationKind::Snapshot | OperationKind::Revert | OperationKind::RemoveSnapshot, _) => {
            return Next::Idle;
        }
        (OperationKind::Reboot | OperationKind::Pause | OperationKind::Resume, _) => failed("it does not run any more"),
        (OperationKind::Remove, _) if let Some(why) = state.withheld.as_ref().filter(|_| !is_forced(active)) => {
            failed(&format!("{why}. With force it is removed all the same, and what runs there is nobody's"))
        }
        // What it left here is gone, and it is certain that this was all of it.
        (OperationKind::Remove, Seen::Absent) if doing.done == Some(Step::Undefine) => Next::End(Outcome::Done),
        (OperationKind::Remove, seen) if is_sought_to_remove(state, active, seen, doing) => look_for(doing),
        (OperationKind::Remove, Seen::There(run)) if run.is_on() && may_end_what_runs(state, active) => Next::Do(Step::Destroy),
        (OperationKind::Remove, Seen::There(run)) if run.is_on() => failed("it runs; stop it, or use force"),
        (OperationKind::Remove, Seen::There(_)) => Next::Do(Step::Undefine),
        // A definition that never came may have left disks.
        (OperationKind::Remove, Seen::Absent) => Next::Do(Step::Undefine),
    };
    match next {
        Next::Do(_) | Next::Wait { .. } if late => failed("it was not done in time"),
        next => next,
    }
}

/// Tells whether somebody may have moved the VM: then it is looked for before it is made again, or is said to be off.
fn may_be_elsewhere(state: &VmState, seen: Seen, doing: Doing) -> bool {
    state.ran && matches!(seen, Seen::Absent | Seen::There(Run::Off(Off::Moved))) && doing.sought != Some(Sought::Nowhere)
}

/// Tells whether the VM is looked for on other hosts before it is removed. Nobody moves what Hiveward itself made, and a removal
/// with force does not wait for a host that is silent.
fn is_sought_to_remove(state: &VmState, active: &VmOperation, seen: Seen, doing: Doing) -> bool {
    &*active.principal != HOUSE && state.withheld.is_none() && may_be_elsewhere(state, seen, doing)
}

/// Tells whether it was asked with force, or by Hiveward itself, which removes only what it made.
fn is_forced(active: &VmOperation) -> bool {
    active.force || &*active.principal == HOUSE
}

/// Tells whether a removal may end a run: it is forced, or calls off the operation that began that run.
fn may_end_what_runs(state: &VmState, active: &VmOperation) -> bool {
    let by_it = Outcome::Superseded { by: active.number };
    is_forced(active) || state.operations.iter().any(|before| before.ended.as_ref().is_some_and(|(_, end)| *end == by_it))
}

fn look_for(doing: Doing) -> Next {
    Next::Do(if doing.sought.is_some() { Step::Follow } else { Step::Seek })
}

fn between_operations(state: &VmState, doing: Doing, now: WallMs) -> Next {
    let adopt = |wanted, why: &str| Next::Adopt { wanted, why: why.into() };
    match (state.wanted, state.seen) {
        (Wanted::Running, Seen::There(Run::Off(Off::Shutdown))) => adopt(Wanted::Stopped, "the guest shut itself down"),
        (Wanted::Running | Wanted::Paused, Seen::There(Run::Off(Off::Destroyed))) => {
            adopt(Wanted::Stopped, "somebody stopped it on the host")
        }
        (Wanted::Running | Wanted::Paused, seen) if may_be_elsewhere(state, seen, doing) => look_for(doing),
        // Somebody stopped it while nobody could say whether it ran.
        (Wanted::Stopped, seen) if state.withheld.is_some() && !state.is_on() => {
            if may_be_elsewhere(state, seen, doing) {
                look_for(doing)
            } else {
                adopt(Wanted::Stopped, "no other host has it")
            }
        }
        // Started here it would run twice.
        (Wanted::Running | Wanted::Paused, Seen::There(Run::Off(Off::Moved))) => {
            adopt(Wanted::Stopped, "somebody moved it to another host")
        }
        // What ran in it is gone, and so is what it was made for.
        (Wanted::Running | Wanted::Paused, Seen::There(Run::Off(_)) | Seen::Absent) if state.is_leased => {
            Next::GiveUp { message: "it ended by itself".into() }
        }
        (Wanted::Running | Wanted::Paused, Seen::There(Run::Off(_)) | Seen::Absent) => {
            let lately = state.recoveries.iter().filter(|at| now.since(**at) < RECOVERY_PERIOD).count();
            if lately < RECOVERIES_MAX {
                Next::Recover
            } else {
                let minutes = RECOVERY_PERIOD.as_secs() / 60;
                Next::GiveUp { message: format!("it ended by itself {} times within {minutes} minutes", lately + 1) }
            }
        }
        (Wanted::Running, Seen::There(Run::Paused)) => adopt(Wanted::Paused, "it was paused on the host"),
        (Wanted::Paused, Seen::There(Run::Running)) => adopt(Wanted::Running, "it was resumed on the host"),
        (Wanted::Stopped, Seen::There(Run::Running)) => adopt(Wanted::Running, "it was started on the host"),
        (Wanted::Stopped, Seen::There(Run::Paused)) => adopt(Wanted::Paused, "it was started on the host"),
        // Its removal was not gone on with before it was known where it is.
        (Wanted::Absent, seen) if state.withheld.is_some() && may_be_elsewhere(state, seen, doing) => look_for(doing),
        (Wanted::Absent, Seen::There(Run::Running)) => adopt(Wanted::Running, "it was to be removed, and runs"),
        (Wanted::Absent, Seen::There(Run::Paused)) => adopt(Wanted::Paused, "it was to be removed, and runs"),
        (Wanted::Absent, Seen::There(Run::Off(_)) | Seen::Absent) => Next::Ask { kind: OperationKind::Remove },
        _ => Next::Idle,
    }
}
