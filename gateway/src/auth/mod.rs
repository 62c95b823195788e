//! The check of who is asking: it turns a credential into a principal, or refuses.
//!
//! Owns the digests of the accepted tokens, never the tokens themselves. A token is compared as a BLAKE3 digest, in
//! constant time. The administrator's token is written once, at the first start, to `<data-dir>/admin.token`.

pub mod credentials;
pub mod jwt;
mod token;
pub mod verbs;

use std::sync::Arc;

use axum::http::{HeaderMap, header};
pub use hiveward_access::principal::Principal;
use hiveward_access::role::{Grant, Role};
use hiveward_actors::client::API_KEY_BEGINS;
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};

pub use token::{TokenFileError, admin_token, new_token};

/// The function that returns what other nodes of the cluster accept, as [`Auth::digests`] writes it there.
type Elsewhere = Arc<dyn Fn() -> Vec<String> + Send + Sync>;
/// The function that returns the program that asks with an API key.
type Keys = Arc<dyn Fn(&str) -> Option<Principal> + Send + Sync>;

/// The credentials that are accepted: tokens by digest, and API keys.
#[derive(Clone, Default)]
pub struct Auth {
    known: Arc<Vec<(blake3::Hash, Role, Arc<Principal>)>>,
    elsewhere: Option<Elsewhere>,
    keys: Option<Keys>,
    issuers: jwt::Issuers,
}

/// The mark before the digest of a token that is neither an administrator's nor an agent manager's: versions that know no other
/// roles would take it for a client's, and do not read it so.
const OTHER_ROLE: char = '!';

/// Writes a token as other nodes know it: its name, its role, and the digest.
fn digest_line(name: &str, role: Role, digest: &blake3::Hash) -> String {
    match role {
        Role::Admin => format!("{name} administrator {}", digest.to_hex()),
        // What a client's token was before there were roles.
        Role::AgentManager => format!("{name} client {}", digest.to_hex()),
        role => format!("{name} {role} {OTHER_ROLE}{}", digest.to_hex()),
    }
}

/// Reads a token as other nodes know it.
fn parse_digest(text: &str) -> Option<(blake3::Hash, Principal)> {
    let (rest, digest) = text.rsplit_once(' ')?;
    let (name, role) = rest.rsplit_once(' ')?;
    let (role, digest) = match (role, digest.strip_prefix(OTHER_ROLE)) {
        ("administrator", None) => (Role::Admin, digest),
        (_, None) => (Role::AgentManager, digest),
        (role, Some(digest)) => (role.parse().ok()?, digest),
    };
    Some((blake3::Hash::from_hex(digest).ok()?, holder(name, role)))
}

/// Returns the one who holds a token with this name: it has its role in the whole cluster.
fn holder(name: &str, role: Role) -> Principal {
    Principal::service(name, [Grant::everywhere(role)])
}

impl Auth {
    /// Accepts these tokens, each as (name, digest, role in the whole cluster).
    pub fn new(tokens: impl IntoIterator<Item = (String, blake3::Hash, Role)>) -> Self {
        let known = tokens.into_iter().map(|(name, digest, role)| (digest, role, Arc::new(holder(&name, role)))).collect();
        Self { known: Arc::new(known), ..Self::default() }
    }

    /// Accepts also what other nodes accept: a token of one is good on all.
    pub fn with_elsewhere(self, digests: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { elsewhere: Some(Arc::new(digests)), ..self }
    }

    /// Accepts also API keys, for as long as this knows them.
    pub fn with_keys(self, keys: impl Fn(&str) -> Option<Principal> + Send + Sync + 'static) -> Self {
        Self { keys: Some(Arc::new(keys)), ..self }
    }

    /// Accepts also tokens of these issuers.
    pub fn with_issuers(self, issuers: jwt::Issuers) -> Self {
        Self { issuers, ..self }
    }

    /// Returns what other nodes need to know of these tokens; no token can be made from it.
    pub fn digests(&self) -> Vec<String> {
        self.known.iter().map(|(digest, role, who)| digest_line(&who.name, *role, digest)).collect()
    }

    /// Returns the digest by which a token is known.
    pub fn digest(token: &str) -> blake3::Hash {
        blake3::hash(token.as_bytes())
    }

    /// Returns the principal behind a token or an API key. Every known digest is compared, each in constant time; an API key is
    /// looked up by its digest.
    pub fn token(&self, token: &str) -> Result<Arc<Principal>, Refused> {
        let digest = Self::digest(token);
        let mut found = None;
        for (known, _, principal) in self.known.iter() {
            if *known == digest {
                found = Some(principal.clone());
            }
        }
        if found.is_none()
            && let Some(keys) = self.keys.as_ref().filter(|_| token.starts_with(API_KEY_BEGINS))
        {
            found = keys(token).map(Arc::new);
        }
        // Signed tokens have dots; none of the others do.
        if found.is_none() && token.contains('.') && !self.issuers.is_empty() {
            return self.issuers.principal(token, WallMs::now()).map(Arc::new);
        }
        if found.is_none()
            && let Some(elsewhere) = &self.elsewhere
        {
            for (known, principal) in elsewhere().iter().filter_map(|text| parse_digest(text)) {
                if known == digest {
                    found = Some(Arc::new(principal));
                }
            }
        }
        found.ok_or_else(|| {
            Refused::new(Code::Unauthenticated, "the token is not known here; see `admin.token` in the data directory")
        })
    }

    /// Returns the principal behind `Authorization: Bearer …`. Errors: `Unauthenticated`.
    pub fn headers(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Refused> {
        let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
        self.authorization(value.to_str().map_err(|_| missing())?)
    }

    /// Returns the principal behind the value of an `Authorization` field. Errors: `Unauthenticated`.
    pub fn authorization(&self, value: &str) -> Result<Arc<Principal>, Refused> {
        let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        self.token(token.trim())
    }
}

/// Returns the refusal of a request without a usable credential.
pub fn missing() -> Refused {
    Refused::new(
        Code::Unauthenticated,
        "send `Authorization: Bearer TOKEN`; the administrator's token is in `admin.token` in the data directory",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_bearer_token_is_a_principal() {
        let auth = Auth::new([("ops".to_owned(), Auth::digest("hw_good"), Role::Admin)]);
        assert_eq!(&*auth.authorization("Bearer hw_good").unwrap().name, "ops");
        assert_eq!(&*auth.authorization("bearer  hw_good").unwrap().name, "ops");
        for bad in ["Bearer hw_goo", "Bearer hw_goodd", "Bearer ", "Basic hw_good", "hw_good", ""] {
            assert_eq!(auth.authorization(bad).unwrap_err().code, Code::Unauthenticated, "{bad}");
        }
        assert!(Auth::default().token("").is_err());
    }

    #[test]
    fn a_token_of_one_node_is_good_on_the_others_with_its_role() {
        for role in Role::ALL {
            let one = Auth::new([("ops team".to_owned(), Auth::digest("hw_one"), role)]);
            let digests = one.digests();
            assert!(!format!("{digests:?}").contains("hw_one"));
            let other = Auth::new([("ci".to_owned(), Auth::digest("hw_other"), Role::AgentManager)]);
            let other = other.with_elsewhere(move || digests.clone());
            let found = other.token("hw_one").unwrap();
            assert_eq!((&*found.name, &*found.grants), ("ops team", &[Grant::everywhere(role)][..]));
            assert!(other.token("hw_none").is_err());
        }
    }

    /// Reads a token as version 0.1.0 does: all that is not an administrator's is a client's.
    fn read_before(text: &str) -> Option<(blake3::Hash, bool)> {
        let (rest, digest) = text.rsplit_once(' ')?;
        let (_, rights) = rest.rsplit_once(' ')?;
        Some((blake3::Hash::from_hex(digest).ok()?, rights == "administrator"))
    }

    #[test]
    fn an_older_node_gives_nobody_more_than_his_role() {
        let digest = Auth::digest("hw_one");
        assert_eq!(read_before(&digest_line("a", Role::Admin, &digest)), Some((digest, true)));
        assert_eq!(read_before(&digest_line("a", Role::AgentManager, &digest)), Some((digest, false)));
        for role in [Role::Viewer, Role::TaskCreator, Role::Operator] {
            assert_eq!(read_before(&digest_line("a", role, &digest)), None, "{role}");
        }
    }

    #[test]
    fn an_api_key_is_asked_for_and_nothing_else_is() {
        let auth = Auth::default().with_keys(|text| (text == "hwk_1").then(|| Principal::service("key:ci", [])));
        assert_eq!(&*auth.token("hwk_1").unwrap().name, "key:ci");
        assert!(auth.token("hwk_2").is_err());
        let all = Auth::default().with_keys(|_| Some(Principal::service("key:any", [])));
        assert!(all.token("hw_1").is_err());
    }
}
