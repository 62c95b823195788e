//! `hiveward node …` and `hiveward token …`

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    access::{self, KeyArgs},
    args,
    client::{Client, NODE},
    fail::{Exit, Failed, Outcome},
    lookup,
    show::{Format, Show, plain, print, text},
};

#[derive(Subcommand)]
pub enum NodeCommand {
    /// List the cluster's nodes
    List,
    /// Move or finish what a node holds, so that it can be stopped or removed
    Drain {
        node: String,
        /// Instead, let a draining or drained node take entities again
        #[arg(long)]
        cancel: bool,
        /// What has not moved or finished by then is stopped
        #[arg(long, value_parser = args::duration, default_value = "10m")]
        within: Duration,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Take a drained or lost node out for good; its certificate is void from then on
    Remove {
        node: String,
        /// Also one that is neither drained nor lost
        #[arg(long)]
        force: bool,
    },
}

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token with which one new node may join, or a key for programs with --role
    Create {
        /// How long the token of a node can be used
        #[arg(long, value_parser = args::duration, default_value = "24h", conflicts_with = "role")]
        ttl: Duration,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// List the keys of programs
    List {
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Make a key of a program worth nothing, at once and everywhere
    Revoke {
        /// The name or the id of the key
        key: String,
    },
}

/// The time between looks at a drain.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn millis(duration: Duration) -> Outcome<i32> {
    i32::try_from(duration.as_millis()).map_err(|_| Failed::usage("that is too long", "give at most 24 days"))
}

/// Runs `hiveward node …`.
pub async fn run(client: &Client, show: Show, command: NodeCommand) -> Outcome {
    match command {
        NodeCommand::List => {
            let data = client.call(NODE, "NodeList", json!({})).await?;
            let nodes = data["cluster"]["nodes"].as_array().cloned().unwrap_or_default();
            let columns = ["id", "status", "role", "address", "entities", "lease", "lag", "version", "note"];
            show.list(&columns, &nodes, |node| {
                let role = if node["leader"] == true {
                    "leader"
                } else if node["voter"] == true {
                    "voter"
                } else {
                    "learner"
                };
                let lease = node["leaseLeftMs"].as_u64().map(|ms| format!("{:.1} s", ms as f64 / 1e3)).unwrap_or_default();
                let note = [text(node, "why"), text(node, "suspected")].join(" ");
                vec![
                    text(node, "id"),
                    text(node, "status"),
                    role.into(),
                    text(node, "address"),
                    plain(&node["entities"]),
                    lease,
                    text(node, "viewLag"),
                    text(node, "version"),
                    note.trim().into(),
                ]
            })
        }
        NodeCommand::Drain { node, cancel, within, no_wait } => {
            let node = lookup::id(client, &lookup::NODE, &node).await?;
            let input = json!({ "node": node, "cancel": cancel, "withinMs": millis(within)? });
            let begun = client.get(NODE, "NodeDrain", json!({ "input": input }), "/drainNode/node").await?;
            if cancel || no_wait {
                return show.done(&begun);
            }
            wait(client, show, &node).await
        }
        NodeCommand::Remove { node, force } => {
            let node = lookup::id(client, &lookup::NODE, &node).await?;
            let input = json!({ "node": node, "force": force });
            show.done(&client.get(NODE, "NodeRemove", json!({ "input": input }), "/removeNode/node").await?)
        }
    }
}

/// Follows a drain to its end, with its progress on standard error.
async fn wait(client: &Client, show: Show, id: &str) -> Outcome {
    let mut said = String::new();
    loop {
        let node: Value = client.get(NODE, "NodeShow", json!({ "id": id }), "/node").await?;
        match text(&node, "status").as_str() {
            "DRAINED" => return show.done(&node),
            "DRAINING" => {}
            other => {
                let what = format!("the drain of {id} was ended: the node is {other}");
                return Err(Failed::new(Exit::Conflict, what, "look with `hiveward node list`"));
            }
        }
        let progress = format!(
            "{} of {} entities are left",
            plain(&node["drain"]["entitiesLeft"]),
            plain(&node["drain"]["entitiesAtStart"])
        );
        if progress != said {
            eprintln!("{progress}");
            said = progress;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Runs `hiveward token …`.
pub async fn token(client: &Client, show: Show, command: TokenCommand) -> Outcome {
    let ttl = match command {
        TokenCommand::Create { key, .. } if key.role.is_some() => return access::create_key(client, show, key).await,
        TokenCommand::Create { ttl, .. } => ttl,
        TokenCommand::List { limit } => return access::list_keys(client, show, limit).await,
        TokenCommand::Revoke { key } => return access::revoke_key(client, show, &key).await,
    };
    let input = json!({ "ttlMs": millis(ttl)? });
    let made = client.get(NODE, "TokenCreate", json!({ "input": input }), "/createJoinToken").await?;
    match show.format {
        Format::Table => {
            if !show.quiet {
                eprintln!(
                    "Good for one node. On the new host:\n  hiveward up --join HOST:7701 --token TOKEN\nwith the address of any node here, and this token, which is not shown again:"
                );
            }
            print(&format!("{}\n", text(&made, "token")))
        }
        _ => show.value(&made),
    }
}
