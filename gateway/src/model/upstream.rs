//! The providers: their addresses and keys, and whether they are to be left alone for a while.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use hiveward_runtime::resilience::{Breaker, BreakerLimits};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    api::{Api, X_API_KEY},
    config::{ModelsSection, ProviderConfig},
    key::Key,
};

const BREAKER: BreakerLimits = BreakerLimits {
    failures_max: 10,
    first: Duration::from_secs(5),
    longest: Duration::from_secs(60),
    probe_within: Duration::from_secs(30),
};

pub struct Provider {
    pub name: String,
    pub config: ProviderConfig,
    breaker: Mutex<Breaker>,
}

impl Provider {
    /// Tells whether the provider may be called now; the error says after how long to ask again.
    pub fn admit(&self) -> Result<(), Duration> {
        self.breaker.lock().admit(Instant::now())
    }

    /// Notes that the provider answered.
    pub fn succeeded(&self) {
        self.breaker.lock().succeeded();
    }

    /// Notes that the provider failed; after too many failures in a row it is left alone for a while.
    pub fn failed(&self) {
        let (now, mut breaker) = (Instant::now(), self.breaker.lock());
        let was_open = breaker.is_open(now);
        breaker.failed(now);
        if !was_open && breaker.is_open(now) {
            metrics::counter!("hiveward_model_breaker_opened_total", "provider" => self.name.clone()).increment(1);
            tracing::warn!(provider = self.name, "a provider of models is left alone for a while: it fails");
        }
    }
}

pub struct Providers {
    by_name: BTreeMap<String, Provider>,
    defaults: [(Api, Option<String>); 2],
    secrets: PathBuf,
    pub client: reqwest::Client,
}

/// How long the connection to a provider may take, without the answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Providers {
    /// Takes the providers of the configuration; `secrets` is the directory of named keys.
    pub fn new(section: &ModelsSection, secrets: PathBuf) -> Result<Self, reqwest::Error> {
        let provider = |(name, config): (&String, &ProviderConfig)| {
            (name.clone(), Provider { name: name.clone(), config: config.clone(), breaker: Mutex::new(Breaker::new(BREAKER)) })
        };
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A key must not follow a provider to wherever it points.
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            by_name: section.providers.iter().map(provider).collect(),
            defaults: [Api::Anthropic, Api::OpenAi].map(|api| (api, section.default_of(api).map(str::to_owned))),
            secrets,
            client,
        })
    }

    /// Returns the provider that answers calls of this API, for an agent whose profile names `wanted`.
    pub fn of(&self, api: Api, wanted: Option<&str>) -> Option<&Provider> {
        let wanted = wanted.and_then(|name| self.by_name.get(name)).filter(|provider| provider.config.api == api);
        let default = || self.defaults.iter().find(|(of, _)| *of == api)?.1.as_deref();
        wanted.or_else(|| self.by_name.get(default()?))
    }

    /// Returns the provider and the model that a fallback names: a model of the same provider, or `PROVIDER/MODEL` of another one
    /// that speaks the same API.
    pub fn fallback<'a>(&'a self, api: Api, first: &'a Provider, named: &'a str) -> (&'a Provider, &'a str) {
        let other = named.split_once('/').and_then(|(name, model)| Some((self.by_name.get(name)?, model)));
        other.filter(|(provider, _)| provider.config.api == api).unwrap_or((first, named))
    }

    /// Returns the headers of a request to the provider, and its key to look for in what must not show it.
    pub fn headers(&self, provider: &Provider, from_agent: &HeaderMap) -> Result<(HeaderMap, Option<Key>), String> {
        let mut headers = HeaderMap::new();
        for (name, value) in from_agent {
            let goes_on = matches!(*name, header::CONTENT_TYPE | header::ACCEPT | header::USER_AGENT)
                || name.as_str().starts_with("anthropic-")
                || name.as_str() == "openai-beta";
            if goes_on {
                headers.append(name, value.clone());
            }
        }
        // Compressed streams could not be metered as they go by.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in &provider.config.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        let key = provider.config.key.as_ref().map(|key| key.resolve(&self.secrets)).transpose()?;
        if let Some(key) = &key {
            match provider.config.api {
                Api::Anthropic => headers.insert(X_API_KEY, key.header("")?),
                Api::OpenAi => headers.insert(header::AUTHORIZATION, key.header("Bearer ")?),
            };
        }
        Ok((headers, key))
    }
}

/// Returns what an agent is shown of a provider's headers: nothing of the connection, no cookie, nothing that holds the key.
pub fn shown(headers: &HeaderMap, key: Option<&Key>) -> HeaderMap {
    const HIDDEN: [HeaderName; 10] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
        header::SET_COOKIE,
        header::WWW_AUTHENTICATE,
        HeaderName::from_static("keep-alive"),
    ];
    let mut shown = HeaderMap::new();
    for (name, value) in headers {
        if !HIDDEN.contains(name) && !key.is_some_and(|key| key.is_in(value.as_bytes())) {
            shown.append(name, value.clone());
        }
    }
    shown
}
