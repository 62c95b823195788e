//! How a command ends badly: what happened, what to do next, and the exit status.

use serde::Deserialize;

/// Exit statuses are public: scripts rely on them.
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

/// One sentence that says what happened, one that says what to do next.
#[derive(Debug)]
pub struct Failed {
    pub exit: Exit,
    pub what: String,
    pub next: String,
}

pub type Outcome<T = ()> = Result<T, Failed>;

impl Failed {
    pub fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: next.into() }
    }

    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, next)
    }

    /// Something of this machine: a file, a pipe, the terminal.
    pub fn local(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what, "check the path, the permissions and the free space, then run the command again")
    }

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

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        let what = match &error.extensions.field {
            Some(field) => format!("{field}: {}", error.message),
            None => error.message,
        };
        let (exit, next) = match error.extensions.code.as_str() {
            "INVALID" => (Exit::Usage, "mend what is named above; `--help` shows what a command takes"),
            "NOT_FOUND" => (Exit::NotFound, "look with the noun's `list` command; it may have been removed"),
            "UNAUTHENTICATED" => {
                (Exit::Denied, "give the token with --token or HIVEWARD_TOKEN; the node keeps it in <data-dir>/admin.token")
            }
            "FORBIDDEN" => (Exit::Denied, "use an administrator's token"),
            "CONFLICT" => (Exit::Conflict, "look at what is there with the noun's `show` command, then change the request"),
            "REFUSED" => (Exit::Conflict, "look at its state with the noun's `show` command; it must change first"),
            "LIMIT" => (Exit::Conflict, "ask for less at once, or raise the limit that is named"),
            "BUSY" | "UNAVAILABLE" => {
                (Exit::Unreachable, "nothing was changed; try again in a moment, and see `hiveward status`")
            }
            "UNKNOWN_OUTCOME" => {
                (Exit::Unreachable, "it may have happened: look before you try again, or try again with the same --operation-id")
            }
            _ => (Exit::Failed, "the node's log has the cause under the trace that is named"),
        };
        Self::new(exit, what, next)
    }
}
