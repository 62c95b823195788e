//! Promise: whatever a program writes, its attempt ends with a reason, and the node's memory stays bounded.

use std::{fs, path::Path};

use hiveward_tests::until;
use serde_json::json;

use crate::scene::Scene;

/// Of all the floods together: buffers of lines, windows and pages of the transcript.
const GROWTH_MIB_MAX: u64 = 160;

/// The most that the process ever held in memory.
fn peak_mib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.expect("the kernel says so") / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_streams_fail_their_attempt_with_a_reason_and_the_nodes_memory_stays_bounded() {
    let mut scene = Scene::node("conversations: [{steps: [{say: unheard}]}]").await;
    let client = scene.hive.client();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("agents/hostile.py").display().to_string();
    // An agent that is spoken to and stays silent is nudged, and stopped when that does not help.
    let coding = json!({ "argv": ["python3", program], "quietMs": 1_500 });
    scene.agent = client.agent(json!({ "name": "hostile", "connector": { "claudeCode": coding } })).await;
    let node = scene.hive.pid().unwrap();
    // Held once, whatever comes: the buffers of one attempt.
    let before = peak_mib(node);
    for (how, why) in [
        ("garbage", "broke the protocol"),
        ("half an event", "its program ended"),
        ("a line of 1 GiB", "a line of more than 16777216 bytes"),
        ("wrong ids", "it was stuck"),
        ("a flood", "it said more than an attempt may"),
        ("a flood of empty lines", "bytes that say nothing"),
    ] {
        let task = json!({ "kind": "prompt", "payload": how, "agent": scene.agent, "retry": { "maxAttempts": 1 } });
        let task = client.submit(task).await;
        let ended = client.ended(&task).await;
        let peak = peak_mib(node);
        println!("{how}: the node held {peak} MiB at most, {before} before: {}", ended["error"].as_str().unwrap_or_default());
        assert_ne!(ended["status"], "SUCCEEDED", "{how}: {ended:#}");
        assert!(ended["error"].as_str().is_some_and(|error| error.contains(why)), "{how}: {ended:#}");
        assert!(peak < before + GROWTH_MIB_MAX, "{how}: {peak} MiB, {before} before");
        until("it is stopped", async || scene.processes().is_empty().then_some(())).await;
    }
    scene.end().await;
}
