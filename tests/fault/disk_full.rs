//! Promise: on a full disk, writes are refused aloud and reads go on; with room again it recovers by itself.

use std::{fs::File, io::Write};

use hiveward_tests::{
    Hive, Setup,
    client::SUBMIT,
    mount::{self, Mount},
    skip, until,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_aloud_reads_go_on_and_room_heals_it() {
    if !mount::may_mount() {
        return skip("only root may mount the file system that is filled");
    }
    let disk = match Mount::tmpfs(192) {
        Ok(disk) => disk,
        Err(problem) => return skip(&format!("no tmpfs mount here: {problem}")),
    };
    let mut hive = Hive::start(Setup { data_dir: Some(disk.path().join("data")), ..Setup::default() }).await;
    let client = hive.client();
    client.noop_swarm("rate", 2).await;
    let before = client.submit(json!({ "swarm": "rate", "kind": "noop", "title": "before" })).await;
    assert_eq!(client.ended(&before).await["status"], "SUCCEEDED");

    let filler = disk.path().join("filler");
    fill(&filler);
    let input = json!({ "operationId": "while-full", "swarm": "rate", "kind": "noop" });
    // The node looks at the room now and then; until it has, a small write may still fit.
    let refused = until("a write is refused", async || {
        client.call(SUBMIT, json!({ "i": { "swarm": "rate", "kind": "noop" } })).await.err()
    })
    .await;
    let refused = if refused.code() == "UNAVAILABLE" { refused } else { client.refused(SUBMIT, json!({ "i": input })).await };
    assert_eq!(refused.code(), "UNAVAILABLE", "{refused:?}");
    let said = refused.message().to_lowercase();
    assert!(said.contains("space") || said.contains("full") || said.contains("room") || said.contains("reserve"), "{said}");
    eprintln!("refused with: {said}");

    // Reads go on: the task, the list, the events, the tree.
    assert_eq!(client.task(&before).await["status"], "SUCCEEDED");
    client.ok("{tasks(first:10){nodes{id}} events(after:\"0\",first:10){nodes{cursor}} supervisionTree{childCount} agents(first:10){nodes{id}}}", json!({})).await;

    // Killed and started in this state it lives, says that it is not ready, and gets ready when there is room.
    hive.kill();
    hive.spawn();
    hive.answers("/healthz").await;
    let client = hive.client();
    let ready = client.http.get(format!("{}/readyz", hive.url())).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    eprintln!("not ready: {}", ready.text().await.unwrap());

    std::fs::remove_file(&filler).unwrap();
    hive.ready().await;
    assert_eq!(client.task(&before).await["status"], "SUCCEEDED");
    let data = client.surely(SUBMIT, input).await;
    let id = data["submitTask"]["task"]["id"].as_str().unwrap().to_owned();
    assert_eq!(client.ended(&id).await["status"], "SUCCEEDED");
    client.remove_agents().await;
    drop(hive);
}

/// Takes all the room there is.
fn fill(path: &std::path::Path) {
    let mut file = File::create(path).unwrap();
    let block = vec![1; 1 << 16];
    while file.write_all(&block).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
}
