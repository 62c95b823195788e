//! The shim's side of the transcripts: appends to `stdout` and `stderr`, and to `index` what came when.
//!
//! A write that failed half-way (disk full) is repeated at the same place: lengths advance only after success.

use std::{fs::File, io, os::unix::fs::FileExt};

use hiveward_runtime::clock::WallMs;
use nix::fcntl::{FallocateFlags, fallocate};

use super::super::{
    Stream,
    layout::{INDEX, stream_name},
    transcript::{RECORD_BYTES, Record},
    wire::Overflow,
};

/// Output that follows this soon on the same stream extends the last record instead of adding one.
const COALESCE_MS: i64 = 50;

pub(super) struct Transcripts {
    files: [File; 2],
    lengths: [u64; 2],
    freed: [u64; 2],
    index: File,
    records: u64,
    last: Option<Record>,
    arrival: u64,
    overflow: Overflow,
    pub dropped: u64,
    consumed: u64,
}

impl Transcripts {
    /// In the current directory, which is the session's.
    pub(super) fn create(overflow: Overflow) -> io::Result<Self> {
        let open = |name: &str| File::options().write(true).create(true).truncate(true).open(name);
        Ok(Self {
            files: [open(stream_name(Stream::Stdout))?, open(stream_name(Stream::Stderr))?],
            lengths: [0; 2],
            freed: [0; 2],
            index: open(INDEX)?,
            records: 0,
            last: None,
            arrival: 0,
            overflow,
            dropped: 0,
            consumed: 0,
        })
    }

    pub(super) fn lengths(&self) -> (u64, u64) {
        (self.lengths[0], self.lengths[1])
    }

    /// False while the process has to wait for the node.
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

    pub(super) fn append(&mut self, stream: Stream, bytes: &[u8], now: WallMs) -> io::Result<()> {
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
        let len = bytes.len() as u32;
        let extends =
            |last: &Record| last.stream == stream && (0..COALESCE_MS).contains(&(now.0 - last.at.0)) && last.len < u32::MAX / 2;
        let (position, record) = match self.last.filter(extends) {
            Some(last) => (self.records - 1, Record { len: last.len + len, ..last }),
            None => (self.records, Record { arrival: self.arrival, offset: self.lengths[s], at: now, len, stream }),
        };
        self.index.write_all_at(&record.encode(), position * RECORD_BYTES as u64)?;
        self.records = position + 1;
        self.last = Some(record);
        self.lengths[s] += u64::from(len);
        self.arrival += u64::from(len);
        Ok(())
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
