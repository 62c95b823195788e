//! Promise: one node's full or slow disk or wrong clock is that node's trouble alone, and certificates are renewed in time
//! (F13 to F15, F27).

use std::time::{Duration, Instant};

use hiveward_tests::{
    cluster::{Shape, faketime},
    intruder::identity_file,
    mount::may_mount,
    oracle::SWARM,
    rounds, skip, until_within,
};
use serde_json::json;

use crate::scene::{ELSEWHERE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_on_a_voter_stops_no_writes_and_it_comes_back_with_room() {
    if !may_mount() {
        return skip("only root may mount the file system that is filled");
    }
    let Some(scene) = Scene::begin(Shape::of(3).disk(1, 192).disk(2, 192)).await else { return };
    for node in [1, 2] {
        scene.cluster.node(node).fill_disk();
        let full = Instant::now();
        scene.load.accepted_again(full).await;
        scene.load.goes_on(20, ELSEWHERE).await;
        // It still answers questions, from what it has.
        let client = scene.cluster.client(node);
        client.ok("{tasks(first:10){nodes{id}} cluster{disk}}", json!({})).await;
        scene.cluster.node(node).empty_disk();
        until_within(ELSEWHERE, "it takes writes again", async || scene.load.acknowledged_by(node, full).then_some(())).await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_by_an_hour_on_any_node_end_no_lease_and_lose_nothing() {
    if faketime().is_none() {
        return skip("libfaketime is not installed (Debian: libfaketime)");
    }
    let Some(mut scene) = Scene::begin(Shape::of(3).clocks()).await else { return };
    let term = scene.cluster.said(0).await.unwrap().term;
    for _ in 0..rounds(6, 60) {
        let (node, jump) = (scene.dice.usize(..3), *scene.dice.choice(&[3600, -3600, 0, 86_400]).unwrap());
        eprintln!("node {node}'s clock is {jump:+} s off");
        scene.cluster.node(node).set_clock(jump);
        scene.load.goes_on(scene.dice.usize(15..60), ELSEWHERE).await;
    }
    let now = scene.cluster.said(0).await.unwrap().term;
    assert_eq!(now, term, "a clock made an election");
    // Restarted while its clock is wrong, and with it right again.
    scene.cluster.node(2).set_clock(-3600);
    scene.cluster.kill(2);
    scene.cluster.start_again(2).await;
    scene.cluster.settled().await;
    for node in 0..3 {
        scene.cluster.node(node).set_clock(0);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_on_a_follower_slows_nobody_and_on_the_leader_stops_nobody() {
    let Some(scene) = Scene::begin(Shape::of(3)).await else { return };
    let (leader, coordinators) = (scene.cluster.leader().await, scene.coordinators_node().await);
    let slow = json!({ "i": { "point": "ledger.before_fsync", "fault": "DELAY", "delayMs": 2000, "times": 5 } });
    // One that only follows. What is asked of it, or coordinated by it, waits for its own disk, and is right to.
    let follower = *scene.others(leader).iter().find(|node| **node != coordinators).unwrap();
    scene.cluster.client(follower).ok(hiveward_tests::client::INJECT, slow.clone()).await;
    let (began, client) = (Instant::now(), scene.cluster.client(leader));
    for _ in 0..50 {
        let task = client.submit(json!({ "swarm": SWARM, "kind": "noop" })).await;
        scene.load.adopt(&task);
    }
    let took = began.elapsed();
    eprintln!("50 tasks were acknowledged by the leader within {took:?}, with a slow disk on a follower");
    assert!(took < Duration::from_secs(8), "a quorum of two waited for the third: {took:?}");
    scene.load.goes_on(20, ELSEWHERE * 2).await;
    scene.cluster.client(leader).ok(hiveward_tests::client::INJECT, slow).await;
    let began = Instant::now();
    scene.load.goes_on(50, ELSEWHERE * 2).await;
    eprintln!("50 operations took {:?} with a slow disk on the leader", began.elapsed());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_load_and_nodes_still_link_when_the_first_ones_have_expired() {
    if faketime().is_none() {
        return skip("libfaketime is not installed (Debian: libfaketime)");
    }
    // What has ended is kept for as long as the clocks go on, or the load could not look at it.
    let kept = |shape: Shape, what: &str| shape.env(&format!("HIVEWARD_RETENTION__{what}__KEEP_HOURS"), "100000");
    let shape = ["TASKS", "OPERATIONS"].into_iter().fold(Shape::of(3).clocks(), kept);
    let Some(mut scene) = Scene::begin(shape).await else { return };
    let day = 24 * 3600;
    let papers = |scene: &Scene, node: usize| {
        let file = identity_file(scene.cluster.node(node).data_dir(), "node.pem").expect("a node has papers");
        std::fs::read(file).unwrap()
    };
    let first: Vec<_> = (0..3).map(|node| papers(&scene, node)).collect();
    let term = scene.cluster.said(0).await.unwrap().term;
    // Into the last third of their 90 days.
    for node in 0..3 {
        scene.cluster.node(node).set_clock(65 * day);
    }
    until_within(Duration::from_secs(120), "every node has a new certificate", async || {
        (0..3).all(|node| papers(&scene, node) != first[node]).then_some(())
    })
    .await;
    scene.load.goes_on(20, ELSEWHERE).await;
    assert_eq!(scene.cluster.said(0).await.unwrap().term, term, "no link was closed for it");
    for node in 0..3 {
        scene.cluster.node(node).set_clock(100 * day);
    }
    for node in 0..3 {
        scene.cluster.restart(node).await;
        scene.cluster.settled().await;
    }
    scene.end().await;
}
