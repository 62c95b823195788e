//! Reads lists page by page, and shows them once or again and again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{client::Client, fail::Outcome, show};

/// Reads pages until there are `limit` entries.
pub async fn pages(
    client: &Client,
    document: &str,
    operation: &str,
    mut variables: Value,
    at: &str,
    limit: usize,
) -> Outcome<Vec<Value>> {
    const PAGE: usize = 100;
    let mut all: Vec<Value> = Vec::new();
    loop {
        variables["first"] = json!((limit - all.len()).clamp(1, PAGE));
        let mut page = client.call(document, operation, variables.clone()).await?;
        let page = &mut page[at];
        if let Value::Array(nodes) = page["nodes"].take() {
            all.extend(nodes);
        }
        if all.len() >= limit || page["pageInfo"]["hasNextPage"] != json!(true) {
            all.truncate(limit);
            return Ok(all);
        }
        variables["after"] = page["pageInfo"]["endCursor"].take();
    }
}

/// Shows something once; with `watch` shows it again every second, until interrupted.
pub async fn watching<F: Future<Output = Outcome>>(watch: bool, mut once: impl FnMut() -> F) -> Outcome {
    use std::io::IsTerminal;
    loop {
        if watch && std::io::stdout().is_terminal() {
            show::print("\x1b[H\x1b[2J")?;
        }
        once().await?;
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
