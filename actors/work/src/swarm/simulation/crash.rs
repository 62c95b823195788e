//! Simulates what a new life begins from, what a crash drops, and what is asked again.
//!
//! What was decided and is not in the ledger is gone with its life, cut wherever an append may be cut, and none of it had left:
//! agents have the leases that are in the ledger, and so have clients their answers. An operation that is repeated, after a crash
//! or not, whether memory or the views know it, has the answer that it had.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hiveward_kernel::{id::TaskId, operation::Operation};

use super::{World, swarm_spec};
use crate::swarm::{
    decide::Decided,
    event::SwarmEvent,
    state::{Remembered, Swarm},
    testing::{self, spec},
};

/// The counts of what the schedules came across.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);
pub static REPEATED: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
enum Kind {
    Submit,
    Cancel(TaskId),
}

struct Asked {
    operation: Operation,
    kind: Kind,
    /// The tasks that its client was told.
    told: Option<Vec<TaskId>>,
}

/// The part of the log that is in the ledger, and what clients know of it.
#[derive(Default)]
pub struct Outside {
    /// The number of events of the log that are in the ledger.
    durable: usize,
    asked: Vec<Asked>,
    /// The answers that leave when so much of the log is in the ledger: of which operation, and what they say.
    answers: Vec<(usize, usize, Vec<TaskId>)>,
}

impl World {
    /// Gives some of what is asked an operation id.
    fn new_operation(&mut self, kind: Kind) -> Option<usize> {
        self.dice.bool().then(|| {
            let n = self.outside.asked.len();
            let operation = Operation { id: format!("op-{n}").into(), input: [n as u8; 16] };
            self.outside.asked.push(Asked { operation, kind, told: None });
            n
        })
    }

    pub(super) fn new_submission(&mut self) -> Option<usize> {
        self.new_operation(Kind::Submit)
    }

    pub(super) fn new_cancellation(&mut self, task: TaskId) -> Option<usize> {
        self.new_operation(Kind::Cancel(task))
    }

    pub(super) fn operation(&self, asked: Option<usize>) -> Option<Operation> {
        asked.map(|asked| self.outside.asked[asked].operation.clone())
    }

    /// Lets an answer leave once all that was decided until now is in the ledger.
    pub(super) fn answer(&mut self, asked: Option<usize>, tasks: Vec<TaskId>) {
        self.outside.answers.extend(asked.map(|asked| (self.log.len(), asked, tasks)));
    }

    /// Returns a place where one append ends and another begins: a plan stays with the end of the attempt that brought it.
    fn some_cut(&mut self) -> usize {
        let mut cut = self.dice.usize(self.outside.durable..=self.log.len());
        while self.log.get(cut).is_some_and(|(_, event)| matches!(event, SwarmEvent::Planned { .. })) {
            cut += 1;
        }
        cut
    }

    pub(super) fn some_becomes_durable(&mut self) {
        let cut = self.some_cut();
        self.becomes_durable(cut);
    }

    pub(super) fn all_becomes_durable(&mut self) {
        self.becomes_durable(self.log.len());
    }

    fn becomes_durable(&mut self, upto: usize) {
        let since = std::mem::replace(&mut self.outside.durable, upto);
        for (_, event) in &self.log[since..upto] {
            if let SwarmEvent::Assigned { lease, .. } = event {
                self.believed.push(*lease);
            }
        }
        let (leave, wait) = std::mem::take(&mut self.outside.answers).into_iter().partition(|(after, ..)| *after <= upto);
        self.outside.answers = wait;
        let leave: Vec<(usize, usize, Vec<TaskId>)> = leave;
        for (_, asked, tasks) in leave {
            let asked = &mut self.outside.asked[asked];
            assert!(asked.told.as_ref().is_none_or(|told| *told == tasks), "{} has two answers", asked.operation.id);
            asked.told = Some(tasks);
        }
    }

    /// Begins a new life, which replays from a snapshot of some moment or from the first event, and is in the same state.
    pub(super) fn restart(&mut self) {
        let cut = if self.dice.bool() { 0 } else { self.settled[self.dice.usize(0..self.settled.len())] };
        let mut before = Swarm::new(swarm_spec());
        for (at, event) in &self.log[..cut] {
            before.apply(event, *at, self.now);
        }
        let mut replayed = testing::written_down(&before, self.dice.bool(), self.now);
        for (at, event) in &self.log[cut..] {
            replayed.apply(event, *at, self.now);
        }
        assert!(replayed.is_settled(), "a new life would end what the old one did not");
        let facts = |swarm: &Swarm| {
            let mut facts: Vec<_> = swarm
                .live_tasks()
                .map(|task| {
                    (
                        task.spec.id,
                        task.status,
                        task.attempt,
                        task.holder,
                        task.waits_for,
                        task.failures,
                        task.losses,
                        task.plan.as_ref().and_then(|plan| plan.gather.clone()),
                    )
                })
                .collect();
            facts.sort_by_key(|fact| fact.0);
            facts
        };
        // A wait that is over is known to the old life only by its timer: let both look at the clock.
        let due = self.swarm.take_due(self.now);
        for event in due {
            self.commit(event.clone());
            replayed.apply(&event, self.now.wall, self.now);
        }
        for event in replayed.take_due(self.now) {
            self.commit(event.clone());
            replayed.apply(&event, self.now.wall, self.now);
        }
        assert_eq!(facts(&self.swarm), facts(&replayed), "a replay differs");
        self.swarm = replayed;
        self.some_seats_are_taken();
    }

    pub(super) fn some_seats_are_taken(&mut self) {
        for (agent, incarnation) in self.agents.clone() {
            if self.dice.u32(0..4) > 0 {
                self.seat(agent, incarnation);
            }
        }
    }

    /// Ends the life, with all that was decided and had not come to the ledger. The next one begins from what had.
    pub(super) fn crash(&mut self) {
        let keep = self.some_cut();
        let log = std::mem::take(&mut self.log);
        DROPPED.fetch_add((log.len() - keep) as u64, Ordering::Relaxed);
        self.swarm = Swarm::new(swarm_spec());
        self.granted.clear();
        self.succeeded.clear();
        self.submitted.clear();
        self.ended.clear();
        self.twins.clear();
        self.redriven.clear();
        self.settled.retain(|at| *at <= keep);
        for (at, event) in log.into_iter().take(keep) {
            self.enter(event, at);
        }
        // Who waited for an answer hears nothing, and asks again.
        self.outside.answers.clear();
        self.becomes_durable(keep);
        for asked in &self.outside.asked {
            let lost = asked.told.iter().flatten().find(|task| !self.submitted.contains(task));
            assert!(lost.is_none(), "{} was acknowledged and {lost:?} is lost", asked.operation.id);
        }
        self.some_seats_are_taken();
    }

    /// Lets go in memory of what the ledger has, as far as the views have it.
    pub(super) fn memory_forgets(&mut self) {
        let upto = self.dice.usize(0..=self.outside.durable);
        for operation in self.log[..upto].iter().filter_map(|(_, event)| event_operation(event)) {
            self.swarm.operations.remove(&operation.id);
        }
    }

    /// Looks up what the views know of an operation that memory does not.
    fn recall(&mut self, operation: &Operation) {
        let known = self.log[..self.outside.durable].iter().find_map(|(_, event)| {
            let tasks = match event {
                SwarmEvent::Submitted { tasks, .. } => tasks.iter().map(|task| task.id).collect(),
                SwarmEvent::Cancelled { task, .. } => vec![*task],
                _ => return None,
            };
            event_operation(event).filter(|known| known.id == operation.id).map(|_| tasks)
        });
        let remembered = |tasks| (operation.id.clone(), Arc::new(Remembered { input: operation.input, tasks }));
        self.swarm.recalled = known.map(remembered);
    }

    pub(super) fn repeat(&mut self) {
        if self.outside.asked.is_empty() {
            return;
        }
        let n = self.dice.usize(0..self.outside.asked.len());
        let Asked { operation, kind, told } = &self.outside.asked[n];
        let (operation, kind, told) = (operation.clone(), *kind, told.clone());
        let applied = self.log.iter().any(|(_, event)| event_operation(event).is_some_and(|known| known.id == operation.id));
        self.recall(&operation);
        let (decided, tasks) = match kind {
            Kind::Submit => {
                let again = Arc::new(spec(|_| {}));
                let id = again.id;
                (self.swarm.submit(vec![again], Some(operation.clone()), "sim".into(), |_| None), vec![id])
            }
            Kind::Cancel(task) => (self.swarm.cancel(task, "sim".into(), Some(operation.clone()), |_| None), vec![task]),
        };
        match decided {
            Ok(Decided::Repeated(tasks)) => {
                REPEATED.fetch_add(1, Ordering::Relaxed);
                assert!(told.is_none_or(|told| told == tasks), "{} has another answer than before", operation.id);
                self.answer(Some(n), tasks);
            }
            Ok(Decided::New(event)) => {
                // One that found nothing to cancel is not remembered: what was sent on its way again since is cancelled.
                let afresh = matches!(kind, Kind::Cancel(task) if self.redriven.contains(&task));
                assert!(!applied && (told.is_none() || afresh), "{} is done a second time", operation.id);
                self.commit(event);
                self.answer(Some(n), tasks);
            }
            // What it was to cancel has ended, or went with the crash.
            Err(refused) => {
                assert!(matches!(kind, Kind::Cancel(_)) && !applied && told.is_none(), "{}: {refused:?}", operation.id);
            }
        }
    }
}

fn event_operation(event: &SwarmEvent) -> Option<&Operation> {
    match event {
        SwarmEvent::Submitted { operation, .. } | SwarmEvent::Cancelled { operation, .. } => operation.as_ref(),
        _ => None,
    }
}
