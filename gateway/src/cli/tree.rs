//! `hiveward tree`

use clap::Args;
use serde_json::{Value, json};

use super::{
    client::{Client, NODE},
    fail::Outcome,
    lookup,
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

pub async fn run(client: &Client, show: Show, args: TreeArgs) -> Outcome {
    let root = match args.root {
        Some(root) => Some(lookup::key(client, &root).await?),
        None => None,
    };
    let tree: Value = client.get(NODE, "Tree", json!({ "root": root, "depth": args.depth.min(5) }), "/supervisionTree").await?;
    match show.format {
        Format::Table => {
            let mut lines = String::new();
            draw(&mut lines, &tree, "", "");
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

fn draw(lines: &mut String, node: &Value, first: &str, rest: &str) {
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
    lines.push_str(&format!("{first}{} ({}) {}\n", text(node, "name"), text(node, "kind"), facts.join(", ")));
    let children = node["children"].as_array().map(Vec::as_slice).unwrap_or_default();
    let hidden = node["childCount"].as_u64().unwrap_or(0).saturating_sub(children.len() as u64);
    for (n, child) in children.iter().enumerate() {
        let last = n + 1 == children.len() && hidden == 0;
        let (branch, under) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(lines, child, &format!("{rest}{branch}"), &format!("{rest}{under}"));
    }
    if hidden > 0 {
        lines.push_str(&format!("{rest}└─ … {hidden} more\n"));
    }
}
