//! `hiveward storage` and `hiveward scrub`

use serde_json::{Value, json};

use super::{
    client::{Client, NODE},
    fail::{Exit, Failed, Outcome},
    host::size,
    short::shortened,
    show::{Format, Show, age, print, text},
};

/// Shows what uses the disk of each node, for whom, and when it will be full.
pub async fn storage(client: &Client, show: Show) -> Outcome {
    let nodes: Value = client.get(NODE, "Storage", json!({}), "/storage").await?;
    let nodes: Vec<Value> = nodes.as_array().cloned().unwrap_or_default();
    if show.quiet || show.format != Format::Table {
        return show.value(&Value::Array(nodes));
    }
    print(&shortened(&nodes.iter().map(lines_of).collect::<String>()))
}

fn lines_of(node: &Value) -> String {
    let mut lines = vec![format!("node      {}", text(node, "node"))];
    if let Some(problem) = node["problem"].as_str() {
        lines.push(format!("          it does not say: {problem}"));
        return lines.join("\n") + "\n";
    }
    let bytes = |value: &Value, field: &str| size(&value[field]);
    let full = match node["fullAt"].as_str() {
        Some(at) => format!("; full at {at} if it goes on as in the last hour"),
        None => "; it does not fill".to_owned(),
    };
    lines.push(format!("disk      {} of {} free{full}", bytes(node, "freeBytes"), bytes(node, "totalBytes")));
    if !node["measuredAt"].is_null() {
        lines.push(format!("folders   as they were {} ago; they are measured every ten minutes", age(node, "measuredAt")));
    }
    for folder in node["folders"].as_array().into_iter().flatten() {
        lines.push(format!(
            "folder    {:<20} {:>12} in {} files",
            text(folder, "name"),
            bytes(folder, "bytes"),
            text(folder, "files")
        ));
    }
    for kept in node["kept"].as_array().into_iter().flatten() {
        let mut limits = Vec::new();
        if let Some(hours) = kept["ageHoursMax"].as_f64() {
            limits.push(format!("{hours} h"));
        }
        if !kept["countMax"].is_null() {
            limits.push(text(kept, "countMax"));
        }
        if !kept["bytesMax"].is_null() {
            limits.push(bytes(kept, "bytesMax"));
        }
        let limits = if limits.is_empty() {
            "as long as something names them".to_owned()
        } else {
            format!("at most {}", limits.join(", "))
        };
        let oldest = if kept["oldest"].is_null() { String::new() } else { format!(", the oldest for {}", age(kept, "oldest")) };
        let (kind, count, gone) = (text(kept, "kind"), text(kept, "count"), text(kept, "removed"));
        lines.push(format!("kept      {kind:<20} {:>12} in {count}{oldest}; {limits}; {gone} removed", bytes(kept, "bytes")));
    }
    for swarm in node["swarms"].as_array().into_iter().flatten() {
        let name = swarm["name"].as_str().map_or_else(|| text(swarm, "swarm"), str::to_owned);
        lines.push(format!("swarm     {name:<20} {:>12}", bytes(swarm, "bytes")));
    }
    lines.join("\n") + "\n"
}

/// Asks for turn after turn, until all of the node's ledger, views, blobs and transcripts was looked at.
pub async fn scrub(client: &Client, show: Show) -> Outcome {
    let mut after = Value::Null;
    let mut lost = ["lostRows", "lost", "lostTranscripts"].map(|name| (name, Vec::new()));
    let names = [
        "rows",
        "rowBytes",
        "damagedRows",
        "repairedRows",
        "blobs",
        "bytes",
        "damaged",
        "repaired",
        "transcripts",
        "transcriptBytes",
        "damagedTranscripts",
    ];
    let mut sums = names.map(|name| (name, 0_u64));
    loop {
        let turn: Value = client.get(NODE, "Scrub", json!({ "input": { "after": after } }), "/scrub").await?;
        for (name, sum) in &mut sums {
            let counted = turn[*name].as_u64().or_else(|| turn[*name].as_str()?.parse().ok());
            *sum += counted.unwrap_or_default();
        }
        for (name, all) in &mut lost {
            all.extend(turn[*name].as_array().into_iter().flatten().cloned());
        }
        after = turn["next"].clone();
        if after.is_null() {
            break;
        }
    }
    let mut whole: serde_json::Map<String, Value> = sums.iter().map(|(name, sum)| ((*name).to_owned(), json!(sum))).collect();
    let [rows, count, transcripts] = lost.each_ref().map(|(_, all)| all.len());
    whole.extend(lost.map(|(name, all)| (name.to_owned(), all.into())));
    show.one(&Value::Object(whole))?;
    match (count, rows) {
        (0, 0) if transcripts == 0 => Ok(()),
        (0, 0) => Err(Failed::new(
            Exit::Partly,
            format!("{transcripts} transcripts are damaged; what is damaged of them is not served, and no other node has them"),
            "look at the disk: what it damaged once it may damage again; tasks whose output is needed are submitted anew",
        )),
        (count, 0) => Err(Failed::new(
            Exit::Partly,
            format!("{count} blobs are damaged, and no node that can be asked has them"),
            "start the nodes that may have them and run it again, or make what they belong to anew",
        )),
        (count, rows) => Err(Failed::new(
            Exit::Partly,
            format!(
                "{rows} values of the ledger or the views and {count} blobs are damaged, and no node that can be asked has them"
            ),
            "start the other nodes and run it again; where that does not help, a node among others leaves the cluster and joins \
             it anew, and one that is alone goes back to a backup of its data directory",
        )),
    }
}
