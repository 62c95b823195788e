//! Where a provider's key comes from. A reference may be shown; what it stands for is read when it is used.

use std::path::Path;

use axum::http::HeaderValue;
use hiveward_actors::agent::connector::{SecretFiles, SecretSource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `secret:NAME`, `file:PATH` or `${VAR}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum KeyRef {
    Secret(String),
    File(String),
    Variable(String),
}

impl TryFrom<String> for KeyRef {
    type Error = String;

    /// A key in clear is refused, and not repeated in the refusal.
    fn try_from(text: String) -> Result<Self, String> {
        let variable = |text: &str| text.strip_prefix("${")?.strip_suffix('}').filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(name) = text.strip_prefix("secret:").filter(|name| !name.is_empty()) {
            Ok(Self::Secret(name.to_owned()))
        } else if let Some(path) = text.strip_prefix("file:").filter(|path| path.starts_with('/')) {
            Ok(Self::File(path.to_owned()))
        } else if let Some(name) = variable(&text) {
            Ok(Self::Variable(name))
        } else {
            Err("a key is not written here but named: secret:NAME, file:/PATH or ${VAR}".to_owned())
        }
    }
}

impl From<KeyRef> for String {
    fn from(key: KeyRef) -> Self {
        match key {
            KeyRef::Secret(name) => format!("secret:{name}"),
            KeyRef::File(path) => format!("file:{path}"),
            KeyRef::Variable(name) => format!("${{{name}}}"),
        }
    }
}

/// A key in clear, for as long as one call needs it. Has no `Debug`.
pub struct Key(String);

impl KeyRef {
    /// Errors name the reference, never what it stands for.
    pub fn resolve(&self, secrets: &Path) -> Result<Key, String> {
        let text = match self {
            Self::Secret(name) => SecretFiles { dir: secrets.to_owned() }.secret(name)?,
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("the key's file {path} cannot be read: {error}"))?
            }
            Self::Variable(name) => {
                std::env::var(name).map_err(|_| format!("the variable {name} is not in the node's environment"))?
            }
        };
        let key = text.trim();
        if key.is_empty() {
            return Err(format!("{} is empty", String::from(self.clone())));
        }
        Ok(Key(key.to_owned()))
    }
}

impl Key {
    pub fn header(&self, before: &str) -> Result<HeaderValue, String> {
        let mut value = HeaderValue::from_str(&format!("{before}{}", self.0))
            .map_err(|_| "the key has characters that no header can hold".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }

    pub fn is_in(&self, bytes: &[u8]) -> bool {
        bytes.windows(self.0.len()).any(|window| window == self.0.as_bytes())
    }
}
