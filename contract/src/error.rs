//! The one shape in which a refusal crosses a crate's border: a code, a sentence, and what may have happened.

use serde::{Deserialize, Serialize};

/// The kind of a refusal: whatever a caller would do differently. The names are public (`extensions.code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The request is wrong; mend the named field.
    Invalid,
    NotFound,
    /// The request contradicts what is already there.
    Conflict,
    /// The request is understood, and not allowed in the present state.
    Refused,
    /// A mailbox or queue is full; nothing happened; a retry later is safe.
    Busy,
    /// The request goes over a configured limit; the message names it.
    Limit,
    Unauthenticated,
    Forbidden,
    /// The request cannot be served now; nothing happened.
    Unavailable,
    /// It may or may not have happened: retry with the same operation id, or look.
    UnknownOutcome,
    Internal,
}

impl Code {
    /// Every code, in the order in which they are documented.
    pub const ALL: [Self; 11] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Refused,
        Self::Busy,
        Self::Limit,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Unavailable,
        Self::UnknownOutcome,
        Self::Internal,
    ];

    /// Returns the code with this public name; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// Returns the public name of the code.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::Refused => "REFUSED",
            Self::Busy => "BUSY",
            Self::Limit => "LIMIT",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::Unavailable => "UNAVAILABLE",
            Self::UnknownOutcome => "UNKNOWN_OUTCOME",
            Self::Internal => "INTERNAL",
        }
    }

    /// Tells whether the same request, unchanged, may succeed later (with the same operation id).
    pub const fn retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable | Self::UnknownOutcome)
    }
}

/// A refusal as it reaches a client. Nothing was changed unless the code is `UnknownOutcome` or `Internal`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refused {
    pub code: Code,
    /// One sentence: what happened and what to do. Never a secret.
    pub message: String,
    /// The input field at fault, as a path (`command.argv`), for `Invalid`.
    pub field: Option<String>,
}

impl Refused {
    /// Makes a refusal that names no input field.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None }
    }

    /// Makes a refusal of the input `field`, a path such as `command.argv`.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Code::Invalid, message: message.into(), field: Some(field.into()) }
    }

    /// Makes the refusal "there is no `what`".
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }
}
