//! The shim's side of the transcripts: appends to `stdout` and `stderr`, and to `index` what came when.
//!
//! A write that failed half-way (disk full) is repeated at the same place: lengths advance only after success.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use hiveward_runtime::clock::WallMs;
use nix::fcntl::{FallocateFlags, fallocate};

use super::super::{
    Stream,
    layout::{EXIT, Exit, INDEX, stream_name},
    sums::Sums,
    transcript::{RECORD_BYTES, Record},
    wire::Overflow,
};

/// Milliseconds within which output that follows on the same stream extends the last record instead of adding one.
const COALESCE_MS: i64 = 50;
/// Number of records that are kept of a process without an end: the index of older output is freed with the output. They are 2
/// MiB.
const RECORDS_KEPT: u64 = 1 << 16;
/// Number of records that are freed together, so that it is done rarely.
const RECORDS_PER_HOLE: u64 = 1 << 12;

pub(crate) struct Transcripts {
    dir: PathBuf,
    files: [File; 2],
    sums: [Sums; 2],
    lengths: [u64; 2],
    freed: [u64; 2],
    index: File,
    records: u64,
    records_freed: u64,
    last: Option<Record>,
    arrival: u64,
    overflow: Overflow,
    pub dropped: u64,
    consumed: u64,
}

impl Transcripts {
    /// Begins the transcripts of a session; `dir` is its directory.
    pub(crate) fn create(dir: &Path, overflow: Overflow) -> io::Result<Self> {
        let open = |name: &str| File::options().write(true).create(true).truncate(true).open(dir.join(name));
        Ok(Self {
            dir: dir.to_owned(),
            files: [open(stream_name(Stream::Stdout))?, open(stream_name(Stream::Stderr))?],
            sums: [Sums::create(dir, Stream::Stdout)?, Sums::create(dir, Stream::Stderr)?],
            lengths: [0; 2],
            freed: [0; 2],
            index: open(INDEX)?,
            records: 0,
            records_freed: 0,
            last: None,
            arrival: 0,
            overflow,
            dropped: 0,
            consumed: 0,
        })
    }

    /// Goes on with what is there, for a writer that is no shim and writes to standard output only. More than `bytes_max`
    /// is thrown away. After a power cut, output beyond `whole` bytes is cut off, and the index made to fit.
    pub(crate) fn reopen(dir: &Path, bytes_max: u64, whole: Option<u64>) -> io::Result<Self> {
        let open = |name: &str| File::options().read(true).write(true).create(true).truncate(false).open(dir.join(name));
        let files = [open(stream_name(Stream::Stdout))?, open(stream_name(Stream::Stderr))?];
        let index = open(INDEX)?;
        if let Some(whole) = whole.filter(|whole| files[0].metadata().is_ok_and(|meta| meta.len() > *whole)) {
            files[0].set_len(whole)?;
        }
        let lengths = [files[0].metadata()?.len(), files[1].metadata()?.len()];
        let records = index.metadata()?.len() / RECORD_BYTES as u64;
        let last = match records.checked_sub(1) {
            Some(number) => {
                let mut bytes = [0; RECORD_BYTES];
                index.read_exact_at(&mut bytes, number * RECORD_BYTES as u64)?;
                // One that is damaged is made anew below.
                Record::decode(&bytes).ok()
            }
            None => None,
        };
        let (mut records, mut last) = (records, last);
        if last.map_or(0, |last| last.arrival + u64::from(last.len)) != lengths[0] {
            let len = u32::try_from(lengths[0]).map_err(|_| io::Error::other("a transcript is too long to be indexed anew"))?;
            let all = Record { arrival: 0, offset: 0, at: WallMs(0), len, stream: Stream::Stdout };
            index.set_len(0)?;
            (records, last) = (0, None);
            if len > 0 {
                index.write_all_at(&all.encode(), 0)?;
                (records, last) = (1, Some(all));
            }
        }
        let sums = [
            Sums::reopen(dir, Stream::Stdout, &files[0], lengths[0])?,
            Sums::reopen(dir, Stream::Stderr, &files[1], lengths[1])?,
        ];
        Ok(Self {
            dir: dir.to_owned(),
            files,
            sums,
            lengths,
            freed: [0; 2],
            index,
            records,
            records_freed: 0,
            last,
            arrival: last.map_or(0, |last| last.arrival + u64::from(last.len)),
            overflow: Overflow::Drop { bytes_max },
            dropped: 0,
            consumed: 0,
        })
    }

    pub(crate) fn stdout_len(&self) -> u64 {
        self.lengths[0]
    }

    /// Says that nothing follows.
    pub(crate) fn close(self, exit: &Exit) -> io::Result<()> {
        self.sums.iter().try_for_each(Sums::finish)?;
        let temporary = self.dir.join(".exit.new");
        std::fs::write(&temporary, exit.sealed()?)?;
        std::fs::rename(temporary, self.dir.join(EXIT))
    }

    /// Ends the transcripts: nothing follows. All that was written is on the disk when it returns, under its name.
    pub(super) fn finish(&self) -> io::Result<()> {
        for (sums, _) in self.sums.iter().zip(self.lengths).filter(|(_, length)| *length > 0) {
            sums.finish()?;
            sums.sync()?;
        }
        let written = self.files.iter().zip(self.lengths).filter(|(_, length)| *length > 0);
        written.map(|(file, _)| file).chain((self.records > 0).then_some(&self.index)).try_for_each(File::sync_data)?;
        // Without its own name in what it is in, the session would be taken for one that never began.
        [self.dir.clone(), self.dir.join("..")].iter().try_for_each(|dir| File::open(dir)?.sync_all())
    }

    pub(super) fn lengths(&self) -> (u64, u64) {
        (self.lengths[0], self.lengths[1])
    }

    /// Tells whether more may be read: not while the process has to wait for the node.
    pub(super) fn has_room(&self) -> bool {
        match self.overflow {
            Overflow::Drop { .. } => true,
            Overflow::Wait { window_bytes } => self.lengths[0] < self.consumed.saturating_add(window_bytes),
        }
    }

    pub(super) fn consumed(&mut self, stdout: u64) {
        self.consumed = self.consumed.max(stdout.min(self.lengths[0]));
        if let Overflow::Wait { window_bytes } = self.overflow {
            self.free(Stream::Stdout, self.consumed.saturating_sub(window_bytes));
        }
    }

    pub(crate) fn append(&mut self, stream: Stream, bytes: &[u8], now: WallMs) -> io::Result<()> {
        let kept = match self.overflow {
            Overflow::Drop { bytes_max } => {
                let used = self.arrival + self.records * RECORD_BYTES as u64;
                bytes.len().min(usize::try_from(bytes_max.saturating_sub(used)).unwrap_or(usize::MAX))
            }
            Overflow::Wait { .. } => bytes.len(),
        };
        if kept > 0 {
            self.write(stream, &bytes[..kept], now)?;
        }
        self.dropped += (bytes.len() - kept) as u64;
        if let (Stream::Stderr, Overflow::Wait { window_bytes }) = (stream, self.overflow) {
            self.free(Stream::Stderr, self.lengths[1].saturating_sub(window_bytes));
        }
        Ok(())
    }

    fn write(&mut self, stream: Stream, bytes: &[u8], now: WallMs) -> io::Result<()> {
        let s = stream as usize;
        self.files[s].write_all_at(bytes, self.lengths[s])?;
        let summed = self.sums[s].write(bytes)?;
        let len = bytes.len() as u32;
        let extends =
            |last: &Record| last.stream == stream && (0..COALESCE_MS).contains(&(now.0 - last.at.0)) && last.len < u32::MAX / 2;
        let (position, record) = match self.last.filter(extends) {
            Some(last) => (self.records - 1, Record { len: last.len + len, ..last }),
            None => (self.records, Record { arrival: self.arrival, offset: self.lengths[s], at: now, len, stream }),
        };
        self.index.write_all_at(&record.encode(), position * RECORD_BYTES as u64)?;
        self.records = position + 1;
        self.free_index();
        self.last = Some(record);
        self.sums[s].commit(summed);
        self.lengths[s] += u64::from(len);
        self.arrival += u64::from(len);
        Ok(())
    }

    fn free_index(&mut self) {
        let old = self.records.saturating_sub(RECORDS_KEPT) / RECORDS_PER_HOLE * RECORDS_PER_HOLE;
        if matches!(self.overflow, Overflow::Wait { .. }) && old > self.records_freed {
            let at = |record: u64| (record * RECORD_BYTES as u64).cast_signed();
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A file system without holes keeps the records: more disk, nothing wrong.
            let _ = fallocate(&self.index, hole, at(self.records_freed), at(old - self.records_freed));
            self.records_freed = old;
        }
    }

    /// Gives the disk space below `offset` back; offsets stay what they were.
    fn free(&mut self, stream: Stream, offset: u64) {
        const STEP: u64 = 1 << 20;
        let s = stream as usize;
        let offset = offset / STEP * STEP;
        if offset > self.freed[s] {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A file system without holes keeps the bytes: more disk, nothing wrong.
            let _ = fallocate(&self.files[s], hole, self.freed[s] as i64, (offset - self.freed[s]) as i64);
            self.freed[s] = offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::session::transcript::Reader;

    #[test]
    fn the_index_of_a_process_without_an_end_stays_small_and_readers_find_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let mut transcripts = Transcripts::create(dir.path(), Overflow::Wait { window_bytes: 1 << 20 }).unwrap();
        let records = 3 * RECORDS_KEPT;
        for n in 0..records {
            // Later than what would be coalesced.
            transcripts.append(Stream::Stdout, b"x", WallMs(n as i64 * COALESCE_MS)).unwrap();
        }
        let index = std::fs::metadata(dir.path().join(INDEX)).unwrap();
        assert_eq!(index.len(), records * RECORD_BYTES as u64);
        assert!(index.blocks() * 512 <= (RECORDS_KEPT + 2 * RECORDS_PER_HOLE) * RECORD_BYTES as u64, "{}", index.blocks() * 512);

        // From the first byte on: what was freed is skipped, and nothing comes twice.
        let mut reader = Reader::open(dir.path()).unwrap();
        let skipped = reader.read(0, 64).unwrap();
        assert!(skipped.bytes.is_empty() && !skipped.at_end && skipped.next_byte == transcripts.records_freed, "{skipped:?}");
        let (mut at, mut read) = (skipped.next_byte, 0);
        while at < records {
            let chunk = reader.read(at, 64).unwrap();
            assert!(chunk.next_byte > at);
            (at, read) = (chunk.next_byte, read + chunk.bytes.len() as u64);
        }
        assert_eq!((at, read), (records, records - transcripts.records_freed));
    }
}
