//! What travels with every command: who asks, under which operation id and trace, and by when.

use std::{sync::Arc, time::Duration};

use crate::clock::Deadline;

crate::id! {
    /// One node; bound to its data directory.
    NodeId => "node",
    /// One request's way through the house; every log line of it carries this.
    TraceId => "trace",
}

/// A client's own name for one mutation; the same id and input give the same answer. At most 128 bytes.
pub type OperationId = Arc<str>;

/// One request, as it is passed from door to door.
#[derive(Clone, Debug)]
pub struct Op {
    pub operation: Option<OperationId>,
    /// Who asks: a token's name. Never the token.
    pub principal: Arc<str>,
    pub trace: TraceId,
    pub deadline: Deadline,
}

impl Op {
    /// A request of the node's own making.
    pub fn internal(timeout: Duration) -> Self {
        Self { operation: None, principal: "node".into(), trace: TraceId::new(), deadline: Deadline::after(timeout) }
    }
}
