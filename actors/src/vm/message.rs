//! What a VM is asked and told.

use hiveward_runtime::{call::Reply, error::Refused};

use super::{reconcile::Step, state::Ask};
use crate::{
    host::{
        driver::{Domain, DriverError},
        message::Done,
    },
    swarm::message::Committed,
};

/// The number of the operation, when it is in the ledger; its end comes after that.
pub type Answer = Reply<Result<Committed<u64>, Refused>>;

pub enum VmMsg {
    Ask {
        ask: Ask,
        reply: Answer,
    },

    // From its host.
    /// What its hypervisor has of it, in a look that began `at`.
    Observed {
        domain: Option<Domain>,
        at: u64,
    },
    /// Its host is drained: it stops.
    Drain,

    // From itself.
    Stepped {
        step: Step,
        result: Result<Done, DriverError>,
    },
    /// What was decided is durable now.
    Drive,
    Tick,
    /// Whether the roster has forgotten it.
    Forgotten {
        done: bool,
    },
    CommitFailed {
        message: String,
    },
}
