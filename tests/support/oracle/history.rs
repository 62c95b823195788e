//! What clients saw, and what the nodes say at the end.

use std::{collections::HashMap, time::Instant};

use serde_json::Value;

use super::ops::Sent;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, and these are its tasks.
    Acked { tasks: Vec<String> },
    /// It did not happen, and never will under this id: such as a cancellation that came too late.
    Refused { code: String },
}

/// One answer that leaves no doubt. The same operation may have several: it was repeated.
#[derive(Clone, Debug)]
pub struct Answer {
    pub operation: String,
    pub cancel: bool,
    pub node: usize,
    pub outcome: Outcome,
}

/// A look for an own task at a node that had been asked for at least the cursor of its submission.
#[derive(Clone, Debug)]
pub struct OwnRead {
    pub node: usize,
    pub task: String,
    pub found: bool,
}

/// One event as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub cursor: String,
    pub kind: String,
    pub task: Option<String>,
    pub data: Value,
}

impl Event {
    pub const FIELDS: &str = "cursor kind task data";

    pub fn read(event: &Value) -> Self {
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        Self { cursor: text("cursor").unwrap(), kind: text("kind").unwrap(), task: text("task"), data: event["data"].clone() }
    }
}

/// A subscription that moved between nodes with its cursor.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Where it began.
    pub after: String,
    pub seen: Vec<Event>,
    /// How often it went on at another node.
    pub moves: u32,
}

#[derive(Debug, Default)]
pub struct History {
    /// Sent, and nothing is known of them.
    pub open: HashMap<String, Sent>,
    /// Sent and acknowledged, to repeat some.
    pub sent: HashMap<String, Sent>,
    pub answers: Vec<Answer>,
    pub reads: Vec<OwnRead>,
    pub streams: Vec<Stream>,
    /// One line for each run of a program: its task and attempt.
    pub marks: Vec<String>,
    /// When each acknowledged operation was sent and answered, and by which node.
    pub acks: Vec<(Instant, Instant, usize)>,
}

/// What one node says when all is over.
#[derive(Clone, Debug, Default)]
pub struct NodeEnd {
    pub log: Vec<Event>,
    /// Tasks and their status, from the view.
    pub tasks: HashMap<String, String>,
}

impl History {
    /// Operations that a client was told have happened, each once.
    pub fn acked(&self) -> impl Iterator<Item = (&Answer, &[String])> {
        self.answers.iter().filter_map(|answer| match &answer.outcome {
            Outcome::Acked { tasks } => Some((answer, tasks.as_slice())),
            Outcome::Refused { .. } => None,
        })
    }
}
