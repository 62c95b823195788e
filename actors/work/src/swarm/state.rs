//! Holds the truth about a swarm's live tasks: decides what a command means and applies what happened.
//!
//! No I/O, clock or dice of its own. Applying the same events gives the same state; the seats, which are not in the ledger, only
//! decide who is offered work next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use hiveward_catalogue::swarm::SwarmSpec;
use hiveward_kernel::{
    id::{AgentId, TaskId},
    lease::Lease,
    operation::OPERATIONS_KEPT_MAX,
    recent::Recent,
};
use hiveward_runtime::{clock::WallMs, op::OperationId};
use serde::{Deserialize, Serialize};

use super::{
    event::{Ended, Next, SwarmEvent},
    lives::Lives,
    queue::{Needs, ReadyQueue, Ticket},
    seat::{Arrival, Seats},
    steal::{Bound, Transfers},
};
use crate::task::{
    scatter::{Gather, Role},
    spec::TaskSpec,
    status::{AttemptStatus, TaskStatus},
};

/// The most ended tasks whose status is still known without asking the views.
pub const ENDED_KEPT_MAX: usize = 100_000;
/// The most bytes that operations in memory take together; see [`Remembered::weight`].
pub const OPERATIONS_BYTES_MAX: usize = 64 << 20;
/// The attempts that may be lost with their agent before a loss counts as a failure.
pub const FREE_LOSSES: u32 = 1;

/// The two clocks at one moment: `wall` for records, `mono_ms` (from any start) for what is due.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub wall: WallMs,
    pub mono_ms: u64,
}

/// A task that has not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Live {
    pub spec: Arc<TaskSpec>,
    pub principal: Arc<str>,
    pub status: TaskStatus,
    pub created_at: WallMs,
    /// The number of dependencies that have not succeeded yet.
    pub waits_for: u32,
    /// The number of the last attempt; 0 before the first.
    pub attempt: u32,
    pub failures: u32,
    pub losses: u32,
    /// The agent that holds the lease of the last attempt, while it is leased.
    pub holder: Option<AgentId>,
    pub started: bool,
    /// The subtasks, once its result was a plan; it then waits for them.
    pub plan: Option<Plan>,
    /// The time when the present wait (delay, retry, queue, run) began; below, how long it may last.
    pub since: WallMs,
    pub wait_ms: Option<u64>,
    /// Whether its delay or its wait for the next attempt is not over.
    pub delayed: bool,
    #[serde(skip)]
    pub ticket: Option<Ticket>,
    /// The placement of the holder when the lease was granted; 0 if that is not known.
    #[serde(default)]
    pub placement: u64,
    /// The ties to its shard; last, and absent from what is stored where there is one shard.
    #[serde(default, skip_serializing_if = "Bound::is_none")]
    pub bound: Bound,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    pub subtasks: Vec<TaskId>,
    pub open: u32,
    /// The subtasks that ended otherwise than by success.
    pub failed: Vec<TaskId>,
    /// The parts of a scatter, which counts for itself.
    #[serde(default)]
    pub gather: Option<Box<Gather>>,
}

impl Plan {
    /// Tells whether everything is there that its result is made of.
    pub fn is_over(&self) -> bool {
        match &self.gather {
            Some(gather) => gather.closed && (gather.reduced.is_some() || self.subtasks.len() == gather.tasks()),
            None => self.open == 0,
        }
    }
}

impl Live {
    /// Returns about how many bytes it takes with its spec and its plan.
    pub fn bytes(&self) -> usize {
        const LIVE_BYTES: usize = 256;
        const PART_BYTES: usize = 64;
        let parts = self.plan.as_ref().map_or(0, |plan| plan.subtasks.len() + plan.failed.len());
        LIVE_BYTES + self.spec.bytes() + parts * PART_BYTES
    }

    pub fn lease(&self) -> Option<Lease> {
        self.holder.map(|agent| Lease { task: self.spec.id, attempt: self.attempt, agent })
    }
}

/// The reason why a timer was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A delay or a retry's wait is over.
    Ready,
    QueueTimeout,
    /// The agent should have ended the attempt long ago.
    RunOverdue,
    TotalTimeout,
    /// A part of a scatter may deserve a twin.
    Hedge,
    /// A scatter's deadline.
    Gather,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    #[serde(with = "serde_bytes")]
    pub input: [u8; 16],
    pub tasks: Vec<TaskId>,
}

impl Remembered {
    /// Returns about how many bytes it takes in memory with its name, `id`.
    pub fn weight(&self, id: &OperationId) -> usize {
        const ENTRY_BYTES: usize = 128;
        ENTRY_BYTES + id.len() + self.tasks.len() * size_of::<TaskId>()
    }
}

pub struct Swarm {
    pub spec: Arc<SwarmSpec>,
    pub(super) live: Lives,
    pub(super) dependents: HashMap<TaskId, Vec<TaskId>>,
    pub(super) ended: Recent<TaskId, TaskStatus>,
    pub(super) operations: Recent<OperationId, Arc<Remembered>>,
    /// The operation that the views remember, while what it is about is decided.
    pub(super) recalled: Option<(OperationId, Arc<Remembered>)>,
    pub(super) ready: ReadyQueue,
    pub(super) seats: Seats,
    pub(super) timers: BinaryHeap<Reverse<(u64, TaskId, Due, u32)>>,
    /// The plans whose subtasks have all ended, to be aggregated.
    pub(super) to_aggregate: Vec<TaskId>,
    /// The live dependants of a task that failed, with that task and its end; to be failed in turn. They are live also on replay:
    /// who has failed since and was sent on its way again must not fail once more.
    pub(super) to_fail: BTreeMap<TaskId, (TaskId, TaskStatus)>,
    /// The live subtasks of a plan that was given up, to be cancelled in turn.
    pub(super) to_cancel: BTreeMap<TaskId, Arc<str>>,
    /// The scatters of which something has ended; the flag tells whether their deadline has passed.
    pub(super) to_gather: Vec<(TaskId, bool)>,
    /// The parts that may deserve a twin now.
    pub(super) to_hedge: Vec<TaskId>,
    /// The transfers with the other shards of the swarm.
    pub(super) transfers: Transfers,
}

impl Swarm {
    pub fn new(spec: Arc<SwarmSpec>) -> Self {
        Self {
            spec,
            live: Lives::default(),
            dependents: HashMap::new(),
            ended: Recent::new(ENDED_KEPT_MAX),
            operations: Recent::weighed(usize::MAX, usize::MAX),
            recalled: None,
            ready: ReadyQueue::default(),
            seats: Seats::default(),
            timers: BinaryHeap::new(),
            to_aggregate: Vec::new(),
            to_fail: BTreeMap::new(),
            to_cancel: BTreeMap::new(),
            to_gather: Vec::new(),
            to_hedge: Vec::new(),
            transfers: Transfers::default(),
        }
    }

    pub fn live(&self, task: TaskId) -> Option<&Live> {
        self.live.get(&task)
    }

    pub fn live_tasks(&self) -> impl ExactSizeIterator<Item = &Live> {
        self.live.values()
    }

    /// Seats an agent that holds `holds`; returns false if a newer life of it is seated.
    pub fn seat(&mut self, arrival: Arrival, holds: impl IntoIterator<Item = TaskId>) -> bool {
        let (agent, weights) = (arrival.agent, self.spec.weights);
        let seated = self.seats.arrive(arrival, holds, &weights);
        if seated {
            self.reopen(agent);
        }
        seated
    }

    pub fn unseat(&mut self, agent: AgentId, incarnation: u64) -> bool {
        self.seats.depart(agent, incarnation)
    }

    /// Returns the incarnation in which an agent is seated.
    pub fn seated(&self, agent: AgentId) -> Option<u64> {
        self.seats.incarnation(agent)
    }

    /// Takes the seat from a life of the agent in an older placement; returns whether there was one.
    pub fn seats_before(&mut self, agent: AgentId, placement: u64) -> bool {
        let older = self.seats.placement(agent).is_some_and(|seated| seated < placement);
        older && self.seats.incarnation(agent).is_some_and(|incarnation| self.seats.depart(agent, incarnation))
    }

    /// Frees the place of an attempt that is over at its agent, whatever it was worth, unless a newer attempt took it.
    pub fn free_place(&mut self, lease: Lease) {
        let newer = self.live.get(&lease.task).and_then(Live::lease).is_some_and(|held| held.agent == lease.agent);
        if !newer {
            let weights = self.spec.weights;
            self.released(lease, &weights);
        }
    }

    /// Says why a live task is not running, in words.
    pub fn explain(&self, task: TaskId) -> Option<String> {
        let Some(live) = self.live.get(&task) else { return self.explain_elsewhere(task) };
        if let Some(plan) = &live.plan {
            if plan.gather.is_some() {
                return self.explain_scatter(task);
            }
            return Some(format!("waits for {} of its {} subtasks", plan.open, plan.subtasks.len()));
        }
        live.ticket?;
        let needs = Needs::of(&live.spec);
        if let Some(max) = self.spec.running_max_here()
            && self.seats.running() >= max as usize
        {
            return Some(format!("swarm {} runs {max} attempts, its runningMax", self.spec.shown()));
        }
        if !self.seats.anyone_fits(&needs) {
            let skills: Vec<_> = needs.skills.iter().map(|skill| &**skill).collect();
            return Some(match needs.agent {
                Some(agent) => format!("{agent} is not ready"),
                None if self.seats.is_empty() => format!("no agent of swarm {} is ready", self.spec.shown()),
                None => format!("no ready agent of swarm {} has all the skills: {}", self.spec.shown(), skills.join(", ")),
            });
        }
        Some(format!(
            "every agent that could take it is at its load limit; {} tasks are ready in swarm {}",
            self.ready.len(),
            self.spec.shown()
        ))
    }

    pub fn counts(&self) -> (usize, usize, usize, usize) {
        (self.live.len(), self.ready.len(), self.seats.running(), self.seats.len())
    }

    /// Makes `event`, which happened at `at`, part of the state. `now` is when it is applied: later, on replay.
    pub fn apply(&mut self, event: &SwarmEvent, at: WallMs, now: Now) {
        match event {
            SwarmEvent::Submitted { tasks, operation, principal } => {
                if let Some(operation) = operation {
                    let tasks = tasks.iter().map(|spec| spec.id).collect();
                    self.remember_as(operation.id.clone(), Remembered { input: operation.input, tasks });
                }
                for spec in tasks {
                    self.insert(spec.clone(), principal.clone(), 0, at);
                }
                for scatter in tasks.iter().filter(|spec| spec.role.as_ref().is_some_and(|role| role.scatter().is_some())) {
                    self.scatter(scatter.id, tasks);
                }
                for spec in tasks {
                    self.begin(spec.id, true, at, now);
                }
            }
            SwarmEvent::Assigned { lease, placement, .. } => {
                let weights = self.spec.weights;
                self.leave_queue(lease.task);
                if let Some(task) = self.live.get_mut(&lease.task) {
                    task.status = TaskStatus::Assigned;
                    task.attempt = lease.attempt;
                    task.holder = Some(lease.agent);
                    task.placement = *placement;
                    task.started = false;
                    task.delayed = false;
                    task.since = at;
                    task.wait_ms = None;
                    self.seats.hold(lease.agent, lease.task, &weights);
                    self.set_timer(lease.task, Due::Hedge, now);
                }
            }
            SwarmEvent::Started { lease } => {
                if let Some(task) = self.leased_mut(*lease) {
                    task.status = TaskStatus::Running;
                    task.started = true;
                    task.since = at;
                    // The agent ends an attempt at its run timeout; this is for an agent that does not.
                    task.wait_ms = task.spec.run_timeout_ms.map(|run_ms| run_ms.saturating_add(RUN_OVERDUE_MS));
                    self.set_timer(lease.task, Due::RunOverdue, now);
                    self.set_timer(lease.task, Due::Hedge, now);
                }
            }
            SwarmEvent::Verifying { lease } => {
                if let Some(task) = self.leased_mut(*lease) {
                    task.status = TaskStatus::Verifying;
                }
            }
            SwarmEvent::AttemptEnded { lease, ended, next } => self.attempt_ended(*lease, ended, *next, at, now),
            SwarmEvent::Planned { task, subtasks } => {
                let Some(planner) = self.live.get_mut(task) else { return };
                planner.plan = Some(Plan {
                    subtasks: subtasks.iter().map(|spec| spec.id).collect(),
                    open: u32::try_from(subtasks.len()).unwrap_or(u32::MAX),
                    failed: Vec::new(),
                    gather: None,
                });
                let principal = planner.principal.clone();
                for spec in subtasks {
                    self.insert(spec.clone(), principal.clone(), 0, at);
                }
                for spec in subtasks {
                    self.begin(spec.id, true, at, now);
                }
                if subtasks.is_empty() {
                    self.to_aggregate.push(*task);
                }
            }
            SwarmEvent::Hedged { task, twin } => self.apply_hedged(*task, twin, at, now),
            SwarmEvent::Gathered { task, reduce, why, .. } => self.apply_gathered(*task, reduce.as_ref(), why, at, now),
            SwarmEvent::Aggregated { task, error, .. } => {
                let status = if error.is_none() { TaskStatus::Succeeded } else { TaskStatus::Failed };
                self.end(*task, status, at, now);
            }
            SwarmEvent::Cancelled { task, operation, .. } => {
                self.remember(operation.as_ref(), *task);
                self.give_up(*task);
                self.end(*task, TaskStatus::Cancelled, at, now);
            }
            SwarmEvent::Failed { task, .. } => {
                self.give_up(*task);
                self.end(*task, TaskStatus::Failed, at, now);
            }
            SwarmEvent::Redriven { spec, attempts, operation, principal } => {
                self.remember(operation.as_ref(), spec.id);
                self.leave_queue(spec.id);
                self.live.respec(spec.id, spec.clone());
                match self.live.get_mut(&spec.id) {
                    // Its wait for the next attempt is cut short.
                    Some(task) => {
                        task.status = TaskStatus::Pending;
                        task.delayed = false;
                    }
                    None => {
                        self.ended.remove(&spec.id);
                        self.insert(spec.clone(), principal.clone(), *attempts, at);
                        self.reopened(spec);
                    }
                }
                self.pin(spec.id);
                self.begin(spec.id, false, at, now);
            }
            SwarmEvent::StaleRefused { .. } => {}
            SwarmEvent::TasksGiven { to, transfer, tasks, why } => self.apply_given(*to, *transfer, tasks, why),
            SwarmEvent::TasksTaken { from, transfer, tasks } => self.apply_taken(*from, *transfer, tasks, now),
            SwarmEvent::TransferRefused { from, transfer } => self.apply_refused(*from, *transfer),
            SwarmEvent::TransferSettled { to, transfer, returned } => self.apply_settled(*to, *transfer, *returned, now),
        }
    }

    fn remember(&mut self, operation: Option<&hiveward_kernel::operation::Operation>, task: TaskId) {
        if let Some(operation) = operation {
            self.remember_as(operation.id.clone(), Remembered { input: operation.input, tasks: vec![task] });
        }
    }

    pub(super) fn remember_as(&mut self, id: OperationId, remembered: Remembered) {
        let weight = remembered.weight(&id);
        self.operations.insert_weighing(id, Arc::new(remembered), weight);
    }

    /// Tells whether no further operation may be remembered before some are forgotten.
    pub fn operations_are_full(&self) -> bool {
        self.operations.len() >= OPERATIONS_KEPT_MAX || self.operations.weight() >= OPERATIONS_BYTES_MAX
    }

    fn leased_mut(&mut self, lease: Lease) -> Option<&mut Live> {
        self.live.get_mut(&lease.task).filter(|task| task.lease() == Some(lease))
    }

    pub(super) fn insert(&mut self, spec: Arc<TaskSpec>, principal: Arc<str>, attempts: u32, at: WallMs) {
        self.live.insert(
            spec.id,
            Live {
                spec,
                principal,
                status: TaskStatus::Pending,
                created_at: at,
                waits_for: 0,
                attempt: attempts,
                failures: 0,
                losses: 0,
                holder: None,
                started: false,
                plan: None,
                since: at,
                wait_ms: None,
                delayed: false,
                ticket: None,
                placement: 0,
                bound: Bound::default(),
            },
        );
    }

    /// Sends a task that is new or redriven on its way: to wait for dependencies, for its delay, or for an agent.
    pub(super) fn begin(&mut self, id: TaskId, delay: bool, at: WallMs, now: Now) {
        let Some(task) = self.live.get(&id) else { return };
        let spec = task.spec.clone();
        let mut waits_for = 0;
        for on in &spec.depends_on {
            // What is neither live nor in this submission has succeeded: anything else was refused.
            if self.live.contains_key(on) {
                waits_for += 1;
                self.dependents.entry(*on).or_default().push(id);
                self.pin(*on);
            }
        }
        let Some(task) = self.live.get_mut(&id) else { return };
        task.waits_for = waits_for;
        task.since = at;
        if spec.total_timeout_ms.is_some() {
            self.set_timer(id, Due::TotalTimeout, now);
        }
        if spec.role.as_ref().is_some_and(|role| role.scatter().is_some()) {
            self.set_timer(id, Due::Gather, now);
            return;
        }
        if waits_for == 0 {
            let delay_ms = if delay { spec.delay_ms } else { 0 };
            self.delay_or_queue(id, delay_ms, TaskStatus::Queued, at, now);
        }
    }

    fn delay_or_queue(&mut self, id: TaskId, wait_ms: u64, waiting: TaskStatus, at: WallMs, now: Now) {
        self.leave_queue(id);
        let Some(task) = self.live.get_mut(&id) else { return };
        task.holder = None;
        task.since = at;
        if wait_ms == 0 {
            self.enqueue(id, at, now);
        } else {
            task.status = waiting;
            task.wait_ms = Some(wait_ms);
            task.delayed = true;
            self.set_timer(id, Due::Ready, now);
        }
    }

    /// Puts a task into the queue now. Also called, without an event of its own, when a wait is over.
    pub(super) fn enqueue(&mut self, id: TaskId, at: WallMs, now: Now) {
        self.leave_queue(id);
        let Some(task) = self.live.get_mut(&id) else { return };
        task.status = TaskStatus::Queued;
        task.delayed = false;
        task.since = at;
        task.wait_ms = task.spec.queue_timeout_ms;
        task.ticket = Some(self.ready.push(&task.spec));
        self.set_timer(id, Due::QueueTimeout, now);
    }

    fn attempt_ended(&mut self, lease: Lease, ended: &Ended, next: Next, at: WallMs, now: Now) {
        let weights = self.spec.weights;
        self.released(lease, &weights);
        let tally = self.seats.tallies.entry(lease.agent).or_default();
        match ended.status {
            AttemptStatus::Succeeded => tally.succeeded += 1,
            AttemptStatus::Failed | AttemptStatus::TimedOut => tally.failed += 1,
            _ => {}
        }
        let Some(task) = self.leased_mut(lease) else { return };
        task.holder = None;
        task.wait_ms = None;
        match ended.status {
            AttemptStatus::Lost if task.losses < FREE_LOSSES => task.losses += 1,
            AttemptStatus::Succeeded => {}
            _ => task.failures += 1,
        }
        match next {
            Next::Succeed => self.end(lease.task, TaskStatus::Succeeded, at, now),
            Next::Fail => self.end(lease.task, TaskStatus::Failed, at, now),
            Next::Die => self.end(lease.task, TaskStatus::Dead, at, now),
            // `Planned` follows in the same commit.
            Next::Plan => task.status = TaskStatus::Running,
            Next::Retry { wait_ms } => self.delay_or_queue(lease.task, wait_ms, TaskStatus::Retrying, at, now),
        }
    }

    /// Frees the agent's place; classes it could serve have their turn again.
    pub(super) fn released(&mut self, lease: Lease, weights: &hiveward_catalogue::placement::Weights) {
        if self.seats.release(lease.agent, lease.task, weights) {
            self.reopen(lease.agent);
        }
    }

    fn reopen(&mut self, agent: AgentId) {
        let seats = &self.seats;
        self.ready.reopen(agent, seats.skills(agent), |needs| seats.can(agent, needs));
    }

    /// Takes a task out of the queue: it does not wait for an agent any more.
    pub(super) fn leave_queue(&mut self, task: TaskId) {
        // Looked at first: what a cut holds is not copied for nothing.
        if let Some(ticket) = self.live.get(&task).and_then(|live| live.ticket) {
            self.ready.leave(ticket);
            if let Some(live) = self.live.get_mut(&task) {
                live.ticket = None;
            }
        }
    }

    fn end(&mut self, id: TaskId, status: TaskStatus, at: WallMs, now: Now) {
        self.leave_queue(id);
        let Some(task) = self.live.remove(&id) else { return };
        self.ended.insert(id, status);
        self.to_fail.remove(&id);
        self.to_cancel.remove(&id);
        for dependant in self.dependents.remove(&id).unwrap_or_default() {
            let Some(waiting) = self.live.get_mut(&dependant) else { continue };
            if status != TaskStatus::Succeeded {
                self.to_fail.entry(dependant).or_insert((id, status));
                continue;
            }
            waiting.waits_for = waiting.waits_for.saturating_sub(1);
            if waiting.waits_for == 0 && waiting.status == TaskStatus::Pending {
                let delay_ms = waiting.spec.delay_ms;
                self.delay_or_queue(dependant, delay_ms, TaskStatus::Queued, at, now);
            }
        }
        if let Some((parent, _)) = &task.spec.parent
            && let Some(plan) = self.live.get_mut(parent).and_then(|live| live.plan.as_mut())
        {
            if plan.gather.is_some() {
                self.part_ended(*parent, &task, status, at, now);
                return;
            }
            plan.open = plan.open.saturating_sub(1);
            if status != TaskStatus::Succeeded {
                plan.failed.push(id);
            }
            if plan.open == 0 {
                self.to_aggregate.push(*parent);
            }
        }
    }

    pub(super) fn set_timer(&mut self, id: TaskId, due: Due, now: Now) {
        let Some(task) = self.live.get(&id) else { return };
        let (since, wait_ms) = match due {
            Due::TotalTimeout => (task.created_at, task.spec.total_timeout_ms),
            Due::Gather => {
                let scatter = task.spec.role.as_ref().and_then(Role::scatter);
                (task.created_at, scatter.and_then(|scatter| scatter.deadline_ms))
            }
            Due::Hedge => (task.since, self.hedge_after(task).map(|(after_ms, _)| after_ms)),
            _ => (task.since, task.wait_ms),
        };
        let Some(wait_ms) = wait_ms else { return };
        // What has passed by the wall clock counts, within 0 and the whole: a clock that jumped can do no more harm.
        let passed_ms = now.wall.since(since).min(Duration::from_millis(wait_ms)).as_millis() as u64;
        self.timers.push(Reverse((now.mono_ms + (wait_ms - passed_ms), id, due, task.attempt)));
    }
}

/// The milliseconds beyond its run timeout that an agent may take to stop and report an attempt.
pub const RUN_OVERDUE_MS: u64 = 60_000;
