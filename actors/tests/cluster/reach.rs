//! An entity on another node is reached as one here is.

use std::time::Duration;

use hiveward_actors::client::{NewAgent, NewSwarm, NewTask, NewWork, SwarmRef};
use hiveward_agents::message::StopMode;
use hiveward_catalogue::agent::spec::ConnectorSpec;
use hiveward_kernel::entity::Entity;
use hiveward_runtime::error::Code;
use hiveward_work::task::status::TaskStatus;

use crate::rig::{Rig, op, op_named, sh, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_submitted_on_one_node_runs_on_another_and_its_result_comes_back() {
    let rig = Rig::start(3).await;
    // The coordinator on the second, its agent on the third, the client on the first and on each.
    let swarm = rig.swarm_on("far", Some(1)).await;
    let new = NewAgent { swarm: Some(SwarmRef::Id(swarm)), node: Some(rig.hosts[2].id), ..NewAgent::command("worker") };
    let agent = rig.control(0).create_agent(op(), new).await.unwrap().value;
    assert_eq!(rig.place(Entity::Swarm(swarm)), Some(1));
    assert_eq!(rig.place(Entity::Agent(agent.spec.id)), Some(2));
    for at in 0..3 {
        let mut task = sh("echo hello");
        task.swarm = Some(SwarmRef::Id(swarm));
        let task = rig.submit(at, task).await;
        let record = rig.succeeded(task).await;
        assert_eq!(rig.result(&record), "\"hello\\n\"");
        assert_eq!(record.attempts.len(), 1);
        assert_eq!(record.attempts[0].agent, agent.spec.id);
    }
    assert!(rig.kinds().iter().all(|kind| kind != "TaskStaleRefused"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_reaches_the_process_on_another_node() {
    let rig = Rig::start(2).await;
    rig.agent_on("worker", 1).await;
    let task = rig.submit(0, sh("sleep 600")).await;
    rig.running(task).await;
    until("the process", || (!rig.hosts[1].processes().is_empty()).then_some(())).await;
    let cancelled = rig.control(1).cancel_task(op(), task).await.unwrap().value;
    assert_eq!(cancelled.status, TaskStatus::Cancelled);
    until("no process", || rig.hosts[1].processes().is_empty().then_some(())).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_commanded_and_removed_from_any_node() {
    let rig = Rig::start(2).await;
    let agent = rig.agent_on("worker", 1).await;
    rig.control(0).stop_agent(op(), agent, StopMode::Graceful).await.unwrap();
    rig.control(1).start_agent(op(), agent).await.unwrap();
    rig.control(0).restart_agent(op(), agent).await.unwrap();
    let task = rig.submit(1, sh("echo on")).await;
    rig.succeeded(task).await;
    rig.control(0).remove_agent(op(), agent, false).await.unwrap();
    until("its actor to go", || rig.hosts[1].house.doors.of::<hiveward_agents::message::AgentMsg>(agent).is_none().then_some(()))
        .await;
    let gone = rig.control(1).start_agent(op(), agent).await.unwrap_err();
    assert_eq!(gone.code, Code::NotFound);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_spread_over_the_nodes_and_each_says_why_it_is_there() {
    let rig = Rig::start(3).await;
    for n in 0..6 {
        rig.agent(&format!("worker-{n}")).await;
    }
    let entities: Vec<_> = rig.control(1).nodes().iter().map(|node| node.entities).collect();
    assert_eq!(entities.iter().sum::<u32>(), 7, "{entities:?}");
    assert!(entities.iter().all(|entities| (2..=3).contains(entities)), "{entities:?}");
    let whys = rig.hosts[2]
        .house
        .directory
        .read(|known| known.agents.values().map(|entry| entry.place.why.to_string()).collect::<Vec<_>>());
    assert!(whys.iter().all(|why| why.starts_with("best of 3: ")), "{whys:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roster_goes_on_where_leadership_goes_and_repeats_its_answers() {
    let mut rig = Rig::start(2).await;
    let new = NewAgent { swarm: Some(SwarmRef::Name("default".into())), ..NewAgent::command("worker") };
    let first = rig.control(1).create_agent(op_named("once"), new.clone()).await.unwrap().value.spec.id;
    rig.lead(1);
    let again = rig.control(0).create_agent(op_named("once"), new.clone()).await.unwrap().value.spec.id;
    assert_eq!(again, first);
    let taken = rig.control(0).create_agent(op(), new.clone()).await.unwrap_err();
    assert_eq!(taken.code, Code::Conflict);
    rig.lead(0);
    rig.control(1).create_agent(op(), NewAgent { name: "other".into(), ..new }).await.unwrap();
    let swarm = rig.control(1).create_swarm(op(), NewSwarm { name: "more".into(), ..NewSwarm::default() }).await.unwrap();
    // What one node was answered, another knows at once.
    rig.control(0).remove_swarm(op(), swarm.value.spec.id, false).await.unwrap();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_the_roster_refuses_in_words_and_nothing_happens() {
    let rig = Rig::start(2).await;
    for host in &rig.hosts {
        host.driver.leadership.send_modify(|now| {
            now.leader = None;
            now.is_me = false;
        });
    }
    let op = hiveward_runtime::op::Op::internal(Duration::from_millis(300));
    let refused = rig.control(1).create_swarm(op, NewSwarm { name: "late".into(), ..NewSwarm::default() }).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_larger_than_a_message_reaches_a_distant_coordinator_once() {
    let rig = Rig::start(2).await;
    let swarm = rig.swarm_on("far", Some(1)).await;
    let new = NewAgent {
        swarm: Some(SwarmRef::Id(swarm)),
        connector: ConnectorSpec::Noop,
        max_concurrent_tasks: 1_000,
        ..NewAgent::command("worker")
    };
    rig.control(0).create_agent(op(), new).await.unwrap();
    let task = |n: usize| {
        let payload = Some(serde_json::json!({"n": n, "filling": "x".repeat(2_000)}));
        NewTask { swarm: Some(SwarmRef::Id(swarm)), ..NewTask::new(NewWork::Kind { kind: "probe".into(), payload }) }
    };
    let tasks: Vec<_> = (0..500).map(task).collect();
    let first = rig.control(0).submit_tasks(op_named("many"), tasks.clone()).await.unwrap().value;
    let again = rig.control(0).submit_tasks(op_named("many"), tasks).await.unwrap().value;
    assert_eq!(first.len(), 500);
    assert_eq!(first[499].id(), again[499].id());
    for task in first {
        rig.succeeded(task.id()).await;
    }
    rig.stop().await;
}
