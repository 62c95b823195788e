//! The `models` section of the configuration.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};
use hiveward_models::price::{Price, Prices, nanos_from_decimal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    api::Api,
    key::{HOW_TO_NAME, KeyRef},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsSection {
    /// Where agents of this node find it, on loopback only. With port 0 a free one is taken at the first start and kept.
    pub listen: SocketAddr,
    /// By name. Without any, this node has no model gateway.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Which provider answers an agent whose profile names none.
    pub default: DefaultProviders,
    /// By the beginning of a model's name; the longest that fits counts. Without a price, what is spent is not known.
    pub prices: BTreeMap<String, PriceConfig>,
    /// Of the prices.
    pub currency: String,
    /// How long a provider may take before it begins to answer.
    pub first_byte_timeout_ms: u64,
    /// How long a stream may be silent.
    pub idle_timeout_ms: u64,
}

impl Default for ModelsSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            providers: BTreeMap::new(),
            default: DefaultProviders::default(),
            prices: BTreeMap::new(),
            currency: "USD".to_owned(),
            first_byte_timeout_ms: 600_000,
            idle_timeout_ms: 300_000,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    pub api: Api,
    /// Before `/v1/messages` for anthropic, before `/chat/completions` for openai (so with its `/v1`).
    pub url: String,
    /// `secret:NAME`, `file:/PATH` or `${VAR}`; read on each call, never shown.
    #[serde(default)]
    pub key: Option<KeyRef>,
    /// Of this key, over all agents; no limit if absent.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    #[serde(default)]
    pub tokens_per_minute: Option<u64>,
    /// Sent with each request. They are shown by `config show`: the key has its own field.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultProviders {
    pub anthropic: Option<String>,
    pub openai: Option<String>,
}

/// For a million tokens of each kind, as decimals such as `3.75`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PriceConfig {
    pub input: Option<String>,
    pub output: Option<String>,
    pub cache_read: Option<String>,
    pub cache_write: Option<String>,
}

impl ModelsSection {
    /// Returns how long a provider may take before it begins to answer.
    pub fn first_byte_timeout(&self) -> Duration {
        Duration::from_millis(self.first_byte_timeout_ms)
    }

    /// Returns how long a stream may be silent.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    /// Refuses the first thing that is wrong, with the name of its field.
    pub fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() {
            return Err(format!("models.listen: {} is not on loopback; agents run on this host", self.listen));
        }
        for (name, provider) in &self.providers {
            let at = |field: &str, problem: &str| Err(format!("models.providers.{name}.{field}: {problem}"));
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            if !plain {
                return at("", "a name is letters, digits, `_`, `-` and `.`");
            }
            if provider.key == Some(KeyRef::Unnamed) {
                return at("key", HOW_TO_NAME);
            }
            match reqwest::Url::parse(&provider.url) {
                Ok(url) if !matches!(url.scheme(), "http" | "https") => return at("url", "it begins with http:// or https://"),
                Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                    return at("url", "credentials do not belong here; use `key`");
                }
                Ok(url) if url.query().is_some() || url.fragment().is_some() => return at("url", "it ends with its path"),
                Ok(_) => {}
                Err(error) => return at("url", &error.to_string()),
            }
            for (header, value) in &provider.headers {
                let secret = ["authorization", "x-api-key", "cookie", "proxy-authorization"];
                if secret.contains(&header.to_ascii_lowercase().as_str()) {
                    return at("headers", &format!("{header} holds a credential; use `key`"));
                }
                if header.parse::<HeaderName>().is_err() || HeaderValue::from_str(value).is_err() {
                    return at("headers", &format!("{header} is no header, or its value none of one"));
                }
            }
        }
        for (api, wanted) in [(Api::Anthropic, &self.default.anthropic), (Api::OpenAi, &self.default.openai)] {
            let Some(name) = wanted else { continue };
            if self.providers.get(name).is_none_or(|provider| provider.api != api) {
                return Err(format!("models.default: there is no provider {name:?} that speaks that API in models.providers"));
            }
        }
        self.prices().map(|_| ())
    }

    /// Returns the price table. Errors name the field whose price cannot be read.
    pub fn prices(&self) -> Result<Prices, String> {
        let mut prices = Vec::new();
        for (prefix, config) in &self.prices {
            let read = |field: &str, text: &Option<String>| match text {
                None => Ok(None),
                Some(text) => nanos_from_decimal(text).map(Some).ok_or_else(|| {
                    format!("models.prices.{prefix}.{field}: {text:?} is no price for a million tokens; write it as \"3.75\"")
                }),
            };
            let price = Price {
                input: read("input", &config.input)?,
                output: read("output", &config.output)?,
                cache_read: read("cache_read", &config.cache_read)?,
                cache_write: read("cache_write", &config.cache_write)?,
            };
            prices.push((prefix.clone(), price));
        }
        Ok(Prices::new(prices).in_currency(self.currency.clone()))
    }

    /// Adds a scripted server as the provider of both APIs.
    pub fn use_scripted(&mut self, address: SocketAddr) {
        for (name, api, path) in [("scripted", Api::Anthropic, ""), ("scripted-openai", Api::OpenAi, "/v1")] {
            let provider = ProviderConfig {
                api,
                url: format!("http://{address}{path}"),
                key: None,
                requests_per_minute: None,
                tokens_per_minute: None,
                headers: BTreeMap::new(),
            };
            self.providers.insert(name.to_owned(), provider);
        }
        self.default = DefaultProviders { anthropic: Some("scripted".into()), openai: Some("scripted-openai".into()) };
    }

    /// Returns the name of the provider that answers an agent whose profile names none: the default, or the only one.
    pub fn default_of(&self, api: Api) -> Option<&str> {
        let named = match api {
            Api::Anthropic => &self.default.anthropic,
            Api::OpenAi => &self.default.openai,
        };
        let mut of_api = self.providers.iter().filter(|(_, provider)| provider.api == api).map(|(name, _)| name.as_str());
        match (named, of_api.next(), of_api.next()) {
            (Some(name), ..) => Some(name),
            (None, Some(only), None) => Some(only),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hiveward_contract::yaml;

    fn check(text: &str) -> Result<ModelsSection, String> {
        let section: ModelsSection = yaml::read("c.yaml", text).map_err(|error| error.to_string())?;
        section.check().map(|()| section)
    }

    #[test]
    fn a_key_is_named_and_never_written_or_shown() {
        let section = check("providers:\n  a: {api: anthropic, url: 'https://h', key: 'secret:k'}\n").unwrap();
        assert!(serde_json::to_string(&section).unwrap().contains("secret:k"));
        let message = check("providers:\n  a: {api: anthropic, url: 'https://h', key: canary-123}\n").unwrap_err();
        assert!(message.contains("secret:NAME") && message.contains("models.providers.a.key"), "{message}");
        assert!(!message.contains("canary"), "{message}");
        let section: ModelsSection = yaml::read("c", "providers: {a: {api: openai, url: u, key: canary-123}}").unwrap();
        assert!(!format!("{section:?}").contains("canary") && !serde_json::to_string(&section).unwrap().contains("canary"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (text, part) in [
            ("listen: '0.0.0.0:1'", "models.listen"),
            ("providers: {a: {api: anthropic, url: 'ftp://h'}}", "models.providers.a.url"),
            ("providers: {a: {api: anthropic, url: 'https://u:p@h'}}", "use `key`"),
            ("providers: {a: {api: anthropic, url: 'https://h', headers: {X-Api-Key: k}}}", "use `key`"),
            ("default: {openai: b}", "models.default"),
            ("prices: {m: {input: cheap}}", "models.prices.m.input"),
            ("provider: {}", "unknown field"),
        ] {
            let message = check(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn the_only_provider_of_an_api_is_its_default() {
        let one = "providers: {a: {api: anthropic, url: 'https://h'}, b: {api: openai, url: 'https://h/v1'}}";
        assert_eq!(check(one).unwrap().default_of(Api::Anthropic), Some("a"));
        let two = "providers: {a: {api: openai, url: 'https://h'}, b: {api: openai, url: 'https://h/v1'}}";
        assert_eq!(check(two).unwrap().default_of(Api::OpenAi), None);
    }
}
