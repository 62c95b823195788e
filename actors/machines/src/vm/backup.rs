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

/// Named with their VM; older ones are where they were written, and are not listed with it any more.
pub const BACKUPS_KEPT_MAX: usize = 64;
/// A backup that has not ended by then has failed.
pub const BACKUP_WITHIN: Duration = Duration::from_secs(4 * 3_600);
/// For a guest of a drill to answer.
pub const DRILL_WITHIN: Duration = Duration::from_secs(300);
/// Of one that stands alone.
pub const MANIFEST_FORMAT: u32 = 1;
/// Of one that is based on another: who knows only the other format must not take it for a whole one.
pub const MANIFEST_FORMAT_BASED: u32 = 2;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// All that a VM is made of again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    /// Of its directory.
    pub name: String,
    pub taken_at_ms: i64,
    /// The guest ran: what it had not written to its disks by then is not in it.
    pub running: bool,
    /// What its first boot was told is not in it.
    pub spec: VmSpec,
    pub disks: Vec<DiskCopy>,
    /// The name of the one beside it that it is a difference to; it stands alone without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// Why it stands alone though another was asked for, or why no later one can be based on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_because: Option<String>,
    /// What is written is marked from it on.
    #[serde(default)]
    pub marked: bool,
}

impl Manifest {
    pub fn bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.bytes).sum()
    }
}

/// What came of the last drill of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drilled {
    /// The VM that was made for it.
    pub vm: String,
    pub at_ms: i64,
    /// Why it did not come up, if it did not.
    pub failure: Option<String>,
}

/// One backup that is known with its VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Of the operation that made it.
    pub number: u64,
    /// Its directory.
    pub path: String,
    pub taken_at: WallMs,
    pub bytes: u64,
    /// The VM made it by itself, and lets it go when it is old.
    #[serde(default)]
    pub scheduled: bool,
    /// The number of the one that it is a difference to; it stands alone without.
    #[serde(default)]
    pub basis: Option<u64>,
    /// How many are below it.
    #[serde(default)]
    pub depth: u32,
    /// Why it stands alone though another was asked for, or why no later one can be based on it.
    #[serde(default)]
    pub whole_because: Option<String>,
    /// The host that marks what is written since.
    #[serde(default)]
    pub marked_on: Option<HostId>,
}

/// Unique: no other operation of any VM has this name.
pub fn name(spec: &VmSpec, number: u64) -> String {
    format!("{}-{number}-{:08x}", spec.name, spec.id.as_u128() & 0xffff_ffff)
}

pub fn may_ask(state: &VmState, spec: &VmSpec, subject: Option<&Subject>) -> Result<(), Refused> {
    if !matches!(subject, Some(Subject::Backup { .. })) {
        return Err(Refused::invalid("to", "where to is not said"));
    }
    state.must_be_here(spec)
}

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

pub fn drill(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs) -> Next {
    let abandon = |why: &str| Next::Abandon { why: why.into() };
    match (doing.done, &active.abandoned) {
        (Some(Step::Report), None) => return Next::End(Outcome::Done),
        (Some(Step::Report), Some(why)) => return Next::End(Outcome::Failed { message: why.clone() }),
        // Where it cannot be written it is still said by the operation itself.
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

/// What a VM that lives for one drill does by itself.
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

    /// The life of a drill's VM, as its actor leads it: what became of the drill.
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
