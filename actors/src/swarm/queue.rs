//! Tasks that are ready for an agent, in fair order.
//!
//! Four priorities share the agents 8 : 4 : 2 : 1 by stride scheduling while all have work, so LOW is slow but never
//! starves; within a priority it is first come, first served. Tasks that need the same agent or skills form a class,
//! and a class that cannot be placed now is set aside, so that it never holds up the others.

use std::{
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    id::{AgentId, TaskId},
    placement::Strategy,
    task::{scatter::Role, spec::TaskSpec, status::Priority},
};

/// What an agent must be for these tasks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    pub agent: Option<AgentId>,
    pub skills: Vec<Arc<str>>,
    pub strategy: Option<Strategy>,
    /// Not this one, and rather not on its node.
    pub apart_from: Option<AgentId>,
}

impl Needs {
    pub fn of(spec: &TaskSpec) -> Self {
        let mut skills = spec.skills.clone();
        skills.sort_unstable();
        skills.dedup();
        let apart_from = spec.role.as_ref().and_then(Role::apart_from);
        Self { agent: spec.agent, skills, strategy: spec.strategy, apart_from }
    }
}

/// How far one turn moves each priority on; the share of the agents is the inverse.
const STRIDES: [u64; 4] = [1, 2, 4, 8];

#[derive(Default)]
pub struct ReadyQueue {
    classes: HashMap<Arc<Needs>, usize>,
    slots: Vec<Class>,
    /// Classes with tasks that are not set aside.
    open: BTreeSet<usize>,
    passes: [u64; 4],
    tasks: usize,
    next_turn: u64,
}

struct Class {
    needs: Arc<Needs>,
    lanes: [VecDeque<(u64, TaskId)>; 4],
    tasks: usize,
    set_aside: bool,
}

/// The place a task took in the queue; an older ticket of the same task is void.
pub type Ticket = u64;

impl ReadyQueue {
    pub fn len(&self) -> usize {
        self.tasks
    }

    pub fn is_empty(&self) -> bool {
        self.tasks == 0
    }

    pub fn push(&mut self, spec: &TaskSpec) -> Ticket {
        let lane = spec.priority.index();
        if !self.has(lane) {
            // A priority that had nothing to do must not have saved up turns meanwhile.
            let behind = (0..4).filter(|&other| self.has(other)).map(|other| self.passes[other]).min();
            self.passes[lane] = self.passes[lane].max(behind.unwrap_or(0));
        }
        let needs = Needs::of(spec);
        let slot = match self.classes.get(&needs) {
            Some(&slot) => slot,
            None => {
                let needs = Arc::new(needs);
                self.slots.push(Class { needs: needs.clone(), lanes: Default::default(), tasks: 0, set_aside: false });
                self.classes.insert(needs, self.slots.len() - 1);
                self.slots.len() - 1
            }
        };
        self.next_turn += 1;
        let class = &mut self.slots[slot];
        class.lanes[lane].push_back((self.next_turn, spec.id));
        class.tasks += 1;
        if !class.set_aside {
            self.open.insert(slot);
        }
        self.tasks += 1;
        self.next_turn
    }

    fn has(&self, lane: usize) -> bool {
        self.open.iter().any(|&slot| !self.slots[slot].lanes[lane].is_empty())
    }

    /// Whose turn it is. `valid` tells a live ticket from that of a task that was cancelled meanwhile.
    pub fn head(&mut self, valid: impl Fn(TaskId, Ticket) -> bool) -> Option<(usize, Priority, TaskId, Arc<Needs>)> {
        loop {
            let mut best: Option<(u64, usize, u64, usize, TaskId)> = None;
            for &slot in &self.open {
                for (lane, tasks) in self.slots[slot].lanes.iter().enumerate() {
                    if let Some(&(ticket, task)) = tasks.front() {
                        let this = (self.passes[lane], lane, ticket, slot, task);
                        if best.is_none_or(|best| this < best) {
                            best = Some(this);
                        }
                    }
                }
            }
            let (_, lane, ticket, slot, task) = best?;
            if valid(task, ticket) {
                return Some((slot, Priority::ALL[lane], task, self.slots[slot].needs.clone()));
            }
            self.drop_front(slot, lane);
        }
    }

    /// The head was placed.
    pub fn take(&mut self, slot: usize, priority: Priority) {
        self.drop_front(slot, priority.index());
        self.passes[priority.index()] += STRIDES[priority.index()];
    }

    /// The head's class cannot be placed now.
    pub fn set_aside(&mut self, slot: usize) {
        self.slots[slot].set_aside = true;
        self.open.remove(&slot);
    }

    /// Something became free: the classes that `fits` says it could serve have their turn again.
    pub fn reopen(&mut self, fits: impl Fn(&Needs) -> bool) {
        for (slot, class) in self.slots.iter_mut().enumerate() {
            if class.set_aside && fits(&class.needs) {
                class.set_aside = false;
                if class.tasks > 0 {
                    self.open.insert(slot);
                }
            }
        }
    }

    /// Those whose turn comes last, the very last first: over all classes, also those that are set aside. Looks at no more
    /// than `max`. Void tickets at the ends are dropped.
    pub fn from_the_end(&mut self, max: usize, valid: impl Fn(TaskId, Ticket) -> bool) -> Vec<(TaskId, Arc<Needs>)> {
        let mut found = Vec::new();
        let mut looked = 0;
        for lane in (0..STRIDES.len()).rev() {
            // The newest of each class; where it is in its lane.
            let mut ends: BinaryHeap<(Ticket, usize, usize)> = BinaryHeap::new();
            for slot in 0..self.slots.len() {
                while let Some(&(ticket, task)) = self.slots[slot].lanes[lane].back() {
                    if valid(task, ticket) {
                        ends.push((ticket, slot, self.slots[slot].lanes[lane].len() - 1));
                        break;
                    }
                    self.drop_back(slot, lane);
                }
            }
            while let Some((ticket, slot, place)) = ends.pop() {
                if looked == max {
                    return found;
                }
                looked += 1;
                let class = &self.slots[slot];
                if let Some(&(_, task)) = class.lanes[lane].get(place)
                    && valid(task, ticket)
                {
                    found.push((task, class.needs.clone()));
                }
                if let Some(before) = place.checked_sub(1)
                    && let Some(&(ticket, _)) = class.lanes[lane].get(before)
                {
                    ends.push((ticket, slot, before));
                }
            }
        }
        found
    }

    fn drop_back(&mut self, slot: usize, lane: usize) {
        let class = &mut self.slots[slot];
        if class.lanes[lane].pop_back().is_some() {
            class.tasks -= 1;
            self.tasks -= 1;
        }
        if class.tasks == 0 {
            self.open.remove(&slot);
        }
    }

    fn drop_front(&mut self, slot: usize, lane: usize) {
        let class = &mut self.slots[slot];
        if class.lanes[lane].pop_front().is_some() {
            class.tasks -= 1;
            self.tasks -= 1;
        }
        if class.tasks == 0 {
            self.open.remove(&slot);
            self.forget_if_many(slot);
        }
    }

    /// Classes are few in practice; one per pinned agent over a long life would not be.
    fn forget_if_many(&mut self, slot: usize) {
        const CLASSES_KEPT_MAX: usize = 1024;
        if self.slots.len() <= CLASSES_KEPT_MAX || slot + 1 != self.slots.len() {
            return;
        }
        while self.slots.len() > CLASSES_KEPT_MAX && self.slots.last().is_some_and(|class| class.tasks == 0) {
            if let Some(class) = self.slots.pop() {
                self.classes.remove(&class.needs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::testing::spec;

    fn take_all(queue: &mut ReadyQueue, turns: usize) -> Vec<Priority> {
        (0..turns)
            .map_while(|_| {
                let (slot, priority, ..) = queue.head(|_, _| true)?;
                queue.take(slot, priority);
                Some(priority)
            })
            .collect()
    }

    #[test]
    fn low_never_starves_while_critical_work_keeps_coming() {
        let mut queue = ReadyQueue::default();
        for _ in 0..1_000 {
            for priority in Priority::ALL {
                queue.push(&spec(|task| task.priority = priority));
            }
        }
        let taken = take_all(&mut queue, 1_500);
        let count = |wanted| taken.iter().filter(|&&p| p == wanted).count();
        assert_eq!(
            [count(Priority::Critical), count(Priority::High), count(Priority::Normal), count(Priority::Low)],
            [800, 400, 200, 100]
        );
        // And never far apart: each LOW turn comes within 15 turns of the last.
        let turns: Vec<_> = taken.iter().enumerate().filter(|(_, p)| **p == Priority::Low).map(|(n, _)| n).collect();
        assert!(turns.windows(2).all(|pair| pair[1] - pair[0] <= 15), "{turns:?}");
    }

    #[test]
    fn a_priority_that_was_idle_has_not_saved_up_turns() {
        let mut queue = ReadyQueue::default();
        for _ in 0..1_000 {
            queue.push(&spec(|task| task.priority = Priority::Critical));
        }
        take_all(&mut queue, 500);
        for _ in 0..100 {
            queue.push(&spec(|task| task.priority = Priority::Low));
        }
        let taken = take_all(&mut queue, 90);
        assert_eq!(taken.iter().filter(|&&p| p == Priority::Low).count(), 10);
    }

    #[test]
    fn a_class_that_cannot_be_placed_does_not_hold_up_the_others() {
        let mut queue = ReadyQueue::default();
        let rare = spec(|task| task.skills = vec!["rare".into()]);
        queue.push(&rare);
        let common = spec(|_| {});
        queue.push(&common);
        let (slot, _, first, needs) = queue.head(|_, _| true).unwrap();
        assert_eq!((first, needs.skills.len()), (rare.id, 1));
        queue.set_aside(slot);
        assert_eq!(queue.head(|_, _| true).unwrap().2, common.id);
        queue.reopen(|needs| !needs.skills.is_empty());
        assert_eq!(queue.head(|_, _| true).unwrap().2, rare.id);
    }

    #[test]
    fn from_the_end_come_the_newest_of_the_lowest_priority_first_whatever_their_class() {
        let mut queue = ReadyQueue::default();
        let tasks: Vec<_> = [(Priority::Normal, "a"), (Priority::Low, "a"), (Priority::Low, "b"), (Priority::Low, "a")]
            .map(|(priority, skill)| {
                spec(|task| {
                    task.priority = priority;
                    task.skills = vec![skill.into()];
                })
            })
            .into();
        for task in &tasks {
            queue.push(task);
        }
        let (slot, ..) = queue.head(|_, _| true).unwrap();
        queue.set_aside(slot);
        let ids =
            |queue: &mut ReadyQueue, max| queue.from_the_end(max, |_, _| true).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(&mut queue, 9), [3, 2, 1, 0].map(|n: usize| tasks[n].id));
        assert_eq!(ids(&mut queue, 2), [3, 2].map(|n: usize| tasks[n].id));
        let left = queue.from_the_end(9, |task, _| task != tasks[3].id && task != tasks[1].id);
        assert_eq!(left.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [tasks[2].id, tasks[0].id]);
        // What is void at an end is gone, so that nobody has to pass it over again.
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_cancelled_tasks_ticket_is_passed_over() {
        let mut queue = ReadyQueue::default();
        let (gone, stays) = (spec(|_| {}), spec(|_| {}));
        queue.push(&gone);
        queue.push(&stays);
        assert_eq!(queue.head(|task, _| task != gone.id).unwrap().2, stays.id);
        assert_eq!(queue.len(), 1);
    }
}
