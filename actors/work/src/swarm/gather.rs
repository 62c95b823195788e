//! Decides what a scatter's parts mean for it: when it has gathered enough, and which part gets a twin.
//!
//! A part of the swarm's state: decides, and applies what is its own. The rules are in `task/scatter.rs`.

use std::sync::Arc;

use hiveward_kernel::id::TaskId;
use hiveward_runtime::clock::WallMs;

use super::{
    event::SwarmEvent,
    state::{Due, Live, Now, Plan, Swarm},
};
use crate::task::{
    scatter::{Gather, PartState, Role, ScatterSpec, Verdict},
    spec::TaskSpec,
    status::TaskStatus,
};

impl Swarm {
    /// Begins a scatter that was just submitted: it gathers those of the same submission that name it their parent.
    pub(super) fn scatter(&mut self, id: TaskId, submitted: &[Arc<TaskSpec>]) {
        let parts: Vec<_> = submitted.iter().filter(|spec| spec.parent_id() == Some(id)).map(|spec| spec.id).collect();
        if let Some(live) = self.live.get_mut(&id) {
            live.status = TaskStatus::Running;
            let gather = Some(Box::new(Gather::new(parts.iter().copied())));
            live.plan = Some(Plan { subtasks: parts, open: 0, failed: Vec::new(), gather });
        }
    }

    fn gathering(&self, id: TaskId) -> Option<(&ScatterSpec, &Gather)> {
        let live = self.live.get(&id)?;
        Some((live.spec.role.as_ref()?.scatter()?, live.plan.as_ref()?.gather.as_deref()?))
    }

    /// Notes that a task of the scatter `scatter` has ended.
    pub(super) fn part_ended(&mut self, scatter: TaskId, task: &Live, status: TaskStatus, at: WallMs, now: Now) {
        let id = task.spec.id;
        let Some(live) = self.live.get_mut(&scatter) else { return };
        let reduces = live
            .spec
            .role
            .as_ref()
            .and_then(Role::scatter)
            .and_then(|spec| spec.reduce.as_ref())
            .is_some_and(|spec| spec.id == id);
        let Some(gather) = live.plan.as_mut().and_then(|plan| plan.gather.as_mut()) else { return };
        if reduces {
            gather.reduced = Some(status);
            self.to_aggregate.push(scatter);
            return;
        }
        if gather.closed {
            return;
        }
        let took_ms = u64::try_from(at.since(task.since).as_millis()).unwrap_or(u64::MAX);
        let hedge = live.spec.role.as_ref().and_then(Role::scatter).and_then(|spec| spec.hedge.as_ref());
        let known = |gather: &Gather| hedge.is_some_and(|hedge| gather.hedge_after(hedge).is_some());
        let before = known(gather);
        let twin = gather.ended(id, status, took_ms);
        // How long is too long is known only now.
        let open = if !before && known(gather) { gather.those(PartState::Open) } else { Vec::new() };
        self.cancel_live(twin, &format!("its twin {id} succeeded first"));
        self.to_gather.push((scatter, false));
        for part in open {
            self.set_timer(part, Due::Hedge, now);
        }
    }

    /// Returns how long the present attempt at a part may take before it gets a twin; `None` for what is no such part.
    pub(super) fn hedge_after(&self, part: &Live) -> Option<(u64, String)> {
        let (Some(Role::Part { .. }), Some(_)) = (&part.spec.role, part.holder) else { return None };
        let (scatter, gather) = self.gathering(part.spec.parent_id()?)?;
        let hedge = scatter.hedge.as_ref().filter(|_| gather.may_twin(part.spec.id))?;
        gather.hedge_after(hedge)
    }

    /// Decides on the twin of a part that takes too long.
    fn hedge(&self, id: TaskId, now: Now) -> Option<SwarmEvent> {
        let part = self.live.get(&id)?;
        let (after_ms, rule) = self.hedge_after(part)?;
        let apart_from = part.holder?;
        let took_ms = now.wall.since(part.since).as_millis();
        if took_ms < u128::from(after_ms) {
            return None;
        }
        let (scatter, gather) = self.gathering(part.spec.parent_id()?)?;
        let twin = *scatter.hedge.as_ref()?.twins.get(gather.twins as usize)?;
        let why = format!("{id} has run for {took_ms} ms on {apart_from}: {rule}");
        let item = part.spec.role.as_ref().and_then(Role::item).cloned();
        let role = Some(Role::Twin { of: id, apart_from, why, item });
        let twin = TaskSpec { id: twin, title: format!("{} (twin)", part.spec.title), role, ..TaskSpec::clone(&part.spec) };
        Some(SwarmEvent::Hedged { task: id, twin: Arc::new(twin) })
    }

    /// Decides whether a scatter is over now.
    fn gather(&self, id: TaskId, deadline: bool) -> Option<SwarmEvent> {
        let (scatter, gather) = self.gathering(id)?;
        match gather.verdict(scatter.policy, scatter.deadline_ms.filter(|_| deadline))? {
            Verdict::Fail(error) => Some(SwarmEvent::Failed { task: id, error, lease: None }),
            Verdict::Close(why) => {
                let arrived = gather.arrived();
                let reduce = scatter
                    .reduce
                    .as_ref()
                    .map(|spec| Arc::new(TaskSpec { depends_on: arrived.clone(), ..TaskSpec::clone(spec) }));
                let (failed, late) = (gather.those(PartState::Failed), gather.those(PartState::Open));
                Some(SwarmEvent::Gathered { task: id, arrived, failed, late, reduce, why })
            }
        }
    }

    /// Takes the scatters that are over.
    pub(super) fn take_gathered(&mut self) -> Vec<SwarmEvent> {
        let to_gather = std::mem::take(&mut self.to_gather);
        to_gather.into_iter().filter_map(|(scatter, deadline)| self.gather(scatter, deadline)).collect()
    }

    /// Takes one twin: the next is decided when this one is part of the state.
    pub(super) fn take_hedged(&mut self, now: Now) -> Option<SwarmEvent> {
        while let Some(part) = self.to_hedge.pop() {
            let hedged = self.hedge(part, now);
            if hedged.is_some() {
                return hedged;
            }
            // Too early by what is known now.
            self.set_timer(part, Due::Hedge, now);
        }
        None
    }

    pub(super) fn apply_hedged(&mut self, part: TaskId, twin: &Arc<TaskSpec>, at: WallMs, now: Now) {
        let Some(principal) = self.live.get(&part).map(|live| live.principal.clone()) else { return };
        let plan = twin.parent_id().and_then(|scatter| self.live.get_mut(&scatter)).and_then(|live| live.plan.as_mut());
        let Some(plan) = plan else { return };
        plan.subtasks.push(twin.id);
        if let Some(gather) = plan.gather.as_mut() {
            gather.twinned(part, twin.id);
        }
        self.insert(twin.clone(), principal, 0, at);
        self.begin(twin.id, true, at, now);
    }

    pub(super) fn apply_gathered(&mut self, id: TaskId, reduce: Option<&Arc<TaskSpec>>, why: &str, at: WallMs, now: Now) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let principal = live.principal.clone();
        let Some(plan) = live.plan.as_mut() else { return };
        let subtasks = plan.subtasks.clone();
        if let Some(gather) = plan.gather.as_mut() {
            gather.closed = true;
        }
        self.cancel_live(subtasks, &format!("late: {why}"));
        let Some(plan) = self.live.get_mut(&id).and_then(|live| live.plan.as_mut()) else { return };
        let Some(reduce) = reduce else {
            self.to_aggregate.push(id);
            return;
        };
        plan.subtasks.push(reduce.id);
        self.insert(reduce.clone(), principal, 0, at);
        self.begin(reduce.id, true, at, now);
    }

    /// Cancels what a task was to be made of, because it is not wanted any more.
    pub(super) fn give_up(&mut self, task: TaskId) {
        if let Some(plan) = self.live.get(&task).and_then(|live| live.plan.as_ref()) {
            self.cancel_live(plan.subtasks.clone(), &format!("{task}, of which it is a part, has ended"));
        }
    }

    /// Marks those of `tasks` that have not ended to be cancelled.
    fn cancel_live(&mut self, tasks: impl IntoIterator<Item = TaskId>, reason: &str) {
        let reason: Arc<str> = reason.into();
        for task in tasks.into_iter().filter(|task| self.live.contains_key(task)) {
            self.to_cancel.entry(task).or_insert_with(|| reason.clone());
        }
    }

    /// Notes that a subtask that had ended is on its way again: who waits for it waits for it once more.
    pub(super) fn reopened(&mut self, spec: &TaskSpec) {
        let plan = spec.parent_id().and_then(|parent| self.live.get_mut(&parent)).and_then(|live| live.plan.as_mut());
        match plan {
            Some(Plan { gather: Some(gather), .. }) => gather.reopened(spec.id),
            Some(plan) => {
                plan.open += 1;
                plan.failed.retain(|task| *task != spec.id);
            }
            None => {}
        }
    }

    /// Says how far a scatter is, in words.
    pub(super) fn explain_scatter(&self, id: TaskId) -> Option<String> {
        let (scatter, gather) = self.gathering(id)?;
        let tally = gather.tally();
        if gather.closed {
            let reduce =
                scatter.reduce.as_ref().map_or_else(String::new, |spec| format!("; waits for {}, which reduces them", spec.id));
            return Some(format!("{} of its {} parts are in{reduce}", tally.arrived, gather.parts.len()));
        }
        let mut said = format!("gathers: {} of {} parts are in, {} open", tally.arrived, gather.parts.len(), tally.open);
        for (count, what) in [(tally.failed, "failed"), (gather.twins, "got a twin")] {
            if count > 0 {
                said.push_str(&format!(", {count} {what}"));
            }
        }
        if let Some((_, rule)) = scatter.hedge.as_ref().and_then(|hedge| gather.hedge_after(hedge)) {
            said.push_str(&format!("; {rule}"));
        }
        Some(said)
    }
}
