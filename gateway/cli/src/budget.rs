//! `hiveward budget …`: what calls of models may use.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{Client, USAGE},
    fail::Outcome,
    lookup,
    show::{Show, text},
    usage::money,
};
use crate::pages::{pages, watching};

#[derive(Subcommand)]
pub enum BudgetCommand {
    /// Set what calls of models may use, or change it; what was spent stays spent
    Set(SetArgs),
    /// List budgets, what is spent of them, and what calls on this node have set aside
    List {
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Show again every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Remove one; calls go on without it
    Remove(Of),
}

/// What a budget is of.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Of {
    /// An agent, by id or name
    #[arg(long)]
    agent: Option<String>,
    /// A swarm, by id or name
    #[arg(long)]
    swarm: Option<String>,
    /// Tasks with this label
    #[arg(long, value_name = "KEY=VALUE", value_parser = args::pair)]
    label: Option<(String, String)>,
}

#[derive(Args)]
pub struct SetArgs {
    #[command(flatten)]
    of: Of,
    /// Of all kinds together
    #[arg(long, required_unless_present = "money")]
    tokens: Option<u64>,
    /// In the currency of the price table, such as 20 or 3.75
    #[arg(long)]
    money: Option<String>,
    /// Tell by an event when this much of it is spent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    warn_percent: Option<u8>,
    /// Repeating the same with this id changes nothing more
    #[arg(long)]
    operation_id: Option<String>,
}

impl Of {
    async fn input(self, client: &Client) -> Outcome<Input> {
        let agent = match self.agent {
            Some(agent) => Some(lookup::id(client, &lookup::AGENT, &agent).await?),
            None => None,
        };
        let label = self.label.map(|(key, value)| json!({ "key": key, "value": value }));
        let input = Input::default().set("agent", agent.map(Value::from));
        Ok(input.set("swarm", lookup::optional(client, &lookup::SWARM, self.swarm).await?).set("label", label))
    }
}

/// Runs `hiveward budget …`.
pub async fn run(client: &Client, show: Show, command: BudgetCommand) -> Outcome {
    match command {
        BudgetCommand::Set(SetArgs { of, tokens, money, warn_percent, operation_id }) => {
            let input = of.input(client).await?;
            let input = input
                .set("tokens", tokens.map(Value::from))
                .set("money", money.map(Value::from))
                .set("warnPercent", warn_percent.map(Value::from))
                .set("operationId", operation_id.map(Value::from))
                .done();
            let budget: Value = client.get(USAGE, "BudgetSet", json!({ "input": input }), "/setBudget/budget").await?;
            show_all(show, &[budget])
        }
        BudgetCommand::List { limit, watch } => watching(watch, || list(client, show, limit)).await,
        BudgetCommand::Remove(of) => {
            let input = of.input(client).await?.done();
            show.done(&client.get::<Value>(USAGE, "BudgetRemove", json!({ "input": input }), "/removeBudget").await?)
        }
    }
}

async fn list(client: &Client, show: Show, limit: usize) -> Outcome {
    show_all(show, &pages(client, USAGE, "BudgetList", json!({}), "budgets", limit).await?)
}

fn show_all(show: Show, budgets: &[Value]) -> Outcome {
    show.list(&["of", "name", "limit", "spent", "reserved here", "warns at", "warned"], budgets, |budget| {
        let name = [&budget["agent"], &budget["swarm"]].map(|named| text(named, "name")).concat();
        let warns = text(budget, "warnPercent");
        vec![
            text(budget, "scope"),
            name,
            sum(&budget["limit"]),
            sum(&budget["spent"]),
            sum(&budget["reserved"]),
            if warns.is_empty() { warns } else { format!("{warns} %") },
            text(budget, "warned"),
        ]
    })
}

/// Writes an amount such as `20000 tokens, 3.75 USD`.
fn sum(amount: &Value) -> String {
    let tokens = text(amount, "tokens");
    let tokens = if tokens.is_empty() { tokens } else { format!("{tokens} tokens") };
    let parts = [tokens, money(&amount["money"])];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}
