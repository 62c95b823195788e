//! Knows which leases the process was given, and keeps the shim's record of them as short as what is with the process.

use std::collections::HashSet;

use super::{Inner, protocol};

/// Number of tasks that have ended before the record is shortened by them.
const OVER_BATCH: usize = 256;

impl Inner {
    /// Takes over what an earlier life had given; what ended meanwhile is forgotten with the next batches.
    pub(super) fn adopt_given(&self, given: HashSet<String>) {
        let over = |name: &&String| {
            // Attempts whose files are gone ended long ago.
            let lease = protocol::lease(name, self.shared.agent.id);
            lease.is_none_or(|lease| !self.attempt(lease).exists() || self.attempt(lease).outcome().is_some())
        };
        let over = given.iter().filter(over).cloned().collect();
        let mut state = self.state.lock();
        (state.given, state.over) = (given, over);
    }

    /// Keeps the record of what the process was given as short as what is with it, within a batch.
    pub(super) fn forget_accepted(&self, name: String) {
        let (session, batch) = {
            let mut state = self.state.lock();
            state.over.push(name);
            if state.over.len() < OVER_BATCH {
                return;
            }
            let batch: Vec<String> = state.over.drain(..OVER_BATCH).collect();
            for name in &batch {
                state.given.remove(name);
            }
            (state.session.clone(), batch)
        };
        if let Some(session) = session {
            self.spawn(async move {
                // Not heard: the lines stay, and the next life of the agent asks again.
                let _ = session.forget_accepted(batch).await;
            });
        }
    }
}
