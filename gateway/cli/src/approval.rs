//! `hiveward approval …`: what agents' programs ask persons.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{CODING, Client},
    fail::{Exit, Failed, Outcome},
    lookup,
    show::{Show, age, text},
    task::partly,
};
use crate::pages::{pages, watching};

#[derive(Subcommand)]
pub enum ApprovalCommand {
    /// List what waits for an answer; with --all what was answered, too
    List {
        /// Also what was answered
        #[arg(long)]
        all: bool,
        #[arg(long, value_name = "ID")]
        task: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Show again every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Show all of one: the exact command or edit
    Show { approval: String },
    /// Let the program do it
    Allow(AnswerArgs),
    /// Do not let the program do it
    Deny(AnswerArgs),
}

#[derive(Args)]
pub struct AnswerArgs {
    #[arg(required = true)]
    approvals: Vec<String>,
    /// Words for the program, such as why not
    #[arg(long)]
    message: Option<String>,
}

/// The most approvals that are looked through for one that is shown by its id.
const SHOWN_AMONG: usize = 10_000;

/// Runs `hiveward approval …`.
pub async fn run(client: &Client, show: Show, command: ApprovalCommand) -> Outcome {
    match command {
        ApprovalCommand::List { all, task, limit, watch } => {
            let status = if all { Vec::new() } else { vec!["OPEN"] };
            let task = lookup::optional(client, &lookup::TASK, task).await?;
            let filter = Input::default().list("status", status).set("task", task).done();
            watching(watch, || list(client, show, filter.clone(), limit)).await
        }
        ApprovalCommand::Show { approval } => {
            let approval = lookup::id(client, &lookup::APPROVAL, &approval).await?;
            let found = pages(client, CODING, "ApprovalList", json!({}), "approvals", SHOWN_AMONG).await?;
            let unknown = || {
                Failed::new(
                    Exit::NotFound,
                    format!("there is no approval {approval}"),
                    "look with `hiveward approval list --all`",
                )
            };
            show.one(found.iter().find(|found| found["id"] == *approval).ok_or_else(unknown)?)
        }
        ApprovalCommand::Allow(answer) => each(client, show, answer, "ALLOW").await,
        ApprovalCommand::Deny(answer) => each(client, show, answer, "DENY").await,
    }
}

async fn list(client: &Client, show: Show, filter: Value, limit: usize) -> Outcome {
    let approvals = pages(client, CODING, "ApprovalList", json!({ "filter": filter }), "approvals", limit).await?;
    show.list(&["id", "status", "agent", "task", "tool", "about", "asked"], &approvals, |approval| {
        vec![
            text(approval, "id"),
            text(approval, "status"),
            text(&approval["agent"], "name"),
            text(&approval["task"], "title"),
            text(approval, "tool"),
            about(&approval["input"]),
            age(approval, "askedAt"),
        ]
    })
}

/// Writes what it is about, in a table's cell.
fn about(input: &Value) -> String {
    const SHOWN: usize = 60;
    let named = ["command", "file_path", "path", "url"].iter().find_map(|name| input[*name].as_str());
    let whole = named.map_or_else(|| input.to_string(), str::to_owned).replace('\n', " ");
    if whole.chars().count() > SHOWN { whole.chars().take(SHOWN).chain(['…']).collect() } else { whole }
}

async fn each(client: &Client, show: Show, answer: AnswerArgs, decision: &str) -> Outcome {
    let all = answer.approvals.len();
    let mut failures = Vec::new();
    for approval in answer.approvals {
        let one = async {
            let input = Input::default()
                .set("approval", Value::from(lookup::id(client, &lookup::APPROVAL, &approval).await?))
                .set("decision", Value::from(args::constant(decision)))
                .set("message", answer.message.clone().map(Value::from))
                .done();
            client.get::<Value>(CODING, "ApprovalAnswer", json!({ "input": input }), "/answerApproval/approval").await
        };
        match one.await {
            Ok(approval) => show.done(&approval)?,
            Err(failed) => failures.push(failed),
        }
    }
    partly(all, failures)
}
