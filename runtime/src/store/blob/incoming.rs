//! Blobs on their way in, from a stream or another node.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use super::{BlobHash, Blobs, Outliner};

/// A blob on its way in, without a name until it is whole. Dropping it removes it.
pub struct Incoming {
    pub(super) blobs: Blobs,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) outliner: Outliner,
}

impl Incoming {
    /// Returns how many bytes were written so far.
    pub fn bytes(&self) -> u64 {
        self.outliner.bytes()
    }

    /// Returns the hash of what was written so far.
    pub fn hash(&self) -> BlobHash {
        BlobHash(self.outliner.finish().0)
    }

    /// Writes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.outliner.update(bytes);
        Ok(())
    }

    /// Gives it its name, if these are its bytes, in place of what may have that name. Durable on return.
    pub fn finish(self, hash: &BlobHash) -> io::Result<()> {
        let (found, outline) = self.outliner.finish();
        if found != hash.0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("what came as blob {hash} is {}", BlobHash(found))));
        }
        self.blobs.name(&self.path, hash, outline)
    }

    /// Gives it the name that its bytes have, and tells that and its length. Durable on return, as with [`Blobs::put`].
    pub fn keep(self) -> io::Result<(BlobHash, u64)> {
        let (hash, bytes) = (self.hash(), self.bytes());
        let blobs = self.blobs.clone();
        self.finish(&hash)?;
        Ok((blobs.kept(hash)?, bytes))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Renamed if it was finished; what a crash leaves is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}
