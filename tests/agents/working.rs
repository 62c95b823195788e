//! Promise: the real programs work under Hiveward as they do in a terminal: their tools really run, their questions are
//! answered by people, and they can be interrupted and spoken to.

use std::time::Duration;

use hiveward_tests::until;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::scene::{BOTH, Real, Scene};

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
  - when: from the terminal
    steps:
      - say: This is the person's turn.
  - when: has given it back
    steps:
      - say: "It goes on."
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

/// What `agent attach` shows, typed into as a person does.
struct Screen {
    child: tokio::process::Child,
    shown: String,
}

impl Screen {
    async fn attach(scene: &Scene, task: &str) -> Self {
        let child = until("its terminal", async || {
            let mut child = scene.hive.cli_piped(&["agent", "attach", &scene.agent, "--task", task]);
            // It says on which it is, or ends with why not.
            let mut line = String::new();
            let said = BufReader::new(child.stderr.as_mut()?).read_line(&mut line).await;
            (said.is_ok() && line.starts_with("attached")).then_some(child)
        });
        Self { child: child.await, shown: String::new() }
    }

    async fn types(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    async fn shows(&mut self, wanted: &str) {
        let look = async {
            // What it draws between letters is no letter.
            while !self.shown.contains(wanted) {
                let mut bytes = [0; 4096];
                let read = self.child.stdout.as_mut().unwrap().read(&mut bytes).await.unwrap();
                assert!(read > 0, "it ended after {}", self.shown);
                self.shown.push_str(&plain(&String::from_utf8_lossy(&bytes[..read])));
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(60), look).await.is_ok();
        assert!(seen, "{wanted:?} is not shown: {}", self.shown);
    }
}

/// Without what moves the cursor and changes colours, and without blanks.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => match chars.next() {
                Some('[') => while chars.next().is_some_and(|char| !char.is_ascii_alphabetic()) {},
                Some(']') => while chars.next().is_some_and(|char| char != '\u{7}') {},
                _ => {}
            },
            char if !char.is_whitespace() => out.push(char),
            _ => {}
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_takes_the_conversation_over_in_the_programs_own_terminal_and_gives_it_back() {
    let scene = Scene::begin(Real::ClaudeCode, SCRIPT, json!({})).await;
    let task = scene.prompt("take your time").await;
    scene.does(&task, |event| event["type"] == "greeted").await;
    let done = scene.hive.cli(&["task", "take-over", &task]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let mut screen = Screen::attach(&scene, &task).await;
    screen.shows("ClaudeCode").await;
    screen.types("this comes from the terminal").await;
    screen.shows("thiscomesfromtheterminal").await;
    screen.types("\r").await;
    screen.shows("Thisistheperson'sturn.").await;
    let done = scene.hive.cli(&["task", "give-back", &task]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(scene.succeeded(&task).await.ends_with("It goes on."));
    let kinds: Vec<String> = scene.activity(&task).iter().filter_map(|event| Some(event["type"].as_str()?.to_owned())).collect();
    let at = |kind: &str| kinds.iter().position(|other| other == kind);
    assert!(at("takenOver").is_some() && at("takenOver") < at("givenBack"), "{kinds:?}");
    // It is one conversation, and the person's turn is in the middle of it.
    let conversation = scene.conversation(&task);
    let places = ["take your time", "this comes from the terminal", "has given it back", "It goes on."];
    let places = places.map(|words| conversation.find(words));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {conversation}");
    scene.end().await;
}
