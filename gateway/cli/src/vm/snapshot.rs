//! `hiveward vm snapshot`, `snapshots`, `revert` and `snapshot-remove`.

use serde_json::{Value, json};

use super::{
    super::{
        client::{Client, VM},
        fail::Outcome,
        show::{Show, text},
    },
    ended, resolve,
};

pub struct About {
    pub vm: String,
    pub name: String,
    pub operation_id: Option<String>,
    pub no_wait: bool,
}

/// Asks for an operation about one snapshot, and waits for its end.
pub async fn ask(client: &Client, show: Show, about: About, operation: &str, field: &str) -> Outcome {
    let mut input = json!({ "vm": resolve(client, &about.vm).await?, "name": about.name });
    if let Some(id) = about.operation_id {
        input["operationId"] = id.into();
    }
    let begun = client.get(VM, operation, json!({ "input": input }), &format!("/{field}/vm")).await?;
    show.done(&if about.no_wait { begun } else { ended(client, begun).await? })
}

/// Lists a VM's snapshots.
pub async fn list(client: &Client, show: Show, vm: &str) -> Outcome {
    let id = resolve(client, vm).await?;
    let shown: Value = client.get(VM, "VmSnapshots", json!({ "id": id }), "/node").await?;
    let all = shown["snapshots"].as_array().cloned().unwrap_or_default();
    show.list(&["name", "taken at", "of"], &all, |snapshot| {
        let of = if snapshot["withMemory"] == true { "disks and memory" } else { "disks" };
        vec![text(snapshot, "name"), text(snapshot, "takenAt"), of.into()]
    })
}
