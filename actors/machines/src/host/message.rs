//! What a host is asked and told.

use std::{collections::HashMap, time::Duration};

use hiveward_catalogue::host::protocol::{GuestInfo, Network, Progress};
use hiveward_kernel::{
    doors::Addressed,
    entity::Entity,
    id::{HostId, VmId},
};
use hiveward_runtime::{call::Reply, clock::WallMs, ledger::Cursor};
use serde::{Deserialize, Serialize};

use super::{
    backup::NewBackup,
    driver::{Action, Change, Connection, Domain, DriverError, Listing, Migration, Usage},
    meter::{Loads, Samples},
};
use crate::vm::{
    backup::Manifest,
    console::{self, ConsolePiece},
    copy::Copied,
};

pub const STEP_WITHIN: Duration = Duration::from_secs(30);

/// A step that was done: the domain as it was afterwards, and when that was, to be compared with other looks.
#[derive(Clone, Debug)]
pub struct Done {
    pub domain: Option<Domain>,
    pub at: u64,
}

/// One VM's domain, and whether the hypervisor works on a migration of it: asked for the latter first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peeked {
    pub domain: Option<Domain>,
    pub under_way: bool,
    /// To be compared with other looks of the same host.
    pub at: u64,
    /// The domain of this VM that another host made, if that is here.
    #[serde(default)]
    pub other: Option<Domain>,
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

    /// What was measured of one of its VMs, or of itself, between two moments.
    Samples {
        vm: Option<VmId>,
        since: WallMs,
        until: WallMs,
        points: u32,
        reply: Reply<Samples>,
    },
    /// How loaded it has been since then, and what each VM used on average in the last `window_ms`.
    Loads {
        since: WallMs,
        window_ms: u64,
        reply: Reply<Loads>,
    },

    /// What the agent in a guest says; `None` if none answers.
    Guest {
        vm: VmId,
        reply: Reply<Option<GuestInfo>>,
    },

    /// Says one command to the agent in a guest; `None` if none answers, and then it may have heard it.
    GuestCommand {
        vm: VmId,
        command: String,
        reply: Reply<Result<Option<String>, DriverError>>,
    },

    /// What is of this VM here, looked at now.
    Peek {
        vm: VmId,
        reply: Reply<Result<Peeked, DriverError>>,
    },
    /// It is about to be brought here: sees that this is known here, and that its disks are where they must be copied.
    Prepare {
        vm: VmId,
        reply: Reply<Result<(), DriverError>>,
    },
    /// It was not brought here: away with what was prepared, and with what is on its way in and nobody brings any more.
    Clear {
        vm: VmId,
        reply: Reply<Result<(), DriverError>>,
    },
    /// From a VM beside it. Ends when the migration has, and is not ended by the end of who asked.
    Migrate {
        vm: VmId,
        migration: Box<Migration>,
        reply: Reply<Result<Progress, DriverError>>,
    },
    Abort {
        vm: VmId,
        reply: Reply<Result<(), DriverError>>,
    },
    /// It is about to be removed: away with what it has for VMs that are no more, as the fleet is at this cursor. What VMs use
    /// stays.
    Leave {
        seen: Cursor,
        reply: Reply<Result<(), DriverError>>,
    },
    /// How a migration goes; `None` if none is under way.
    Job {
        vm: VmId,
        reply: Reply<Option<Progress>>,
    },

    /// What its serial console said; waits so long for more than there is.
    ReadConsole {
        vm: VmId,
        from: console::From,
        wait_ms: u64,
        reply: Reply<Result<ConsolePiece, DriverError>>,
    },
    /// As if typed at its serial console. Repeated, it is typed twice.
    TypeConsole {
        vm: VmId,
        bytes: Vec<u8>,
        reply: Reply<Result<(), DriverError>>,
    },

    /// From a VM beside it. Ends when the backup is whole and kept, and is done again from its beginning if it is not.
    Backup {
        vm: VmId,
        new: Box<NewBackup>,
        reply: Reply<Result<(String, Manifest), DriverError>>,
    },
    /// From a VM beside it. Its disks, or the one that is named, among the blobs when this answers.
    Copy {
        vm: VmId,
        only: Option<String>,
        reply: Reply<Result<Vec<Copied>, DriverError>>,
    },
    /// Away with what is left of one.
    EndBackup {
        vm: VmId,
        new: Box<NewBackup>,
        reply: Reply<Result<Done, DriverError>>,
    },

    // From itself.
    ConsoleEnded {
        vm: VmId,
    },
    MigrationEnded {
        vm: VmId,
    },
    Opened(Result<Box<Connection>, DriverError>),
    Changed(Change),
    Refresh,
    List,
    Listed {
        begun: u64,
        result: Result<Listing, DriverError>,
    },
    /// What was measured since this look.
    Figured {
        begun: u64,
        result: Result<Listing, DriverError>,
    },
    Acted {
        vm: VmId,
        result: Result<Done, DriverError>,
    },
    Measured(Result<hiveward_catalogue::host::spec::Capacity, DriverError>),
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
    /// Whether those that others made and that are this host's now are known to its driver.
    Adopted(Result<(), DriverError>),
    /// Its networks are these, or not all of them.
    Tended(Result<Vec<Network>, DriverError>),
}

impl Addressed for HostMsg {
    type Id = HostId;

    fn entity(id: HostId) -> Entity {
        Entity::Host(id)
    }
}
