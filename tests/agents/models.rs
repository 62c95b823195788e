//! Promise: a model can be asked directly, over either API, for a text or for JSON; a node that dies asks again.

use hiveward_tests::until;
use serde_json::json;

use crate::scene::{CANARY, Scene};

const SCRIPT: &str = r#"
conversations:
  - system: You judge
    steps: [{plain: true, say: "I think:\n```json\n{\"better\": \"${prompt:/choose (\\w+)/}\"}\n```"}]
  - when: think long
    steps: [{say: "At last.", fault: {slow: {firstMs: 3000, everyMs: 0}}}]
  - steps: [{say: "You said: ${prompt}"}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_asked_without_tools_over_either_api() {
    let scene = Scene::node(SCRIPT).await;
    let client = scene.hive.client();
    for api in ["ANTHROPIC", "OPEN_AI"] {
        let agent = |name: &str, answer: &str| {
            let model = json!({ "api": api, "model": "some-model", "instructions": "You judge.", "answer": answer });
            json!({ "name": format!("{name}-{}", api.to_lowercase()), "connector": { "model": model } })
        };
        let judge = client.agent(agent("judge", "JSON")).await;
        let task = json!({ "agent": judge, "kind": "prompt", "payload": { "prompt": "choose b" } });
        let ended = client.ended(&client.submit(task).await).await;
        assert_eq!((&ended["status"], &ended["resultText"]), (&json!("SUCCEEDED"), &json!(r#"{"better":"b"}"#)), "{api}");
    }
    let calls = scene.calls().await;
    let calls = calls["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call["key"] == CANARY), "{calls:#?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_while_a_model_thinks_asks_again() {
    let mut scene = Scene::node(SCRIPT).await;
    let client = scene.hive.client();
    let model = json!({ "model": { "model": "some-model" } });
    let agent = client.agent(json!({ "name": "thinker", "connector": model })).await;
    let task = client.submit(json!({ "agent": agent, "kind": "prompt", "payload": "think long" })).await;
    until("the model is asked", async || {
        let calls = scene.calls().await;
        (!calls["calls"].as_array()?.is_empty()).then_some(())
    })
    .await;
    scene.hive.kill();
    scene.hive.start_again().await;
    assert!(scene.succeeded(&task).await.ends_with("At last."));
    let attempts = scene.hive.client().task(&task).await["attempts"].as_array().unwrap().len();
    assert_eq!(attempts, 1, "it is the same attempt");
    scene.end().await;
}
