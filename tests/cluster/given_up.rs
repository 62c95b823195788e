//! Promise: a coordinator that fails again and again on one node is shown, and moves to another where it does better.

use std::time::Duration;

use hiveward_tests::{
    client::INJECT,
    cluster::{Cluster, Shape},
    until_within,
};
use serde_json::json;

use crate::scene::holds;

const SWARM: &str = "struck";
/// Ten restarts with growing pauses, one more try, and the move.
const MOVED_WITHIN: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_given_up_on_one_node_goes_on_on_another() {
    let Some(cluster) = Cluster::joined(&Shape::of(3)).await else { return };
    let client = cluster.client(0);
    let swarm = client.swarm(SWARM).await;
    for n in 0..2 {
        client.agent(json!({ "name": format!("noop-{n}"), "swarm": SWARM, "connector": { "noop": true } })).await;
    }
    let before = client.submit(json!({ "swarm": SWARM, "kind": "noop" })).await;
    assert_eq!(client.ended(&before).await["status"], "SUCCEEDED");
    let holder = async || {
        for node in 0..3 {
            if holds(&cluster, node, &swarm).await {
                return Some(node);
            }
        }
        None
    };
    let struck = until_within(MOVED_WITHIN, "it lives somewhere", holder).await;
    // Whatever it is that is wrong there: each of its lives ends at its first message.
    let fault = json!({ "point": "actor.handle", "fault": "PANIC", "key": swarm, "times": 1_000_000 });
    cluster.client(struck).ok(INJECT, json!({ "i": fault })).await;
    let asked = cluster.client((struck + 1) % 3);
    until_within(MOVED_WITHIN, "what is wrong is on the overview", async || {
        let nodes = asked.call("{ cluster { nodes { id troubled { key why } } } }", json!({})).await.ok()?;
        let all = nodes["cluster"]["nodes"].as_array()?.clone();
        let troubled = all.iter().flat_map(|node| node["troubled"].as_array().cloned().unwrap_or_default());
        troubled.into_iter().any(|of| of["key"] == swarm.as_str()).then_some(())
    })
    .await;
    let now =
        until_within(MOVED_WITHIN, "it lives on another node", async || holder().await.filter(|node| *node != struck)).await;
    let input = json!({ "operationId": "after", "swarm": SWARM, "kind": "noop" });
    let data = cluster.client(now).surely(hiveward_tests::client::SUBMIT, input).await;
    let task = data["submitTask"]["task"]["id"].as_str().unwrap();
    assert_eq!(asked.ended(task).await["status"], "SUCCEEDED");
}
