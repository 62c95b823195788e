//! kill -9 of the node under running agents.

use std::time::Duration;

use hiveward_tests::TestNode;
use serde_json::{Value, json};

const AGENTS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_running_agents_are_adopted_with_all_their_output_and_none_runs_twice() {
    let mut node = TestNode::start().await.unwrap();
    let client = node.client().unwrap();
    client.ask("mutation { createSwarm(input: {name: \"fifty\"}) { swarm { id } } }", json!({})).await.unwrap();
    let create = "mutation($name: String!) { createAgent(input: {name: $name, swarm: \"fifty\"}) { agent { id } } }";
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        let made = client.ask(create, json!({"name": format!("a-{n}")})).await.unwrap();
        agents.push(made["createAgent"]["agent"]["id"].as_str().unwrap().to_owned());
    }
    let (begun, go) = (node.data().join("begun"), node.data().join("go"));
    // Counts all the while; ends when told, so that every one of them is running when the node is killed.
    let script = format!(
        "echo $HIVEWARD_TASK/$HIVEWARD_ATTEMPT >> {}; n=0; while [ ! -e {} ]; do n=$((n+1)); echo $n; sleep 0.05; done; echo last $n",
        begun.display(),
        go.display()
    );
    let submit = "mutation($input: SubmitTaskInput!) { submitTask(input: $input) { task { id } } }";
    let mut tasks = Vec::new();
    for _ in 0..AGENTS {
        let input = json!({"swarm": "fifty", "command": {"argv": ["/bin/sh", "-c", script]}});
        let made = client.ask(submit, json!({"input": input})).await.unwrap();
        tasks.push(made["submitTask"]["task"]["id"].as_str().unwrap().to_owned());
    }
    let marks = || std::fs::read_to_string(&begun).unwrap_or_default().lines().count();
    wait("all have begun", || marks() == AGENTS).await;
    node.kill();
    node.up().await.unwrap();
    std::fs::write(&go, "").unwrap();
    let query = "query($id: ID!) { node(id: $id) { ... on Task { status attempts { number status } resultText } } }";
    for task in &tasks {
        let ended = ended(&client, query, task).await;
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        assert_eq!(ended["attempts"].as_array().unwrap().len(), 1, "{task} was not adopted: {ended}");
        let text = ended["resultText"].as_str().unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        let last: usize = lines.pop().unwrap().strip_prefix("last ").unwrap().parse().unwrap();
        let wanted: Vec<String> = (1..=last).map(|n| n.to_string()).collect();
        assert_eq!(lines, wanted, "output of {task} has a gap");
    }
    assert_eq!(marks(), AGENTS, "one ran twice");
    for agent in &agents {
        let remove = "mutation($id: ID!) { removeAgent(input: {agent: $id, force: true}) { cursor } }";
        client.ask(remove, json!({"id": agent})).await.unwrap();
    }
    // Only the node itself is left.
    wait("no process of an agent is left", || node.processes().len() <= 1).await;
}

async fn ended(client: &hiveward_tests::Client, query: &str, task: &str) -> Value {
    for _ in 0..3_000 {
        let data = client.ask(query, json!({"id": task})).await.unwrap();
        if matches!(data["node"]["status"].as_str(), Some("SUCCEEDED" | "FAILED" | "DEAD" | "CANCELLED")) {
            return data["node"].clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{task} never ended");
}

async fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never came true: {what}");
}
