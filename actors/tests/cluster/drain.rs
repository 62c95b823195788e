//! Draining moves what a node holds, gently; it can be cancelled, and it always ends.

use std::time::Duration;

use hiveward_actors::{
    client::{NewAgent, NewSwarm, SwarmRef},
    roster::RosterMsg,
};
use hiveward_catalogue::directory::NodeStatus;
use hiveward_kernel::entity::Entity;
use hiveward_runtime::{clock::Deadline, error::Code, net::identity::JoinToken};
use hiveward_work::task::status::{AttemptStatus, TaskStatus};

use crate::rig::{Rig, op, op_named, sh, until};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_finishes_what_it_runs_and_everything_moves() {
    let rig = Rig::start(3).await;
    let swarm = rig.swarm_on("far", None).await;
    let at = rig.place(Entity::Swarm(swarm)).unwrap();
    let mut agents = Vec::new();
    for n in 0..6 {
        let new = NewAgent { swarm: Some(SwarmRef::Id(swarm)), ..NewAgent::command(format!("worker-{n}")) };
        agents.push(rig.control(0).create_agent(op(), new).await.unwrap().value.spec.id);
    }
    let marker = tempfile::tempdir().unwrap();
    let go = marker.path().join("go");
    let mut tasks = Vec::new();
    for agent in &agents {
        let mut task = sh(&format!("while ! [ -e {} ]; do sleep 0.05; done", go.display()));
        (task.swarm, task.agent) = (Some(SwarmRef::Id(swarm)), Some(*agent));
        let task = rig.submit(0, task).await;
        rig.running(task).await;
        tasks.push(task);
    }
    let view = rig.control(1).drain_node(op_named("drain"), rig.hosts[at].id, LONG).await.unwrap().value;
    assert!(view.drain.unwrap().entities_at_start >= 2, "{view:?}");
    // Its coordinator goes at once, its busy agents do not.
    until("the coordinator to go", || (rig.place(Entity::Swarm(swarm)) != Some(at)).then_some(())).await;
    let staying = agents.iter().filter(|agent| rig.place(Entity::Agent(**agent)) == Some(at)).count() as u32;
    assert!(staying >= 1);
    assert_eq!(rig.node(at).status, NodeStatus::Draining);
    assert!(rig.node(at).drain.unwrap().entities_left >= staying);
    std::fs::write(&go, "").unwrap();
    for task in tasks {
        assert_eq!(rig.succeeded(task).await.attempts.len(), 1);
    }
    rig.status_until(at, NodeStatus::Drained).await;
    assert_eq!(rig.node(at).entities, 0);
    // Who moved works where it is now, and nothing new comes here.
    for agent in &agents {
        let mut task = sh("echo moved");
        (task.swarm, task.agent) = (Some(SwarmRef::Id(swarm)), Some(*agent));
        let task = rig.submit(2, task).await;
        rig.succeeded(task).await;
    }
    until("nobody here", || {
        rig.hosts[at].house.doors.all().iter().all(|(entity, _)| rig.place(*entity) == Some(at)).then_some(())
    })
    .await;
    assert!(rig.kinds().iter().all(|kind| kind != "TaskStaleRefused"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_drain_leaves_who_was_busy_where_it_is_and_it_takes_work_again() {
    let rig = Rig::start(2).await;
    let agent = rig.agent_on("worker", 1).await;
    let marker = tempfile::tempdir().unwrap();
    let go = marker.path().join("go");
    let task = rig.submit(0, sh(&format!("while ! [ -e {} ]; do sleep 0.05; done", go.display()))).await;
    rig.running(task).await;
    rig.control(0).drain_node(op(), rig.hosts[1].id, LONG).await.unwrap();
    let waiting = rig.submit(0, sh("echo later")).await;
    std::fs::write(&go, "").unwrap();
    rig.succeeded(task).await;
    // It is pinned: it is idle, and has nowhere to go.
    assert_eq!(rig.node(1).status, NodeStatus::Draining);
    assert!(!rig.control(0).task(waiting).unwrap().unwrap().status.is_terminal());
    let view = rig.control(1).cancel_drain(op(), rig.hosts[1].id).await.unwrap().value;
    assert_eq!(view.status, NodeStatus::Up);
    let record = rig.succeeded(waiting).await;
    assert_eq!((record.attempts.len(), record.attempts[0].agent), (1, agent));
    let none = rig.control(1).cancel_drain(op(), rig.hosts[1].id).await.unwrap_err();
    assert_eq!(none.code, Code::Refused);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_at_its_deadline_whatever_runs() {
    let rig = Rig::start(2).await;
    let pinned = rig.agent_on("pinned", 1).await;
    let mut task = sh("sleep 600");
    task.agent = Some(pinned);
    let task = rig.submit(0, task).await;
    rig.running(task).await;
    until("the process", || (!rig.hosts[1].processes().is_empty()).then_some(())).await;
    rig.control(0).drain_node(op(), rig.hosts[1].id, Duration::from_millis(600)).await.unwrap();
    rig.status_until(1, NodeStatus::Drained).await;
    let record = rig.task_until(task, "lost", |record| record.status == TaskStatus::Queued).await;
    assert_eq!(record.attempts[0].status, AttemptStatus::Lost);
    until("no process", || rig.hosts[1].processes().is_empty().then_some(())).await;
    assert_eq!(rig.place(Entity::Agent(pinned)), None);
    // The only node that is left takes no drain, and the drained one may be removed.
    let refused = rig.control(1).drain_node(op(), rig.hosts[0].id, LONG).await.unwrap_err();
    assert_eq!(refused.code, Code::Refused);
    let removed = rig.control(1).remove_node(op(), rig.hosts[1].id, false).await.unwrap().value;
    assert_eq!(removed.status, NodeStatus::Removed);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_up_is_not_removed_without_force_and_a_lost_one_is() {
    let rig = Rig::start(3).await;
    let agent = rig.agent("worker").await;
    let at = rig.place(Entity::Agent(agent)).unwrap();
    let refused = rig.control(0).remove_node(op(), rig.hosts[at].id, false).await.unwrap_err();
    assert_eq!(refused.code, Code::Refused);
    rig.control(0).remove_node(op(), rig.hosts[at].id, true).await.unwrap();
    assert_ne!(rig.place(Entity::Agent(agent)), Some(at));
    let other = if at == 1 { 2 } else { 1 };
    rig.declare_lost(other).await;
    rig.control(0).remove_node(op(), rig.hosts[other].id, false).await.unwrap();
    assert_eq!(rig.place(Entity::Agent(agent)), Some(0));
    let task = rig.submit(0, sh("echo here")).await;
    rig.succeeded(task).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_is_made_on_any_node_and_only_its_hash_is_kept() {
    let rig = Rig::start(2).await;
    let text = rig.control(1).create_join_token(op(), LONG).await.unwrap().value;
    let token: JoinToken = text.parse().unwrap();
    let secret = text.split('.').nth(3).unwrap().to_owned();
    let raw: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&secret[2 * at..2 * at + 2], 16).unwrap()).collect();
    for event in rig.ledger.read(Default::default(), usize::MAX).unwrap() {
        let holds = |needle: &[u8]| event.body.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(secret.as_bytes()) && !holds(&raw));
    }
    let open = || rig.hosts[1].house.directory.read(|known| known.tokens.open().count());
    until("one token is open", || (open() == 1).then_some(())).await;
    // The same token is refused to be issued twice by nothing; joiners are decided where the roster acts.
    let node = hiveward_runtime::op::NodeId::new();
    let record = hiveward_catalogue::roster::event::NodeRecord::of_this_host(node, 7, "host:1".into());
    let decide = Box::new(move |_: &mut _, members: &[_], _: &_| (members.len() == 2).then_some(record));
    let admit = |reply| RosterMsg::Admit { decide, reply };
    rig.hosts[0].running.roster.ask(Deadline::after(LONG), admit).await.unwrap().unwrap();
    assert_eq!(rig.control(0).nodes().len(), 3);
    assert_eq!(token.cluster, rig.hosts[0].house.identity.as_ref().unwrap().cluster());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_can_hold_waits_and_says_why_and_is_placed_when_one_joins() {
    let rig = Rig::start(2).await;
    let labels = std::collections::BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]);
    let new = NewSwarm { name: "picky".into(), node_labels: labels.clone(), ..NewSwarm::default() };
    let swarm = rig.control(0).create_swarm(op(), new).await.unwrap().value.spec.id;
    assert_eq!(rig.place(Entity::Swarm(swarm)), None);
    let why = rig.hosts[0].house.directory.read(|known| known.swarms[&swarm].place.why.to_string());
    assert_eq!(why, "no node is eligible: each of 2 lacks a label");
    let mut record = (*rig.hosts[1].house.me).clone();
    record.labels = labels;
    rig.roster(|reply| RosterMsg::NodeJoined { record, reply }).await.unwrap();
    until("it is placed", || (rig.place(Entity::Swarm(swarm)) == Some(1)).then_some(())).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_of_a_removed_node_do_not_bring_it_back() {
    let rig = Rig::start(3).await;
    let record = (*rig.hosts[1].house.me).clone();
    rig.declare_lost(1).await;
    rig.control(0).remove_node(op(), rig.hosts[1].id, false).await.unwrap();
    let refused = rig.roster(|reply| RosterMsg::NodeJoined { record, reply }).await.unwrap_err();
    assert!(refused.message.contains("was removed from this cluster"), "{}", refused.message);
    let gone = rig.control(0).nodes().into_iter().find(|node| node.node == rig.hosts[1].id).unwrap();
    assert_eq!(gone.status.name(), "REMOVED");
    rig.stop().await;
}
