//! Promise: when the wall clock jumps by an hour, nothing is lost, killed, run hours early or stuck.

use std::path::{Path, PathBuf};

use hiveward_tests::{Hive, Setup, dice, rounds, skip, until};
use serde_json::json;

fn faketime() -> Option<PathBuf> {
    let libraries = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|path| path.exists())
}

/// Only the node's wall clock is moved; its monotonic one goes on, as in real life.
fn setup(library: &Path, clock: &Path) -> Setup {
    Setup::default()
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_an_hour_loses_sticks_and_hurries_nothing() {
    let Some(library) = faketime() else {
        return skip("libfaketime is not installed (Debian: libfaketime)");
    };
    let mut dice = dice();
    let own = tempfile::tempdir().unwrap();
    let clock = own.path().join("clock");
    let jump = |to: &str| std::fs::write(&clock, format!("{to}\n")).unwrap();
    jump("+0");
    let mut hive = Hive::start(setup(&library, &clock)).await;
    let client = hive.client();
    client.noop_swarm("rate", 2).await;
    let far = client.submit(json!({ "swarm": "rate", "kind": "noop", "delayMs": 3 * 3600 * 1000 })).await;
    let mut soon = Vec::new();
    let patient = client
        .submit(json!({ "command": { "argv": ["sleep", "4"] }, "runTimeoutMs": 600_000, "totalTimeoutMs": 20 * 3600 * 1000 }))
        .await;
    for _ in 0..rounds(4, 40) {
        let to = *dice.choice(["+3600", "-3600", "+0", "+1800", "-600"].iter()).unwrap();
        soon.push(client.submit(json!({ "swarm": "rate", "kind": "noop", "delayMs": dice.i32(100..1500) })).await);
        jump(to);
        soon.push(client.submit(json!({ "swarm": "rate", "kind": "noop", "delayMs": dice.i32(100..1500) })).await);
        eprintln!("clock at {to}");
        for task in soon.drain(..) {
            assert_eq!(client.ended(&task).await["status"], "SUCCEEDED", "clock at {to}");
        }
        // A limit of an attempt's time holds, whatever the clock says.
        let over = client
            .submit(json!({ "command": { "argv": ["sleep", "1000"] }, "runTimeoutMs": 300, "retry": { "maxAttempts": 1 } }))
            .await;
        let over = client.ended(&over).await;
        assert_eq!(over["attempts"][0]["status"], "TIMED_OUT", "{over}");
    }
    assert_eq!(client.ended(&patient).await["status"], "SUCCEEDED");
    let waiting = client.task(&far).await;
    assert_eq!(waiting["status"], "QUEUED", "it was not to run for three hours");
    jump("-3600");
    hive.kill();
    hive.start_again().await;
    let client = hive.client();
    let task = client.submit(json!({ "swarm": "rate", "kind": "noop" })).await;
    assert_eq!(client.ended(&task).await["status"], "SUCCEEDED", "started again an hour earlier");
    until("what waited still waits", async || (client.task(&far).await["status"] == "QUEUED").then_some(())).await;
    client.remove_agents().await;
}
