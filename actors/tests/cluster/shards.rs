//! A swarm with several coordinators: each task is in one of them, and goes where there is somebody for it.

use std::collections::BTreeSet;

use hiveward_actors::client::{DependsOn, NewAgent, NewSwarm, NewTask, SwarmRef};
use hiveward_agents::record::AgentRecord;
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, SwarmId, TaskId},
    loss,
};
use hiveward_runtime::error::Code;
use hiveward_work::{
    swarm::table::SwarmFilter,
    task::{
        record::TaskRecord,
        search::{TaskFilter, TaskOrder},
        status::TaskStatus,
    },
};

use crate::rig::{Rig, op, op_named, sh, until};

/// Of two shards, on whichever nodes.
async fn two_shards(rig: &Rig) -> SwarmId {
    let new = NewSwarm { name: "wide".into(), shards: 2, ..NewSwarm::default() };
    rig.control(0).create_swarm(op(), new).await.unwrap().value.spec.id
}

async fn agent_of(rig: &Rig, swarm: SwarmId, name: &str, on: usize) -> AgentRecord {
    let new = NewAgent {
        swarm: Some(SwarmRef::Id(swarm)),
        node: Some(rig.hosts[on].id),
        stop_grace_ms: 100,
        max_concurrent_tasks: 3,
        ..NewAgent::command(name)
    };
    rig.control(0).create_agent(op(), new).await.unwrap().value
}

fn to(swarm: SwarmId, task: NewTask) -> NewTask {
    NewTask { swarm: Some(SwarmRef::Id(swarm)), ..task }
}

/// Each leaves its name in `file` when it runs.
fn traces(swarm: SwarmId, tasks: usize, file: &std::path::Path) -> Vec<NewTask> {
    let one = |n| to(swarm, sh(&format!("echo t{n} >> {}; sleep 0.05", file.display())));
    (0..tasks).map(one).collect()
}

/// Every task succeeded, at its first attempt, and ran once.
async fn ran_once(rig: &Rig, tasks: &[TaskId], file: &std::path::Path) -> Vec<TaskRecord> {
    let mut records = Vec::new();
    for task in tasks {
        let record = rig.succeeded(*task).await;
        assert_eq!(record.attempts.len(), 1, "{record:#?}");
        records.push(record);
    }
    let text = std::fs::read_to_string(file).unwrap();
    let names: BTreeSet<&str> = text.lines().collect();
    assert_eq!((text.lines().count(), names.len()), (tasks.len(), tasks.len()), "{text}");
    records
}

async fn submit(rig: &Rig, tasks: Vec<NewTask>) -> Vec<TaskId> {
    rig.control(0).submit_tasks(op(), tasks).await.unwrap().value.iter().map(TaskRecord::id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_shard_without_agents_are_taken_by_its_sibling_and_run_once() {
    const TASKS: usize = 30;
    let rig = Rig::start(2).await;
    let swarm = two_shards(&rig).await;
    let (victim, thief) = (swarm.shard(1), swarm.shard(0));
    assert_ne!(rig.place(Entity::Swarm(victim)), rig.place(Entity::Swarm(thief)), "both nodes can hold one");
    // At its coordinator, so that what is lost is lost between the shards.
    let agent = agent_of(&rig, swarm, "worker", rig.place(Entity::Swarm(thief)).unwrap()).await;
    assert_eq!(agent.spec.swarm, thief, "the first agent goes to the first of those with the fewest");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ran");
    // Part of what the shards say is lost, and said again.
    loss::lose(200, 4_711);
    let tasks = submit(&rig, traces(victim, TASKS, &file)).await;
    let records = ran_once(&rig, &tasks, &file).await;
    loss::lose(0, 0);
    for record in &records {
        assert_eq!(record.spec.swarm, thief, "{record:#?}");
        let moved = record.moves.last().unwrap();
        assert_eq!((moved.shards(), moved.taken_at.is_some()), ((1, 0), true));
        let why = rig.control(0).why(record, op().deadline).await.unwrap().text;
        assert!(why.contains("moved from shard 1 to shard 0: shard 0 had") && why.contains("went to"), "{why}");
    }
    // The swarm is one, whichever of its shards somebody asks by, and each of its tasks counts once.
    let named = rig.control(0).swarm_named("wide").unwrap().unwrap();
    assert_eq!((named.spec.id, named.agents, named.tasks[TaskStatus::Succeeded as usize]), (swarm, 1, TASKS as u64));
    assert_eq!(named.tasks.iter().sum::<u64>(), TASKS as u64);
    assert_eq!(rig.control(0).swarm(victim).unwrap().unwrap(), named);
    let listed = rig.control(0).swarms(&SwarmFilter::default(), None, 100).unwrap().items;
    assert_eq!(listed.iter().filter(|(_, record)| record.spec.name == "wide").count(), 1);
    let filter = TaskFilter { swarm: Some(swarm), ..TaskFilter::default() };
    let page = rig.control(0).tasks(&filter, TaskOrder::CreatedAsc, None, 100).unwrap().items;
    assert_eq!(page.iter().map(|(_, record)| record.id()).collect::<Vec<_>>(), tasks);
    assert_eq!(rig.control(0).shards(swarm).unwrap().len(), 2);
    rig.stop().await;
}

/// The node of one of the coordinators dies while tasks go from one to the other.
async fn dies_in_the_midst(shard: u16) {
    const TASKS: usize = 24;
    let mut rig = Rig::start(3).await;
    let swarm = two_shards(&rig).await;
    let dies = rig.place(Entity::Swarm(swarm.shard(shard))).unwrap();
    assert_ne!(dies, 0, "the first holds more");
    agent_of(&rig, swarm, "worker", 0).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ran");
    loss::lose(150, 8_812);
    let tasks = submit(&rig, traces(swarm.shard(1), TASKS, &file)).await;
    let control = rig.control(0).clone();
    let moved = |task: &TaskId| control.task(*task).unwrap().is_some_and(|record| !record.moves.is_empty());
    until("a few that moved", || (tasks.iter().filter(|task| moved(task)).count() >= 3).then_some(())).await;
    rig.cut_power(dies).await;
    rig.declare_lost(dies).await;
    ran_once(&rig, &tasks, &file).await;
    loss::lose(0, 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_gives_tasks_away_and_dies_with_its_node_gives_each_of_them_once() {
    dies_in_the_midst(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_takes_tasks_and_dies_with_its_node_takes_each_of_them_once() {
    dies_in_the_midst(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_operation_reaches_the_shard_that_knows_it_and_a_submission_follows_what_it_waits_for() {
    let rig = Rig::start(2).await;
    let swarm = two_shards(&rig).await;
    let mut shards = BTreeSet::new();
    for n in 0..12 {
        let name = format!("operation-{n}");
        let first = rig.control(0).submit_tasks(op_named(&name), vec![to(swarm, sh("true"))]).await.unwrap().value;
        let again = rig.control(1).submit_tasks(op_named(&name), vec![to(swarm, sh("true"))]).await.unwrap().value;
        assert_eq!(first[0].id(), again[0].id());
        shards.insert(first[0].spec.swarm);
    }
    assert_eq!(shards.len(), 2, "all went to one shard");
    // Nobody is there to run them, so all of them wait where they were submitted.
    let b = submit(&rig, vec![to(swarm.shard(1), sh("true"))]).await[0];
    let after = |on: TaskId| NewTask { depends_on: vec![DependsOn::Task(on)], ..to(swarm, sh("true")) };
    for name in ["first", "second"] {
        let waits = rig.control(1).submit_tasks(op_named(name), vec![after(b)]).await.unwrap().value;
        assert_eq!(waits[0].spec.swarm, swarm.shard(1));
    }
    let elsewhere = until("one in the other shard", || {
        let filter = TaskFilter { swarm: Some(swarm), ..TaskFilter::default() };
        let page = rig.control(0).tasks(&filter, TaskOrder::CreatedAsc, None, 100).unwrap().items;
        page.into_iter().map(|(_, record)| record).find(|record| record.spec.swarm == swarm)
    });
    let elsewhere = elsewhere.await.id();
    let both = NewTask { depends_on: vec![DependsOn::Task(elsewhere), DependsOn::Task(b)], ..to(swarm, sh("true")) };
    let refused = rig.control(0).submit_tasks(op(), vec![both]).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::Refused, Some("tasks.0.dependsOn")), "{refused}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_shared_out_evenly_and_a_swarm_is_removed_with_all_its_shards() {
    const TASKS: usize = 80;
    let rig = Rig::start(2).await;
    let swarm = two_shards(&rig).await;
    let mut of = Vec::new();
    for n in 0..4 {
        of.push(agent_of(&rig, swarm, &format!("worker-{n}"), n % 2).await.spec.swarm);
    }
    assert_eq!(of, [0, 1, 0, 1].map(|n| swarm.shard(n)));
    let new = NewAgent { swarm: Some(SwarmRef::Id(swarm.shard(0))), ..NewAgent::command("worker-1") };
    assert_eq!(rig.control(0).create_agent(op(), new).await.unwrap_err().code, Code::Conflict, "a name is the whole swarm's");
    let mut tasks = submit(&rig, (0..TASKS).map(|_| to(swarm.shard(1), sh("sleep 0.05"))).collect()).await;
    // Whatever moves meanwhile, a cancellation finds its task.
    let cancelled: Vec<TaskId> = tasks.split_off(TASKS - 20);
    for task in &cancelled {
        let done = rig.control(1).cancel_task(op(), *task).await;
        assert!(done.is_ok() || done.as_ref().is_err_and(|refused| refused.code == Code::Refused), "{done:?}");
    }
    for task in &cancelled {
        let record = rig.ended(*task).await;
        assert!(matches!(record.status, TaskStatus::Cancelled | TaskStatus::Succeeded), "{record:#?}");
    }
    let refused = rig.control(1).remove_swarm(op(), swarm, false).await.unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    rig.control(1).remove_swarm(op(), swarm, true).await.unwrap();
    for task in &tasks {
        rig.ended(*task).await;
    }
    assert!(rig.control(0).swarm_named("wide").unwrap().is_none());
    until("no coordinator", || {
        let left = |n| {
            rig.hosts.iter().any(|host| host.house.doors.of::<hiveward_work::swarm::message::SwarmMsg>(swarm.shard(n)).is_some())
        };
        (!left(0) && !left(1)).then_some(())
    })
    .await;
    let ids: Vec<AgentId> = rig.hosts[0].house.directory.read(|known| known.agents.keys().copied().collect());
    assert!(ids.is_empty(), "{ids:?}");
    rig.stop().await;
}
