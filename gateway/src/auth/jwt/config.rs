//! The issuers whose JSON Web Tokens are accepted, as the configuration has them.

use std::{collections::BTreeMap, path::PathBuf};

use hiveward_access::role::Role;
use hiveward_contract::yaml::Expanded;
use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The least bytes of a secret for HS256: as many as its hash has.
pub const SECRET_BYTES_LEAST: usize = 32;
/// The most that clocks may differ.
pub const LEEWAY_MS_MAX: u64 = 60_000;
/// The default of the longest life of a token.
pub const LIFETIME_MS_DEFAULT: u64 = 24 * 3600 * 1000;

/// One who issues tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// What the issuer is called here: events name who has its token `user:NAME/SUBJECT`. Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The claim `iss` of its tokens.
    pub issuer: String,
    /// Values of the claim `aud` of which a token has one.
    pub audience: Vec<String>,
    /// A secret that both know, as `${VAR}`, for HS256; at least 32 bytes. Never written out again.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub secret: Option<Expanded>,
    /// A file that holds the secret.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// A file with the public key, in PEM.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// A file with public keys, as a JSON Web Key Set.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// Where its public keys are, as a JSON Web Key Set: `https`, or `http` on this machine. They are read anew as they change.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// The algorithms of its tokens: `HS256` with a secret, and `RS256`, `ES256` and `EdDSA` with public keys, if nothing is said.
    #[serde(default)]
    pub algorithms: Vec<String>,
    /// How much its clock may differ from this machine's.
    #[serde(default)]
    pub leeway_ms: u64,
    /// The longest life of a token, from when it was issued; a day if nothing is said.
    #[serde(default = "lifetime")]
    pub max_lifetime_ms: u64,
    /// The claim that names the user.
    #[serde(default = "subject")]
    pub name_claim: String,
    /// The claim that has roles, one or a list; `a.b` is `b` within `a`.
    #[serde(default = "role")]
    pub roles_claim: String,
    /// The claim that has groups, one or a list; members of projects may be groups.
    #[serde(default = "groups")]
    pub groups_claim: String,
    /// What role in the whole cluster a value of the claim for roles stands for. Values that are not here stand for none.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
}

fn lifetime() -> u64 {
    LIFETIME_MS_DEFAULT
}

fn subject() -> String {
    "sub".into()
}

fn role() -> String {
    "role".into()
}

fn groups() -> String {
    "groups".into()
}

/// What an issuer's tokens are checked against, but for its keys.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub name: String,
    pub issuer: String,
    pub audience: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub leeway_ms: u64,
    pub max_lifetime_ms: u64,
    pub name_claim: String,
    pub roles_claim: String,
    pub groups_claim: String,
    pub roles: BTreeMap<String, Role>,
}

impl IssuerConfig {
    /// Tells whether its tokens are signed with a secret that this node knows as well.
    pub fn has_secret(&self) -> bool {
        self.secret.is_some() || self.secret_file.is_some()
    }

    /// Returns what its tokens are checked against. Errors: what is wrong, with the field.
    pub fn checked(&self) -> Result<Issuer, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(plain) {
            return Err("`name` has 1 to 32 letters, digits, `.`, `_` and `-`".into());
        }
        if self.issuer.is_empty() || self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return Err("`issuer` and `audience` say whose tokens are meant, and for whom they are".into());
        }
        let sources = [
            self.secret.is_some(),
            self.secret_file.is_some(),
            self.public_key_file.is_some(),
            self.jwks_file.is_some(),
            self.jwks_url.is_some(),
        ];
        if sources.into_iter().filter(|given| *given).count() != 1 {
            return Err("give exactly one of `secret`, `secret_file`, `public_key_file`, `jwks_file` and `jwks_url`".into());
        }
        if self.leeway_ms > LEEWAY_MS_MAX {
            return Err(format!("`leeway_ms` is at most {LEEWAY_MS_MAX}"));
        }
        let roles = self.roles.iter().map(|(value, role)| {
            let role = role.parse().map_err(|error| format!("`roles.{value}`: {error}"))?;
            Ok((value.clone(), role))
        });
        Ok(Issuer {
            name: self.name.clone(),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms: self.algorithms()?,
            leeway_ms: self.leeway_ms,
            max_lifetime_ms: self.max_lifetime_ms,
            name_claim: self.name_claim.clone(),
            roles_claim: self.roles_claim.clone(),
            groups_claim: self.groups_claim.clone(),
            roles: roles.collect::<Result<_, String>>()?,
        })
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, String> {
        let secret = self.has_secret();
        let usual: &[Algorithm] =
            if secret { &[Algorithm::HS256] } else { &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] };
        if self.algorithms.is_empty() {
            return Ok(usual.to_vec());
        }
        let known = |name: &String| {
            let found = usual.iter().copied().find(|algorithm| name_of(*algorithm) == name);
            let with = if secret { "a secret it is HS256" } else { "public keys they are RS256, ES256 and EdDSA" };
            found.ok_or_else(|| format!("`algorithms`: {name:?} cannot be; with {with}"))
        };
        self.algorithms.iter().map(known).collect()
    }
}

/// Returns an algorithm's name, as a token's header has it.
pub fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        Algorithm::EdDSA => "EdDSA",
        _ => "none that is taken",
    }
}
