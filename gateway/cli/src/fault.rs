//! `hiveward fault …`

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{Client, NODE},
    fail::Outcome,
    show::{Show, text},
};

#[derive(Subcommand)]
pub enum FaultCommand {
    /// Arm a fault at a point; administrators only, off unless configured
    Inject {
        /// The point's name, such as actor.handle
        point: String,
        /// What happens there
        #[arg(value_parser = ["panic", "error", "delay", "hang", "abort"])]
        fault: String,
        /// Only for this entity
        #[arg(long)]
        key: Option<String>,
        /// What an error says
        #[arg(long)]
        message: Option<String>,
        /// How long a delay is
        #[arg(long, value_parser = args::duration)]
        delay: Option<Duration>,
        /// How often, before it is spent
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// List what is armed
    List,
}

/// Runs `hiveward fault …`.
pub async fn run(client: &Client, show: Show, command: FaultCommand) -> Outcome {
    let points: Vec<Value> = match command {
        FaultCommand::Inject { point, fault, key, message, delay, times } => {
            let input = Input::default()
                .set("point", Value::from(point))
                .set("fault", Value::from(args::constant(&fault)))
                .set("key", key.map(Value::from))
                .set("message", message.map(Value::from))
                .set("delayMs", delay.map(args::millis))
                .set("times", Value::from(times))
                .done();
            client.get(NODE, "FaultInject", json!({ "input": input }), "/injectFault/points").await?
        }
        FaultCommand::List => client.get(NODE, "FaultList", json!({}), "/faults").await?,
    };
    show.list(&["point", "key", "fault", "times", "struck"], &points, |point| {
        ["point", "key", "fault", "times", "struck"].map(|field| text(point, field)).into()
    })
}
