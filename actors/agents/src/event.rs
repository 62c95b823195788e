//! What happened to an agent, as its stream keeps it. What it does under leases is in its swarm's stream.

use bytes::Bytes;
use hiveward_kernel::{
    event::PublicEvent,
    id::{AgentId, ApprovalId},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{approval::Verdict, connector::Ask};

pub const FORMAT: u16 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AgentEvent {
    /// The agent was told to run.
    StartAsked,
    /// A life began to get ready.
    Starting {
        incarnation: u64,
    },
    Ready {
        incarnation: u64,
    },
    /// The agent could not get ready, or its process ended by itself.
    Failed {
        incarnation: u64,
        message: String,
    },
    PauseAsked {
        frozen: bool,
    },
    ResumeAsked,
    StopAsked,
    /// Everything that the agent ran has ended.
    Stopped,
    Removed,
    /// A program of the agent asks whether it may do something, and waits.
    ApprovalAsked {
        ask: Box<Ask>,
    },
    ApprovalAnswered {
        approval: ApprovalId,
        verdict: Verdict,
    },
    /// An answer is not waited for any more.
    ApprovalWithdrawn {
        approval: ApprovalId,
        why: String,
    },
}

impl AgentEvent {
    /// Returns the name of the event in the ledger.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::StartAsked => "AgentStartAsked",
            Self::Starting { .. } => "AgentStarting",
            Self::Ready { .. } => "AgentReady",
            Self::Failed { .. } => "AgentFailed",
            Self::PauseAsked { .. } => "AgentPauseAsked",
            Self::ResumeAsked => "AgentResumeAsked",
            Self::StopAsked => "AgentStopAsked",
            Self::Stopped => "AgentStopped",
            Self::Removed => "AgentRemoved",
            Self::ApprovalAsked { .. } => "ApprovalAsked",
            Self::ApprovalAnswered { .. } => "ApprovalAnswered",
            Self::ApprovalWithdrawn { .. } => "ApprovalWithdrawn",
        }
    }

    /// Returns what happened to this agent, as clients see it.
    pub fn public(&self, agent: Option<AgentId>) -> PublicEvent {
        let data = match self {
            Self::Starting { incarnation } | Self::Ready { incarnation } => {
                json!({"incarnation": incarnation.to_string()})
            }
            Self::Failed { incarnation, message } => {
                json!({"incarnation": incarnation.to_string(), "message": message})
            }
            Self::PauseAsked { frozen } => json!({"frozen": frozen}),
            Self::ApprovalAsked { ask } => json!({
                "approval": ask.approval.to_string(), "attempt": ask.lease.attempt, "tool": ask.tool, "input": ask.input,
                "files": ask.files,
            }),
            Self::ApprovalAnswered { approval, verdict } => json!({
                "approval": approval.to_string(), "decision": verdict.decision, "by": verdict.by, "message": verdict.message,
            }),
            Self::ApprovalWithdrawn { approval, why } => json!({"approval": approval.to_string(), "why": why}),
            _ => json!({}),
        };
        let task = if let Self::ApprovalAsked { ask } = self { Some(ask.lease.task) } else { None };
        PublicEvent { task, agent, data }
    }

    /// Returns the event's body as the ledger keeps it.
    pub fn encode(&self) -> Result<Bytes, rmp_serde::encode::Error> {
        hiveward_kernel::event::encoded(self)
    }

    /// Reads an event as the ledger keeps it. Errors: its format is unknown here, or its body cannot be read.
    pub fn decode(kind: &str, format: u16, body: &[u8]) -> Result<Self, hiveward_kernel::event::DecodeError> {
        if format != FORMAT {
            return Err(hiveward_kernel::event::DecodeError::Format { kind: kind.to_owned(), format });
        }
        rmp_serde::from_slice(body).map_err(|source| hiveward_kernel::event::DecodeError::Body { kind: kind.to_owned(), source })
    }
}
