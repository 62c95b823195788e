//! The bytes on disk: every value is a frame, `[format u8][crc32 of all else, u32 LE][body]`.
//!
//! A frame that does not check is an error with a name, never data. Each body repeats the key it is filed under, so that a value
//! under another's key is noticed too. Formats are only ever added: old bytes decode for ever. Events lie in their entry as one
//! value behind a table of offsets: one stream's are taken out without decoding the others.

use std::sync::Arc;

use bytes::Bytes;
use openraft::{Entry, EntryPayload, LogId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::{Cursor, Event, SnapshotPart, StreamSnapshot, raft::TypeConfig};
use crate::{clock::WallMs, id::Key};

pub const FORMAT: u8 = 1;
const HEADER: usize = 5;

/// Makes an empty frame to write the body into; [`seal`] makes it valid.
pub fn begin(body_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body_bytes);
    bytes.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
    bytes
}

fn checksum(format: u8, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[format]);
    crc.update(body);
    crc.finalize()
}

/// Writes the checksum into a frame that [`begin`] made, once its body is there.
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = checksum(bytes[0], &bytes[HEADER..]);
    bytes[1..HEADER].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Returns the body, once its checksum and format are good.
pub fn body(bytes: &[u8]) -> Result<&[u8], String> {
    let Some((&[format, a, b, c, d], body)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(format!("a frame of {} bytes has no header", bytes.len()));
    };
    let (found, wanted) = (checksum(format, body), u32::from_le_bytes([a, b, c, d]));
    if found != wanted {
        return Err(format!("checksum is {found:08x}, should be {wanted:08x}"));
    }
    if format != FORMAT {
        return Err(format!("format {format} is not known to this version, which reads {FORMAT}"));
    }
    Ok(body)
}

/// Frames a small record as MessagePack.
pub fn frame<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    let mut bytes = begin(64);
    rmp_serde::encode::write(&mut bytes, value).map_err(std::io::Error::other)?;
    Ok(seal(bytes))
}

pub fn unframe<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    rmp_serde::from_slice(body(bytes)?).map_err(|error| error.to_string())
}

/// One append inside a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proposed {
    pub stream: Key,
    pub incarnation: u64,
    pub expected_version: u64,
    pub events: Vec<EventBody>,
    pub snapshot: Option<StreamSnapshot>,
    /// The piece, stored last, and absent from what is stored where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<SnapshotPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventBody {
    pub kind: Arc<str>,
    pub format: u16,
    pub body: Bytes,
}

#[derive(Deserialize)]
struct ProposedIn<'a> {
    stream: &'a str,
    incarnation: u64,
    expected_version: u64,
    #[serde(borrow)]
    events: Vec<EventIn<'a>>,
    #[serde(borrow)]
    snapshot: Option<SnapshotIn<'a>>,
    #[serde(default)]
    part: Option<SnapshotPart>,
}

#[derive(Deserialize)]
struct EventIn<'a>(&'a str, u16, #[serde(borrow, with = "serde_bytes")] &'a [u8]);

#[derive(Deserialize)]
struct SnapshotIn<'a>(u16, #[serde(borrow, with = "serde_bytes")] &'a [u8]);

/// The appends that waited together, and their bytes: encoded once, for the log and for the events table.
#[derive(Debug)]
pub struct Batch {
    /// The life of a store that proposed it and waits for it, and its own number there. Zeros in what an older version wrote.
    pub origin: u64,
    pub id: u64,
    pub at: WallMs,
    pub appends: Vec<Proposed>,
    /// The length of each append's bytes.
    pub lens: Vec<u32>,
    /// The appends' bytes, one after the other.
    pub bodies: Bytes,
}

impl Batch {
    pub fn encode(origin: u64, id: u64, at: WallMs, appends: Vec<Proposed>) -> std::io::Result<Self> {
        let mut bodies = Vec::with_capacity(appends.len() * 256);
        let mut lens = Vec::with_capacity(appends.len());
        for append in &appends {
            let before = bodies.len();
            rmp_serde::encode::write(&mut bodies, append).map_err(std::io::Error::other)?;
            lens.push(u32::try_from(bodies.len() - before).map_err(std::io::Error::other)?);
        }
        Ok(Self { origin, id, at, appends, lens, bodies: bodies.into() })
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.reserve(28 + 4 * self.lens.len() + self.bodies.len());
        into.extend_from_slice(&self.origin.to_le_bytes());
        into.extend_from_slice(&self.id.to_le_bytes());
        into.extend_from_slice(&(self.lens.len() as u32).to_le_bytes());
        into.extend_from_slice(&self.at.0.to_le_bytes());
        for len in &self.lens {
            into.extend_from_slice(&len.to_le_bytes());
        }
        into.extend_from_slice(&self.bodies);
    }

    fn read(mut from: Take<'_>, names_origin: bool) -> Result<Self, String> {
        let (origin, id) = if names_origin { (from.u64()?, from.u64()?) } else { (0, 0) };
        let (n, at) = (from.u32()?, WallMs(from.u64()? as i64));
        let lens = (0..n).map(|_| from.u32()).collect::<Result<Vec<_>, _>>()?;
        let bodies = Bytes::copy_from_slice(from.0);
        let mut appends = Vec::with_capacity(lens.len());
        let mut rest = Take(&bodies);
        for len in &lens {
            appends.push(decode_append(rest.bytes(*len as usize)?, &bodies)?);
        }
        if !rest.0.is_empty() {
            return Err(format!("{} bytes are left over", rest.0.len()));
        }
        Ok(Self { origin, id, at, appends, lens, bodies })
    }
}

/// Decodes an append. `bytes` lie within `whole`: bodies share it.
fn decode_append(bytes: &[u8], whole: &Bytes) -> Result<Proposed, String> {
    let append: ProposedIn<'_> = rmp_serde::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(Proposed {
        stream: Key::trusted(append.stream),
        incarnation: append.incarnation,
        expected_version: append.expected_version,
        events: append
            .events
            .iter()
            .map(|event| EventBody { kind: event.0.into(), format: event.1, body: whole.slice_ref(event.2) })
            .collect(),
        snapshot: append.snapshot.map(|snapshot| StreamSnapshot { format: snapshot.0, body: Bytes::copy_from_slice(snapshot.1) }),
        part: append.part,
    })
}

/// The command of one Raft entry.
#[derive(Clone, Debug)]
pub enum Command {
    /// Each append is accepted or refused by itself.
    Batch(Arc<Batch>),
    /// A node starts: incarnations it hands out are above all before.
    NextEpoch,
    /// Events up to this cursor need not be kept, but for those that a stream's replay needs.
    Compact { keep_after: Cursor },
}

const BLANK: u8 = 0;
const MEMBERSHIP: u8 = 1;
/// The kind of a batch without its origin: no longer written.
const BATCH_1: u8 = 2;
const NEXT_EPOCH: u8 = 3;
const COMPACT: u8 = 4;
const BATCH: u8 = 5;

impl Command {
    pub fn write(&self, into: &mut Vec<u8>) {
        match self {
            Self::Batch(batch) => {
                into.push(BATCH);
                batch.write(into);
            }
            Self::NextEpoch => into.push(NEXT_EPOCH),
            Self::Compact { keep_after } => {
                into.push(COMPACT);
                into.extend_from_slice(&keep_after.0.to_le_bytes());
            }
        }
    }

    fn read(kind: u8, mut from: Take<'_>) -> Result<Self, String> {
        match kind {
            BATCH => Ok(Self::Batch(Arc::new(Batch::read(from, true)?))),
            BATCH_1 => Ok(Self::Batch(Arc::new(Batch::read(from, false)?))),
            NEXT_EPOCH => Ok(Self::NextEpoch),
            COMPACT => Ok(Self::Compact { keep_after: Cursor(from.u64()?) }),
            other => Err(format!("entry kind {other} is not known to this version")),
        }
    }
}

impl Command {
    /// Reads what [`Command::write`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut from = Take(bytes);
        let kind = from.bytes(1)?[0];
        Self::read(kind, from)
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Self::parse(&bytes).map_err(serde::de::Error::custom)
    }
}

/// Writes a Raft log entry as one value.
pub fn write_entry(entry: &Entry<TypeConfig>) -> std::io::Result<Vec<u8>> {
    let mut bytes = begin(match &entry.payload {
        EntryPayload::Normal(Command::Batch(batch)) => 64 + 4 * batch.lens.len() + batch.bodies.len(),
        _ => 64,
    });
    for part in [entry.log_id.index, entry.log_id.leader_id.term, entry.log_id.leader_id.node_id] {
        bytes.extend_from_slice(&part.to_le_bytes());
    }
    match &entry.payload {
        EntryPayload::Blank => bytes.push(BLANK),
        EntryPayload::Normal(command) => command.write(&mut bytes),
        EntryPayload::Membership(membership) => {
            bytes.push(MEMBERSHIP);
            rmp_serde::encode::write(&mut bytes, membership).map_err(std::io::Error::other)?;
        }
    }
    Ok(seal(bytes))
}

/// Reads what [`write_entry`] wrote. Errors: it is damaged, or filed under another's index.
pub fn read_entry(key: u64, bytes: &[u8]) -> Result<Entry<TypeConfig>, String> {
    let mut from = Take(body(bytes)?);
    let (index, term, node) = (from.u64()?, from.u64()?, from.u64()?);
    if index != key {
        return Err(format!("entry {index} is filed as {key}"));
    }
    let payload = match from.bytes(1)?[0] {
        BLANK => EntryPayload::Blank,
        MEMBERSHIP => EntryPayload::Membership(rmp_serde::from_slice(from.0).map_err(|error| error.to_string())?),
        kind => EntryPayload::Normal(Command::read(kind, from)?),
    };
    Ok(Entry { log_id: LogId::new(openraft::CommittedLeaderId::new(term, node), index), payload })
}

/// Returns how many events an entry makes at most.
pub fn events_in(entry: &Entry<TypeConfig>) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(Command::Batch(batch)) => batch.appends.iter().map(|append| append.events.len() as u64).sum(),
        _ => 0,
    }
}

/// The place of one accepted append in the events table's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cursor of its first event.
    pub first_cursor: u64,
    pub events: u32,
    pub len: u32,
}

/// Writes a batch's value for the events table; `first_cursor` is its key even if a compaction took the append that began there.
pub fn write_events(first_cursor: u64, last_cursor: u64, at: WallMs, places: &[Place], bodies: &[&[u8]]) -> Vec<u8> {
    let mut bytes = begin(32 + places.len() * 16 + bodies.iter().map(|body| body.len()).sum::<usize>());
    for part in [first_cursor, last_cursor, at.0 as u64] {
        bytes.extend_from_slice(&part.to_le_bytes());
    }
    bytes.extend_from_slice(&(places.len() as u32).to_le_bytes());
    for place in places {
        bytes.extend_from_slice(&place.first_cursor.to_le_bytes());
        bytes.extend_from_slice(&place.events.to_le_bytes());
        bytes.extend_from_slice(&place.len.to_le_bytes());
    }
    for body in bodies {
        bytes.extend_from_slice(body);
    }
    seal(bytes)
}

/// The events table's value, checked, its appends not yet decoded.
#[derive(Clone, Debug)]
pub struct Events {
    pub first: u64,
    /// The last cursor of the entry; after a compaction there may be none that high here.
    pub last: u64,
    pub at: WallMs,
    pub places: Vec<Place>,
    bytes: Bytes,
    starts: Vec<u32>,
}

impl Events {
    /// Reads a value and checks its frame. Errors: it is damaged, or filed under another's key.
    pub fn read(key: u64, value: &[u8]) -> Result<Self, String> {
        let mut from = Take(body(value)?);
        let (first, last, at) = (from.u64()?, from.u64()?, WallMs(from.u64()? as i64));
        if first != key {
            return Err(format!("events from cursor {first} are filed as {key}"));
        }
        let n = from.u32()?;
        let mut places = Vec::with_capacity(n as usize);
        let mut starts = Vec::with_capacity(n as usize);
        let mut start = 0;
        for _ in 0..n {
            let place = Place { first_cursor: from.u64()?, events: from.u32()?, len: from.u32()? };
            starts.push(start);
            start += place.len;
            places.push(place);
        }
        if from.0.len() != start as usize {
            return Err(format!("appends take {} bytes, should take {start}", from.0.len()));
        }
        Ok(Self { first, last, at, places, bytes: Bytes::copy_from_slice(from.0), starts })
    }

    pub fn bytes(&self, slot: usize) -> &[u8] {
        let start = self.starts[slot] as usize;
        &self.bytes[start..start + self.places[slot].len as usize]
    }

    /// Decodes the append in a slot. Errors: it is damaged, or has another number of events than its place says.
    pub fn append(&self, slot: usize) -> Result<Proposed, String> {
        let append = decode_append(self.bytes(slot), &self.bytes)?;
        if append.events.len() != self.places[slot].events as usize {
            return Err(format!("append {slot} has {} events, should have {}", append.events.len(), self.places[slot].events));
        }
        Ok(append)
    }

    /// Returns the slot of the append that holds this event; `None` if it is not here.
    pub fn slot_of(&self, cursor: u64) -> Option<usize> {
        let slot = self.places.partition_point(|place| place.first_cursor <= cursor).checked_sub(1)?;
        (cursor - self.places[slot].first_cursor < u64::from(self.places[slot].events)).then_some(slot)
    }
}

/// Lists an append's events with their places.
pub fn events_of(append: &Proposed, first_cursor: u64, at: WallMs) -> impl Iterator<Item = Event> + '_ {
    append.events.iter().zip(0..).map(move |(event, n)| Event {
        cursor: Cursor(first_cursor + n),
        stream: append.stream.clone(),
        version: append.expected_version + 1 + n,
        incarnation: append.incarnation,
        at,
        kind: event.kind.clone(),
        format: event.format,
        body: event.body.clone(),
    })
}

/// A reader that takes bytes from the front; too few are an error, not a panic.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(|| format!("{} bytes where {n} should be", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("a number is cut off")?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*taken))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("a number is cut off")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let append = |n: u8, snapshot| Proposed {
            stream: Key::trusted(format!("probe_{n:032x}")),
            incarnation: 4_294_967_297,
            expected_version: 2,
            events: vec![EventBody { kind: "Probed".into(), format: 1, body: Bytes::from(vec![n; 3]) }],
            snapshot,
            part: None,
        };
        let snapshot = StreamSnapshot { format: 7, body: "state".into() };
        Batch::encode(0, 0, WallMs(1_700_000_000_000), vec![append(1, None), append(2, Some(snapshot))]).unwrap()
    }

    fn entry(payload: EntryPayload<TypeConfig>) -> Entry<TypeConfig> {
        Entry { log_id: LogId::new(openraft::CommittedLeaderId::new(3, 1), 9), payload }
    }

    fn events() -> Vec<u8> {
        let batch = batch();
        let (first, second) = batch.bodies.split_at(batch.lens[0] as usize);
        let place = |first_cursor, n: usize| Place { first_cursor, events: 1, len: batch.lens[n] };
        write_events(5, 6, batch.at, &[place(5, 0), place(6, 1)], &[first, second])
    }

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    // Written by the first version of format 1. Never make them anew: files with such bytes exist.
    const ENTRY: &str = "010651a41109000000000000000300000000000000010000000000000002020000000068e5cf8b010000430000004b00000095d92670726f62655f30\
        30303030303030303030303030303030303030303030303030303030303031cf0000000100000001029193a650726f62656401c403010101c095d926\
        70726f62655f3030303030303030303030303030303030303030303030303030303030303032cf0000000100000001029193a650726f62656401c403\
        0202029207c4057374617465";
    const EVENTS: &str = "019ed29000050000000000000006000000000000000068e5cf8b01000002000000050000000000000001000000430000000600000000000000010000\
        004b00000095d92670726f62655f3030303030303030303030303030303030303030303030303030303030303031cf0000000100000001029193a650\
        726f62656401c403010101c095d92670726f62655f3030303030303030303030303030303030303030303030303030303030303032cf000000010000\
        0001029193a650726f62656401c4030202029207c4057374617465";
    const HEAD: &str = "018a1d067392d92670726f62655f30303030303030303030303030303030303030303030303030303030303030319404cf0000000100000001049500\
        0204cd0384c405010503ff06";

    fn head() -> (String, super::super::head::HeadRow) {
        let mut head = super::super::head::Head::default();
        head.append(4_294_967_297, 5, 1);
        head.append(4_294_967_297, 900, 3);
        head.row.snapshot_version = 4;
        ("probe_00000000000000000000000000000001".into(), head.row)
    }

    #[test]
    fn bytes_of_format_1_still_decode() {
        let EntryPayload::Normal(Command::Batch(read)) = read_entry(9, &hex(ENTRY)).unwrap().payload else { panic!("no batch") };
        assert_eq!((read.at, &read.appends), (batch().at, &batch().appends));
        let read = Events::read(5, &hex(EVENTS)).unwrap();
        assert_eq!((read.first, read.last, read.at), (5, 6, WallMs(1_700_000_000_000)));
        assert_eq!(read.append(read.slot_of(6).unwrap()).unwrap(), batch().appends[1]);
        let event = events_of(&read.append(0).unwrap(), 5, read.at).next().unwrap();
        assert_eq!((event.cursor, event.version, &*event.kind, &event.body[..]), (Cursor(5), 3, "Probed", &[1, 1, 1][..]));
        assert_eq!(unframe::<(String, super::super::head::HeadRow)>(&hex(HEAD)).unwrap(), head());
        // While format 1 is what is written, the same bytes come out.
        assert_eq!(events(), hex(EVENTS));
    }

    #[test]
    fn a_format_of_the_future_is_named_and_not_guessed_at() {
        let mut bytes = hex(EVENTS);
        bytes[0] = 2;
        let error = Events::read(5, &seal(bytes)).unwrap_err();
        assert!(error.contains("format 2 is not known"), "{error}");
    }

    #[test]
    fn any_flipped_bit_or_cut_is_noticed() {
        for whole in [hex(ENTRY), hex(EVENTS), hex(HEAD)] {
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(body(&bytes).is_err(), "bit {bit}");
            }
            for cut in 0..whole.len() {
                assert!(body(&whole[..cut]).is_err(), "cut at {cut}");
            }
        }
        assert!(read_entry(8, &hex(ENTRY)).is_err() && Events::read(4, &hex(EVENTS)).is_err(), "filed under another key");
    }

    #[test]
    fn every_kind_of_entry_reads_back() {
        let members = openraft::Membership::new(
            vec![[1_u64].into()],
            [(1_u64, super::super::raft::Node::new("here"))].into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        );
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Membership(members),
            EntryPayload::Normal(Command::NextEpoch),
            EntryPayload::Normal(Command::Compact { keep_after: Cursor(77) }),
            EntryPayload::Normal(Command::Batch(Arc::new(batch()))),
        ] {
            let wanted = entry(payload);
            let read = read_entry(9, &write_entry(&wanted).unwrap()).unwrap();
            assert_eq!((read.log_id, format!("{:?}", read.payload)), (wanted.log_id, format!("{:?}", wanted.payload)));
            let packed = rmp_serde::to_vec(&wanted).unwrap();
            assert_eq!(
                format!("{:?}", rmp_serde::from_slice::<Entry<TypeConfig>>(&packed).unwrap()),
                format!("{wanted:?}"),
                "over the network"
            );
        }
    }
}
