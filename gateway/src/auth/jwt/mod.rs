//! JSON Web Tokens of configured issuers as credentials.
//!
//! Owns each issuer's keys. Those that come from a URL are read anew by one task an issuer, which ends with this: every few
//! minutes, and soon when a token names a key that is not known. While a provider does not answer, its last keys count for a day.

pub mod config;
pub mod keys;
pub mod verify;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use hiveward_access::{
    principal::{Principal, PrincipalKind},
    role::Grant,
};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};
use parking_lot::Mutex;
use reqwest::{Url, redirect};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use config::{Issuer, IssuerConfig};
use keys::{KEY_SET_BYTES_MAX, KeySet};
use verify::{BadToken, Verified};

/// How often keys are read anew.
const READ_EVERY: Duration = Duration::from_secs(300);
/// The least time between two reads, however many tokens name unknown keys.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a provider may take to answer with its keys.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How long keys count while their provider does not answer.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What is wrong with the configuration of an issuer.
#[derive(Debug, thiserror::Error)]
#[error("auth.jwt.{index}: {problem}")]
pub struct BadIssuer {
    index: usize,
    problem: String,
}

/// The keys of an issuer as they are now.
#[derive(Default)]
struct Held {
    keys: ArcSwapOption<(KeySet, Instant)>,
    /// Why the keys were not read the last time they should have been.
    failure: Mutex<Option<String>>,
    wanted: Notify,
}

struct Known {
    issuer: Issuer,
    held: Arc<Held>,
    /// The task that reads keys that may change.
    _reading: Option<AbortOnDropHandle<()>>,
}

/// The issuers that are accepted. It is cheap to clone; the last one that goes ends their tasks.
#[derive(Clone, Default)]
pub struct Issuers(Arc<Vec<Known>>);

/// Tells what is wrong with the configuration of issuers, without reading a key.
pub fn check(configured: &[IssuerConfig]) -> Result<(), BadIssuer> {
    for (index, config) in configured.iter().enumerate() {
        config.checked().map_err(|problem| BadIssuer { index, problem })?;
    }
    Ok(())
}

impl Issuers {
    /// Reads what is configured, and begins to read keys that are elsewhere: in a Tokio runtime, if there are such. Errors: what
    /// is wrong, with its place.
    pub fn start(configured: &[IssuerConfig]) -> Result<Self, BadIssuer> {
        let mut all: Vec<Known> = Vec::new();
        for (index, config) in configured.iter().enumerate() {
            let wrong = |problem: String| BadIssuer { index, problem };
            let issuer = config.checked().map_err(wrong)?;
            if all.iter().any(|other| other.issuer.name == issuer.name || other.issuer.issuer == issuer.issuer) {
                return Err(wrong("another issuer has this `name` or `issuer`".into()));
            }
            let held = Arc::new(Held::default());
            let file = |path: &std::path::Path| {
                std::fs::read(path).map_err(|error| wrong(format!("{} cannot be read: {error}", path.display())))
            };
            let keys = match config {
                IssuerConfig { secret: Some(secret), .. } => Some(KeySet::secret(secret.0.as_bytes())),
                IssuerConfig { secret_file: Some(path), .. } => Some(KeySet::secret(file(path)?.trim_ascii())),
                IssuerConfig { public_key_file: Some(path), .. } => Some(KeySet::pem(&file(path)?)),
                IssuerConfig { jwks_file: Some(path), .. } => Some(KeySet::jwks(&file(path)?)),
                _ => None,
            };
            let keys = keys.transpose().map_err(|error| wrong(error.to_string()))?;
            held.keys.store(keys.map(|keys| Arc::new((keys, Instant::now()))));
            let url = config.jwks_url.as_deref().map(safe_url).transpose().map_err(wrong)?;
            let reading = url.map(|url| AbortOnDropHandle::new(tokio::spawn(read_on(url, issuer.name.clone(), held.clone()))));
            all.push(Known { issuer, held, _reading: reading });
        }
        Ok(Self(Arc::new(all)))
    }

    /// Tells whether no issuer is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the user of a token. Errors: `Unauthenticated` with the reason.
    pub fn principal(&self, token: &str, now: WallMs) -> Result<Principal, Refused> {
        self.verify(token, now).map(principal).map_err(|bad| {
            metrics::counter!("hiveward_tokens_refused_total").increment(1);
            Refused::new(Code::Unauthenticated, format!("the token is not accepted: {bad}"))
        })
    }

    fn verify(&self, token: &str, now: WallMs) -> Result<Verified, BadToken> {
        let claimed = verify::claimed_issuer(token)?;
        let known = self.0.iter().find(|known| known.issuer.issuer == claimed).ok_or(BadToken::Issuer)?;
        let keys = known.held.keys.load();
        let fresh = keys.as_ref().filter(|keys| known._reading.is_none() || keys.1.elapsed() < STALE_AFTER);
        let verified = match fresh {
            Some(keys) => verify::verify(token, &known.issuer, &keys.0, now),
            None => Err(BadToken::Key),
        };
        if verified == Err(BadToken::Key) {
            // It may be signed with a key that is newer than ours.
            known.held.wanted.notify_one();
        }
        verified
    }

    /// Returns why keys could not be read, by the issuers' names.
    pub fn failures(&self) -> Vec<(String, String)> {
        let failed = |known: &Known| Some((known.issuer.name.clone(), known.held.failure.lock().clone()?));
        self.0.iter().filter_map(failed).collect()
    }
}

fn principal(verified: Verified) -> Principal {
    Principal {
        name: verified.name.into(),
        groups: verified.groups.into_iter().map(Into::into).collect(),
        grants: verified.roles.into_iter().map(Grant::everywhere).collect(),
        until: Some(verified.until),
        ..Principal::nobody(PrincipalKind::User)
    }
}

/// Reads a URL of keys: `https`, or `http` on this machine.
fn safe_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`jwks_url` is no URL: {error}"))?;
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        _ => Err("`jwks_url` is https, or http on this machine: whoever is in between could put in keys of his own".into()),
    }
}

async fn read_on(url: Url, name: String, held: Arc<Held>) {
    loop {
        match read(&url).await {
            Ok(keys) => {
                held.keys.store(Some(Arc::new((keys, Instant::now()))));
                *held.failure.lock() = None;
            }
            Err(why) => {
                tracing::warn!(issuer = name, why, "the keys of an issuer cannot be read; those of before count for a day");
                *held.failure.lock() = Some(why);
            }
        }
        tokio::time::sleep(READ_AGAIN_AFTER).await;
        // A wish from before is still there: the notification is kept.
        let _asked_or_due = tokio::time::timeout(READ_EVERY, held.wanted.notified()).await;
    }
}

async fn read(url: &Url) -> Result<KeySet, String> {
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).timeout(READ_WITHIN).build();
    let client = client.map_err(|error| error.to_string())?;
    let answer = client.get(url.clone()).send().await.map_err(|error| error.without_url().to_string())?;
    if !answer.status().is_success() {
        return Err(format!("it answers with {}", answer.status()));
    }
    let (mut body, mut chunks) = (Vec::new(), answer.bytes_stream());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| error.without_url().to_string())?;
        if body.len() + chunk.len() > KEY_SET_BYTES_MAX {
            return Err(keys::BadKeys::TooMany.to_string());
        }
        body.extend_from_slice(&chunk);
    }
    KeySet::jwks(&body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
