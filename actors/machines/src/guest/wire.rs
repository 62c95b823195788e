//! What goes between a process of this node and its desk of guests: frames of MessagePack, each after its length.

use hiveward_kernel::id::VmId;
use serde::{Deserialize, Serialize};

/// A longer frame ends the connection.
pub(super) const FRAME_BYTES_MAX: usize = 4 << 20;

/// One command for the agent in a guest, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub vm: VmId,
    pub command: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// What it returned, as JSON.
    Answer(String),
    /// The agent itself says no, and would again.
    Refused(String),
    /// Nobody answers now. It may have been heard.
    Silent(String),
    /// The VM does not run and will not by itself, or is no more.
    Gone(String),
}
