//! Reads a session's output in the order in which it came, over both streams, by one byte offset that can be resumed.
//!
//! Only reads; works the same while the session runs, after its end and without its shim. The offset counts bytes of
//! stdout and stderr together, in arrival order; `index` says where each stretch is.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use hiveward_runtime::clock::{Deadline, WallMs};

use super::{Stream, layout::SessionDir};

pub(super) const RECORD_BYTES: usize = 32;
/// How often a waiting reader looks for more.
const POLL: Duration = Duration::from_millis(50);

/// One line of the index: `len` bytes of `stream` at `offset`, which came after `arrival` bytes of output in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub arrival: u64,
    pub offset: u64,
    pub at: WallMs,
    pub len: u32,
    pub stream: Stream,
}

impl Record {
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.arrival.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.at.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28] = self.stream as u8;
        bytes
    }

    pub(super) fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(word)
        };
        Self {
            arrival: word(0),
            offset: word(8),
            at: WallMs(word(16) as i64),
            len: u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]),
            stream: if bytes[28] == 0 { Stream::Stdout } else { Stream::Stderr },
        }
    }
}

/// A stretch of output of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The offset that was asked for.
    pub after_byte: u64,
    /// Ask with this for what follows. More than `bytes` away only where a long-lived worker's old output was freed:
    /// that much is gone.
    pub next_byte: u64,
    pub stream: Stream,
    /// When the first byte of its stretch came, to within 50 ms; absent in an empty chunk.
    pub at: Option<WallMs>,
    pub bytes: Bytes,
    /// The process has ended and nothing follows.
    pub at_end: bool,
}

/// An open transcript. Cheap: files are opened as they are needed.
#[derive(Debug)]
pub struct Reader {
    dir: SessionDir,
    index: File,
    streams: [Option<File>; 2],
}

impl Reader {
    /// Errors: `NotFound` if there is no such session, or it has not begun.
    pub fn open(dir: impl AsRef<Path>) -> io::Result<Self> {
        let dir = SessionDir::new(dir.as_ref());
        let index = File::open(dir.index())?;
        Ok(Self { dir, index, streams: [None, None] })
    }

    /// Up to `bytes_max` bytes of one stream. Empty at the end, and when nothing more has come yet.
    pub fn read(&mut self, after_byte: u64, bytes_max: usize) -> io::Result<Chunk> {
        // Looked at first: what is written before the exit record is then surely seen.
        let ended = self.dir.exit().is_some();
        let nothing =
            |at_end| Chunk { after_byte, next_byte: after_byte, stream: Stream::Stdout, at: None, bytes: Bytes::new(), at_end };
        let Some(record) = self.find(after_byte)? else { return Ok(nothing(ended)) };
        if record.arrival > after_byte {
            // The index of what was asked for was freed with it.
            return Ok(Chunk { next_byte: record.arrival, ..nothing(false) });
        }
        let skip = after_byte - record.arrival;
        let wanted = usize::try_from(u64::from(record.len) - skip).unwrap_or(usize::MAX).min(bytes_max);
        let file = self.stream(record.stream)?;
        let freed = freed_bytes(file, record.offset + skip).min(u64::from(record.len) - skip);
        let mut bytes = vec![0; if freed > 0 { 0 } else { wanted }];
        let got = file.read_at(&mut bytes, record.offset + skip)?;
        bytes.truncate(got);
        let next_byte = after_byte + freed + got as u64;
        // A transcript cut short by a power cut ends where its bytes end.
        let at_end = ended && if next_byte > after_byte { self.find(next_byte)?.is_none() } else { bytes_max > 0 };
        Ok(Chunk { after_byte, next_byte, stream: record.stream, at: Some(record.at), bytes: bytes.into(), at_end })
    }

    /// As [`read`](Self::read), but waits for more until `deadline`. Dropping the future loses nothing.
    pub async fn next(&mut self, after_byte: u64, bytes_max: usize, deadline: Deadline) -> io::Result<Chunk> {
        loop {
            let chunk = self.read(after_byte, bytes_max)?;
            if chunk.next_byte > after_byte || chunk.at_end || deadline.passed() {
                return Ok(chunk);
            }
            tokio::time::sleep(POLL.min(deadline.remaining())).await;
        }
    }

    /// All output so far, of both streams.
    pub fn len(&self) -> io::Result<u64> {
        let records = self.records()?;
        Ok(if records == 0 { 0 } else { self.record(records - 1).map(|last| last.arrival + u64::from(last.len))? })
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.records()? == 0)
    }

    fn records(&self) -> io::Result<u64> {
        Ok(self.index.metadata()?.len() / RECORD_BYTES as u64)
    }

    fn record(&self, number: u64) -> io::Result<Record> {
        let mut bytes = [0; RECORD_BYTES];
        self.index.read_exact_at(&mut bytes, number * RECORD_BYTES as u64)?;
        Ok(Record::decode(&bytes))
    }

    /// The record that holds the byte at `arrival`, or else the first after it. Freed records read as zeros: before any.
    fn find(&self, arrival: u64) -> io::Result<Option<Record>> {
        let (mut low, mut high) = (0, self.records()?);
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let record = self.record(middle)?;
            if record.len == 0 || record.arrival + u64::from(record.len) <= arrival {
                low = middle + 1;
            } else {
                found = Some(record);
                high = middle;
            }
        }
        Ok(found)
    }

    fn stream(&mut self, stream: Stream) -> io::Result<&File> {
        let slot = &mut self.streams[stream as usize];
        match slot {
            Some(file) => Ok(file),
            None => Ok(slot.insert(File::open(self.dir.stream(stream))?)),
        }
    }
}

/// How many bytes from `offset` on are a hole: the shim gave their disk space back.
fn freed_bytes(file: &File, offset: u64) -> u64 {
    let data = nix::unistd::lseek(file, offset.cast_signed(), nix::unistd::Whence::SeekData);
    data.map_or(0, |data| data.cast_unsigned().saturating_sub(offset))
}

/// The last `bytes_max` bytes of a stream as text; what is not UTF-8 is shown as U+FFFD.
pub fn last_text(dir: impl AsRef<Path>, stream: Stream, bytes_max: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(SessionDir::new(dir.as_ref()).stream(stream))?;
        let len = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(len.min(bytes_max)).unwrap_or(0)];
        let got = file.read_at(&mut bytes, len.saturating_sub(bytes_max))?;
        bytes.truncate(got);
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
}

/// Length of a stream's transcript in bytes; zero if there is none.
pub fn stream_len(dir: impl AsRef<Path>, stream: Stream) -> u64 {
    fs::metadata(SessionDir::new(dir.as_ref()).stream(stream)).map_or(0, |meta| meta.len())
}
