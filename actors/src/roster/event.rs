//! What happened to the roster.

use std::sync::Arc;

use bytes::Bytes;
use hiveward_runtime::id::Key;
use serde::{Deserialize, Serialize};

use crate::{
    agent::AgentSpec,
    id::{AgentId, SwarmId},
    swarm::{
        SwarmSpec,
        event::{DecodeError, Operation},
    },
};

pub const FORMAT: u16 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RosterEvent {
    SwarmAdded { spec: Arc<SwarmSpec>, operation: Option<Operation> },
    SwarmRemoved { swarm: SwarmId, operation: Option<Operation> },
    AgentAdded { spec: Arc<AgentSpec>, operation: Option<Operation> },
    AgentRemoved { agent: AgentId, swarm: SwarmId, operation: Option<Operation> },
}

impl RosterEvent {
    pub const NOUN: &'static str = "roster";

    /// The one stream of the roster.
    pub fn stream() -> Key {
        Key::trusted(format!("{}_{:032x}", Self::NOUN, 1))
    }

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::SwarmAdded { .. } => "SwarmAdded",
            Self::SwarmRemoved { .. } => "SwarmRemoved",
            Self::AgentAdded { .. } => "AgentAdded",
            Self::AgentRemoved { .. } => "AgentRemoved",
        }
    }

    pub fn encode(&self) -> Result<Bytes, rmp_serde::encode::Error> {
        rmp_serde::to_vec(self).map(Bytes::from)
    }

    pub fn decode(kind: &str, format: u16, body: &[u8]) -> Result<Self, DecodeError> {
        if format != FORMAT {
            return Err(DecodeError::Format { kind: kind.to_owned(), format });
        }
        rmp_serde::from_slice(body).map_err(|source| DecodeError::Body { kind: kind.to_owned(), source })
    }

    pub const fn operation(&self) -> Option<&Operation> {
        match self {
            Self::SwarmAdded { operation, .. }
            | Self::SwarmRemoved { operation, .. }
            | Self::AgentAdded { operation, .. }
            | Self::AgentRemoved { operation, .. } => operation.as_ref(),
        }
    }
}
