//! Promise: a minority cannot act: it refuses writes aloud and stops what it holds; what is cut comes back by itself (F5 to F7, F9).

use std::time::{Duration, Instant};

use hiveward_tests::{
    cluster::{Mode, Shape, may_partition},
    long, rounds, skip, throughout, until_within,
};

use crate::scene::{ELSEWHERE, LONGER_THAN_THE_LEASE, Scene, WATCHED, WRITES_AGAIN, holds, refuses_writes};

async fn begin() -> Option<Scene> {
    if may_partition() {
        return Scene::begin(Shape::of(3).mode(Mode::Namespaces)).await;
    }
    skip("partitions need root, iproute2 and iptables");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_writes_at_once_stops_what_it_holds_and_rejoins_by_itself() {
    let Some(mut scene) = begin().await else { return };
    for round in 0..rounds(1, 20) {
        // The worst to lose: first whoever coordinates, then the leader.
        let alone = if round % 2 == 0 { scene.coordinators_node().await } else { scene.cluster.leader().await };
        let swarm = scene.swarm().await;
        let others = scene.others(alone);
        let cut = Instant::now();
        scene.cluster.net.isolate(alone);
        let client = scene.cluster.client(alone);
        until_within(ELSEWHERE, "the minority knows that it is one", async || {
            scene.cluster.said(alone).await?.leader.is_none().then_some(())
        })
        .await;
        let knows = Instant::now();
        refuses_writes(&client, Duration::from_secs(2)).await;
        scene.cluster.leader_among(&others, WRITES_AGAIN).await;
        scene.holder_among(&others, &swarm, ELSEWHERE).await;
        let elsewhere = cut.elapsed();
        eprintln!("known to be a minority after {:?}, its entities elsewhere after {elsewhere:?}", knows - cut);
        assert!(elsewhere < ELSEWHERE, "{elsewhere:?}");
        assert!(!holds(&scene.cluster, alone, &swarm).await, "the minority still runs what it held");
        scene.load.goes_on(20, ELSEWHERE).await;
        assert!(!scene.load.acknowledged_by(alone, knows), "a minority acknowledged a write");
        scene.cluster.net.heal();
        let healed = Instant::now();
        scene.cluster.settled().await;
        eprintln!("settled {:?} after the heal", healed.elapsed());
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_every_node_refuses_writes_and_all_go_on_when_it_is_back() {
    let Some(mut scene) = begin().await else { return };
    let swarm = scene.swarm().await;
    for node in 0..3 {
        scene.cluster.net.isolate(node);
    }
    for node in 0..3 {
        let client = scene.cluster.client(node);
        until_within(ELSEWHERE, "it knows no leader", async || scene.cluster.said(node).await?.leader.is_none().then_some(()))
            .await;
        refuses_writes(&client, Duration::from_secs(2)).await;
    }
    until_within(LONGER_THAN_THE_LEASE, "everything has stopped itself", async || {
        for node in 0..3 {
            if holds(&scene.cluster, node, &swarm).await {
                return None;
            }
        }
        Some(())
    })
    .await;
    scene.cluster.net.heal();
    let healed = Instant::now();
    scene.load.accepted_again(healed).await;
    scene.cluster.settled().await;
    eprintln!("settled {:?} after the heal", healed.elapsed());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_and_partial_cuts_neither_stop_progress_nor_make_endless_elections() {
    let Some(mut scene) = begin().await else { return };
    for round in 0..rounds(3, 30) {
        let leader = scene.cluster.leader().await;
        let others = scene.others(leader);
        match round % 3 {
            // The leader is heard and hears nobody of one.
            0 => scene.cluster.net.cut_one_way(others[0], leader),
            // One follower no longer hears the leader, which still hears it.
            1 => scene.cluster.net.cut_one_way(leader, others[0]),
            // Both only by way of the third.
            _ => scene.cluster.net.cut(leader, others[0]),
        }
        let cut = Instant::now();
        scene.load.accepted_again(cut).await;
        scene.load.goes_on(20, ELSEWHERE).await;
        let term = async |scene: &Scene| scene.cluster.said(others[1]).await.map_or(0, |said| said.term);
        let before = term(&scene).await;
        let few = format!("at most two elections in case {}", round % 3);
        throughout(WATCHED, &few, async || term(&scene).await.saturating_sub(before) <= 2).await;
        scene.load.goes_on(10, ELSEWHERE).await;
        scene.cluster.net.heal();
        scene.cluster.settled().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_node_settles_and_loses_nothing() {
    let Some(mut scene) = begin().await else { return };
    let node = scene.dice.usize(..3);
    for _ in 0..rounds(6, 20) {
        scene.cluster.net.unplug(node);
        tokio::time::sleep(Duration::from_millis(scene.dice.u64(200..1500))).await;
        scene.cluster.net.plug(node);
        tokio::time::sleep(Duration::from_millis(scene.dice.u64(200..1500))).await;
    }
    let calm = Instant::now();
    scene.cluster.settled().await;
    let settled = calm.elapsed();
    eprintln!("settled {settled:?} after the last flap");
    assert!(settled < ELSEWHERE, "{settled:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lossy_slow_network_makes_it_slow_and_loses_no_node() {
    let Some(scene) = begin().await else { return };
    let leader = scene.cluster.leader().await;
    let follower = scene.others(leader)[0];
    let nodes = scene.cluster.said(leader).await.unwrap().nodes.len();
    scene.cluster.net.throttle(follower, 1000);
    scene.cluster.net.lose(follower, 30);
    let until = Instant::now() + Duration::from_secs(if long() { 60 } else { 8 });
    while Instant::now() < until {
        scene.load.goes_on(3, ELSEWHERE).await;
    }
    assert_eq!(scene.cluster.said(leader).await.unwrap().nodes.len(), nodes, "a slow node is not a lost one");
    scene.cluster.net.heal();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_network_with_200_ms_round_trips_works_and_loses_no_node() {
    let Some(mut scene) = begin().await else { return };
    // Connections made from now on are slow: each node starts again once.
    scene.cluster.net.delay(100);
    for node in 0..3 {
        scene.cluster.restart(node).await;
    }
    scene.cluster.settled().await;
    let term = scene.cluster.said(0).await.unwrap().term;
    let began = Instant::now();
    scene.load.goes_on(if long() { 300 } else { 50 }, Duration::from_secs(120)).await;
    eprintln!("with round trips of 200 ms that took {:?}", began.elapsed());
    assert_eq!(scene.cluster.said(0).await.unwrap().term, term, "distance alone makes no election");
    scene.cluster.net.heal();
    scene.end().await;
}
