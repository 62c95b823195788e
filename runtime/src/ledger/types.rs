//! The words of the ledger: cursors, events, and what is appended.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{clock::WallMs, id::Key};

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
