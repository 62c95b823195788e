//! Promise: a power cut under load loses nothing that was acknowledged, though all that was not in sync is really gone.

use std::{path::Path, time::Duration};

use hiveward_tests::{
    Hive, Setup, dice, long,
    mount::{self, Mount},
    rounds, skip, until,
};

use serde_json::json;

use crate::load::{CLIENTS, Load, SWARM};

/// Of one operation.
const TASKS_MAX: usize = 4;
/// Acknowledged tasks that the long form wants to have put at risk.
const ACKS_LONG: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_under_load_loses_no_acknowledged_task() {
    if !mount::may_mount() {
        return skip("only root may mount the file system whose power is cut");
    }
    let mut disk = match Mount::ext4(512) {
        Ok(disk) => disk,
        Err(problem) => return skip(&format!("no loop mount here: {problem}")),
    };
    let mut dice = dice();
    let mut hive = Hive::start(Setup { data_dir: Some(disk.path().join("data")), ..Setup::default() }).await;
    hive.client().noop_swarm(SWARM, 4).await;
    let mut load = Load::new(&mut dice, None);
    let cuts = rounds(3, 50);
    for cut in 1..=cuts {
        let before = load.acknowledged().await;
        let client = hive.client();
        let working = load.work(&client);
        let wanted = if long() { ACKS_LONG / cuts } else { 50 };
        until("some tasks are acknowledged", async || (load.acknowledged().await >= before + wanted).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(dice.u64(..300))).await;
        disk.cut_power().unwrap();
        let at_the_cut = load.acknowledged().await;
        // The node lives on for a moment on a dead disk: it must not acknowledge a thing.
        tokio::time::sleep(Duration::from_millis(dice.u64(..200))).await;
        hive.kill();
        hive.sweep();
        working.stop().await;
        let after = load.acknowledged().await;
        // One answer of each client may have been on its way when the power went.
        assert!(after <= at_the_cut + CLIENTS * TASKS_MAX, "{} were acknowledged on a dead disk", after - at_the_cut);
        until("the file system is free", async || disk.unmount().ok()).await;
        disk.mount().unwrap();
        hive.start_again().await;
        let client = hive.client();
        load.resolve(&client).await;
        load.check(&client).await;
        load.look_at_some(&client).await;
        if cut % 10 == 0 || cut == cuts {
            eprintln!("cut {cut}: {} tasks acknowledged so far", load.acknowledged().await);
        }
    }
    load.finish(&hive.client()).await;
    hive.client().remove_agents().await;
    drop(hive);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_a_success_has_all_of_its_output_or_is_tried_again() {
    if !mount::may_mount() {
        return skip("only root may mount the file system whose power is cut");
    }
    let mut disk = match Mount::ext4(512) {
        Ok(disk) => disk,
        Err(problem) => return skip(&format!("no loop mount here: {problem}")),
    };
    let data = disk.path().join("data");
    let mut hive = Hive::start(Setup { data_dir: Some(data.clone()), ..Setup::default() }).await;
    // A body that no buffer holds at once, and that is known in every byte.
    let script = "sleep 1; i=0; while [ $i -lt 4000 ]; do echo \"line $i of the result\"; i=$((i+1)); done";
    let command = json!({ "argv": ["sh", "-c", script] });
    let task = hive.client().submit(json!({ "operationId": "cut", "command": command })).await;
    let sessions = data.clone();
    until("it runs", async || found(&sessions, "started").then_some(())).await;
    hive.kill();
    // Its shim lives on, and writes how it ended though nobody is there.
    until("its end is written", async || found(&sessions, "exit.json").then_some(())).await;
    disk.cut_power().unwrap();
    hive.sweep();
    until("the file system is free", async || disk.unmount().ok()).await;
    disk.mount().unwrap();
    hive.start_again().await;
    let ended = hive.client().ended(&task).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    let wanted: String = (0..4000).map(|n| format!("line {n} of the result\n")).collect();
    let said = ended["resultText"].as_str().unwrap();
    assert!(said == wanted, "{} of {} bytes: {}", said.len(), wanted.len(), ended["attempts"]);
    drop(hive);
}

/// Whether a file of this name is anywhere below.
fn found(below: &Path, name: &str) -> bool {
    std::fs::read_dir(below).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        entry.file_name() == name || (path.is_dir() && found(&path, name))
    })
}
