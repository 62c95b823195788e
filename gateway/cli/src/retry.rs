//! `hiveward task retry`: sends a failed or dead task again, as it was or edited.
//!
//! The API takes the whole work anew. What the user did not name is taken from the task as it is.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use hiveward_contract::yaml;
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{Client, TASK},
    fail::{Failed, Outcome},
    show::{self, Show},
    task,
};

#[derive(Args)]
pub struct RetryArgs {
    task: String,
    /// Edit what it does in $VISUAL or $EDITOR first
    #[arg(long, conflicts_with_all = ["argv", "env", "cwd", "stdin", "kind", "payload"])]
    edit: bool,
    /// Attempts after the first
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Of one attempt
    #[arg(long, value_name = "D", value_parser = args::duration)]
    timeout_run: Option<Duration>,
    /// Set a variable of the program; the others stay
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = args::pair)]
    env: Vec<(String, String)>,
    /// Another directory for its program to begin in
    #[arg(long)]
    cwd: Option<String>,
    /// Another standard input, from a file (`-` for our own)
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Another kind of work
    #[arg(long, conflicts_with = "argv")]
    kind: Option<String>,
    /// Another payload, as JSON
    #[arg(long, value_name = "JSON", conflicts_with = "argv")]
    payload: Option<String>,
    #[arg(long)]
    operation_id: Option<String>,
    /// Another program and arguments
    #[arg(last = true)]
    argv: Vec<String>,
}

impl RetryArgs {
    fn changes_work(&self) -> bool {
        let command = !self.argv.is_empty() || !self.env.is_empty() || self.cwd.is_some() || self.stdin.is_some();
        self.edit || command || self.kind.is_some() || self.payload.is_some()
    }
}

/// Runs `hiveward task retry`.
pub async fn run(client: &Client, show: Show, mut args: RetryArgs) -> Outcome {
    args.task = task::id(client, &args.task).await?;
    let work = if args.changes_work() {
        let now = work_of(&task::find(client, &args.task).await?);
        Some(if args.edit { in_editor(&now)? } else { changed(now, &args)? })
    } else {
        None
    };
    let input = Input::default()
        .set("operationId", args.operation_id.map(Value::from))
        .set("task", Value::from(args.task))
        .set("work", work)
        .set("runTimeoutMs", args.timeout_run.map(args::millis))
        .set("retry", task::retry_input(args.retries))
        .done();
    show.done(&client.get(TASK, "TaskRetry", json!({ "input": input }), "/retryTask/task").await?)
}

/// Returns what the task does now, as the API takes it.
fn work_of(task: &Value) -> Value {
    let command = &task["command"];
    if command.is_null() {
        return Input::default().set("kind", task["kind"].clone()).set("payload", task["payload"].clone()).done();
    }
    let command = Input::default()
        .set("argv", command["argv"].clone())
        .list("env", command["env"].as_array().cloned().unwrap_or_default())
        .set("cwd", command["cwd"].clone())
        .set("stdin", command["stdin"].clone());
    json!({ "command": command.done() })
}

fn changed(mut work: Value, args: &RetryArgs) -> Outcome<Value> {
    if args.kind.is_some() || args.payload.is_some() {
        if work["kind"].is_null() && args.kind.is_none() {
            return Err(Failed::usage(
                "the task is a command and has no payload",
                "give --stdin, another program after `--`, or --edit",
            ));
        }
        if !work["command"].is_null() {
            work = json!({});
        }
        if let Some(kind) = &args.kind {
            work["kind"] = json!(kind);
        }
        if let Some(payload) = &args.payload {
            work["payload"] = task::payload(payload)?;
        }
        return Ok(work);
    }
    if work["command"].is_null() {
        if args.argv.is_empty() {
            return Err(Failed::usage("the task is no command", "give --payload, a program after `--`, or --edit"));
        }
        work = json!({ "command": {} });
    }
    let command = &mut work["command"];
    if !args.argv.is_empty() {
        command["argv"] = json!(args.argv);
    }
    if let Some(cwd) = &args.cwd {
        command["cwd"] = json!(cwd);
    }
    if let Some(stdin) = &args.stdin {
        command["stdin"] = json!(task::read_text(stdin)?);
    }
    if !args.env.is_empty() {
        let mut env = command["env"].as_array().cloned().unwrap_or_default();
        env.retain(|variable| !args.env.iter().any(|(name, _)| variable["name"] == *name));
        env.extend(args.env.iter().map(|(name, value)| json!({ "name": name, "value": value })));
        command["env"] = json!(env);
    }
    Ok(work)
}

/// Lets the user edit it as YAML. If it is saved unchanged, or empty, it is not sent.
fn in_editor(work: &Value) -> Outcome<Value> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".into());
    let text = format!("# What the task shall do. Leave it as it is to change nothing.\n{}", show::yaml(work)?);
    let file = Draft::write(&text)?;
    // Git and others do it so: `code --wait` works as well as a path with spaces in its own quotes.
    let status = std::process::Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("edit").arg(&file.0).status();
    let status = status.map_err(|error| Failed::local(format!("cannot start {editor}: {error}")))?;
    let edited = task::read_text(&file.0)?;
    if !status.success() {
        return Err(Failed::usage(
            format!("{editor} ended with {status}; nothing was sent"),
            "set EDITOR to one that works here",
        ));
    }
    let edited: Value = yaml::read("the edited work", &edited)
        .map_err(|error| Failed::usage(error.to_string(), "run the command again; nothing was sent"))?;
    if edited == *work || edited.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Failed::usage("nothing was changed; nothing was sent", "to send the task as it was, leave --edit out"));
    }
    Ok(edited)
}

/// A file of our own, that only the user can read. Dropping it removes the file.
struct Draft(PathBuf);

impl Draft {
    fn write(text: &str) -> Outcome<Self> {
        let path = std::env::temp_dir().join(format!("hiveward-{:016x}.yaml", fastrand::u64(..)));
        let failed = |path: &Path, error: std::io::Error| Failed::local(format!("cannot write {}: {error}", path.display()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed(&path, error))?;
        let draft = Self(path);
        file.write_all(text.as_bytes()).map_err(|error| failed(&draft.0, error))?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // If this fails it goes sooner or later: it is in the directory for temporary files.
        let _ = std::fs::remove_file(&self.0);
    }
}
