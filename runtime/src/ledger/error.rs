//! Why the ledger refused, and whether anything was written.

use std::path::PathBuf;

use super::types::Cursor;
use crate::error::{Code, Refused};

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
