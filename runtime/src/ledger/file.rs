//! The file under the store: the same file, with room held back for when the disk is full, and a witness.
//!
//! The store takes any failed write for the end of its life, so a full disk must not reach it: a write that finds no room
//! gives up the reserve and is tried again. The witness tells what was acknowledged last. It is not synced: after a crash
//! of the process it is exact, after a power cut it may be older, and it is never newer than what the log must hold.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

use crate::file::make_file;

/// The function that makes the backend for each of the ledger's files; tests put their own faults between.
#[derive(Clone)]
pub struct Backend(Arc<MakeBackend>);

type MakeBackend = dyn Fn(&Path, File) -> io::Result<Box<dyn StorageBackend>> + Send + Sync;

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

impl Backend {
    /// Takes the function that makes the backend of an open file.
    pub fn new(make: impl Fn(&Path, File) -> io::Result<Box<dyn StorageBackend>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self::new(|_, file| Ok(Box::new(redb::backends::FileBackend::new(file).map_err(io::Error::other)?)))
    }
}

/// The room on the disk that is given up when there is no other.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: Mutex<bool>,
}

impl Reserve {
    /// Makes a reserve of `bytes` in a file. Room that a life before this one held counts as held already: opening the files
    /// again on a full disk may need it.
    pub fn new(path: PathBuf, bytes: u64) -> Self {
        let there = std::fs::metadata(&path).is_ok_and(|meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512 >= bytes);
        Self { path, bytes, held: Mutex::new(bytes > 0 && there) }
    }

    /// Tells whether the room is held, or none is wanted.
    pub fn is_held(&self) -> bool {
        self.bytes == 0 || *self.held.lock()
    }

    /// Takes the room, if there is so much; tells whether it is held.
    pub fn hold(&self) -> bool {
        let mut held = self.held.lock();
        if self.bytes == 0 || *held {
            return true;
        }
        let taken = (|| {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)?;
            nix::fcntl::posix_fallocate(&file, 0, i64::try_from(self.bytes).unwrap_or(i64::MAX)).map_err(io::Error::from)
        })();
        if let Err(error) = &taken {
            tracing::warn!(%error, bytes = self.bytes, "no room can be held in reserve");
            // A part of it is of no use.
            let _ = std::fs::remove_file(&self.path);
        }
        *held = taken.is_ok();
        *held
    }

    /// Gives up the room; tells whether there was something to give up.
    fn give_up(&self) -> bool {
        let mut held = self.held.lock();
        let had = std::mem::take(&mut *held);
        if had {
            tracing::warn!(
                bytes = self.bytes,
                "the disk is full: the reserve is given up, writes are refused until there is room"
            );
            if let Err(error) = std::fs::remove_file(&self.path) {
                tracing::warn!(%error, "the reserve could not be given up");
                return false;
            }
        }
        had
    }
}

#[derive(Debug)]
pub struct Guarded {
    inner: Box<dyn StorageBackend>,
    reserve: Arc<Reserve>,
}

impl Guarded {
    /// Opens the file, or makes it, with `reserve` behind it.
    pub fn open(path: &Path, backend: &Backend, reserve: Arc<Reserve>) -> io::Result<Self> {
        Ok(Self { inner: backend.0(path, make_file(path)?)?, reserve })
    }

    fn again(&self, mut io: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        match io() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.reserve.give_up() => io(),
            other => other,
        }
    }
}

impl StorageBackend for Guarded {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.again(|| self.inner.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.again(|| self.inner.write(offset, data))
    }
    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// The witness: the index of the last entry that was acknowledged, in one of two places in turn.
#[derive(Debug)]
pub struct Witness {
    file: File,
    turn: u64,
}

const MARK: usize = 12;

impl Witness {
    /// Opens the witness's file, or makes it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: make_file(path)?, turn: 0 })
    }

    /// Returns the last index it saw; absent if it never saw any, or cannot be read: then nothing is known.
    pub fn last(&self) -> Option<u64> {
        let mark = |turn: u64| {
            let mut mark = [0; MARK];
            self.file.read_exact_at(&mut mark, turn * MARK as u64).ok()?;
            let (index, crc) = mark.split_first_chunk::<8>()?;
            (crc32fast::hash(index).to_le_bytes() == *crc).then(|| u64::from_le_bytes(*index))
        };
        mark(0).max(mark(1))
    }

    /// Writes down that the entry at `index` was acknowledged. Does not sync.
    pub fn saw(&mut self, index: u64) -> io::Result<()> {
        let mut mark = [0; MARK];
        mark[..8].copy_from_slice(&index.to_le_bytes());
        let crc = crc32fast::hash(&mark[..8]);
        mark[8..].copy_from_slice(&crc.to_le_bytes());
        self.turn ^= 1;
        self.file.write_all_at(&mark, self.turn * MARK as u64)
    }
}
