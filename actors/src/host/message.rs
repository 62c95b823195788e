//! What a host is asked and told.

use std::collections::HashMap;

use hiveward_runtime::call::Reply;

use super::driver::{Action, Change, Connection, Domain, DriverError, Listing, Usage};
use crate::id::VmId;

/// A step that was done: the domain as it was afterwards, and when that was, to be compared with other looks.
#[derive(Clone, Debug)]
pub struct Done {
    pub domain: Option<Domain>,
    pub at: u64,
}

pub enum HostMsg {
    // From its VMs, which live beside it.
    /// One step about a domain. Waits for its turn; answers by the step's own deadline.
    Act {
        vm: VmId,
        action: Action,
        reply: Reply<Result<Done, DriverError>>,
    },
    /// A life of a VM's actor knows nothing yet: it is told what a look finds that begins after this.
    Arrived {
        vm: VmId,
    },

    // From others.
    /// The fleet has changed, perhaps for this host.
    Look,
    /// What was measured of these VMs at the last look.
    Usage {
        vms: Vec<VmId>,
        reply: Reply<HashMap<VmId, Usage>>,
    },

    // From itself.
    Opened(Result<Box<Connection>, DriverError>),
    Changed(Change),
    Refresh,
    List,
    Listed {
        begun: u64,
        result: Result<Listing, DriverError>,
    },
    Acted {
        vm: VmId,
        result: Result<Done, DriverError>,
    },
    Measured(Result<super::Capacity, DriverError>),
    /// The roster has it, or has not.
    Said {
        done: bool,
    },
    ChildStopped {
        vm: VmId,
    },
    StrayGone {
        vm: VmId,
    },
}
