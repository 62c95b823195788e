//! Promise: the real programs work under Hiveward as they do in a terminal: their tools really run, their questions are
//! answered by people, and they can be interrupted and spoken to.

use serde_json::json;

use crate::scene::{BOTH, Scene};

const SCRIPT: &str = r#"
conversations:
  - when: make the files
    steps:
      - say: I make two files.
        tools: [{name: Write, input: {file_path: "${cwd}/a.txt", content: "first\n"}}]
      - tools: [{name: Bash, input: {command: "cat a.txt a.txt > b.txt", description: "Double it"}}]
      - say: Both are there.
  - when: remove it all
    steps:
      - tools: [{name: Bash, input: {command: "rm -rf a.txt b.txt", description: "Remove"}}]
      - say: "It was said: ${toolResult}"
  - when: take your time
    steps:
      - say: slowly
        fault: {slow: {firstMs: 0, everyMs: 200}}
        repeat: 100000
  - when: write it now
    steps:
      - tools: [{name: Write, input: {file_path: "${cwd}/now.txt", content: "now\n"}}]
      - say: It is written.
"#;

#[tokio::test(flavor = "multi_thread")]
async fn it_edits_files_with_its_tools_and_asks_where_no_rule_decides() {
    for real in BOTH {
        let rules = json!([
            { "tool": "Write|Edit", "path": "**", "decision": "ALLOW" },
            { "tool": "Bash", "command": "rm *", "decision": "DENY" },
        ]);
        let scene = Scene::begin(real, SCRIPT, json!({ "policy": { "rules": rules } })).await;
        let task = scene.prompt("make the files").await;
        // The edit was allowed by rule; the command is asked for, as it is.
        let question = scene.question(&task).await;
        assert_eq!((&question["tool"], &question["input"]["command"]), (&json!("Bash"), &json!("cat a.txt a.txt > b.txt")));
        assert_eq!(scene.files(), [("a.txt".into(), "first\n".into())], "{real:?}");
        scene.answer(&question, "ALLOW").await;
        assert!(scene.succeeded(&task).await.ends_with("Both are there."), "{real:?}");
        let files = [("a.txt".to_owned(), "first\n".to_owned()), ("b.txt".to_owned(), "first\nfirst\n".to_owned())];
        assert_eq!(scene.files(), files, "{real:?}");
        let task = scene.prompt("remove it all").await;
        let said = scene.succeeded(&task).await;
        assert_eq!(scene.files(), files, "what a rule denies is not done: {real:?} {said}");
        let shown = scene.hive.cli(&["task", "output", &task]).await.out;
        assert!(shown.contains("▶ Bash rm -rf a.txt b.txt") && shown.contains("denied by the policy"), "{shown}");
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_interrupted_and_goes_on_with_what_a_person_says() {
    for real in BOTH {
        let rules = json!([{ "tool": "Write", "path": "*.txt", "decision": "ALLOW" }]);
        let scene = Scene::begin(real, SCRIPT, json!({ "policy": { "rules": rules } })).await;
        let task = scene.prompt("take your time").await;
        scene.does(&task, |event| event["type"] == "greeted").await;
        scene.interrupt(&task).await;
        scene.does(&task, |event| event["end"]["how"] == "interrupted").await;
        scene.say(&task, "write it now").await;
        assert!(scene.succeeded(&task).await.ends_with("It is written."), "{real:?}");
        assert_eq!(scene.files(), [("now.txt".into(), "now\n".into())], "{real:?}");
        scene.end().await;
    }
}
