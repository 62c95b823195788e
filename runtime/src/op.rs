//! The envelope of every command: who asks, under which operation id and trace, and by when.

use std::{sync::Arc, time::Duration};

use crate::clock::Deadline;

crate::id! {
    /// The id of one node, which is bound to its data directory.
    NodeId => "node",
    /// The id of one request's way through the house; every log line of it carries this.
    TraceId => "trace",
}

/// A client's own name for one mutation; the same id and input give the same answer. At most 128 bytes.
pub type OperationId = Arc<str>;

/// One request, as it is passed from door to door.
#[derive(Clone, Debug)]
pub struct Op {
    pub operation: Option<OperationId>,
    /// The name of the asker's token, never the token.
    pub principal: Arc<str>,
    pub trace: TraceId,
    pub deadline: Deadline,
}

impl Op {
    /// Makes a request of the node's own making, which ends after `timeout`.
    pub fn internal(timeout: Duration) -> Self {
        Self { operation: None, principal: "node".into(), trace: TraceId::new(), deadline: Deadline::after(timeout) }
    }
}
