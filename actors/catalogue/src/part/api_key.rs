//! API keys: what programs are known by. Only the digest of a key is kept; the key itself is shown once, to who made it.

use std::collections::{BTreeMap, HashMap};

use hiveward_access::role::Grant;
use hiveward_kernel::{event::PublicEvent, id::ApiKeyId, operation::Operation};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Part, When};
use crate::directory::Known;

/// The most keys; more are refused.
pub const API_KEYS_MAX: usize = 100_000;

/// A key, without what is secret of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: ApiKeyId,
    /// The name of the principal that asks with it, unique among keys.
    pub name: String,
    /// The beginning of the key, by which its owner tells it from others.
    pub prefix: String,
    /// The BLAKE3 of the whole key.
    pub digest: [u8; 32],
    pub grant: Grant,
    /// The moment from which it is worth nothing.
    #[serde(default)]
    pub expires_at: Option<WallMs>,
    /// The one who made it.
    pub created_by: String,
    #[serde(default)]
    pub created_at: WallMs,
}

/// All keys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ApiKeys {
    pub all: BTreeMap<ApiKeyId, ApiKey>,
    /// Grows with each change, so that who holds something open sees that he has to look again.
    pub changes: u64,
    /// The keys by their digests.
    #[serde(skip)]
    by_digest: HashMap<[u8; 32], ApiKeyId>,
}

impl<'de> Deserialize<'de> for ApiKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Written {
            all: BTreeMap<ApiKeyId, ApiKey>,
            changes: u64,
        }
        let Written { all, changes } = Written::deserialize(deserializer)?;
        let by_digest = all.values().map(|key| (key.digest, key.id)).collect();
        Ok(Self { all, changes, by_digest })
    }
}

/// What is asked of keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ApiKeyChange {
    Create { key: ApiKey },
    Revoke { id: ApiKeyId },
}

/// What happened to keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiKeyEvent {
    ApiKeyCreated { key: ApiKey, operation: Option<Operation> },
    ApiKeyRevoked { id: ApiKeyId, name: String, operation: Option<Operation> },
}

impl ApiKeys {
    /// Returns the key with this digest, if it is worth something at `now`.
    pub fn valid(&self, digest: &[u8; 32], now: WallMs) -> Option<&ApiKey> {
        let key = self.all.get(self.by_digest.get(digest)?)?;
        key.expires_at.is_none_or(|until| now < until).then_some(key)
    }

    fn forget(&mut self, id: ApiKeyId) {
        if let Some(key) = self.all.remove(&id) {
            self.by_digest.remove(&key.digest);
        }
    }
}

impl Part for ApiKeys {
    const NOUN: &'static str = "apikey";
    const KINDS: &'static [&'static str] = &["ApiKeyCreated", "ApiKeyRevoked"];
    type Change = ApiKeyChange;
    type Event = ApiKeyEvent;

    fn key(change: &ApiKeyChange) -> Key {
        match change {
            ApiKeyChange::Create { key } => key.id.key(),
            ApiKeyChange::Revoke { id } => id.key(),
        }
    }

    fn decide(known: &Known, change: &ApiKeyChange, operation: Option<&Operation>) -> Result<Vec<ApiKeyEvent>, Refused> {
        let (keys, operation) = (&known.parts.api_keys, operation.cloned());
        match change {
            ApiKeyChange::Create { key } => {
                if keys.all.values().any(|other| other.name == key.name) {
                    let message = format!("there is a key named {:?} already; nothing happened", key.name);
                    return Err(Refused { code: Code::Conflict, message, field: Some("name".into()) });
                }
                if let Some(project) = key.grant.project.filter(|project| !known.parts.projects.has(*project)) {
                    return Err(Refused::not_found(project));
                }
                if keys.all.len() >= API_KEYS_MAX {
                    return Err(Refused::new(Code::Limit, format!("there are {API_KEYS_MAX} keys; revoke one first")));
                }
                Ok(vec![ApiKeyEvent::ApiKeyCreated { key: key.clone(), operation }])
            }
            ApiKeyChange::Revoke { id } => {
                let key = keys.all.get(id).ok_or_else(|| Refused::not_found(*id))?;
                Ok(vec![ApiKeyEvent::ApiKeyRevoked { id: *id, name: key.name.clone(), operation }])
            }
        }
    }

    fn apply(&mut self, event: &ApiKeyEvent, when: When) {
        self.changes += 1;
        match event {
            ApiKeyEvent::ApiKeyCreated { key, .. } => {
                self.by_digest.insert(key.digest, key.id);
                self.all.insert(key.id, ApiKey { created_at: when.at, ..key.clone() });
            }
            ApiKeyEvent::ApiKeyRevoked { id, .. } => self.forget(*id),
        }
    }

    fn kind(event: &ApiKeyEvent) -> &'static str {
        match event {
            ApiKeyEvent::ApiKeyCreated { .. } => "ApiKeyCreated",
            ApiKeyEvent::ApiKeyRevoked { .. } => "ApiKeyRevoked",
        }
    }

    fn operation(event: &ApiKeyEvent) -> Option<(&Operation, Key)> {
        match event {
            ApiKeyEvent::ApiKeyCreated { key, operation } => Some((operation.as_ref()?, key.id.key())),
            ApiKeyEvent::ApiKeyRevoked { id, operation, .. } => Some((operation.as_ref()?, id.key())),
        }
    }

    fn public(event: &ApiKeyEvent) -> PublicEvent {
        let data = match event {
            ApiKeyEvent::ApiKeyCreated { key, .. } => json!({
                "apiKey": key.id, "name": key.name, "prefix": key.prefix, "role": key.grant.role.name(),
                "project": key.grant.project, "expiresAt": key.expires_at.map(|at| at.to_string()),
            }),
            ApiKeyEvent::ApiKeyRevoked { id, name, .. } => json!({"apiKey": id, "name": name}),
        };
        PublicEvent { task: None, agent: None, data }
    }
}

#[cfg(test)]
mod tests {
    use hiveward_access::role::Role;
    use hiveward_runtime::ledger::Cursor;

    use super::*;

    #[test]
    fn a_key_is_found_by_its_digest_until_it_is_over_or_revoked_also_after_a_snapshot() {
        let key = ApiKey {
            id: ApiKeyId::new(),
            name: "ci".into(),
            prefix: "hwk_1234".into(),
            digest: [7; 32],
            grant: Grant::everywhere(Role::TaskCreator),
            expires_at: Some(WallMs(100)),
            created_by: "ops".into(),
            created_at: WallMs(0),
        };
        let mut keys = ApiKeys::default();
        let when = When { at: WallMs(5), cursor: Cursor(1) };
        keys.apply(&ApiKeyEvent::ApiKeyCreated { key: key.clone(), operation: None }, when);
        let mut keys: ApiKeys = rmp_serde::from_slice(&rmp_serde::to_vec_named(&keys).unwrap()).unwrap();
        assert_eq!(keys.valid(&[7; 32], WallMs(99)).map(|key| key.created_at), Some(WallMs(5)));
        assert_eq!(keys.valid(&[7; 32], WallMs(100)), None);
        assert_eq!(keys.valid(&[8; 32], WallMs(1)), None);
        keys.apply(&ApiKeyEvent::ApiKeyRevoked { id: key.id, name: "ci".into(), operation: None }, when);
        assert_eq!(keys.valid(&[7; 32], WallMs(1)), None);
    }
}
