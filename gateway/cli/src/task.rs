//! `hiveward task …`

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{CODING, Client, TASK},
    fail::{Exit, Failed, Outcome},
    lookup,
    retry::{self, RetryArgs},
    scatter::{self, ScatterArgs},
    show::{Format, Show, age, plain, print, text},
    usage,
    wait::{self, Follow},
};
use crate::pages::{pages, watching};

#[derive(Subcommand)]
pub enum TaskCommand {
    /// Submit a program (after `--`) or a kind of work as a task; prints its id
    Submit(Box<SubmitArgs>),
    /// Do one piece of work over many items or agents and gather the results; prints the gathering task's id
    Scatter(Box<ScatterArgs>),
    /// List tasks, newest first
    List(ListArgs),
    /// Show all of one task, and why it is where it is
    Show { task: String },
    /// Print what a task writes, as it writes it
    Output {
        task: String,
        /// Of this attempt; the latest if absent
        #[arg(long)]
        attempt: Option<u32>,
        /// Only from after this byte
        #[arg(long, default_value_t = 0)]
        after_byte: u64,
    },
    /// Follow a task to its end, printing each change; exit status 8 if it fails
    Watch { task: String },
    /// Print what a coding agent does in a task, as JSON lines, as it does it
    Activity {
        task: String,
        /// Of this attempt; the latest if absent
        #[arg(long)]
        attempt: Option<u32>,
    },
    /// End the turn of the coding agent that runs a task; it then waits for `task say`
    Interrupt { task: String },
    /// Say something to the coding agent that runs a task
    Say {
        task: String,
        /// Its words, as one argument
        text: String,
    },
    /// Take a coding agent's place: its program's own terminal goes on with the conversation, for `agent attach`
    TakeOver { task: String },
    /// Give a task that was taken over back to its agent, which goes on with the conversation
    GiveBack {
        task: String,
        /// What the agent is told
        #[arg(long)]
        message: Option<String>,
    },
    /// Cancel a task; what runs is stopped
    Cancel {
        #[arg(required = true)]
        tasks: Vec<String>,
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// Send an ended task on its way again, perhaps edited; also redrives a dead one
    Retry(Box<RetryArgs>),
}

#[derive(Args)]
pub struct SubmitArgs {
    /// What people know it by
    #[arg(long)]
    title: Option<String>,
    /// How soon, among those that wait; normal if absent
    #[arg(long, value_parser = ["critical", "high", "normal", "low"])]
    priority: Option<String>,
    /// Wait for this task first; may be given more than once
    #[arg(long = "depends-on", value_name = "ID")]
    depends_on: Vec<String>,
    /// A skill that its agent must have
    #[arg(long = "skill")]
    skills: Vec<String>,
    /// By id or name
    #[arg(long)]
    swarm: Option<String>,
    /// Only this agent may run it
    #[arg(long)]
    agent: Option<String>,
    /// How its agent is chosen; as its swarm does if absent
    #[arg(long, value_parser = ["skill", "round-robin", "least-busy", "weighted"])]
    strategy: Option<String>,
    /// Attempts after the first
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Of one attempt
    #[arg(long, value_name = "D", value_parser = args::duration)]
    timeout_run: Option<Duration>,
    /// From ready to started
    #[arg(long, value_name = "D", value_parser = args::duration)]
    timeout_queue: Option<Duration>,
    /// From submitted to ended
    #[arg(long, value_name = "D", value_parser = args::duration)]
    timeout_total: Option<Duration>,
    /// Start no earlier than this from now
    #[arg(long, value_name = "D", value_parser = args::duration)]
    delay: Option<Duration>,
    /// To find it by; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::pair)]
    labels: Vec<(String, String)>,
    /// A variable of its environment; VALUE may be secret:NAME or file:PATH
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = args::pair)]
    env: Vec<(String, String)>,
    /// The directory that its program begins in
    #[arg(long)]
    cwd: Option<String>,
    /// The program's standard input, from a file (`-` for our own)
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Instead of a program: work of this kind, for an agent with the skills
    #[arg(long, conflicts_with = "argv")]
    kind: Option<String>,
    /// JSON that goes with --kind
    #[arg(long, requires = "kind")]
    payload: Option<String>,
    /// Its result is a plan, whose tasks become its subtasks
    #[arg(long, value_parser = ["collect", "merge", "concat", "majority"])]
    plan: Option<String>,
    /// Makes it idempotent: the same id and request give the same task
    #[arg(long)]
    operation_id: Option<String>,
    /// Wait for its end; exit status 8 if it fails
    #[arg(long)]
    wait: bool,
    /// Show its output live (and wait)
    #[arg(long)]
    output: bool,
    /// The program and its arguments
    #[arg(last = true)]
    argv: Vec<String>,
}

#[derive(Args)]
pub struct ListArgs {
    #[arg(long, value_delimiter = ',')]
    status: Vec<String>,
    #[arg(long)]
    swarm: Option<String>,
    #[arg(long)]
    agent: Option<String>,
    /// Only of these, separated by commas
    #[arg(long, value_delimiter = ',')]
    priority: Vec<String>,
    /// Only with this label; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::pair)]
    labels: Vec<(String, String)>,
    /// Only work of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Words of the title
    #[arg(long)]
    title: Option<String>,
    /// Subtasks of this task
    #[arg(long)]
    parent: Option<String>,
    /// Show at most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Show again every second
    #[arg(short, long)]
    watch: bool,
}

/// Runs `hiveward task …`.
pub async fn run(client: &Client, show: Show, command: TaskCommand) -> Outcome {
    match command {
        TaskCommand::Submit(args) => submit(client, show, *args).await,
        TaskCommand::Scatter(args) => scatter::run(client, show, *args).await,
        TaskCommand::List(mut args) => {
            for (noun, given) in [(&lookup::SWARM, &mut args.swarm), (&lookup::TASK, &mut args.parent)] {
                if let Some(given) = given {
                    *given = lookup::reference(client, noun, given).await?;
                }
            }
            if let Some(given) = &mut args.agent {
                *given = agent(client, given).await?;
            }
            watching(args.watch, || list(client, show, &args)).await
        }
        TaskCommand::Show { task } => {
            let mut found = find(client, &id(client, &task).await?).await?;
            if show.format == Format::Table {
                usage::in_lines(&mut found);
            }
            show.one(&found)
        }
        TaskCommand::Output { task, attempt, after_byte } => {
            wait::output(client, &id(client, &task).await?, attempt, after_byte).await
        }
        TaskCommand::Watch { task } => {
            let task = id(client, &task).await?;
            wait::end(client, &task, Follow { print_changes: !show.quiet, output: false }).await.map(|_| ())
        }
        TaskCommand::Cancel { tasks, operation_id } => cancel(client, show, tasks, operation_id).await,
        TaskCommand::Activity { task, attempt } => activity(client, &id(client, &task).await?, attempt).await,
        TaskCommand::Interrupt { task } => {
            let input = json!({ "input": { "task": id(client, &task).await? } });
            show.done(&client.get::<Value>(CODING, "TaskInterrupt", input, "/interruptTask/task").await?)
        }
        TaskCommand::Say { task, text } => {
            let input = json!({ "input": { "task": id(client, &task).await?, "text": text } });
            show.done(&client.get::<Value>(CODING, "TaskSay", input, "/messageTask/task").await?)
        }
        TaskCommand::TakeOver { task } => {
            let input = json!({ "input": { "task": id(client, &task).await? } });
            show.done(&client.get::<Value>(CODING, "TaskTakeOver", input, "/takeOverTask/task").await?)
        }
        TaskCommand::GiveBack { task, message } => {
            let input = json!({ "input": { "task": id(client, &task).await?, "message": message } });
            show.done(&client.get::<Value>(CODING, "TaskGiveBack", input, "/giveBackTask/task").await?)
        }
        TaskCommand::Retry(args) => Box::pin(retry::run(client, show, *args)).await,
    }
}

/// Returns the id of a task that was named on the command line.
pub(super) async fn id(client: &Client, given: &str) -> Outcome<String> {
    lookup::id(client, &lookup::TASK, given).await
}

/// Returns the id of an agent that is to do something. A whole one goes to the node as it is, which says what is wrong with it.
pub(super) async fn agent(client: &Client, given: &str) -> Outcome<String> {
    match given.starts_with("agent_") {
        true => lookup::reference(client, &lookup::AGENT, given).await,
        false => lookup::id(client, &lookup::AGENT, given).await,
    }
}

pub(super) fn retry_input(retries: Option<u32>) -> Option<Value> {
    retries.map(|retries| json!({ "maxAttempts": retries.saturating_add(1) }))
}

async fn submit(client: &Client, show: Show, args: SubmitArgs) -> Outcome {
    if args.argv.is_empty() && args.kind.is_none() {
        return Err(Failed::usage(
            "there is nothing to run",
            "give a program after `--`, such as: hiveward task submit -- echo hello",
        ));
    }
    let stdin = args.stdin.as_ref().map(read_text).transpose()?;
    let payload = args.payload.as_deref().map(payload).transpose()?;
    let pair = |first: &str, (name, value): &(String, String)| json!({ first: name, "value": value });
    let command = (!args.argv.is_empty()).then(|| {
        let env = args.env.iter().map(|variable| pair("name", variable));
        Input::default()
            .list("argv", args.argv.iter().cloned())
            .list("env", env)
            .set("cwd", args.cwd.map(Value::from))
            .set("stdin", stdin.map(Value::from))
            .done()
    });
    let agent = match args.agent {
        Some(given) => Some(agent(client, &given).await?),
        None => None,
    };
    let input = Input::default()
        .set("operationId", args.operation_id.map(Value::from))
        .set("title", args.title.map(Value::from))
        .set("kind", args.kind.map(Value::from))
        .set("payload", payload)
        .set("command", command)
        .set("priority", args.priority.map(|priority| args::constant(&priority).into()))
        .list("dependsOn", lookup::references(client, &lookup::TASK, args.depends_on).await?)
        .list("skills", args.skills)
        .set("swarm", lookup::optional(client, &lookup::SWARM, args.swarm).await?)
        .set("agent", agent.map(Value::from))
        .set("strategy", args.strategy.map(|strategy| args::constant(&strategy).into()))
        .set("retry", retry_input(args.retries))
        .set("runTimeoutMs", args.timeout_run.map(args::millis))
        .set("queueTimeoutMs", args.timeout_queue.map(args::millis))
        .set("totalTimeoutMs", args.timeout_total.map(args::millis))
        .set("delayMs", args.delay.map(args::millis))
        .list("labels", args.labels.iter().map(|label| pair("key", label)))
        .set("plan", args.plan.map(|aggregate| json!({ "aggregate": args::constant(&aggregate) })))
        .done();
    let task: Value = client.get(TASK, "TaskSubmit", json!({ "input": input }), "/submitTask/task").await?;
    let id = text(&task, "id");
    // With live output on standard output, the id would be in its midst.
    if args.output {
        eprintln!("{id}");
    } else if show.format == super::show::Format::Table {
        super::show::print(&format!("{id}\n"))?;
    } else {
        show.value(&task)?;
    }
    if args.wait || args.output {
        wait::end(client, &id, Follow { print_changes: false, output: args.output }).await?;
    }
    Ok(())
}

pub(super) fn payload(text: &str) -> Outcome<Value> {
    serde_json::from_str(text).map_err(|error| {
        Failed::usage(format!("--payload is no JSON: {error}"), "quote it for the shell, such as --payload '{\"n\":1}'")
    })
}

pub(super) fn read_text(path: &PathBuf) -> Outcome<String> {
    let read = if path.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    read.map_err(|error| Failed::local(format!("cannot read {}: {error}", path.display())))
}

async fn list(client: &Client, show: Show, args: &ListArgs) -> Outcome {
    let filter = Input::default()
        .list("status", args.status.iter().map(|status| args::constant(status)))
        .set("swarm", args.swarm.clone().map(Value::from))
        .set("agent", args.agent.clone().map(Value::from))
        .list("priority", args.priority.iter().map(|priority| args::constant(priority)))
        .list("label", args.labels.iter().map(|(key, value)| json!({ "key": key, "value": value })))
        .set("kind", args.kind.clone().map(Value::from))
        .set("titleContains", args.title.clone().map(Value::from))
        .set("parent", args.parent.clone().map(Value::from));
    let variables = json!({ "filter": filter.done() });
    let tasks = pages(client, TASK, "TaskList", variables, "tasks", args.limit).await?;
    // A task that has not failed has no reason to show.
    let failed = tasks.iter().any(|task| !task["error"].is_null());
    let mut columns = vec!["id", "status", "priority", "attempts", "agent", "age", "title"];
    columns.extend(failed.then_some("why"));
    show.list(&columns, &tasks, |task| {
        let attempts = task["attempts"].as_array().map_or(0, Vec::len);
        let agent = task["attempts"]
            .as_array()
            .and_then(|attempts| attempts.last())
            .map_or_else(String::new, |last| text(&last["agent"], "name"));
        let mut row = vec![
            text(task, "id"),
            text(task, "status"),
            text(task, "priority"),
            attempts.to_string(),
            agent,
            age(task, "createdAt"),
            text(task, "title"),
        ];
        row.extend(failed.then(|| brief(&text(task, "error"))));
        row
    })
}

/// Writes a reason in one line of a table; `task show` has all of it.
fn brief(error: &str) -> String {
    const CHARS_MAX: usize = 100;
    let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CHARS_MAX { line } else { line.chars().take(CHARS_MAX).chain("…".chars()).collect() }
}

/// Returns all of a task. Fails with `NotFound` if there is none.
pub async fn find(client: &Client, id: &str) -> Outcome<Value> {
    let task: Value = client.get(TASK, "TaskShow", json!({ "id": id }), "/node").await?;
    if task["id"].is_null() {
        return Err(Failed::new(Exit::NotFound, format!("there is no task {id}"), "look with `hiveward task list`"));
    }
    Ok(task)
}

async fn cancel(client: &Client, show: Show, tasks: Vec<String>, operation_id: Option<String>) -> Outcome {
    if operation_id.is_some() && tasks.len() > 1 {
        return Err(Failed::usage("one --operation-id cannot stand for several tasks", "cancel them one by one"));
    }
    let all = tasks.len();
    let mut failures = Vec::new();
    for task in tasks {
        let one = async {
            let input = json!({ "task": id(client, &task).await?, "operationId": operation_id });
            client.get::<Value>(TASK, "TaskCancel", json!({ "input": input }), "/cancelTask/task").await
        };
        match one.await {
            Ok(task) => show.done(&task)?,
            Err(failed) => failures.push(failed),
        }
    }
    partly(all, failures)
}

/// Returns the outcome of `all` things that were asked for: the first failure if all failed, "partly done" if some did.
pub fn partly(all: usize, mut failures: Vec<Failed>) -> Outcome {
    match failures.len() {
        0 => Ok(()),
        failed if failed < all => {
            for failure in &failures {
                failure.print();
            }
            Err(Failed::new(
                Exit::Partly,
                format!("{failed} of {all} failed"),
                "mend those and repeat the command; what was done stays done",
            ))
        }
        _ => Err(failures.remove(0)),
    }
}

/// Writes one line about a task's state.
pub fn line(task: &Value) -> String {
    let error = text(task, "error");
    let why = text(task, "why");
    let detail = if error.is_empty() { why } else { error };
    format!("{} {}", plain(&task["status"]), detail).trim_end().to_owned()
}

async fn activity(client: &Client, task: &str, attempt: Option<u32>) -> Outcome {
    let mut chunks = client.subscribe(CODING, "TaskActivity", json!({ "task": task, "attempt": attempt, "afterByte": 0 }));
    while let Some(data) = chunks.next().await? {
        let chunk = &data["taskActivity"];
        for event in chunk["events"].as_array().into_iter().flatten() {
            print(&format!("{event}\n"))?;
        }
        if chunk["atEnd"] == json!(true) {
            return Ok(());
        }
    }
    Ok(())
}
