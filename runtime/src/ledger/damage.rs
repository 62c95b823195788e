//! What was found damaged: which values, and whether one is whole.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{ReadError, record::Events};

/// The number of damages that are listed by name; the count says how many there are.
pub(super) const LISTED_MAX: usize = 100;
/// The words for a row that is seen from row to row, and not found by its key, because what leads to it is damaged.
pub(super) const NOT_FOUND: &str = "it is there and is not found by its key";

/// A value that is damaged, or a place where some are missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    pub table: String,
    pub position: String,
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}: {}", self.table, self.position, self.what)
    }
}

impl Damage {
    /// Makes the damage at a place of a table.
    pub fn new(table: impl Into<String>, position: impl Into<String>, what: impl Into<String>) -> Self {
        Self { table: table.into(), position: position.into(), what: what.into() }
    }

    pub(super) fn of(error: ReadError) -> Self {
        match error {
            ReadError::Corrupt { table, position, what } => Self::new(table, position, what),
            other => Self::new("file", "tree", other.to_string()),
        }
    }
}

/// All that was found damaged and has not been found whole since. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Damages(Arc<Mutex<BTreeMap<(String, String), String>>>);

impl Damages {
    pub(super) fn note(&self, damage: &Damage) {
        let mut known = self.0.lock();
        let new = known.insert((damage.table.clone(), damage.position.clone()), damage.what.clone()).is_none();
        if known.len() > LISTED_MAX * 10 {
            known.pop_last();
        }
        if new {
            metrics::counter!("hiveward_rows_damaged_total").increment(1);
            tracing::error!(%damage, "a value on disk is damaged; it is not served");
        }
    }

    /// Begins a round: what it does not find again is whole by now.
    pub(super) fn begin(&self) -> BTreeMap<(String, String), String> {
        self.0.lock().clone()
    }

    pub(super) fn end(&self, before: &BTreeMap<(String, String), String>, found: &[(String, String)]) {
        self.0.lock().retain(|place, _| !before.contains_key(place) || found.contains(place));
    }

    /// Forgets one whose value was taken from another node and is whole again.
    pub(super) fn mended(&self, damage: &Damage) {
        self.0.lock().remove(&(damage.table.clone(), damage.position.clone()));
    }

    /// Forgets those that are not `kept`, because what they were found in was made again.
    pub(super) fn retain(&self, kept: impl Fn(&Damage) -> bool) {
        self.0.lock().retain(|(table, position), what| kept(&Damage::new(table, position, &*what)));
    }

    /// Returns how many damages there are.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Lists the first hundred of them.
    pub fn list(&self) -> Vec<Damage> {
        let known = self.0.lock();
        known.iter().take(LISTED_MAX).map(|((table, position), what)| Damage::new(table, position, what)).collect()
    }
}

/// Checks a value and all its appends; returns its last cursor.
pub fn checked(key: u64, value: &[u8]) -> Result<u64, String> {
    let events = Events::read(key, value)?;
    (0..events.places.len()).try_for_each(|slot| events.append(slot).map(drop))?;
    Ok(events.last)
}
