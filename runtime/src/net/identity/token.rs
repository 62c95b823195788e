//! Join tokens as text: `hw1.<cluster>.<fingerprint of the authority>.<secret>.<checksum>`.

use std::{fmt, str::FromStr};

use super::{Fingerprint, IdentityError, tls::provider};
use crate::{id::parse_digits, net::ClusterId};

const PREFIX: &str = "hw1";

/// A token that tells a new node what it needs to trust the cluster, and to be trusted once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub cluster: ClusterId,
    pub authority: Fingerprint,
    secret: u128,
}

/// The reason why a text is no join token. It never shows the text, which holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("this is no join token: one begins with {PREFIX}. and has five parts; copy the whole line")]
    Shape,
    #[error("the join token's {part} is damaged: copy it again, it may be cut or mistyped")]
    Part { part: &'static str },
    #[error("the join token is mistyped: its checksum does not fit; copy it again")]
    Checksum,
    #[error("the join token is of a newer version than this program: upgrade hiveward on this host")]
    Newer,
}

impl JoinToken {
    /// Makes a token with a fresh secret for this cluster. Errors: `Crypto` if the machine gives no randomness.
    pub fn create(cluster: ClusterId, authority: Fingerprint) -> Result<Self, IdentityError> {
        let mut secret = [0; 16];
        provider().secure_random.fill(&mut secret).map_err(|_| IdentityError::crypto("no randomness"))?;
        Ok(Self { cluster, authority, secret: u128::from_be_bytes(secret) })
    }

    /// Returns the secret that proves the token to the cluster. It is for the join request only.
    pub(crate) fn secret(&self) -> [u8; 16] {
        self.secret.to_be_bytes()
    }

    /// Returns the text to hand to the new host. It is a secret: shown once, never logged.
    pub fn reveal(&self) -> String {
        let body = self.body();
        format!("{body}.{:08x}", crc32fast::hash(body.as_bytes()))
    }

    fn body(&self) -> String {
        format!("{PREFIX}.{:032x}.{}.{:032x}", self.cluster.as_u128(), self.authority, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, secret hidden)", self.cluster)
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        let (body, checksum) = text.rsplit_once('.').ok_or(BadToken::Shape)?;
        let parts: Vec<&str> = body.split('.').take(5).collect();
        let newer = parts[0].strip_prefix("hw").is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 1));
        if newer {
            return Err(BadToken::Newer);
        }
        let [PREFIX, cluster, authority, secret] = parts[..] else { return Err(BadToken::Shape) };
        let part = |part| BadToken::Part { part };
        let cluster = parse_digits(cluster).map(ClusterId::from_u128).ok_or(part("cluster"))?;
        let authority = authority.parse().map_err(|()| part("fingerprint"))?;
        let secret = parse_digits(secret).ok_or(part("secret"))?;
        let token = Self { cluster, authority, secret };
        // Compared as text, so that there is one spelling of a token only.
        if token.body() != body || checksum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
            return Err(BadToken::Checksum);
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_token() -> impl Strategy<Value = JoinToken> {
        (any::<u128>(), any::<[u8; 32]>(), any::<u128>()).prop_map(|(cluster, authority, secret)| JoinToken {
            cluster: ClusterId::from_u128(cluster),
            authority: Fingerprint(authority),
            secret,
        })
    }

    proptest! {
        #[test]
        fn a_token_reads_back_and_one_wrong_character_anywhere_is_named(
            token in any_token(), at in any::<prop::sample::Index>(), with in "[0-9a-zA-Z.]",
        ) {
            let text = token.reveal();
            prop_assert_eq!(&text.parse::<JoinToken>().unwrap(), &token);
            let at = at.index(text.len());
            prop_assume!(text[at..=at] != with[..]);
            let mut mistyped = text.clone();
            mistyped.replace_range(at..=at, &with);
            prop_assert!(mistyped.parse::<JoinToken>().is_err());
            prop_assert!(text[..at].parse::<JoinToken>().is_err());
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,200}") {
            let _ = text.parse::<JoinToken>();
        }
    }
}
