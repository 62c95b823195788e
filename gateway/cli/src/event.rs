//! `hiveward event …`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::Input,
    client::{Client, NODE},
    fail::{Failed, Outcome},
    lookup,
    show::{Format, Show, print, text},
};
use crate::pages::pages;

#[derive(Subcommand)]
pub enum EventCommand {
    /// List events after a cursor, oldest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Begin after this cursor
        #[arg(long, default_value = "0")]
        after: String,
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Print events as they happen (after a cursor, if given); never misses one
    Watch {
        #[command(flatten)]
        filter: FilterArgs,
        /// Begin after this cursor; else now
        #[arg(long)]
        after: Option<String>,
    },
}

#[derive(Args)]
pub struct FilterArgs {
    /// Only these entities
    #[arg(long = "stream")]
    streams: Vec<String>,
    /// Only entities of this noun, such as swarm
    #[arg(long = "noun")]
    nouns: Vec<String>,
    /// Only this kind, such as TaskSubmitted
    #[arg(long = "kind")]
    kinds: Vec<String>,
    #[arg(long)]
    task: Option<String>,
    /// Only what this principal asked for, by the name of its token
    #[arg(long)]
    by: Option<String>,
}

impl FilterArgs {
    async fn input(self, client: &Client) -> Outcome<Value> {
        let mut streams = Vec::with_capacity(self.streams.len());
        for stream in &self.streams {
            streams.push(lookup::key(client, stream).await?);
        }
        Ok(Input::default()
            .list("stream", streams)
            .list("noun", self.nouns)
            .list("kind", self.kinds)
            .set("task", lookup::optional(client, &lookup::TASK, self.task).await?)
            .set("by", self.by.map(Value::from))
            .done())
    }
}

fn row(event: &Value) -> Vec<String> {
    let about = [text(event, "task"), text(event, "agent")].join(" ");
    let about = if about.trim().is_empty() { text(event, "stream") } else { about.trim().to_owned() };
    vec![text(event, "cursor"), text(event, "at"), text(event, "kind"), about, text(event, "by")]
}

/// Runs `hiveward event …`.
pub async fn run(client: &Client, show: Show, command: EventCommand) -> Outcome {
    match command {
        EventCommand::List { filter, after, limit } => {
            let variables = json!({ "after": after, "filter": filter.input(client).await? });
            let events = pages(client, NODE, "EventList", variables, "events", limit).await?;
            show.list(&["cursor", "at", "kind", "about", "by"], &events, row)
        }
        EventCommand::Watch { filter, after } => {
            let variables = json!({ "after": after, "filter": filter.input(client).await? });
            let mut events = client.subscribe(NODE, "EventWatch", variables);
            while let Some(data) = events.next().await? {
                let event = &data["events"];
                match show.format {
                    Format::Table => print(&format!("{}\n", row(event).join("  ")))?,
                    // Each object has one line, for pipes.
                    Format::Json => print(&format!("{event}\n"))?,
                    Format::Yaml => print(&format!("---\n{}", super::show::yaml(event)?))?,
                }
            }
            Err(Failed::new(
                super::fail::Exit::Unreachable,
                "the node ended the stream",
                "it may be stopping; watch again with --after the last cursor shown",
            ))
        }
    }
}
