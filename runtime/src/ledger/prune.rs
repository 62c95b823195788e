//! Pruning: views remove rows that they need not keep, a bounded number at a time, between what they take in.
//!
//! What goes is each view's own affair: the ledger knows nothing of it, and nodes may differ by a moment in it. A crash undoes
//! the last turns, and they are made again.

use std::time::Duration;

use redb::{Database, Durability, ReadTransaction, ReadableTable};

use super::view::{META, View, ViewError};

/// The pause between two times that views are asked what may go.
pub const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// The largest number of rows that one view removes in one transaction; the rest follows at once, after what there is to take in.
const ROWS_PER_TURN: usize = 2_000;
/// The prefix before the name of a view, for the number of rows that it has removed since the file was made.
const REMOVED: &str = "removed/";

/// The rows that a view removed in one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The number of things that are gone, as people count them.
    pub rows: u64,
    /// True if there is more to do, which waits for the next turn.
    pub more: bool,
}

/// Lets every view make one turn; tells whether one has more to do. One that fails is named and undone, and the others go on.
pub(super) fn turn(db: &Database, views: &[Box<dyn View>]) -> Result<bool, ViewError> {
    let mut more = false;
    for view in views {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::None)?;
        match view.prune(&txn, ROWS_PER_TURN) {
            Ok(Pruned { rows: 0, more: false }) => txn.abort()?,
            Ok(pruned) => {
                if pruned.rows > 0 {
                    let key = format!("{REMOVED}{}", view.name());
                    let mut meta = txn.open_table(META)?;
                    let before = meta.get(&*key)?.map_or(0, |rows| rows.value());
                    meta.insert(&*key, before + pruned.rows)?;
                    metrics::counter!("hiveward_views_removed_total", "view" => view.name()).increment(pruned.rows);
                }
                txn.commit()?;
                more |= pruned.more;
            }
            Err(error) => {
                tracing::error!(view = view.name(), %error, "a view cannot let go of old rows; they stay");
                txn.abort()?;
            }
        }
    }
    Ok(more)
}

/// Returns how many rows a view has removed since its file was made.
pub fn removed(txn: &ReadTransaction, view: &str) -> Result<u64, ViewError> {
    Ok(txn.open_table(META)?.get(&*format!("{REMOVED}{view}"))?.map_or(0, |rows| rows.value()))
}
