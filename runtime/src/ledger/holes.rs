//! Files that are mostly holes: the scrubber sees them, for it knows what they hold, and the next start makes them smaller.
//!
//! The store keeps what was once written to; a file never becomes smaller by itself. Moving its pages takes the file away from
//! whoever reads, so it is done before the node serves, and only where it is short: of a file that holds much it would take
//! minutes. Such a file is left: its holes are written to again before it grows.

use std::{
    io,
    path::{Path, PathBuf},
};

use redb::Database;

use crate::file::replace;

/// The rule for when a file is made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holes {
    /// The percentage of the file that may hold nothing; with more it is made smaller.
    pub percent_max: u8,
    /// The size below which a file is left as it is.
    pub file_bytes_min: u64,
    /// The bytes in use above which a file is left as it is.
    pub live_bytes_max: u64,
}

impl Default for Holes {
    fn default() -> Self {
        // Values fill the pages they are given by half, at worst.
        Self { percent_max: 70, file_bytes_min: 64 << 20, live_bytes_max: 1 << 30 }
    }
}

impl Holes {
    /// Tells whether a file of this size with so much in it is to be made smaller.
    pub fn are_many(&self, file_bytes: u64, live_bytes: u64) -> bool {
        let holes = file_bytes.saturating_sub(live_bytes);
        file_bytes >= self.file_bytes_min
            && live_bytes <= self.live_bytes_max
            && u128::from(holes) * 100 > u128::from(file_bytes) * u128::from(self.percent_max)
    }

    /// Remembers for the next start what a file holds, if that is little.
    pub fn note(&self, path: &Path, live_bytes: u64) -> io::Result<bool> {
        let file_bytes = std::fs::metadata(path)?.len();
        // One that did not become smaller the last time will not this time, unless it has grown since.
        let tried: u64 = std::fs::read_to_string(tried_path(path)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let wanted = self.are_many(file_bytes, live_bytes) && file_bytes > tried.saturating_add(tried / 4);
        if wanted {
            replace(&wanted_path(path), format!("{live_bytes}\n").as_bytes())?;
        }
        Ok(wanted)
    }

    /// Makes a file smaller if that was remembered for it. Blocks for as long as it takes to move what it holds.
    pub fn close_up(&self, path: &Path, db: &mut Database) {
        if !wanted_path(path).exists() {
            return;
        }
        let bytes = || std::fs::metadata(path).map_or(0, |meta| meta.len());
        let before = bytes();
        let closed = db.compact().map_err(redb::Error::from).and_then(|moved| {
            // Without the store's bookkeeping an unclean end now would have the next start look through all of it.
            let mut txn = db.begin_write()?;
            txn.set_quick_repair(true);
            txn.commit()?;
            Ok(moved)
        });
        match closed {
            Ok(_) => tracing::info!(path = %path.display(), before, after = bytes(), "it was mostly holes and is smaller now"),
            // It is as it was.
            Err(error) => tracing::warn!(path = %path.display(), %error, "it is mostly holes and could not be made smaller"),
        }
        let done = replace(&tried_path(path), format!("{}\n", bytes()).as_bytes());
        if let Err(error) = done.and_then(|()| std::fs::remove_file(wanted_path(path))) {
            tracing::warn!(path = %path.display(), %error, "it is looked at again at the next start whether it is mostly holes");
        }
    }
}

fn wanted_path(path: &Path) -> PathBuf {
    path.with_extension("holes")
}

fn tried_path(path: &Path) -> PathBuf {
    path.with_extension("closed-up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_mostly_holes_and_hold_little_are_made_smaller() {
        let rule = Holes { percent_max: 50, file_bytes_min: 100, live_bytes_max: 1_000 };
        for (file, live, many) in
            [(99, 0, false), (100, 0, true), (100, 50, false), (100, 49, true), (5_000, 1_000, true), (5_000, 1_001, false)]
        {
            assert_eq!(rule.are_many(file, live), many, "{live} of {file}");
        }
    }
}
