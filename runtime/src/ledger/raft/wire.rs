//! The questions that nodes ask each other about the ledger, as bytes. Numbers and field orders are the wire format: only add.

use openraft::{
    LogId, SnapshotMeta, Vote,
    raft::{AppendEntriesRequest, VoteRequest},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use super::{Applied, Node, TypeConfig};
use crate::{
    id::Key,
    ledger::record::{read_entry, write_entry},
};

/// The ledger's service on its lanes.
pub use crate::net::desk::number::LEDGER as SERVICE;

/// The first byte of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    Propose = 4,
    Claim = 5,
    SnapshotBegin = 6,
    SnapshotPart = 7,
    SnapshotEnd = 8,
    ReadIndex = 9,
    Events = 10,
}

impl Kind {
    /// Reads the first byte of a question; `None` if this version does not know it.
    pub fn read(byte: u8) -> Option<Self> {
        use Kind::{Append, Claim, Events, PreVote, Propose, ReadIndex, SnapshotBegin, SnapshotEnd, SnapshotPart, Vote};
        [Append, Vote, PreVote, Propose, Claim, SnapshotBegin, SnapshotPart, SnapshotEnd, ReadIndex, Events]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Writes a question with its kind before it.
pub fn write<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = vec![kind as u8];
    rmp_serde::encode::write(&mut bytes, value).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Writes an answer.
pub fn answer<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    rmp_serde::to_vec(value).map_err(|error| error.to_string())
}

/// Reads a question without its kind, or an answer. Errors: it is not understood; the nodes may be too many versions apart.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    rmp_serde::from_slice(bytes).map_err(|error| format!("it is not understood ({error}): are both nodes of adjacent versions?"))
}

/// A message of entries as the log keeps them, each with its checksum.
#[derive(Serialize, Deserialize)]
pub struct Append {
    vote: Vote<u64>,
    previous: Option<LogId<u64>>,
    committed: Option<LogId<u64>>,
    entries: Vec<(u64, ByteBuf)>,
}

impl Append {
    /// Makes the message of openraft's request.
    pub fn of(request: &AppendEntriesRequest<TypeConfig>) -> Result<Self, String> {
        let entries = request.entries.iter().map(|entry| {
            let bytes = write_entry(entry).map_err(|error| error.to_string())?;
            Ok((entry.log_id.index, ByteBuf::from(bytes)))
        });
        Ok(Self {
            vote: request.vote,
            previous: request.prev_log_id,
            committed: request.leader_commit,
            entries: entries.collect::<Result<_, String>>()?,
        })
    }

    /// Makes openraft's request of the message. Errors: an entry whose checksum or index is wrong.
    pub fn request(self) -> Result<AppendEntriesRequest<TypeConfig>, String> {
        Ok(AppendEntriesRequest {
            vote: self.vote,
            prev_log_id: self.previous,
            leader_commit: self.committed,
            entries: self.entries.iter().map(|(index, bytes)| read_entry(*index, bytes)).collect::<Result<_, String>>()?,
        })
    }
}

pub type AskVote = VoteRequest<u64>;

/// The question whether an election would be won: asked before one is begun, so that a node that was away disturbs nobody.
#[derive(Serialize, Deserialize)]
pub struct PreVote {
    pub last: Option<LogId<u64>>,
}

/// The leader's answer about a command that another node brought.
#[derive(Debug, Serialize, Deserialize)]
pub enum Proposed {
    /// The command is in the log at this index, and committed.
    At { index: u64, applied: Applied },
    /// Nothing was written.
    NotLeading { leader: Option<u64> },
    /// Nothing was written: these appends of the batch are of older lives than were claimed since.
    Fenced { appends: Vec<(u32, u64)> },
    /// The command may have been written.
    Lost { why: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Claimed {
    /// A new life began; what was in the log up to this index belongs to it.
    Life {
        incarnation: u64,
        index: u64,
    },
    NotLeading,
}

/// The entry up to which a reader must have applied to see all that was acknowledged before it asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum ReadIndex {
    UpTo {
        index: u64,
    },
    /// The node does not lead, or another may have been elected meanwhile.
    NotLeading,
}

/// The question for the value of the events' table that begins with this cursor; the answer is it, if it is there and whole.
#[derive(Serialize, Deserialize)]
pub struct AskEvents {
    pub from: u64,
}

pub type EventsAt = Option<ByteBuf>;

#[derive(Serialize, Deserialize)]
pub struct AskClaim {
    pub stream: Key,
}

#[derive(Serialize, Deserialize)]
pub struct SnapshotBegin {
    pub transfer: u64,
    pub vote: Vote<u64>,
    pub meta: SnapshotMeta<u64, Node>,
    /// The machine's own record, framed.
    pub machine: ByteBuf,
}

/// Rows of one table, framed each as it is on disk.
#[derive(Serialize, Deserialize)]
pub enum Rows {
    Events(Vec<(u64, ByteBuf)>),
    Streams(Vec<(String, ByteBuf)>),
    Chunks(Vec<(String, u64, ByteBuf)>),
    Snapshots(Vec<(String, ByteBuf)>),
}

#[derive(Serialize, Deserialize)]
pub struct SnapshotPart {
    pub transfer: u64,
    /// The number of the part, from 0, so that a lost or doubled one is noticed.
    pub number: u64,
    pub rows: Rows,
}

#[derive(Serialize, Deserialize)]
pub struct SnapshotEnd {
    pub transfer: u64,
    pub parts: u64,
}
