//! The bad end of a command: what happened, what to do next, and the exit status.

use hiveward_contract::error::Code;
use serde::Deserialize;

use super::hint::{self, Refusal};

/// The exit statuses. They are public: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Denied = 4,
    Conflict = 5,
    Unreachable = 6,
    TimedOut = 7,
    TaskFailed = 8,
    Partly = 9,
    Interrupted = 130,
}

impl Exit {
    /// Returns the status that follows from the code of a refusal; one that this version does not know is a failure.
    pub const fn of(code: Option<Code>) -> Self {
        match code {
            Some(Code::Invalid) => Self::Usage,
            Some(Code::NotFound) => Self::NotFound,
            Some(Code::Unauthenticated | Code::Forbidden) => Self::Denied,
            Some(Code::Conflict | Code::Refused | Code::Limit) => Self::Conflict,
            Some(Code::Busy | Code::Unavailable | Code::UnknownOutcome) => Self::Unreachable,
            Some(Code::Internal) | None => Self::Failed,
        }
    }
}

/// The failure of a command: one sentence that says what happened, one that says what to do next.
#[derive(Debug)]
pub struct Failed {
    pub exit: Exit,
    pub what: String,
    pub next: String,
}

pub type Outcome<T = ()> = Result<T, Failed>;

impl Failed {
    /// Returns a failure with this exit status.
    pub fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: next.into() }
    }

    /// Returns the failure of a command that was not used as it must be.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, next)
    }

    /// Returns the failure of something of this machine: a file, a pipe, the terminal.
    pub fn local(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what, "check the path, the permissions and the free space, then run the command again")
    }

    /// Prints both sentences to standard error.
    pub fn print(&self) {
        eprintln!("error: {}\nnext: {}", self.what, self.next);
    }
}

/// An entry of an answer's `errors`.
#[derive(Debug, Deserialize)]
pub struct ApiError {
    pub message: String,
    #[serde(default)]
    pub extensions: ApiErrorExtensions,
}

#[derive(Debug, Default, Deserialize)]
pub struct ApiErrorExtensions {
    #[serde(default)]
    pub code: String,
    pub field: Option<String>,
}

impl ApiError {
    /// Returns what a user is told of it; `operation` is the one of the document that was refused, or empty.
    pub fn failed(self, operation: &str) -> Failed {
        let Self { message, extensions: ApiErrorExtensions { code, field } } = self;
        let code = Code::named(&code);
        let next = hint::next(Refusal { code, message: &message, field: field.as_deref(), operation });
        let what = match &field {
            Some(field) => format!("{field}: {message}"),
            None => message,
        };
        Failed::new(Exit::of(code), what, next)
    }
}
