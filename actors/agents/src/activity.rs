//! What a coding agent does in an attempt, as typed events in the order in which they happened.
//!
//! Kept as JSON lines with the attempt's files, like its transcript, and never in the ledger; read by byte offset and
//! resumable. The transcript is the same events as text for people ([`Activity::render`]).

use std::fmt::Write;

use hiveward_catalogue::agent::coding::Permission;
use hiveward_kernel::id::ApprovalId;
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of a tool's input that the transcript shows; the event has all of it.
const SHOWN_INPUT_BYTES_MAX: usize = 2048;
/// Bytes of a tool's output that the transcript shows.
const SHOWN_OUTPUT_BYTES_MAX: usize = 4096;
/// Bytes of a tool's input or output in an event; what is cut off is said.
pub const DETAIL_BYTES_MAX: usize = 64 << 10;

/// One line of an attempt's activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Number of the event, from 1, without gaps.
    pub seq: u64,
    pub at: WallMs,
    /// Number of the attempt's process: 0, and one more with each resumption.
    pub run: u32,
    /// Place up to which that process's output was dealt with when this was written.
    pub heard: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum What {
    /// A process began, or was begun again on the same conversation.
    Began {
        session: Option<String>,
        why: Option<String>,
    },
    /// The program named its conversation and what it is.
    Greeted {
        session: String,
        program: Option<String>,
        model: Option<String>,
    },
    /// The task, a person's message, or our nudge.
    Prompted {
        id: String,
        text: String,
        by: Prompter,
    },
    /// The program has taken a prompt up.
    Heard {
        id: String,
    },
    Said {
        text: String,
    },
    Thought {
        text: String,
    },
    ToolCalled {
        id: String,
        tool: String,
        input: Value,
    },
    ToolEnded {
        id: String,
        failed: bool,
        output: String,
    },
    /// A file that a tool has written.
    Touched {
        path: String,
    },
    /// The program asked whether it may.
    Asked {
        approval: ApprovalId,
        request: String,
        call: Option<String>,
        tool: String,
        input: Value,
        why: String,
        within_ms: u64,
    },
    /// A question was answered by a rule, by a person, or because nobody answered in time.
    Answered {
        request: String,
        decision: Permission,
        by: String,
        message: Option<String>,
    },
    /// What was asked is not waited for any more.
    Withdrawn {
        request: String,
    },
    Interrupted {
        by: String,
    },
    /// A person goes on with the conversation, at the program's own terminal.
    TakenOver {
        by: String,
    },
    /// The agent goes on with the conversation.
    GivenBack {
        by: String,
    },
    TurnEnded {
        end: TurnEnd,
        /// Last words of the turn.
        text: Option<String>,
        /// Tokens as the program counts them; budgets go by the model gateway's own counting.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Tokens>,
    },
    /// The program did not get on, and was told so.
    Nudged {
        why: String,
    },
    /// The process has gone.
    Died {
        how: String,
    },
    Noted {
        text: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Prompter {
    Task,
    Person(String),
    Hiveward,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum TurnEnd {
    Done,
    Interrupted,
    Failed { message: String },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
}

impl Activity {
    /// Returns the event as people read it; empty for what is only bookkeeping. The same event always gives the same text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = match &self.what {
            What::Began { why: Some(why), .. } => writeln!(out, "── begun again: {why}"),
            What::Greeted { program, model, .. } => {
                let named = [program.as_deref(), model.as_deref()];
                writeln!(out, "── {}", named.into_iter().flatten().collect::<Vec<_>>().join(", "))
            }
            What::Prompted { text, by: Prompter::Person(who), .. } => writeln!(out, "── {who} says: {text}"),
            What::Said { text } => writeln!(out, "{text}"),
            What::ToolCalled { tool, input, .. } => writeln!(out, "▶ {tool} {}", brief(input)),
            What::ToolEnded { failed, output, .. } => {
                let mark = if *failed { "✗" } else { "✓" };
                let shown = head(output.trim_end(), SHOWN_OUTPUT_BYTES_MAX);
                let cut = if shown.len() < output.trim_end().len() { " …" } else { "" };
                writeln!(out, "{mark} {shown}{cut}")
            }
            What::Asked { approval, tool, input, why, .. } => {
                writeln!(out, "? {tool} {} — {why}; answer with `hiveward approval allow {approval}` or `deny`", brief(input))
            }
            What::Answered { decision, by, message, .. } => {
                let word = if *decision == Permission::Allow { "allowed" } else { "denied" };
                let message = message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
                writeln!(out, "── {word} by {by}{message}")
            }
            What::Interrupted { by } => writeln!(out, "── interrupted by {by}"),
            What::TakenOver { by } => writeln!(out, "── taken over by {by}: what is said now is at the terminal"),
            What::GivenBack { by } => writeln!(out, "── given back by {by}"),
            What::TurnEnded { end: TurnEnd::Failed { message }, .. } => writeln!(out, "── the turn failed: {message}"),
            What::Nudged { why } => writeln!(out, "── nudged: {why}"),
            What::Died { how } => writeln!(out, "── the program ended: {how}"),
            What::Noted { text } => writeln!(out, "── {text}"),
            What::Began { .. }
            | What::Prompted { .. }
            | What::Heard { .. }
            | What::Thought { .. }
            | What::Touched { .. }
            | What::Withdrawn { .. }
            | What::TurnEnded { .. } => Ok(()),
        };
        out
    }
}

/// Returns a tool's input in one line: what it is about, if that is known, or all of it.
fn brief(input: &Value) -> String {
    let about = ["command", "file_path", "path", "pattern", "url", "query", "prompt", "description"];
    let text = about.iter().find_map(|name| input.get(name)?.as_str()).map_or_else(|| input.to_string(), str::to_owned);
    let text = text.replace('\n', "⏎");
    let shown = head(&text, SHOWN_INPUT_BYTES_MAX);
    if shown.len() < text.len() { format!("{shown} …") } else { text }
}

/// Returns at most `bytes_max` bytes from the start of a text, and no part of a character.
pub fn head(text: &str, bytes_max: usize) -> &str {
    (0..=bytes_max.min(text.len())).rev().find_map(|at| text.get(..at)).unwrap_or("")
}

/// Returns a tool's input as an event keeps it: long texts in it are cut, and say so.
pub fn bounded(value: Value) -> Value {
    if value.to_string().len() <= DETAIL_BYTES_MAX {
        return value;
    }
    const PART_BYTES_MAX: usize = DETAIL_BYTES_MAX / 4;
    fn cut(value: Value, left: &mut usize) -> Value {
        match value {
            Value::String(text) => {
                let shown = head(&text, PART_BYTES_MAX.min(*left));
                *left -= shown.len();
                let cut = text.len() - shown.len();
                Value::String(if cut == 0 { text } else { format!("{shown}… ({cut} bytes more)") })
            }
            Value::Array(items) => Value::Array(items.into_iter().take(256).map(|item| cut(item, left)).collect()),
            Value::Object(fields) => {
                Value::Object(fields.into_iter().take(256).map(|(name, field)| (name, cut(field, left))).collect())
            }
            other => other,
        }
    }
    cut(value, &mut { DETAIL_BYTES_MAX })
}
