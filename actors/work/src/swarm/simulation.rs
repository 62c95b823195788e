//! Plays thousands of seeded schedules over the pure core: agents that come, go, lie late and repeat themselves, clients that
//! submit and cancel, restarts and crashes at any moment. Prints the seed that fails; `HIVEWARD_SEED` runs it alone.

mod crash;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hiveward_catalogue::{
    placement::{Strategy, Weights},
    swarm::SwarmSpec,
};
use hiveward_kernel::{
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
};
use hiveward_runtime::{clock::WallMs, op::NodeId};

use super::{
    event::{Ended, SwarmEvent},
    seat::Arrival,
    state::{Now, Swarm},
    testing::spec,
};
use crate::task::{
    retry::RetryPolicy,
    scatter::{HedgeAfter, HedgeSpec, Policy, Role, ScatterSpec},
    spec::{Aggregate, PlanSpec, TaskSpec},
    status::{AttemptStatus, Priority, TaskStatus},
};
use crash::{DROPPED, Outside, REPEATED};

const SCHEDULES: u64 = 2_000;
const STEPS: usize = 120;

struct World {
    dice: fastrand::Rng,
    swarm: Swarm,
    /// The events that were committed, with their times.
    log: Vec<(WallMs, SwarmEvent)>,
    /// The lengths of the log at which all that followed was in it: where a batch ends, and a snapshot can be taken.
    settled: Vec<usize>,
    now: Now,
    agents: HashMap<AgentId, u64>,
    /// The leases that agents believe they hold, valid or not.
    believed: Vec<Lease>,
    submitted: Vec<TaskId>,
    ended: HashMap<TaskId, TaskStatus>,
    succeeded: HashSet<TaskId>,
    granted: HashSet<(TaskId, u32)>,
    /// The policy of each scatter, and the number of its parts.
    scatters: HashMap<TaskId, (Policy, usize)>,
    twins: HashMap<TaskId, TaskId>,
    redriven: HashSet<TaskId>,
    outside: Outside,
}

fn swarm_spec() -> Arc<SwarmSpec> {
    Arc::new(SwarmSpec {
        id: SwarmId::from_u128(1),
        name: "sim".into(),
        topology: Default::default(),
        strategy: Strategy::Skill,
        weights: Weights::default(),
        queued_max: 1_000,
        running_max: None,
        node_labels: Default::default(),
        node: None,
        shards: 1,
        shard: 0,
    })
}

fn outcome(status: AttemptStatus, retriable: bool) -> Ended {
    Ended { status, exit_code: None, signal: None, result: None, artifacts: Vec::new(), error: None, retriable }
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Now { wall: WallMs(1_000_000), mono_ms: 0 };
        Self {
            dice: fastrand::Rng::with_seed(seed),
            swarm: Swarm::new(swarm_spec()),
            log: Vec::new(),
            settled: vec![0],
            now,
            agents: HashMap::new(),
            believed: Vec::new(),
            submitted: Vec::new(),
            ended: HashMap::new(),
            succeeded: HashSet::new(),
            granted: HashSet::new(),
            scatters: HashMap::new(),
            twins: HashMap::new(),
            redriven: HashSet::new(),
            outside: Outside::default(),
        }
    }

    fn ended_of(&self, task: TaskId) -> Option<TaskStatus> {
        self.swarm.ended.get(&task).copied()
    }

    fn commit(&mut self, event: SwarmEvent) {
        self.enter(event, self.now.wall);
    }

    /// Makes an event part of the state and of what must hold, as it happened at `at`.
    fn enter(&mut self, event: SwarmEvent, at: WallMs) {
        match &event {
            SwarmEvent::Submitted { tasks, .. } | SwarmEvent::Planned { subtasks: tasks, .. } => {
                self.submitted.extend(tasks.iter().map(|spec| spec.id));
            }
            SwarmEvent::Assigned { lease, .. } => {
                assert!(self.granted.insert((lease.task, lease.attempt)), "{lease:?} was granted twice");
                assert!(self.swarm.live(lease.task).is_some_and(|task| task.lease().is_none()), "{lease:?} beside another lease");
                let role = self.swarm.live(lease.task).and_then(|task| task.spec.role.as_ref());
                assert_ne!(role.and_then(Role::apart_from), Some(lease.agent), "a twin beside its part");
                assert!(role.is_none_or(|role| role.scatter().is_none()), "a scatter was given to an agent");
            }
            SwarmEvent::Hedged { task, twin } => {
                assert!(self.twins.insert(*task, twin.id).is_none(), "{task} got a second twin");
                assert!(self.swarm.live(*task).is_some_and(|part| part.lease().is_some()), "{task} needs no twin");
                self.submitted.push(twin.id);
            }
            SwarmEvent::Gathered { task, arrived, failed, late, reduce, .. } => {
                assert!(arrived.iter().all(|part| self.ended_of(*part) == Some(TaskStatus::Succeeded)), "{arrived:?}");
                let enough = match self.scatters[task].0 {
                    Policy::All => failed.is_empty() && late.is_empty(),
                    Policy::AtLeast(wanted) => arrived.len() >= wanted as usize,
                    Policy::BestEffort => !arrived.is_empty(),
                };
                assert!(enough, "{task} took too little: {event:?}");
                assert_eq!(arrived.len() + failed.len() + late.len(), self.scatters[task].1, "{event:?}");
                self.submitted.extend(reduce.iter().map(|spec| spec.id));
            }
            SwarmEvent::AttemptEnded { lease, ended, .. } if ended.status == AttemptStatus::Succeeded => {
                // A planner whose plan failed may plan again.
                let again =
                    self.redriven.contains(&lease.task) && self.swarm.live(lease.task).is_some_and(|t| t.spec.plan.is_some());
                assert!(self.succeeded.insert(lease.task) || again, "{} succeeded twice", lease.task);
            }
            SwarmEvent::Redriven { spec, .. } => {
                self.ended.remove(&spec.id);
                self.redriven.insert(spec.id);
            }
            _ => {}
        }
        self.swarm.apply(&event, at, self.now);
        self.log.push((at, event));
    }

    fn settle(&mut self) {
        loop {
            let consequences = self.swarm.take_consequences(self.now);
            if consequences.is_empty() {
                break;
            }
            for event in consequences {
                self.commit(event);
            }
        }
        while let Some(event) = self.swarm.next_assignment(self.dice.f64()) {
            self.commit(event);
        }
        for task in self.swarm.take_plans_to_aggregate() {
            self.commit(SwarmEvent::Aggregated { task, result: None, error: None });
            self.settle();
        }
        self.settled.push(self.log.len());
        for task in self.swarm.live_tasks() {
            let scatter = task.spec.parent_id().filter(|parent| self.scatters.contains_key(parent));
            let gathers = scatter.is_none_or(|scatter| self.swarm.live(scatter).is_some());
            assert!(gathers || self.redriven.contains(&task.spec.id), "{} outlives its scatter", task.spec.id);
        }
        for task in &self.submitted {
            if self.swarm.live(*task).is_none() {
                let status = *self.swarm.ended.get(task).unwrap();
                let before = self.ended.insert(*task, status);
                assert!(before.is_none_or(|before| before == status), "{task} ended {before:?} and then {status:?}");
            }
        }
    }

    fn step(&mut self) {
        match self.dice.u32(0..100) {
            0..3 => self.scatter(),
            3..25 => self.submit(),
            25..35 => self.agent_comes(),
            35..40 => self.agent_goes(),
            40..75 => self.report(),
            75..80 => self.cancel(),
            80..82 => self.restart(),
            82..84 => self.crash(),
            84..86 => self.redrive(),
            86..90 => self.repeat(),
            90 => self.memory_forgets(),
            _ => self.time_passes(),
        }
        self.settle();
        if self.dice.bool() {
            self.some_becomes_durable();
        }
    }

    fn submit(&mut self) {
        let count = self.dice.usize(1..4);
        let mut specs = Vec::new();
        for _ in 0..count {
            let known: Vec<TaskId> = self
                .swarm
                .live_tasks()
                .map(|task| task.spec.id)
                .chain(specs.iter().map(|s: &Arc<crate::task::spec::TaskSpec>| s.id))
                .collect();
            let dice = &mut self.dice;
            let new = spec(|task| {
                task.priority = Priority::ALL[dice.usize(0..4)];
                task.retry = RetryPolicy { attempts_max: dice.u32(1..4), first_ms: 50, ..RetryPolicy::default() };
                if !known.is_empty() && dice.u32(0..3) == 0 {
                    task.depends_on = vec![known[dice.usize(0..known.len())]];
                }
                task.skills = if dice.u32(0..4) == 0 { vec!["rare".into()] } else { Vec::new() };
                task.delay_ms = if dice.u32(0..5) == 0 { dice.u64(1..500) } else { 0 };
                task.queue_timeout_ms = (dice.u32(0..6) == 0).then(|| dice.u64(100..2_000));
                task.run_timeout_ms = (dice.u32(0..6) == 0).then(|| dice.u64(100..2_000));
                task.total_timeout_ms = (dice.u32(0..8) == 0).then(|| dice.u64(500..5_000));
                task.plan = (dice.u32(0..10) == 0).then_some(PlanSpec { aggregate: Aggregate::Collect, subtasks_max: 4 });
            });
            specs.push(Arc::new(new));
        }
        let ids: Vec<_> = specs.iter().map(|spec| spec.id).collect();
        let asked = self.new_submission();
        match self.swarm.submit(specs, self.operation(asked), "sim".into(), |_| None).unwrap() {
            super::decide::Decided::New(event) => {
                self.commit(event);
                self.answer(asked, ids);
            }
            super::decide::Decided::Repeated(_) => panic!("nothing was repeated"),
        }
    }

    fn scatter(&mut self) {
        let (dice, id) = (&mut self.dice, TaskId::new());
        let parts = dice.usize(1..6);
        let policy = match dice.u32(0..3) {
            0 => Policy::All,
            1 => Policy::AtLeast(dice.u32(1..=parts as u32)),
            _ => Policy::BestEffort,
        };
        let reduce = || Arc::new(spec(|task| task.parent = Some((id, "reduce".into()))));
        let after = if dice.bool() { HedgeAfter::Ms(dice.u64(1..800)) } else { HedgeAfter::Factor(1.5) };
        let hedge = HedgeSpec { after, twins: (0..dice.usize(1..=parts)).map(|_| TaskId::new()).collect() };
        let scatter = ScatterSpec {
            policy,
            deadline_ms: dice.bool().then(|| dice.u64(100..4_000)),
            aggregate: Aggregate::Collect,
            reduce: dice.bool().then(reduce),
            hedge: dice.bool().then_some(hedge),
        };
        let gathers = TaskSpec { id, role: Some(Role::Scatter(Arc::new(scatter))), ..spec(|_| {}) };
        let mut specs = vec![Arc::new(gathers)];
        for n in 0..parts {
            specs.push(Arc::new(spec(|task| {
                task.parent = Some((id, n.to_string()));
                task.role = Some(Role::Part { item: None });
                task.retry = RetryPolicy { attempts_max: dice.u32(1..3), first_ms: 50, ..RetryPolicy::default() };
                task.queue_timeout_ms = (dice.u32(0..6) == 0).then(|| dice.u64(100..2_000));
            })));
        }
        self.scatters.insert(id, (policy, parts));
        if let super::decide::Decided::New(event) = self.swarm.submit(specs, None, "sim".into(), |_| None).unwrap() {
            self.commit(event);
        }
    }

    fn agent_comes(&mut self) {
        let agent = AgentId::from_u128(u128::from(self.dice.u32(1..6)));
        let incarnation = self.agents.get(&agent).copied().unwrap_or(0) + 1;
        self.agents.insert(agent, incarnation);
        self.seat(agent, incarnation);
    }

    fn seat(&mut self, agent: AgentId, incarnation: u64) {
        let node = Some(NodeId::from_u128(agent.as_u128() % 3 + 1));
        let rare = hiveward_catalogue::agent::spec::Skill { name: "rare".into(), proficiency: 0.5 };
        let skills = if agent.as_u128().is_multiple_of(2) { vec![rare] } else { Vec::new() };
        let arrival = Arrival { agent, incarnation, placement: 1, skills: skills.into(), capacity: 2, weight: 1, node };
        let holds: Vec<_> =
            self.swarm.live_tasks().filter_map(|task| task.lease()).filter(|l| l.agent == agent).map(|l| l.task).collect();
        self.swarm.seat(arrival, holds);
    }

    fn agent_goes(&mut self) {
        let Some((&agent, &incarnation)) = self.agents.iter().next() else { return };
        self.swarm.unseat(agent, incarnation);
        if self.dice.bool() {
            for event in self.swarm.lose(agent, "gone", |_| false) {
                self.commit(event);
            }
        }
    }

    /// Reports on any lease that was ever granted, late and twice.
    fn report(&mut self) {
        if self.believed.is_empty() {
            return;
        }
        let lease = self.believed[self.dice.usize(0..self.believed.len())];
        if self.dice.u32(0..3) == 0 {
            if let Some(event) = self.swarm.started(lease) {
                self.commit(event);
            }
            return;
        }
        let status = [AttemptStatus::Succeeded, AttemptStatus::Succeeded, AttemptStatus::Failed, AttemptStatus::TimedOut]
            [self.dice.usize(0..4)];
        let plan = self.swarm.live(lease.task).filter(|task| status == AttemptStatus::Succeeded && task.spec.plan.is_some()).map(
            |task| {
                let parent = task.spec.id;
                (0..self.dice.u32(0..3))
                    .map(|n| Arc::new(spec(|sub| sub.parent = Some((parent, n.to_string())))))
                    .collect::<Vec<_>>()
            },
        );
        let valid = self.swarm.live(lease.task).and_then(|task| task.lease()) == Some(lease);
        let events = self.swarm.attempt_end(lease, outcome(status, self.dice.u32(0..4) > 0), plan, self.dice.f64());
        if !valid {
            assert!(
                events.iter().all(|event| matches!(event, SwarmEvent::StaleRefused { .. })),
                "a stale report changed something: {events:?}"
            );
        }
        for event in events {
            self.commit(event);
        }
        self.swarm.free_place(lease);
    }

    fn cancel(&mut self) {
        let live: Vec<_> = self.swarm.live_tasks().map(|task| task.spec.id).collect();
        if live.is_empty() {
            return;
        }
        let task = live[self.dice.usize(0..live.len())];
        let asked = self.new_cancellation(task);
        if let super::decide::Decided::New(event) =
            self.swarm.cancel(task, "sim".into(), self.operation(asked), |_| None).unwrap()
        {
            self.commit(event);
        }
        self.answer(asked, vec![task]);
    }

    fn redrive(&mut self) {
        let again = |status: TaskStatus| matches!(status, TaskStatus::Failed | TaskStatus::Dead | TaskStatus::Cancelled);
        let mut dead: Vec<_> = self.ended.iter().filter(|(_, status)| again(**status)).map(|(task, _)| *task).collect();
        dead.sort_unstable();
        let Some(task) = (!dead.is_empty()).then(|| dead[self.dice.usize(0..dead.len())]) else { return };
        let spec = self.log.iter().rev().find_map(|(_, event)| match event {
            SwarmEvent::Submitted { tasks, .. } => tasks.iter().find(|spec| spec.id == task).cloned(),
            SwarmEvent::Planned { subtasks, .. } => subtasks.iter().find(|spec| spec.id == task).cloned(),
            SwarmEvent::Hedged { twin, .. } => Some(twin).filter(|spec| spec.id == task).cloned(),
            SwarmEvent::Gathered { reduce, .. } => reduce.iter().find(|spec| spec.id == task).cloned(),
            _ => None,
        });
        if matches!(spec.as_ref().and_then(|spec| spec.role.as_ref()), Some(Role::Scatter(_) | Role::Twin { .. })) {
            return;
        }
        let attempts = self.granted.iter().filter(|(of, _)| *of == task).map(|(_, attempt)| *attempt).max().unwrap_or(0);
        let spec = spec.unwrap();
        let waits = spec.depends_on.iter().any(|on| self.ended_of(*on).is_some_and(again));
        match self.swarm.redrive(spec, attempts, TaskStatus::Dead, None, "sim".into(), |_| None) {
            Ok(super::decide::Decided::New(event)) => {
                assert!(!waits, "{task} is on its way again before what it depends on");
                self.commit(event);
            }
            Ok(super::decide::Decided::Repeated(_)) => panic!("nothing was repeated"),
            Err(refused) => assert!(waits, "{refused:?}"),
        }
    }

    fn time_passes(&mut self) {
        let ms = self.dice.u64(1..1_000);
        self.now.mono_ms += ms;
        self.now.wall = self.now.wall.plus(Duration::from_millis(ms));
        for event in self.swarm.take_due(self.now) {
            self.commit(event);
        }
    }

    /// Ends every task, with willing agents and time.
    fn drain(&mut self) {
        for round in 0.. {
            for agent in 1..=6 {
                let agent = AgentId::from_u128(agent);
                let incarnation = self.agents.get(&agent).copied().unwrap_or(0) + 1;
                self.agents.insert(agent, incarnation);
                self.seat(agent, incarnation);
            }
            self.settle();
            let held: Vec<_> = self.swarm.live_tasks().filter_map(|task| task.lease()).collect();
            for lease in held {
                let plan = self.swarm.live(lease.task).and_then(|task| task.spec.plan.as_ref()).map(|_| Vec::new());
                for event in self.swarm.attempt_end(lease, outcome(AttemptStatus::Succeeded, true), plan, 0.5) {
                    self.commit(event);
                }
                self.swarm.free_place(lease);
            }
            self.settle();
            self.now.mono_ms += 10_000;
            self.now.wall = self.now.wall.plus(Duration::from_secs(10));
            for event in self.swarm.take_due(self.now) {
                self.commit(event);
            }
            self.settle();
            if self.swarm.live_tasks().len() == 0 {
                break;
            }
            assert!(round < 200, "stuck: {:?}", self.swarm.live_tasks().collect::<Vec<_>>());
        }
        for task in &self.submitted {
            assert!(self.ended.get(task).is_some_and(|status| status.is_terminal()), "{task} was lost");
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.all_becomes_durable();
    world.drain();
    TWINS.fetch_add(world.twins.len() as u64, Ordering::Relaxed);
    GATHERED.fetch_add(
        world.log.iter().filter(|(_, event)| matches!(event, SwarmEvent::Gathered { .. })).count() as u64,
        Ordering::Relaxed,
    );
}

/// The counts of what the schedules came across: a simulation that never hedges shows nothing about hedging.
static TWINS: AtomicU64 = AtomicU64::new(0);
static GATHERED: AtomicU64 = AtomicU64::new(0);

#[test]
fn over_thousands_of_schedules_no_task_is_lost_stuck_or_succeeds_twice_and_every_replay_agrees() {
    let seeds = match std::env::var("HIVEWARD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SCHEDULES,
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            println!("the seed that fails: HIVEWARD_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    let came = [&TWINS, &GATHERED, &DROPPED, &REPEATED].map(|count| count.load(Ordering::Relaxed));
    let [twins, gathered, dropped, repeated] = came;
    let enough = twins > SCHEDULES / 4 && gathered > SCHEDULES / 2 && dropped > SCHEDULES * 2 && repeated > SCHEDULES;
    assert!(std::env::var_os("HIVEWARD_SEED").is_some() || enough, "{came:?}");
}
