//! The error of an identity: what can be wrong with it, and what to do about it.

use std::path::PathBuf;

use crate::{clock::WallMs, net::ClusterId, op::NodeId};

/// An error of an identity; each variant is something that an operator would do differently.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot {what} {path}: mend the file or its directory, then start again")]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is no valid PEM file of this cluster ({why}): restore it from a backup, or join again with a new token")]
    Damaged { path: PathBuf, why: String },
    #[error("the certificate is of another authority than cluster {cluster}: join this cluster with one of its own tokens")]
    WrongAuthority { cluster: ClusterId },
    #[error("the certificate of {node} expired at {expired_at}: check the clock of both hosts, else join again with a new token")]
    Expired { node: NodeId, expired_at: WallMs },
    #[error("this node is {wanted}, and the certificate belongs to {found}: a data directory belongs to one node only")]
    OtherNode { wanted: NodeId, found: NodeId },
    #[error("the certificate names no node and cluster ({why}): it was not made by hiveward")]
    NotANode { why: &'static str },
    #[error("the request to be signed is invalid ({why})")]
    BadRequest { why: String },
    #[error("this node does not hold the cluster's authority: ask a node that does")]
    NotAuthority,
    #[error("cryptography failed ({why})")]
    Crypto { why: String },
}

impl IdentityError {
    pub(super) fn crypto(why: impl std::fmt::Display) -> Self {
        Self::Crypto { why: why.to_string() }
    }
}
