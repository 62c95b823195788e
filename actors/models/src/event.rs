//! Names what calls of models used, as each node's stream in the ledger keeps it. Past tense; add variants and fields, never
//! rename.

use bytes::Bytes;
use hiveward_catalogue::budget::Scope;
use hiveward_contract::decimal::decimal_from_nanos;
use hiveward_kernel::{
    body::Label,
    event::{DecodeError, PublicEvent},
    id::SwarmId,
    lease::Lease,
};
use hiveward_runtime::{id::Key, op::NodeId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::usage::Usage;

/// The format of these events in the ledger.
pub const FORMAT: u16 = 1;
/// The noun of the streams that hold them.
pub const NOUN: &str = "usage";

/// A call of a model that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsed {
    pub lease: Lease,
    /// The head of the swarm's shards.
    pub swarm: SwarmId,
    /// The labels of the task.
    pub labels: Vec<Label>,
    /// The provider, by its name in that node's configuration.
    pub provider: String,
    pub model: String,
    pub usage: Usage,
    /// The cost in billionths of the currency; absent without a price.
    pub nanos: Option<u64>,
    /// The amount that counts in budgets of money: what it cost, or where that is not known what it may have cost.
    pub counted_nanos: u64,
    pub currency: String,
    /// Whether it was cut before it had said all it used.
    pub incomplete: bool,
    /// The model that was asked for, if another one answered.
    pub fallback_from: Option<String>,
}

impl ModelUsed {
    /// Returns the scopes by which it is added up, and against which it counts; its attempt comes first.
    pub fn scopes(&self) -> Vec<Scope> {
        Scope::of(self.lease, self.swarm, &self.labels)
    }
}

/// A fact about calls of models, as a node's stream holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageEvent {
    ModelUsed(Box<ModelUsed>),
}

impl UsageEvent {
    /// Returns the stream of a node, which writes its own and nobody else's, so that it never needs another to record what it
    /// used.
    pub fn stream(node: NodeId) -> Key {
        Key::trusted(format!("{NOUN}_{:032x}", node.as_u128()))
    }

    /// Returns the event's kind, as it is stored in the ledger.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ModelUsed(_) => "ModelUsed",
        }
    }

    /// Returns what happened, as clients see it.
    pub fn public(&self) -> PublicEvent {
        let Self::ModelUsed(used) = self;
        let data = json!({
            "attempt": used.lease.attempt, "swarm": used.swarm.to_string(), "provider": used.provider, "model": used.model,
            "input": used.usage.input, "output": used.usage.output, "cacheRead": used.usage.cache_read,
            "cacheWrite": used.usage.cache_write, "incomplete": used.incomplete, "fallbackFrom": used.fallback_from,
            "money": used.nanos.map(|nanos| json!({"amount": decimal_from_nanos(nanos), "currency": used.currency})),
        });
        PublicEvent { task: Some(used.lease.task), agent: Some(used.lease.agent), data }
    }

    /// Encodes the event for the ledger.
    pub fn encode(&self) -> Result<Bytes, rmp_serde::encode::Error> {
        hiveward_kernel::event::encoded(self)
    }

    /// Decodes an event of the ledger. Errors: a format that this version does not read, or bytes that are no such event.
    pub fn decode(kind: &str, format: u16, body: &[u8]) -> Result<Self, DecodeError> {
        if format != FORMAT {
            return Err(DecodeError::Format { kind: kind.to_owned(), format });
        }
        rmp_serde::from_slice(body).map_err(|source| DecodeError::Body { kind: kind.to_owned(), source })
    }
}
