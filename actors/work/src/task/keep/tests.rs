//! Checks that, whatever happens to tasks and in whatever order they are let go of, all tables tell of the same rows, and what is
//! needed is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hiveward_catalogue::placement::{Decision, Strategy};
use hiveward_kernel::{
    body::Label,
    id::{AgentId, TaskId},
    keep::TaskRetention,
    lease::Lease,
};
use hiveward_runtime::{
    clock::{AgeClock, Clock},
    ledger::{Cursor, Event, view::View},
    store::blob::BlobHash,
};
use redb::{Database, ReadableDatabase};

use super::*;
use crate::{
    swarm::{
        event::{Ended, FORMAT, Next, SwarmEvent},
        testing::spec,
    },
    task::{record::Artifact, spec::TaskSpec, status::AttemptStatus, table::TaskView},
};

const PLENTY: Keep = Keep { age: Duration::from_millis(1_000_000), count_max: 1_000_000, bytes_max: 1 << 40 };

struct Scene {
    db: Database,
    view: TaskView,
    now: Arc<AtomicI64>,
    swarms: [SwarmId; 2],
}

fn blob(n: u64, bytes: u64) -> Body {
    let hash = blake3::hash(&n.to_be_bytes()).to_hex().to_string();
    Body::Blob { hash: hash.into(), bytes }
}

fn hash(n: u64) -> BlobHash {
    blake3::hash(&n.to_be_bytes()).to_hex().as_str().parse().unwrap()
}

/// Returns all entries of a table.
fn all<K: redb::Key + 'static, V: redb::Value + 'static, T>(
    db: &Database,
    table: TableDefinition<'_, K, V>,
    of: impl Fn(K::SelfType<'_>, V::SelfType<'_>) -> T,
) -> Vec<T> {
    let table = db.begin_read().unwrap().open_table(table).unwrap();
    let entries = table.iter().unwrap().map(|entry| entry.unwrap());
    entries.map(|(key, value)| of(key.value(), value.value())).collect()
}

impl Scene {
    fn new(keep: Keep) -> Self {
        let db = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let now = Arc::new(AtomicI64::new(0));
        let view = TaskView { keep: TaskRetention(keep), clock: AgeClock::of(Clock::Manual(now.clone())) };
        let txn = db.begin_write().unwrap();
        view.prepare(&txn).unwrap();
        txn.commit().unwrap();
        Self { db, view, now, swarms: [SwarmId::new_head(), SwarmId::new_head()] }
    }

    fn take_in(&self, at: i64, what: &[SwarmEvent]) {
        let events: Vec<_> = what
            .iter()
            .map(|what| Event {
                cursor: Cursor(at as u64),
                stream: self.swarms[0].key(),
                version: 1,
                incarnation: 1,
                at: WallMs(at),
                kind: what.kind().into(),
                format: FORMAT,
                body: what.encode().unwrap(),
            })
            .collect();
        let txn = self.db.begin_write().unwrap();
        self.view.apply(&txn, &events).unwrap();
        txn.commit().unwrap();
    }

    fn turn(&self, now: i64, rows_max: usize) -> Pruned {
        self.now.store(now, Ordering::Relaxed);
        let txn = self.db.begin_write().unwrap();
        let pruned = self.view.prune(&txn, rows_max).unwrap();
        txn.commit().unwrap();
        pruned
    }

    fn prune(&self, now: i64) -> u64 {
        let mut rows = 0;
        loop {
            let Pruned { rows: gone, more } = self.turn(now, 5);
            rows += gone;
            if !more {
                return rows;
            }
        }
    }

    fn rows(&self) -> BTreeMap<u128, (TaskRecord, usize)> {
        all(&self.db, ROWS, |id, row| (id, (unpack(id, row).unwrap(), row.len()))).into_iter().collect()
    }

    /// Checks that every other table says what the rows say, and nothing else.
    fn check(&self) {
        let (rows, db) = (self.rows(), &self.db);
        let keys = |table| -> BTreeSet<(u128, u128)> { all(db, table, |key, ()| key).into_iter().collect() };
        let of = |record: &TaskRecord| (record.spec.swarm.as_u128(), record.id().as_u128());
        let by_swarm: BTreeSet<_> = rows.values().map(|(record, _)| of(record)).collect();
        assert_eq!(keys(BY_SWARM), by_swarm);
        let parents = rows.values().filter_map(|(record, _)| Some((record.spec.parent_id()?.as_u128(), record.id().as_u128())));
        assert_eq!(keys(BY_PARENT), parents.collect());
        for (on, waits) in keys(DEPENDANTS) {
            let known = rows.get(&waits).is_some_and(|(record, _)| record.spec.depends_on.iter().any(|id| id.as_u128() == on));
            assert!(known, "{waits} is said to wait for {on}");
        }
        let needs =
            rows.values().flat_map(|(record, _)| record.spec.depends_on.iter().map(|on| (on.as_u128(), record.id().as_u128())));
        assert_eq!(keys(NEEDED_BY), needs.collect());
        let statuses: BTreeSet<(u8, u128)> = all(db, BY_STATUS, |key, ()| key).into_iter().collect();
        assert_eq!(statuses, rows.values().map(|(record, _)| (record.status as u8, record.id().as_u128())).collect());
        let labels = all(db, BY_LABEL, |_, ()| ()).len();
        assert_eq!(labels, rows.values().map(|(record, _)| record.spec.labels.len()).sum::<usize>());
        let mut counts: BTreeMap<(u128, u8), u64> = BTreeMap::new();
        rows.values().for_each(|(record, _)| *counts.entry((record.spec.swarm.as_u128(), record.status as u8)).or_default() += 1);
        let told = all(db, COUNTS, |key, count| (key, count)).into_iter();
        let told: BTreeMap<_, _> = told.filter(|(_, count)| *count > 0).collect();
        assert_eq!(told, counts);

        let weighed = |record: &TaskRecord, bytes: &usize| Weighed::of(record, *bytes).bytes;
        let ended: Vec<_> = rows.values().filter(|(record, _)| record.status.is_terminal()).collect();
        let totals = totals(&db.begin_read().unwrap().open_table(TOTALS).unwrap()).unwrap();
        assert_eq!(totals, (ended.len() as u64, ended.iter().map(|(record, bytes)| weighed(record, bytes)).sum()));
        let mut used: BTreeMap<u128, u64> = BTreeMap::new();
        rows.values().for_each(|(record, bytes)| *used.entry(record.spec.swarm.as_u128()).or_default() += weighed(record, bytes));
        assert_eq!(all(db, USED, |swarm, bytes| (swarm, bytes)).into_iter().collect::<BTreeMap<_, _>>(), used);
        let looked_at: HashSet<u128> = all(db, ENDED, |(_, id), ()| id).into_iter().collect();
        for (record, _) in ended.iter().filter(|(record, _)| record.spec.parent.is_none()) {
            assert!(looked_at.contains(&record.id().as_u128()), "{} would stay for ever", record.id());
        }
        let owners: BTreeSet<([u8; 32], u128)> = all(db, BLOB_OWNERS, |(hash, id), ()| (*hash, id)).into_iter().collect();
        for (record, _) in rows.values() {
            for (hash, _) in blobs_of(record) {
                assert!(owners.contains(&(*hash.bytes(), record.id().as_u128())), "blob {hash} lost its task");
            }
        }
        assert!(owners.iter().all(|(_, id)| rows.contains_key(id)), "a blob has a task that is gone");
        let of_tasks: BTreeSet<([u8; 32], u128)> = all(db, BLOBS_OF, |(id, hash), ()| (*hash, id)).into_iter().collect();
        assert_eq!(of_tasks, owners);
    }
}

/// The dice that decide what happens.
struct Dice {
    dice: fastrand::Rng,
    made: Vec<TaskId>,
}

impl Dice {
    fn body(&mut self) -> Option<Body> {
        match self.dice.u8(..4) {
            0 => None,
            1 => Some(Body::Inline(vec![7; self.dice.usize(..300)])),
            _ => Some(blob(self.dice.u64(..6), self.dice.u64(5_000..90_000))),
        }
    }

    fn new_spec(&mut self, swarm: SwarmId, parent: Option<TaskId>) -> Arc<TaskSpec> {
        let payload = self.body();
        let on = (0..self.dice.usize(..3)).filter_map(|_| self.made.get(self.dice.usize(..self.made.len().max(1))).copied());
        let on: BTreeSet<TaskId> = on.collect();
        let labels = (0..self.dice.u8(..3)).map(|n| Label { key: format!("k{n}"), value: "é".into() }).collect();
        let made = spec(|spec| {
            spec.swarm = swarm;
            spec.work = Work::Kind { kind: "probe".into(), payload };
            spec.depends_on = on.into_iter().collect();
            spec.labels = labels;
            spec.parent = parent.map(|parent| (parent, "part".into()));
        });
        self.made.push(made.id);
        Arc::new(made)
    }

    fn ended(&mut self, task: TaskId, attempt: u32, next: Next) -> Vec<SwarmEvent> {
        let lease = Lease { task, attempt, agent: AgentId::from_u128(1) };
        let (strategy, chosen) = (Strategy::Skill, AgentId::from_u128(1));
        let decision = Arc::new(Decision { strategy, chosen, scores: Vec::new(), eligible: 1, left_out: Vec::new() });
        let artifacts = (0..self.dice.u8(..3)).map(|n| {
            let Body::Blob { hash, bytes } = blob(u64::from(n), 4_000) else { unreachable!() };
            Artifact { name: format!("{n}"), hash, bytes }
        });
        let ended = Ended {
            status: AttemptStatus::Succeeded,
            exit_code: Some(0),
            signal: None,
            artifacts: artifacts.collect(),
            result: self.body(),
            error: None,
            retriable: false,
        };
        vec![
            SwarmEvent::Assigned { lease, decision, placement: 1 },
            SwarmEvent::Started { lease },
            SwarmEvent::AttemptEnded { lease, ended, next },
        ]
    }

    fn next(&mut self, scene: &Scene) -> Vec<SwarmEvent> {
        let rows = scene.rows();
        let swarm = scene.swarms[self.dice.usize(..2)];
        let (ended, live): (Vec<_>, Vec<_>) =
            rows.values().map(|(record, _)| record).partition(|record| record.status.is_terminal());
        let principal: Arc<str> = "test".into();
        let one =
            |dice: &mut fastrand::Rng, of: &[&TaskRecord]| of.get(dice.usize(..of.len().max(1))).map(|record| (*record).clone());
        match self.dice.u8(..10) {
            0..3 => {
                let tasks = (0..self.dice.u8(1..4)).map(|_| self.new_spec(swarm, None)).collect();
                vec![SwarmEvent::Submitted { tasks, operation: None, principal }]
            }
            3 => {
                let Some(planner) = one(&mut self.dice, &live) else { return Vec::new() };
                let mut events = self.ended(planner.id(), planner.attempts_made() + 1, Next::Plan);
                let subtasks = (0..self.dice.u8(1..4)).map(|_| self.new_spec(planner.spec.swarm, Some(planner.id()))).collect();
                events.push(SwarmEvent::Planned { task: planner.id(), subtasks });
                events
            }
            4..8 => {
                let Some(task) = one(&mut self.dice, &live) else { return Vec::new() };
                let open =
                    rows.values().any(|(record, _)| record.spec.parent_id() == Some(task.id()) && !record.status.is_terminal());
                if open {
                    return Vec::new();
                }
                match self.dice.u8(..3) {
                    0 => vec![SwarmEvent::Cancelled { task: task.id(), reason: "test".into(), lease: None, operation: None }],
                    1 => vec![SwarmEvent::Failed { task: task.id(), error: "it was late".into(), lease: None }],
                    _ => self.ended(task.id(), task.attempts_made() + 1, Next::Succeed),
                }
            }
            8 => {
                let Some(task) = one(&mut self.dice, &ended) else { return Vec::new() };
                let payload = self.body();
                let spec = TaskSpec { work: Work::Kind { kind: "probe".into(), payload }, ..TaskSpec::clone(&task.spec) };
                vec![SwarmEvent::Redriven { spec: Arc::new(spec), attempts: 1, operation: None, principal }]
            }
            _ => {
                let Some(task) = one(&mut self.dice, &ended).filter(|task| !task.attempts.is_empty()) else { return Vec::new() };
                let lease = Lease { task: task.id(), attempt: task.attempts_made(), agent: AgentId::from_u128(1) };
                vec![SwarmEvent::StaleRefused { lease, said: AttemptStatus::Failed }]
            }
        }
    }
}

#[test]
fn tables_agree_whatever_is_let_go_of_and_nothing_goes_that_is_needed() {
    let seeds = std::env::var("HIVEWARD_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(0..12, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("HIVEWARD_SEED={seed}");
        let mut dice = Dice { dice: fastrand::Rng::with_seed(seed), made: Vec::new() };
        let keep = match dice.dice.u8(..3) {
            0 => Keep { age: Duration::from_millis(dice.dice.u64(..60)), ..PLENTY },
            1 => Keep { count_max: dice.dice.u64(..12), ..PLENTY },
            _ => Keep { bytes_max: dice.dice.u64(..900_000), ..PLENTY },
        };
        let scene = Scene::new(keep);
        let mut now = 0;
        for _ in 0..150 {
            now += 1;
            let events = dice.next(&scene);
            scene.take_in(now, &events);
            if dice.dice.u8(..4) == 0 {
                let rows = scene.rows();
                scene.turn(now, 4);
                let after = scene.rows();
                for (id, (record, _)) in &rows {
                    if after.contains_key(id) {
                        continue;
                    }
                    assert!(record.status.is_terminal(), "a task that lives was let go of");
                    let needs = |other: &TaskRecord| other.spec.depends_on.contains(&record.id());
                    let needed = after.values().any(|(other, _)| !other.status.is_terminal() && needs(other));
                    assert!(!needed, "a task was let go of whose result another is to get");
                    if let Some(parent) = record.spec.parent_id() {
                        assert!(!after.contains_key(&parent.as_u128()), "a subtask went before what it came of");
                    }
                }
                assert!(
                    after.values().all(|(record, _)| {
                        record.spec.parent_id().is_none_or(|parent| after.contains_key(&parent.as_u128()))
                    })
                );
            }
            scene.check();
        }
        // When nothing lives and nothing is to be kept nothing is left.
        let live: Vec<_> = scene.rows().into_values().filter(|(record, _)| !record.status.is_terminal()).collect();
        let cancel = |(record, _): &(TaskRecord, usize)| SwarmEvent::Cancelled {
            task: record.id(),
            reason: "over".into(),
            lease: None,
            operation: None,
        };
        scene.take_in(now, &live.iter().map(cancel).collect::<Vec<_>>());
        let nothing = TaskRetention(Keep { age: Duration::ZERO, count_max: 0, bytes_max: 0 });
        let scene = Scene { view: TaskView { keep: nothing, ..scene.view }, ..scene };
        scene.prune(now + 1_000);
        scene.check();
        assert_eq!(scene.rows().len(), 0, "of seed {seed}");
    }
}

#[test]
fn each_limit_lets_go_of_what_ended_first_with_its_blobs() {
    let of = |keep: Keep, now: i64| -> (usize, Vec<bool>) {
        let scene = Scene::new(keep);
        for n in 0..5_u64 {
            let one = spec(|spec| {
                spec.swarm = scene.swarms[0];
                spec.work = Work::Kind { kind: "probe".into(), payload: Some(blob(n, 1_000_000)) };
            });
            let (task, principal) = (one.id, "test".into());
            scene.take_in(n as i64, &[SwarmEvent::Submitted { tasks: vec![Arc::new(one)], operation: None, principal }]);
            scene.take_in(n as i64 * 10, &[SwarmEvent::Failed { task, error: "it was late".into(), lease: None }]);
        }
        scene.prune(now);
        scene.check();
        let owners = scene.db.begin_read().unwrap().open_table(BLOB_OWNERS).unwrap();
        let owned = |n| owners.range((hash(n).bytes(), 0)..=(hash(n).bytes(), u128::MAX)).unwrap().next().is_some();
        (scene.rows().len(), (0..5).map(owned).collect())
    };
    let kept = |count: usize| (count, (0..5).map(|n| n >= 5 - count).collect::<Vec<_>>());
    assert_eq!(of(PLENTY, 50), kept(5));
    assert_eq!(of(Keep { age: Duration::from_millis(30), ..PLENTY }, 45), kept(3));
    assert_eq!(of(Keep { count_max: 2, ..PLENTY }, 0), kept(2));
    assert_eq!(of(Keep { bytes_max: 3_500_000, ..PLENTY }, 0), kept(3));
    assert_eq!(of(Keep { bytes_max: 0, ..PLENTY }, 0), kept(0));
}

#[test]
fn what_is_needed_is_looked_at_again_and_goes_when_nothing_needs_it() {
    let scene = Scene::new(Keep { age: Duration::from_millis(10), ..PLENTY });
    let first = spec(|spec| spec.swarm = scene.swarms[0]);
    let waits = spec(|spec| {
        spec.swarm = scene.swarms[0];
        spec.depends_on = vec![first.id];
    });
    let (done, waiting) = (first.id, waits.id);
    let tasks = vec![Arc::new(first), Arc::new(waits)];
    scene.take_in(1, &[SwarmEvent::Submitted { tasks, operation: None, principal: "test".into() }]);
    let mut dice = Dice { dice: fastrand::Rng::with_seed(1), made: Vec::new() };
    scene.take_in(2, &dice.ended(done, 1, Next::Succeed));
    assert_eq!((scene.prune(1_000), scene.rows().len()), (0, 2), "the other has not read its result yet");
    scene.take_in(1_005, &dice.ended(waiting, 1, Next::Succeed));
    assert_eq!(scene.prune(1_009), 0, "put off to when it was needed");
    assert_eq!(scene.prune(1_011), 1);
    assert_eq!(scene.prune(1_016), 1);
    scene.check();
}

#[test]
fn rows_from_before_there_was_an_index_are_taken_into_it_a_few_at_a_time_and_count_from_then_on() {
    let scene = Scene::new(PLENTY);
    let mut dice = Dice { dice: fastrand::Rng::with_seed(3), made: Vec::new() };
    for at in 0..60 {
        let events = dice.next(&scene);
        scene.take_in(at, &events);
    }
    scene.check();
    // As a version wrote them that knew none of it.
    let txn = scene.db.begin_write().unwrap();
    txn.delete_table(ENDED).unwrap();
    txn.delete_table(TOTALS).unwrap();
    txn.delete_table(USED).unwrap();
    txn.delete_table(BLOBS_OF).unwrap();
    txn.delete_table(BLOB_OWNERS).unwrap();
    txn.delete_table(NEEDED_BY).unwrap();
    txn.delete_table(INDEXED).unwrap();
    scene.view.prepare(&txn).unwrap();
    txn.commit().unwrap();
    let mut turns = 0;
    while scene.turn(60, 4).more {
        turns += 1;
        // Life goes on meanwhile, in rows on both sides of the place.
        let events = dice.next(&scene);
        scene.take_in(60 + turns, &events);
    }
    assert!(turns > 5, "{turns}");
    scene.check();
}
