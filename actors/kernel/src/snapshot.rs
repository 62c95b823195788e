//! Snapshots of states that are small: written whole beside their newest events, so that a replay begins there.
//!
//! Pure. Larger states are written in pieces, each in a
//! way of its own: a swarm's in `swarm/pieces.rs`, the roster's in `roster/writing_down.rs`.

use hiveward_runtime::{
    ledger::{Life, StreamSnapshot},
    supervise::Failure,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::commit::Batch;

/// The number of events after which a snapshot is taken, so that an entity replays about so many at most.
pub const EVENTS_PER_SNAPSHOT: u64 = 64;
/// The most bytes of a snapshot. A larger state is not written down; its events are kept until it takes less.
const BYTES_MAX: usize = 1 << 20;

/// The count of an entity's events since its last snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinceSnapshot {
    events: u64,
}

impl SinceSnapshot {
    /// Returns how many events there were since the last snapshot.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Returns the count as a new life of the entity finds it: the events that it replayed.
    pub fn of(life: &Life) -> Self {
        Self { events: life.events.len() as u64 }
    }

    /// Counts the events of `batch`, which led to `state`, and adds a snapshot of the state to it when that is due.
    ///
    /// With `last` nothing comes after it, so that its events need not be kept for a replay at all. A cluster in which a
    /// node cannot read snapshots of such entities (`readable` is false) gets none: that node would take the stream for shorter
    /// than it is.
    pub fn go_with<S: Serialize>(
        &mut self,
        batch: &mut Batch,
        format: u16,
        state: &S,
        last: bool,
        readable: bool,
    ) -> Result<(), Failure> {
        self.events += batch.events.len() as u64;
        let due = last || self.events >= EVENTS_PER_SNAPSHOT;
        if batch.events.is_empty() || !due || !readable {
            return Ok(());
        }
        let body = rmp_serde::to_vec_named(state)?;
        if body.len() <= BYTES_MAX {
            batch.snapshot = Some(StreamSnapshot { format, body: body.into() });
            self.events = 0;
        }
        Ok(())
    }
}

/// Returns the state that a life begins from; `None` if it has no snapshot.
/// Errors: the snapshot has a format that this version does not know, or cannot be decoded.
pub fn restored<S: DeserializeOwned>(life: &Life, format: u16) -> Result<Option<S>, Failure> {
    let Some((_, snapshot)) = &life.snapshot else { return Ok(None) };
    if snapshot.format != format {
        let found = snapshot.format;
        return Err(Failure::new(format!("its snapshot has format {found}, which this version does not know")));
    }
    Ok(Some(rmp_serde::from_slice(&snapshot.body)?))
}
