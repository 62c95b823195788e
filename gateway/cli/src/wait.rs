//! The wait for a task's end, with its output or its changes on the way.

use std::{io::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::{
    client::{Client, NODE, TASK, timed_out},
    fail::{Exit, Failed, Outcome},
    show::{print, text},
    task::line,
};

/// What to show while waiting.
#[derive(Clone, Copy)]
pub struct Follow {
    pub print_changes: bool,
    pub output: bool,
}

fn terminal(status: &str) -> bool {
    matches!(status, "SUCCEEDED" | "FAILED" | "DEAD" | "CANCELLED")
}

async fn progress(client: &Client, id: &str, at_least: &Value) -> Outcome<Value> {
    let task: Value = client.get(TASK, "TaskProgress", json!({ "id": id, "atLeast": at_least }), "/node").await?;
    if task["id"].is_null() {
        return Err(Failed::new(Exit::NotFound, format!("there is no task {id}"), "look with `hiveward task list`"));
    }
    Ok(task)
}

/// Follows a task until it has ended. For a task that did not succeed it fails with exit status 8.
pub async fn end(client: &Client, id: &str, follow: Follow) -> Outcome<Value> {
    let task = if follow.output {
        let (_, task) = futures_util::future::try_join(
            all_output(client, id),
            until(client, id, follow, |task| terminal(&text(task, "status"))),
        )
        .await?;
        task
    } else {
        until(client, id, follow, |task| terminal(&text(task, "status"))).await?
    };
    match text(&task, "status").as_str() {
        "SUCCEEDED" => Ok(task),
        status => {
            let error = text(&task, "error");
            let what = if error.is_empty() {
                format!("task {id} ended as {status}")
            } else {
                format!("task {id} ended as {status}: {error}")
            };
            Err(Failed::new(
                Exit::TaskFailed,
                what,
                format!(
                    "see `hiveward task show {id}` and `hiveward task output {id}`; `hiveward task retry {id}` sends it on its way again"
                ),
            ))
        }
    }
}

/// Reads the task at each of its events (and every few seconds, in case the stream is down) until the condition holds.
async fn until(client: &Client, id: &str, follow: Follow, done: impl Fn(&Value) -> bool) -> Outcome<Value> {
    const LOOK_ANYWAY: Duration = Duration::from_secs(2);
    let mut task = progress(client, id, &Value::Null).await?;
    let mut shown = String::new();
    let mut events = client.subscribe(NODE, "EventWatch", json!({ "filter": { "task": id }, "after": task["cursor"] }));
    loop {
        let now = line(&task);
        if follow.print_changes && now != shown {
            print(&format!("{now}\n"))?;
            shown = now;
        }
        if done(&task) {
            return Ok(task);
        }
        if client.deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) {
            return Err(timed_out());
        }
        // What an event told must be in the answer: the node's views may be behind its events.
        let mut at_least = Value::Null;
        match tokio::time::timeout(LOOK_ANYWAY, events.next()).await {
            Ok(Ok(Some(event))) => at_least = event["events"]["cursor"].clone(),
            Err(_) => {}
            Ok(Err(failed)) if failed.exit != Exit::Unreachable => return Err(failed),
            // The stream is down or ended: the task is looked at now and then until it is back.
            Ok(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
        task = match progress(client, id, &at_least).await {
            Err(failed) if failed.exit == Exit::Unreachable && client.deadline.is_some() => task,
            other => other?,
        };
    }
}

/// Prints the output of every attempt, one after the other, until the task has ended.
async fn all_output(client: &Client, id: &str) -> Outcome {
    let quiet = Follow { print_changes: false, output: false };
    let mut number = 0;
    loop {
        let started = |task: &Value| task["attempts"].as_array().is_some_and(|attempts| attempts.len() > number);
        let task = until(client, id, quiet, |task| started(task) || terminal(&text(task, "status"))).await?;
        if !started(&task) {
            return Ok(());
        }
        number += 1;
        output(client, id, u32::try_from(number).ok(), 0).await?;
    }
}

/// Copies what one attempt writes to the matching stream of our own, from after a byte to its end.
pub async fn output(client: &Client, id: &str, attempt: Option<u32>, after_byte: u64) -> Outcome {
    let mut chunks = client.subscribe(TASK, "TaskOutput", json!({ "task": id, "attempt": attempt, "afterByte": after_byte }));
    loop {
        let Some(data) = chunks.next().await? else {
            // A node that stops completes its streams; the rest is there when it is back.
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        let chunk = &data["taskOutput"];
        let bytes = BASE64.decode(text(chunk, "base64")).unwrap_or_default();
        let written = if text(chunk, "stream") == "STDERR" {
            std::io::stderr().lock().write_all(&bytes)
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(&bytes).and_then(|()| out.flush())
        };
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => return Err(Failed::local(format!("cannot write the output: {error}"))),
            Ok(()) => {}
        }
        if chunk["atEnd"] == json!(true) {
            return Ok(());
        }
    }
}
