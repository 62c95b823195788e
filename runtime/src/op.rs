//! The envelope of every command: who asks, under which operation id and trace, and by when.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

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
    /// Whether a policy was asked about it and allows it. Only the clients' door says so, and changes nothing without.
    pub admitted: bool,
}

/// The one who asks for something, and the way of that request through the house. It travels beside every question, and stands
/// behind each event that the question led to. Fields are only ever added, with a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The name of the asker's token, never the token.
    pub principal: Arc<str>,
    pub trace: TraceId,
}

/// The terms of a question: until when its answer is waited for, and who asks. A [`Deadline`] alone makes one in which the
/// house itself asks.
#[derive(Clone, Debug)]
pub struct Terms {
    pub deadline: Deadline,
    /// None if the house asks of itself.
    pub asker: Option<Arc<Asker>>,
}

impl From<Deadline> for Terms {
    fn from(deadline: Deadline) -> Self {
        Self { deadline, asker: None }
    }
}

impl From<&Op> for Terms {
    fn from(op: &Op) -> Self {
        let asker = Asker { principal: op.principal.clone(), trace: op.trace };
        Self { deadline: op.deadline, asker: Some(Arc::new(asker)) }
    }
}

impl Op {
    /// Makes a request of the node's own making, which ends after `timeout`.
    pub fn internal(timeout: Duration) -> Self {
        let trace = TraceId::new();
        Self { operation: None, principal: "node".into(), trace, deadline: Deadline::after(timeout), admitted: false }
    }
}
