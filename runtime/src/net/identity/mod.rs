//! The identity of a node: the cluster's own small authority, node certificates, join tokens, and who is let in.
//!
//! Owns `<data-dir>/cluster/`. Asks nobody. Never opens a socket. After a restart it reads its files again; a file is
//! replaced whole or not at all, so a crash leaves the old certificate or the new one, and never half of either.

mod allowed;
mod authority;
mod certificate;
mod error;
mod files;
mod key;
mod node;
mod tls;
mod token;
mod token_book;

pub use allowed::{Allowed, NotAllowed, REMOVED_TOLD_MAX};
pub use authority::{Authority, Fingerprint};
pub use certificate::{NodeCertificate, renew_at};
pub use error::IdentityError;
pub use key::KeyPin;
pub use node::{Identity, NODE_LIFE, NodeKey};
pub use token::{BadToken, JoinToken};
pub use token_book::{IssuedToken, RedeemRefused, TOKENS_OPEN_MAX, TokenBook};

pub(crate) use certificate::node_name;
pub(crate) use tls::{JoinPin, client_config, join_client_config, join_server_config, member_server_config};
