//! How a ledger is opened, and what it says of itself.

use std::{path::PathBuf, time::Duration};

use super::{
    file::Backend,
    holes::Holes,
    raft::{FOUNDER, Member, RaftSetup, RaftTiming},
    types::Cursor,
};
use crate::{clock::Clock, op::NodeId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskState {
    Ok,
    /// Writes are refused until there is room.
    Full {
        free_bytes: u64,
    },
    /// Writes are refused until the store has been reopened.
    Failed {
        why: String,
    },
}

#[derive(Clone, Debug)]
pub struct LedgerStatus {
    pub term: u64,
    /// The node that leads; absent while an election is under way.
    pub leader: Option<NodeId>,
    pub members: Vec<Member>,
    /// True between two sets of voters: both must agree until the change is done.
    pub changing: bool,
    pub head: Cursor,
    pub oldest: Cursor,
    pub disk: DiskState,
    /// The reason why no write can be agreed on now.
    pub no_quorum: Option<String>,
    pub file_bytes: u64,
    /// The number of Raft entries that are kept.
    pub log_entries: u64,
    /// The index of the last entry.
    pub log_last: u64,
}

#[derive(Clone, Debug)]
pub struct LedgerConfig {
    pub dir: PathBuf,
    /// The free space below which writes are refused, so that the node can still stop and compact in order.
    pub reserve_bytes: u64,
    pub open_timeout: Duration,
    /// The size up to which a file is checked from end to end at start; values of a larger one are checked when they are read.
    pub verify_bytes_max: u64,
    /// The rule for when its file is made smaller.
    pub holes: Holes,
    /// The backend that the file is read and written through.
    pub backend: Backend,
    /// The member of the group that keeps the ledger that this node is.
    pub raft: RaftSetup,
    /// The clock that events are stamped with.
    pub clock: Clock,
}

impl LedgerConfig {
    pub const RESERVE_BYTES_DEFAULT: u64 = 64 << 20;
    pub const VERIFY_BYTES_DEFAULT: u64 = 256 << 20;

    /// Returns the defaults for a lone node that founds a ledger in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let raft = RaftSetup {
            id: FOUNDER,
            node: NodeId::from_u128(FOUNDER.into()),
            address: String::new(),
            founds: true,
            lanes: None,
            timing: RaftTiming::default(),
            dir: dir.clone(),
        };
        Self {
            dir,
            raft,
            reserve_bytes: Self::RESERVE_BYTES_DEFAULT,
            open_timeout: Duration::from_secs(30),
            verify_bytes_max: Self::VERIFY_BYTES_DEFAULT,
            holes: Holes::default(),
            backend: Backend::default(),
            clock: Clock::default(),
        }
    }

    /// Returns the path of the ledger's tables; its log is beside it while it is open.
    pub fn file(&self) -> PathBuf {
        self.dir.join("ledger.redb")
    }
}
