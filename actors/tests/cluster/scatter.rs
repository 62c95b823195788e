//! One piece of work over agents on several nodes, gathered in spite of what happens to some of them.

use std::collections::BTreeSet;

use hiveward_actors::client::{NewAgent, NewHedge, NewScatter, Over, SwarmRef};
use hiveward_kernel::{entity::Entity, id::TaskId};
use hiveward_work::task::{
    record::TaskRecord,
    scatter::{HedgeAfter, Policy, Role},
    status::{AttemptStatus, TaskStatus},
};
use serde_json::{Value, json};

use crate::rig::{Rig, op, op_named, sh, until};

fn items(count: usize) -> Over {
    Over::Items((0..count).map(|n| json!(format!("item-{n}"))).collect())
}

async fn agents_everywhere(rig: &Rig) {
    for at in 0..rig.hosts.len() {
        rig.agent_on(&format!("worker-{at}"), at).await;
    }
}

/// The task that gathers, and its parts.
async fn scatter(rig: &Rig, at: usize, new: NewScatter) -> (TaskId, Vec<TaskId>) {
    let task = rig.control(at).scatter(op(), new).await.unwrap().value;
    (task.id(), task.subtasks)
}

fn result(rig: &Rig, record: &TaskRecord) -> Value {
    serde_json::from_str(&rig.result(record)).unwrap()
}

fn parts(rig: &Rig, record: &TaskRecord) -> Vec<TaskRecord> {
    record.subtasks.iter().map(|task| rig.control(0).task(*task).unwrap().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scatters_parts_run_on_all_nodes_and_are_gathered_in_order() {
    let rig = Rig::start(3).await;
    agents_everywhere(&rig).await;
    let new = NewScatter::new(items(9), sh("echo $HIVEWARD_ITEM_INDEX:$HIVEWARD_ITEM; sleep 0.2"));
    let (task, _) = scatter(&rig, 1, new).await;
    let record = rig.succeeded(task).await;
    let said = result(&rig, &record);
    assert_eq!(said["in"], json!(["0", "1", "2", "3", "4", "5", "6", "7", "8"]));
    assert_eq!((&said["failed"], &said["late"]), (&json!([]), &json!([])));
    assert_eq!(said["result"][7]["result"], "7:item-7\n");
    let agents: BTreeSet<_> = parts(&rig, &record).iter().map(|part| part.attempts[0].agent).collect();
    assert_eq!(agents.len(), 3, "{record:#?}");

    // Over agents: one part on each; a program reduces what they said.
    let all = Over::Agents { agents: Vec::new(), skills: Vec::new() };
    let reduce = sh(r#"grep -o 'from-agent_[0-9a-f]*' "$HIVEWARD_INPUTS" | sort -u | wc -l"#);
    let new = NewScatter { reduce: Some(reduce), ..NewScatter::new(all, sh("echo from-$HIVEWARD_AGENT")) };
    let again = new.clone();
    let first = rig.control(2).scatter(op_named("once"), new).await.unwrap().value.id();
    let record = rig.succeeded(first).await;
    let said = result(&rig, &record);
    assert_eq!(said["result"], "3\n", "{said}");
    assert_eq!(said["in"], json!(["worker-0", "worker-1", "worker-2"]));
    assert_eq!(record.subtasks.len(), 4, "three parts and what reduces them");
    let repeated = rig.control(0).scatter(op_named("once"), again).await.unwrap().value;
    assert_eq!(repeated.id(), first, "the same operation is the same scatter");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scatter_survives_the_loss_of_a_node_under_its_parts() {
    let mut rig = Rig::start(3).await;
    let mut agents = Vec::new();
    for n in 0..3 {
        agents.push(rig.agent(&format!("worker-{n}")).await);
    }
    let marker = tempfile::tempdir().unwrap();
    let go = marker.path().join("go");
    let new = NewScatter::new(items(3), sh(&format!("while ! [ -e {} ]; do sleep 0.05; done; echo done", go.display())));
    let (task, tasks) = scatter(&rig, 0, new).await;
    for part in &tasks {
        rig.running(*part).await;
    }
    let held = |at| agents.iter().any(|agent| rig.place(Entity::Agent(*agent)) == Some(at));
    let at = (1..3).find(|at| held(*at)).unwrap();
    rig.cut_power(at).await;
    rig.declare_lost(at).await;
    std::fs::write(&go, "").unwrap();
    let record = rig.succeeded(task).await;
    let lost = parts(&rig, &record).into_iter().filter(|part| part.attempts[0].status == AttemptStatus::Lost).count();
    assert!(lost > 0, "what ran on the lost node is shown so");
    assert_eq!(result(&rig, &record)["in"], json!(["0", "1", "2"]));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_its_deadline_a_scatter_takes_what_is_in_and_stops_the_rest() {
    let rig = Rig::start(3).await;
    agents_everywhere(&rig).await;
    let script = "case $HIVEWARD_ITEM_INDEX in 1) sleep 600;; 2) exit 3;; *) echo ok;; esac";
    let mut part = sh(script);
    part.retry = Some(hiveward_work::task::retry::RetryPolicy::NEVER);
    let new = NewScatter { policy: Policy::BestEffort, deadline_ms: Some(5_000), ..NewScatter::new(items(4), part.clone()) };
    let (task, tasks) = scatter(&rig, 2, new).await;
    let slow = tasks[1];
    rig.running(slow).await;
    let record = rig.succeeded(task).await;
    let said = result(&rig, &record);
    assert_eq!((&said["in"], &said["failed"], &said["late"]), (&json!(["0", "3"]), &json!(["2"]), &json!(["1"])));
    let slow = rig.ended(slow).await;
    assert_eq!(slow.status, TaskStatus::Cancelled);
    assert!(slow.error.as_ref().unwrap().contains("deadlineMs"), "{slow:#?}");
    until("nothing to run", || rig.hosts.iter().all(|host| host.processes().is_empty()).then_some(())).await;

    // As many as are wanted are enough, and fewer than that are not.
    let new = NewScatter { policy: Policy::AtLeast(2), ..NewScatter::new(items(4), part.clone()) };
    let record = rig.succeeded(scatter(&rig, 0, new).await.0).await;
    assert_eq!(result(&rig, &record)["in"].as_array().unwrap().len(), 2);
    let new = NewScatter { policy: Policy::All, ..NewScatter::new(items(4), part) };
    let record = rig.ended(scatter(&rig, 0, new).await.0).await;
    assert_eq!(record.status, TaskStatus::Failed);
    assert!(record.error.as_ref().unwrap().contains("1 of 4 parts failed"), "{record:#?}");
    until("nothing to run", || rig.hosts.iter().all(|host| host.processes().is_empty()).then_some(())).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_takes_too_long_is_won_by_its_twin_on_another_node() {
    let rig = Rig::start(3).await;
    agents_everywhere(&rig).await;
    let marker = tempfile::tempdir().unwrap();
    // Whoever runs the last item first never ends.
    let script = format!(
        "[ $HIVEWARD_ITEM_INDEX = 3 ] && mkdir {0}/first 2>/dev/null && exec sleep 600; sleep 0.3; echo $HIVEWARD_ITEM",
        marker.path().display()
    );
    let hedge = NewHedge { after: HedgeAfter::Factor(3.0), share: 0.25 };
    let new = NewScatter { hedge: Some(hedge), ..NewScatter::new(items(4), sh(&script)) };
    let (task, _) = scatter(&rig, 1, new).await;
    let record = rig.succeeded(task).await;
    let said = result(&rig, &record);
    assert_eq!(said["in"], json!(["0", "1", "2", "3"]));
    assert_eq!(said["result"][3]["result"], "item-3\n");
    let parts = parts(&rig, &record);
    assert_eq!(parts.len(), 5, "{record:#?}");
    let slow = rig.ended(parts[3].id()).await;
    let twin = &parts[4];
    assert_eq!((slow.status, twin.status), (TaskStatus::Cancelled, TaskStatus::Succeeded));
    assert!(slow.error.as_ref().unwrap().contains("its twin"), "{slow:#?}");
    let Some(Role::Twin { of, apart_from, why, .. }) = &twin.spec.role else { panic!("{twin:#?}") };
    assert_eq!((*of, *apart_from), (slow.id(), slow.attempts[0].agent));
    assert!(why.contains("3 × the median"), "{why}");
    let place = |agent| rig.place(Entity::Agent(agent)).unwrap();
    assert_ne!(place(twin.attempts[0].agent), place(slow.attempts[0].agent));
    until("nothing to run", || rig.hosts.iter().all(|host| host.processes().is_empty()).then_some(())).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scatter_goes_on_where_its_coordinator_comes_back() {
    let mut rig = Rig::start(3).await;
    let swarm = rig.swarm_on("far", None).await;
    let at = rig.place(Entity::Swarm(swarm)).unwrap();
    assert_ne!(at, 0, "the first holds more");
    for on in (0..3).filter(|on| *on != at) {
        let new = NewAgent {
            swarm: Some(SwarmRef::Id(swarm)),
            node: Some(rig.hosts[on].id),
            max_concurrent_tasks: 4,
            stop_grace_ms: 100,
            ..NewAgent::command(format!("worker-{on}"))
        };
        rig.control(0).create_agent(op(), new).await.unwrap();
    }
    let marker = tempfile::tempdir().unwrap();
    let go = marker.path().join("go");
    let script = format!("[ $HIVEWARD_ITEM_INDEX = 0 ] || while ! [ -e {} ]; do sleep 0.05; done; echo done", go.display());
    let new = NewScatter {
        swarm: Some(SwarmRef::Id(swarm)),
        reduce: Some(sh("echo reduced")),
        // Later than all that happens here: it is still to come for the next life.
        deadline_ms: Some(55_000),
        ..NewScatter::new(items(4), sh(&script))
    };
    let (task, tasks) = scatter(&rig, 0, new).await;
    rig.succeeded(tasks[0]).await;
    for part in &tasks[1..] {
        rig.running(*part).await;
    }
    rig.cut_power(at).await;
    rig.declare_lost(at).await;
    std::fs::write(&go, "").unwrap();
    let record = rig.succeeded(task).await;
    let said = result(&rig, &record);
    assert_eq!((&said["result"], &said["in"]), (&json!("reduced\n"), &json!(["0", "1", "2", "3"])));
    assert_eq!(record.subtasks.len(), tasks.len() + 1);
    for part in &record.subtasks {
        assert_eq!(rig.succeeded(*part).await.attempts.len(), 1);
    }
    rig.stop().await;
}
