//! Promise: a crash loop of one entity is stopped alone and shown; everybody else goes on; it can be brought back.

use hiveward_tests::until;

use crate::scene::{Bystander, Scene};

async fn loop_and_give_up(scene: &Scene, victim: &str) {
    let bystander = Bystander::of(&scene.client);
    scene.client.inject("actor.start", "PANIC", Some(victim), 1_000).await;
    scene.client.inject("actor.handle", "PANIC", Some(victim), 1).await;
    let poke =
        scene.client.call(hiveward_tests::client::SUBMIT, serde_json::json!({ "i": { "swarm": "struck", "kind": "noop" } }));
    // It is nobody's answer that is waited for, but the tree's.
    let poke = tokio::time::timeout(std::time::Duration::from_secs(1), poke);
    let (_, shown) = tokio::join!(poke, async {
        until(&format!("{victim} is given up"), async || {
            let actor = scene.actor(victim).await;
            (actor["status"] == "FAILED").then_some(actor)
        })
        .await
    });
    assert!(scene.restarts(victim).await <= 12, "it was restarted without end: {shown}");
    bystander.noticed_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_crash_loop_is_given_up_alone_and_works_after_the_next_start() {
    let mut scene = Scene::set().await;
    let agent = scene.agent.clone();
    loop_and_give_up(&scene, &agent).await;
    recovers(&mut scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_in_a_crash_loop_is_given_up_alone_and_works_after_the_next_start() {
    let mut scene = Scene::set().await;
    let swarm = scene.swarm.clone();
    loop_and_give_up(&scene, &swarm).await;
    recovers(&mut scene).await;
    scene.end().await;
}

/// A new process has none of the armed faults.
async fn recovers(scene: &mut Scene) {
    scene.hive.kill();
    scene.hive.start_again().await;
    scene.works().await;
}
