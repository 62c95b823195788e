//! kill -9 of the node at random instants while clients submit, run and cancel, against what the clients were told.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hiveward_tests::{Client, NoData, TestNode};
use parking_lot::Mutex;
use serde_json::{Value, json};

const SUBMIT: &str = "mutation($input: SubmitTaskInput!) { submitTask(input: $input) { task { id } cursor } }";
const CANCEL: &str = "mutation($input: CancelTaskInput!) { cancelTask(input: $input) { task { id status } } }";
const CLIENTS: usize = 6;

/// What the clients were told, and nothing else.
#[derive(Default)]
struct Oracle {
    /// Acknowledged submissions: operation → task.
    submitted: HashMap<String, String>,
    /// Acknowledged cancellations.
    cancelled: HashSet<String>,
}

struct Shared {
    client: Client,
    oracle: Mutex<Oracle>,
    stop: AtomicBool,
    next: AtomicU64,
    marker: std::path::PathBuf,
}

/// Repeats the same operation until it is answered: by success, or by a refusal that is final.
async fn until_answered(shared: &Shared, query: &str, input: &Value) -> Result<Value, (String, String)> {
    loop {
        match shared.client.ask(query, json!({"input": input})).await {
            Ok(data) => return Ok(data),
            Err(NoData::Refused { code, message }) => return Err((code, message)),
            Err(NoData::Unknown(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn one_client(shared: Arc<Shared>, seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        let operation = format!("op-{}", shared.next.fetch_add(1, Ordering::Relaxed));
        let input = if dice.u32(0..10) == 0 {
            // Leaves a mark for each attempt that began.
            let script = format!("echo $HIVEWARD_TASK >> {}; sleep 0.05", shared.marker.display());
            json!({"operationId": operation, "command": {"argv": ["/bin/sh", "-c", script]}, "retry": {"maxAttempts": 5, "firstMs": 20}})
        } else {
            json!({"operationId": operation, "swarm": "quick", "kind": "noop"})
        };
        let answer = until_answered(&shared, SUBMIT, &input).await.unwrap_or_else(|refused| panic!("{operation}: {refused:?}"));
        let task = answer["submitTask"]["task"]["id"].as_str().unwrap().to_owned();
        let again = shared.oracle.lock().submitted.insert(operation, task.clone());
        assert_eq!(again, None);
        if dice.u32(0..4) == 0 {
            let input = json!({"operationId": format!("cancel-{task}"), "task": task});
            match until_answered(&shared, CANCEL, &input).await {
                Ok(_) => drop(shared.oracle.lock().cancelled.insert(task)),
                // It ended first.
                Err((code, message)) => assert_eq!(code, "REFUSED", "{message}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_no_acknowledged_task_is_lost_doubled_or_stuck() {
    let seed = std::env::var("HIVEWARD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("HIVEWARD_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut node = TestNode::start().await.unwrap();
    let client = node.client().unwrap();
    let swarm = "mutation { createSwarm(input: {name: \"quick\"}) { swarm { id } } }";
    client.ask(swarm, json!({})).await.unwrap();
    for n in 0..2 {
        let agent = "mutation($name: String!) { createAgent(input: {name: $name, swarm: \"quick\", connector: {noop: true}, maxConcurrentTasks: 32}) { agent { id } } }";
        client.ask(agent, json!({"name": format!("noop-{n}")})).await.unwrap();
    }
    let shared = Arc::new(Shared {
        client: client.clone(),
        oracle: Mutex::default(),
        stop: AtomicBool::new(false),
        next: AtomicU64::new(0),
        marker: node.data().join("marks"),
    });
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        clients.spawn(one_client(shared.clone(), seed.wrapping_add(n as u64)));
    }
    for _ in 0..super::rounds(20, 500) {
        tokio::time::sleep(Duration::from_millis(dice.u64(5..400))).await;
        node.kill();
        node.up().await.unwrap();
    }
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    check(&client, &shared).await;
}

async fn check(client: &Client, shared: &Shared) {
    let oracle = std::mem::take(&mut *shared.oracle.lock());
    let tasks: HashSet<&String> = oracle.submitted.values().collect();
    assert_eq!(tasks.len(), oracle.submitted.len(), "two operations were told the same task");
    println!("{} acknowledged tasks, {} acknowledged cancellations", tasks.len(), oracle.cancelled.len());
    assert!(tasks.len() > 50, "too few to say anything");
    let query = "query($id: ID!) { node(id: $id) { ... on Task { status why } } }";
    let mut statuses: HashMap<&str, usize> = HashMap::new();
    for task in &tasks {
        let mut last = Value::Null;
        let ended = async {
            loop {
                if let Ok(data) = client.ask(query, json!({"id": task})).await {
                    assert!(data["node"].is_object(), "{task} was acknowledged and is lost");
                    last = data["node"].clone();
                    let status = last["status"].as_str().unwrap();
                    if matches!(status, "SUCCEEDED" | "FAILED" | "DEAD" | "CANCELLED") {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(90), ended).await;
        assert!(in_time.is_ok(), "{task} is stuck: {last}");
        let status = last["status"].as_str().unwrap();
        let cancelled = oracle.cancelled.contains(*task);
        assert_eq!(status == "CANCELLED", cancelled, "{task} is {status}, and its cancellation was acknowledged: {cancelled}");
        *statuses.entry(if cancelled { "CANCELLED" } else if status == "SUCCEEDED" { "SUCCEEDED" } else { "other" }).or_default() += 1;
    }
    println!("{statuses:?}");
    assert_eq!(statuses.get("other"), None, "nothing here fails by itself");
    let mut succeeded: HashMap<String, u32> = HashMap::new();
    for event in client.events(0, &["TaskAttemptEnded"]).await.unwrap() {
        if event["data"]["status"] == "SUCCEEDED" {
            *succeeded.entry(event["task"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(succeeded.values().all(|count| *count == 1), "a task succeeded twice");
    let acknowledged = tasks.iter().filter(|task| succeeded.contains_key(**task)).count();
    assert_eq!(Some(&acknowledged), statuses.get("SUCCEEDED"));
}
