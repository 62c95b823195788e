//! What calls of models may use, and for whom that is counted.

use std::fmt;

use hiveward_kernel::{
    body::Label,
    id::{AgentId, BudgetId, SwarmId},
    lease::Lease,
};
use serde::{Deserialize, Serialize};

/// What a budget is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Attempt(Lease),
    Agent(AgentId),
    Swarm(SwarmId),
    /// Of tasks: `key=value`.
    Label(String),
}

impl Scope {
    /// What a call under a lease counts against, its attempt first.
    pub fn of(lease: Lease, swarm: SwarmId, labels: &[Label]) -> Vec<Self> {
        let labels = labels.iter().map(|label| Self::Label(format!("{}={}", label.key, label.value)));
        [Self::Attempt(lease), Self::Agent(lease.agent), Self::Swarm(swarm.head())].into_iter().chain(labels).collect()
    }
}

impl Scope {
    /// As clients know it: an id, or a label as `key=value`.
    pub fn key(&self) -> String {
        match self {
            Self::Label(label) => label.clone(),
            other => other.to_string(),
        }
    }

    pub fn agent(&self) -> Option<AgentId> {
        if let Self::Agent(agent) = self { Some(*agent) } else { None }
    }

    /// Of a budget for it.
    pub fn budget_id(&self) -> BudgetId {
        let text = self.to_string();
        BudgetId::from_u128(u128::from_be_bytes(hiveward_runtime::store::blob::fingerprint(text.as_bytes())))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt(lease) => write!(f, "attempt {} of {}", lease.attempt, lease.task),
            Self::Agent(agent) => write!(f, "{agent}"),
            Self::Swarm(swarm) => write!(f, "{swarm}"),
            Self::Label(label) => write!(f, "label {label}"),
        }
    }
}

/// Tokens of all kinds, and billionths of the currency; money that is not known is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub tokens: u64,
    pub nanos: Option<u64>,
}

impl Amount {
    pub fn add(&mut self, other: Self) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.nanos = self.nanos.zip(other.nanos).map(|(one, other)| one.saturating_add(other));
    }
}

/// Hard limits. No limit where absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub tokens: Option<u64>,
    pub nanos: Option<u64>,
    /// Of either limit: passing it is told once.
    pub warn_percent: Option<u8>,
}

impl Budget {
    /// Whether so much is as much as it warns at, of either limit.
    pub fn is_warned_at(&self, spent: Amount) -> bool {
        let Self { tokens, nanos, warn_percent: Some(percent) } = *self else { return false };
        let passed = |limit: Option<u64>, spent: u64| {
            limit.is_some_and(|limit| u128::from(spent) * 100 >= u128::from(limit) * u128::from(percent))
        };
        passed(tokens, spent.tokens) || passed(nanos, spent.nanos.unwrap_or(0))
    }
}

/// What an agent's profile allows its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallRules {
    /// A provider of the node's configuration; the default one of each API if absent.
    pub provider: Option<String>,
    /// Models to go on with, in order, when the asked one's provider is overloaded or down; none if empty. Whoever gets
    /// one is told in the attempt's result.
    pub fallback: Vec<String>,
    /// Of one attempt: tokens of all kinds together.
    pub tokens_max: Option<u64>,
    /// Of one attempt, in billionths of the price table's currency.
    pub nanos_max: Option<u64>,
}
