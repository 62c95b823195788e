//! Snapshots of streams that are kept in pieces: which pieces there are, and which are not needed any more.
//!
//! Pure. Pieces are gathered beside the snapshot that holds; the last one puts them in its place. A life that died amid
//! its pieces leaves them behind until the next one begins with its own.

use serde::{Deserialize, Serialize};

use super::SnapshotPart;

/// The pieces in a stream's row; absent where there never were any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// The number of pieces that make up the snapshot that holds; 0 if it is kept whole, or there is none.
    pub whole: u32,
    /// The pieces that are being gathered: the version they are of, and how many have come.
    pub gathered: Option<(u64, u32)>,
}

/// The effect of a piece on those that are kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PieceTaken {
    /// True if the piece is kept.
    pub kept: bool,
    /// The versions of which no piece is kept any more.
    pub gone: Vec<u64>,
    /// The version that the snapshot is of now, if this was the last piece.
    pub holds: Option<u64>,
}

impl Pieces {
    /// Tells whether there are no pieces.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns how many rows the table has of them.
    pub fn rows(&self) -> u64 {
        u64::from(self.whole) + self.gathered.map_or(0, |(_, count)| u64::from(count))
    }

    /// Takes in a piece. A piece changes nothing if it does not follow on, is of a version that the stream has not reached, or of
    /// one that a snapshot stands for already.
    pub fn take(&mut self, part: &SnapshotPart, snapshot_version: u64, version: u64) -> PieceTaken {
        let mut taken = PieceTaken::default();
        if part.at_version <= snapshot_version || part.at_version > version {
            return taken;
        }
        if part.number == 0 {
            taken.gone.extend(self.gathered.take().map(|(before, _)| before));
            self.gathered = Some((part.at_version, 0));
        }
        if self.gathered != Some((part.at_version, part.number)) {
            return taken;
        }
        taken.kept = true;
        if !part.last {
            self.gathered = Some((part.at_version, part.number + 1));
            return taken;
        }
        if self.whole > 0 {
            taken.gone.push(snapshot_version);
        }
        *self = Self { whole: part.number + 1, gathered: None };
        taken.holds = Some(part.at_version);
        taken
    }

    /// Forgets all pieces, because a snapshot that is kept whole takes the place of the one at `snapshot_version` and of what was
    /// gathered. Returns the versions of which no piece is kept any more.
    pub fn clear(&mut self, snapshot_version: u64) -> Vec<u64> {
        let whole = (self.whole > 0).then_some(snapshot_version);
        let gone = whole.into_iter().chain(self.gathered.map(|(before, _)| before)).collect();
        *self = Self::default();
        gone
    }
}

/// Returns the row at which a piece is kept in the table of snapshots.
pub fn row_of(stream: &str, version: u64, number: u32) -> String {
    format!("{stream}/{version:020}/{number:08}")
}

/// Returns the bounds between which all rows of pieces of one version lie.
pub fn rows_of(stream: &str, version: u64) -> (String, String) {
    // `0` comes after `/`.
    (format!("{stream}/{version:020}/"), format!("{stream}/{version:020}0"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ledger::StreamSnapshot;

    fn part(at_version: u64, number: u32, last: bool) -> SnapshotPart {
        SnapshotPart { at_version, number, last, snapshot: StreamSnapshot { format: 1, body: Bytes::new() } }
    }

    /// A table as it would be, beside what the pieces say of it.
    #[derive(Default)]
    struct Table {
        pieces: Pieces,
        rows: std::collections::BTreeSet<(u64, u32)>,
        snapshot_version: u64,
    }

    impl Table {
        fn take(&mut self, part: SnapshotPart, version: u64) {
            let taken = self.pieces.take(&part, self.snapshot_version, version);
            self.rows.retain(|(at, _)| !taken.gone.contains(at));
            if taken.kept {
                self.rows.insert((part.at_version, part.number));
            }
            self.snapshot_version = taken.holds.unwrap_or(self.snapshot_version);
            assert_eq!(self.pieces.rows(), self.rows.len() as u64, "{:?} {:?}", self.pieces, self.rows);
        }

        fn holds(&self) -> Vec<u32> {
            self.rows.iter().filter(|(at, _)| *at == self.snapshot_version).map(|(_, number)| *number).collect()
        }
    }

    #[test]
    fn pieces_take_the_place_of_the_snapshot_before_only_when_all_have_come() {
        let mut table = Table::default();
        table.take(part(5, 0, false), 9);
        table.take(part(5, 1, false), 9);
        assert_eq!((table.snapshot_version, table.pieces.whole), (0, 0));
        // Out of order, doubled, of another version: nothing changes.
        for odd in [part(5, 3, true), part(5, 1, true), part(6, 2, true), part(12, 0, true)] {
            table.take(odd, 9);
            assert_eq!((table.snapshot_version, table.pieces.gathered), (0, Some((5, 2))));
        }
        table.take(part(5, 2, true), 9);
        assert_eq!((table.snapshot_version, table.holds()), (5, vec![0, 1, 2]));
        // A life dies amid the next one, and another begins anew.
        table.take(part(8, 0, false), 9);
        table.take(part(9, 0, false), 9);
        assert_eq!(table.holds(), [0, 1, 2], "the one before holds until the next is whole");
        table.take(part(9, 1, true), 9);
        assert_eq!((table.snapshot_version, table.holds(), table.rows.len()), (9, vec![0, 1], 2));
        assert_eq!(table.pieces.clear(9), [9]);
    }

    #[test]
    fn whatever_comes_in_whatever_order_exactly_the_rows_that_are_counted_are_kept() {
        for seed in 0..2_000 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let (mut table, mut version) = (Table::default(), 0);
            for _ in 0..60 {
                version += dice.u64(0..3);
                let at = dice.u64(version.saturating_sub(3)..=version + 1);
                table.take(part(at, dice.u32(0..4), dice.bool()), version);
                assert!(table.snapshot_version <= version, "seed {seed}");
                assert_eq!(table.holds().len() as u32, table.pieces.whole, "seed {seed}");
            }
        }
    }
}
