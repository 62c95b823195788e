//! The ring of the newest events, decoded, so that a reader that tails reads no disk.
//!
//! Holds at least what is not in the tables yet; bounded in events and bytes beyond that.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::RwLock;

use super::{Cursor, Event};

const EVENTS_MAX: usize = 200_000;
const BYTES_MAX: usize = 48 << 20;
/// The bytes of an event beside its body, about.
const EVENT_BYTES: usize = 200;

struct Batch {
    first: u64,
    events: Arc<[Event]>,
    bytes: usize,
}

#[derive(Default)]
struct Batches {
    batches: VecDeque<Batch>,
    events: usize,
    bytes: usize,
}

#[derive(Default)]
pub struct Ring(RwLock<Batches>);

impl Ring {
    /// Takes in what follows; forgets the oldest that are in the tables, which are those up to `written`.
    pub fn push(&self, events: Vec<Event>, written: u64) {
        let Some(first) = events.first().map(|event| event.cursor.0) else { return };
        let bytes = events.iter().map(|event| event.body.len() + EVENT_BYTES).sum();
        let mut ring = self.0.write();
        ring.events += events.len();
        ring.bytes += bytes;
        ring.batches.push_back(Batch { first, events: events.into(), bytes });
        while ring.events > EVENTS_MAX || ring.bytes > BYTES_MAX {
            let Some(oldest) = ring.batches.pop_front_if(|oldest| oldest.first + (oldest.events.len() as u64) <= written + 1)
            else {
                break;
            };
            ring.events -= oldest.events.len();
            ring.bytes -= oldest.bytes;
        }
    }

    /// Returns up to `events_max` events after a cursor; `None` if the ring does not reach back so far.
    pub fn after(&self, after: Cursor, events_max: usize) -> Option<Vec<Event>> {
        let ring = self.0.read();
        if ring.batches.front()?.first > after.0 + 1 {
            return None;
        }
        let start = ring.batches.partition_point(|batch| batch.first <= after.0 + 1) - 1;
        let mut found = Vec::new();
        for batch in ring.batches.range(start..) {
            let skip = usize::try_from((after.0 + 1).saturating_sub(batch.first)).unwrap_or(usize::MAX).min(batch.events.len());
            let rest = &batch.events[skip..];
            found.extend_from_slice(&rest[..rest.len().min(events_max - found.len())]);
            if found.len() >= events_max {
                break;
            }
        }
        Some(found)
    }

    /// Returns `n` events from `first` on, if they are here in one batch.
    pub fn get(&self, first: u64, n: usize) -> Option<Vec<Event>> {
        let ring = self.0.read();
        let at = ring.batches.partition_point(|batch| batch.first <= first).checked_sub(1)?;
        let batch = &ring.batches[at];
        let skip = usize::try_from(first - batch.first).ok()?;
        batch.events.get(skip..skip + n).map(<[Event]>::to_vec)
    }

    /// Forgets all events.
    pub fn clear(&self) {
        *self.0.write() = Batches::default();
    }
}
