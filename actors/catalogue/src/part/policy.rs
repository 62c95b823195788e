//! Policies beside the roles, by name: texts that every node goes by as soon as it knows of them.

use std::collections::BTreeMap;

use hiveward_access::policy::{Judge, PolicySource};
use hiveward_kernel::{event::PublicEvent, operation::Operation};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Part, When};
use crate::directory::Known;

/// The most texts of policies; more are refused.
pub const POLICIES_MAX: usize = 256;

/// The most bytes of all texts together, so that reading them anew stays a matter of milliseconds; more are refused.
pub const POLICIES_BYTES_MAX: usize = 1 << 20;

/// A text of policies, as it was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    pub text: String,
    pub applied_at: WallMs,
}

/// All policies beside the roles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policies {
    pub all: BTreeMap<String, PolicyText>,
    /// Grows with each change, so that a node sees that it has to read them anew.
    pub changes: u64,
}

/// What is asked of policies.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PolicyChange {
    /// Puts a text in the place of the one with this name, or adds it.
    Apply {
        name: String,
        text: String,
    },
    Remove {
        name: String,
    },
}

/// What happened to policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyEvent {
    PolicyApplied { name: String, text: String, operation: Option<Operation> },
    PolicyRemoved { name: String, operation: Option<Operation> },
}

/// Returns the key by which answers name a text of policies.
fn key_of(name: &str) -> Key {
    let bits = hiveward_runtime::store::blob::fingerprint(name.as_bytes());
    Key::trusted(format!("policy_{:032x}", u128::from_be_bytes(bits)))
}

impl Policies {
    /// Returns the texts, as the judge reads them.
    pub fn sources(&self) -> Vec<PolicySource> {
        let source = |(name, policy): (&String, &PolicyText)| PolicySource {
            name: name.as_str().into(),
            text: policy.text.as_str().into(),
        };
        self.all.iter().map(source).collect()
    }
}

impl Part for Policies {
    const NOUN: &'static str = "policy";
    const KINDS: &'static [&'static str] = &["PolicyApplied", "PolicyRemoved"];
    type Change = PolicyChange;
    type Event = PolicyEvent;

    fn key(change: &PolicyChange) -> Key {
        let (PolicyChange::Apply { name, .. } | PolicyChange::Remove { name }) = change;
        key_of(name)
    }

    fn decide(known: &Known, change: &PolicyChange, operation: Option<&Operation>) -> Result<Vec<PolicyEvent>, Refused> {
        let (policies, operation) = (&known.parts.policies, operation.cloned());
        match change.clone() {
            PolicyChange::Apply { name, text } => {
                if policies.all.len() >= POLICIES_MAX && !policies.all.contains_key(&name) {
                    let message = format!("there are {POLICIES_MAX} texts of policies; remove one first");
                    return Err(Refused::new(Code::Limit, message));
                }
                let others = policies.sources().into_iter().filter(|source| *source.name != *name);
                let new = PolicySource { name: name.as_str().into(), text: text.as_str().into() };
                let sources: Vec<_> = others.chain([new]).collect();
                if sources.iter().map(|source| source.text.len()).sum::<usize>() > POLICIES_BYTES_MAX {
                    let message = format!("all policies together would be over {POLICIES_BYTES_MAX} bytes; nothing changed");
                    return Err(Refused { code: Code::Limit, message, field: Some("text".into()) });
                }
                Judge::new(&sources).map_err(|bad| Refused::invalid("text", format!("{bad}; nothing changed")))?;
                Ok(vec![PolicyEvent::PolicyApplied { name, text, operation }])
            }
            PolicyChange::Remove { name } if policies.all.contains_key(&name) => {
                Ok(vec![PolicyEvent::PolicyRemoved { name, operation }])
            }
            PolicyChange::Remove { name } => Err(Refused::not_found(format!("policy named {name:?}"))),
        }
    }

    fn apply(&mut self, event: &PolicyEvent, when: When) {
        self.changes += 1;
        match event {
            PolicyEvent::PolicyApplied { name, text, .. } => {
                self.all.insert(name.clone(), PolicyText { text: text.clone(), applied_at: when.at });
            }
            PolicyEvent::PolicyRemoved { name, .. } => drop(self.all.remove(name)),
        }
    }

    fn kind(event: &PolicyEvent) -> &'static str {
        match event {
            PolicyEvent::PolicyApplied { .. } => "PolicyApplied",
            PolicyEvent::PolicyRemoved { .. } => "PolicyRemoved",
        }
    }

    fn operation(event: &PolicyEvent) -> Option<(&Operation, Key)> {
        let (PolicyEvent::PolicyApplied { name, operation, .. } | PolicyEvent::PolicyRemoved { name, operation }) = event;
        Some((operation.as_ref()?, key_of(name)))
    }

    fn public(event: &PolicyEvent) -> PublicEvent {
        let data = match event {
            PolicyEvent::PolicyApplied { name, text, .. } => json!({"policy": name, "text": text}),
            PolicyEvent::PolicyRemoved { name, .. } => json!({"policy": name}),
        };
        PublicEvent { task: None, agent: None, data }
    }
}
