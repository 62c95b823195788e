//! Promise: a node that is killed under many agents at work adopts all of them: no orphan, and no turn lost or doubled.

use std::{fs, path::Path, time::Instant};

use hiveward_tests::{PATIENCE, rounds, until, until_within};
use serde_json::json;

use crate::scene::Scene;

/// Each turn takes a while at the model, so that the node dies under calls.
const SCRIPT: &str = r#"
conversations:
  - steps: [{say: "Yes.", fault: {slow: {firstMs: 1500, everyMs: 0}}}]
"#;

fn turns(place: &Path) -> Vec<usize> {
    let files = fs::read_dir(place).unwrap().flatten();
    files.map(|file| fs::read_to_string(file.path()).unwrap().lines().count()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_at_work_are_adopted_after_kill_9_and_take_each_turn_once() {
    let agents = rounds(40, 200);
    // Longer than it takes to start them all, and to start the node again.
    let turns_each = rounds(20, 60);
    let mut scene = Scene::node(SCRIPT).await;
    let client = scene.hive.client();
    let place = scene.project.clone();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("agents/turns.py").display().to_string();
    let swarm = client.swarm("held").await;
    const SCALE: &str = "mutation($i:ScaleSwarmInput!){scaleSwarm(input:$i){swarm{id}}}";
    let template = json!({
        "name": "held",
        "connector": { "claudeCode": { "argv": ["python3", program] } },
        "env": [{ "name": "PLACE", "value": place.display().to_string() }],
    });
    client.ok(SCALE, json!({ "i": { "swarm": swarm, "agents": agents, "template": template } })).await;
    let task = json!({ "kind": "prompt", "payload": turns_each.to_string(), "swarm": swarm });
    let mut tasks = Vec::new();
    for _ in 0..agents {
        tasks.push(client.submit(task.clone()).await);
    }
    until("every agent has taken a turn", async || (turns(&place).len() == agents).then_some(())).await;
    let before: usize = turns(&place).iter().sum();
    assert!(before < agents * turns_each, "they are still at work");
    let processes = scene.processes().len();
    scene.hive.kill();
    let killed = Instant::now();
    scene.hive.start_again().await;
    let ready = killed.elapsed();
    const READY: &str = "query($a:String){agents(first:500,after:$a,filter:{swarm:\"held\"}){nodes{status running} pageInfo{endCursor hasNextPage}}}";
    const ADOPTED: &str = "query($a:String){events(first:500,after:$a,filter:{kind:[\"AgentReady\"]}){nodes{cursor} pageInfo{endCursor hasNextPage}}}";
    until("every agent lives again", async || {
        let lives = client.all("events", ADOPTED, json!({})).await.len();
        // The two of the default swarm as well.
        (lives >= 2 * (agents + 2)).then_some(())
    })
    .await;
    let adopted = killed.elapsed();
    assert_eq!(scene.processes().len(), processes, "the same processes");
    let busy = client.all("agents", READY, json!({})).await;
    assert!(busy.iter().all(|agent| agent["running"] == 1), "{busy:#?}");
    let all = agents * turns_each;
    until_within(5 * PATIENCE, "every turn was taken", async || (turns(&place).iter().sum::<usize>() == all).then_some(())).await;
    for task in &tasks {
        assert_eq!(scene.succeeded(task).await, format!("{turns_each} turns"));
    }
    for file in fs::read_dir(&place).unwrap().flatten() {
        let taken = fs::read_to_string(file.path()).unwrap();
        let expected: String = (1..=turns_each).map(|turn| format!("{turn}\n")).collect();
        assert_eq!(taken, expected, "each turn once, in order");
    }
    let began = tasks.iter().map(|task| scene.activity(task).iter().filter(|event| event["type"] == "began").count());
    assert!(began.into_iter().all(|began| began == 1), "none was started again");
    println!("{agents} agents, killed under {processes} processes: ready after {ready:.2?}, all adopted after {adopted:.2?}");
    scene.end().await;
}
