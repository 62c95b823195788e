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
    let Some(mut disk) = disk(if long() { 4096 } else { 512 }) else { return };
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
    let Some(mut disk) = disk(512) else { return };
    let data = disk.path().join("data");
    let mut hive = Hive::start(Setup { data_dir: Some(data.clone()), ..Setup::default() }).await;
    // A body that no buffer holds at once, and that is known in every byte.
    let script = "sleep 1; i=0; while [ $i -lt 4000 ]; do echo \"line $i of the result\"; i=$((i+1)); done | tee made; \
                  echo '{\"hiveward\":\"artifact\",\"name\":\"made\",\"path\":\"made\"}'";
    let command = json!({ "argv": ["sh", "-c", script] });
    let task = hive.client().submit(json!({ "operationId": "cut", "command": command })).await;
    let sessions = data.clone();
    until("it runs", async || found(&sessions, "started").then_some(())).await;
    hive.kill();
    // Its shim lives on, and writes how it ended though nobody is there.
    until("its end is written", async || found(&sessions, "exit.json").then_some(())).await;
    start_after_a_cut(&mut disk, &mut hive).await;
    let ended = hive.client().ended(&task).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    let wanted: String = (0..4000).map(|n| format!("line {n} of the result\n")).collect();
    let said = ended["resultText"].as_str().unwrap();
    assert!(said == wanted, "{} of {} bytes: {}", said.len(), wanted.len(), ended["attempts"]);
    assert_eq!(artifact(&hive, &task).await, json!({ "name": "made", "bytes": wanted.len() }));
    drop(hive);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_output_was_damaged_while_its_node_was_away_is_lost_and_never_succeeds_with_it() {
    let mut hive = Hive::start(Setup::default()).await;
    let script =
        "[ $HIVEWARD_ATTEMPT = 1 ] && sleep 1; i=0; while [ $i -lt 9000 ]; do echo \"line $i of the result\"; i=$((i+1)); done";
    let input = json!({ "command": { "argv": ["sh", "-c", script] }, "retry": { "maxAttempts": 3 } });
    let task = hive.client().submit(input).await;
    let data = hive.data_dir().to_owned();
    until("it runs", async || found(&data, "started").then_some(())).await;
    hive.kill();
    until("its end is written", async || found(&data, "exit.json").then_some(())).await;
    let output = data.join("sessions").join(format!("{task}-1")).join("stdout");
    let mut bytes = std::fs::read(&output).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(&output, bytes).unwrap();
    hive.start_again().await;
    let ended = hive.client().ended(&task).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["attempts"][0]["status"], "LOST", "{ended}");
    assert!(ended["attempts"][0]["error"].as_str().is_some_and(|error| error.contains("damaged")), "{ended}");
    let wanted: String = (0..9000).map(|n| format!("line {n} of the result\n")).collect();
    assert!(ended["resultText"] == wanted.as_str(), "{}", ended["attempts"]);
    drop(hive);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_after_an_attempts_files_are_gone_does_not_fail_it() {
    let Some(mut disk) = disk(512) else { return };
    let data = disk.path().join("data");
    let mut hive = Hive::start(Setup { data_dir: Some(data.clone()), ..Setup::default() }).await;
    let client = hive.client();
    let script = "echo made > made; echo '{\"hiveward\":\"artifact\",\"name\":\"made\",\"path\":\"made\"}'; sleep 1";
    let command = json!({ "argv": ["sh", "-c", script] });
    let task = client.submit(json!({ "operationId": "cut", "command": command, "retry": { "maxAttempts": 1 } })).await;
    until("it runs", async || (client.task(&task).await["status"] == "RUNNING").then_some(())).await;
    // It ends, and nobody can write that into the ledger.
    client.inject("ledger.before_append", "HANG", None, 1_000).await;
    until("its working directory is gone", async || (found(&data, "exit.json") && !found(&data, "work")).then_some(())).await;
    // Whatever else is made durable takes names with it, and not the bytes of every file.
    std::fs::File::create(disk.path().join("another")).unwrap().sync_all().unwrap();
    start_after_a_cut(&mut disk, &mut hive).await;
    let ended = hive.client().ended(&task).await;
    assert_eq!((&ended["status"], &ended["error"]), (&json!("SUCCEEDED"), &json!(null)), "{ended}");
    assert_eq!(artifact(&hive, &task).await, json!({ "name": "made", "bytes": 5 }));
    drop(hive);
}

/// A file system whose power can be cut, unless there is none here.
fn disk(megabytes: u64) -> Option<Mount> {
    if !mount::may_mount() {
        skip("only root may mount the file system whose power is cut");
        return None;
    }
    let made = Mount::ext4(megabytes);
    made.inspect_err(|problem| skip(&format!("no loop mount here: {problem}"))).ok()
}

/// The power goes, and comes back.
async fn start_after_a_cut(disk: &mut Mount, hive: &mut Hive) {
    disk.cut_power().unwrap();
    hive.kill();
    hive.sweep();
    until("the file system is free", async || disk.unmount().ok()).await;
    disk.mount().unwrap();
    hive.start_again().await;
}

/// The name and the length of a task's one artifact.
async fn artifact(hive: &Hive, task: &str) -> serde_json::Value {
    let query = "query($id:ID!){node(id:$id){...on Task{artifacts{name bytes}}}}";
    hive.client().ok(query, json!({ "id": task })).await["node"]["artifacts"][0].take()
}

/// Whether a file of this name is anywhere below.
fn found(below: &Path, name: &str) -> bool {
    std::fs::read_dir(below).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        entry.file_name() == name || (path.is_dir() && found(&path, name))
    })
}
