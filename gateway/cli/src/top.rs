//! `hiveward status` and `hiveward top`

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    client::{AGENT, Client, NODE, TASK},
    fail::Outcome,
    short::shortened,
    show::{Format, Show, age, plain, print, text},
    swarm::counts,
};
use crate::pages::pages;

/// Shows how the cluster, its nodes and its swarms are.
pub async fn status(client: &Client, show: Show) -> Outcome {
    let data = client.call(NODE, "Status", json!({})).await?;
    match show.format {
        Format::Table => print(&shortened(&summary(&data))),
        _ => show.value(&data),
    }
}

fn summary(data: &Value) -> String {
    let cluster = &data["cluster"];
    let leader = text(&cluster["leader"], "id");
    let leader = if leader.is_empty() { "none".to_owned() } else { leader };
    let mut lines = format!(
        "leader  {leader}\nterm    {}\ncursor  {} (views {} behind)\ndisk    {}\n",
        plain(&cluster["term"]),
        plain(&cluster["cursor"]),
        plain(&cluster["viewLag"]),
        plain(&cluster["disk"])
    );
    if let Some(why) = cluster["noQuorum"].as_str() {
        lines.push_str(&format!("quorum  none: {why}\n"));
    }
    for node in cluster["nodes"].as_array().into_iter().flatten() {
        lines.push_str(&one_node(node));
    }
    for swarm in data["swarms"]["nodes"].as_array().into_iter().flatten() {
        lines.push_str(&format!("swarm   {}: {} agents; {}\n", text(swarm, "name"), plain(&swarm["agentCount"]), counts(swarm)));
    }
    lines
}

fn one_node(node: &Value) -> String {
    let role = if node["leader"] == true {
        "leader"
    } else if node["voter"] == true {
        "voter"
    } else {
        "learner"
    };
    // People know a node by where it is.
    let named = [text(node, "address"), text(node, "id")].join(" ");
    let mut line = format!("node    {} {} {role}, {} entities", named.trim(), text(node, "status"), plain(&node["entities"]));
    let figure = |name: &str, unit: &str, value: &Value| match value.as_f64() {
        Some(value) => format!(", {name} {value}{unit}"),
        None => String::new(),
    };
    line.push_str(&figure("generation", "", &node["generation"]));
    line.push_str(&figure("load", "", &node["loadAverage"]));
    line.push_str(&figure("clock", " ms", &node["clockOffsetMs"]));
    line.push_str(&figure("views", " behind", &node["viewLag"]));
    line.push_str(&figure("lease", " ms left", &node["leaseLeftMs"]));
    for said in ["why", "suspected"] {
        if let Some(why) = node[said].as_str() {
            line.push_str(&format!("; {said}: {why}"));
        }
    }
    line.push('\n');
    for trouble in node["troubled"].as_array().into_iter().flatten() {
        line.push_str(&format!("  down  {}: {}\n", text(trouble, "path"), text(trouble, "why")));
    }
    for link in node["links"].as_array().into_iter().flatten().filter(|link| link["lane"] == "router" || link["up"] == false) {
        let how = match link["whyDown"].as_str() {
            Some(why) => format!("down: {why}"),
            None => format!("{} µs, {} bytes queued", plain(&link["roundTripUs"]), plain(&link["queuedBytes"])),
        };
        line.push_str(&format!("  link  {} {}: {how}\n", text(link, "lane"), text(link, "peer")));
    }
    line
}

/// Shows tasks at work and agents that are not idle, again every second until interrupted.
pub async fn run(client: &Client) -> Outcome {
    const ROWS: usize = 15;
    loop {
        let data = client.call(NODE, "Status", json!({})).await?;
        let running = json!({ "filter": { "status": ["ASSIGNED", "RUNNING", "VERIFYING", "RETRYING"] } });
        let tasks = pages(client, TASK, "TaskList", running, "tasks", ROWS).await?;
        let busy = json!({ "filter": { "status": ["BUSY", "STARTING", "FAILED", "PAUSED", "STOPPING"] } });
        let agents = pages(client, AGENT, "AgentList", busy, "agents", ROWS).await?;
        let mut screen = format!("\x1b[H\x1b[2J{}\n", shortened(&summary(&data)));
        screen.push_str("tasks at work\n");
        for task in &tasks {
            let agent = task["attempts"]
                .as_array()
                .and_then(|attempts| attempts.last())
                .map_or_else(String::new, |last| text(&last["agent"], "name"));
            screen.push_str(&format!(
                "  {:<10} {:<8} {:>5} {:<16} {}\n",
                text(task, "status"),
                text(task, "priority"),
                age(task, "createdAt"),
                agent,
                text(task, "title")
            ));
        }
        screen.push_str("agents that are not idle\n");
        for agent in &agents {
            screen.push_str(&format!(
                "  {:<10} {:>3}/{:<3} {:<16} {}\n",
                text(agent, "status"),
                text(agent, "running"),
                text(agent, "maxConcurrentTasks"),
                text(agent, "name"),
                text(&agent["swarm"], "name")
            ));
        }
        print(&screen)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
