//! The messages that a VM is asked and told.

use std::sync::Arc;

use hiveward_catalogue::host::protocol::Progress;
use hiveward_kernel::{
    asks,
    commit::{CommitReply, Committed},
    doors::Addressed,
    entity::Entity,
    id::VmId,
    operation::table::Answered,
};
use hiveward_runtime::{
    cluster::router::{Inbound, NotDelivered},
    error::Refused,
};

use super::{
    backup::Backup,
    copy::Copied,
    migrate::Compared,
    reconcile::{Sought, Step},
    state::Ask,
};
use crate::host::{
    driver::{Domain, DriverError},
    message::Done,
};

/// Result of a step.
#[derive(Clone, Debug)]
pub enum Stepped {
    /// State of the VM here afterwards.
    Seen(Done),
    /// State that was seen there, and after that the one here.
    Compared(Compared, Done),
    /// The VM has gone to the other host, and this was measured of it.
    Moved(Progress),
    BackedUp(Backup),
    /// The backup of this operation is gone.
    Pruned(u64),
    Copied {
        number: u64,
        disks: Vec<Copied>,
    },
    /// Host that has the VM and did not make it. An error, with the reason, if a host that may have it did not say.
    Sought(Result<Sought, String>),
    /// Others know of it now, such as the roster.
    Told,
}

asks! {
    /// A message to a VM.
    pub enum VmMsg;
    /// A message to a VM, as it travels.
    pub enum VmWire;

    asks {
        /// Asks for an operation. Answers with its number when it is in the ledger; it ends after that.
        Ask { ask: crate::vm::state::Ask } -> Result<Committed<u64>, Refused>;
        /// Gives up the migration, backup or copy under way. Answers when that is in the ledger; a migration ends when it is
        /// certain where the VM runs.
        CancelMigration { principal: Arc<str> } -> Result<Committed<u64>, Refused>;
        /// Sets the backups that the VM makes by itself from now on, or none. Answers when that is in the ledger.
        Schedule { schedule: Option<crate::vm::schedule::Schedule> } -> Result<Committed<u64>, Refused>;
    }

    wire {}

    own {
        // What it tells itself.
        /// Tells what the views know of an operation that the actor has no memory of.
        Recalled { ask: Ask, before: Option<Answered>, reply: CommitReply<u64> },

        // What its host tells it.
        /// Tells what its hypervisor has of the VM, in a look that began `at`.
        Observed { domain: Option<Domain>, at: u64 },
        /// Says that the VM's host is drained: the VM goes to another, or stops.
        Drain,

        // What it tells itself.
        Stepped { step: Step, result: Result<Stepped, DriverError> },
        /// Says that what was decided is durable now.
        Drive,
        Tick,
        /// Tells whether the roster has forgotten the VM.
        Forgotten { done: bool },
        CommitFailed { message: String },
    }
}

impl VmWire {
    /// Reads what came in as the message that it is. Errors: it is none, and is not delivered.
    pub fn message(inbound: &Inbound<'_>) -> Result<VmMsg, NotDelivered> {
        Self::read(inbound, |_| None)
    }
}

impl Addressed for VmMsg {
    type Id = VmId;

    fn entity(id: VmId) -> Entity {
        Entity::Vm(id)
    }
}
