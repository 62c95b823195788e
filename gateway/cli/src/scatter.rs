//! `hiveward task scatter`: one program or kind of work over many items or agents, whose results are gathered.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{Client, TASK},
    fail::{Failed, Outcome},
    lookup,
    show::{Show, text},
    task,
    wait::{self, Follow},
};

#[derive(Args)]
pub struct ScatterArgs {
    /// One part for each line of a file (`-` for our own standard input), or for each element if it is a JSON array; a
    /// program has its item in HIVEWARD_ITEM
    #[arg(long, value_name = "FILE", required_unless_present = "over_agents", conflicts_with = "over_agents")]
    items: Option<PathBuf>,
    /// One part on each agent of the swarm
    #[arg(long)]
    over_agents: bool,
    /// With --over-agents: only on this one; may be given more than once
    #[arg(long = "agent", requires = "over_agents")]
    agents: Vec<String>,
    /// A skill that each part's agent must have
    #[arg(long = "skill")]
    skills: Vec<String>,
    /// By id or name
    #[arg(long)]
    swarm: Option<String>,
    /// What people know it by
    #[arg(long)]
    title: Option<String>,
    /// How soon, among those that wait; normal if absent
    #[arg(long, value_parser = ["critical", "high", "normal", "low"])]
    priority: Option<String>,
    /// So many parts are enough; the rest is cancelled
    #[arg(long, value_name = "N", conflicts_with = "best_effort")]
    at_least: Option<u32>,
    /// Take what is in when all parts have ended, or at the deadline
    #[arg(long)]
    best_effort: bool,
    /// From submitted to gathered
    #[arg(long, value_name = "D", value_parser = args::duration)]
    deadline: Option<Duration>,
    /// What becomes of the results of the parts
    #[arg(long, value_parser = ["collect", "merge", "concat", "majority"], conflicts_with = "reduce")]
    aggregate: Option<String>,
    /// A shell command that reduces the results of the parts, which are in the file HIVEWARD_INPUTS names
    #[arg(long, value_name = "COMMAND")]
    reduce: Option<String>,
    /// A part that has run for so long gets a twin on another agent
    #[arg(long, value_name = "D", value_parser = args::duration, conflicts_with = "hedge_factor")]
    hedge_after: Option<Duration>,
    /// A part that has run so many times as long as the median gets a twin on another agent
    #[arg(long, value_name = "FACTOR")]
    hedge_factor: Option<f64>,
    /// Of the parts, how many may get a twin (0.25 if absent)
    #[arg(long, value_name = "SHARE")]
    hedge_share: Option<f64>,
    /// Attempts at a part after its first
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Of one attempt at a part
    #[arg(long, value_name = "D", value_parser = args::duration)]
    timeout_run: Option<Duration>,
    /// Instead of a program: work of this kind, with the item as its payload
    #[arg(long, conflicts_with = "argv")]
    kind: Option<String>,
    /// A JSON object that goes with --kind; the item is added to it as `item`
    #[arg(long, requires = "kind")]
    payload: Option<String>,
    #[arg(long)]
    operation_id: Option<String>,
    /// Wait for its end; exit status 8 if it fails
    #[arg(long)]
    wait: bool,
    /// The program and its arguments
    #[arg(last = true)]
    argv: Vec<String>,
}

fn items(file: &PathBuf) -> Outcome<Vec<Value>> {
    let text = task::read_text(file)?;
    if text.trim_start().starts_with('[')
        && let Ok(items) = serde_json::from_str(&text)
    {
        return Ok(items);
    }
    Ok(text.lines().filter(|line| !line.is_empty()).map(Value::from).collect())
}

/// Runs `hiveward task scatter`.
pub async fn run(client: &Client, show: Show, args: ScatterArgs) -> Outcome {
    if args.argv.is_empty() && args.kind.is_none() {
        return Err(Failed::usage(
            "there is nothing to run",
            "give a program after `--`, such as: hiveward task scatter --items FILE -- sh -c 'wc -l \"$HIVEWARD_ITEM\"'",
        ));
    }
    let items = args.items.as_ref().map(items).transpose()?;
    let payload = args.payload.as_deref().map(task::payload).transpose()?;
    let over_agents = if args.over_agents {
        let mut agents = Vec::new();
        for name in &args.agents {
            agents.push(task::agent(client, name).await?);
        }
        Some(Input::default().list("agents", agents).list("skills", args.skills.clone()).done())
    } else {
        None
    };
    let part = Input::default()
        .set("command", (!args.argv.is_empty()).then(|| json!({ "argv": args.argv })))
        .set("kind", args.kind.map(Value::from))
        .set("payload", payload)
        .set("priority", args.priority.map(|priority| args::constant(&priority).into()))
        .list("skills", args.skills)
        .set("retry", task::retry_input(args.retries))
        .set("runTimeoutMs", args.timeout_run.map(args::millis))
        .done();
    let hedge = Input::default()
        .set("afterMs", args.hedge_after.map(args::millis))
        .set("factor", args.hedge_factor.map(Value::from))
        .set("share", args.hedge_share.map(Value::from))
        .unless_empty();
    let policy = match (args.at_least, args.best_effort) {
        (Some(_), _) => "AT_LEAST",
        (None, true) => "BEST_EFFORT",
        (None, false) => "ALL",
    };
    let reduce = args.reduce.map(|command| json!({ "command": { "argv": ["/bin/sh", "-c", command] } }));
    let input = Input::default()
        .set("operationId", args.operation_id.map(Value::from))
        .set("title", args.title.map(Value::from))
        .set("swarm", lookup::optional(client, &lookup::SWARM, args.swarm).await?)
        .set("items", items.map(Value::from))
        .set("overAgents", over_agents)
        .set("part", part)
        .set("policy", Value::from(policy))
        .set("atLeast", args.at_least.map(Value::from))
        .set("deadlineMs", args.deadline.map(args::millis))
        .set("aggregate", args.aggregate.map(|aggregate| args::constant(&aggregate).into()))
        .set("reduce", reduce)
        .set("hedge", hedge)
        .done();
    let task: Value = client.get(TASK, "TaskScatter", json!({ "input": input }), "/scatter/task").await?;
    let id = text(&task, "id");
    if show.format == super::show::Format::Table {
        super::show::print(&format!("{id}\n"))?;
    } else {
        show.value(&task)?;
    }
    if args.wait {
        let ended = wait::end(client, &id, Follow { print_changes: false, output: false }).await?;
        if show.format == super::show::Format::Table {
            super::show::print(&format!("{}\n", text(&ended, "resultText")))?;
        }
    }
    Ok(())
}
