//! The tree of hashes of a blob, so that any piece of it can be checked without reading the rest.
//!
//! BLAKE3 is a tree: the hashes of groups of 64 KiB merge into the hash of the whole. They stand in a file beside a blob of
//! more than one group. That file needs no trust and no sync: what does not merge into the blob's name is not used, and is
//! made again from the blob.

use std::{
    fs::File,
    io::{self, Read},
};

use blake3::{
    Hash, Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

/// The bytes of one group, which is what is read to check one byte. A power of two, as the tree wants it.
pub const GROUP_BYTES: u64 = 64 << 10;
/// The first bytes of the file of an outline.
const MAGIC: &[u8; 8] = b"hwtree1\n";

/// The hashes of a blob's groups that merge into its own.
pub struct Outline {
    groups: Vec<ChainingValue>,
    length: u64,
}

/// Returns how many groups so many bytes are.
fn count(bytes: u64) -> u64 {
    bytes.div_ceil(GROUP_BYTES).max(1)
}

/// Returns the merged hash of groups that are a whole subtree; never of one that is the root.
fn merged(groups: &[ChainingValue]) -> ChainingValue {
    match groups {
        [one] => *one,
        _ => {
            let (left, right) = groups.split_at(left(groups.len()));
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

/// Returns the size of the left subtree: the largest power of two that leaves something for the right one.
fn left(groups: usize) -> usize {
    (groups / 2 + groups % 2).next_power_of_two()
}

fn root(groups: &[ChainingValue]) -> Hash {
    let (left, right) = groups.split_at(left(groups.len()));
    merge_subtrees_root(&merged(left), &merged(right), Mode::Hash)
}

impl Outline {
    /// Reads the file beside a blob of `bytes` bytes, if it merges into the blob's hash. That the blob is so long is known only
    /// when its last group was checked, too.
    pub fn read(file: &[u8], bytes: u64, hash: &Hash) -> Option<Self> {
        let groups = file.strip_prefix(MAGIC)?;
        let (groups, rest) = groups.as_chunks::<32>();
        let whole = rest.is_empty() && groups.len() as u64 == count(bytes) && groups.len() > 1;
        let outline = Self { groups: groups.to_vec(), length: bytes };
        (whole && root(&outline.groups) == *hash).then_some(outline)
    }

    /// Writes the file beside the blob.
    pub fn to_file(&self) -> Vec<u8> {
        [MAGIC.as_slice(), self.groups.as_flattened()].concat()
    }

    /// Tells whether these are the bytes of a group.
    pub fn has(&self, group: u64, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return false;
        }
        let found = Hasher::new().set_input_offset(group * GROUP_BYTES).update(bytes).finalize_non_root();
        usize::try_from(group).ok().and_then(|group| self.groups.get(group)) == Some(&found)
    }

    /// Returns the length of the blob in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        self.groups.len() * size_of::<ChainingValue>()
    }
}

/// A maker of the outline and the hash of bytes as they come.
pub struct Outliner {
    groups: Vec<ChainingValue>,
    current: Hasher,
    /// The bytes of the group that is under way.
    filled: u64,
    bytes: u64,
}

impl Default for Outliner {
    fn default() -> Self {
        Self { groups: Vec::new(), current: Hasher::new(), filled: 0, bytes: 0 }
    }
}

impl Outliner {
    /// Returns how many bytes came so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, mut more: &[u8]) {
        while !more.is_empty() {
            // A full group is closed only when there is something after it: the last one is never empty.
            if self.filled == GROUP_BYTES {
                self.groups.push(self.current.finalize_non_root());
                self.current = Hasher::new();
                self.current.set_input_offset(self.bytes);
                self.filled = 0;
            }
            let room = usize::try_from(GROUP_BYTES - self.filled).unwrap_or(usize::MAX).min(more.len());
            let (now, later) = more.split_at(room);
            self.current.update(now);
            self.filled += now.len() as u64;
            self.bytes += now.len() as u64;
            more = later;
        }
    }

    /// Returns the hash of all that came, and its outline if that is more than one group.
    pub fn finish(&self) -> (Hash, Option<Outline>) {
        if self.groups.is_empty() {
            return (self.current.finalize(), None);
        }
        let mut groups = self.groups.clone();
        groups.push(self.current.finalize_non_root());
        (root(&groups), Some(Outline { groups, length: self.bytes }))
    }

    /// Reads all of a file. `each` hears of every part that was read, for readers at a bounded rate, and may end it.
    pub fn of(file: &mut File, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<Self> {
        let mut outliner = Self::default();
        let mut part = vec![0; 1 << 20];
        loop {
            let read = match file.read(&mut part) {
                Ok(0) => return Ok(outliner),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            outliner.update(&part[..read]);
            each(read as u64)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_merges_into_the_hash_of_the_whole_whatever_its_length() {
        let group = GROUP_BYTES as usize;
        let bytes: Vec<u8> = (0..group * 9 + 17).map(|n| (n % 251) as u8).collect();
        let near = (1..=9).flat_map(|n| [n * group - 1, n * group, n * group + 1]);
        for length in [0, 1, 1024, 1025].into_iter().chain(near) {
            let mut outliner = Outliner::default();
            // In parts that fit no group.
            bytes[..length].chunks(10_007).for_each(|part| outliner.update(part));
            let (hash, outline) = outliner.finish();
            assert_eq!(hash, blake3::hash(&bytes[..length]), "{length}");
            assert_eq!(outline.is_some(), length > group, "{length}");
            let Some(outline) = outline else { continue };
            let read = Outline::read(&outline.to_file(), length as u64, &hash).expect("its own file");
            for (at, part) in bytes[..length].chunks(group).enumerate() {
                assert!(read.has(at as u64, part), "{length}, group {at}");
                assert!(!read.has(at as u64 + 1, part), "{length}: group {at} is no other");
            }
        }
    }

    #[test]
    fn an_outline_with_any_byte_changed_or_missing_is_not_used() {
        let bytes = vec![7; GROUP_BYTES as usize * 3 + 5];
        let mut outliner = Outliner::default();
        outliner.update(&bytes);
        let (hash, outline) = outliner.finish();
        let file = outline.unwrap().to_file();
        for at in 0..file.len() {
            let mut bent = file.clone();
            bent[at] ^= 1;
            assert!(Outline::read(&bent, bytes.len() as u64, &hash).is_none(), "byte {at}");
            assert!(Outline::read(&file[..at], bytes.len() as u64, &hash).is_none(), "cut at {at}");
        }
        assert!(Outline::read(&file, bytes.len() as u64 + GROUP_BYTES, &hash).is_none());
    }
}
