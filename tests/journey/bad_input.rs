//! Promise: bad input gets a clear error that names what is wrong, and changes nothing.

use hiveward_tests::{Hive, Setup, client::SUBMIT_MANY};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_by_name_and_changes_nothing() {
    let hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    let head = client.head().await;

    // A file with an unknown field: its line, and the field.
    let file = hive.own_dir().join("bad.yaml");
    let apply = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        hive.cli(&["apply", "-f", file.to_str().unwrap()]).await
    };
    let ran = apply("swarms:\n  - name: crew\n    strategie: LEAST_BUSY\n").await;
    assert!(ran.code == 2 && ran.err.contains("line 3") && ran.err.contains("strategie"), "{ran:?}");
    let ran = apply("agents:\n  - name: a\n    count: many\n").await;
    assert!(ran.code == 2 && ran.err.contains("line 3"), "{ran:?}");
    assert!(ran.err.contains("next: "), "it does not say what to do: {ran:?}");

    // A cycle, with the tasks on it.
    let cycle = "tasks:\n  - {name: one, dependsOn: [two], command: {argv: ['true']}}\n  - {name: two, dependsOn: [one], command: {argv: ['true']}}\n";
    let ran = apply(cycle).await;
    assert!(ran.code != 0 && ran.err.contains("one") && ran.err.contains("circle: one → two → one"), "{ran:?}");
    let tasks = json!([{ "name": "a", "kind": "x", "dependsOn": ["b"] }, { "name": "b", "kind": "x", "dependsOn": ["a"] }]);
    let refused = client.refused(SUBMIT_MANY, json!({ "i": { "tasks": tasks } })).await;
    assert!(refused.code() == "INVALID" && refused.message().contains("circle"), "{refused:?}");

    // A body that is over the limit, whether it says so or just goes on.
    let large = vec![b' '; 64 << 20];
    let post = || {
        client.http.post(format!("{}/graphql", client.url)).bearer_auth(&client.token).header("content-type", "application/json")
    };
    match post().body(large).send().await {
        Ok(answer) => assert_eq!(answer.status(), 413),
        // The gateway answers and closes before it has read it all; the client may be still writing.
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
    let answer = post().body(vec![b' '; 3 << 20]).send().await.map(|answer| answer.status().as_u16());
    assert!(answer.as_ref().is_ok_and(|status| [400, 413].contains(status)) || answer.is_err(), "{answer:?}");

    // An agent that is not there, by key and by name.
    let ran = hive.cli(&["task", "submit", "--agent", "agent_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5", "--", "true"]).await;
    assert!(ran.code == 3 && ran.err.contains("agent"), "{ran:?}");
    let ran = hive.cli(&["task", "submit", "--swarm", "nowhere", "--", "true"]).await;
    assert!(ran.code == 3 && ran.err.contains("nowhere"), "{ran:?}");

    assert_eq!(client.head().await, head, "something was changed");
    client.remove_agents().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_exist_fails_once_with_its_name_and_is_not_tried_again() {
    let hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    let retry = json!({ "maxAttempts": 5, "firstMs": 10 });
    let task = client.submit(json!({ "command": { "argv": ["/nowhere/no-such-program"] }, "retry": retry })).await;
    let ended = client.ended(&task).await;
    assert_eq!(ended["status"], "FAILED", "{ended}");
    assert_eq!(ended["attempts"].as_array().unwrap().len(), 1, "it was tried again: {ended}");
    assert!(ended["error"].as_str().unwrap().contains("no-such-program"), "{ended}");
    client.remove_agents().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_prints_garbage_is_ended_and_its_task_fails_with_the_reason() {
    let hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    client.swarm("babel").await;
    for (name, says) in [("json", r#"{"type": "result", "task": 7"#), ("type", r#"{"type":"nonsense"}"#), ("bytes", r"\377\376")]
    {
        // Ready, then garbage as soon as it has a task.
        let script = format!(r#"printf '{{"type":"ready"}}\n'; read line; printf '{says}\n'; sleep 1000"#);
        let connector = json!({ "worker": { "argv": ["sh", "-c", script] } });
        let agent = client.agent(json!({ "name": name, "swarm": "babel", "connector": connector })).await;
        let task = client.submit(json!({ "swarm": "babel", "kind": "x", "agent": agent, "retry": { "maxAttempts": 1 } })).await;
        let ended = client.ended(&task).await;
        assert!(matches!(ended["status"].as_str(), Some("FAILED" | "DEAD")), "{name}: {ended}");
        let error: &Value = &ended["error"];
        assert!(
            error.as_str().is_some_and(|error| error.contains("worker") || error.contains("protocol") || error.contains("line")),
            "{name}: {ended}"
        );
    }
    // The node is as well as before.
    let task = client.submit(json!({ "command": { "argv": ["echo", "well"] } })).await;
    assert_eq!(client.ended(&task).await["status"], "SUCCEEDED");
    client.remove_agents().await;
}
