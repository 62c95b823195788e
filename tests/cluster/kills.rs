//! Promise: whichever process is killed, and when, no acknowledged task is lost, and writes are soon accepted again (F1 to F3).

use std::time::{Duration, Instant};

use hiveward_tests::{client::INJECT, cluster::Shape, leftovers::Sessions, long, rounds, until, until_within};
use serde_json::json;

use crate::scene::{ELSEWHERE, Scene, WRITES_AGAIN, print_quantiles, quantiles};

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_and_the_coordinators_node_killed_under_load_lose_nothing_and_writes_are_accepted_again() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    let mut again = Vec::new();
    for _ in 0..rounds(2, 100) {
        let leader = scene.cluster.leader().await;
        again.push(scene.kill_and_wait(leader).await);
        // So that the next leader coordinates now and then.
        let coordinators = scene.coordinators_node().await;
        again.push(scene.kill_and_wait(coordinators).await);
    }
    print_quantiles(&again);
    let bound = if long() { Duration::from_secs(2) } else { WRITES_AGAIN };
    let (_, most) = quantiles(&again).expect("some were killed");
    assert!(most < bound, "writes were accepted again after {most:?} at p99");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_and_an_agents_node_killed_under_load_lose_nothing() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    for _ in 0..rounds(1, 30) {
        let leader = scene.cluster.leader().await;
        let follower = *scene.dice.choice(&scene.others(leader)).unwrap();
        restart_at_once(&mut scene, follower).await;
        let agents = scene.agents_node(follower).await;
        restart_at_once(&mut scene, agents).await;
    }
    scene.end().await;
}

/// As after a crash.
async fn restart_at_once(scene: &mut Scene, node: usize) {
    scene.load.goes_on(scene.dice.usize(1..20), ELSEWHERE).await;
    scene.cluster.kill(node);
    scene.cluster.start_again(node).await;
    scene.cluster.settled().await;
    scene.load.goes_on(20, ELSEWHERE).await;
    scene.load.look_at_some().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_come_back_with_everything_acknowledged() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    for _ in 0..rounds(1, 50) {
        scene.load.goes_on(scene.dice.usize(1..30), ELSEWHERE).await;
        let killed = Instant::now();
        scene.cluster.kill_all();
        let mut order = [0, 1, 2];
        scene.dice.shuffle(&mut order);
        for node in order {
            scene.cluster.spawn(node);
        }
        scene.cluster.settled().await;
        eprintln!("settled {:?} after the kill of all", killed.elapsed());
        scene.load.goes_on(20, ELSEWHERE).await;
        scene.load.look_at_some().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_all_nodes_loses_nothing() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    for _ in 0..rounds(1, 20) {
        for node in 0..3 {
            assert!(scene.cluster.stop(node).await.success(), "a clean stop");
            scene.load.goes_on(10, ELSEWHERE).await;
            scene.cluster.start_again(node).await;
            scene.cluster.settled().await;
        }
    }
    scene.end().await;
}

/// Where a leader dies by its own hand, in the midst of a commit.
const POINTS: [&str; 7] = [
    "ledger.before_append",
    "ledger.after_append",
    "ledger.before_fsync",
    "ledger.after_fsync",
    "ledger.before_apply",
    "ledger.after_apply",
    "ledger.before_reply",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_in_the_midst_of_a_commit_leaves_nothing_half_done() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    for round in 0..rounds(2, 70) {
        // Each place in turn in the long form, some of them otherwise.
        let point = if long() { POINTS[round % POINTS.len()] } else { *scene.dice.choice(&POINTS).unwrap() };
        let leader = scene.cluster.leader().await;
        let killed = Instant::now();
        // It may be gone before it has answered.
        let client = scene.cluster.client(leader);
        let _ = client.call(INJECT, json!({ "i": { "point": point, "fault": "ABORT" } })).await;
        let (node, mut made) = (scene.cluster.node_mut(leader), 0);
        // The load's coordinator may be on another node; the roster, which commits and is answered here, is where the leader is.
        let declare = "mutation($i:CreateSwarmInput!){createSwarm(input:$i){cursor}}";
        until(&format!("{point} ends the leader"), async || {
            made += 1;
            let _ = client.call(declare, json!({ "i": { "name": format!("half-done-{round}-{made}") } })).await;
            node.ended()
        })
        .await;
        scene.load.accepted_again(killed).await;
        scene.cluster.start_again(leader).await;
        scene.cluster.settled().await;
        scene.load.goes_on(10, ELSEWHERE).await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_node_died_is_ended_when_the_node_is_back_and_its_task_has_moved() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    let client = scene.cluster.client(0);
    let line = "echo $HIVEWARD_ATTEMPT; [ $HIVEWARD_ATTEMPT != 1 ] || sleep 1000";
    let task = client.submit(json!({ "command": { "argv": ["sh", "-c", line] }, "retry": { "maxAttempts": 5 } })).await;
    let runs_on = until("its program runs on a node", async || {
        (0..3).find(|node| {
            let data_dir = scene.cluster.node(*node).data_dir();
            Sessions::of(data_dir).processes(data_dir).iter().any(|(_, command)| command.contains("sleep 1000"))
        })
    })
    .await;
    scene.cluster.kill(runs_on);
    let asked = scene.cluster.client(scene.others(runs_on)[0]);
    let moved = async || (asked.task(&task).await["status"] == "SUCCEEDED").then_some(());
    until_within(ELSEWHERE * 2, "the task is done elsewhere", moved).await;
    let ended = asked.task(&task).await;
    assert_eq!(ended["attempts"][0]["status"], "LOST", "{ended}");
    scene.cluster.start_again(runs_on).await;
    let data_dir = scene.cluster.node(runs_on).data_dir().to_owned();
    until_within(ELSEWHERE, "nothing of the lost attempt still runs", async || {
        let living = Sessions::of(&data_dir).processes(&data_dir);
        (!living.iter().any(|(_, command)| command.contains("sleep 1000"))).then_some(())
    })
    .await;
    scene.load.adopt(&task);
    scene.end().await;
}
