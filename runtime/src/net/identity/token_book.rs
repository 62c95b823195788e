//! The issuing side of join tokens: it keeps only hashes, each good once and until it expires. Pure: the caller makes it durable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::JoinToken;
use crate::{clock::WallMs, op::NodeId};

/// The largest number of tokens that are issued and not expired; one more is refused. Used ones stay until they expire, so that a
/// replay is told by name.
pub const TOKENS_OPEN_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    pub issued_at: WallMs,
    pub expires_at: WallMs,
    /// The node that came in with it.
    pub used_by: Option<NodeId>,
}

/// The state of all issued tokens. Serialise it whole, or keep its changes as events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBook {
    by_hash: BTreeMap<[u8; 32], IssuedToken>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedeemRefused {
    #[error("this cluster did not issue the join token: create one with `hiveward token create` on a node of it")]
    Unknown,
    #[error("the join token expired at {expired_at}: create a new one")]
    Expired { expired_at: WallMs },
    #[error("the join token was used already, by {node}: a token is good once; create a new one")]
    Replayed { node: NodeId },
    #[error("{max} join tokens are open: wait until some expire")]
    Full { max: usize },
}

impl TokenBook {
    /// Enters the hash of a token that is good until `expires_at`, and forgets expired ones. Errors: `Full` if too many are open.
    pub fn issue(&mut self, token: &JoinToken, now: WallMs, expires_at: WallMs) -> Result<(), RedeemRefused> {
        self.forget_expired(now);
        if self.by_hash.len() >= TOKENS_OPEN_MAX {
            return Err(RedeemRefused::Full { max: TOKENS_OPEN_MAX });
        }
        self.by_hash.insert(hash(&token.secret()), IssuedToken { issued_at: now, expires_at, used_by: None });
        Ok(())
    }

    /// Uses the token up. The same node may repeat it while it lasts: its first answer may have been lost.
    pub fn redeem(&mut self, secret: &[u8; 16], node: NodeId, now: WallMs) -> Result<(), RedeemRefused> {
        // By hash, so that the time a look-up takes tells nothing about a secret.
        let issued = self.by_hash.get_mut(&hash(secret)).ok_or(RedeemRefused::Unknown)?;
        if issued.expires_at <= now {
            return Err(RedeemRefused::Expired { expired_at: issued.expires_at });
        }
        match issued.used_by {
            Some(by) if by != node => Err(RedeemRefused::Replayed { node: by }),
            _ => {
                issued.used_by = Some(node);
                Ok(())
            }
        }
    }

    /// Tells whether `node` has used this token already.
    pub fn was_redeemed_by(&self, secret: &[u8; 16], node: NodeId) -> bool {
        self.by_hash.get(&hash(secret)).is_some_and(|issued| issued.used_by == Some(node))
    }

    /// Lists all tokens that are kept, used ones too.
    pub fn open(&self) -> impl Iterator<Item = &IssuedToken> {
        self.by_hash.values()
    }

    fn forget_expired(&mut self, now: WallMs) {
        self.by_hash.retain(|_, issued| issued.expires_at > now);
    }
}

fn hash(secret: &[u8; 16]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key("hiveward 2026 join token secret").update(secret).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ClusterId, identity::Fingerprint};

    #[test]
    fn a_token_is_good_once_and_for_one_node_until_it_expires() {
        let token = JoinToken::create(ClusterId::new(), Fingerprint([7; 32])).unwrap();
        let (first, second) = (NodeId::new(), NodeId::new());
        let mut book = TokenBook::default();
        assert_eq!(book.redeem(&token.secret(), first, WallMs(1)), Err(RedeemRefused::Unknown));
        book.issue(&token, WallMs(1), WallMs(100)).unwrap();
        book.redeem(&token.secret(), first, WallMs(2)).unwrap();
        book.redeem(&token.secret(), first, WallMs(3)).unwrap();
        assert_eq!(book.redeem(&token.secret(), second, WallMs(3)), Err(RedeemRefused::Replayed { node: first }));
        assert_eq!(book.redeem(&token.secret(), first, WallMs(100)), Err(RedeemRefused::Expired { expired_at: WallMs(100) }));
        assert!(!format!("{book:?}{token:?}").contains(&format!("{:?}", token.secret())));
    }
}
