//! Says what calls of models may use, and for whom that is counted.

use std::fmt;

use hiveward_kernel::{
    body::Label,
    id::{AgentId, BudgetId, SwarmId},
    lease::Lease,
};
use serde::{Deserialize, Serialize};

/// A thing that a budget is for and that calls of models are counted against.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Attempt(Lease),
    Agent(AgentId),
    Swarm(SwarmId),
    /// A label of tasks, as `key=value`.
    Label(String),
}

impl Scope {
    /// Returns all that a call under a lease counts against, its attempt first.
    pub fn of(lease: Lease, swarm: SwarmId, labels: &[Label]) -> Vec<Self> {
        let labels = labels.iter().map(|label| Self::Label(format!("{}={}", label.key, label.value)));
        [Self::Attempt(lease), Self::Agent(lease.agent), Self::Swarm(swarm.head())].into_iter().chain(labels).collect()
    }
}

impl Scope {
    /// Returns the scope as clients know it: an id, or a label as `key=value`.
    pub fn key(&self) -> String {
        match self {
            Self::Label(label) => label.clone(),
            other => other.to_string(),
        }
    }

    /// Returns the agent, if the scope is one.
    pub fn agent(&self) -> Option<AgentId> {
        if let Self::Agent(agent) = self { Some(*agent) } else { None }
    }

    /// Returns the id of a budget for this scope: always the same for the same scope.
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

/// An amount of tokens of all kinds, and of money in billionths of the currency; money that is not known is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub tokens: u64,
    pub nanos: Option<u64>,
}

impl Amount {
    /// Adds another amount; the money of the sum is known only if that of both is.
    pub fn add(&mut self, other: Self) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.nanos = self.nanos.zip(other.nanos).map(|(one, other)| one.saturating_add(other));
    }
}

/// The hard limits of a budget. An absent one is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub tokens: Option<u64>,
    pub nanos: Option<u64>,
    /// The percentage of either limit at which a warning is told, once.
    pub warn_percent: Option<u8>,
}

impl Budget {
    /// Tells whether `spent` is as much as it warns at, of either limit. Always false if no percentage is set.
    pub fn is_warned_at(&self, spent: Amount) -> bool {
        let Self { tokens, nanos, warn_percent: Some(percent) } = *self else { return false };
        let passed = |limit: Option<u64>, spent: u64| {
            limit.is_some_and(|limit| u128::from(spent) * 100 >= u128::from(limit) * u128::from(percent))
        };
        passed(tokens, spent.tokens) || passed(nanos, spent.nanos.unwrap_or(0))
    }
}

/// The rules that an agent's profile sets for its calls of models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallRules {
    /// A provider of the node's configuration; the default one of each API if absent.
    pub provider: Option<String>,
    /// Models to go on with, in order, when the asked one's provider is overloaded or down; none if empty. Whoever gets
    /// one is told in the attempt's result.
    pub fallback: Vec<String>,
    /// The most tokens of one attempt, of all kinds together.
    pub tokens_max: Option<u64>,
    /// The most money of one attempt, in billionths of the price table's currency.
    pub nanos_max: Option<u64>,
}
