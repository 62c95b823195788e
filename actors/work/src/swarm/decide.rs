//! Decides what a command or a report means for a swarm: the events it leads to, or why it is refused. Changes nothing but
//! through [`Swarm::apply`].

use std::{cmp::Reverse, sync::Arc};

use hiveward_catalogue::placement;
use hiveward_kernel::{
    id::{AgentId, TaskId},
    lease::Lease,
    operation::{Operation, used_otherwise},
};
use hiveward_runtime::error::{Code, Refused};

use super::{
    event::{Ended, Next, SwarmEvent},
    state::{Due, FREE_LOSSES, Live, Now, Plan, Remembered, Swarm},
};
use crate::task::{
    scatter::Role,
    spec::TaskSpec,
    status::{AttemptStatus, TaskStatus},
};

/// The outcome of a command: something new, or the answer that the same operation was given before.
#[derive(Debug, PartialEq)]
pub enum Decided<T> {
    New(T),
    Repeated(Vec<TaskId>),
}

impl Swarm {
    fn repeated(&self, operation: Option<&Operation>) -> Result<Option<&Arc<Remembered>>, Refused> {
        let Some(operation) = operation else { return Ok(None) };
        let recalled = self.recalled.as_ref().filter(|(id, _)| *id == operation.id).map(|(_, before)| before);
        match self.operations.get(&operation.id).or(recalled) {
            Some(before) if before.input == operation.input => Ok(Some(before)),
            Some(_) => Err(used_otherwise(operation)),
            None => Ok(None),
        }
    }

    /// Decides a submission: all of its tasks are taken or none. `known` tells the status of a task that is not live and was not
    /// ended lately. Repeating the operation repeats the answer.
    /// Errors: the swarm is full, or a task depends on one that is unknown or has failed.
    pub fn submit(
        &self,
        tasks: Vec<Arc<TaskSpec>>,
        operation: Option<Operation>,
        principal: Arc<str>,
        known: impl Fn(TaskId) -> Option<TaskStatus>,
    ) -> Result<Decided<SwarmEvent>, Refused> {
        if let Some(before) = self.repeated(operation.as_ref())? {
            return Ok(Decided::Repeated(before.tasks.clone()));
        }
        let queued_max = self.spec.queued_max_here() as usize;
        // What is under way to another shard may come back.
        let held = self.live.len() + self.transfers.tasks_under_way();
        if held + tasks.len() > queued_max {
            return Err(Refused::new(
                Code::Limit,
                format!(
                    "swarm {} is full: maxQueued is {queued_max} and {held} tasks have not ended; retry later",
                    self.spec.shown(),
                ),
            ));
        }
        for (place, task) in tasks.iter().enumerate() {
            let elsewhere = task.depends_on.iter().filter(|on| !tasks.iter().any(|other| other.id == **on));
            for on in elsewhere {
                self.may_depend_on(*on, &known)
                    .map_err(|refused| Refused { field: Some(format!("tasks.{place}.dependsOn")), ..refused })?;
            }
        }
        Ok(Decided::New(SwarmEvent::Submitted { tasks, operation, principal }))
    }

    /// Checks that a task may depend on another. It starts only after that has succeeded, so that must be under way here or have
    /// succeeded.
    fn may_depend_on(&self, on: TaskId, known: impl Fn(TaskId) -> Option<TaskStatus>) -> Result<(), Refused> {
        if self.live.contains_key(&on) {
            return Ok(());
        }
        let status = self.ended.get(&on).copied().or_else(|| known(on));
        if let Some(refused) = self.left(on, status) {
            return Err(refused);
        }
        match status {
            Some(TaskStatus::Succeeded) => Ok(()),
            Some(status) => Err(Refused::new(Code::Refused, format!("{on} has ended {}; retry it first", status.name()))),
            None => Err(Refused::new(Code::NotFound, format!("there is no task {on} in swarm {}", self.spec.name))),
        }
    }

    /// Decides a cancellation. Cancelling what has ended is refused, except that a cancelled task stays cancelled without
    /// complaint.
    pub fn cancel(
        &self,
        task: TaskId,
        reason: Arc<str>,
        operation: Option<Operation>,
        known: impl Fn(TaskId) -> Option<TaskStatus>,
    ) -> Result<Decided<SwarmEvent>, Refused> {
        if self.repeated(operation.as_ref())?.is_some() {
            return Ok(Decided::Repeated(vec![task]));
        }
        if let Some(live) = self.live.get(&task) {
            return Ok(Decided::New(SwarmEvent::Cancelled { task, reason, lease: live.lease(), operation }));
        }
        let status = self.ended.get(&task).copied().or_else(|| known(task));
        if let Some(refused) = self.left(task, status) {
            return Err(refused);
        }
        match status {
            Some(TaskStatus::Cancelled) => Ok(Decided::Repeated(vec![task])),
            Some(status) => Err(Refused::new(Code::Refused, format!("{task} has already ended {}", status.name()))),
            None => Err(Refused::not_found(task)),
        }
    }

    /// Decides to send an ended task (or one that waits for its next attempt) on its way again as `spec` says.
    /// Errors: its status, its role or a dependency does not allow it.
    pub fn redrive(
        &self,
        spec: Arc<TaskSpec>,
        attempts: u32,
        status: TaskStatus,
        operation: Option<Operation>,
        principal: Arc<str>,
        known: impl Fn(TaskId) -> Option<TaskStatus>,
    ) -> Result<Decided<SwarmEvent>, Refused> {
        if self.repeated(operation.as_ref())?.is_some() {
            return Ok(Decided::Repeated(vec![spec.id]));
        }
        match &spec.role {
            Some(Role::Scatter(_)) => {
                return Err(Refused::new(Code::Refused, format!("{} is a scatter: retry its parts, or scatter again", spec.id)));
            }
            Some(Role::Twin { of, .. }) => {
                return Err(Refused::new(Code::Refused, format!("{} is a twin: retry {of}, whose work it did", spec.id)));
            }
            Some(Role::Part { .. }) | None => {}
        }
        let (status, attempts) = self.live.get(&spec.id).map_or((status, attempts), |live| (live.status, live.attempt));
        match status {
            TaskStatus::Failed | TaskStatus::Dead | TaskStatus::Cancelled | TaskStatus::Retrying => {
                for on in &spec.depends_on {
                    self.may_depend_on(*on, &known).map_err(|refused| {
                        let message = format!("{} depends on another task: {}", spec.id, refused.message);
                        Refused { message, ..refused }
                    })?;
                }
                Ok(Decided::New(SwarmEvent::Redriven { spec, attempts, operation, principal }))
            }
            _ => Err(Refused::new(
                Code::Refused,
                format!("{} is {}; only FAILED, DEAD, CANCELLED and RETRYING tasks can be retried", spec.id, status.name()),
            )),
        }
    }

    /// Returns the task that is held under this lease; a report under a lease that is no longer valid changes nothing.
    fn holder(&self, lease: Lease) -> Option<&Live> {
        self.live.get(&lease.task).filter(|task| task.lease() == Some(lease))
    }

    /// Decides what follows when the lease's holder has begun; nothing if it said so before or the lease is no longer valid.
    pub fn started(&self, lease: Lease) -> Option<SwarmEvent> {
        self.holder(lease).filter(|task| task.status == TaskStatus::Assigned).map(|_| SwarmEvent::Started { lease })
    }

    /// Decides what follows when the work is done and its gate runs; nothing unless the task was running under this lease.
    pub fn verifying(&self, lease: Lease) -> Option<SwarmEvent> {
        self.holder(lease).filter(|task| task.status == TaskStatus::Running).map(|_| SwarmEvent::Verifying { lease })
    }

    /// Decides what follows from the end of an attempt. `plan` is the subtasks, if it succeeded and its result was to be a plan.
    /// `dice` is uniform in 0..1. A late end under an older lease is only noted.
    pub fn attempt_end(&self, lease: Lease, ended: Ended, plan: Option<Vec<Arc<TaskSpec>>>, dice: f64) -> Vec<SwarmEvent> {
        let Some(task) = self.holder(lease) else {
            let late = matches!(ended.status, AttemptStatus::Succeeded | AttemptStatus::Failed | AttemptStatus::TimedOut);
            let of_ours = self.live.contains_key(&lease.task) || self.ended.get(&lease.task).is_some();
            return if late && of_ours { vec![SwarmEvent::StaleRefused { lease, said: ended.status }] } else { Vec::new() };
        };
        // Who cancels ends the task first, and then no lease is valid: this one was stopped by nobody's wish.
        let ended = match ended.status {
            AttemptStatus::Cancelled => Ended { status: AttemptStatus::Lost, retriable: true, ..ended },
            _ => ended,
        };
        let next = match ended.status {
            AttemptStatus::Succeeded if plan.is_some() => Next::Plan,
            AttemptStatus::Succeeded => Next::Succeed,
            AttemptStatus::Lost if task.losses < FREE_LOSSES => Next::Retry { wait_ms: 0 },
            _ if !ended.retriable => Next::Fail,
            _ if task.failures + 1 >= task.spec.retry.attempts_max => Next::Die,
            _ => {
                let wait = task.spec.retry.wait(task.failures + 1, dice);
                Next::Retry { wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) }
            }
        };
        let mut events = vec![SwarmEvent::AttemptEnded { lease, ended, next }];
        if let (Next::Plan, Some(subtasks)) = (next, plan) {
            events.push(SwarmEvent::Planned { task: lease.task, subtasks });
        }
        events
    }

    /// Decides that the attempts an agent held are lost with it, except those under leases that `keep` holds for.
    pub fn lose(&self, agent: AgentId, why: &str, keep: impl Fn(Lease) -> bool) -> Vec<SwarmEvent> {
        let mut lost: Vec<_> =
            self.live.values().filter_map(Live::lease).filter(|lease| lease.agent == agent && !keep(*lease)).collect();
        lost.sort_unstable();
        lost.into_iter().flat_map(|lease| self.attempt_end(lease, lost_end(why), None, 0.0)).collect()
    }

    /// Decides that leases are lost which were given in an older placement of their agent than it is in now.
    pub fn lose_moved(&self, agent: AgentId, placement: u64, why: &str) -> Vec<SwarmEvent> {
        self.lose(agent, why, |lease| {
            self.live.get(&lease.task).is_none_or(|task| task.placement == 0 || task.placement >= placement)
        })
    }

    /// Returns the next lease to grant, if a task and an agent are free. `dice` is uniform in 0..1.
    pub fn next_assignment(&mut self, dice: f64) -> Option<SwarmEvent> {
        if self.spec.running_max_here().is_some_and(|max| self.seats.running() >= max as usize) {
            return None;
        }
        loop {
            let (head, id, needs) = self.ready.head()?;
            let (candidates, left_out) = self.seats.candidates(&needs);
            let strategy = needs.strategy.unwrap_or(self.spec.strategy);
            let Some(decision) = placement::choose(strategy, &self.spec.weights, &candidates, left_out, dice) else {
                self.ready.set_aside(head);
                continue;
            };
            self.ready.take(head);
            let attempt = self.live.get(&id)?.attempt + 1;
            let lease = Lease { task: id, attempt, agent: decision.chosen };
            let placement = self.seats.placement(decision.chosen).unwrap_or(0);
            return Some(SwarmEvent::Assigned { lease, decision: Arc::new(decision), placement });
        }
    }

    /// Returns when something is next due, in monotonic milliseconds.
    pub fn next_due(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes what is due off the clock and returns what it leads to. A wait that is over needs no event: it is put into the
    /// queue, and a replay sees that it is over from the time that has passed.
    pub fn take_due(&mut self, now: Now) -> Vec<SwarmEvent> {
        let mut events = Vec::new();
        while let Some(Reverse((at, id, due, attempt))) = self.timers.peek().copied() {
            if at > now.mono_ms {
                break;
            }
            self.timers.pop();
            let Some(task) = self.live.get(&id) else { continue };
            if task.attempt != attempt && !matches!(due, Due::TotalTimeout | Due::Gather) {
                continue;
            }
            match due {
                Due::Ready if task.delayed => {
                    self.enqueue(id, now.wall, now);
                }
                Due::QueueTimeout if task.ticket.is_some() => {
                    let waited_ms = task.wait_ms.unwrap_or_default();
                    events.push(SwarmEvent::Failed {
                        task: id,
                        error: format!("not started within {waited_ms} ms (queueTimeoutMs)"),
                        lease: None,
                    });
                }
                Due::RunOverdue if task.started => {
                    if let Some(lease) = task.lease() {
                        events.extend(self.attempt_end(
                            lease,
                            lost_end("the agent neither ended nor reported the attempt after its run timeout"),
                            None,
                            0.0,
                        ));
                    }
                }
                Due::Hedge => self.to_hedge.push(id),
                Due::Gather => self.to_gather.push((id, true)),
                Due::TotalTimeout => {
                    let total_ms = task.spec.total_timeout_ms.unwrap_or_default();
                    events.push(SwarmEvent::Failed {
                        task: id,
                        error: format!("not ended within {total_ms} ms (totalTimeoutMs)"),
                        lease: task.lease(),
                    });
                }
                _ => {}
            }
        }
        events
    }

    /// Takes what earlier events lead to in turn: dependants that fail, subtasks that are cancelled. Empty when all is settled.
    pub fn take_consequences(&mut self, now: Now) -> Vec<SwarmEvent> {
        let mut events = Vec::new();
        for (task, (on, status)) in std::mem::take(&mut self.to_fail) {
            if let Some(live) = self.live.get(&task) {
                let error = format!("its dependency {on} ended {}", status.name());
                events.push(SwarmEvent::Failed { task, error, lease: live.lease() });
            }
        }
        for (task, reason) in std::mem::take(&mut self.to_cancel) {
            if let Some(live) = self.live.get(&task) {
                let lease = live.lease();
                events.push(SwarmEvent::Cancelled { task, reason, lease, operation: None });
            }
        }
        // The same task may be named twice; only the first event would find it live.
        let mut named = std::collections::HashSet::new();
        events.retain(|event| event.tasks().first().is_none_or(|task| named.insert(*task)));
        // Each of these looks at a state in which nothing else is under way.
        if events.is_empty() {
            events = self.take_gathered();
            events.retain(|event| event.tasks().first().is_none_or(|task| named.insert(*task)));
        }
        if events.is_empty() {
            events.extend(self.take_hedged(now));
        }
        events
    }

    /// Tells whether no task has still to end because another did.
    pub(super) fn is_settled(&self) -> bool {
        self.to_fail.is_empty() && self.to_cancel.is_empty()
    }

    /// Takes the plans whose subtasks have all ended since the last call, and of which none was sent on its way again.
    pub fn take_plans_to_aggregate(&mut self) -> Vec<TaskId> {
        let mut plans = std::mem::take(&mut self.to_aggregate);
        plans.retain(|task| self.is_to_be_aggregated(*task));
        plans
    }

    /// Tells whether everything has ended that a task's result is made of.
    pub fn is_to_be_aggregated(&self, task: TaskId) -> bool {
        self.live.get(&task).and_then(|live| live.plan.as_ref()).is_some_and(Plan::is_over)
    }
}

/// Returns the end of an attempt that is lost for this reason; another attempt may mend it.
pub fn lost_end(why: &str) -> Ended {
    Ended {
        status: AttemptStatus::Lost,
        exit_code: None,
        signal: None,
        result: None,
        artifacts: Vec::new(),
        error: Some(why.to_owned()),
        retriable: true,
    }
}
