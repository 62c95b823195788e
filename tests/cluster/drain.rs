//! Promise: draining moves or finishes what a node holds, shows progress, can be cancelled and always ends; who was removed
//! does not come back.

use std::time::Duration;

use hiveward_tests::{cluster::Shape, throughout, until, until_within};

use crate::scene::{ELSEWHERE, Scene, WATCHED, holds};

/// Within its deadline and what stopping takes.
const DRAINED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_holds_nothing_and_the_load_goes_on_elsewhere() {
    let Some(scene) = Scene::begin(Shape::of(3)).await else { return };
    let node = scene.coordinators_node().await;
    let (by, id, swarm) = (scene.others(node)[0], scene.cluster.node(node).id(), scene.swarm().await);
    let drained = tokio::time::timeout(DRAINED, scene.cluster.cli(by, &["node", "drain", &id])).await;
    let drained = drained.expect("a drain always ends");
    assert_eq!(drained.code, 0, "{drained:?}");
    assert!(!holds(&scene.cluster, node, &swarm).await, "it still coordinates");
    scene.holder_among(&scene.others(node), &swarm, ELSEWHERE).await;
    scene.load.goes_on(20, ELSEWHERE).await;
    assert_ne!(scene.cluster.leader().await, node, "a drained node does not lead");
    let cancelled = scene.cluster.cli(by, &["node", "drain", "--cancel", &id]).await;
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_that_was_removed_does_not_come_back_with_its_certificate() {
    let Some(mut scene) = Scene::begin(Shape::of(4)).await else { return };
    let leader = scene.cluster.leader().await;
    let node = scene.others(leader).pop().unwrap();
    let id = scene.cluster.node(node).id();
    scene.cluster.kill(node);
    // A node that may still live is not removed: refused until its lease is over.
    until_within(ELSEWHERE, "the dead node is removed", async || {
        let removed = scene.cluster.cli(leader, &["node", "remove", &id]).await;
        assert!(removed.code == 0 || removed.err.contains("is UP"), "{removed:?}");
        (removed.code == 0).then_some(())
    })
    .await;
    until("it is no longer listed", async || {
        let said = scene.cluster.said(leader).await?;
        (!said.nodes.contains(&id) && !said.voters.contains(&id)).then_some(())
    })
    .await;
    scene.load.goes_on(20, ELSEWHERE).await;
    scene.cluster.spawn(node);
    // It may end by itself, or live alone; it is never one of them.
    let back = std::time::Instant::now();
    throughout(WATCHED, "it stays away", async || {
        let listed = until_within(ELSEWHERE, "the leader answers", async || scene.cluster.said(leader).await).await;
        !listed.nodes.contains(&id) && !scene.load.acknowledged_by(node, back)
    })
    .await;
    scene.cluster.kill(node);
    let others = scene.others(node);
    scene.cluster.leader_among(&others, ELSEWHERE).await;
    scene.load.finish_at(&others).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_follower_is_removed_while_another_joins_and_quorum_is_never_lost() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    let leader = scene.cluster.leader().await;
    let hung = scene.others(leader)[0];
    let (id, live) = (scene.cluster.node(hung).id(), scene.others(hung));
    scene.cluster.freeze(hung);
    let place = scene.cluster.add(&Shape::of(4)).unwrap();
    scene.cluster.join(place, leader).await;
    // Refused while it would cost the quorum, and done as soon as it would not.
    until_within(ELSEWHERE * 2, "the hung node is removed", async || {
        let ran = scene.cluster.cli(leader, &["node", "remove", &id]).await;
        (ran.code == 0).then_some(())
    })
    .await;
    scene.load.goes_on(20, ELSEWHERE).await;
    scene.cluster.thaw(hung);
    let term = scene.cluster.said(leader).await.unwrap().term;
    throughout(WATCHED, "a removed node neither disturbs nor is listed", async || {
        let said = scene.cluster.said(leader).await.unwrap();
        said.term <= term + 1 && !said.nodes.contains(&id) && said.nodes.len() == 3
    })
    .await;
    scene.load.goes_on(20, ELSEWHERE).await;
    scene.cluster.kill(hung);
    scene.load.finish_at(&live).await;
}
