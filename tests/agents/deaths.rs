//! Promise: neither a death of the node nor one of the program loses or doubles an agent's work.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::scene::{BOTH, Scene};

const SCRIPT: &str = r#"
conversations:
  - when: Your process ended unexpectedly
    steps:
      - tools: [{name: Write, input: {file_path: "${cwd}/after.txt", content: "after\n"}}]
      - say: I went on.
  - when: one then two
    steps:
      - tools: [{name: Bash, input: {command: "echo one >> one.txt", description: "One"}}]
      - tools: [{name: Bash, input: {command: "echo two >> two.txt", description: "Two"}}]
      - say: Both are written.
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_while_a_person_is_asked_adopts_the_same_process_and_the_same_call_goes_on() {
    for real in BOTH {
        let mut scene = Scene::begin(real, SCRIPT, json!({})).await;
        let task = scene.prompt("one then two").await;
        let first = scene.question(&task).await;
        let before = scene.processes();
        scene.hive.kill();
        scene.hive.start_again().await;
        assert_eq!(scene.question(&task).await["id"], first["id"], "it waits through the restart: {real:?}");
        scene.answer(&first, "ALLOW").await;
        let second = scene.question(&task).await;
        assert_ne!(second["id"], first["id"]);
        // Once more, right after an answer.
        scene.answer(&second, "ALLOW").await;
        scene.hive.kill();
        scene.hive.start_again().await;
        assert!(scene.succeeded(&task).await.ends_with("Both are written."), "{real:?}");
        let once = [("one.txt".to_owned(), "one\n".to_owned()), ("two.txt".to_owned(), "two\n".to_owned())];
        assert_eq!(scene.files(), once, "each was done once: {real:?}");
        let runs = scene.activity(&task).iter().filter(|event| event["type"] == "began").count();
        assert_eq!(runs, 1, "it was never started again: {real:?} {before:?}");
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_killed_goes_on_with_its_conversation() {
    for real in BOTH {
        let rules = json!([{ "tool": "Write", "path": "**", "decision": "ALLOW" }]);
        let scene = Scene::begin(real, SCRIPT, json!({ "policy": { "rules": rules } })).await;
        let task = scene.prompt("one then two").await;
        let first = scene.question(&task).await;
        scene.answer(&first, "ALLOW").await;
        let second = scene.question(&task).await;
        for pid in scene.processes() {
            // It may have gone with its parent already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        assert!(scene.succeeded(&task).await.ends_with("I went on."), "{real:?}");
        let files = [("after.txt".to_owned(), "after\n".to_owned()), ("one.txt".to_owned(), "one\n".to_owned())];
        assert_eq!(scene.files(), files, "{real:?}");
        let sessions: Vec<_> = scene.activity(&task).iter().filter(|event| event["type"] == "greeted").cloned().collect();
        assert_eq!(sessions.len(), 2, "{real:?}");
        assert_eq!(sessions[0]["session"], sessions[1]["session"], "the same conversation: {real:?}");
        // What the dead process asked is nobody's any more.
        let late = scene.hive.cli(&["approval", "allow", second["id"].as_str().unwrap()]).await;
        assert_eq!(late.code, 5, "{late:?}");
        scene.end().await;
    }
}
