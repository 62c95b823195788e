//! Promise: a node that stood still for longer than its lease has lost what it held, knows it, and does no harm (F4, F18).

use std::time::{Duration, Instant};

use hiveward_tests::{cluster::Shape, rounds};

use crate::scene::{ELSEWHERE, LONGER_THAN_THE_LEASE, Scene, holds};

/// Freezes the node until its entities answer elsewhere and its lease is long over, then lets it go on.
async fn freeze(scene: &mut Scene, node: usize) {
    let swarm = scene.swarm().await;
    let frozen = Instant::now();
    scene.cluster.freeze(node);
    let others = scene.others(node);
    scene.cluster.leader_among(&others, ELSEWHERE).await;
    scene.holder_among(&others, &swarm, ELSEWHERE).await;
    // Probes, because clients that wait for the frozen node would blur it.
    scene.load.accepted_again(frozen).await;
    let elsewhere = frozen.elapsed();
    eprintln!("what a frozen node held answers elsewhere after {elsewhere:?}");
    assert!(elsewhere < ELSEWHERE, "{elsewhere:?}");
    scene.load.goes_on(20, ELSEWHERE).await;
    tokio::time::sleep(LONGER_THAN_THE_LEASE.saturating_sub(frozen.elapsed())).await;
    scene.cluster.thaw(node);
    scene.cluster.settled().await;
    scene.load.goes_on(20, ELSEWHERE).await;
    // Never at two nodes, once the thawed one has been heard.
    let mut holders = Vec::new();
    for node in 0..scene.cluster.len() {
        if holds(&scene.cluster, node, &swarm).await {
            holders.push(node);
        }
    }
    assert!(holders.len() <= 1, "{swarm} lives on nodes {holders:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_and_the_coordinators_node_frozen_longer_than_the_lease_do_no_harm_when_they_go_on() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    for _ in 0..rounds(1, 20) {
        let leader = scene.cluster.leader().await;
        freeze(&mut scene, leader).await;
        let coordinators = scene.coordinators_node().await;
        freeze(&mut scene, coordinators).await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_frozen_for_moments_lose_nothing() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    for _ in 0..rounds(6, 200) {
        let node = scene.dice.usize(..3);
        scene.cluster.freeze(node);
        tokio::time::sleep(Duration::from_millis(scene.dice.u64(50..2000))).await;
        scene.cluster.thaw(node);
        tokio::time::sleep(Duration::from_millis(scene.dice.u64(..300))).await;
    }
    scene.load.goes_on(20, ELSEWHERE).await;
    scene.end().await;
}
