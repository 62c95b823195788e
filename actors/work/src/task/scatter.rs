//! Says when a scatter is over: one piece of work done over many items or on many agents, and what came of it gathered. Pure.
//!
//! A scatter is a plan that is given instead of computed: a task without an agent of its own, whose parts are ordinary tasks.
//! This says when it has gathered enough, when it never will, and which part deserves a twin.

use std::sync::Arc;

use hiveward_kernel::id::{AgentId, TaskId};
use serde::{Deserialize, Serialize};

use super::{
    spec::{Aggregate, TaskSpec},
    status::TaskStatus,
};

pub const PARTS_MAX: usize = 1_000;
/// The kind that a scatter's own task shows; no agent ever gets it.
pub const KIND: &str = "scatter";

/// The role that a task has besides its own work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Scatter(Arc<ScatterSpec>),
    /// The task is one of a scatter's parts.
    Part {
        item: Option<Item>,
    },
    /// The task does a slow part's work beside it, on another agent.
    Twin {
        of: TaskId,
        apart_from: AgentId,
        why: String,
        item: Option<Item>,
    },
}

/// The item that a program is given of its part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The place among the items, from 0.
    pub index: u32,
    /// The item's text: a string as it is, other JSON as it is written.
    pub text: String,
}

/// A scatter as a client asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterSpec {
    pub policy: Policy,
    /// The milliseconds from submitted to gathered.
    pub deadline_ms: Option<u64>,
    /// The way in which the results of the parts become one, unless `reduce` does it.
    pub aggregate: Aggregate,
    /// The task that gets the results of the parts that are in as its inputs; its own result counts.
    pub reduce: Option<Arc<TaskSpec>>,
    pub hedge: Option<HedgeSpec>,
}

/// The number of parts that a scatter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// All of them are wanted; one that fails fails the scatter at once.
    All,
    /// So many are wanted; the rest is cancelled as soon as they are in.
    AtLeast(u32),
    /// Those count that are in when all have ended, or at the deadline; at least one.
    BestEffort,
}

/// The rules on which parts get a twin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HedgeSpec {
    pub after: HedgeAfter,
    /// The ids of the twins that may be made: their number is the bound.
    pub twins: Vec<TaskId>,
}

/// The time after which a part gets a twin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum HedgeAfter {
    Ms(u64),
    /// A multiple of the median time of those parts that succeeded, once half of all have.
    Factor(f64),
}

// Checked to be finite where it comes in.
impl Eq for HedgeAfter {}

impl Role {
    /// Returns the scatter, if the task is one.
    pub fn scatter(&self) -> Option<&Arc<ScatterSpec>> {
        match self {
            Self::Scatter(spec) => Some(spec),
            _ => None,
        }
    }

    /// Returns the item that a part or its twin works on, if it has one.
    pub fn item(&self) -> Option<&Item> {
        match self {
            Self::Scatter(_) => None,
            Self::Part { item } | Self::Twin { item, .. } => item.as_ref(),
        }
    }

    /// Returns about how many bytes it takes in a task.
    pub fn bytes(&self) -> usize {
        const ROLE_BYTES: usize = 64;
        const ID_BYTES: usize = 18;
        let rest = match self {
            Self::Scatter(spec) => {
                let twins = spec.hedge.as_ref().map_or(0, |hedge| hedge.twins.len() * ID_BYTES);
                twins + spec.reduce.as_ref().map_or(0, |reduce| reduce.bytes())
            }
            Self::Part { .. } => 0,
            Self::Twin { why, .. } => why.len(),
        };
        ROLE_BYTES + rest + self.item().map_or(0, |item| item.text.len())
    }

    /// Returns the agent that a twin must not run on; `None` for any other role.
    pub fn apart_from(&self) -> Option<AgentId> {
        match self {
            Self::Twin { apart_from, .. } => Some(*apart_from),
            _ => None,
        }
    }
}

/// The state of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartState {
    Open,
    /// The part is in, by this task: the part itself or its twin.
    In(TaskId),
    /// The part failed, as did its twin, if it had one.
    Failed,
}

/// A part of a scatter, with how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub task: TaskId,
    pub twin: Option<TaskId>,
    pub state: PartState,
    /// The number of those that have not ended, of the part and its twin.
    tries: u32,
}

/// The parts that a scatter has gathered and waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gather {
    /// The parts in the order they were given.
    pub parts: Vec<Part>,
    /// The milliseconds that the attempts took that brought parts in, shortest first.
    took_ms: Vec<u64>,
    pub twins: u32,
    /// Whether nothing more is taken in.
    pub closed: bool,
    /// The status in which the reducing task ended.
    pub reduced: Option<TaskStatus>,
}

/// The decision that a scatter is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enough is in, for this reason.
    Close(String),
    Fail(String),
}

/// The numbers of parts by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub arrived: u32,
    pub failed: u32,
    pub open: u32,
}

impl Gather {
    /// Begins with all parts open.
    pub fn new(parts: impl IntoIterator<Item = TaskId>) -> Self {
        let part = |task| Part { task, twin: None, state: PartState::Open, tries: 1 };
        let parts = parts.into_iter().map(part).collect();
        Self { parts, took_ms: Vec::new(), twins: 0, closed: false, reduced: None }
    }

    /// Counts the parts and the twins.
    pub fn tasks(&self) -> usize {
        self.parts.len() + self.twins as usize
    }

    fn part_mut(&mut self, task: TaskId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.task == task || part.twin == Some(task))
    }

    /// Notes that a part or a twin has ended. Returns the one of the two that need not go on.
    pub fn ended(&mut self, task: TaskId, status: TaskStatus, took_ms: u64) -> Option<TaskId> {
        let part = self.part_mut(task)?;
        part.tries = part.tries.saturating_sub(1);
        if part.state != PartState::Open {
            return None;
        }
        if status == TaskStatus::Succeeded {
            part.state = PartState::In(task);
            let other = if part.task == task { part.twin } else { Some(part.task) };
            let at = self.took_ms.partition_point(|other| *other <= took_ms);
            self.took_ms.insert(at, took_ms);
            return other;
        }
        if part.tries == 0 {
            part.state = PartState::Failed;
        }
        None
    }

    /// Notes that a failed part was sent on its way again while others are still open.
    pub fn reopened(&mut self, task: TaskId) {
        if let Some(part) = self.part_mut(task) {
            part.tries += 1;
            if part.state == PartState::Failed {
                part.state = PartState::Open;
            }
        }
    }

    /// Notes that a part has got a twin.
    pub fn twinned(&mut self, task: TaskId, twin: TaskId) {
        if let Some(part) = self.part_mut(task) {
            part.twin = Some(twin);
            part.tries += 1;
            self.twins += 1;
        }
    }

    /// Counts the parts by state.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for part in &self.parts {
            match part.state {
                PartState::In(_) => tally.arrived += 1,
                PartState::Failed => tally.failed += 1,
                PartState::Open => tally.open += 1,
            }
        }
        tally
    }

    /// Decides whether the gathering is over, or never can be what was asked for; `None` while it goes on. `deadline` is its
    /// length in milliseconds if it has passed.
    pub fn verdict(&self, policy: Policy, deadline: Option<u64>) -> Option<Verdict> {
        if self.closed {
            return None;
        }
        let Tally { arrived, failed, open } = self.tally();
        let all = self.parts.len();
        let close = |why: String| Some(Verdict::Close(why));
        let fail = |why: String| Some(Verdict::Fail(why));
        match policy {
            Policy::All if failed > 0 => return fail(format!("{failed} of {all} parts failed, and all are wanted")),
            Policy::AtLeast(wanted) if arrived >= wanted => {
                return close(format!("{arrived} of {all} parts are in, and {wanted} are wanted"));
            }
            Policy::AtLeast(wanted) if arrived + open < wanted => {
                return fail(format!("{failed} of {all} parts failed, and {wanted} are wanted"));
            }
            _ if open > 0 => {}
            Policy::BestEffort if arrived == 0 => return fail(format!("none of {all} parts succeeded")),
            _ => return close(format!("{arrived} of {all} parts are in, and all have ended")),
        }
        let deadline_ms = deadline?;
        let said = format!("{arrived} of {all} parts were in after {deadline_ms} ms (deadlineMs)");
        match policy {
            Policy::BestEffort if arrived > 0 => close(said),
            Policy::All => fail(format!("{said}, and all are wanted")),
            Policy::AtLeast(wanted) => fail(format!("{said}, and {wanted} are wanted")),
            Policy::BestEffort => fail(said),
        }
    }

    /// Returns how many milliseconds an attempt at a part may take before the part deserves a twin, and in words why so long;
    /// `None` while that is not known or no twin may be made any more.
    pub fn hedge_after(&self, hedge: &HedgeSpec) -> Option<(u64, String)> {
        if self.closed || self.twins as usize >= hedge.twins.len() {
            return None;
        }
        match hedge.after {
            HedgeAfter::Ms(ms) => Some((ms, format!("a part gets a twin after {ms} ms"))),
            HedgeAfter::Factor(factor) => {
                if self.took_ms.is_empty() || self.took_ms.len() * 2 < self.parts.len() {
                    return None;
                }
                let median_ms = self.took_ms[(self.took_ms.len() - 1) / 2];
                // A part of no length at all is no reason to double every other.
                let ms = ((median_ms.max(1) as f64 * factor) as u64).max(1);
                Some((ms, format!("a part gets a twin after {ms} ms, {factor} × the median of {median_ms} ms")))
            }
        }
    }

    /// Tells whether a part may get a twin: it is open, and without one.
    pub fn may_twin(&self, task: TaskId) -> bool {
        !self.closed && self.parts.iter().any(|part| part.task == task && part.twin.is_none() && part.state == PartState::Open)
    }

    /// Returns the tasks that brought parts in, in the parts' order.
    pub fn arrived(&self) -> Vec<TaskId> {
        let by = |part: &Part| match part.state {
            PartState::In(by) => Some(by),
            _ => None,
        };
        self.parts.iter().filter_map(by).collect()
    }

    /// Returns the parts that are in this state, in their order.
    pub fn those(&self, state: PartState) -> Vec<TaskId> {
        self.parts.iter().filter(|part| part.state == state).map(|part| part.task).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(parts: u128) -> (Gather, Vec<TaskId>) {
        let ids: Vec<_> = (1..=parts).map(TaskId::from_u128).collect();
        (Gather::new(ids.iter().copied()), ids)
    }

    const OK: TaskStatus = TaskStatus::Succeeded;
    const BAD: TaskStatus = TaskStatus::Dead;

    #[test]
    fn each_policy_closes_and_fails_when_it_says() {
        let (mut of, ids) = gather(3);
        of.ended(ids[0], OK, 10);
        let open = of.clone();
        assert_eq!(open.verdict(Policy::All, None), None);
        assert!(matches!(open.verdict(Policy::All, Some(9)), Some(Verdict::Fail(_))));
        assert!(matches!(open.verdict(Policy::AtLeast(1), None), Some(Verdict::Close(_))));
        assert_eq!(open.verdict(Policy::AtLeast(2), None), None);
        assert!(matches!(open.verdict(Policy::AtLeast(2), Some(9)), Some(Verdict::Fail(_))));
        assert_eq!(open.verdict(Policy::BestEffort, None), None);
        assert!(matches!(open.verdict(Policy::BestEffort, Some(9)), Some(Verdict::Close(_))));
        of.ended(ids[1], BAD, 10);
        assert!(matches!(of.verdict(Policy::All, None), Some(Verdict::Fail(_))));
        assert!(matches!(of.verdict(Policy::AtLeast(3), None), Some(Verdict::Fail(_))));
        assert_eq!(of.verdict(Policy::AtLeast(2), None), None);
        of.ended(ids[2], BAD, 10);
        assert!(matches!(of.verdict(Policy::BestEffort, None), Some(Verdict::Close(_))));
    }

    #[test]
    fn a_part_fails_only_with_its_twin_and_the_first_of_the_two_counts() {
        let (mut of, ids) = gather(2);
        let twin = TaskId::from_u128(9);
        of.twinned(ids[0], twin);
        assert!(!of.may_twin(ids[0]) && of.may_twin(ids[1]));
        assert_eq!(of.ended(ids[0], BAD, 1), None);
        assert_eq!(of.tally().failed, 0);
        assert_eq!(of.ended(twin, OK, 1), Some(ids[0]));
        assert_eq!(of.arrived(), [twin]);
    }

    #[test]
    fn a_factor_counts_once_half_are_in_and_the_bound_is_kept() {
        let (mut of, ids) = gather(4);
        let hedge = HedgeSpec { after: HedgeAfter::Factor(2.0), twins: vec![TaskId::from_u128(9)] };
        of.ended(ids[0], OK, 100);
        assert_eq!(of.hedge_after(&hedge), None);
        of.ended(ids[1], OK, 300);
        assert_eq!(of.hedge_after(&hedge).unwrap().0, 200);
        of.twinned(ids[2], TaskId::from_u128(9));
        assert_eq!(of.hedge_after(&hedge), None);
    }
}
