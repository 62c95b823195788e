//! Promise: one node's full disk or wrong clock is that node's trouble alone (F13, F15).

use std::time::{Duration, Instant};

use hiveward_tests::{cluster::Shape, rounds, skip, until_within};

use crate::scene::{ELSEWHERE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_on_a_voter_stops_no_writes_and_it_comes_back_with_room() {
    if !nix_is_root() {
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
        client.ok("{tasks(first:10){nodes{id}} cluster{disk}}", serde_json::json!({})).await;
        scene.cluster.node(node).empty_disk();
        until_within(ELSEWHERE, "it takes writes again", async || scene.load.acknowledged_by(node, full).then_some(())).await;
    }
    scene.end().await;
}

fn nix_is_root() -> bool {
    hiveward_tests::mount::may_mount()
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_by_an_hour_on_any_node_end_no_lease_and_lose_nothing() {
    if hiveward_tests::cluster::faketime().is_none() {
        return skip("libfaketime is not installed (Debian: libfaketime)");
    }
    let Some(mut scene) = Scene::begin(Shape::of(3).clocks()).await else { return };
    let term = scene.cluster.said(0).await.unwrap().term;
    for _ in 0..rounds(6, 60) {
        let (node, jump) = (scene.dice.usize(..3), *scene.dice.choice(&[3600, -3600, 0, 86_400]).unwrap());
        eprintln!("node {node}'s clock is {jump:+} s off");
        scene.cluster.node(node).set_clock(jump);
        scene.load.goes_on(15, ELSEWHERE).await;
        tokio::time::sleep(Duration::from_millis(scene.dice.u64(..1000))).await;
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
