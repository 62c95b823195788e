//! `hiveward usage`: what calls of models used, and what they cost.

use clap::{Args, ValueEnum};
use hiveward_contract::decimal;
use serde_json::{Value, json};

use super::{
    args,
    client::{Client, USAGE},
    fail::Outcome,
    show::{Show, text},
};
use crate::pages::{pages, watching};

#[derive(Clone, Copy, ValueEnum)]
pub enum By {
    Agent,
    Swarm,
    Label,
    Model,
}

#[derive(Args)]
pub struct UsageArgs {
    /// What it is added up by
    #[arg(long, value_enum, default_value_t = By::Model)]
    by: By,
    /// Show at most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Show again every second
    #[arg(short, long)]
    watch: bool,
}

/// Runs `hiveward usage`.
pub async fn run(client: &Client, show: Show, args: UsageArgs) -> Outcome {
    watching(args.watch, || list(client, show, &args)).await
}

async fn list(client: &Client, show: Show, args: &UsageArgs) -> Outcome {
    let by = args.by.to_possible_value().map(|by| args::constant(by.get_name())).unwrap_or_default();
    let lines = pages(client, USAGE, "Usage", json!({ "by": by }), "usage", args.limit).await?;
    show.list(&["id", "name", "calls", "input", "output", "cache read", "cache write", "money", "incomplete"], &lines, |line| {
        let mut row = vec![text(line, "id"), text(line, "name"), text(line, "calls")];
        row.extend(["input", "output", "cacheRead", "cacheWrite"].map(|kind| text(line, kind)));
        row.extend([money(&line["money"]), text(line, "incomplete")]);
        row
    })
}

/// Writes an amount such as `3.75 USD`; it is empty where it is not known.
pub fn money(money: &Value) -> String {
    if money.is_null() { String::new() } else { format!("{} {}", text(money, "amount"), text(money, "currency")) }
}

/// Adds up for people, by model, what a task's attempts used, and removes it from each attempt.
pub fn in_lines(task: &mut Value) {
    let models = by_model(task);
    for attempt in task["attempts"].as_array_mut().into_iter().flatten() {
        attempt.as_object_mut().map(|attempt| attempt.remove("usage"));
    }
    if !models.is_empty() {
        task["models"] = Value::Array(models);
    }
}

/// Adds up what attempts used by model; money only where all of it is known.
fn by_model(task: &Value) -> Vec<Value> {
    const KINDS: [&str; 6] = ["calls", "input", "output", "cacheRead", "cacheWrite", "incomplete"];
    let mut models: Vec<(String, [u64; 6], Option<u64>, String)> = Vec::new();
    let attempts = task["attempts"].as_array().into_iter().flatten();
    for used in attempts.filter_map(|attempt| attempt["usage"].as_array()).flatten() {
        let nanos = used["money"]["amount"].as_str().and_then(decimal::nanos_from_decimal);
        let counts = KINDS.map(|kind| used[kind].as_u64().unwrap_or(0));
        let name = text(used, "model");
        match models.iter_mut().find(|(model, ..)| *model == name) {
            Some((_, sums, money, _)) => {
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
                *money = money.zip(nanos).map(|(one, other)| one.saturating_add(other));
            }
            None => models.push((name, counts, nanos, text(&used["money"], "currency"))),
        }
    }
    let lines = models.into_iter().map(|(model, sums, nanos, currency)| {
        let mut line = json!({ "model": model });
        for (kind, sum) in KINDS.iter().zip(sums) {
            line[kind] = json!(sum);
        }
        if let Some(nanos) = nanos {
            line["money"] = json!(format!("{} {currency}", decimal::decimal_from_nanos(nanos)));
        }
        line
    });
    lines.collect()
}
