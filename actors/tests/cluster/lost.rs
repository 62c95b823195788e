//! A node that is lost takes nothing with it, and says nothing any more that counts.

use hiveward_catalogue::directory::NodeStatus;
use hiveward_kernel::{entity::Entity, lease::Lease, loss};
use hiveward_runtime::cluster::lease::Phase;
use hiveward_work::{
    swarm::{
        event::Ended,
        wire::{From, SwarmWire},
    },
    task::{
        retry::RetryPolicy,
        status::{AttemptStatus, TaskStatus},
    },
};

use crate::rig::{Rig, op, sh, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempts_of_a_lost_node_are_lost_once_and_succeed_elsewhere() {
    let mut rig = Rig::start(3).await;
    let agent = rig.agent("worker").await;
    let at = rig.place(Entity::Agent(agent)).unwrap();
    assert_ne!(at, 0, "the coordinator is on the first, so that holds more");
    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("again");
    // The first attempt never ends; the second finds its trace.
    let script = format!("if [ -e {0} ]; then echo done; else touch {0}; sleep 600; fi", file.display());
    let task = rig.submit(0, sh(&script)).await;
    rig.running(task).await;
    until("the first attempt's trace", || file.exists().then_some(())).await;
    let old = rig.hosts[0].house.directory.location(Entity::Agent(agent)).unwrap();
    rig.cut_power(at).await;
    rig.declare_lost(at).await;
    let record = rig.succeeded(task).await;
    assert_eq!(record.attempts.len(), 2, "{record:#?}");
    assert_eq!(record.attempts[0].status, AttemptStatus::Lost);
    assert!(record.attempts[0].error.as_ref().unwrap().contains("is lost"), "{record:#?}");
    assert_eq!(record.attempts[1].agent, agent);
    assert_eq!(rig.node(at).status, NodeStatus::Lost);
    assert_ne!(rig.place(Entity::Agent(agent)), Some(at));

    // What the old life says under its old lease is refused, and shown.
    let ended = Ended {
        status: AttemptStatus::Succeeded,
        exit_code: Some(0),
        signal: None,
        result: None,
        artifacts: Vec::new(),
        error: None,
        retriable: false,
    };
    let lease = Lease { task, attempt: 1, agent };
    let from = From { node: old.node, placement: old.incarnation };
    let swarm = record.spec.swarm;
    let from_elsewhere = rig.hosts.iter().position(|host| host.id != old.node && host.id != rig.hosts[0].id).unwrap();
    let house = &rig.hosts[from_elsewhere].house;
    let place = house.directory.location(Entity::Swarm(swarm)).unwrap();
    house.router.tell_at(place, &swarm.key(), &SwarmWire::Ended { lease, ended, from }).unwrap();
    until("the refusal", || rig.kinds().iter().any(|kind| kind == "TaskStaleRefused").then_some(())).await;
    assert_eq!(rig.control(0).task(task).unwrap().unwrap().status, TaskStatus::Succeeded);
    assert_eq!(rig.kinds().iter().filter(|kind| *kind == "TaskAttemptEnded").count(), 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_comes_back_elsewhere_and_its_agents_take_their_seats_again() {
    let mut rig = Rig::start(3).await;
    let swarm = rig.swarm_on("far", None).await;
    let at = rig.place(Entity::Swarm(swarm)).unwrap();
    assert_ne!(at, 0, "the first holds more");
    let other = if at == 1 { 2 } else { 1 };
    let new = hiveward_actors::client::NewAgent {
        swarm: Some(hiveward_actors::client::SwarmRef::Id(swarm)),
        node: Some(rig.hosts[other].id),
        max_concurrent_tasks: 4,
        ..hiveward_actors::client::NewAgent::command("worker")
    };
    let agent = rig.control(0).create_agent(op(), new).await.unwrap().value.spec.id;
    let marker = tempfile::tempdir().unwrap();
    let go = marker.path().join("go");
    let mut long = sh(&format!("while ! [ -e {} ]; do sleep 0.05; done; echo long", go.display()));
    long.swarm = Some(hiveward_actors::client::SwarmRef::Id(swarm));
    let long = rig.submit(0, long).await;
    rig.running(long).await;
    rig.cut_power(at).await;
    rig.declare_lost(at).await;
    assert_ne!(rig.place(Entity::Swarm(swarm)), Some(at));
    // What ran goes on under its lease; new work finds its way.
    let mut after = sh("echo after");
    after.swarm = Some(hiveward_actors::client::SwarmRef::Id(swarm));
    let after = rig.submit(0, after).await;
    assert_eq!(rig.succeeded(after).await.attempts[0].agent, agent);
    std::fs::write(&go, "").unwrap();
    let record = rig.succeeded(long).await;
    assert_eq!(record.attempts.len(), 1, "{record:#?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_lease_is_over_stops_everything_and_takes_it_up_again_with_the_lease() {
    let rig = Rig::start(2).await;
    let agent = rig.agent_on("worker", 1).await;
    let task = rig.submit(0, sh("sleep 600")).await;
    rig.running(task).await;
    until("the process", || (!rig.hosts[1].processes().is_empty()).then_some(())).await;
    rig.lease(1, Phase::Stopping);
    until("nothing to run there", || rig.hosts[1].processes().is_empty().then_some(())).await;
    until("no door", || rig.hosts[1].house.doors.of::<hiveward_agents::message::AgentMsg>(agent).is_none().then_some(())).await;
    rig.lease(1, Phase::Over);
    rig.declare_lost(1).await;
    let lost = rig.task_until(task, "lost", |record| record.status == TaskStatus::Queued).await;
    assert_eq!(lost.attempts[0].status, AttemptStatus::Lost);
    // It is pinned, so it waits for its node.
    assert_eq!(rig.place(Entity::Agent(agent)), None);
    rig.back(1, 2).await;
    assert_eq!(rig.place(Entity::Agent(agent)), Some(1));
    assert!(rig.hosts[1].house.doors.of::<hiveward_agents::message::AgentMsg>(agent).is_none(), "without a lease nothing starts");
    rig.lease(1, Phase::Held);
    let again = rig.running(task).await;
    assert_eq!(again.attempts.len(), 2, "{again:#?}");
    rig.control(0).cancel_task(op(), task).await.unwrap();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_stops_because_its_lease_is_over_was_lost_and_never_cancelled() {
    let rig = Rig::start(2).await;
    let agent = rig.agent_on("worker", 1).await;
    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("again");
    let script = format!("if [ -e {0} ]; then echo done; else touch {0}; sleep 600; fi", file.display());
    let mut task = sh(&script);
    // Not even one that is tried once ends by it.
    task.retry = Some(RetryPolicy::NEVER);
    let task = rig.submit(0, task).await;
    rig.running(task).await;
    until("the first attempt's trace", || file.exists().then_some(())).await;
    rig.lease(1, Phase::Stopping);
    until("nothing to run there", || rig.hosts[1].processes().is_empty().then_some(())).await;
    until("no door", || rig.hosts[1].house.doors.of::<hiveward_agents::message::AgentMsg>(agent).is_none().then_some(())).await;
    // It has its lease again before anybody called it lost, and finds what it ended itself.
    rig.lease(1, Phase::Held);
    let record = rig.succeeded(task).await;
    let attempts: Vec<_> = record.attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!(attempts, [AttemptStatus::Lost, AttemptStatus::Succeeded], "{record:#?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_end_though_a_third_of_what_nodes_tell_each_other_is_lost() {
    const TASKS: usize = 40;
    let rig = Rig::start(3).await;
    for n in 0..4 {
        rig.agent_on(&format!("worker-{n}"), 1 + n % 2).await;
    }
    loss::lose(333, 8_812);
    let tasks = (0..TASKS).map(|n| sh(&format!("echo {n}"))).collect();
    let tasks = rig.control(1).submit_tasks(op(), tasks).await.unwrap().value;
    for task in tasks {
        let record = rig.succeeded(task.id()).await;
        assert_eq!(record.attempts.len(), 1, "{record:#?}");
    }
    let lost = loss::lost();
    loss::lose(0, 0);
    assert!(lost > TASKS / 2, "only {lost} were lost");
    assert!(rig.kinds().iter().all(|kind| kind != "TaskStaleRefused"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_process_has_ended_coordinators_move_at_once_and_agents_wait_for_its_lease() {
    let mut rig = Rig::start(3).await;
    let swarm = rig.swarm_on("far", None).await;
    let from = rig.place(Entity::Swarm(swarm)).unwrap();
    assert_ne!(from, 0, "the first holds more");
    // One on each node, none of them pinned.
    let mut agents = Vec::new();
    for n in 0..3 {
        let new = hiveward_actors::client::NewAgent {
            swarm: Some(hiveward_actors::client::SwarmRef::Id(swarm)),
            ..hiveward_actors::client::NewAgent::command(format!("worker-{n}"))
        };
        agents.push(rig.control(0).create_agent(op(), new).await.unwrap().value.spec.id);
    }
    let there = *agents.iter().find(|agent| rig.place(Entity::Agent(**agent)) == Some(from)).unwrap();
    rig.cut_power(from).await;
    rig.declare_down(from).await;
    assert_ne!(rig.place(Entity::Swarm(swarm)), Some(from));
    assert_eq!(rig.place(Entity::Agent(there)), Some(from), "it may still run there");
    assert_eq!(rig.node(from).status, NodeStatus::Up, "its lease is not over");
    let mut task = sh("echo after");
    task.swarm = Some(hiveward_actors::client::SwarmRef::Id(swarm));
    let task = rig.submit(0, task).await;
    assert_ne!(rig.succeeded(task).await.attempts[0].agent, there);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_called_down_by_mistake_loses_its_coordinators_and_no_task() {
    let rig = Rig::start(3).await;
    let swarm = rig.swarm_on("far", None).await;
    let from = rig.place(Entity::Swarm(swarm)).unwrap();
    let new = hiveward_actors::client::NewAgent {
        swarm: Some(hiveward_actors::client::SwarmRef::Id(swarm)),
        node: Some(rig.hosts[from].id),
        max_concurrent_tasks: 4,
        ..hiveward_actors::client::NewAgent::command("worker")
    };
    rig.control(0).create_agent(op(), new).await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..20 {
        let mut task = sh(&format!("echo {n}"));
        task.swarm = Some(hiveward_actors::client::SwarmRef::Id(swarm));
        // The coordinator may die with the question.
        tasks.push(rig.submit_surely(0, &format!("echo-{n}"), task).await);
        if n == 10 {
            rig.declare_down(from).await;
        }
    }
    assert_ne!(rig.place(Entity::Swarm(swarm)), Some(from));
    for task in tasks {
        assert_eq!(rig.succeeded(task).await.attempts.len(), 1);
    }
    rig.stop().await;
}
