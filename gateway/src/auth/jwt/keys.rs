//! The keys of an issuer: a secret, a public key, or a set of public keys that may change.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::config::SECRET_BYTES_LEAST;

/// The most bytes of a key set.
pub const KEY_SET_BYTES_MAX: usize = 256 << 10;
/// The most keys of a set; a larger one is refused.
pub const KEYS_MAX: usize = 64;
/// The least bytes of the modulus of an RSA key: 2,048 bits.
const RSA_BYTES_LEAST: usize = 256;

/// Why keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    #[error("a secret has at least {SECRET_BYTES_LEAST} bytes")]
    ShortSecret,
    #[error("the key set is over {KEY_SET_BYTES_MAX} bytes, or has over {KEYS_MAX} keys")]
    TooMany,
    #[error("it is no JSON Web Key Set: {0}")]
    Form(String),
    #[error("it has no public key of RSA (at least 2,048 bits), P-256 or Ed25519")]
    None,
}

struct SetKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Keys of one issuer.
#[derive(Default)]
pub struct KeySet(Vec<SetKey>);

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

/// A key of a set. What else it has does not matter.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    used_for: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

impl Jwk {
    /// Returns the key, if it is one that signatures are checked with.
    fn usable(&self) -> Option<(Algorithm, DecodingKey)> {
        if self.used_for.as_deref().is_some_and(|used_for| used_for != "sig") {
            return None;
        }
        let (algorithm, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let modulus = URL_SAFE_NO_PAD.decode(self.n.as_ref()?).ok()?;
                let bytes = modulus.iter().skip_while(|byte| **byte == 0).count();
                if bytes < RSA_BYTES_LEAST {
                    return None;
                }
                (Algorithm::RS256, DecodingKey::from_rsa_components(self.n.as_ref()?, self.e.as_ref()?).ok()?)
            }
            ("EC", Some("P-256")) => {
                (Algorithm::ES256, DecodingKey::from_ec_components(self.x.as_ref()?, self.y.as_ref()?).ok()?)
            }
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, DecodingKey::from_ed_components(self.x.as_ref()?).ok()?),
            _ => return None,
        };
        let named = self.alg.as_deref();
        named.is_none_or(|named| named == super::config::name_of(algorithm)).then_some((algorithm, key))
    }
}

impl KeySet {
    /// Makes the set of one secret. Errors: it is too short.
    pub fn secret(secret: &[u8]) -> Result<Self, BadKeys> {
        if secret.len() < SECRET_BYTES_LEAST {
            return Err(BadKeys::ShortSecret);
        }
        Ok(Self(vec![SetKey { id: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) }]))
    }

    /// Makes the set of one public key in PEM. Errors: it is none that is taken.
    pub fn pem(text: &[u8]) -> Result<Self, BadKeys> {
        let rsa = DecodingKey::from_rsa_pem(text)
            .ok()
            .filter(|key| key.try_get_as_bytes().is_ok_and(|der| der.len() > RSA_BYTES_LEAST));
        let found = rsa
            .map(|key| (Algorithm::RS256, key))
            .or_else(|| DecodingKey::from_ec_pem(text).ok().map(|key| (Algorithm::ES256, key)))
            .or_else(|| DecodingKey::from_ed_pem(text).ok().map(|key| (Algorithm::EdDSA, key)));
        let (algorithm, key) = found.ok_or(BadKeys::None)?;
        Ok(Self(vec![SetKey { id: None, algorithm, key }]))
    }

    /// Reads a JSON Web Key Set. Keys of other kinds, or for other uses, are passed over; so are secrets, which everybody would know.
    /// Errors: no key is left, or it is no such set.
    pub fn jwks(text: &[u8]) -> Result<Self, BadKeys> {
        if text.len() > KEY_SET_BYTES_MAX {
            return Err(BadKeys::TooMany);
        }
        let set: Jwks = serde_json::from_slice(text).map_err(|error| BadKeys::Form(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(BadKeys::TooMany);
        }
        let usable = |key: &Jwk| key.usable().map(|(algorithm, usable)| SetKey { id: key.kid.clone(), algorithm, key: usable });
        let keys: Vec<_> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() { Err(BadKeys::None) } else { Ok(Self(keys)) }
    }

    /// Returns the key with this id for an algorithm, or the only one for it where none is named or keys have no ids.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let fits = |key: &&SetKey| key.algorithm == algorithm;
        let mut found: Vec<_> = match id {
            Some(id) => self.0.iter().filter(fits).filter(|key| key.id.as_deref().is_none_or(|own| own == id)).collect(),
            None => self.0.iter().filter(fits).collect(),
        };
        if found.len() > 1 {
            found.retain(|key| key.id.is_some() && key.id.as_deref() == id);
        }
        if let [key] = found[..] { Some(&key.key) } else { None }
    }
}
