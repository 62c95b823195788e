//! The reasons why a link is not up, in words an operator can act on.

use serde::{Deserialize, Serialize};

use crate::op::NodeId;

/// The reason that one end tells the other before it closes. It is part of the wire: add, never rename.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LinkRefused {
    #[error("{node} was removed from this cluster: join again with a new token and an empty data directory")]
    Voided { node: NodeId },
    #[error(
        "{node} is not in the book of the node it asks: one that has just joined is let in in a moment; any other joins with a \
         token"
    )]
    Unknown { node: NodeId },
    #[error("{node} is known by another key: a host that lost its own joins again with a new token and an empty data directory")]
    OtherKey { node: NodeId },
    #[error("the certificate is not that of the node it speaks for")]
    OtherNode,
    #[error("it belongs to another cluster")]
    OtherCluster,
    #[error("no common wire version: it speaks {oldest} to {newest}; upgrade hosts one version at a time")]
    Version { oldest: u16, newest: u16 },
    #[error("a newer start of this node is known, generation {newest}: this process is to end")]
    StaleGeneration { newest: u64 },
    #[error("another live process uses this node id: a data directory may be used by one process only")]
    NodeIdTaken,
    #[error("the node with the lower id dials: its address book, or its clock, is wrong")]
    WrongDirection,
    #[error("{max} peers are known already")]
    Full { max: usize },
    #[error("this node does not serve that lane")]
    NoSuchLane,
    #[error("the other end spoke out of turn: {what}")]
    Protocol { what: String },
    #[error("it is stopping")]
    Stopping,
}

/// The reason why a link went down, or did not come up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    #[error("this node stopped it")]
    Stopped,
    #[error("the peer is no longer wanted")]
    Forgotten,
    #[error("a newer connection of the same node took its place")]
    Replaced,
    #[error("we refused it: {0}")]
    WeRefused(LinkRefused),
    #[error("the peer refused: {0}")]
    PeerRefused(LinkRefused),
    #[error("the peer's certificate is of another authority: it belongs to another cluster")]
    WrongAuthority,
    #[error("the peer's certificate has expired: check both hosts' clocks, else let it join again")]
    PeerExpired,
    #[error("the peer does not know our certificate's authority: this node belongs to another cluster")]
    OursUnknown,
    #[error("the peer says our certificate has expired: check both hosts' clocks, else join again")]
    OursExpired,
    #[error("no hello within {within_ms} ms")]
    HandshakeTimeout { within_ms: u64 },
    #[error("nothing was heard for {silent_ms} ms")]
    Silent { silent_ms: u64 },
    #[error("the peer took nothing for {stalled_ms} ms")]
    Stalled { stalled_ms: u64 },
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection failed ({why})")]
    Failed { why: String },
    #[error("{address} cannot be reached ({why})")]
    Unreachable { address: String, why: String },
}

/// The reason why a frame was not queued, and will not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the link's queue is full; a retry later is safe")]
    Busy,
    #[error("the link is down")]
    Down,
    #[error("{bytes} bytes do not fit in a frame of {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("the payload cannot be encoded")]
    Unencodable,
}

impl Down {
    /// Reads what TLS and the socket say; everything that an operator would mend differently has its own variant.
    pub(super) fn of(error: &std::io::Error) -> Self {
        use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
        match tls {
            Some(Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => Self::PeerExpired,
            Some(Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => Self::WrongAuthority,
            Some(Tls::AlertReceived(Alert::CertificateExpired)) => Self::OursExpired,
            Some(Tls::AlertReceived(Alert::UnknownCA | Alert::DecryptError | Alert::BadCertificate)) => Self::OursUnknown,
            Some(tls) => Self::Failed { why: tls.to_string() },
            None if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Failed { why: error.to_string() },
        }
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
