//! Compares what a node shows of a task with what it was given and what must have come of it. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Broken,
    body::BodySum,
    order::{WantedResult, WantedTask, normal_sum},
};

/// What a node shows of a task and of its subtasks.
#[derive(Clone, Debug, Default)]
pub struct ShownTask {
    pub id: String,
    /// Its name among the subtasks of what it came from.
    pub name: String,
    pub status: String,
    pub payload: Value,
    pub stdin: Option<String>,
    pub result: Option<String>,
    pub artifacts: BTreeMap<String, ShownArtifact>,
    /// Standard output and error of its last attempt.
    pub output: Option<[BodySum; 2]>,
    pub subtasks: Vec<ShownTask>,
}

#[derive(Clone, Debug)]
pub struct ShownArtifact {
    /// As the node names it.
    pub hash: String,
    pub bytes: BodySum,
}

/// One task at one node.
struct Comparison<'a> {
    node: usize,
    operation: &'a str,
    task: &'a str,
    broken: Vec<Broken>,
}

impl Comparison<'_> {
    fn same(&mut self, what: &str, wanted: Option<BodySum>, shown: Option<BodySum>) {
        if wanted != shown {
            let (node, operation, task) = (self.node, self.operation.to_owned(), self.task.to_owned());
            self.broken.push(Broken::BodyDiffers { node, operation, task, what: what.to_owned(), wanted, shown });
        }
    }

    fn result(&mut self, wanted: WantedResult, shown: Option<&str>) {
        let (wanted, shown) = match (wanted, shown) {
            (WantedResult::Nothing, shown) => (None, shown.map(BodySum::of)),
            (WantedResult::Text(wanted), shown) => (Some(wanted), shown.map(BodySum::of)),
            (WantedResult::Json(wanted), None) => (Some(wanted), None),
            (WantedResult::Json(wanted), Some(text)) => {
                // What is no JSON is compared as it is, and differs.
                let read = serde_json::from_str::<Value>(text).map(|value| normal_sum(&value));
                (Some(wanted), Some(read.unwrap_or_else(|_| BodySum::of(text))))
            }
        };
        self.same("the result", wanted, shown);
    }
}

/// All that differs. Of a task that has not succeeded only what it was given is compared.
pub fn compare(node: usize, operation: &str, wanted: &WantedTask, shown: &ShownTask, transcripts: bool) -> Vec<Broken> {
    let mut at = Comparison { node, operation, task: &shown.id, broken: Vec::new() };
    at.same("the payload", wanted.payload, (!shown.payload.is_null()).then(|| normal_sum(&shown.payload)));
    at.same("the standard input", wanted.stdin, shown.stdin.as_ref().map(BodySum::of));
    if shown.status != "SUCCEEDED" {
        return at.broken;
    }
    at.result(wanted.result, shown.result.as_deref());
    let names: Vec<&str> = wanted.artifacts.iter().map(|(name, _)| name.as_str()).collect();
    for (name, sum) in &wanted.artifacts {
        let there = shown.artifacts.get(name);
        at.same(&format!("the artifact {name}"), Some(*sum), there.map(|artifact| artifact.bytes));
        if there.is_some_and(|artifact| artifact.bytes == *sum && artifact.hash != sum.hash.to_hex().as_str()) {
            let (operation, task) = (operation.to_owned(), shown.id.clone());
            at.broken.push(Broken::BodyMisnamed { node, operation, task, what: format!("the artifact {name}") });
        }
    }
    for (name, artifact) in shown.artifacts.iter().filter(|(name, _)| !names.contains(&name.as_str())) {
        at.same(&format!("the artifact {name}"), None, Some(artifact.bytes));
    }
    if let Some(wanted) = wanted.output.filter(|_| transcripts) {
        for (n, what) in ["standard output", "standard error"].iter().enumerate() {
            at.same(what, Some(wanted[n]), shown.output.map(|shown| shown[n]));
        }
    }
    let mut broken = at.broken;
    for part in &wanted.subtasks {
        match shown.subtasks.iter().find(|shown| shown.name == part.name) {
            Some(shown) => broken.extend(compare(node, operation, part, shown, transcripts)),
            None => broken.push(Broken::BodyUnreadable {
                node,
                operation: operation.to_owned(),
                task: shown.id.clone(),
                what: format!("its subtask {}", part.name),
                why: "it has none of that name".to_owned(),
            }),
        }
    }
    broken
}

#[cfg(test)]
#[path = "bodies_tests.rs"]
mod tests;
