//! Sums of what a session wrote: a transcript is read as it was written, or not at all.
//!
//! Beside each stream lies a file with one sum for each 64 KiB of it, written when that much is there, and for the rest when
//! nothing follows. What was written last, while the session runs, has no sum yet. Transcripts of older versions have no such
//! file and are read as they are.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::unistd::Whence;

use super::{Stream, layout::stream_name};

pub(super) const BLOCK_BYTES: u64 = 64 << 10;
const SUM_BYTES: usize = 4;

/// CRC-32 of a block: damage is what is looked for, and a shim is small.
type Sum = [u8; SUM_BYTES];

/// Returns a sum of three bytes, for records that have no room for more; never zeros, which older versions left there.
pub(super) fn short_sum(bytes: &[u8]) -> [u8; 3] {
    let [first, second, third, fourth] = crc32fast::hash(bytes).to_le_bytes();
    let short = [first ^ fourth, second, third];
    if short == [0; 3] { [1, 0, 0] } else { short }
}

pub(super) fn path_of(dir: &Path, stream: Stream) -> PathBuf {
    dir.join(format!("{}.sums", stream_name(stream)))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the transcript is damaged: {what}"))
}

/// Place of a writer in the block that it is writing.
#[derive(Clone, Default)]
pub(super) struct At {
    hasher: crc32fast::Hasher,
    in_block: u64,
    /// Number of blocks before it, which are whole.
    blocks: u64,
}

/// Writer of the sums of one stream.
pub(super) struct Sums {
    file: File,
    at: At,
}

impl Sums {
    /// Begins the sums of a stream of which nothing was written.
    pub(super) fn create(dir: &Path, stream: Stream) -> io::Result<Self> {
        let file = File::options().write(true).create(true).truncate(true).open(path_of(dir, stream))?;
        Ok(Self { file, at: At::default() })
    }

    /// Goes on with the sums of a stream that has `length` bytes. Sums that are missing are made from what is there; a sum of
    /// what was then the end goes.
    pub(super) fn reopen(dir: &Path, stream: Stream, data: &File, length: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path_of(dir, stream))?;
        let blocks = (file.metadata()?.len() / SUM_BYTES as u64).min(length / BLOCK_BYTES);
        file.set_len(blocks * SUM_BYTES as u64)?;
        let mut sums = Self { file, at: At { blocks, ..At::default() } };
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut from = blocks * BLOCK_BYTES;
        while from < length {
            let wanted = usize::try_from(length - from).unwrap_or(usize::MAX).min(buffer.len());
            data.read_exact_at(&mut buffer[..wanted], from)?;
            let at = sums.write(&buffer[..wanted])?;
            sums.commit(at);
            from += wanted as u64;
        }
        Ok(sums)
    }

    /// Writes the sums of the blocks that these bytes make whole. They count when the answer is committed; until then it may
    /// be done again.
    pub(super) fn write(&self, mut bytes: &[u8]) -> io::Result<At> {
        let mut at = self.at.clone();
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK_BYTES - at.in_block).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(bytes.len().min(room));
            at.hasher.update(part);
            at.in_block += part.len() as u64;
            bytes = rest;
            if at.in_block == BLOCK_BYTES {
                self.file.write_all_at(&at.hasher.clone().finalize().to_le_bytes(), at.blocks * SUM_BYTES as u64)?;
                at = At { blocks: at.blocks + 1, ..At::default() };
            }
        }
        Ok(at)
    }

    pub(super) fn commit(&mut self, at: At) {
        self.at = at;
    }

    /// Writes the sum of the rest: nothing follows. May be repeated.
    pub(super) fn finish(&self) -> io::Result<()> {
        if self.at.in_block > 0 {
            self.file.write_all_at(&self.at.hasher.clone().finalize().to_le_bytes(), self.at.blocks * SUM_BYTES as u64)?;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Reader of one stream with its sums.
#[derive(Debug)]
pub(super) struct Summed {
    data: File,
    /// Sums of the stream; absent for one of an older version.
    sums: Option<File>,
}

impl Summed {
    pub(super) fn open(dir: &Path, stream: Stream) -> io::Result<Self> {
        let sums = match File::open(path_of(dir, stream)) {
            Ok(sums) => Some(sums),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { data: File::open(dir.join(stream_name(stream)))?, sums })
    }

    pub(super) fn bytes(&self) -> io::Result<u64> {
        Ok(self.data.metadata()?.len())
    }

    /// Returns how many bytes from `offset` on were given back to the disk while the session ran. Of a block of which some was,
    /// the rest cannot be checked any more, and has gone as well.
    pub(super) fn freed(&self, offset: u64) -> io::Result<u64> {
        let length = self.bytes()?;
        // Neither fails where there is nothing to be found: then there is no hole, or nothing but one.
        let seek = |from: u64, whence| nix::unistd::lseek(&self.data, from.cast_signed(), whence).map(i64::cast_unsigned);
        let mut end = seek(offset, Whence::SeekData).unwrap_or(offset);
        while self.sums.is_some() && end < length {
            let block = end / BLOCK_BYTES * BLOCK_BYTES;
            let block_end = (block + BLOCK_BYTES).min(length);
            if seek(block, Whence::SeekHole).unwrap_or(length) >= block_end {
                break;
            }
            end = seek(block_end, Whence::SeekData).unwrap_or(block_end);
        }
        Ok(end.min(length).saturating_sub(offset))
    }

    /// Reads as much as is there of what was wanted. `ended`: nothing follows, and that was known before this was called.
    ///
    /// Errors: `InvalidData` if what is there is not what was written; nothing of it is given.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64, ended: bool) -> io::Result<usize> {
        let Some(sums) = &self.sums else { return read_full(&self.data, buffer, offset) };
        let end = offset.saturating_add(buffer.len() as u64);
        let (mut block, mut got) = (vec![0; BLOCK_BYTES as usize], 0);
        for number in offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            let begin = number * BLOCK_BYTES;
            // What is written meanwhile only adds to a block, and its sum comes after it.
            let there = read_full(&self.data, &mut block, begin)?;
            let whole = there as u64 == BLOCK_BYTES;
            if there > 0 && (whole || ended) {
                let mut sum = Sum::default();
                let has_sum = read_full(sums, &mut sum, number * SUM_BYTES as u64)? == SUM_BYTES;
                if has_sum && crc32fast::hash(&block[..there]).to_le_bytes() != sum {
                    return Err(damaged(&format!("bytes {begin} to {} are not what was written", begin + there as u64)));
                }
                if !has_sum && ended {
                    return Err(damaged("a sum of it is missing"));
                }
            }
            let from = usize::try_from(offset.saturating_sub(begin)).unwrap_or(usize::MAX).min(there);
            let to = usize::try_from(end - begin).unwrap_or(usize::MAX).min(there);
            buffer[got..got + (to - from)].copy_from_slice(&block[from..to]);
            got += to - from;
            if !whole {
                break;
            }
        }
        Ok(got)
    }

    /// Reads all of it that has a sum, block by block; `each` hears how much was read, and may end it with an error.
    pub(super) fn verify(&self, ended: bool, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
        let (mut block, mut offset) = (vec![0; BLOCK_BYTES as usize], 0);
        loop {
            // Freed on disk while it ran: there is nothing to be looked at.
            offset += self.freed(offset)?;
            let got = self.read_at(&mut block, offset, ended)?;
            if got == 0 {
                return Ok(());
            }
            offset += got as u64;
            each(got as u64)?;
        }
    }
}

/// Reads as `read_at` does, until the buffer is full or the file ends.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Returns a record of JSON with a sum over all that stands before it as its last field.
pub(super) fn sealed(json: &[u8]) -> Vec<u8> {
    let body = json.strip_suffix(b"}").unwrap_or(json);
    let mut out = body.to_vec();
    out.extend_from_slice(SEAL.as_bytes());
    out.extend_from_slice(format!("{:08x}\"}}", crc32fast::hash(body)).as_bytes());
    out
}

const SEAL: &str = ",\"sum\":\"";

/// Looks whether a record is as it was written. Older versions wrote none of its fields that is named `since`, and no sum.
///
/// Errors: `InvalidData` if it is not.
pub(super) fn check_seal(text: &[u8], since: &str) -> io::Result<()> {
    let found = |what: &[u8]| text.windows(what.len()).rposition(|window| window == what);
    let whole = match found(SEAL.as_bytes()) {
        Some(at) => {
            let (body, sum) = (&text[..at], &text[at + SEAL.len()..]);
            sum == format!("{:08x}\"}}", crc32fast::hash(body)).as_bytes()
        }
        None => found(since.as_bytes()).is_none(),
    };
    if whole { Ok(()) } else { Err(damaged("the record of its end is not what was written")) }
}
