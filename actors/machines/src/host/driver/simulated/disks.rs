//! What simulated disks hold, and what of it was written since when. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use hiveward_catalogue::host::protocol::{CHECKPOINTS_MAX, Marks};
use serde::{Deserialize, Serialize};

/// Blocks of a disk: by the place of each, a number for what is in it.
pub type Blocks = BTreeMap<u64, u64>;

#[derive(Clone, Debug, Default)]
pub struct Disks {
    held: BTreeMap<String, Blocks>,
    /// What was written since each checkpoint.
    marks: BTreeMap<String, BTreeSet<(String, u64)>>,
    /// What was held when each snapshot was taken.
    kept: BTreeMap<String, BTreeMap<String, Blocks>>,
}

/// What a copy has of each disk, and what it is.
pub struct Copy {
    pub disks: Vec<(String, Blocks)>,
    pub since: Option<String>,
    pub mark: Option<String>,
    pub why: Option<String>,
}

impl Disks {
    /// Writes a value into a block, which every checkpoint marks.
    pub fn write(&mut self, disk: &str, block: u64, value: u64) {
        self.held.entry(disk.to_owned()).or_default().insert(block, value);
        for written in self.marks.values_mut() {
            written.insert((disk.to_owned(), block));
        }
    }

    /// Returns what a disk holds; nothing if it was never written.
    pub fn of(&self, disk: &str) -> Blocks {
        self.held.get(disk).cloned().unwrap_or_default()
    }

    /// Makes a disk hold these blocks from its beginning; no checkpoint marks that.
    pub fn begin_as(&mut self, disk: &str, blocks: Blocks) {
        self.held.insert(disk.to_owned(), blocks);
    }

    /// Loses all checkpoints, as when QEMU dies, or its disks are opened elsewhere.
    pub fn lose_marks(&mut self) {
        self.marks.clear();
    }

    /// Returns how many checkpoints there are.
    pub fn marks(&self) -> usize {
        self.marks.len()
    }

    /// Keeps what all disks hold as a snapshot of this name. One that there is already stays as it is.
    pub fn keep(&mut self, snapshot: &str) {
        self.kept.entry(snapshot.to_owned()).or_insert_with(|| self.held.clone());
    }

    /// Makes all disks hold what they did at a snapshot, if there is one of this name; loses all checkpoints.
    pub fn revert(&mut self, snapshot: &str) {
        if let Some(held) = self.kept.get(snapshot) {
            self.held = held.clone();
        }
        self.marks.clear();
    }

    /// Forgets a snapshot.
    pub fn forget(&mut self, snapshot: &str) {
        self.kept.remove(snapshot);
    }

    /// Copies these disks: what was written since the wanted checkpoint where that is known, else all of each, and why. With a
    /// new checkpoint, those that are not to be kept are gone.
    pub fn copy(&mut self, names: &[&str], wanted: &Marks, on: bool) -> Copy {
        if wanted.new.is_some() {
            let mut left = CHECKPOINTS_MAX - 1;
            self.marks.retain(|name, _| {
                let stays = (wanted.since.as_ref() == Some(name) || wanted.keep.contains(name)) && left > 0;
                left -= usize::from(stays);
                stays
            });
        }
        let written = wanted.since.as_ref().filter(|_| on).and_then(|since| self.marks.get(since));
        let why = match (&wanted.since, written) {
            (Some(_), None) if on => Some("its host has no checkpoint of its last backup any more".to_owned()),
            _ if !on && (wanted.since.is_some() || wanted.new.is_some()) => {
                Some("it is off, and only what a running guest writes is marked".to_owned())
            }
            _ => None,
        };
        let disks = names.iter().map(|disk| {
            let mut blocks = self.of(disk);
            if let Some(written) = written {
                blocks.retain(|block, _| written.contains(&((*disk).to_owned(), *block)));
            }
            ((*disk).to_owned(), blocks)
        });
        let (disks, since) = (disks.collect(), wanted.since.clone().filter(|_| written.is_some()));
        let mark = wanted.new.clone().filter(|_| on);
        if let Some(mark) = &mark {
            self.marks.insert(mark.clone(), BTreeSet::new());
        }
        Copy { disks, since, mark, why }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    simulated: String,
    blocks: Blocks,
}

/// Returns the bytes of a file that holds these blocks of a disk.
pub fn encode(disk: &str, blocks: &Blocks) -> io::Result<Vec<u8>> {
    serde_json::to_vec(&File { simulated: disk.to_owned(), blocks: blocks.clone() }).map_err(io::Error::other)
}

/// Reads the blocks from the bytes of such a file.
pub fn decode(bytes: &[u8]) -> io::Result<Blocks> {
    let file: File = serde_json::from_slice(bytes).map_err(io::Error::other)?;
    Ok(file.blocks)
}

/// Returns the file of the disk that these files make together, the oldest first.
pub fn overlay(disk: &str, layers: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let mut blocks = Blocks::new();
    for layer in layers {
        blocks.extend(decode(layer)?);
    }
    encode(disk, &blocks)
}
