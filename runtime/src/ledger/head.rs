//! The head of one stream: its version, who may write it, and where its events lie.
//!
//! Positions are kept in chunks: the newest in the stream's own row, full ones in rows of their own, so that an append
//! changes no row by itself. A row that lags behind is mended from the events at start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{SnapshotPart, StreamSnapshot, pieces::Pieces};
use crate::id::Key;

/// The number of appends in one chunk of positions.
const CHUNK_APPENDS: u32 = 256;

/// The places where consecutive appends of a stream lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The version before the first of these appends.
    pub after: u64,
    appends: u32,
    end_version: u64,
    end_cursor: u64,
    /// The number of events of each append, and the distance of its first cursor from the one before; LEB128.
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The version before this append.
    pub after: u64,
    pub events: u64,
    pub first_cursor: u64,
}

impl Chunk {
    fn begin(after: u64) -> Self {
        Self { after, end_version: after, ..Self::default() }
    }

    fn push(&mut self, first_cursor: u64, events: u64) {
        put(&mut self.bytes, events);
        put(&mut self.bytes, first_cursor - self.end_cursor);
        self.appends += 1;
        self.end_cursor = first_cursor;
        self.end_version += events;
    }

    /// Returns how many appends the chunk has.
    pub fn appends(&self) -> usize {
        self.appends as usize
    }

    /// Returns the version after the last of these appends.
    pub fn end_version(&self) -> u64 {
        self.end_version
    }

    /// Lists where the appends lie, in order. Ends early if the bytes are damaged.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        let (mut at, mut after, mut cursor) = (0, self.after, 0);
        std::iter::from_fn(move || {
            let events = take(&self.bytes, &mut at)?;
            cursor += take(&self.bytes, &mut at)?;
            let position = Position { after, events, first_cursor: cursor };
            after += events;
            Some(position)
        })
    }
}

fn put(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn take(from: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *from.get(*at)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// The row of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRow {
    pub version: u64,
    /// The incarnation of the newest life that wrote.
    pub incarnation: u64,
    /// The version after which a replay begins; 0 if there is no snapshot.
    pub snapshot_version: u64,
    pub chunk: Chunk,
    /// The pieces, stored last, and absent from what is stored where there are none.
    #[serde(default, skip_serializing_if = "Pieces::is_none")]
    pub pieces: Pieces,
}

#[derive(Debug, Default)]
pub struct Head {
    pub row: HeadRow,
    /// The full chunks that are in no table yet.
    pub sealed: Vec<Chunk>,
    /// A snapshot that is in no table yet.
    pub snapshot: Option<StreamSnapshot>,
    /// The chunks that the writer has in hand: not in the tables yet, as far as a reader knows.
    pub in_hand_chunks: Vec<Chunk>,
    pub in_hand_snapshot: Option<StreamSnapshot>,
    /// The pieces of a snapshot by version and number; the writer has those that are in hand.
    pub parts: BTreeMap<(u64, u32), StreamSnapshot>,
    pub in_hand_parts: BTreeMap<(u64, u32), StreamSnapshot>,
    /// The rows of snapshots that the writer has still to remove: a whole one, and the pieces of these versions.
    pub whole_is_gone: bool,
    pub parts_gone: Vec<u64>,
    /// True while it waits in the queue of heads to be written.
    pub dirty: bool,
    /// True while the writer has it in hand: what is in the tables may be older.
    pub in_hand: bool,
    /// True if it was asked for since the last round of forgetting.
    pub used: bool,
    /// True if it has a row.
    pub known: bool,
}

impl Head {
    /// Makes the head for a row that was read from the tables.
    pub fn loaded(row: HeadRow) -> Self {
        Self { row, known: true, ..Self::default() }
    }

    /// Takes in an accepted append.
    pub fn append(&mut self, incarnation: u64, first_cursor: u64, events: u64) {
        self.row.incarnation = self.row.incarnation.max(incarnation);
        if events == 0 {
            return;
        }
        if self.row.chunk.appends >= CHUNK_APPENDS {
            let next = Chunk::begin(self.row.version);
            self.sealed.push(std::mem::replace(&mut self.row.chunk, next));
        } else if self.row.chunk.appends == 0 {
            self.row.chunk = Chunk::begin(self.row.version);
        }
        self.row.chunk.push(first_cursor, events);
        self.row.version += events;
    }

    /// Takes in a whole snapshot of the state as it is now; gives the bytes of the one that nobody needs any more.
    pub fn snapshot(&mut self, snapshot: StreamSnapshot) -> usize {
        let gone = self.row.pieces.clear(self.row.snapshot_version);
        self.forget_parts(gone);
        self.row.snapshot_version = self.row.version;
        self.whole_is_gone = false;
        self.snapshot.replace(snapshot).map_or(0, |older| older.body.len())
    }

    /// Takes in a piece of a snapshot.
    pub fn part(&mut self, part: &SnapshotPart) {
        let taken = self.row.pieces.take(part, self.row.snapshot_version, self.row.version);
        self.forget_parts(taken.gone);
        if taken.kept {
            self.parts.insert((part.at_version, part.number), part.snapshot.clone());
        }
        if let Some(version) = taken.holds {
            self.row.snapshot_version = version;
            self.whole_is_gone = true;
        }
    }

    fn forget_parts(&mut self, gone: Vec<u64>) {
        self.parts.retain(|(version, _), _| !gone.contains(version));
        self.parts_gone.extend(gone);
    }
}

/// Returns a number per key; their sum over a table tells whether a key is missing, or another is in its place.
pub fn digest(key: &Key) -> u64 {
    let hash = blake3::hash(key.as_str().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_as_they_were_put_in_over_many_chunks() {
        let mut head = Head::default();
        let mut wanted = Vec::new();
        let (mut cursor, mut version) = (1, 0);
        for n in 0..1_000_u64 {
            let events = n % 5;
            head.append(1, cursor, events);
            if events > 0 {
                wanted.push(Position { after: version, events, first_cursor: cursor });
            }
            version += events;
            cursor += events + n * n;
        }
        let found: Vec<_> = head.sealed.iter().chain([&head.row.chunk]).flat_map(Chunk::positions).collect();
        assert_eq!(found, wanted);
        assert_eq!(head.row.version, version);
        assert!(head.sealed.len() >= 3);
        let ends: Vec<_> = head.sealed.iter().map(Chunk::end_version).collect();
        let begins: Vec<_> = head.sealed.iter().skip(1).chain([&head.row.chunk]).map(|chunk| chunk.after).collect();
        assert_eq!(ends, begins);
    }
}
