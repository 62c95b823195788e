//! The bytes on disk: every value is a frame, `[format u8][crc32 of the rest, u32 LE][MessagePack]`.
//!
//! A frame that does not check is an error with a name, never data. Formats are only ever added.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Cursor, Event, StreamSnapshot};
use crate::{clock::WallMs, id::Key};

pub const FORMAT: u8 = 1;
const HEADER: usize = 5;

pub fn frame<T: Serialize>(value: &T) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut bytes = vec![0; HEADER];
    rmp_serde::encode::write(&mut bytes, value)?;
    let crc = crc32fast::hash(&bytes[HEADER..]);
    bytes[0] = FORMAT;
    bytes[1..HEADER].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

pub fn unframe<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (Some(&format), Some(crc), Some(body)) = (bytes.first(), bytes.get(1..HEADER), bytes.get(HEADER..)) else {
        return Err(format!("a frame of {} bytes has no header", bytes.len()));
    };
    if format != FORMAT {
        return Err(format!("format {format} is not known to this version, which reads {FORMAT}"));
    }
    let found = crc32fast::hash(body);
    let wanted = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
    if found != wanted {
        return Err(format!("checksum is {found:08x}, should be {wanted:08x}"));
    }
    rmp_serde::from_slice(body).map_err(|error| error.to_string())
}

/// What one Raft entry asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Appends that waited together; each is accepted or refused by itself.
    Appends { at: WallMs, appends: Arc<Vec<ProposedAppend>> },
    /// A node starts: incarnations it hands out are above all before.
    NextEpoch,
    /// Events up to this cursor need not be kept, but for those that a stream's replay needs.
    Compact { keep_after: Cursor },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProposedAppend {
    pub stream: Key,
    pub incarnation: u64,
    pub expected_version: u64,
    pub events: Vec<EventBody>,
    pub snapshot: Option<StreamSnapshot>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventBody {
    pub kind: Arc<str>,
    pub format: u16,
    pub body: Bytes,
}

/// What became of a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Applied {
    #[default]
    Nothing,
    Appends(Vec<Result<(Cursor, u64), AppendRefused>>),
    Epoch(u64),
    Compacted { oldest: Cursor },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendRefused {
    Fenced { newest: u64 },
    Version { is: u64, expected: u64 },
}

/// The events of one entry, as the events table keeps them: one value, however many there are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    pub at: WallMs,
    pub runs: Vec<Run>,
}

/// Consecutive events of one stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub stream: Key,
    pub incarnation: u64,
    pub first_version: u64,
    /// Cursor of the first event; those of a compacted batch have gaps between runs.
    pub first_cursor: u64,
    pub events: Vec<EventBody>,
}

impl Run {
    pub fn last_cursor(&self) -> u64 {
        self.first_cursor + self.events.len() as u64 - 1
    }

    /// The events with their places.
    pub fn read(&self, at: WallMs) -> impl Iterator<Item = Event> + '_ {
        self.events.iter().zip(0..).map(move |(event, n)| Event {
            cursor: Cursor(self.first_cursor + n),
            stream: self.stream.clone(),
            version: self.first_version + n,
            incarnation: self.incarnation,
            at,
            kind: event.kind.clone(),
            format: event.format,
            body: event.body.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_format_1_still_decode() {
        // Written by the first version; never regenerate them from code.
        let batch: Batch = unframe(&GOLDEN).unwrap();
        let event = batch.runs[0].read(batch.at).next().unwrap();
        assert_eq!((event.cursor, event.version, event.incarnation, event.at), (Cursor(9), 3, 4_294_967_297, WallMs(1_700_000_000_000)));
        assert_eq!((&*event.kind, event.format, &event.body[..]), ("Probed", 1, &b"abc"[..]));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        for bit in 0..GOLDEN.len() * 8 {
            let mut bytes = GOLDEN;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unframe::<Batch>(&bytes).is_err(), "bit {bit}");
        }
        for cut in 0..GOLDEN.len() {
            assert!(unframe::<Batch>(&GOLDEN[..cut]).is_err(), "cut at {cut}");
        }
    }

    const GOLDEN: [u8; 0] = [];
}
