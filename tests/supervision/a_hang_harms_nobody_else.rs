//! Promise: an actor that hangs harms nobody else; whoever asks it is told by its deadline; a coordinator is ended and
//! started again, and its node says so.

use std::time::Duration;

use hiveward_tests::{client::SUBMIT, until};
use serde_json::json;

use crate::scene::{Bystander, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_delays_only_its_own_task() {
    let mut scene = Scene::set().await;
    let bystander = Bystander::of(&scene.client);
    scene.client.inject("actor.handle", "HANG", Some(&scene.agent), 1).await;
    let task = scene.task().await;
    // The task is leased to it, and its swarm goes on with another agent.
    scene.client.agent(json!({ "name": "other", "swarm": "struck", "connector": { "noop": true } })).await;
    until("another agent of the swarm does what comes after", async || {
        let next = scene.task().await;
        let done = tokio::time::timeout(Duration::from_millis(500), scene.client.ended(&next)).await;
        done.ok().filter(|task| task["status"] == "SUCCEEDED")
    })
    .await;
    bystander.noticed_nothing().await;
    // A new life of the node finds the task again.
    scene.hive.kill();
    scene.hive.start_again().await;
    assert_eq!(scene.client.ended(&task).await["status"], "SUCCEEDED");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_hangs_is_shown_ended_and_started_again() {
    let scene = Scene::set().await;
    let bystander = Bystander::of(&scene.client);
    scene.client.inject("actor.handle", "HANG", Some(&scene.swarm), 1).await;
    let input = json!({ "operationId": "into-the-hang", "swarm": "struck", "kind": "noop" });
    let asker = {
        let (client, input) = (scene.client.clone(), input.clone());
        tokio::spawn(async move { client.refused(SUBMIT, json!({ "i": input })).await })
    };
    until("the tree shows that it does not take its messages", async || {
        let asked = scene.client.clone();
        let poke = tokio::spawn(async move { asked.call(SUBMIT, json!({ "i": { "swarm": "struck", "kind": "noop" } })).await });
        let waiting = scene.actor(&scene.swarm).await["mailbox"].as_u64();
        poke.abort();
        waiting.filter(|waiting| *waiting > 0)
    })
    .await;
    until("the node says what is wrong with it", async || {
        let troubled = scene.client.call("{ cluster { nodes { troubled { key why } } } }", json!({})).await.ok()?;
        let of = troubled["cluster"]["nodes"][0]["troubled"][0].clone();
        (of["key"] == scene.swarm.as_str() && of["why"].as_str()?.contains("messages")).then_some(())
    })
    .await;
    let told = asker.await.unwrap();
    assert_eq!(told.code(), "UNKNOWN_OUTCOME", "{told:?}");
    bystander.noticed_nothing().await;
    // It is ended and started again without anybody's help.
    let data = scene.client.surely(SUBMIT, input).await;
    assert_eq!(scene.client.ended(data["submitTask"]["task"]["id"].as_str().unwrap()).await["status"], "SUCCEEDED");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_hangs_while_starting_is_killed_at_its_deadline_and_started_again() {
    let scene = Scene::set().await;
    let bystander = Bystander::of(&scene.client);
    let before = scene.restarts("node/platform/ledger").await;
    scene.client.inject("actor.start", "HANG", Some("node/platform/ledger"), 1).await;
    scene.client.inject("actor.handle", "PANIC", Some("node/platform/ledger"), 1).await;
    scene.comes_back("node/platform/ledger", before + 1).await;
    bystander.noticed_nothing().await;
    scene.end().await;
}
