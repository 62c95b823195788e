//! The entries of the log that are not applied: they may have been acknowledged, and only a leader knows.
//!
//! A node that starts again has the entries that came after its last checkpoint in its log alone, and applies them when a leader
//! says that they count. Code that must not act against them meanwhile, such as on the word that a member is removed, asks here.

use bytes::Bytes;
use openraft::EntryPayload;
use redb::ReadableDatabase;

use super::{
    Ledger, ReadError,
    record::{Command, read_entry},
    tables::{LOG, corrupt, storage},
};
use crate::id::Key;

/// The undecided events of one stream.
#[derive(Clone, Debug, Default)]
pub struct Undecided {
    pub events: Vec<UndecidedEvent>,
    /// The index of the last entry of the log: once this node has applied it, each of these is an event, or never will be.
    last_index: u64,
}

/// An event as it would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndecidedEvent {
    pub kind: String,
    pub format: u16,
    pub body: Bytes,
}

impl Ledger {
    /// Reads what of a stream is in the log and not applied yet. Blocks while it reads; the tail is a few megabytes at most.
    pub fn undecided(&self, stream: &Key) -> Result<Undecided, ReadError> {
        let core = self.core()?;
        let applied = core.disk.machine.lock().meta.applied.map_or(0, |applied| applied.index);
        let txn = core.disk.log.begin_read().map_err(storage)?;
        let table = txn.open_table(LOG).map_err(storage)?;
        let mut found = Undecided { events: Vec::new(), last_index: applied };
        for row in table.range(applied + 1..).map_err(storage)? {
            let (index, value) = row.map_err(storage)?;
            let index = index.value();
            let entry = read_entry(index, value.value()).map_err(|what| corrupt("raft_log", format!("index {index}"), what))?;
            found.last_index = index;
            let EntryPayload::Normal(Command::Batch(batch)) = &entry.payload else { continue };
            let events = batch.appends.iter().filter(|append| append.stream == *stream).flat_map(|append| &append.events);
            found.events.extend(events.map(|event| UndecidedEvent {
                kind: event.kind.to_string(),
                format: event.format,
                body: event.body.clone(),
            }));
        }
        Ok(found)
    }

    /// Tells whether it is decided by now which of these are events.
    pub fn has_decided(&self, undecided: &Undecided) -> bool {
        let applied = |core: std::sync::Arc<super::core::Core>| core.disk.machine.lock().meta.applied;
        self.core().ok().and_then(applied).is_some_and(|applied| applied.index >= undecided.last_index)
    }
}
