//! Backups of a VM, and the drill of one: what they are, and the next step about them. Pure.
//!
//! A backup is a directory with a file of each disk and a manifest that says all of it: it outlives its VM and this cluster.
//! It has its name from the first, so that a step that is repeated finds what the last one left: a whole backup is done, and
//! everything else is begun anew. A drill is a VM of its own, made of a backup, without any network: it is started, asked
//! whether it lives, and removed; what came of it is written beside the backup.

use std::time::Duration;

use hiveward_catalogue::{host::protocol::DiskCopy, vm::spec::VmSpec};
use hiveward_kernel::id::HostId;
use hiveward_runtime::{clock::WallMs, error::Refused};
use serde::{Deserialize, Serialize};

use super::{
    event::{OperationKind, Outcome, Seen, Subject},
    reconcile::{Doing, Next, OPERATION_WITHIN, Step},
    state::{VmOperation, VmState},
};
use crate::host::driver::{Off, Run};

/// Number of backups that are known with their VM; older ones stay where they were written, and are not listed any more.
pub const BACKUPS_KEPT_MAX: usize = 64;
/// Time after which a backup that has not ended has failed.
pub const BACKUP_WITHIN: Duration = Duration::from_secs(4 * 3_600);
/// Time for the guest of a drill to answer.
pub const DRILL_WITHIN: Duration = Duration::from_secs(300);
/// Format of the manifest of a backup that stands alone.
pub const MANIFEST_FORMAT: u32 = 1;
/// Format of the manifest of a backup that is based on another: a reader that knows only the other format must not take it for a
/// full one.
pub const MANIFEST_FORMAT_BASED: u32 = 2;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The file of a backup that says all that its VM is made of again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    /// Name of the backup's directory.
    pub name: String,
    pub taken_at_ms: i64,
    /// Whether the guest ran; then what it had not written to its disks by then is not in the backup.
    pub running: bool,
    /// Spec of the VM, without what its first boot was told.
    pub spec: VmSpec,
    pub disks: Vec<DiskCopy>,
    /// Name of the backup beside it that it is a difference to; absent if it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// Reason why it stands alone though another was asked for, or why no later one can be based on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_because: Option<String>,
    /// Whether the hypervisor marks what is written from this backup on.
    #[serde(default)]
    pub marked: bool,
}

impl Manifest {
    /// Returns the bytes of all its disks together.
    pub fn bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.bytes).sum()
    }
}

/// Result of the last drill of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drilled {
    /// Name of the VM that was made for the drill.
    pub vm: String,
    pub at_ms: i64,
    /// Reason why the VM did not come up; absent if it did.
    pub failure: Option<String>,
}

/// A backup that is known with its VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Number of the operation that made it.
    pub number: u64,
    /// Path of its directory.
    pub path: String,
    pub taken_at: WallMs,
    pub bytes: u64,
    /// Whether the VM made it by its schedule; then the VM removes it when it is old.
    #[serde(default)]
    pub scheduled: bool,
    /// Number of the backup that it is a difference to; absent if it stands alone.
    #[serde(default)]
    pub basis: Option<u64>,
    /// Number of backups that are below it in its chain.
    #[serde(default)]
    pub depth: u32,
    /// Reason why it stands alone though another was asked for, or why no later one can be based on it.
    #[serde(default)]
    pub whole_because: Option<String>,
    /// Host that marks what is written since; absent if none does.
    #[serde(default)]
    pub marked_on: Option<HostId>,
}

/// Returns the name of the backup that this operation makes; no other operation of any VM has it.
pub fn name(spec: &VmSpec, number: u64) -> String {
    format!("{}-{number}-{:08x}", spec.name, spec.id.as_u128() & 0xffff_ffff)
}

/// Checks that a backup of this VM may be asked for now. Errors: no target is given, or the VM is not on its host.
pub fn may_ask(state: &VmState, spec: &VmSpec, subject: Option<&Subject>) -> Result<(), Refused> {
    if !matches!(subject, Some(Subject::Backup { .. })) {
        return Err(Refused::invalid("to", "where to is not said"));
    }
    state.must_be_here(spec)
}

/// Returns what to do next about the backup under way.
pub fn next(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs) -> Next {
    let age = now.since(active.asked_at);
    let failed = |message: String| Next::End(Outcome::Failed { message });
    if let Some(why) = &active.abandoned {
        return match doing.done {
            Some(Step::EndBackup) => failed(why.clone()),
            _ if age >= BACKUP_WITHIN + OPERATION_WITHIN => failed(format!("{why}; what was written of it may be left")),
            _ => Next::Do(Step::EndBackup),
        };
    }
    if doing.done == Some(Step::Backup) {
        return Next::End(Outcome::Done);
    }
    let abandon = |why: &str| Next::Abandon { why: why.into() };
    match state.seen {
        _ if age >= BACKUP_WITHIN => abandon("it was not done in time"),
        Seen::Absent => abandon("its host has nothing of it any more"),
        Seen::There(Run::Moving) => Next::Wait { until: now.plus(LOOK_AGAIN) },
        Seen::There(Run::Off(Off::Moved)) => abandon("another host has it"),
        Seen::There(_) => Next::Do(Step::Backup),
    }
}

/// Returns what to do next about the drill under way.
pub fn drill(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs) -> Next {
    let abandon = |why: &str| Next::Abandon { why: why.into() };
    match (doing.done, &active.abandoned) {
        (Some(Step::Report), None) => return Next::End(Outcome::Done),
        (Some(Step::Report), Some(why)) => return Next::End(Outcome::Failed { message: why.clone() }),
        // If the result cannot be written, the operation itself still says it.
        (_, Some(why)) if now.since(active.asked_at) >= DRILL_WITHIN + OPERATION_WITHIN => {
            return Next::End(Outcome::Failed { message: why.clone() });
        }
        (Some(Step::Check), None) | (_, Some(_)) => return Next::Do(Step::Report),
        _ => {}
    }
    match state.seen {
        _ if now.since(active.asked_at) >= DRILL_WITHIN => abandon("its guest did not answer in time"),
        Seen::There(Run::Running) => Next::Do(Step::Check),
        _ => abandon(state.failed.as_deref().unwrap_or("its guest did not start, or ended by itself")),
    }
}

/// Returns what a VM that lives for one drill asks by itself: the drill, then its removal. `None` for any other VM.
pub fn between(state: &VmState) -> Option<Next> {
    if !state.is_drill || state.removed {
        return None;
    }
    let drilled = state.operations.iter().any(|operation| operation.kind == OperationKind::Drill);
    Some(Next::Ask { kind: if drilled { OperationKind::Remove } else { OperationKind::Drill } })
}

#[cfg(test)]
mod tests {
    use hiveward_catalogue::vm::{spec::Restored, testing::spec};

    use super::*;
    use crate::vm::{
        event::{Asked, VmEvent},
        reconcile::{self, refused},
    };

    /// Leads a drill's VM through its life as its actor does, and returns what became of the drill.
    fn lead(starts: bool, answers: bool, seed: u64) -> Outcome {
        let mut dice = fastrand::Rng::with_seed(seed);
        let restored = Restored { path: "/b/one".into(), disks: Vec::new(), drill: true, under: Vec::new() };
        let spec = VmSpec { restored: Some(restored), ..spec() };
        let (mut state, mut doing, mut now) = (VmState::new(&spec, WallMs(0)), Doing::default(), 0_i64);
        let (mut outcome, mut reported) = (None, None);
        for _ in 0..5_000 {
            now += dice.i64(1..5_000);
            let at = WallMs(now);
            if dice.u32(0..20) == 0 {
                // Another life: only what was written is known.
                doing = Doing::default();
            }
            let seen = |state: &mut VmState, run| state.apply(&VmEvent::Seen { seen: run, epoch: 0 }, at);
            match reconcile::next(&state, doing, at) {
                Next::Do(Step::Define) => seen(&mut state, Seen::There(Run::Off(Off::Unknown))),
                Next::Do(Step::Start) if starts => seen(&mut state, Seen::There(Run::Running)),
                Next::Do(Step::Start) => state.apply(&refused(&state, "no room".into()).unwrap(), at),
                Next::Do(Step::Check) => doing.done = (answers && dice.bool()).then_some(Step::Check),
                Next::Do(Step::Report) => {
                    reported = Some(state.active().unwrap().abandoned.clone());
                    doing.done = dice.bool().then_some(Step::Report);
                }
                Next::Do(Step::Destroy) => seen(&mut state, Seen::There(Run::Off(Off::Destroyed))),
                Next::Do(Step::Undefine) => {
                    seen(&mut state, Seen::Absent);
                    doing.done = Some(Step::Undefine);
                }
                Next::Ask { kind } => {
                    let (principal, number) = ("hiveward".into(), state.last_number() + 1);
                    let (operation, force, grace_ms, boots, migration, subject) = (None, false, 0, None, None, None);
                    let epoch = 0;
                    let asked = Asked { number, kind, principal, operation, force, grace_ms, boots, migration, subject, epoch };
                    doing = Doing::default();
                    state.apply(&VmEvent::Asked(Box::new(asked)), at);
                }
                Next::End(ended) => {
                    let active = state.active().unwrap();
                    let number = active.number;
                    if active.kind == OperationKind::Drill {
                        outcome = Some(ended.clone());
                    }
                    state.apply(&VmEvent::Ended { number, outcome: ended }, at);
                }
                Next::Abandon { why } => {
                    let number = state.active().unwrap().number;
                    state.apply(&VmEvent::Abandoned { number, why }, at);
                }
                Next::Idle => {
                    assert!(state.removed, "seed {seed}: its VM stays: {state:?}");
                    let failure = match outcome.as_ref().unwrap() {
                        Outcome::Failed { message } => Some(message.clone()),
                        _ => None,
                    };
                    assert_eq!(reported, Some(failure), "seed {seed}: what was written is not what was");
                    return outcome.unwrap();
                }
                next => panic!("seed {seed}: {next:?} of {state:?}"),
            }
        }
        panic!("seed {seed}: it never ends: {state:?}");
    }

    #[test]
    fn a_drill_passes_only_when_the_guest_answers_and_always_takes_its_vm_away() {
        for seed in 0..200 {
            assert_eq!(lead(true, true, seed), Outcome::Done, "seed {seed}");
            for (starts, answers) in [(true, false), (false, false)] {
                assert!(matches!(lead(starts, answers, seed), Outcome::Failed { .. }), "seed {seed}");
            }
        }
    }
}
