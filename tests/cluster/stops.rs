//! Promise: what is stopped is not cancelled. A node that stands still and ends what it holds because its lease is over has
//! lost it, and the tasks go on elsewhere.

use std::time::Duration;

use hiveward_tests::{cluster::Cluster, cluster::Shape, dice, rounds, until};
use serde_json::json;

/// Just long enough for a node to end what it holds, and too short for the others to have declared it lost.
const UNTIL_ITS_LEASE_IS_OVER: Duration = Duration::from_millis(7_300);
const TASKS: usize = 6;
/// In which each try of a task is still running when its node goes on.
const TASK_SECONDS: u32 = 12;
const SWARM: &str = "stops";

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_node_that_stood_still_are_tried_again_and_none_is_failed_or_cancelled() {
    let Some(mut cluster) = Cluster::joined(&Shape::of(3)).await else { return };
    let mut dice = dice();
    let client = cluster.client(0);
    client.swarm(SWARM).await;
    for n in 0..TASKS {
        client.agent(json!({ "name": format!("sh-{n}"), "swarm": SWARM, "connector": { "command": true } })).await;
    }
    for round in 0..rounds(1, 100) {
        // First who leads; then anybody, also for so long that the others take over.
        let (node, stands) = match round {
            0 => (cluster.leader().await, UNTIL_ITS_LEASE_IS_OVER),
            _ => (dice.usize(..3), Duration::from_millis(dice.u64(1_000..30_000))),
        };
        let by = cluster.client((node + 1) % 3);
        let mut tasks = Vec::new();
        for n in 0..TASKS {
            let command = json!({ "argv": ["sh", "-c", format!("sleep {TASK_SECONDS}; echo done")] });
            let input =
                json!({ "swarm": SWARM, "title": format!("{round}-{n}"), "command": command, "retry": { "maxAttempts": 3 } });
            tasks.push(by.submit(input).await);
        }
        for task in &tasks {
            until("each task runs", async || (by.task(task).await["status"] == "RUNNING").then_some(())).await;
        }
        cluster.freeze(node);
        tokio::time::sleep(stands).await;
        cluster.thaw(node);
        for task in &tasks {
            let ended = by.ended(task).await;
            assert_eq!(ended["status"], "SUCCEEDED", "node {node} stood still for {stands:?}: {ended}");
        }
        cluster.settled().await;
    }
}
