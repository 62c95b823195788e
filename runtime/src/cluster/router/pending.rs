//! The asks that wait for an answer over a link.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::envelope::Refusal;

/// The largest number of asks that wait at a time, over all links; one more is refused with `WayFull`.
pub const PENDING_ASKS_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Vec<u8>),
    Refused(Refusal),
    LinkLost,
}

#[derive(Default)]
pub(super) struct Pending {
    waiting: Mutex<HashMap<u64, (u64, oneshot::Sender<Outcome>), foldhash::fast::RandomState>>,
    next: AtomicU64,
}

/// One waiting ask. Dropping it stops waiting; a late answer finds nobody.
pub(super) struct Waiting {
    pub(super) correlation: u64,
    pub(super) outcome: oneshot::Receiver<Outcome>,
    pending: Arc<Pending>,
}

impl Pending {
    /// Enters an ask before it is sent, so that a link lost in between is noticed. `None` at the bound.
    pub(super) fn wait(self: &Arc<Self>, link: u64) -> Option<Waiting> {
        let (to, outcome) = oneshot::channel();
        // Zero is for messages that want no answer.
        let correlation = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiting = self.waiting.lock();
        if waiting.len() >= PENDING_ASKS_MAX {
            return None;
        }
        waiting.insert(correlation, (link, to));
        Some(Waiting { correlation, outcome, pending: self.clone() })
    }

    /// Hands an outcome to the ask it is for. Only what came over the link that was asked counts: another peer cannot answer for
    /// it.
    pub(super) fn settle(&self, link: u64, correlation: u64, outcome: Outcome) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&correlation).is_some_and(|(asked, _)| *asked == link)
            && let Some((_, to)) = waiting.remove(&correlation)
        {
            drop(waiting);
            let _ = to.send(outcome);
        }
    }

    pub(super) fn link_lost(&self, link: u64) {
        let lost: Vec<_> = self.waiting.lock().extract_if(|_, (asked, _)| *asked == link).collect();
        for (_, (_, to)) in lost {
            let _ = to.send(Outcome::LinkLost);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().len()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.waiting.lock().remove(&self.correlation);
    }
}
