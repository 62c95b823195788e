//! The ways in which an ask or a tell may fail, and whether it may have happened all the same.

use super::envelope::{BODY_BYTES_MAX, Refusal};
use crate::{
    error::{Code, Refused},
    id::Key,
    op::NodeId,
};

/// The point up to which a message got before its way was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// There was no link: nothing happened.
    NotSent,
    /// The link was lost before an answer came: it may have happened.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("there is no {key} on {node}; nothing happened")]
    NoSuchActor { key: Key, node: NodeId },
    #[error("no node is known to hold {key}; nothing happened")]
    Unplaced { key: Key },
    /// The destination's mailbox is full, or it said so a moment ago.
    #[error("{key} is busy; nothing happened; a retry later is safe")]
    Busy { key: Key },
    /// The link's queue, or the number of waiting asks, is at its bound.
    #[error("the way to {node} is full; nothing happened; a retry later is safe")]
    WayFull { node: NodeId },
    #[error("the deadline passed before {key} was reached; nothing happened")]
    Expired { key: Key },
    #[error("no answer from {key} within {waited_ms} ms; it may have happened")]
    NoAnswer { key: Key, waited_ms: u64 },
    #[error("{key} is in its incarnation {current} now; nothing happened")]
    StaleIncarnation { key: Key, current: u64 },
    #[error("{node} cannot be reached ({})", match .how {
        Unreachable::NotSent => "there is no link; nothing happened",
        Unreachable::Lost => "the link was lost; it may have happened",
    })]
    Unreachable { node: NodeId, how: Unreachable },
    #[error("{key} died, or let go of the question, before it answered; it may have happened")]
    Dropped { key: Key },
    #[error("{key} does not understand the message; nothing happened: are both nodes of adjacent versions?")]
    BadBody { key: Key },
    #[error("the message is larger than {max} bytes, or cannot be encoded; nothing happened")]
    TooLarge { max: usize },
    #[error("the answer of {key} cannot be sent or read; it happened")]
    BadAnswer { key: Key },
    #[error("the directory cannot say where {key} is ({why}); nothing happened")]
    Directory { key: Key, why: String },
}

impl RouteError {
    /// Tells whether it may have happened: retry then only with the same operation id.
    pub const fn maybe_happened(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer { .. }
                | Self::Dropped { .. }
                | Self::BadAnswer { .. }
                | Self::Unreachable { how: Unreachable::Lost, .. }
        )
    }

    pub(super) fn refused(why: Refusal, key: &Key, node: NodeId) -> Self {
        let key = key.clone();
        match why {
            Refusal::NoSuchActor => Self::NoSuchActor { key, node },
            Refusal::Busy => Self::Busy { key },
            Refusal::Expired => Self::Expired { key },
            Refusal::StaleIncarnation { current } => Self::StaleIncarnation { key, current },
            Refusal::Dropped => Self::Dropped { key },
            Refusal::BadBody => Self::BadBody { key },
            Refusal::AnswerTooLarge => Self::BadAnswer { key },
        }
    }

    pub(super) const fn too_large() -> Self {
        Self::TooLarge { max: BODY_BYTES_MAX }
    }
}

impl From<RouteError> for Refused {
    fn from(error: RouteError) -> Self {
        let code = match &error {
            error if error.maybe_happened() => Code::UnknownOutcome,
            RouteError::Busy { .. } | RouteError::WayFull { .. } => Code::Busy,
            RouteError::TooLarge { .. } => Code::Limit,
            RouteError::BadBody { .. } => Code::Refused,
            _ => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}
