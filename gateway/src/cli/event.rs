//! `hiveward event …`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::Input,
    client::{Client, NODE},
    fail::{Failed, Outcome},
    pages,
    show::{Format, Show, print, text},
};

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
}

impl FilterArgs {
    fn input(self) -> Value {
        Input::default()
            .list("stream", self.streams)
            .list("noun", self.nouns)
            .list("kind", self.kinds)
            .set("task", self.task.map(Value::from))
            .done()
    }
}

fn row(event: &Value) -> Vec<String> {
    let about = [text(event, "task"), text(event, "agent")].join(" ");
    let about = if about.trim().is_empty() { text(event, "stream") } else { about.trim().to_owned() };
    vec![text(event, "cursor"), text(event, "at"), text(event, "kind"), about]
}

pub async fn run(client: &Client, show: Show, command: EventCommand) -> Outcome {
    match command {
        EventCommand::List { filter, after, limit } => {
            let events =
                pages(client, NODE, "EventList", json!({ "after": after, "filter": filter.input() }), "events", limit).await?;
            show.list(&["cursor", "at", "kind", "about"], &events, row)
        }
        EventCommand::Watch { filter, after } => {
            let mut events = client.subscribe(NODE, "EventWatch", json!({ "after": after, "filter": filter.input() }));
            while let Some(data) = events.next().await? {
                let event = &data["events"];
                match show.format {
                    Format::Table => print(&format!("{}\n", row(event).join("  ")))?,
                    // One object per line, for pipes.
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
