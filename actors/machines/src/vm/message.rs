//! What a VM is asked and told.

use std::sync::Arc;

use hiveward_catalogue::host::protocol::Progress;
use hiveward_kernel::{commit::Committed, doors::Addressed, entity::Entity, id::VmId, operation::table::Answered};
use hiveward_runtime::{call::Reply, error::Refused};

use super::{
    backup::Backup,
    copy::Copied,
    migrate::Compared,
    reconcile::{Sought, Step},
    schedule::Schedule,
    state::Ask,
};
use crate::host::{
    driver::{Domain, DriverError},
    message::Done,
};

/// The number of the operation, when it is in the ledger; its end comes after that.
pub type Answer = Reply<Result<Committed<u64>, Refused>>;

/// What came of a step.
#[derive(Clone, Debug)]
pub enum Stepped {
    /// What is here afterwards.
    Seen(Done),
    /// What was seen there, and after that here.
    Compared(Compared, Done),
    /// It has gone, and this was measured of it.
    Moved(Progress),
    BackedUp(Backup),
    /// The backup of this operation is gone.
    Pruned(u64),
    Copied {
        number: u64,
        disks: Vec<Copied>,
    },
    /// Which host has it that did not make it.
    /// Where else it is; nothing if a host that may have it did not say, and why then.
    Sought(Result<Sought, String>),
    /// Others know of it now.
    Told,
}

pub enum VmMsg {
    Ask {
        ask: Ask,
        reply: Answer,
    },

    /// A migration is not wanted any more. Answers when that is in the ledger; the operation ends when it is certain where
    /// the VM runs.
    CancelMigration {
        principal: Arc<str>,
        reply: Answer,
    },

    /// Backups that it makes by itself from now on, or none. Answers when that is in the ledger.
    Schedule {
        schedule: Option<Schedule>,
        reply: Answer,
    },

    // From itself.
    /// What the views know of an operation that it has no memory of.
    Recalled {
        ask: Ask,
        before: Option<Answered>,
        reply: Answer,
    },

    // From its host.
    /// What its hypervisor has of it, in a look that began `at`.
    Observed {
        domain: Option<Domain>,
        at: u64,
    },
    /// Its host is drained: it goes to another, or stops.
    Drain,

    // From itself.
    Stepped {
        step: Step,
        result: Result<Stepped, DriverError>,
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

impl Addressed for VmMsg {
    type Id = VmId;

    fn entity(id: VmId) -> Entity {
        Entity::Vm(id)
    }
}
