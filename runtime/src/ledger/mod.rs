//! The ledger: the ordered, durable, replicated log of events, with a stream per entity.
//!
//! `ledger` is the door. `append` gathers what waits into one entry; `raft` agrees on the order of entries (openraft);
//! `machine` says what a committed entry means; `writer` is the one thread that writes the file; `read` replays and tails,
//! from the `ring` of newest events or from disk; `sweep` takes out what is no longer kept; `snapshot` is what another
//! node begins from; `open` checks the file; `record` and `head` are the bytes in it; `view` builds query tables.
//!
//! An append is answered after its entry is committed: on one node, after one fsync. A restart replays from disk; after
//! an error of the disk the store is reopened and checked, and until then it takes no writes.

mod append;
mod core;
mod file;
mod head;
pub mod holes;
mod intake;
#[allow(clippy::module_inception)]
mod ledger;
mod machine;
mod open;
mod pieces;
pub mod prune;
mod raft;
mod read;
mod record;
mod ring;
pub mod row;
pub mod scrub;
mod snapshot;
mod sweep;
mod tables;
mod undecided;
pub mod view;
pub mod view_share;
mod writer;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Clock, WallMs},
    error::{Code, Refused},
    id::Key,
    op::NodeId,
};

pub use append::APPEND_BYTES_MAX;
pub use file::Backend;
pub use ledger::Ledger;
pub use raft::{Change, ChangeError, FOUNDER, Leadership, LedgerLanes, Member, RaftSetup, RaftTiming, member_id};
pub use read::Tail;
pub use undecided::{Undecided, UndecidedEvent};

/// The number of events up to and including the last one seen; 0 is before the first. Dense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub u64);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub kind: &'static str,
    /// The format of `body`; the entity that wrote it decodes it.
    pub format: u16,
    pub body: Bytes,
}

/// The bytes that an event takes in an append beside its kind and its body.
const EVENT_BYTES: usize = 16;

impl NewEvent {
    /// Returns the bytes that the event takes in an append.
    pub fn bytes(&self) -> usize {
        self.kind.len() + self.body.len() + EVENT_BYTES
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub cursor: Cursor,
    pub stream: Key,
    /// The event's place in the stream, from 1.
    pub version: u64,
    pub incarnation: u64,
    /// The time at which the append was proposed, by the wall clock of the node that proposed it.
    pub at: WallMs,
    pub kind: Arc<str>,
    pub format: u16,
    pub body: Bytes,
}

/// An entity's state after some version, so that its replay need not begin at the first event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSnapshot {
    pub format: u16,
    pub body: Bytes,
}

/// A piece of a snapshot that is too large for one append, or is taken beside what its entity does meanwhile.
///
/// Pieces come in order, each in an append without events, from one life. The snapshot takes the place of the one before
/// with its last piece; until then, and if that never comes, the one before is what a replay begins from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The version after which the state was so; the stream has passed or reached it.
    pub at_version: u64,
    /// The number of the piece, from 0.
    pub number: u32,
    pub last: bool,
    pub snapshot: StreamSnapshot,
}

#[derive(Clone, Debug)]
pub struct Append {
    pub stream: Key,
    pub incarnation: u64,
    /// The stream's version before these events.
    pub expected_version: u64,
    pub events: Vec<NewEvent>,
    /// The snapshot of the state after these events.
    pub snapshot: Option<StreamSnapshot>,
    /// A piece of a snapshot; it goes without events.
    pub part: Option<SnapshotPart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The cursor of the last event.
    pub cursor: Cursor,
    pub version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A newer life of the entity has claimed the stream. Nothing was written.
    #[error("a newer life ({newest}) has claimed the stream")]
    Fenced { newest: u64 },
    /// Nothing was written.
    #[error("the stream is at version {is}, not {expected}")]
    Version { is: u64, expected: u64 },
    /// Nothing was written; it is accepted again once there is room.
    #[error("the disk of {dir} has {free_bytes} bytes free, less than the reserve of {reserve_bytes}: make room")]
    DiskFull { dir: String, free_bytes: u64, reserve_bytes: u64 },
    /// Too much waits already. Nothing was written.
    #[error("{waiting} appends wait already")]
    Busy { waiting: usize },
    /// Nothing was written.
    #[error("an append of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// No leader with a quorum was found. Nothing was written.
    #[error("there is no quorum to take the append: {why}")]
    NoQuorum { why: String },
    /// The store failed before; it takes nothing until it has been reopened and verified. Nothing was written.
    #[error("the store has failed and takes no writes: {why}")]
    Failed { why: String },
    #[error("the ledger is stopped")]
    Stopped,
    /// It may have been written: claim the stream and look.
    #[error("the outcome of the append is unknown: {why}")]
    Unknown { why: String },
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        let code = match error {
            AppendError::Unknown { .. } => Code::UnknownOutcome,
            AppendError::Busy { .. } => Code::Busy,
            AppendError::TooLarge { .. } => Code::Limit,
            _ => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("events up to cursor {oldest} are no longer kept; begin after it, or read the present state")]
    Compacted { oldest: Cursor },
    /// The damaged value is never served as data.
    #[error("{table} at {position} is damaged: {what}")]
    Corrupt { table: &'static str, position: String, what: String },
    #[error("the ledger cannot be read: {0}")]
    Storage(String),
    /// A claim, or a read that must not be old, found no leader in time, or this node lags behind it.
    #[error("no leader with a quorum could be asked: {why}")]
    NoQuorum { why: String },
    #[error("the ledger is stopped")]
    Stopped,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {table} at {position} is damaged: {what}")]
    Corrupt { path: PathBuf, table: &'static str, position: String, what: String },
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("{path}: {what}")]
    Storage { path: PathBuf, what: String },
    #[error("the ledger did not become writable within {waited_ms} ms")]
    NotReady { waited_ms: u64 },
}

/// A stream as a new life of its entity finds it.
#[derive(Clone, Debug)]
pub struct Life {
    pub incarnation: u64,
    /// The version after all events.
    pub version: u64,
    /// The snapshot, with the version it was taken at.
    pub snapshot: Option<(u64, StreamSnapshot)>,
    /// The pieces of the snapshot, instead of `snapshot`: [`Ledger::snapshot_part`] reads them.
    pub parts: Option<SnapshotParts>,
    /// The events after the snapshot; for a life that was claimed by pages only the first of them.
    pub events: Vec<Event>,
}

/// A snapshot that is kept in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotParts {
    /// The version it was taken at.
    pub version: u64,
    pub count: u32,
}

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
    pub holes: holes::Holes,
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
            id: raft::FOUNDER,
            node: NodeId::from_u128(raft::FOUNDER.into()),
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
            holes: holes::Holes::default(),
            backend: Backend::default(),
            clock: Clock::default(),
        }
    }

    /// Returns the path of the ledger's tables; its log is beside it while it is open.
    pub fn file(&self) -> PathBuf {
        self.dir.join("ledger.redb")
    }
}
