//! Promise: a task that gave up can be found with its reason, mended and sent again, all from the command line.

use hiveward_tests::{Hive, Setup};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_listed_with_its_reason_edited_and_redriven() {
    let hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    let script = "test \"$WANTED\" = yes || { echo no such $1 >&2; exit 3; }; cat";
    let args = ["-q", "task", "submit", "--retries", "1", "--env", "WANTED=no", "--env", "KEPT=yes", "--title", "letter", "--"];
    let ran = hive.cli(&[&args[..], &["sh", "-c", script, "sh", "addressee"]].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let task = ran.out.trim().to_owned();
    assert_eq!(client.ended(&task).await["status"], "DEAD");

    let listed = hive.cli(&["task", "list", "--status", "DEAD"]).await;
    // A list shows the end of an id.
    let end = &task[task.len() - 8..];
    assert!(listed.out.contains(end) && listed.out.contains("WHY") && listed.out.contains("no such addressee"), "{listed:?}");

    // Only what is named is changed: the program and the other variable stay.
    let input = hive.own_dir().join("input");
    std::fs::write(&input, "dear reader").unwrap();
    let edit = ["-q", "task", "retry", &task, "--env", "WANTED=yes", "--stdin", input.to_str().unwrap()];
    let ran = hive.cli(&edit).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ended = client.ended(&task).await;
    assert_eq!((&ended["status"], &ended["resultText"]), (&json!("SUCCEEDED"), &json!("dear reader")), "{ended}");
    let shown: Value = serde_json::from_str(&hive.cli(&["-o", "json", "task", "show", &task]).await.out).unwrap();
    assert_eq!(shown["command"]["argv"][2], script);
    assert!(shown["command"]["env"].as_array().unwrap().contains(&json!({ "name": "KEPT", "value": "yes" })), "{shown}");
    assert_eq!(hive.cli(&["-q", "task", "list", "--status", "dead"]).await.out, "");
    client.remove_agents().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_edited_as_a_file_and_not_sent_if_nothing_was_changed() {
    let hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    let ran = hive.cli(&["-q", "task", "submit", "--retries", "0", "--", "sh", "-c", "echo wrong; false"]).await;
    let task = ran.out.trim().to_owned();
    assert_eq!(client.ended(&task).await["status"], "DEAD", "{ran:?}");
    let head = client.head().await;

    let retry = ["task", "retry", &task, "--edit"];
    let untouched = hive.cli_with(&retry, &[("EDITOR", "true")]).await;
    assert!(untouched.code == 2 && untouched.err.contains("nothing was changed"), "{untouched:?}");
    let broken = hive.cli_with(&retry, &[("EDITOR", "sed -i 's/command:/comand:/'")]).await;
    assert!(broken.code == 2 && broken.err.contains("comand"), "{broken:?}");
    assert_eq!(client.head().await, head, "something was sent");

    let mended = hive.cli_with(&retry, &[("EDITOR", "sed -i 's/echo wrong; false/echo right/'")]).await;
    assert_eq!(mended.code, 0, "{mended:?}");
    let ended = client.ended(&task).await;
    assert_eq!((&ended["status"], &ended["resultText"]), (&json!("SUCCEEDED"), &json!("right\n")), "{ended}");
    client.remove_agents().await;
}
