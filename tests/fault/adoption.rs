//! Promise: the node may be killed under running agents; they are adopted, not restarted, and none outlives its removal.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use hiveward_tests::{Client, Hive, Setup, client::REMOVE_AGENT, dice, leftovers::Sessions, rounds, until};
use serde_json::{Value, json};

const AGENTS: usize = 50;
const CREW: &str = "crew";

/// Counts until the gate is there; the mark tells how often it ran.
fn program(own: &str) -> String {
    format!(
        "echo \"$HIVEWARD_TASK\" >> {own}/marks; i=0; until [ -e {own}/gate ]; do i=$((i+1)); echo $i; sleep 0.2; done; echo end $i"
    )
}

async fn crew(client: &Client) -> Vec<String> {
    client.swarm(CREW).await;
    join_all(
        (0..AGENTS)
            .map(|n| client.agent(json!({ "name": format!("hand-{n}"), "swarm": CREW, "connector": { "command": true } }))),
    )
    .await
}

async fn submit_all(client: &Client, script: &str) -> Vec<String> {
    let submit = |_| client.submit(json!({ "swarm": CREW, "command": { "argv": ["sh", "-c", script] } }));
    join_all((0..AGENTS).map(submit)).await
}

async fn running(client: &Client) -> usize {
    let query = "query($s:ID!){tasks(first:100,filter:{swarm:$s,status:[RUNNING]}){nodes{id}}}";
    client.ok(query, json!({ "s": CREW })).await["tasks"]["nodes"].as_array().unwrap().len()
}

/// The last number of an output that counts from 1, without a gap, and then says it again after `end`.
fn counter(output: &str) -> u64 {
    let mut lines = output.lines();
    let end = lines.next_back().and_then(|line| line.strip_prefix("end ")).unwrap_or_else(|| panic!("no end: {output}"));
    let mut expected = 0;
    for line in lines {
        expected += 1;
        assert_eq!(line, expected.to_string(), "a gap");
    }
    assert_eq!(end, expected.to_string(), "the tail is missing");
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_agents_at_work_are_adopted_after_kill_9_with_their_output_complete_and_none_runs_twice() {
    let mut dice = dice();
    let mut hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    let agents = crew(&client).await;
    let own = hive.own_dir().to_str().unwrap().to_owned();
    let tasks = submit_all(&client, &program(&own)).await;
    until("all fifty run", async || (running(&client).await == AGENTS).then_some(())).await;
    for _ in 0..rounds(3, 30) {
        hive.kill();
        // Agents write on while nobody listens.
        tokio::time::sleep(Duration::from_millis(dice.u64(1..1000))).await;
        hive.start_again().await;
        tokio::time::sleep(Duration::from_millis(dice.u64(1..1000))).await;
    }
    std::fs::write(format!("{own}/gate"), "").unwrap();
    for task in &tasks {
        let ended = client.ended(task).await;
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        assert_eq!(ended["attempts"].as_array().unwrap().len(), 1, "it was restarted: {ended}");
        assert!(counter(&output(&client, task).await) > 0);
    }
    let mut ran: HashMap<String, u32> = HashMap::new();
    for line in std::fs::read_to_string(format!("{own}/marks")).unwrap().lines() {
        *ran.entry(line.to_owned()).or_default() += 1;
    }
    assert_eq!(ran.len(), AGENTS);
    assert!(ran.values().all(|times| *times == 1), "some ran twice: {ran:?}");
    let sessions = Sessions::of(hive.data_dir());
    for agent in agents {
        client.ok(REMOVE_AGENT, json!({ "i": { "agent": agent } })).await;
    }
    client.remove_agents().await;
    nothing_left(&hive, sessions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_agents_that_were_adopted_leaves_no_process_not_even_one_that_hid() {
    let mut hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    let agents = crew(&client).await;
    // A child in a process session of its own, one that lost its parent, and one that ignores signals.
    let script = "setsid sleep 1000 & (sleep 1000 &) ; trap '' TERM INT HUP; while :; do sleep 1000; done";
    submit_all(&client, script).await;
    until("all fifty run", async || (running(&client).await == AGENTS).then_some(())).await;
    let four_each = until("their children run", async || {
        let living = Sessions::of(hive.data_dir()).processes(hive.data_dir());
        let sleeping = living.iter().filter(|(_, command)| command.contains("sleep 1000") && !command.contains("setsid")).count();
        (sleeping >= 3 * AGENTS).then_some(living.len())
    })
    .await;
    assert!(four_each >= 4 * AGENTS);
    hive.kill();
    hive.start_again().await;
    let sessions = Sessions::of(hive.data_dir());
    let remove = |agent: String| {
        let client = client.clone();
        async move { client.ok(REMOVE_AGENT, json!({ "i": { "agent": agent, "force": true } })).await }
    };
    join_all(agents.into_iter().map(remove)).await;
    client.remove_agents().await;
    nothing_left(&hive, sessions).await;
}

/// `sessions` as they were before the removal, which may forget them.
async fn nothing_left(hive: &Hive, sessions: Sessions) {
    assert!(sessions.len() >= AGENTS, "the sessions are known");
    until("no process of any agent is left", async || {
        let living = sessions.processes(hive.data_dir());
        if !living.is_empty() {
            eprintln!("{} are left, such as {:?}", living.len(), living.first());
        }
        living.is_empty().then_some(())
    })
    .await;
}

/// Standard output of a task that has ended.
async fn output(client: &Client, task: &str) -> String {
    let query = "subscription($t:ID!){taskOutput(task:$t){stream text atEnd}}";
    let mut chunks = client.subscribe(query, json!({ "t": task }), None).await.unwrap();
    let mut text = String::new();
    while let Some(chunk) = chunks.next().await {
        let chunk: &Value = &chunk["taskOutput"];
        if chunk["stream"] == "STDOUT" {
            text.push_str(chunk["text"].as_str().unwrap());
        }
        if chunk["atEnd"] == true {
            break;
        }
    }
    text
}
