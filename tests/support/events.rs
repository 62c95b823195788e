//! Reads the event stream to its head and checks what must hold of every task in it, in the order of the log.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::{Client, client::terminal};

/// What the events say of one task.
#[derive(Debug, Default)]
pub struct TaskHistory {
    pub submitted: u32,
    pub assigned: u32,
    pub started: u32,
    pub succeeded: u32,
    /// What it is a part of: the planner or the scatter that made it, or the first that was submitted with it.
    pub of: Option<String>,
    /// The attempt that holds the lease.
    pub live: Option<u64>,
    pub status: String,
}

#[derive(Default)]
pub struct Histories {
    pub tasks: HashMap<String, TaskHistory>,
    pub events: u64,
    after: Option<String>,
    seen: HashSet<String>,
}

const PAGE: &str =
    "query($after:Cursor){events(after:$after,first:500){nodes{cursor kind task data} pageInfo{endCursor hasNextPage}}}";

impl Histories {
    /// Reads on to the head.
    pub async fn read_on(&mut self, client: &Client) {
        loop {
            let data = client.ok(PAGE, json!({ "after": self.after.as_deref().unwrap_or("0") })).await;
            let page = &data["events"];
            for event in page["nodes"].as_array().unwrap() {
                let cursor = event["cursor"].as_str().unwrap();
                assert!(self.seen.insert(cursor.to_owned()), "event {cursor} came twice");
                self.after = Some(cursor.to_owned());
                self.events += 1;
                self.take(event);
            }
            if page["pageInfo"]["hasNextPage"] != true {
                return;
            }
        }
    }

    fn take(&mut self, event: &Value) {
        let kind = event["kind"].as_str().unwrap();
        let attempt = event["data"]["attempt"].as_u64();
        if kind == "TaskSubmitted" {
            let submitted = event["data"]["tasks"].as_array().unwrap();
            for (n, id) in submitted.iter().enumerate() {
                let task = self.tasks.entry(id.as_str().unwrap().to_owned()).or_default();
                task.submitted += 1;
                assert_eq!(task.submitted, 1, "{id} was submitted twice: {event}");
                task.status = "QUEUED".into();
                task.of = submitted[0].as_str().filter(|_| n > 0).map(str::to_owned);
            }
            return;
        }
        let Some(id) = event["task"].as_str() else { return };
        if matches!(kind, "TaskPlanned" | "TaskGathered") {
            for made in event["data"]["tasks"].as_array().unwrap().iter().filter(|made| *made != id) {
                let task = self.tasks.entry(made.as_str().unwrap().to_owned()).or_default();
                task.submitted += 1;
                task.of = Some(id.to_owned());
                assert_eq!(task.submitted, 1, "{made} was made twice: {event}");
                task.status = "QUEUED".into();
            }
        }
        let task = self.tasks.get_mut(id).unwrap_or_else(|| panic!("{id} was never submitted: {event}"));
        let over = terminal(&task.status);
        match kind {
            "TaskAssigned" => {
                assert!(!over && task.live.is_none(), "a second lease while one is live, or after the end: {event} {task:?}");
                task.assigned += 1;
                assert_eq!(attempt, Some(u64::from(task.assigned)), "attempts count up from 1: {event}");
                task.live = attempt;
                task.status = "ASSIGNED".into();
            }
            "TaskStarted" => {
                assert_eq!(task.live, attempt, "an attempt without the lease started: {event}");
                task.started += 1;
            }
            "TaskAttemptEnded" => {
                assert_eq!(task.live.take(), attempt, "an attempt without the lease ended it: {event}");
                if event["data"]["status"].as_str().is_some_and(|status| status == "SUCCEEDED") {
                    task.succeeded += 1;
                    assert_eq!(task.succeeded, 1, "succeeded twice: {event}");
                }
                task.status = match &event["data"]["next"] {
                    Value::String(next) if next == "Succeed" => "SUCCEEDED",
                    Value::String(next) if next == "Fail" => "FAILED",
                    Value::String(next) if next == "Die" => "DEAD",
                    _ => "RETRYING",
                }
                .into();
            }
            // Of a plan or a scatter; the latter has no attempt of its own.
            "TaskAggregated" => {
                assert!(!over, "it had ended: {event} {task:?}");
                task.succeeded += u32::from(task.assigned == 0);
                task.status = if event["data"]["error"].is_null() { "SUCCEEDED" } else { "FAILED" }.into();
            }
            "TaskCancelled" | "TaskFailed" => {
                assert!(!over, "it had ended: {event} {task:?}");
                task.live = None;
                task.status = if kind == "TaskFailed" { "FAILED" } else { "CANCELLED" }.into();
            }
            _ => {}
        }
    }

    /// Tasks that have not ended.
    pub fn open(&self) -> Vec<&str> {
        self.tasks.iter().filter(|(_, task)| !terminal(&task.status)).map(|(id, _)| id.as_str()).collect()
    }
}
