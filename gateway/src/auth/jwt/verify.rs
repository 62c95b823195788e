//! Whether a token is what it says, and of whom it is. Pure: it is given the time, the issuers and their keys.
//!
//! The signature is checked by a library; everything else here, strictly: what is not understood is refused, and nothing in a
//! token says how it is to be checked.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hiveward_access::role::Role;
use hiveward_runtime::clock::WallMs;
use jsonwebtoken::Algorithm;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::{config::Issuer, keys::KeySet};

/// The most bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The most bytes of a key's id.
const KEY_ID_BYTES_MAX: usize = 256;
/// The most bytes of a user's name.
const NAME_BYTES_MAX: usize = 128;
/// The most roles, and groups, that are read of a token.
const GROUPS_MAX: usize = 256;

/// Why a token is refused. None says what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("the token is over {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is no signed JSON Web Token in three parts")]
    Form,
    #[error("its header cannot be read, or has a field twice")]
    Header,
    #[error("its header asks for something that is not taken: `{0}`")]
    HeaderField(&'static str),
    #[error("its algorithm is not one that its issuer uses")]
    Algorithm,
    #[error("its claims cannot be read, or one is there twice")]
    Claims,
    #[error("it has no claim `{0}` of the right kind")]
    Claim(&'static str),
    #[error("its issuer is not one that is accepted here")]
    Issuer,
    #[error("it is for somebody else")]
    Audience,
    #[error("its key is not one of its issuer's")]
    Key,
    #[error("its signature is wrong")]
    Signature,
    #[error("its time is over")]
    Expired,
    #[error("its time has not come")]
    Early,
    #[error("it lives longer than tokens of its issuer may")]
    Lifetime,
    #[error("the name of its user cannot be one")]
    Name,
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The name of the principal: `user:ISSUER/SUBJECT`.
    pub name: String,
    pub roles: Vec<Role>,
    pub groups: Vec<String>,
    pub until: WallMs,
}

/// A JSON object of which no field is there twice.
struct Strict(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Strict;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object without a field twice")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a field is there twice"));
                    }
                }
                Ok(Strict(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

fn object(part: &str) -> Option<BTreeMap<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice::<Strict>(&bytes).ok().map(|strict| strict.0)
}

struct Header {
    algorithm: Algorithm,
    key: Option<String>,
}

fn header(part: &str) -> Result<Header, BadToken> {
    let fields = object(part).ok_or(BadToken::Header)?;
    for (name, value) in &fields {
        match (name.as_str(), value) {
            ("alg" | "kid", Value::String(_)) => {}
            ("typ", Value::String(kind)) if matches!(kind.to_ascii_lowercase().as_str(), "jwt" | "at+jwt") => {}
            ("x5t" | "x5t#S256", Value::String(_)) => {}
            ("typ", _) => return Err(BadToken::HeaderField("typ")),
            ("crit", _) => return Err(BadToken::HeaderField("crit")),
            ("jku" | "jwk" | "x5u" | "x5c", _) => return Err(BadToken::HeaderField("a key of its own")),
            ("enc" | "zip" | "cty", _) => return Err(BadToken::HeaderField("a token within it")),
            ("alg" | "kid" | "x5t" | "x5t#S256", _) => return Err(BadToken::Header),
            _ => return Err(BadToken::HeaderField("a field that is not known")),
        }
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let algorithm = match text("alg") {
        Some("HS256") => Algorithm::HS256,
        Some("RS256") => Algorithm::RS256,
        Some("ES256") => Algorithm::ES256,
        Some("EdDSA") => Algorithm::EdDSA,
        Some(_) => return Err(BadToken::Algorithm),
        None => return Err(BadToken::Header),
    };
    let key = text("kid").map(str::to_owned);
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_ID_BYTES_MAX) {
        return Err(BadToken::Key);
    }
    Ok(Header { algorithm, key })
}

/// Returns a moment in seconds since 1970, which is a whole number or one with a fraction, and no text.
fn moment(claims: &BTreeMap<String, Value>, name: &'static str) -> Result<Option<i64>, BadToken> {
    /// The last second of the year 9999.
    const LAST: f64 = 253_402_300_799.0;
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_number().and_then(serde_json::Number::as_f64).ok_or(BadToken::Claim(name))?;
    if !(0.0..=LAST).contains(&seconds) {
        return Err(BadToken::Claim(name));
    }
    Ok(Some((seconds * 1000.0) as i64))
}

/// Returns a claim's values: a text, or a list of texts.
fn values(claims: &BTreeMap<String, Value>, path: &str) -> Vec<String> {
    let mut names = path.split('.');
    let first = names.next().and_then(|name| claims.get(name));
    let found = names.try_fold(first, |at, name| at.map(|at| at.get(name))).flatten();
    match found {
        Some(Value::String(one)) => vec![one.clone()],
        // A list that is not all text says nothing.
        Some(Value::Array(all)) if all.len() <= GROUPS_MAX => {
            all.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>().unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Returns the issuer that a token says it is of, to find its keys by. Nothing is certain of it yet.
pub fn claimed_issuer(token: &str) -> Result<String, BadToken> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(BadToken::TooLarge);
    }
    let (_, claims, _) = parts(token)?;
    let claims = object(claims).ok_or(BadToken::Claims)?;
    claims.get("iss").and_then(Value::as_str).map(str::to_owned).ok_or(BadToken::Claim("iss"))
}

fn parts(token: &str) -> Result<(&str, &str, &str), BadToken> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(claims), Some(signature), None) if !signature.is_empty() => Ok((header, claims, signature)),
        _ => Err(BadToken::Form),
    }
}

/// Checks a token of this issuer. Errors: why it is worth nothing.
pub fn verify(token: &str, issuer: &Issuer, keys: &KeySet, now: WallMs) -> Result<Verified, BadToken> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(BadToken::TooLarge);
    }
    let (head, body, signature) = parts(token)?;
    let Header { algorithm, key } = header(head)?;
    if !issuer.algorithms.contains(&algorithm) {
        return Err(BadToken::Algorithm);
    }
    // Other than the library would, so that a token has one text: no padding, no spare bits.
    URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadToken::Signature)?;
    let key = keys.find(key.as_deref(), algorithm).ok_or(BadToken::Key)?;
    let signed = token.len() - signature.len() - 1;
    let right = jsonwebtoken::crypto::verify(signature, &token.as_bytes()[..signed], key, algorithm);
    if !right.unwrap_or(false) {
        return Err(BadToken::Signature);
    }
    claims(body, issuer, now)
}

/// Checks what a token that is signed says.
fn claims(body: &str, issuer: &Issuer, now: WallMs) -> Result<Verified, BadToken> {
    let claims = object(body).ok_or(BadToken::Claims)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss").ok_or(BadToken::Claim("iss"))? != issuer.issuer {
        return Err(BadToken::Issuer);
    }
    let audience = match claims.get("aud") {
        Some(Value::String(_) | Value::Array(_)) => values(&claims, "aud"),
        _ => return Err(BadToken::Claim("aud")),
    };
    if !audience.iter().any(|one| issuer.audience.contains(one)) {
        return Err(BadToken::Audience);
    }
    let (leeway, lifetime) =
        (i64::try_from(issuer.leeway_ms).unwrap_or(0), i64::try_from(issuer.max_lifetime_ms).unwrap_or(i64::MAX));
    let until = moment(&claims, "exp")?.ok_or(BadToken::Claim("exp"))?;
    let issued = moment(&claims, "iat")?;
    let from = moment(&claims, "nbf")?;
    let began = issued.or(from).ok_or(BadToken::Claim("iat"))?;
    if now.0 >= until.saturating_add(leeway) {
        return Err(BadToken::Expired);
    }
    if [issued, from].into_iter().flatten().any(|from| from > now.0.saturating_add(leeway)) {
        return Err(BadToken::Early);
    }
    if until.saturating_sub(began) > lifetime {
        return Err(BadToken::Lifetime);
    }
    let subject = text(&issuer.name_claim).ok_or(BadToken::Name)?;
    let name = format!("user:{}/{subject}", issuer.name);
    if subject.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(BadToken::Name);
    }
    let mut roles: Vec<Role> =
        values(&claims, &issuer.roles_claim).iter().filter_map(|value| issuer.roles.get(value).copied()).collect();
    roles.sort_unstable();
    roles.dedup();
    Ok(Verified { name, roles, groups: values(&claims, &issuer.groups_claim), until: WallMs(until) })
}
