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

/// An entity replays about so many events at most.
pub const EVENTS_PER_SNAPSHOT: u64 = 64;
/// A state that takes more is not written down now; its events are kept until it takes less.
const BYTES_MAX: usize = 1 << 20;

/// What an entity remembers of its last snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinceSnapshot {
    events: u64,
}

impl SinceSnapshot {
    pub fn events(&self) -> u64 {
        self.events
    }

    /// As a new life finds it.
    pub fn of(life: &Life) -> Self {
        Self { events: life.events.len() as u64 }
    }

    /// Counts the events of `batch`, which led to `state`, and lets the state go with them when that is due.
    ///
    /// With `last` nothing comes after it, so that its events need not be kept for a replay at all. A cluster in which a
    /// node cannot read snapshots of such entities gets none: that node would take the stream for shorter than it is.
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

/// The state that a life begins from; none if it has no snapshot.
pub fn restored<S: DeserializeOwned>(life: &Life, format: u16) -> Result<Option<S>, Failure> {
    let Some((_, snapshot)) = &life.snapshot else { return Ok(None) };
    if snapshot.format != format {
        let found = snapshot.format;
        return Err(Failure::new(format!("its snapshot has format {found}, which this version does not know")));
    }
    Ok(Some(rmp_serde::from_slice(&snapshot.body)?))
}
