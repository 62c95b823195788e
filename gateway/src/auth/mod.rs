//! The check of who is asking: it turns a credential into a principal, or refuses.
//!
//! Owns the digests of the accepted tokens, never the tokens themselves. A token is compared as a BLAKE3 digest, in
//! constant time. The administrator's token is written once, at the first start, to `<data-dir>/admin.token`.

pub mod rights;
mod token;

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use hiveward_runtime::error::{Code, Refused};

pub use token::{TokenFileError, admin_token, new_token};

/// The one who asks, as records and logs show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub name: Arc<str>,
    pub administrator: bool,
}

/// The function that returns what other nodes of the cluster accept, as [`Auth::digests`] writes it there.
type Elsewhere = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The tokens that are accepted, by digest.
#[derive(Clone, Default)]
pub struct Auth {
    known: Arc<Vec<(blake3::Hash, Principal)>>,
    elsewhere: Option<Elsewhere>,
}

/// Reads a token as other nodes know it: its name, its rights, and the digest.
fn parse_digest(text: &str) -> Option<(blake3::Hash, Principal)> {
    let (rest, digest) = text.rsplit_once(' ')?;
    let (name, rights) = rest.rsplit_once(' ')?;
    let principal = Principal { name: name.into(), administrator: rights == "administrator" };
    Some((blake3::Hash::from_hex(digest).ok()?, principal))
}

impl Auth {
    /// Accepts these tokens, each as (name, digest, administrator).
    pub fn new(tokens: impl IntoIterator<Item = (String, blake3::Hash, bool)>) -> Self {
        let known = tokens
            .into_iter()
            .map(|(name, digest, administrator)| (digest, Principal { name: name.into(), administrator }))
            .collect();
        Self { known: Arc::new(known), elsewhere: None }
    }

    /// Accepts also what other nodes accept: a token of one is good on all.
    pub fn with_elsewhere(self, digests: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { elsewhere: Some(Arc::new(digests)), ..self }
    }

    /// Returns what other nodes need to know of these tokens; no token can be made from it.
    pub fn digests(&self) -> Vec<String> {
        let rights = |principal: &Principal| if principal.administrator { "administrator" } else { "client" };
        self.known.iter().map(|(digest, who)| format!("{} {} {}", who.name, rights(who), digest.to_hex())).collect()
    }

    /// Returns the digest by which a token is known.
    pub fn digest(token: &str) -> blake3::Hash {
        blake3::hash(token.as_bytes())
    }

    /// Returns the principal behind a token. Every known digest is compared, each in constant time.
    pub fn token(&self, token: &str) -> Result<Principal, Refused> {
        let digest = Self::digest(token);
        let mut found = None;
        for (known, principal) in self.known.iter() {
            if *known == digest {
                found = Some(principal.clone());
            }
        }
        if found.is_none()
            && let Some(elsewhere) = &self.elsewhere
        {
            for (known, principal) in elsewhere().iter().filter_map(|text| parse_digest(text)) {
                if known == digest {
                    found = Some(principal);
                }
            }
        }
        found.ok_or_else(|| {
            Refused::new(Code::Unauthenticated, "the token is not known here; see `admin.token` in the data directory")
        })
    }

    /// Returns the principal behind `Authorization: Bearer …`. Errors: `Unauthenticated`.
    pub fn headers(&self, headers: &HeaderMap) -> Result<Principal, Refused> {
        let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
        self.authorization(value.to_str().map_err(|_| missing())?)
    }

    /// Returns the principal behind the value of an `Authorization` field. Errors: `Unauthenticated`.
    pub fn authorization(&self, value: &str) -> Result<Principal, Refused> {
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
        let auth = Auth::new([("ops".to_owned(), Auth::digest("hw_good"), true)]);
        assert_eq!(&*auth.authorization("Bearer hw_good").unwrap().name, "ops");
        assert_eq!(&*auth.authorization("bearer  hw_good").unwrap().name, "ops");
        for bad in ["Bearer hw_goo", "Bearer hw_goodd", "Bearer ", "Basic hw_good", "hw_good", ""] {
            assert_eq!(auth.authorization(bad).unwrap_err().code, Code::Unauthenticated, "{bad}");
        }
        assert!(Auth::default().token("").is_err());
    }

    #[test]
    fn a_token_of_one_node_is_good_on_the_others() {
        let one = Auth::new([("ops team".to_owned(), Auth::digest("hw_one"), true)]);
        let digests = one.digests();
        assert!(!format!("{digests:?}").contains("hw_one"));
        let other = Auth::new([("ci".to_owned(), Auth::digest("hw_other"), false)]).with_elsewhere(move || digests.clone());
        let found = other.token("hw_one").unwrap();
        assert_eq!((&*found.name, found.administrator), ("ops team", true));
        assert!(!other.token("hw_other").unwrap().administrator);
        assert!(other.token("hw_none").is_err());
    }
}
