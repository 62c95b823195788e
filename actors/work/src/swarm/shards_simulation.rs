//! Plays hundreds of seeded schedules of a swarm with several shards: messages between them are lost, doubled, kept back for long
//! and turned around, each shard is started again at any moment, and refuses what it is sent while it closes. Prints the
//! seed that fails; `HIVEWARD_SEED` runs it alone.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hiveward_catalogue::{agent::spec::Skill, swarm::SwarmSpec};
use hiveward_kernel::{
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
};
use hiveward_runtime::clock::WallMs;

use super::{
    decide::Decided,
    event::{Ended, SwarmEvent},
    seat::Arrival,
    state::{Now, Swarm},
    steal::{Moving, Places, Taking},
    testing::{self, spec},
};
use crate::task::{
    retry::RetryPolicy,
    spec::TaskSpec,
    status::{AttemptStatus, Priority, TaskStatus},
};

const SCHEDULES: u64 = 500;
const STEPS: usize = 200;
/// The number of schedules in which the bug that is planted below must show.
const SCHEDULES_WITH_A_BUG: u64 = 200;

/// A message between shards.
#[derive(Clone)]
enum Said {
    Ask(Vec<Places>),
    Hand(u64, Vec<Moving>),
    Took { transfer: u64, refused: bool },
}

struct Shard {
    spec: Arc<SwarmSpec>,
    swarm: Swarm,
    log: Vec<(WallMs, SwarmEvent)>,
    /// The lengths of the log at which all that followed was in it: where a batch ends, and a snapshot can be taken.
    settled: Vec<usize>,
    agents: BTreeMap<AgentId, u64>,
    closing: bool,
}

struct World {
    dice: fastrand::Rng,
    now: Now,
    shards: Vec<Shard>,
    /// The messages: from, to, what. Nothing is delivered before somebody draws it, however long that takes.
    network: Vec<(SwarmId, SwarmId, Said)>,
    believed: Vec<(usize, Lease)>,
    submitted: Vec<Arc<TaskSpec>>,
    granted: HashSet<(TaskId, u32)>,
    succeeded: HashSet<TaskId>,
    moves: u64,
    with_a_bug: bool,
}

fn outcome(status: AttemptStatus) -> Ended {
    Ended { status, exit_code: None, signal: None, result: None, artifacts: Vec::new(), error: None, retriable: true }
}

impl World {
    fn new(seed: u64, with_a_bug: bool) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let all = testing::swarm(dice.u16(2..5));
        let shard = |number| {
            let spec = Arc::new(all.of_shard(number));
            let mut swarm = Swarm::new(spec.clone());
            swarm.transfers.forgets_numbers = with_a_bug;
            Shard { spec, swarm, log: Vec::new(), settled: vec![0], agents: BTreeMap::new(), closing: false }
        };
        Self {
            shards: (0..all.shards).map(shard).collect(),
            dice,
            now: Now { wall: WallMs(1_000_000), mono_ms: 0 },
            network: Vec::new(),
            believed: Vec::new(),
            submitted: Vec::new(),
            granted: HashSet::new(),
            succeeded: HashSet::new(),
            moves: 0,
            with_a_bug,
        }
    }

    fn any(&mut self) -> usize {
        self.dice.usize(0..self.shards.len())
    }

    fn commit(&mut self, at: usize, event: SwarmEvent) {
        match &event {
            SwarmEvent::Assigned { lease, .. } => {
                assert!(self.granted.insert((lease.task, lease.attempt)), "{lease:?} was granted twice");
                self.believed.push((at, *lease));
            }
            SwarmEvent::AttemptEnded { lease, ended, .. } if ended.status == AttemptStatus::Succeeded => {
                assert!(self.succeeded.insert(lease.task), "{} succeeded twice", lease.task);
            }
            SwarmEvent::TasksGiven { tasks, .. } => {
                for task in tasks {
                    let live = self.shards[at].swarm.live(*task).expect("what is given is here");
                    assert_eq!(live.attempt, 0, "{task} was begun and given away");
                    assert!(live.spec.depends_on.is_empty() && live.spec.parent.is_none(), "{task} is bound to its shard");
                    let waits = |other: &crate::swarm::state::Live| other.waits_for > 0 && other.spec.depends_on.contains(task);
                    assert!(!self.shards[at].swarm.live_tasks().any(waits), "{task} is waited for");
                }
            }
            SwarmEvent::TasksTaken { tasks, .. } => self.moves += tasks.len() as u64,
            _ => {}
        }
        let shard = &mut self.shards[at];
        shard.swarm.apply(&event, self.now.wall, self.now);
        shard.log.push((self.now.wall, event));
    }

    fn settle(&mut self, at: usize) {
        loop {
            let consequences = self.shards[at].swarm.take_consequences(self.now);
            if consequences.is_empty() {
                break;
            }
            for event in consequences {
                self.commit(at, event);
            }
        }
        while let Some(event) = self.shards[at].swarm.next_assignment(0.5) {
            self.commit(at, event);
        }
        let shard = &mut self.shards[at];
        shard.settled.push(shard.log.len());
        self.check();
    }

    /// Checks that each task is in one shard, or on its way between two, or has ended in one.
    fn check(&self) {
        for task in &self.submitted {
            let live = self.shards.iter().filter(|shard| shard.swarm.live(task.id).is_some()).count();
            let ended = self.shards.iter().filter(|shard| shard.swarm.ended.get(&task.id).is_some()).count();
            let under_way = |shard: &Shard| {
                shard.swarm.transfers.under_way().any(|(_, given)| given.tasks.iter().any(|moving| moving.spec.id == task.id))
            };
            let moving = self.shards.iter().filter(|shard| under_way(shard)).count();
            assert!(live + ended <= 1, "{} is in {live} shards and has ended in {ended}", task.id);
            assert!(live + ended + moving >= 1, "{} was lost", task.id);
            // Also for who takes it for a task of the shard where it was: a wrong answer here could be acted on.
            for shard in self.shards.iter().filter(|shard| under_way(shard)) {
                assert!(shard.swarm.left(task.id, None).is_some());
            }
        }
    }

    fn step(&mut self) {
        let at = self.any();
        match self.dice.u32(0..100) {
            0..15 => self.submit(at),
            15..22 => self.agent_comes(at),
            22..25 => self.agent_goes(at),
            25..45 => self.report(),
            45..50 => self.cancel(at),
            50..53 => self.redrive(at),
            53..58 => self.restart(at),
            58..60 => self.shards[at].closing ^= true,
            60..70 => self.ask(at),
            70..75 => self.repeat(at),
            75..95 => self.deliver(),
            _ => self.time_passes(at),
        }
        self.settle(at);
    }

    fn submit(&mut self, at: usize) {
        let mut specs: Vec<Arc<TaskSpec>> = Vec::new();
        let mut known: Vec<TaskId> = self.shards[at].swarm.live_tasks().map(|task| task.spec.id).collect();
        // The seed alone decides: a map's order is another each time.
        known.sort_unstable();
        for _ in 0..self.dice.usize(1..5) {
            let dice = &mut self.dice;
            // In the order in which they were made, and the same each time.
            let id = TaskId::from_u128((self.submitted.len() + specs.len() + 1) as u128);
            let new = spec(|task| {
                task.id = id;
                task.swarm = self.shards[at].spec.id;
                task.priority = Priority::ALL[dice.usize(0..4)];
                task.retry = RetryPolicy { attempts_max: dice.u32(1..3), first_ms: 50, ..RetryPolicy::default() };
                task.skills = if dice.u32(0..4) == 0 { vec!["rare".into()] } else { Vec::new() };
                task.delay_ms = if dice.u32(0..6) == 0 { dice.u64(1..500) } else { 0 };
                task.queue_timeout_ms = (dice.u32(0..10) == 0).then(|| dice.u64(500..5_000));
                task.total_timeout_ms = (dice.u32(0..12) == 0).then(|| dice.u64(500..9_000));
                if !known.is_empty() && dice.u32(0..4) == 0 {
                    task.depends_on = vec![known[dice.usize(0..known.len())]];
                }
            });
            specs.push(Arc::new(new));
        }
        match self.shards[at].swarm.submit(specs.clone(), None, "sim".into(), |_| None).unwrap() {
            Decided::New(event) => {
                self.commit(at, event);
                self.submitted.extend(specs);
            }
            Decided::Repeated(_) => panic!("nothing was repeated"),
        }
    }

    fn agent_comes(&mut self, at: usize) {
        // Each agent belongs to one shard.
        let agent = AgentId::from_u128(at as u128 * 100 + u128::from(self.dice.u32(1..4)));
        let incarnation = self.shards[at].agents.get(&agent).copied().unwrap_or(0) + 1;
        self.shards[at].agents.insert(agent, incarnation);
        self.seat(at, agent, incarnation);
    }

    fn seat(&mut self, at: usize, agent: AgentId, incarnation: u64) {
        let rare = Skill { name: "rare".into(), proficiency: 0.5 };
        let skills = if agent.as_u128().is_multiple_of(2) { vec![rare] } else { Vec::new() };
        let arrival = Arrival { agent, incarnation, placement: 1, skills: skills.into(), capacity: 2, weight: 1, node: None };
        let swarm = &mut self.shards[at].swarm;
        let holds: Vec<_> =
            swarm.live_tasks().filter_map(|task| task.lease()).filter(|l| l.agent == agent).map(|l| l.task).collect();
        swarm.seat(arrival, holds);
    }

    fn agent_goes(&mut self, at: usize) {
        let Some((&agent, &incarnation)) = self.shards[at].agents.iter().next() else { return };
        self.shards[at].swarm.unseat(agent, incarnation);
        for event in self.shards[at].swarm.lose(agent, "gone", |_| false) {
            self.commit(at, event);
        }
    }

    fn report(&mut self) {
        if self.believed.is_empty() {
            return;
        }
        let (at, lease) = self.believed[self.dice.usize(0..self.believed.len())];
        let status = [AttemptStatus::Succeeded, AttemptStatus::Failed][self.dice.usize(0..2)];
        for event in self.shards[at].swarm.attempt_end(lease, outcome(status), None, 0.5) {
            self.commit(at, event);
        }
        self.shards[at].swarm.free_place(lease);
        self.settle(at);
    }

    /// Cancels a task as a client that looks for it anywhere, as its view may be old.
    fn cancel(&mut self, at: usize) {
        if self.submitted.is_empty() {
            return;
        }
        let task = self.submitted[self.dice.usize(0..self.submitted.len())].id;
        let here = self.shards[at].swarm.live(task).is_some();
        match self.shards[at].swarm.cancel(task, "sim".into(), None, |_| Some(TaskStatus::Queued)) {
            Ok(Decided::New(event)) => {
                assert!(here);
                self.commit(at, event);
            }
            Ok(Decided::Repeated(_)) | Err(_) => assert!(!here, "a task that is here was not cancelled"),
        }
    }

    fn redrive(&mut self, at: usize) {
        let again = |task: &&Arc<TaskSpec>| {
            matches!(
                self.shards[at].swarm.ended.get(&task.id),
                Some(TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Dead)
            )
        };
        let Some(task) = self.submitted.iter().find(again).cloned() else { return };
        let attempts = self.granted.iter().filter(|(of, _)| *of == task.id).map(|(_, attempt)| *attempt).max().unwrap_or(0);
        let waits = task.depends_on.iter().any(|on| {
            let ended = self.shards[at].swarm.ended.get(on);
            ended.is_some_and(|status| *status != TaskStatus::Succeeded)
        });
        match self.shards[at].swarm.redrive(task, attempts, TaskStatus::Dead, None, "sim".into(), |_| None) {
            Ok(Decided::New(event)) => self.commit(at, event),
            Ok(Decided::Repeated(_)) => panic!("nothing was repeated"),
            Err(refused) => assert!(waits, "{refused:?}"),
        }
    }

    fn send(&mut self, from: usize, to: SwarmId, said: Said) {
        let from = self.shards[from].spec.id;
        for _ in 0..[0, 1, 1, 1, 2][self.dice.usize(0..5)] {
            self.network.push((from, to, said.clone()));
        }
    }

    fn ask(&mut self, at: usize) {
        let places = self.shards[at].swarm.free_places();
        let siblings: Vec<SwarmId> = self.shards[at].spec.shard_ids().filter(|id| *id != self.shards[at].spec.id).collect();
        let to = siblings[self.dice.usize(0..siblings.len())];
        if !places.is_empty() {
            self.send(at, to, Said::Ask(places));
        }
    }

    /// Says again, as a victim, what nobody has said to have taken.
    fn repeat(&mut self, at: usize) {
        let under_way: Vec<_> =
            self.shards[at].swarm.transfers.under_way().map(|(to, given)| (to, given.transfer, given.tasks.clone())).collect();
        for (to, transfer, tasks) in under_way {
            self.send(at, to, Said::Hand(transfer, tasks));
        }
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let place = self.dice.usize(0..self.network.len());
        let (from, to, said) = self.network.swap_remove(place);
        let at = usize::from((to.as_u128() & 0xff) as u8);
        self.hear(at, from, said);
        self.settle(at);
    }

    fn hear(&mut self, at: usize, from: SwarmId, said: Said) {
        match said {
            Said::Ask(places) => {
                let given = self.shards[at].swarm.give(from, &places);
                if let Some(event) = given {
                    self.commit(at, event);
                }
                self.repeat(at);
            }
            Said::Hand(transfer, tasks) => {
                let closing = self.shards[at].closing;
                let refused = match self.shards[at].swarm.take(from, transfer, &tasks, closing) {
                    Some(Taking::New(event)) => {
                        let refused = matches!(event, SwarmEvent::TransferRefused { .. });
                        self.commit(at, event);
                        refused
                    }
                    Some(Taking::Repeated { refused }) => refused,
                    None => panic!("only siblings speak here"),
                };
                self.send(at, from, Said::Took { transfer, refused });
            }
            Said::Took { transfer, refused } => {
                if let Some(event) = self.shards[at].swarm.settled(from, transfer, refused) {
                    self.commit(at, event);
                }
            }
        }
    }

    fn time_passes(&mut self, at: usize) {
        let ms = self.dice.u64(1..500);
        self.now.mono_ms += ms;
        self.now.wall = self.now.wall.plus(Duration::from_millis(ms));
        for event in self.shards[at].swarm.take_due(self.now) {
            self.commit(at, event);
        }
    }

    /// Begins a new life, which replays from a snapshot of some moment or from the first event, and is in the same state.
    fn restart(&mut self, at: usize) {
        for event in self.shards[at].swarm.take_due(self.now) {
            self.commit(at, event);
        }
        self.settle(at);
        let settled = self.shards[at].settled.len();
        let cut = if self.dice.bool() { 0 } else { self.shards[at].settled[self.dice.usize(0..settled)] };
        let (spec, log) = (self.shards[at].spec.clone(), &self.shards[at].log);
        let fresh = || {
            let mut swarm = Swarm::new(spec.clone());
            swarm.transfers.forgets_numbers = self.with_a_bug;
            swarm
        };
        let mut before = fresh();
        for (when, event) in &log[..cut] {
            before.apply(event, *when, self.now);
        }
        let mut replayed = testing::written_down(&before, self.dice.bool(), self.now);
        replayed.transfers.forgets_numbers = self.with_a_bug;
        for (when, event) in &log[cut..] {
            replayed.apply(event, *when, self.now);
        }
        assert!(replayed.is_settled(), "a new life would end what the old one did not");
        for event in replayed.take_due(self.now) {
            self.commit(at, event.clone());
            replayed.apply(&event, self.now.wall, self.now);
        }
        let facts = |swarm: &Swarm| {
            let mut facts: Vec<_> =
                swarm.live_tasks().map(|task| (task.spec.id, task.status, task.attempt, task.holder, task.bound)).collect();
            facts.sort_by_key(|fact| fact.0);
            let given: Vec<_> = swarm.transfers.under_way().map(|(to, given)| (to, given.clone())).collect();
            (facts, given)
        };
        assert_eq!(facts(&self.shards[at].swarm), facts(&replayed), "a replay differs");
        self.shards[at].swarm = replayed;
        self.shards[at].closing = false;
        for (agent, incarnation) in self.shards[at].agents.clone() {
            self.seat(at, agent, incarnation);
        }
    }

    /// Ends every task, with willing agents in one shard alone, a network that delivers, and time.
    fn drain(&mut self) {
        for shard in &mut self.shards {
            shard.closing = false;
        }
        for round in 0.. {
            for at in 0..self.shards.len() {
                for agent in [1, 2] {
                    let agent = AgentId::from_u128(at as u128 * 100 + agent);
                    let incarnation = self.shards[at].agents.get(&agent).copied().unwrap_or(0) + 1;
                    self.shards[at].agents.insert(agent, incarnation);
                    self.seat(at, agent, incarnation);
                }
                self.settle(at);
                self.ask(at);
                self.repeat(at);
            }
            while !self.network.is_empty() {
                self.deliver();
            }
            for at in 0..self.shards.len() {
                let mut held: Vec<_> = self.shards[at].swarm.live_tasks().filter_map(|task| task.lease()).collect();
                held.sort_unstable();
                for lease in held {
                    for event in self.shards[at].swarm.attempt_end(lease, outcome(AttemptStatus::Succeeded), None, 0.5) {
                        self.commit(at, event);
                    }
                    self.shards[at].swarm.free_place(lease);
                }
                self.settle(at);
            }
            self.now.mono_ms += 1_000;
            self.now.wall = self.now.wall.plus(Duration::from_secs(1));
            for at in 0..self.shards.len() {
                for event in self.shards[at].swarm.take_due(self.now) {
                    self.commit(at, event);
                }
                self.settle(at);
            }
            let left = |shard: &Shard| shard.swarm.live_tasks().len() + shard.swarm.transfers.tasks_under_way();
            if self.shards.iter().map(left).sum::<usize>() == 0 {
                break;
            }
            let stuck = || self.shards.iter().flat_map(|shard| shard.swarm.live_tasks()).collect::<Vec<_>>();
            let under_way = || self.shards.iter().map(|shard| shard.swarm.transfers.tasks_under_way()).sum::<usize>();
            assert!(round < 500, "stuck, beside {} under way: {:?}", under_way(), stuck());
        }
        for task in &self.submitted {
            let ended = |shard: &&Shard| shard.swarm.ended.get(&task.id).is_some_and(|status| status.is_terminal());
            assert_eq!(self.shards.iter().filter(ended).count(), 1, "{} has not ended in one shard", task.id);
        }
    }
}

/// Runs a schedule and returns how many moves it came across.
fn run(seed: u64, with_a_bug: bool) -> u64 {
    let mut world = World::new(seed, with_a_bug);
    for _ in 0..STEPS {
        world.step();
    }
    world.drain();
    world.moves
}

/// The number of moves. A simulation in which nothing moves shows nothing about moving.
static MOVES: AtomicU64 = AtomicU64::new(0);

#[test]
fn over_hundreds_of_schedules_tasks_that_move_between_shards_are_neither_lost_nor_run_twice_and_all_end() {
    let seeds = match std::env::var("HIVEWARD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SCHEDULES,
    };
    for seed in seeds {
        match std::panic::catch_unwind(|| run(seed, false)) {
            Ok(moves) => drop(MOVES.fetch_add(moves, Ordering::Relaxed)),
            Err(panic) => {
                println!("the seed that fails: HIVEWARD_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let moves = MOVES.load(Ordering::Relaxed);
    assert!(std::env::var_os("HIVEWARD_SEED").is_some() || moves > SCHEDULES * 3, "only {moves} moves");
}

#[test]
fn the_simulation_finds_a_shard_that_forgets_which_transfers_it_took() {
    let hook = std::panic::take_hook();
    // What it finds is expected: hundreds of messages would hide one that is not.
    std::panic::set_hook(Box::new(|_| {}));
    let found = (0..SCHEDULES_WITH_A_BUG).filter(|seed| std::panic::catch_unwind(|| run(*seed, true)).is_err()).count();
    std::panic::set_hook(hook);
    assert!(found as u64 > SCHEDULES_WITH_A_BUG / 2, "it shows in only {found} of {SCHEDULES_WITH_A_BUG} schedules");
}
