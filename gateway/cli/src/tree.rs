//! `hiveward tree`

use std::collections::HashMap;

use clap::Args;
use serde_json::{Value, json};

use super::{
    client::{Client, NODE},
    fail::Outcome,
    lookup::{self, Noun},
    short::shortened,
    show::{Format, Show, print, text},
};

#[derive(Args)]
pub struct TreeArgs {
    /// Only below this path or key
    root: Option<String>,
    /// Levels of children, at most 5
    #[arg(long, default_value_t = 5)]
    depth: u32,
    /// After the tree, print what happens in it
    #[arg(short, long)]
    watch: bool,
}

/// Runs `hiveward tree`.
pub async fn run(client: &Client, show: Show, args: TreeArgs) -> Outcome {
    let root = match args.root {
        Some(root) => Some(lookup::key(client, &root).await?),
        None => None,
    };
    let tree: Value = client.get(NODE, "Tree", json!({ "root": root, "depth": args.depth.min(5) }), "/supervisionTree").await?;
    match show.format {
        Format::Table => {
            let mut keys = Vec::new();
            keys_of(&tree, &mut keys);
            let named = [&lookup::SWARM, &lookup::AGENT, &lookup::HOST, &lookup::VM];
            let nouns: Vec<&Noun> = named.into_iter().filter(|noun| keys.iter().any(|key| noun.is_of(key))).collect();
            let names = lookup::names(client, &nouns).await?;
            let mut lines = String::new();
            draw(&mut lines, &tree, &names, "", "");
            print(&shortened(&lines))?;
        }
        _ => show.value(&tree)?,
    }
    if !args.watch {
        return Ok(());
    }
    let mut changes = client.subscribe(NODE, "TreeWatch", json!({ "root": root }));
    while let Some(data) = changes.next().await? {
        let change = &data["supervision"];
        match show.format {
            Format::Table => {
                let took = change["tookMs"].as_f64().map(|took| format!(" in {took:.3} ms")).unwrap_or_default();
                print(&format!(
                    "{}  {}  {}{took}  {}\n",
                    text(change, "at"),
                    text(change, "change"),
                    text(change, "path"),
                    text(change, "message")
                ))?;
            }
            _ => print(&format!("{change}\n"))?,
        }
    }
    Ok(())
}

/// Collects the keys of all entities in a tree.
fn keys_of(node: &Value, keys: &mut Vec<String>) {
    keys.extend(node["key"].as_str().map(str::to_owned));
    node["children"].as_array().into_iter().flatten().for_each(|child| keys_of(child, keys));
}

fn draw(lines: &mut String, node: &Value, names: &HashMap<String, String>, first: &str, rest: &str) {
    let mut facts = vec![text(node, "status").to_lowercase()];
    let mut fact = |name: &str, field: &str| {
        if let Some(value) = node[field].as_u64().filter(|value| *value > 0) {
            facts.push(format!("{name} {value}"));
        }
    };
    fact("restarts", "restarts");
    fact("mailbox", "mailbox");
    for note in [text(node, "note"), text(&node["lastFailure"], "message")] {
        if !note.is_empty() {
            facts.push(note);
        }
    }
    let name = node["key"].as_str().and_then(|key| names.get(key)).map_or_else(String::new, |name| format!("{name} "));
    lines.push_str(&format!("{first}{name}{} ({}) {}\n", text(node, "name"), text(node, "kind"), facts.join(", ")));
    let children = node["children"].as_array().map(Vec::as_slice).unwrap_or_default();
    let hidden = node["childCount"].as_u64().unwrap_or(0).saturating_sub(children.len() as u64);
    for (n, child) in children.iter().enumerate() {
        let last = n + 1 == children.len() && hidden == 0;
        let (branch, under) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(lines, child, names, &format!("{rest}{branch}"), &format!("{rest}{under}"));
    }
    if hidden > 0 {
        lines.push_str(&format!("{rest}└─ … {hidden} more\n"));
    }
}
