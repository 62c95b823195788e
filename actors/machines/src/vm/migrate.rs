//! The next thing to do about a migration, by what is seen on both hosts. Pure.
//!
//! The roster says which host a VM belongs to, and says another when this says [`Step::Settle`]: then, and not before, the
//! other host's actor takes over. Until then this one alone acts, and it wakes a guest that stands still here only when it
//! has seen that nothing is under way any more and that the other host has none. A migration that failed or was cancelled
//! leaves the guest running where it was.
//!
//! What is seen here, [`VmState::seen`], was looked at after what is seen there, and that after it was asked whether the
//! hypervisor still works on it. A migration only ever goes from here to there, so what these three say together holds.

use std::time::Duration;

use hiveward_catalogue::host::protocol::AtLimit;
use hiveward_kernel::id::HostId;
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

use super::{
    event::{Outcome, Seen},
    reconcile::{Doing, Next, OPERATION_WITHIN, Step},
    state::{VmOperation, VmState},
};
use crate::host::driver::{Off, Run};

/// Interval between two looks at what the hypervisors still work on.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time for which a guest that is on its way in is left alone although nobody brings it any more.
const INCOMING_WITHIN: Duration = Duration::from_secs(60);

pub const LIMIT_MS_DEFAULT: u64 = 300_000;
pub const LIMIT_MS_MAX: u64 = 86_400_000;

/// What is asked of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub from: HostId,
    /// Host to move to; the best one if absent.
    pub to: Option<HostId>,
    pub live: bool,
    pub bandwidth_mib: Option<u64>,
    pub limit_ms: u64,
    pub at_limit: Limit,
}

impl Move {
    /// Returns a move as Hiveward itself asks for it: live, to the best host, and not at all if its limit is reached.
    pub const fn anywhere(from: HostId) -> Self {
        Self { from, to: None, live: true, bandwidth_mib: None, limit_ms: LIMIT_MS_DEFAULT, at_limit: Limit::Abort }
    }
}

/// What becomes of a migration that has not ended by its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Limit {
    #[default]
    Abort,
    Pause,
    Converge,
}

impl From<Limit> for AtLimit {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Abort => Self::Abort,
            Limit::Pause => Self::Pause,
            Limit::Converge => Self::Converge,
        }
    }
}

/// Result of a look at the other host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// The other host cannot be asked.
    Unknown,
    Absent,
    Is(Run),
}

/// What was seen around a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Whether the hypervisor here works on the migration.
    pub under_way: bool,
    pub there: There,
}

/// Where this actor stands in a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Nothing is reserved on another host.
    #[default]
    Free,
    /// Something is reserved on another host.
    Bound,
    /// The roster says that the VM belongs here, where it has been brought.
    Arrived,
}

/// Returns what to do next about the migration under way.
pub fn next(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs) -> Next {
    let failed = |message: &str| Next::End(Outcome::Failed { message: message.into() });
    // This bounds what comes before and after the migration itself, which has a limit of its own and may have waited its turn.
    let late = now.since(active.asked_at) >= OPERATION_WITHIN && doing.done != Some(Step::Prepare);
    match doing.side {
        Side::Arrived => match state.seen {
            Seen::There(Run::Moving) => wait(now),
            Seen::There(_) => Next::End(Outcome::Done),
            Seen::Absent => failed("it is not on the host that it was moved to"),
        },
        Side::Free => match (&active.abandoned, state.seen) {
            (Some(why), _) => failed(why),
            (None, Seen::There(Run::Running | Run::Paused)) if late => failed("it was not done in time"),
            (None, Seen::There(Run::Running | Run::Paused)) => Next::Do(Step::Reserve),
            (None, _) => failed("it does not run any more"),
        },
        Side::Bound => bound(state, active, doing, now, late),
    }
}

fn wait(now: WallMs) -> Next {
    Next::Wait { until: now.plus(LOOK_EVERY) }
}

fn bound(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs, late: bool) -> Next {
    let abandoned = active.abandoned.is_some();
    match doing.done {
        // The roster has been told; this actor's time is over soon.
        Some(Step::Settle) => return wait(now),
        Some(Step::Reserve) if !abandoned => return Next::Do(Step::Prepare),
        Some(Step::Prepare) if !abandoned => return Next::Do(Step::Migrate),
        Some(Step::Clear) => return Next::Do(Step::Release),
        // It was seen there, and nothing was left here.
        Some(Step::CleanHere) => return Next::Do(Step::Settle),
        _ => {}
    }
    let Some(Compared { under_way, there }) = doing.compared else { return Next::Do(Step::Compare) };
    if under_way {
        // Once asked to end it, it is looked at until it has.
        return if abandoned && doing.done == Some(Step::Compare) { Next::Do(Step::Abort) } else { again(doing, now) };
    }
    let abandon = |why: &str| Next::Abandon { why: why.into() };
    match (state.seen, there) {
        (Seen::There(Run::Running | Run::Paused), There::Unknown | There::Absent | There::Is(Run::Off(_))) => {
            match (abandoned, there) {
                (true, There::Unknown) => Next::Do(Step::Release),
                (true, _) => Next::Do(Step::Clear),
                (false, _) if late => abandon("it was not done in time"),
                (false, _) => Next::Do(Step::Prepare),
            }
        }
        // On its way in, and nobody brings it: its host ends it by itself, unless that hangs.
        (_, There::Is(Run::Moving)) => {
            if now.since(active.asked_at) >= INCOMING_WITHIN + Duration::from_millis(active_limit(active)) {
                Next::Do(Step::DropThere)
            } else {
                again(doing, now)
            }
        }
        // Handed over: it runs there, or has ended there. Nothing of it runs here, whatever is left.
        (Seen::There(Run::Moving | Run::Off(Off::Moved)), There::Is(_)) => Next::Do(Step::DropHere),
        // It is woken here only when it surely is not there.
        (Seen::There(Run::Moving), There::Absent) if abandoned => Next::Do(Step::Resume),
        (Seen::Absent, There::Is(_)) => Next::Do(Step::CleanHere),
        // Nobody can say now whether it runs there.
        (Seen::There(Run::Moving | Run::Off(Off::Moved)) | Seen::Absent, There::Unknown) => again(doing, now),
        (Seen::There(Run::Moving | Run::Off(Off::Moved)) | Seen::Absent, There::Absent) if !abandoned => {
            abandon("it did not come to the other host")
        }
        // It ended by itself meanwhile, or nothing of it is left.
        (Seen::There(Run::Off(_)), _) if !abandoned => abandon("it ended meanwhile"),
        (Seen::There(Run::Off(Off::Moved)) | Seen::Absent, There::Absent) => Next::Do(Step::Release),
        (Seen::There(Run::Off(_)), There::Absent | There::Is(Run::Off(_))) => Next::Do(Step::Clear),
        (Seen::There(Run::Off(_)), There::Unknown) => Next::Do(Step::Release),
        // What cannot be: both say that they run it. Nothing is done that could make it worse, and it is looked at again.
        (Seen::There(_), There::Is(Run::Running | Run::Paused)) => again(doing, now),
        (Seen::There(Run::Moving), There::Absent) => again(doing, now),
    }
}

/// Looks again, after a while.
fn again(doing: Doing, now: WallMs) -> Next {
    if doing.looked_at.is_some_and(|at| now.since(at) >= LOOK_EVERY) { Next::Do(Step::Compare) } else { wait(now) }
}

fn active_limit(active: &VmOperation) -> u64 {
    active.migration.as_ref().map_or(0, |asked| asked.limit_ms.saturating_mul(2))
}
