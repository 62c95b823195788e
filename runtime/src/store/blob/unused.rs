//! The removal of blobs that nothing names any more. Whoever counts on one that is there already makes it new first.

use std::{
    fs::{self, File},
    io,
    time::SystemTime,
};

use super::{BlobHash, Blobs, tree_path};

/// A file among the blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub hash: BlobHash,
    /// The bytes on disk, as the disk counts.
    pub bytes: u64,
    /// The time when it came, or was last counted on by somebody who brought the same bytes.
    pub renewed: SystemTime,
}

impl Blobs {
    /// Makes a blob count as new from now on; false if it is not here. It then stays as long as one that has just come.
    pub fn renew(&self, hash: &BlobHash) -> io::Result<bool> {
        let _not_removed_now = self.setting_aside.lock();
        match File::open(self.path(hash)) {
            Ok(file) => file.set_modified(SystemTime::now()).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists all that is in one of the store's 256 folders, in order.
    pub fn stored(&self, folder: u8) -> io::Result<Vec<Stored>> {
        let mut found = Vec::new();
        for hash in self.folder(folder)? {
            match fs::metadata(self.path(&hash)) {
                Ok(meta) => {
                    let bytes = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
                    found.push(Stored { hash, bytes, renewed: meta.modified()? });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Removes a blob that nobody has brought since `before`; false if it is gone, or was renewed meanwhile. A reader that has it
    /// open reads on. A crash leaves it or removes it: nothing names it.
    pub fn remove_unused(&self, hash: &BlobHash, before: SystemTime) -> io::Result<bool> {
        let _not_renewed_now = self.setting_aside.lock();
        let path = self.path(hash);
        match fs::metadata(&path) {
            Ok(meta) if meta.modified()? < before => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        fs::remove_file(&path)?;
        // One without is as good: it is made of the bytes when it is needed.
        let _none = fs::remove_file(tree_path(&path));
        let mut remembered = self.remembered.lock();
        remembered.outlines.retain(|(known, _)| known != hash);
        remembered.whole.retain(|(known, _)| known != hash);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_nobody_brought_lately_goes_and_what_is_brought_again_stays() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let large = vec![7; 100_000];
        let (one, other) = (blobs.put(b"one").unwrap(), blobs.put(&large).unwrap());
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let age = |hash: &BlobHash| File::open(blobs.path(hash)).unwrap().set_modified(long_ago).unwrap();
        age(&one);
        age(&other);
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        // The same bytes come again: who brought them counts on them.
        assert_eq!(blobs.put(b"one").unwrap(), one);
        assert!(!blobs.remove_unused(&one, hour_ago).unwrap() && blobs.has(&one));
        assert!(blobs.remove_unused(&other, hour_ago).unwrap() && !blobs.has(&other));
        assert!(!blobs.remove_unused(&other, hour_ago).unwrap());
        assert!(!blobs.renew(&other).unwrap(), "what is gone cannot be counted on");
        assert_eq!(blobs.put(&large).unwrap(), other);
        assert_eq!(blobs.get(&other).unwrap().unwrap(), large);
        let stored: Vec<_> = (0..=u8::MAX).flat_map(|folder| blobs.stored(folder).unwrap()).collect();
        assert_eq!(stored.len(), 2);
        assert!(stored.iter().any(|blob| blob.hash == other && blob.bytes >= 100_000 && blob.renewed > hour_ago));
    }
}
