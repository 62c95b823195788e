//! The worker protocol's lines, both ways.

use std::io;

use hiveward_kernel::{id::AgentId, lease::Lease};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::{
    Job, What,
    attempt::{Attempt, json_or_text, lease_name, payload},
};

/// Bytes of a payload above which it travels as a file.
const PAYLOAD_INLINE_BYTES_MAX: usize = 256 << 10;
/// Bytes of all of a task's line; what does not fit is given by path.
const TASK_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Said {
    Ready {
        heartbeat_ms: Option<u64>,
    },
    Progress {
        task: String,
        percent: Option<f32>,
        message: Option<String>,
    },
    Result {
        task: String,
        #[serde(default)]
        value: Value,
    },
    Failed {
        task: String,
        message: Option<String>,
        retriable: Option<bool>,
    },
    Heartbeat,
    Checkpoint {
        task: String,
        data: Value,
    },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "one is made, written and dropped for each thing that is told")]
pub(super) enum Tell {
    Task {
        task: String,
        title: String,
        kind: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<Value>,
        /// Path of the payload, instead of `payload` when that is large.
        #[serde(skip_serializing_if = "Option::is_none")]
        payload_path: Option<String>,
        inputs: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        checkpoint: Option<Value>,
        workdir: String,
    },
    Cancel {
        task: String,
    },
    Stop,
}

pub(super) enum Heard {
    Said(Said),
    /// Plain text: for the transcript only.
    Output,
    /// Line that breaks the protocol, and why.
    Garbage(String),
}

pub(super) fn parse(line: &[u8]) -> Heard {
    let Ok(text) = std::str::from_utf8(line) else { return Heard::Garbage("a line that is not UTF-8".to_owned()) };
    let text = text.trim();
    if !text.starts_with('{') {
        return Heard::Output;
    }
    match serde_json::from_str::<Value>(text) {
        Err(error) => Heard::Garbage(format!("a line that begins like a message but is no JSON ({error})")),
        // Somebody's log line.
        Ok(value) if value.get("type").is_none() => Heard::Output,
        Ok(value) => match Said::deserialize(value) {
            Ok(said) => Heard::Said(said),
            Err(error) => Heard::Garbage(format!("a message that is not in the protocol ({error})")),
        },
    }
}

/// Reads the lease that a worker names, as one of its own agent.
pub(super) fn lease(name: &str, agent: AgentId) -> Option<Lease> {
    let (task, attempt) = name.split_once('/')?;
    Some(Lease { task: task.parse().ok()?, attempt: attempt.parse().ok()?, agent })
}

pub(super) fn line(tell: &Tell) -> Vec<u8> {
    // Plain data always serializes.
    let mut line = serde_json::to_vec(tell).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Returns the line that gives a job to the process. Writes what is too large for it into the attempt's directory.
pub(super) fn task_line(attempt: &Attempt, job: &Job) -> io::Result<Vec<u8>> {
    let kind = match &job.what {
        What::Kind { kind, .. } => kind.to_string(),
        What::Command { .. } => return Err(io::Error::other("a worker takes no commands")),
    };
    let (mut inline, mut path) = (None, None);
    match payload(&job.what) {
        Some(bytes) if bytes.len() > PAYLOAD_INLINE_BYTES_MAX => {
            attempt.write("payload", bytes)?;
            path = Some(attempt.path("payload").display().to_string());
        }
        Some(bytes) => inline = Some(json_or_text(bytes)),
        None => {}
    }
    let checkpoint = std::fs::read(attempt.shared.env.data_dir.join("checkpoints").join(format!("{}.json", job.lease.task)));
    let mut tell = Tell::Task {
        task: lease_name(job.lease),
        title: job.title.clone(),
        kind,
        payload: inline,
        payload_path: path,
        inputs: attempt.inputs(&job.inputs)?,
        checkpoint: checkpoint.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        workdir: attempt.workdir().display().to_string(),
    };
    let whole = line(&tell);
    if whole.len() <= TASK_BYTES_MAX {
        return Ok(whole);
    }
    if let Tell::Task { inputs, checkpoint, .. } = &mut tell {
        attempt.write("inputs.json", &serde_json::to_vec(inputs)?)?;
        *inputs = serde_json::json!({ "path": attempt.path("inputs.json") });
        if let Some(data) = checkpoint.take() {
            attempt.write("checkpoint.json", &serde_json::to_vec(&data)?)?;
            *checkpoint = Some(serde_json::json!({ "path": attempt.path("checkpoint.json") }));
        }
    }
    let whole = line(&tell);
    if whole.len() > TASK_BYTES_MAX { Err(io::Error::other("its title is too large")) } else { Ok(whole) }
}
