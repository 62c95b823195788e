//! What goes between a process of this node and its desk of guests: frames of MessagePack, each after its length.

use hiveward_kernel::id::VmId;
use serde::{Deserialize, Serialize};

/// Bytes of a frame at most; a longer one ends the connection.
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
    /// Nobody answers now. The agent may have heard it.
    Silent(String),
    /// The VM does not run and will not by itself, or is no more.
    Gone(String),
}
