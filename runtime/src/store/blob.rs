//! Bytes by their hash: payloads, results and artifacts that are too large for the ledger.
//!
//! A blob is a file named by its BLAKE3 hash, written whole and synced before it gets its name, never changed after.

use std::{
    fmt,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;

/// BLAKE3, printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobHash(blake3::Hash);

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_hex().as_str())
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobHash {
    type Err = blake3::HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

/// 128 bits of BLAKE3: enough to tell two inputs apart.
pub fn fingerprint(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

/// The other nodes' blobs. Every method blocks.
pub trait Elsewhere: Send + Sync {
    /// Returns when the blob, which is here, is on enough other nodes.
    fn keep(&self, hash: &BlobHash) -> io::Result<()>;
    /// Brings a blob here; false if nobody has it.
    fn fetch(&self, hash: &BlobHash) -> io::Result<bool>;
}

/// Cheap to clone. Every method blocks on the disk, and, in a cluster, on other nodes.
#[derive(Clone)]
pub struct Blobs {
    dir: Arc<PathBuf>,
    elsewhere: Arc<RwLock<Option<Arc<dyn Elsewhere>>>>,
}

/// A blob on its way in: without a name until it is whole. Dropped, it is gone.
pub struct Incoming {
    blobs: Blobs,
    path: PathBuf,
    file: std::fs::File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Incoming {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of what was written so far.
    pub fn hash(&self) -> BlobHash {
        BlobHash(self.hasher.finalize())
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives it its name, if these are its bytes. Durable on return.
    pub fn finish(self, hash: &BlobHash) -> io::Result<()> {
        let found = BlobHash(self.hasher.finalize());
        if found != *hash {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("what came as blob {hash} is {found}")));
        }
        if !self.blobs.has(hash) {
            self.blobs.name(&self.path, hash)?;
        }
        Ok(())
    }
}

impl Incoming {
    /// Gives it the name that its bytes have, and tells that and its length. Durable on return, as with [`Blobs::put`].
    pub fn keep(self) -> io::Result<(BlobHash, u64)> {
        let (hash, bytes) = (BlobHash(self.hasher.finalize()), self.bytes);
        let blobs = self.blobs.clone();
        self.finish(&hash)?;
        Ok((blobs.kept(hash)?, bytes))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Renamed if it was finished; what a crash leaves is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Blobs {
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        std::fs::create_dir_all(dir.join("new"))?;
        // What a crash left half written has no name that anyone knows.
        for left in std::fs::read_dir(dir.join("new"))? {
            std::fs::remove_file(left?.path())?;
        }
        Ok(Self { dir: Arc::new(dir), elsewhere: Arc::default() })
    }

    fn path(&self, hash: &BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// Where blobs are besides here; nowhere, until it is told.
    pub fn elsewhere(&self, elsewhere: Option<Arc<dyn Elsewhere>>) {
        *self.elsewhere.write() = elsewhere;
    }

    fn others(&self) -> Option<Arc<dyn Elsewhere>> {
        self.elsewhere.read().clone()
    }

    /// Keeps `bytes`; durable on return, in a cluster on a majority of its voters. The same bytes twice are kept once.
    pub fn put(&self, bytes: &[u8]) -> io::Result<BlobHash> {
        let hash = BlobHash(blake3::hash(bytes));
        if !self.has(&hash) {
            let new = self.new_path();
            std::fs::write(&new, bytes)?;
            self.name(&new, &hash)?;
        }
        self.kept(hash)
    }

    fn kept(&self, hash: BlobHash) -> io::Result<BlobHash> {
        if let Some(others) = self.others() {
            others.keep(&hash)?;
        }
        Ok(hash)
    }

    pub fn has(&self, hash: &BlobHash) -> bool {
        self.path(hash).exists()
    }

    /// Up to `bytes_max` of a blob from `from`, and its whole length; `None` if it is not here.
    pub fn piece(&self, hash: &BlobHash, from: u64, bytes_max: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut file = match std::fs::File::open(self.path(hash)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let total = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(Some((total, bytes)))
    }

    pub fn incoming(&self) -> io::Result<Incoming> {
        let path = self.new_path();
        let file = std::fs::File::create_new(&path)?;
        Ok(Incoming { blobs: self.clone(), path, file, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    /// Sees that a blob is here, from wherever it is; false if it is nowhere.
    pub fn bring(&self, hash: &BlobHash) -> io::Result<bool> {
        if self.has(hash) {
            return Ok(true);
        }
        self.others().map_or(Ok(false), |others| others.fetch(hash))
    }

    /// Keeps a copy of a file, and tells its length.
    pub fn put_file(&self, path: &Path) -> io::Result<(BlobHash, u64)> {
        let new = self.new_path();
        let bytes = std::fs::copy(path, &new)?;
        // Hashed from the copy: the original may change meanwhile.
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut std::fs::File::open(&new)?, &mut hasher)?;
        let hash = BlobHash(hasher.finalize());
        if self.path(&hash).exists() {
            std::fs::remove_file(&new)?;
        } else {
            self.name(&new, &hash)?;
        }
        Ok((self.kept(hash)?, bytes))
    }

    fn new_path(&self) -> PathBuf {
        self.dir.join("new").join(format!("{:032x}", crate::id::new_v7()))
    }

    fn name(&self, new: &Path, hash: &BlobHash) -> io::Result<()> {
        std::fs::File::open(new)?.sync_all()?;
        let path = self.path(hash);
        let folder = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(folder)?;
        std::fs::rename(new, &path)?;
        std::fs::File::open(folder)?.sync_all()?;
        std::fs::File::open(&*self.dir)?.sync_all()
    }

    /// The bytes, or `None` if there is no such blob. Bytes that no longer have this hash are an error, not data.
    pub fn get(&self, hash: &BlobHash) -> io::Result<Option<Bytes>> {
        if !self.bring(hash)? {
            return Ok(None);
        }
        let bytes = match std::fs::read(self.path(hash)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if blake3::hash(&bytes) != hash.0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("blob {hash} is damaged: its bytes have another hash"),
            ));
        }
        Ok(Some(Bytes::from(bytes)))
    }

    /// The file behind a blob that is here ([`Blobs::bring`]), to be read without holding it in memory.
    pub fn file(&self, hash: &BlobHash) -> PathBuf {
        self.path(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_blob_is_an_error_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let hash = blobs.put(b"some bytes").unwrap();
        assert_eq!(blobs.put(b"some bytes").unwrap(), hash);
        assert_eq!(blobs.get(&hash).unwrap().unwrap(), &b"some bytes"[..]);
        std::fs::write(blobs.file(&hash), b"some bytez").unwrap();
        assert_eq!(blobs.get(&hash).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::remove_file(blobs.file(&hash)).unwrap();
        assert_eq!(blobs.get(&hash).unwrap(), None);
    }
}
