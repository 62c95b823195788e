//! What a host is asked and told.

use std::{collections::HashMap, time::Duration};

use hiveward_catalogue::host::protocol::{GuestInfo, Network, Progress};
use hiveward_kernel::{
    asks,
    doors::Addressed,
    entity::Entity,
    id::{HostId, VmId},
};
use hiveward_runtime::{
    call::Reply,
    clock::WallMs,
    cluster::router::{Inbound, NotDelivered},
    ledger::Cursor,
};
use serde::{Deserialize, Serialize};

use super::{
    backup::NewBackup,
    driver::{Action, Change, Connection, Domain, DriverError, Listing, Migration},
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

asks! {
    /// A message to a host.
    pub enum HostMsg;
    /// A message to a host, as it travels.
    pub enum HostWire;

    asks {
        /// Tells what was measured of these VMs at the last look.
        Usage { vms: Vec<VmId> } -> HashMap<VmId, crate::host::driver::Usage>;
        /// Tells what was measured of one of its VMs, or of itself, between two moments.
        Samples { vm: Option<VmId>, since: WallMs, until: WallMs, points: u32 } -> crate::host::meter::Samples;
        /// Tells how loaded it has been since then, and what each VM used on average in the last `window_ms`.
        Loads { since: WallMs, window_ms: u64 } -> crate::host::meter::Loads;
        /// Tells what the agent in a guest says; `None` if none answers.
        Guest { vm: VmId } -> Option<GuestInfo>;
        /// Says one command to the agent in a guest; `None` if none answers, and then it may have heard it.
        GuestCommand { vm: VmId, command: String } -> Result<Option<String>, DriverError>;
        /// Tells what is of this VM here, looked at now.
        Peek { vm: VmId } -> Result<Peeked, DriverError>;
        /// Announces that the VM is brought here: sees that it is known here, and that its disks are where they must be copied.
        Prepare { vm: VmId } -> Result<(), DriverError>;
        /// Says that the VM was not brought here: removes what was prepared, and what is on its way in and nobody brings any more.
        Clear { vm: VmId } -> Result<(), DriverError>;
        /// Tells how a migration goes; `None` if none is under way.
        Job { vm: VmId } -> Option<Progress>;
        /// Reads what its serial console said; waits so long for more than there is.
        ReadConsole { vm: VmId, from: console::From, wait_ms: u64 } -> Result<ConsolePiece, DriverError>;
        /// Types at its serial console. Repeated, it is typed twice.
        TypeConsole { vm: VmId, bytes: serde_bytes::ByteBuf } -> Result<(), DriverError>;
        /// Announces that the host is removed: it removes what it has for VMs that are no more, as the fleet is at this cursor.
        /// What VMs use stays.
        Leave { seen: Cursor } -> Result<(), DriverError>;
    }

    wire {}

    own {
        // From its VMs, which live beside it.
        /// Does one step about a domain. Waits for its turn; answers by the step's own deadline.
        Act { vm: VmId, action: Action, reply: Reply<Result<Done, DriverError>> },
        /// Says that a life of a VM's actor knows nothing yet: it is told what a look finds that begins after this.
        Arrived { vm: VmId },
        /// Migrates a VM beside it. Ends when the migration has, and is not ended by the end of who asked.
        Migrate { vm: VmId, migration: Box<Migration>, reply: Reply<Result<Progress, DriverError>> },
        /// Ends a migration of a VM beside it.
        Abort { vm: VmId, reply: Reply<Result<(), DriverError>> },
        /// Backs up a VM beside it. Ends when the backup is whole and kept, and is done again from its beginning if it is not.
        Backup { vm: VmId, new: Box<NewBackup>, reply: Reply<Result<(String, Manifest), DriverError>> },
        /// Copies the disks of a VM beside it, or the one that is named: they are among the blobs when this answers.
        Copy { vm: VmId, only: Option<String>, reply: Reply<Result<Vec<Copied>, DriverError>> },
        /// Removes what is left of a backup.
        EndBackup { vm: VmId, new: Box<NewBackup>, reply: Reply<Result<Done, DriverError>> },

        // From others.
        /// Says that the fleet has changed, perhaps for this host.
        Look,

        // From itself.
        ConsoleEnded { vm: VmId },
        MigrationEnded { vm: VmId },
        Opened(Result<Box<Connection>, DriverError>),
        Changed(Change),
        Refresh,
        List,
        Listed { begun: u64, result: Result<Listing, DriverError> },
        /// Brings what was measured since this look.
        Figured { begun: u64, result: Result<Listing, DriverError> },
        Acted { vm: VmId, result: Result<Done, DriverError> },
        Measured(Result<hiveward_catalogue::host::spec::Capacity, DriverError>),
        /// Tells whether the roster has heard it.
        Said { done: bool },
        ChildStopped { vm: VmId },
        StrayGone { vm: VmId },
        /// Tells whether those that others made and that are this host's now are known to its driver.
        Adopted(Result<(), DriverError>),
        /// Tells that its networks are these, or that not all of them are there.
        Tended(Result<Vec<Network>, DriverError>),
    }
}

impl HostWire {
    /// Reads what came in as the message that it is. Errors: it is none, and is not delivered.
    pub fn message(inbound: &Inbound<'_>) -> Result<HostMsg, NotDelivered> {
        Self::read(inbound, |_| None)
    }
}

impl Addressed for HostMsg {
    type Id = HostId;

    fn entity(id: HostId) -> Entity {
        Entity::Host(id)
    }
}
