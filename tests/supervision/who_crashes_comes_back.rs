//! Promise: an actor that panics or fails, at work or while starting, is back and works; its siblings never notice.

use crate::scene::{Bystander, Scene};

const FAULTS: [&str; 2] = ["PANIC", "ERROR"];

/// Strikes `victim` in its handler, then again while it starts, with each kind of fault.
async fn strike_and_recover(scene: &Scene, victim: &str) {
    for fault in FAULTS {
        for while_starting in [0, 3] {
            let before = scene.restarts(victim).await;
            if while_starting > 0 {
                scene.client.inject("actor.start", fault, Some(victim), while_starting).await;
            }
            scene.client.inject("actor.handle", fault, Some(victim), 1).await;
            if victim == "node/roster" {
                // It is asked for names only; whoever meets the fault may hear that the outcome is unknown.
                scene.client.try_create_swarm(&format!("asked-{fault}-{while_starting}")).await;
            }
            // What was asked for is done in the end, though it met the fault.
            scene.works().await;
            let shown = scene.comes_back(victim, before).await;
            let message = shown["lastFailure"]["message"].as_str().unwrap();
            assert!(message.contains("fault") || message.contains("injected"), "the tree does not say why: {shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_crashes_is_back_with_its_tasks_and_no_sibling_notices() {
    let scene = Scene::set().await;
    let bystander = Bystander::of(&scene.client);
    strike_and_recover(&scene, &scene.agent).await;
    bystander.noticed_nothing().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_crashes_is_back_with_its_queue_and_no_other_swarm_notices() {
    let scene = Scene::set().await;
    let bystander = Bystander::of(&scene.client);
    strike_and_recover(&scene, &scene.swarm).await;
    bystander.noticed_nothing().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_ledger_that_crashes_is_back_and_nobody_notices() {
    let scene = Scene::set().await;
    let bystander = Bystander::of(&scene.client);
    strike_and_recover(&scene, "node/platform/ledger").await;
    bystander.noticed_nothing().await;
    scene.end().await;
}

/// Everybody asks the roster for names, so an asker may hear that an outcome is unknown; work goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_roster_that_crashes_is_back_with_every_name_and_no_agent_or_swarm_is_restarted() {
    let scene = Scene::set().await;
    strike_and_recover(&scene, "node/roster").await;
    for other in [&scene.agent, &scene.swarm] {
        assert_eq!(scene.restarts(other).await, 0, "{other} was restarted");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn residents_that_crash_are_back_and_no_agent_or_swarm_is_restarted() {
    let scene = Scene::set().await;
    strike_and_recover(&scene, "node/residents").await;
    for other in [&scene.agent, &scene.swarm] {
        assert_eq!(scene.restarts(other).await, 0, "{other} was restarted");
    }
    scene.end().await;
}
