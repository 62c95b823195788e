//! Tells which of the operations that an entity remembers the views have taken in, and whether they may be asked about others.

use std::{collections::VecDeque, sync::Arc};

use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    ledger::{
        Cursor,
        view::{AT_LEAST_TIMEOUT, Views},
    },
};
use parking_lot::Mutex;

/// The most marks that are kept; more become coarser, so that memory lets go of operations somewhat later.
const MARKS_MAX: usize = 1024;

/// The marks of how far an entity's memory of operations is in the ledger: each is a turn at which an operation came to
/// memory, and the cursor after it.
#[derive(Clone, Default)]
pub struct Marks(Arc<Mutex<VecDeque<(u64, Cursor)>>>);

impl Marks {
    /// Notes that everything that came to memory up to `turn` is in the ledger up to `cursor`. An older turn changes nothing.
    pub fn note(&self, turn: u64, cursor: Cursor) {
        let mut marks = self.0.lock();
        if marks.back().is_some_and(|(last, _)| *last >= turn) {
            return;
        }
        if marks.len() >= MARKS_MAX {
            marks.pop_back();
        }
        marks.push_back((turn, cursor));
    }

    /// Returns the last marked turn that views at `cursor` have taken in, 0 if none, and forgets the marks before it.
    pub fn taken_in(&self, cursor: Cursor) -> u64 {
        let mut marks = self.0.lock();
        let over = marks.iter().take_while(|(_, at)| *at <= cursor).count();
        let turn = over.checked_sub(1).map_or(0, |last| marks[last].0);
        // The last of them stays: it says what was marked already.
        marks.drain(..over.saturating_sub(1));
        turn
    }
}

/// Waits until the views have all that a new life of an entity replayed: from then on what they do not know was never done.
///
/// Errors: `UNAVAILABLE` if that takes too long. Nothing was done then. Dropping the future changes nothing.
pub async fn views_at(views: Views, cursor: Cursor) -> Result<(), Refused> {
    views.at_least(cursor, Deadline::after(AT_LEAST_TIMEOUT)).await.map_err(|lagging| {
        let message =
            format!("whether this operation was done before cannot be told yet ({lagging}); nothing was done: repeat it");
        Refused::new(Code::Unavailable, message)
    })
}

/// Returns the refusal of an operation while more of them wait for the views than may be remembered.
pub fn too_many() -> Refused {
    let message = "more operations came than the views of this node have taken in; nothing was done: repeat it in a moment";
    Refused::new(Code::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lets_go_of_an_operation_only_when_the_views_have_it() {
        let marks = Marks::default();
        assert_eq!(marks.taken_in(Cursor(9)), 0);
        // The second is repeated: where it came to the ledger first counts.
        for (turn, cursor) in [(1, 10), (2, 20), (2, 25), (3, 30)] {
            marks.note(turn, Cursor(cursor));
        }
        let taken_in = [9, 10, 19, 20, 29, 99, 99].map(|at| marks.taken_in(Cursor(at)));
        assert_eq!(taken_in, [0, 1, 1, 2, 2, 3, 3]);
        // Too many marks become coarser, never too early.
        for n in 0..3 * MARKS_MAX as u64 {
            marks.note(10 + n, Cursor(100 + n));
        }
        assert!(marks.0.lock().len() <= MARKS_MAX);
        for at in [100, 500, 1_500, 100 + 3 * MARKS_MAX as u64] {
            let turn = marks.taken_in(Cursor(at));
            assert!(turn <= 10 + at - 100, "at {at}: {turn}");
        }
    }
}
