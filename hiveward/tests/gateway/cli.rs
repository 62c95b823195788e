//! The command line as users run it.

use std::{
    path::Path,
    process::{Command, Output},
};

use async_graphql::{Variables, parser::parse_query};
use hiveward_cli::client::{AGENT, BALANCE, NAMES, NODE, SWARM, TASK, USAGE, VM};
use hiveward_gateway::limit::{self, DocumentLimits};
use serde_json::{Value, json};

use crate::support::{TOKEN, node::TestNode};

#[test]
fn every_document_of_the_command_line_passes_the_limits() {
    for document in [TASK, AGENT, SWARM, NODE, NAMES, USAGE, VM, BALANCE] {
        let limits = DocumentLimits::default();
        limit::scan(document, &limits).unwrap();
        let variables = Variables::from_json(json!({ "first": 100 }));
        limit::check(&parse_query(document).unwrap(), None, &variables, &limits).unwrap();
    }
}

#[test]
fn every_document_of_the_command_line_is_valid_against_the_committed_schema() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/graphql-http-audit");
    crate::audit::install(&tests);
    let checked = Command::new("node").arg("documents.mjs").current_dir(tests).output().expect("node is needed for this test");
    assert!(checked.status.success(), "{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub async fn hiveward(node: &TestNode, args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiveward"));
    command.args(args).env("HIVEWARD_URL", node.url("")).env("HIVEWARD_TOKEN", TOKEN);
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_goes_to_standard_output_and_each_end_has_its_exit_status() {
    let node = TestNode::start().await;
    let ran = hiveward(&node, &["task", "submit", "--output", "--", "sh", "-c", "echo out; echo err >&2"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "out\n"), "{}", ran.err);
    assert!(ran.err.contains("err\n") && ran.err.contains("task_"), "{}", ran.err);
    let ran = hiveward(&node, &["-q", "task", "submit", "--", "true"]).await;
    assert!(ran.code == 0 && ran.out.starts_with("task_") && ran.out.lines().count() == 1, "{}", ran.out);
    let id = ran.out.trim().to_owned();
    let slow = hiveward(&node, &["task", "submit", "--", "sleep", "60"]).await.out.trim().to_owned();
    let unknown = "task_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5";
    for (args, code) in [
        (vec!["task", "cancel", &slow, unknown], 9),
        (vec!["task", "watch", &id], 0),
        (vec!["-o", "json", "task", "show", &id], 0),
        (vec!["task", "list", "--status", "succeeded,dead"], 0),
        (vec!["status"], 0),
        (vec!["tree"], 0),
        (vec!["event", "list"], 0),
        (vec!["agent", "list", "-o", "yaml"], 0),
        (vec!["completions", "bash"], 0),
        (vec!["task", "submit"], 2),
        (vec!["task", "submit", "--agent", "command-1", "--", "true"], 0),
        (vec!["task", "submit", "--agent", "nobody", "--", "true"], 3),
        (vec!["task", "frobnicate"], 2),
        (vec!["task", "show", "task_x"], 2),
        (vec!["task", "show", unknown], 3),
        (vec!["agent", "show", "nobody"], 3),
        (vec!["--token", "hw_wrong", "status"], 4),
        (vec!["swarm", "create", "default"], 5),
        (vec!["--url", "http://127.0.0.1:1", "status"], 6),
        (vec!["task", "submit", "--wait", "--retries", "0", "--", "false"], 8),
        (vec!["--timeout", "300ms", "task", "submit", "--wait", "--", "sleep", "60"], 7),
    ] {
        let ran = hiveward(&node, &args).await;
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
        assert!(code < 3 || ran.err.contains("next: "), "{args:?} does not say what to do next: {}", ran.err);
    }
    node.stop().await;
}

const FILE: &str = "
parameters:
  word: hello
swarms:
  - name: crew
    strategy: LEAST_BUSY
agents:
  - {name: hand, count: 2, swarm: crew, connector: command}
tasks:
  - name: first
    swarm: crew
    command: {argv: [echo, '${word}']}
  - name: second
    swarm: crew
    dependsOn: [first]
    command: {argv: [echo, done]}
";

#[tokio::test(flavor = "multi_thread")]
async fn applying_a_file_twice_changes_nothing_the_second_time() {
    let node = TestNode::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crew.yaml");
    std::fs::write(&path, FILE).unwrap();
    let path = path.to_str().unwrap();
    let ran = hiveward(&node, &["apply", "-f", path, "--wait"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let head = node.ok("{cluster{cursor}}", json!({})).await;
    let again = hiveward(&node, &["-o", "json", "apply", "-f", path, "--wait"]).await;
    assert_eq!(again.code, 0, "{}", again.err);
    let items: Vec<Value> = serde_json::from_str(&again.out).unwrap();
    assert_eq!(items.len(), 5);
    for item in &items {
        // A list shows the end of an id.
        let id = item["id"].as_str().unwrap();
        assert!(ran.out.contains(&id[id.len() - 8..]), "{item} is new");
    }
    assert_eq!(node.ok("{cluster{cursor}}", json!({})).await, head);
    // Another value is another content.
    let other = hiveward(&node, &["-o", "json", "apply", "-f", path, "--set", "word=bye"]).await;
    assert_eq!(other.code, 0, "{}", other.err);
    std::fs::write(path, FILE.replace("strategy", "stratgy")).unwrap();
    let wrong = hiveward(&node, &["apply", "-f", path]).await;
    assert!(wrong.code == 2 && wrong.err.contains("line 6") && wrong.err.contains("stratgy"), "{}", wrong.err);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_are_set_listed_and_removed_and_what_nobody_used_is_not_shown() {
    let node = TestNode::start().await;
    let set = ["budget", "set", "--label", "team=blue", "--tokens", "1000", "--money", "2.50", "--warn-percent", "80"];
    for _ in 0..2 {
        let ran = hiveward(&node, &[&set[..], &["--operation-id", "b"]].concat()).await;
        assert!(ran.code == 0 && ran.out.contains("1000 tokens, 2.5 USD") && ran.out.contains("80 %"), "{}{}", ran.out, ran.err);
    }
    let ran = hiveward(&node, &["budget", "set", "--agent", "command-1", "--tokens", "7"]).await;
    assert!(ran.code == 0 && ran.out.contains("command-1"), "{}{}", ran.out, ran.err);
    let ran = hiveward(&node, &["budget", "set", "--swarm", "default", "--tokens", "9"]).await;
    assert!(ran.code == 0 && ran.out.contains("default"), "{}{}", ran.out, ran.err);
    let ran = hiveward(&node, &["-q", "budget", "list"]).await;
    assert_eq!(ran.out.lines().filter(|line| line.starts_with("budget_")).count(), 3, "{}", ran.out);
    let remove = ["budget", "remove", "--label", "team=blue"];
    assert_eq!(hiveward(&node, &remove).await.code, 0);
    assert_eq!(hiveward(&node, &remove).await.code, 3, "it is gone");
    assert_eq!(hiveward(&node, &["budget", "set", "--tokens", "9"]).await.code, 2, "of nothing");
    let ran = hiveward(&node, &["usage", "--by", "label"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);

    const SET: &str = "mutation($input: SetBudgetInput!){setBudget(input:$input){budget{scope limit{tokens money{amount currency}} spent{tokens money{amount}} reserved{tokens} warned}}}";
    let label = json!({ "key": "a", "value": "b" });
    let input = |tokens: u32| json!({ "input": { "operationId": "x", "label": label, "tokens": tokens } });
    let done = node.ok(SET, input(5)).await["setBudget"]["budget"].take();
    let shown = json!({ "scope": "a=b", "limit": { "tokens": 5, "money": null }, "spent": { "tokens": 0, "money": null }, "reserved": null, "warned": false });
    assert_eq!((&done, &node.ok(SET, input(5)).await["setBudget"]["budget"]), (&shown, &shown));
    assert_eq!(node.refused(SET, input(6)).await.0, "CONFLICT");
    for (input, code, field) in [
        (json!({ "label": label }), "INVALID", "tokens"),
        (json!({ "tokens": 5 }), "INVALID", "agent"),
        (json!({ "tokens": 5, "label": label, "swarm": "default" }), "INVALID", "agent"),
        (json!({ "money": "-1", "label": label }), "INVALID", "money"),
        (json!({ "tokens": 5, "warnPercent": 101, "label": label }), "INVALID", "warnPercent"),
        (json!({ "tokens": 5, "label": { "key": "a=b", "value": "c" } }), "INVALID", "label.key"),
    ] {
        let refused = node.refused(SET, json!({ "input": input })).await;
        assert_eq!((refused.0.as_str(), refused.1.as_deref()), (code, Some(field)), "{input}");
    }
    let unknown = json!({ "tokens": 5, "agent": "agent_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5" });
    assert_eq!(node.refused(SET, json!({ "input": unknown })).await.0, "NOT_FOUND");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_by_hand_says_what_it_looked_at_and_fails_where_bytes_are_lost() {
    let node = TestNode::start().await;
    // Its result is too large for the ledger.
    let script = "head -c 100000 /dev/zero | tr '\\0' x";
    let input = json!({ "input": { "command": { "argv": ["sh", "-c", script] } } });
    let done = node.ok("mutation($input:SubmitTaskInput!){submitTask(input:$input){task{id}}}", input).await;
    assert_eq!(node.ended(&done["submitTask"]["task"]["id"]).await["status"], "SUCCEEDED");
    let ran = hiveward(&node, &["scrub", "-o", "json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(found["blobs"] == 1 && found["damaged"] == 0, "{found}");
    assert!(found["rows"].as_u64() > Some(10) && found["damagedRows"] == 0 && found["lostRows"] == json!([]), "{found}");
    let mut blobs = Vec::new();
    for folder in std::fs::read_dir(node.data_dir().join("blobs")).unwrap() {
        let files = std::fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path());
        blobs.extend(files.filter(|file| file.extension().is_none()));
    }
    let [blob] = blobs.as_slice() else { panic!("{blobs:?}") };
    let mut bytes = std::fs::read(blob).unwrap();
    bytes[50_000] ^= 1;
    std::fs::write(blob, bytes).unwrap();
    let ran = hiveward(&node, &["scrub", "-o", "json"]).await;
    assert_eq!(ran.code, 9, "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(found["damaged"] == 1 && found["repaired"] == 0, "{found}");
    assert!(ran.err.contains("1 blobs are damaged") && blob.to_string_lossy().contains(found["lost"][0].as_str().unwrap()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_transcript_is_not_served_and_a_scrub_names_it() {
    let node = TestNode::start().await;
    let script = "head -c 200000 /dev/zero | tr '\\0' x >&2; echo done";
    let input = json!({ "input": { "command": { "argv": ["sh", "-c", script] } } });
    let done = node.ok("mutation($input:SubmitTaskInput!){submitTask(input:$input){task{id}}}", input).await;
    let id = done["submitTask"]["task"]["id"].as_str().unwrap().to_owned();
    assert_eq!(node.ended(&json!(id)).await["status"], "SUCCEEDED");
    let ran = hiveward(&node, &["scrub", "-o", "json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(found["transcripts"] == 1 && found["transcriptBytes"] == 200_005 && found["damagedTranscripts"] == 0, "{found}");
    let session = node.data_dir().join("sessions").join(format!("{id}-1"));
    let mut bytes = std::fs::read(session.join("stderr")).unwrap();
    bytes[150_000] ^= 4;
    std::fs::write(session.join("stderr"), bytes).unwrap();
    let ran = hiveward(&node, &["task", "output", &id]).await;
    assert!(ran.code == 5 && ran.err.contains("damaged"), "{}: {}", ran.code, ran.err);
    assert!(!ran.err.contains("try again"), "trying again does not mend it: {}", ran.err);
    let served = ran.out.matches('x').count();
    assert!(served <= 131_072, "{served} bytes were served: more than stand before the damage");
    let ran = hiveward(&node, &["scrub", "-o", "json"]).await;
    assert_eq!(ran.code, 9, "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(found["damagedTranscripts"] == 1 && found["lostTranscripts"] == json!([format!("{id}-1")]), "{found}");
    assert!(ran.err.contains("1 transcripts are damaged"), "{}", ran.err);
    node.stop().await;
}
