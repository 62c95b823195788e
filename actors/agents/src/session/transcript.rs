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

use super::{
    Stream,
    layout::SessionDir,
    sums::{Summed, short_sum},
};

pub(super) const RECORD_BYTES: usize = 32;
/// Interval at which a waiting reader looks for more.
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
        let sum = short_sum(&bytes[..29]);
        bytes[29..].copy_from_slice(&sum);
        bytes
    }

    /// Reads one. A record that was freed on disk, or written by an older version, has zeros for its sum.
    ///
    /// Errors: `InvalidData` if it is not what was written.
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES]) -> io::Result<Self> {
        if bytes[29..] != [0; 3] && bytes[29..] != short_sum(&bytes[..29]) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the transcript is damaged: its index is not what was written",
            ));
        }
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(word)
        };
        Ok(Self {
            arrival: word(0),
            offset: word(8),
            at: WallMs(word(16) as i64),
            len: u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]),
            stream: if bytes[28] == 0 { Stream::Stdout } else { Stream::Stderr },
        })
    }
}

/// A stretch of output of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Offset that was asked for.
    pub after_byte: u64,
    /// Offset to ask with for what follows. It is more than `bytes` away only where a long-lived worker's old output was freed:
    /// that much is gone.
    pub next_byte: u64,
    pub stream: Stream,
    /// Time at which the first byte of its stretch came, to within 50 ms; absent in an empty chunk.
    pub at: Option<WallMs>,
    pub bytes: Bytes,
    /// Whether the process has ended and nothing follows.
    pub at_end: bool,
}

/// An open transcript. Cheap: files are opened as they are needed.
#[derive(Debug)]
pub struct Reader {
    dir: SessionDir,
    index: File,
    streams: [Option<Summed>; 2],
}

impl Reader {
    /// Opens the transcript of a session. Errors: `NotFound` if there is no such session, or it has not begun.
    pub fn open(dir: impl AsRef<Path>) -> io::Result<Self> {
        let dir = SessionDir::new(dir.as_ref());
        let index = File::open(dir.index())?;
        Ok(Self { dir, index, streams: [None, None] })
    }

    /// Returns up to `bytes_max` bytes of one stream. Empty at the end, and when nothing more has come yet.
    ///
    /// Errors: `InvalidData` if what is there is not what was written; nothing of it is given.
    pub fn read(&mut self, after_byte: u64, bytes_max: usize) -> io::Result<Chunk> {
        // Looked at first: what is written before the exit record is then surely seen.
        let ended = self.dir.read_exit()?.is_some();
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
        let freed = file.freed(record.offset + skip)?.min(u64::from(record.len) - skip);
        let mut bytes = vec![0; if freed > 0 { 0 } else { wanted }];
        let got = file.read_at(&mut bytes, record.offset + skip, ended)?;
        bytes.truncate(got);
        let next_byte = after_byte + freed + got as u64;
        // A transcript cut short by a power cut ends where its bytes end.
        let at_end = ended && if next_byte > after_byte { self.find(next_byte)?.is_none() } else { bytes_max > 0 };
        Ok(Chunk { after_byte, next_byte, stream: record.stream, at: Some(record.at), bytes: bytes.into(), at_end })
    }

    /// Reads as [`read`](Self::read) does, but waits for more until `deadline`. Dropping the future loses nothing.
    pub async fn next(&mut self, after_byte: u64, bytes_max: usize, deadline: Deadline) -> io::Result<Chunk> {
        loop {
            let chunk = self.read(after_byte, bytes_max)?;
            if chunk.next_byte > after_byte || chunk.at_end || deadline.passed() {
                return Ok(chunk);
            }
            tokio::time::sleep(POLL.min(deadline.remaining())).await;
        }
    }

    /// Returns the bytes of all output so far, of both streams.
    pub fn len(&self) -> io::Result<u64> {
        let records = self.records()?;
        Ok(if records == 0 { 0 } else { self.record(records - 1).map(|last| last.arrival + u64::from(last.len))? })
    }

    /// Tells whether there is no output yet.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.records()? == 0)
    }

    fn records(&self) -> io::Result<u64> {
        Ok(self.index.metadata()?.len() / RECORD_BYTES as u64)
    }

    fn record(&self, number: u64) -> io::Result<Record> {
        let mut bytes = [0; RECORD_BYTES];
        self.index.read_exact_at(&mut bytes, number * RECORD_BYTES as u64)?;
        Record::decode(&bytes)
    }

    /// Returns the record that holds the byte at `arrival`, or else the first after it. Freed records read as zeros: before any.
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

    fn stream(&mut self, stream: Stream) -> io::Result<&Summed> {
        let slot = &mut self.streams[stream as usize];
        match slot {
            Some(file) => Ok(file),
            None => Ok(slot.insert(Summed::open(self.dir.path(), stream)?)),
        }
    }
}

/// Looks at all that a session wrote and that has a sum; `each` hears how many bytes were read, and may end it with an error.
///
/// Errors: `InvalidData` if some of it is not what was written, and `NotFound` if nothing was or it is gone.
pub fn verify(dir: impl AsRef<Path>, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let reader = Reader::open(&dir)?;
    let ended = reader.dir.read_exit()?.is_some();
    for number in 0..reader.records()? {
        reader.record(number)?;
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        Summed::open(dir.as_ref(), stream)?.verify(ended, &mut each)?;
    }
    Ok(())
}

/// Returns the last `bytes_max` bytes of a stream as text; what is not UTF-8 is shown as U+FFFD. Empty if there is none.
pub fn last_text(dir: impl AsRef<Path>, stream: Stream, bytes_max: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let dir = SessionDir::new(dir.as_ref());
        let (ended, file) = (dir.read_exit()?.is_some(), Summed::open(dir.path(), stream)?);
        let len = file.bytes()?;
        let mut bytes = vec![0; usize::try_from(len.min(bytes_max)).unwrap_or(0)];
        let got = file.read_at(&mut bytes, len.saturating_sub(bytes_max), ended)?;
        bytes.truncate(got);
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => format!("({error})"),
        // There is none.
        Err(_) => String::new(),
    }
}

/// Returns the length of a stream's transcript in bytes; zero if there is none.
pub fn stream_len(dir: impl AsRef<Path>, stream: Stream) -> u64 {
    fs::metadata(SessionDir::new(dir.as_ref()).stream(stream)).map_or(0, |meta| meta.len())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            layout::{EXIT, Exit, INDEX},
            shim::Recorder,
            sums::{BLOCK_BYTES, path_of},
            wire::Overflow,
        },
        *,
    };

    /// Gives what a reader was given, with where, and says whether it came to the end without an error.
    fn served(dir: &Path, bytes_max: usize) -> (Vec<(u64, Bytes)>, bool) {
        let (mut all, mut at) = (Vec::new(), 0);
        let Ok(mut reader) = Reader::open(dir) else { return (all, false) };
        loop {
            match reader.read(at, bytes_max) {
                Ok(chunk) if chunk.next_byte == at => return (all, chunk.at_end),
                Ok(chunk) => {
                    // A gap has no bytes.
                    if !chunk.bytes.is_empty() {
                        all.push((at, chunk.bytes));
                    }
                    at = chunk.next_byte;
                }
                Err(_) => return (all, false),
            }
        }
    }

    /// Writes both streams, from nothing to several blocks, in pieces of all sizes. Returns what was written in the order of
    /// arrival.
    fn written(dir: &Path, dice: &mut fastrand::Rng) -> Vec<u8> {
        let mut recorder = Recorder::create(dir, Overflow::Drop { bytes_max: u64::MAX }).unwrap();
        let mut whole = Vec::new();
        for n in 0..dice.i64(1..40) {
            let stream = if dice.u8(..4) == 0 { Stream::Stderr } else { Stream::Stdout };
            let most = if dice.bool() { 20_000 } else { 100 };
            let mut piece = vec![0; dice.usize(..most)];
            dice.fill(&mut piece);
            recorder.append(stream, &piece, WallMs(n * dice.i64(1..100))).unwrap();
            whole.extend(piece);
        }
        recorder.close(&Exit { code: Some(0), ..Exit::default() }).unwrap();
        whole
    }

    #[test]
    fn no_single_bit_of_a_record_can_flip_without_its_sum() {
        let record = Record { arrival: 3, offset: 1 << 40, at: WallMs(1_700_000_000_000), len: 77, stream: Stream::Stderr };
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        for bit in 0..RECORD_BYTES * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&wrong).is_err(), "bit {bit}");
        }
    }

    /// Flips as many bits as `HIVEWARD_FLIPS` says; `HIVEWARD_SEED` does the same again.
    #[test]
    fn any_flipped_bit_of_what_a_session_wrote_is_found_and_nothing_is_served_that_was_not_written() {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let (flips, seed) = (number("HIVEWARD_FLIPS").unwrap_or(300), number("HIVEWARD_SEED").unwrap_or(fastrand::u64(..)));
        println!("seed: HIVEWARD_SEED={seed}");
        let mut dice = fastrand::Rng::with_seed(seed);
        let (mut flipped, mut refused) = (0, 0);
        while flipped < flips {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path();
            let whole = written(dir, &mut dice);
            verify(dir, |_| Ok(())).unwrap();
            let (all, at_end) = served(dir, 1 << 20);
            assert!(at_end && all.iter().flat_map(|(_, bytes)| bytes.to_vec()).eq(whole.iter().copied()), "seed {seed}");
            let streams = [Stream::Stdout, Stream::Stderr];
            let mut files = streams.map(|stream| SessionDir::new(dir).stream(stream)).to_vec();
            files.extend(streams.map(|stream| path_of(dir, stream)));
            files.extend([dir.join(INDEX), dir.join(EXIT)]);
            for _ in 0..20 {
                let file = dice.choice(&files).unwrap();
                let right = fs::read(file).unwrap();
                if right.is_empty() {
                    continue;
                }
                let (at, bit) = (dice.usize(..right.len()), dice.u8(..8));
                let mut wrong = right.clone();
                wrong[at] ^= 1 << bit;
                fs::write(file, &wrong).unwrap();
                let place = format!("seed {seed}: bit {bit} of byte {at} of {}", file.display());
                let error = verify(dir, |_| Ok(())).expect_err(&place);
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{place}: {error}");
                for bytes_max in [1, 1000, 1 << 20].into_iter().skip(usize::from(whole.len() > 50_000)) {
                    let (all, at_end) = served(dir, bytes_max);
                    refused += u64::from(!at_end);
                    for (at, bytes) in all {
                        assert!(whole[at as usize..].starts_with(&bytes), "{place}: it was served at {at}");
                    }
                }
                fs::write(file, right).unwrap();
                flipped += 1;
            }
        }
        println!("{flipped} bits flipped, {refused} readings refused");
        assert!(refused > flipped / 2);
    }

    /// Checks what comes of a file system that gives back less than it was asked to.
    #[test]
    fn what_is_left_of_a_block_that_was_partly_freed_is_a_gap_and_no_damage() {
        use nix::fcntl::{FallocateFlags, fallocate};

        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let whole: Vec<u8> = (0..5 * BLOCK_BYTES).map(|n| (n % 251) as u8 + 1).collect();
        let mut recorder = Recorder::create(dir, Overflow::Drop { bytes_max: u64::MAX }).unwrap();
        recorder.append(Stream::Stdout, &whole, WallMs(1)).unwrap();
        recorder.close(&Exit::default()).unwrap();
        let file = File::options().write(true).open(SessionDir::new(dir).stream(Stream::Stdout)).unwrap();
        file.sync_all().unwrap();
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, hole, 0, (2 * BLOCK_BYTES + 8192).cast_signed()).unwrap();
        verify(dir, |_| Ok(())).unwrap();
        let (all, at_end) = served(dir, 10_000);
        assert!(at_end);
        assert_eq!(all[0].0, 3 * BLOCK_BYTES);
        for (at, bytes) in all {
            assert!(whole[at as usize..].starts_with(&bytes), "at {at}");
        }
    }

    #[test]
    fn what_is_gone_on_with_after_a_restart_has_its_sums_and_what_older_versions_wrote_is_read() {
        let mut dice = fastrand::Rng::with_seed(7);
        for kept in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5] {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path();
            let mut first = Recorder::reopen(dir, u64::MAX, None).unwrap();
            let mut whole = vec![0; 4 * BLOCK_BYTES as usize];
            dice.fill(&mut whole);
            first.append(Stream::Stdout, &whole, WallMs(1)).unwrap();
            drop(first);
            whole.truncate(kept as usize);
            // A power cut took the rest, and one of the sums with it.
            let sums = fs::read(path_of(dir, Stream::Stdout)).unwrap();
            fs::write(path_of(dir, Stream::Stdout), &sums[..sums.len().saturating_sub(4)]).unwrap();
            let mut second = Recorder::reopen(dir, u64::MAX, Some(kept)).unwrap();
            second.append(Stream::Stdout, b"more", WallMs(2)).unwrap();
            second.close(&Exit::default()).unwrap();
            whole.extend(b"more");
            verify(dir, |_| Ok(())).unwrap();
            let read = |dir: &Path| served(dir, 1 << 20).0.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>();
            assert!(read(dir) == whole, "{kept} bytes were kept");
            // As they wrote it: no sums anywhere.
            for stream in [Stream::Stdout, Stream::Stderr] {
                fs::remove_file(path_of(dir, stream)).unwrap();
            }
            let mut index = fs::read(dir.join(INDEX)).unwrap();
            index.chunks_exact_mut(RECORD_BYTES).for_each(|record| record[29..].fill(0));
            fs::write(dir.join(INDEX), index).unwrap();
            fs::write(dir.join(EXIT), br#"{"code":0,"signal":null,"timed_out":false,"stopped":false,"oom_killed":false,"cpu_ms":0,"rss_max_bytes":0,"dropped_bytes":0,"ended_at":5,"launch_error":null}"#).unwrap();
            verify(dir, |_| Ok(())).unwrap();
            assert!(read(dir) == whole && SessionDir::new(dir).exit().is_some_and(|exit| exit.success()));
        }
    }
}
