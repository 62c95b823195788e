//! Keeps tasks that are ready for an agent, in fair order.
//!
//! Four priorities share the agents 8 : 4 : 2 : 1 by stride scheduling while all have work, so LOW is slow but never starves;
//! within a priority it is first come, first served. Tasks that need the same agent or skills form a class, and a class that
//! cannot be placed now is set aside, so that it never holds up the others.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

use hiveward_catalogue::placement::Strategy;
use hiveward_kernel::id::{AgentId, TaskId};

use crate::task::{scatter::Role, spec::TaskSpec};

/// The needs of tasks: what an agent must be for them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    pub agent: Option<AgentId>,
    pub skills: Vec<Arc<str>>,
    pub strategy: Option<Strategy>,
    /// The agent that must not run the task; others are rather not on its node either.
    pub apart_from: Option<AgentId>,
}

impl Needs {
    /// Returns what an agent must be for this task.
    pub fn of(spec: &TaskSpec) -> Self {
        let mut skills = spec.skills.clone();
        skills.sort_unstable();
        skills.dedup();
        let apart_from = spec.role.as_ref().and_then(Role::apart_from);
        Self { agent: spec.agent, skills, strategy: spec.strategy, apart_from }
    }
}

/// The distances by which one turn moves each priority on; the share of the agents is the inverse.
const STRIDES: [u64; 4] = [1, 2, 4, 8];
const LANES: usize = STRIDES.len();

/// The queue, which holds exactly the tasks that wait: who leaves in any way takes its ticket along. Every step costs what it
/// changes, not what waits.
#[derive(Default)]
pub struct ReadyQueue {
    classes: HashMap<Arc<Needs>, usize>,
    slots: Vec<Class>,
    /// The slots whose class is gone.
    vacant: Vec<usize>,
    /// The first ticket of each class that is not set aside, by lane.
    fronts: [BTreeSet<(u64, usize)>; LANES],
    /// The classes that are set aside, by what an agent must have to be worth a look.
    aside: HashMap<Lack, BTreeSet<usize>>,
    passes: [u64; LANES],
    tasks: usize,
    next_turn: u64,
}

struct Class {
    needs: Arc<Needs>,
    /// The tasks of each lane by turn.
    lanes: [BTreeMap<u64, TaskId>; LANES],
    tasks: usize,
    set_aside: bool,
}

/// The least that an agent must have or be for a class.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Lack {
    Agent(AgentId),
    /// The first of the skills it needs.
    Skill(Arc<str>),
    Nothing,
}

impl Lack {
    fn of(needs: &Needs) -> Self {
        match (needs.agent, needs.skills.first()) {
            (Some(agent), _) => Self::Agent(agent),
            (None, Some(skill)) => Self::Skill(skill.clone()),
            (None, None) => Self::Nothing,
        }
    }
}

/// The place a task took in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// The number of the turn, which counts all that ever came.
    pub turn: u64,
    slot: usize,
    lane: usize,
}

impl ReadyQueue {
    /// Counts the tasks that wait.
    pub fn len(&self) -> usize {
        self.tasks
    }

    /// Counts the kinds of needs that tasks wait with.
    #[cfg(test)]
    fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Adds a task behind those of its priority; returns the ticket that it leaves by.
    pub fn push(&mut self, spec: &TaskSpec) -> Ticket {
        let lane = spec.priority.index();
        if !self.has(lane) {
            // A priority that had nothing to do must not have saved up turns meanwhile.
            let behind = (0..LANES).filter(|&other| self.has(other)).map(|other| self.passes[other]).min();
            self.passes[lane] = self.passes[lane].max(behind.unwrap_or(0));
        }
        let needs = Needs::of(spec);
        let slot = match self.classes.get(&needs) {
            Some(&slot) => slot,
            None => self.add_class(Arc::new(needs)),
        };
        self.next_turn += 1;
        let turn = self.next_turn;
        let class = &mut self.slots[slot];
        let is_first = class.lanes[lane].is_empty();
        class.lanes[lane].insert(turn, spec.id);
        class.tasks += 1;
        if is_first && !class.set_aside {
            self.fronts[lane].insert((turn, slot));
        }
        self.tasks += 1;
        Ticket { turn, slot, lane }
    }

    fn add_class(&mut self, needs: Arc<Needs>) -> usize {
        let class = Class { needs: needs.clone(), lanes: Default::default(), tasks: 0, set_aside: false };
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.slots[slot] = class;
                slot
            }
            None => {
                self.slots.push(class);
                self.slots.len() - 1
            }
        };
        self.classes.insert(needs, slot);
        slot
    }

    fn has(&self, lane: usize) -> bool {
        !self.fronts[lane].is_empty()
    }

    /// Returns the task whose turn it is, with its ticket and its needs; `None` if all that waits is set aside.
    pub fn head(&self) -> Option<(Ticket, TaskId, Arc<Needs>)> {
        let firsts = self.fronts.iter().enumerate().filter_map(|(lane, fronts)| Some((lane, *fronts.first()?)));
        let (lane, (turn, slot)) = firsts.min_by_key(|(lane, front)| (self.passes[*lane], *lane, *front))?;
        let class = &self.slots[slot];
        let task = *class.lanes[lane].get(&turn)?;
        Some((Ticket { turn, slot, lane }, task, class.needs.clone()))
    }

    /// Removes the head, which was placed, and counts the turn of its priority.
    pub fn take(&mut self, head: Ticket) {
        self.leave(head);
        self.passes[head.lane] += STRIDES[head.lane];
    }

    /// Removes a task that does not wait any more; nothing happens if it left before.
    pub fn leave(&mut self, ticket: Ticket) {
        let Ticket { turn, slot, lane } = ticket;
        let Some(class) = self.slots.get_mut(slot) else { return };
        // Turns are given once: in a slot that has another class by now it is not found.
        if class.lanes[lane].remove(&turn).is_none() {
            return;
        }
        class.tasks -= 1;
        self.tasks -= 1;
        if self.fronts[lane].remove(&(turn, slot))
            && let Some((next, _)) = class.lanes[lane].first_key_value()
        {
            self.fronts[lane].insert((*next, slot));
        }
        if class.tasks == 0 {
            let needs = class.needs.clone();
            if std::mem::take(&mut class.set_aside) {
                self.not_aside(slot, &needs);
            }
            self.classes.remove(&needs);
            self.vacant.push(slot);
        }
    }

    fn not_aside(&mut self, slot: usize, needs: &Needs) {
        let lack = Lack::of(needs);
        if let Some(slots) = self.aside.get_mut(&lack) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.aside.remove(&lack);
            }
        }
    }

    /// Sets aside the head's class, which cannot be placed now.
    pub fn set_aside(&mut self, head: Ticket) {
        let class = &mut self.slots[head.slot];
        class.set_aside = true;
        for (lane, tasks) in class.lanes.iter().enumerate() {
            if let Some((turn, _)) = tasks.first_key_value() {
                self.fronts[lane].remove(&(*turn, head.slot));
            }
        }
        self.aside.entry(Lack::of(&class.needs)).or_default().insert(head.slot);
    }

    /// Gives classes that were set aside their turn again, if `fits` says that `agent`, which has a free place and these skills,
    /// could serve them. Classes that need what it does not have are not looked at.
    pub fn reopen<'a>(&mut self, agent: AgentId, skills: impl IntoIterator<Item = &'a Arc<str>>, fits: impl Fn(&Needs) -> bool) {
        let lacks = skills.into_iter().map(|skill| Lack::Skill(skill.clone())).chain([Lack::Agent(agent), Lack::Nothing]);
        for lack in lacks {
            let Some(slots) = self.aside.get(&lack) else { continue };
            let open: Vec<usize> = slots.iter().copied().filter(|slot| fits(&self.slots[*slot].needs)).collect();
            for slot in open {
                let class = &mut self.slots[slot];
                class.set_aside = false;
                for (lane, tasks) in class.lanes.iter().enumerate() {
                    if let Some((turn, _)) = tasks.first_key_value() {
                        self.fronts[lane].insert((*turn, slot));
                    }
                }
                let needs = class.needs.clone();
                self.not_aside(slot, &needs);
            }
        }
    }

    /// Returns the tasks whose turn comes last, the very last first: over all classes, also those that are set aside. Looks at no
    /// more than `max`.
    pub fn newest_first(&self, max: usize) -> Vec<(TaskId, Arc<Needs>)> {
        let mut found = Vec::new();
        for lane in (0..LANES).rev() {
            let mut ends: BinaryHeap<(u64, usize)> = BinaryHeap::new();
            for slot in self.classes.values() {
                ends.extend(self.slots[*slot].lanes[lane].last_key_value().map(|(turn, _)| (*turn, *slot)));
            }
            while let Some((turn, slot)) = ends.pop() {
                if found.len() == max {
                    return found;
                }
                let class = &self.slots[slot];
                if let Some(task) = class.lanes[lane].get(&turn) {
                    found.push((*task, class.needs.clone()));
                }
                ends.extend(class.lanes[lane].range(..turn).next_back().map(|(before, _)| (*before, slot)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{swarm::testing::spec, task::status::Priority};

    fn take_all(queue: &mut ReadyQueue, turns: usize) -> Vec<Priority> {
        (0..turns)
            .map_while(|_| {
                let (ticket, ..) = queue.head()?;
                queue.take(ticket);
                Some(Priority::ALL[ticket.lane])
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
        let (head, first, needs) = queue.head().unwrap();
        assert_eq!((first, needs.skills.len()), (rare.id, 1));
        queue.set_aside(head);
        assert_eq!(queue.head().unwrap().1, common.id);
        let agent = AgentId::new();
        queue.reopen(agent, [], |_| true);
        queue.reopen(agent, &["other".into()], |_| true);
        assert_eq!(queue.head().unwrap().1, common.id, "an agent without the skill changes nothing");
        queue.reopen(agent, &["other".into(), "rare".into()], |_| true);
        assert_eq!(queue.head().unwrap().1, rare.id);
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
        let (head, ..) = queue.head().unwrap();
        queue.set_aside(head);
        let ids = |max| queue.newest_first(max).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(9), [3, 2, 1, 0].map(|n: usize| tasks[n].id));
        assert_eq!(ids(2), [3, 2].map(|n: usize| tasks[n].id));
    }

    #[test]
    fn tasks_that_nobody_can_do_hold_up_nothing_and_leave_nothing_behind() {
        let mut queue = ReadyQueue::default();
        let tickets: Vec<_> =
            (0..50_000).map(|n| queue.push(&spec(|task| task.skills = vec![format!("skill {n}").into()]))).collect();
        let mut looks = 0;
        while let Some((head, ..)) = queue.head() {
            queue.set_aside(head);
            looks += 1;
        }
        assert_eq!(looks, 50_000);
        // Each place that becomes free looks at what its agent could do, and at nothing else.
        let looked = std::cell::Cell::new(0);
        for _ in 0..1_000 {
            queue.reopen(AgentId::new(), &["skill 7".into()], |_| {
                looked.set(looked.get() + 1);
                false
            });
        }
        assert_eq!(looked.get(), 1_000);
        for ticket in &tickets[1..] {
            queue.leave(*ticket);
        }
        assert_eq!((queue.len(), queue.classes(), queue.aside.len(), queue.slots.len()), (1, 1, 1, 50_000));
        // What is vacant is taken again, and a ticket of before means nothing there.
        let again = queue.push(&spec(|task| task.skills = vec!["another".into()]));
        queue.leave(tickets[again.slot]);
        assert_eq!((queue.len(), queue.slots.len(), queue.head().map(|(head, ..)| head)), (2, 50_000, Some(again)));
    }

    #[test]
    fn low_never_starves_though_critical_work_is_added_for_ever() {
        let mut queue = ReadyQueue::default();
        let low = queue.push(&spec(|task| task.priority = Priority::Low));
        for _ in 0..20 {
            queue.push(&spec(|task| task.priority = Priority::Critical));
        }
        let mut turns = 0;
        while queue.head().unwrap().0 != low {
            let (head, ..) = queue.head().unwrap();
            queue.take(head);
            queue.push(&spec(|task| task.priority = Priority::Critical));
            turns += 1;
            assert!(turns < 16, "it starves");
        }
    }

    #[test]
    fn a_task_that_does_not_wait_any_more_is_not_counted_and_never_at_the_head() {
        let mut queue = ReadyQueue::default();
        let gone = queue.push(&spec(|_| {}));
        let stays = spec(|_| {});
        queue.push(&stays);
        queue.leave(gone);
        queue.leave(gone);
        assert_eq!((queue.head().unwrap().1, queue.len()), (stays.id, 1));
    }
}
