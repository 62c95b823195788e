//! Gives tasks that have not begun from one shard of a swarm to another that has free places for them.
//!
//! A part of the swarm's state: decides, and applies what is its own. The shard that gives (the victim) commits `TasksGiven`
//! before the tasks leave, the one that takes (the thief) `TasksTaken` before it says so, and then the first `TransferSettled`.
//! Transfers are numbered for each pair and there is at most one under way, so one number per sibling is all a thief has to
//! remember to take nothing twice, however late a repetition comes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hiveward_kernel::{
    id::{SwarmId, TaskId},
    recent::Recent,
};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};
use serde::{Deserialize, Serialize};

use super::{
    event::SwarmEvent,
    queue::Needs,
    state::{Due, Live, Now, Swarm},
};
use crate::task::{spec::TaskSpec, status::TaskStatus};

/// The most tasks of one transfer; a thief with more free places asks again.
pub const TASKS_PER_TRANSFER_MAX: usize = 256;
/// The most bytes of one transfer, encoded: half of what fits into a message between nodes. A larger task stays where it is.
pub const TRANSFER_BYTES_MAX: usize = 128 << 10;
/// The most kinds of free places that one ask names; agents with further combinations of skills are not asked for.
pub const PLACE_KINDS_MAX: usize = 32;
/// The most waiting tasks that a victim looks at for one ask; if none of them may move, it gives none.
pub const LOOKED_AT_MAX: usize = 1_024;
/// The number of moves after which a task stays where it is.
pub const MOVES_MAX: u8 = 8;
/// The most tasks that moved away and are remembered for those who still ask here; the oldest are forgotten first.
pub const MOVED_KEPT_MAX: usize = 100_000;

/// The ties of a task to its shard. There are none in a swarm that has one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Whether others depend on it, or a client sent it on its way again: who asks for it by what it had to do with others must
    /// find it where that was.
    pub pinned: bool,
    pub moves: u8,
}

impl Bound {
    /// Tells whether nothing ties the task, so that this need not be stored.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The number of free places of agents with these skills, which are in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    pub skills: Vec<Arc<str>>,
    pub places: u32,
}

impl Places {
    fn fit(&self, needs: &Needs) -> bool {
        needs.skills.iter().all(|wanted| self.skills.contains(wanted))
    }
}

/// A task between two shards, or about to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moving {
    pub spec: Arc<TaskSpec>,
    pub principal: Arc<str>,
    pub created_at: WallMs,
    pub moves: u8,
}

impl Moving {
    /// Returns since when it waits for an agent: it never had an attempt, so only its delay came before.
    fn queued_at(&self) -> WallMs {
        self.created_at.plus(Duration::from_millis(self.spec.delay_ms))
    }
}

/// The newest transfer to a sibling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    pub transfer: u64,
    /// The tasks on their way; empty once the transfer is settled.
    pub tasks: Vec<Moving>,
    pub why: Arc<str>,
}

/// The newest transfer of a sibling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub transfer: u64,
    pub refused: bool,
}

/// The transfers of a coordinator with its siblings: one of each way for each of them.
#[derive(Clone, Debug)]
pub struct Transfers {
    given: BTreeMap<SwarmId, Given>,
    taken: BTreeMap<SwarmId, Taken>,
    moved: Recent<TaskId, SwarmId>,
    /// Whether it has a bug, to be found by the simulation.
    #[cfg(test)]
    pub forgets_numbers: bool,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            given: BTreeMap::new(),
            taken: BTreeMap::new(),
            moved: Recent::new(MOVED_KEPT_MAX),
            #[cfg(test)]
            forgets_numbers: false,
        }
    }
}

/// The transfers as a snapshot keeps them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransfersKept {
    given: BTreeMap<SwarmId, Given>,
    taken: BTreeMap<SwarmId, Taken>,
    moved: Vec<(TaskId, SwarmId)>,
}

impl TransfersKept {
    /// Tells whether nothing was ever given or taken.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what a snapshot keeps of these transfers.
    pub fn of(transfers: &Transfers) -> Self {
        let moved = transfers.moved.iter().map(|(task, to)| (*task, *to)).collect();
        Self { given: transfers.given.clone(), taken: transfers.taken.clone(), moved }
    }

    /// Splits this into pieces of at most so many moved tasks; there are none if nothing was ever given.
    pub fn in_pieces(self, tasks_max: usize) -> impl Iterator<Item = Self> {
        let moved: Vec<Vec<_>> = self.moved.chunks(tasks_max).map(<[_]>::to_vec).collect();
        let first = Self { moved: Vec::new(), ..self };
        [first]
            .into_iter()
            .chain(moved.into_iter().map(|moved| Self { moved, ..Self::default() }))
            .filter(|piece| !piece.is_none())
    }

    /// Adds what is here to what there is.
    pub fn restore(self, transfers: &mut Transfers) {
        transfers.given.extend(self.given);
        transfers.taken.extend(self.taken);
        for (task, to) in self.moved {
            transfers.moved.insert(task, to);
        }
    }
}

impl Transfers {
    /// Iterates over the transfers that nobody has said to have taken.
    pub fn under_way(&self) -> impl Iterator<Item = (SwarmId, &Given)> {
        self.given.iter().filter(|(_, given)| !given.tasks.is_empty()).map(|(to, given)| (*to, given))
    }

    /// Returns about how many bytes they take.
    pub fn bytes(&self) -> usize {
        const MOVED_BYTES: usize = 48;
        let under_way: usize = self.under_way().flat_map(|(_, given)| &given.tasks).map(|moving| moving.spec.bytes()).sum();
        under_way + self.moved.len() * MOVED_BYTES
    }

    /// Counts the tasks between this shard and another.
    pub fn tasks_under_way(&self) -> usize {
        self.under_way().map(|(_, given)| given.tasks.len()).sum()
    }

    fn way_of(&self, task: TaskId) -> Option<(SwarmId, &Given)> {
        self.under_way().find(|(_, given)| given.tasks.iter().any(|moving| moving.spec.id == task))
    }
}

/// The decision of a thief on tasks that were sent to it.
#[derive(Debug, PartialEq)]
pub enum Taking {
    New(SwarmEvent),
    /// The transfer was handled before: the same answer again.
    Repeated {
        refused: bool,
    },
}

fn moved_away(task: TaskId, what: &str, to: SwarmId) -> Refused {
    let shard = to.as_u128() & 0xff;
    Refused::new(Code::Unavailable, format!("{task} {what} shard {shard} of its swarm; nothing happened; try again"))
}

impl Swarm {
    /// Returns the places that nothing of this shard's own can use now, by skills; none in a swarm of one shard.
    pub fn free_places(&self) -> Vec<Places> {
        if !self.spec.is_sharded() {
            return Vec::new();
        }
        let running_max = self.spec.running_max_here().map_or(usize::MAX, |max| max as usize);
        let queued_max = self.spec.queued_max_here() as usize;
        let room = running_max.saturating_sub(self.seats.running()).min(queued_max.saturating_sub(self.live.len()));
        self.seats.free_places(&self.spec.weights, room.min(TASKS_PER_TRANSFER_MAX), PLACE_KINDS_MAX)
    }

    /// Tells whether [`free_places`](Self::free_places) would find any.
    pub fn has_free_place(&self) -> bool {
        let running_max = self.spec.running_max_here().map_or(usize::MAX, |max| max as usize);
        self.seats.has_free() && self.seats.running() < running_max && self.live.len() < self.spec.queued_max_here() as usize
    }

    /// Returns why a task waits here and nowhere else, if something in this shard has to do with it.
    fn stays_because(task: &Live) -> Option<&'static str> {
        let spec = &task.spec;
        let reasons = [
            (task.attempt > 0, "it had an attempt"),
            (spec.agent.is_some(), "it names its agent"),
            (!spec.depends_on.is_empty(), "it depends on other tasks"),
            (spec.parent.is_some() || spec.role.is_some() || task.plan.is_some(), "it is a part of a plan or a scatter"),
            (task.bound.pinned, "others depend on it, or it was sent on its way again"),
            (task.bound.moves >= MOVES_MAX, "it has moved often enough"),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why)
    }

    /// Tells whether a task that waits here may as well wait elsewhere.
    fn may_move(task: &Live) -> bool {
        task.status == TaskStatus::Queued && task.ticket.is_some() && Self::stays_because(task).is_none()
    }

    /// Says why a live task is not running, in words, and what other shards may do about it.
    pub fn explain_in_shard(&self, task: TaskId) -> Option<String> {
        let said = self.explain(task)?;
        let waiting = self.live.get(&task).filter(|live| self.spec.is_sharded() && live.ticket.is_some());
        Some(match waiting.map(Self::stays_because) {
            None => said,
            Some(None) => format!("{said}; a shard with an agent free for it takes it over"),
            Some(Some(why)) => format!("{said}; no other shard takes it over, because {why}"),
        })
    }

    /// Decides what this shard gives to a sibling that has these places free: from the end of its queue, so that those who waited
    /// longest keep their turn here. Nothing while an earlier transfer to the same sibling is under way.
    pub fn give(&mut self, to: SwarmId, places: &[Places]) -> Option<SwarmEvent> {
        let before = self.transfers.given.get(&to);
        if !self.spec.is_sibling(to) || before.is_some_and(|given| !given.tasks.is_empty()) {
            return None;
        }
        let transfer = before.map_or(0, |given| given.transfer) + 1;
        let last = self.ready.newest_first(LOOKED_AT_MAX);
        let mut left: Vec<(&Places, u32)> = places.iter().map(|kind| (kind, kind.places)).collect();
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        for (id, needs) in last {
            if tasks.len() == TASKS_PER_TRANSFER_MAX {
                break;
            }
            let Some(task) = self.live.get(&id).filter(|task| Self::may_move(task)) else { continue };
            // The place that can do least else.
            let fitting = left.iter_mut().filter(|(kind, free)| *free > 0 && kind.fit(&needs));
            let Some((_, free)) = fitting.min_by_key(|(kind, _)| kind.skills.len()) else { continue };
            let Ok(size) = rmp_serde::to_vec(&moving(task)).map(|encoded| encoded.len()) else { continue };
            if bytes + size > TRANSFER_BYTES_MAX {
                continue;
            }
            bytes += size;
            *free -= 1;
            tasks.push(id);
        }
        if tasks.is_empty() {
            return None;
        }
        // In the order in which they waited.
        tasks.reverse();
        let waiting = self.ready.len();
        let free: u64 = places.iter().map(|kind| u64::from(kind.places)).sum();
        let (from, taker) = (self.spec.shard, to.as_u128() & 0xff);
        let why = format!("shard {taker} had room for {free} and asked; {waiting} tasks waited for an agent in shard {from}");
        Some(SwarmEvent::TasksGiven { to, transfer, tasks, why })
    }

    /// Decides what becomes of tasks that a sibling sent. `None` if they are not of a sibling. Repeated, the answer is the same.
    pub fn take(&self, from: SwarmId, transfer: u64, tasks: &[Moving], closing: bool) -> Option<Taking> {
        if !self.spec.is_sibling(from) {
            return None;
        }
        match self.transfers.taken.get(&from) {
            Some(taken) if taken.transfer == transfer => Some(Taking::Repeated { refused: taken.refused }),
            // The victim has settled this one long ago: it would not have begun another.
            Some(taken) if taken.transfer > transfer => Some(Taking::Repeated { refused: false }),
            // What was refused goes back into the victim's queue.
            _ if closing => Some(Taking::New(SwarmEvent::TransferRefused { from, transfer })),
            _ => {
                let here = |moving: &Moving| {
                    let spec = Arc::new(TaskSpec { swarm: self.spec.id, ..TaskSpec::clone(&moving.spec) });
                    Moving { spec, ..moving.clone() }
                };
                Some(Taking::New(SwarmEvent::TasksTaken { from, transfer, tasks: tasks.iter().map(here).collect() }))
            }
        }
    }

    /// Decides that a transfer is settled: a sibling says that it took it, or never will (`refused`). Repeated, nothing happens.
    pub fn settled(&self, to: SwarmId, transfer: u64, refused: bool) -> Option<SwarmEvent> {
        let given = self.transfers.given.get(&to)?;
        let open = given.transfer == transfer && !given.tasks.is_empty();
        open.then_some(SwarmEvent::TransferSettled { to, transfer, returned: refused })
    }

    /// Returns why a command about a task that is not live here cannot be served yet: it is between two shards, or at another
    /// one, where the next try finds it. `status` is what is known of it otherwise; what has ended stays where it was.
    pub(super) fn left(&self, task: TaskId, status: Option<TaskStatus>) -> Option<Refused> {
        if !self.spec.is_sharded() || status.is_some_and(TaskStatus::is_terminal) {
            return None;
        }
        if let Some((to, _)) = self.transfers.way_of(task) {
            return Some(moved_away(task, "is on its way to", to));
        }
        if let Some(to) = self.transfers.moved.get(&task) {
            return Some(moved_away(task, "has moved to", *to));
        }
        let message = format!("{task} is not in shard {}; nothing happened; try again", self.spec.shard);
        status.map(|_| Refused::new(Code::Unavailable, message))
    }

    /// Says where a task went that is not here any more, in words.
    pub(super) fn explain_elsewhere(&self, task: TaskId) -> Option<String> {
        if let Some((to, given)) = self.transfers.way_of(task) {
            return Some(format!("it is on its way to shard {}: {}", to.as_u128() & 0xff, given.why));
        }
        self.transfers.moved.get(&task).map(|to| format!("it has moved to shard {}", to.as_u128() & 0xff))
    }

    /// Pins a task: it stays in this shard from now on.
    pub(super) fn pin(&mut self, task: TaskId) {
        if self.spec.is_sharded()
            && let Some(live) = self.live.get_mut(&task)
        {
            live.bound.pinned = true;
        }
    }

    pub(super) fn apply_given(&mut self, to: SwarmId, transfer: u64, tasks: &[TaskId], why: &str) {
        let mut given = Given { transfer, tasks: Vec::with_capacity(tasks.len()), why: why.into() };
        for task in tasks {
            self.leave_queue(*task);
            let Some(task) = self.live.remove(task) else { continue };
            let moving = moving(&task);
            given.tasks.push(Moving { moves: moving.moves.saturating_add(1), ..moving });
        }
        self.transfers.given.insert(to, given);
    }

    pub(super) fn apply_taken(&mut self, from: SwarmId, transfer: u64, tasks: &[Moving], now: Now) {
        self.transfers.taken.insert(from, Taken { transfer, refused: false });
        #[cfg(test)]
        if self.transfers.forgets_numbers {
            self.transfers.taken.remove(&from);
        }
        for task in tasks {
            self.arrived(task, now);
        }
    }

    pub(super) fn apply_refused(&mut self, from: SwarmId, transfer: u64) {
        self.transfers.taken.insert(from, Taken { transfer, refused: true });
    }

    pub(super) fn apply_settled(&mut self, to: SwarmId, transfer: u64, returned: bool, now: Now) {
        let Some(given) = self.transfers.given.get_mut(&to).filter(|given| given.transfer == transfer) else { return };
        for task in std::mem::take(&mut given.tasks) {
            if returned {
                self.arrived(&task, now);
            } else {
                self.transfers.moved.insert(task.spec.id, to);
            }
        }
    }

    /// Queues a task from elsewhere here, for as long as it may still wait.
    fn arrived(&mut self, moving: &Moving, now: Now) {
        let id = moving.spec.id;
        self.transfers.moved.remove(&id);
        self.insert(moving.spec.clone(), moving.principal.clone(), 0, moving.created_at);
        if let Some(task) = self.live.get_mut(&id) {
            task.bound.moves = moving.moves;
        }
        if moving.spec.total_timeout_ms.is_some() {
            self.set_timer(id, Due::TotalTimeout, now);
        }
        self.enqueue(id, moving.queued_at(), now);
    }
}

fn moving(task: &Live) -> Moving {
    Moving { spec: task.spec.clone(), principal: task.principal.clone(), created_at: task.created_at, moves: task.bound.moves }
}
