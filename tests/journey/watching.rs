//! Promise: `status`, `top` and `tree --watch` show a node as it is, and go on showing it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use hiveward_tests::{Hive, PATIENCE, Setup, binary, until};
use serde_json::json;
use tokio::sync::mpsc;

/// A command that goes on until it is ended, and the lines that it prints.
struct Watching {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Watching {
    fn start(hive: &Hive, args: &[&str]) -> Self {
        let mut command = Command::new(binary::hiveward());
        command.args(args).env("HIVEWARD_URL", hive.url()).env("HIVEWARD_TOKEN", hive.token());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel(1024);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    async fn shows(&mut self, what: &str) {
        let looking = async {
            while let Some(line) = self.lines.recv().await {
                let found = line.contains(what);
                self.seen.push(line);
                if found {
                    return;
                }
            }
            panic!("it ended: {:#?}", self.seen)
        };
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            panic!("{what:?} is never shown: {:#?}", self.seen);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_top_and_tree_show_what_runs_and_what_comes_back_after_a_crash() {
    let hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    let status = hive.cli(&["status"]).await;
    assert!(status.code == 0 && status.out.contains("leader") && status.out.contains("swarm   default: 2 agents"), "{status:?}");

    let mut top = Watching::start(&hive, &["top"]);
    top.shows("tasks at work").await;
    let mut tree = Watching::start(&hive, &["tree", "--watch"]);
    tree.shows("roster").await;

    let task = client.submit(json!({ "title": "the-slow-one", "command": { "argv": ["sleep", "1000"] } })).await;
    top.shows("the-slow-one").await;
    top.shows("BUSY").await;

    // Its coordinator crashes at the next thing it does, and comes back: the tree says both.
    let swarms = client.ok("{swarms{nodes{id}}}", json!({})).await;
    client.inject("actor.handle", "PANIC", swarms["swarms"]["nodes"][0]["id"].as_str(), 1).await;
    let again = until("the tree shows the crash", async || {
        let _ = client.call(hiveward_tests::client::SUBMIT, json!({ "i": { "command": { "argv": ["true"] } } })).await;
        tokio::time::timeout(Duration::from_secs(5), tree.shows("RESTARTED")).await.ok()
    });
    again.await;
    assert!(tree.seen.iter().any(|line| line.contains("FAILED")), "{:#?}", tree.seen);
    client.ok(hiveward_tests::client::CANCEL, json!({ "i": { "task": task } })).await;
    client.remove_agents().await;
}
