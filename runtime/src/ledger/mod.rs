//! The ledger: the ordered, durable, replicated log of events, with a stream per entity.
//!
//! `record` is the bytes on disk; `disk` the one redb file and the one thread that writes it; `raft` the consensus over
//! it (openraft, behind [`Ledger`]); `machine` what a committed entry means; `append` gathers what waits into one entry;
//! `read` replays and tails; `view` builds query tables from it. Nothing outside this folder names openraft.
//!
//! An append is answered after its entry is committed: on one node, after one fsync. A restart replays from disk.

mod append;
mod disk;
mod machine;
mod raft;
mod read;
mod record;
pub mod view;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
};

pub use raft::Ledger;
pub use read::Tail;

/// How many events there were up to and including the last one seen; 0 is before the first. Dense.
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub cursor: Cursor,
    pub stream: Key,
    /// Its place in the stream, from 1.
    pub version: u64,
    pub incarnation: u64,
    /// When the append was proposed, by the wall clock of the node that proposed it.
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

#[derive(Clone, Debug)]
pub struct Append {
    pub stream: Key,
    pub incarnation: u64,
    /// The stream's version before these events.
    pub expected_version: u64,
    pub events: Vec<NewEvent>,
    /// Of the state after these events.
    pub snapshot: Option<StreamSnapshot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Of the last event.
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
    /// Never served as data.
    #[error("{table} at {position} is damaged: {what}")]
    Corrupt { table: &'static str, position: String, what: String },
    #[error("the ledger cannot be read: {0}")]
    Storage(String),
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
    /// After all events.
    pub version: u64,
    /// With the version it was taken at.
    pub snapshot: Option<(u64, StreamSnapshot)>,
    /// Those after the snapshot.
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskState {
    Ok,
    /// Writes are refused until there is room.
    Full { free_bytes: u64 },
    /// Writes are refused until the store has been reopened.
    Failed { why: String },
}

#[derive(Clone, Debug)]
pub struct LedgerStatus {
    pub node: u64,
    pub term: u64,
    pub leader: Option<u64>,
    pub voters: Vec<u64>,
    pub head: Cursor,
    pub oldest: Cursor,
    /// Grows at each start of a node.
    pub epoch: u64,
    pub disk: DiskState,
    pub file_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct LedgerConfig {
    pub dir: PathBuf,
    /// Below this much free space writes are refused, so that the node can still stop and compact in order.
    pub reserve_bytes: u64,
    pub open_timeout: Duration,
}

impl LedgerConfig {
    pub const RESERVE_BYTES_DEFAULT: u64 = 64 << 20;

    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), reserve_bytes: Self::RESERVE_BYTES_DEFAULT, open_timeout: Duration::from_secs(30) }
    }
}
