//! Says what a client is told of a view that cannot be read.

use hiveward_runtime::{
    error::{Code, Refused},
    ledger::view::ViewError,
};

/// Logs why a view cannot be read, and returns the refusal that a client gets: `UNAVAILABLE`.
pub fn unreadable(error: ViewError) -> Refused {
    tracing::error!(%error, "a view cannot be read");
    Refused::new(Code::Unavailable, "the views cannot be read now; see the node's log")
}
