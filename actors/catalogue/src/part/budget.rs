//! Budgets: what calls of models may use, by scope.

use std::collections::BTreeMap;

use bytes::Bytes;
use hiveward_contract::decimal::decimal_from_nanos;
use hiveward_kernel::{event::PublicEvent, operation::Operation};
use hiveward_runtime::{
    error::{Code, Refused},
    id::Key,
    ledger::Cursor,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Part, When};
use crate::{
    budget::{Amount, Budget, Scope},
    directory::Known,
};

/// The most budgets of the whole cluster. Each is looked at whenever the ledger moves.
const BUDGETS_MAX: usize = 1_000;

/// The budget of a scope, and whether its warning was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetEntry {
    pub budget: Budget,
    /// Whether it has come to what it warns at.
    pub warned: bool,
}

/// All budgets.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    pub all: BTreeMap<Scope, BudgetEntry>,
    /// The cursor at which a budget was set or removed last.
    pub changed: Cursor,
}

/// What is asked of budgets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum BudgetChange {
    Set { scope: Scope, budget: Budget },
    Remove { scope: Scope },
}

impl BudgetChange {
    fn scope(&self) -> &Scope {
        match self {
            Self::Set { scope, .. } | Self::Remove { scope } => scope,
        }
    }
}

/// What happened to a budget. These are older than parts: they are stored by the order of their fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BudgetEvent {
    /// Calls of models for this scope may use so much, counted from when a budget was first set for it.
    BudgetSet {
        scope: Scope,
        budget: Budget,
        operation: Option<Operation>,
    },
    BudgetRemoved {
        scope: Scope,
        operation: Option<Operation>,
    },
    /// What is spent has come to what the budget warns at. It is told once, until another budget is set for the scope.
    BudgetWarned {
        scope: Scope,
        spent: Amount,
    },
}

impl Part for Budgets {
    const NOUN: &'static str = "budget";
    const KINDS: &'static [&'static str] = &["BudgetSet", "BudgetRemoved", "BudgetWarned"];
    type Change = BudgetChange;
    type Event = BudgetEvent;

    fn key(change: &BudgetChange) -> Key {
        change.scope().budget_id().key()
    }

    fn decide(known: &Known, change: &BudgetChange, operation: Option<&Operation>) -> Result<Vec<BudgetEvent>, Refused> {
        let (all, scope, operation) = (&known.parts.budgets.all, change.scope().clone(), operation.cloned());
        match change {
            BudgetChange::Remove { .. } if !all.contains_key(&scope) => Err(Refused::not_found(format!("budget of {scope}"))),
            BudgetChange::Remove { .. } => Ok(vec![BudgetEvent::BudgetRemoved { scope, operation }]),
            BudgetChange::Set { budget, .. } => {
                may_be_set(known, &scope)?;
                Ok(vec![BudgetEvent::BudgetSet { scope, budget: *budget, operation }])
            }
        }
    }

    fn apply(&mut self, event: &BudgetEvent, when: When) {
        match event {
            BudgetEvent::BudgetSet { scope, budget, .. } => {
                let warned = self.all.get(scope).is_some_and(|entry| entry.warned && entry.budget == *budget);
                self.all.insert(scope.clone(), BudgetEntry { budget: *budget, warned });
                self.changed = when.cursor;
            }
            BudgetEvent::BudgetRemoved { scope, .. } => {
                self.all.remove(scope);
                self.changed = when.cursor;
            }
            BudgetEvent::BudgetWarned { scope, .. } => {
                if let Some(entry) = self.all.get_mut(scope) {
                    entry.warned = true;
                }
            }
        }
    }

    fn kind(event: &BudgetEvent) -> &'static str {
        match event {
            BudgetEvent::BudgetSet { .. } => "BudgetSet",
            BudgetEvent::BudgetRemoved { .. } => "BudgetRemoved",
            BudgetEvent::BudgetWarned { .. } => "BudgetWarned",
        }
    }

    fn operation(event: &BudgetEvent) -> Option<(&Operation, Key)> {
        let (BudgetEvent::BudgetSet { scope, operation, .. } | BudgetEvent::BudgetRemoved { scope, operation }) = event else {
            return None;
        };
        Some((operation.as_ref()?, scope.budget_id().key()))
    }

    fn public(event: &BudgetEvent) -> PublicEvent {
        let (scope, data) = match event {
            BudgetEvent::BudgetSet { scope, budget, .. } => {
                let money = budget.nanos.map(decimal_from_nanos);
                let data = json!({
                    "scope": scope.key(), "tokens": budget.tokens, "money": money, "warnPercent": budget.warn_percent,
                });
                (scope, data)
            }
            BudgetEvent::BudgetRemoved { scope, .. } => (scope, json!({"scope": scope.key()})),
            BudgetEvent::BudgetWarned { scope, spent } => {
                let money = spent.nanos.map(decimal_from_nanos);
                (scope, json!({"scope": scope.key(), "tokens": spent.tokens, "money": money}))
            }
        };
        PublicEvent { task: None, agent: scope.agent(), data }
    }

    fn encode(event: &BudgetEvent) -> Result<Bytes, rmp_serde::encode::Error> {
        hiveward_kernel::event::encoded(event)
    }
}

/// Refuses a budget for an agent that is not there or for an attempt, and one too many.
fn may_be_set(known: &Known, scope: &Scope) -> Result<(), Refused> {
    let all = &known.parts.budgets.all;
    match scope {
        Scope::Agent(agent) if !known.agents.contains_key(agent) => Err(Refused::not_found(agent)),
        Scope::Attempt(_) => Err(Refused::new(Code::Refused, "what an attempt may use is set in its agent's profile")),
        _ if all.len() >= BUDGETS_MAX && !all.contains_key(scope) => {
            Err(Refused::new(Code::Limit, format!("there are {BUDGETS_MAX} budgets; remove one first")))
        }
        _ => Ok(()),
    }
}
