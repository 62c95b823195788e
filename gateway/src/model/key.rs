//! The reference to a provider's key. It may be shown; what it stands for is read when it is used.

use std::path::Path;

use axum::http::HeaderValue;
use hiveward_agents::connector::{SecretFiles, SecretSource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `secret:NAME`, `file:PATH` or `${VAR}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum KeyRef {
    Secret(String),
    File(String),
    Variable(String),
    /// Something else, most likely a key in clear. It is let go at once: refusing it while the file is read would show the
    /// line it stands in.
    Unnamed,
}

impl From<String> for KeyRef {
    fn from(text: String) -> Self {
        let variable = |text: &str| text.strip_prefix("${")?.strip_suffix('}').filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(name) = text.strip_prefix("secret:").filter(|name| !name.is_empty()) {
            Self::Secret(name.to_owned())
        } else if let Some(path) = text.strip_prefix("file:").filter(|path| path.starts_with('/')) {
            Self::File(path.to_owned())
        } else if let Some(name) = variable(&text) {
            Self::Variable(name)
        } else {
            Self::Unnamed
        }
    }
}

impl From<KeyRef> for String {
    fn from(key: KeyRef) -> Self {
        match key {
            KeyRef::Secret(name) => format!("secret:{name}"),
            KeyRef::File(path) => format!("file:{path}"),
            KeyRef::Variable(name) => format!("${{{name}}}"),
            KeyRef::Unnamed => "not named".to_owned(),
        }
    }
}

pub const HOW_TO_NAME: &str = "a key is not written here but named: secret:NAME, file:/PATH or ${VAR}";

/// A key in clear, for as long as one call needs it. It has no `Debug`.
pub struct Key(String);

impl KeyRef {
    /// Reads the key that is referred to. Errors name the reference, never what it stands for.
    pub fn resolve(&self, secrets: &Path) -> Result<Key, String> {
        let text = match self {
            Self::Secret(name) => SecretFiles { dir: secrets.to_owned() }.secret(name)?,
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("the key's file {path} cannot be read: {error}"))?
            }
            Self::Unnamed => return Err(HOW_TO_NAME.to_owned()),
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
    /// Returns the key as the value of a header, behind the text `before`; it is marked as secret.
    pub fn header(&self, before: &str) -> Result<HeaderValue, String> {
        let mut value = HeaderValue::from_str(&format!("{before}{}", self.0))
            .map_err(|_| "the key has characters that no header can hold".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Tells whether the key stands in these bytes, which then must not be shown.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        bytes.windows(self.0.len()).any(|window| window == self.0.as_bytes())
    }
}
