//! The way of events into views: all together, or without those that a view cannot take in.
//!
//! A batch goes into all views in one transaction. If a view refuses it, its parts are tried, down to the event that is
//! refused; that one is set aside for that view alone, and named in the file.

use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability};

use super::{
    Event,
    row::RowDamaged,
    view::{ASIDE, CURSOR, META, View, ViewError, behind_key},
};

/// The largest number of events that are set aside; with more it is not they that are wrong, and the views stop.
const ASIDE_MAX: u64 = 1_000;

/// The views that events are taken into, with their file.
pub struct Intake<'a> {
    pub db: &'a Database,
    pub views: &'a [Box<dyn View>],
    /// True for a single view that takes in what the others have already.
    pub late: bool,
    pub sync: bool,
    pub aside: &'a AtomicU64,
}

impl Intake<'_> {
    /// Takes in all of the events, except those that a view cannot take in: they are looked for and set aside.
    pub fn take_in(&self, events: &[Event]) -> Result<(), ViewError> {
        let Err((place, error)) = self.try_all(events, &[])? else { return Ok(()) };
        if let [event] = events {
            return self.without(event, place, error);
        }
        let (some, rest) = events.split_at(events.len() / 2);
        self.take_in(some)?;
        self.take_in(rest)
    }

    /// Takes in one event, without the views that cannot take it in: `place` is the first of them.
    fn without(&self, event: &Event, mut place: usize, mut error: ViewError) -> Result<(), ViewError> {
        let mut left_out = Vec::new();
        loop {
            let view = self.views[place].name();
            if self.aside.fetch_add(1, Ordering::Relaxed) >= ASIDE_MAX {
                return Err(format!("view {view} at cursor {}: {error}", event.cursor).into());
            }
            tracing::error!(view, cursor = %event.cursor, stream = %event.stream, kind = %event.kind, %error, "a view cannot take in an event; it is set aside and all else goes on");
            left_out.push(place);
            match self.try_all(std::slice::from_ref(event), &left_out)? {
                Ok(()) => return Ok(()),
                Err(other) => (place, error) = other,
            }
        }
    }

    /// Takes in the events in one transaction, or not at all. The inner error is that of a view, the outer one that of the file.
    fn try_all(&self, events: &[Event], left_out: &[usize]) -> Result<Result<(), (usize, ViewError)>, ViewError> {
        let Some(last) = events.last().map(|event| event.cursor) else { return Ok(Ok(())) };
        let mut txn = self.db.begin_write()?;
        txn.set_durability(if self.sync { Durability::Immediate } else { Durability::None })?;
        txn.set_quick_repair(self.sync);
        for (place, view) in self.views.iter().enumerate() {
            if left_out.contains(&place) {
                txn.open_table(META)?.insert(&*format!("{ASIDE}{}/{last}", view.name()), last.0)?;
                continue;
            }
            let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| view.apply(&txn, events)));
            let applied = applied.unwrap_or_else(|_| Err("it panicked".into()));
            match applied {
                Ok(()) => {}
                // Whoever follows has them made again; the event is right.
                Err(error) if error.is::<RowDamaged>() => return Err(error),
                Err(error) if is_of_the_file(&error) => return Err(format!("view {}: {error}", view.name()).into()),
                Err(error) => {
                    txn.abort()?;
                    return Ok(Err((place, error)));
                }
            }
        }
        let key = if self.late { behind_key(&*self.views[0]) } else { CURSOR.to_owned() };
        txn.open_table(META)?.insert(&*key, last.0)?;
        txn.commit()?;
        Ok(Ok(()))
    }
}

/// Tells whether the file is to blame, and not an event.
fn is_of_the_file(error: &ViewError) -> bool {
    error.is::<redb::StorageError>()
        || error.is::<redb::TableError>()
        || error.is::<redb::TransactionError>()
        || error.is::<redb::CommitError>()
        || error.is::<redb::Error>()
        || error.is::<std::io::Error>()
}
