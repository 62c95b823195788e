//! What an entity hands over together, and how batches become appends. Pure.

use std::sync::Arc;

use bytes::Bytes;
use hiveward_runtime::{
    error::{Code, Refused},
    ledger::{APPEND_BYTES_MAX, Cursor, NewEvent, SnapshotPart, StreamSnapshot},
    op::Asker,
};

use crate::event::signed;

/// One append takes at most this many events of several batches.
pub(super) const EVENTS_PER_APPEND_MAX: usize = 4096;
/// One append takes about so many bytes of several batches; only events that must stay together make a larger one.
pub(super) const APPEND_BYTES_WANTED: usize = 2 << 20;
/// The most bytes of events that stay together. What comes in is held to it first, so that no append is ever too large.
pub const TOGETHER_BYTES_MAX: usize = APPEND_BYTES_MAX / 2;

/// The call that follows once the events before it are durable. Runs on the committer's task: it must not block.
pub type After = Box<dyn FnOnce(Cursor) + Send>;

#[derive(Default)]
pub struct Batch {
    pub events: Vec<NewEvent>,
    pub after: Vec<After>,
    /// The state after these events.
    pub snapshot: Option<StreamSnapshot>,
    /// The piece of a snapshot that is taken piece by piece.
    pub part: Option<SnapshotPart>,
    /// Who asked for the events that are pushed next; none if the house does of itself.
    pub(super) asker: Option<Arc<Asker>>,
    /// Places in `events` at which another append may begin. Without any all events stay together.
    pub(super) cuts: Vec<usize>,
}

impl Batch {
    /// Makes a batch of events that somebody asked for.
    pub fn asked_by(asker: Option<&Arc<Asker>>) -> Self {
        Self { asker: asker.cloned(), ..Self::default() }
    }

    /// Notes who asked for the events that are pushed from here on; `None` for those that the house decides of itself.
    pub fn on_behalf_of(&mut self, asker: Option<&Arc<Asker>>) {
        self.asker = asker.cloned();
    }

    /// Adds an event after those that are in the batch already, with who asked for it.
    pub fn push(&mut self, kind: &'static str, format: u16, body: Bytes) {
        let body = match &self.asker {
            Some(asker) => signed(&body, asker).unwrap_or_else(|error| {
                tracing::error!(kind, %error, "who asked for an event cannot be written down");
                body
            }),
            None => body,
        };
        self.events.push(NewEvent { kind, format, body });
    }

    /// Returns a batch that is one piece of a snapshot; it goes into an append of its own, without events.
    pub fn of_part(part: SnapshotPart) -> Self {
        Self { part: Some(part), ..Self::default() }
    }

    /// Lets the events that follow go into another append than those before, if together they take too many bytes. The
    /// entity can live with the ones before alone: a replay finds out what follows from them.
    pub fn may_cut_here(&mut self) {
        if !self.events.is_empty() {
            self.cuts.push(self.events.len());
        }
    }

    /// Adds what is called, with the ledger's cursor, once everything in this batch is durable; dropped if the append fails.
    pub fn then(&mut self, after: impl FnOnce(Cursor) + Send + 'static) {
        self.after.push(Box::new(after));
    }

    /// Tells whether there is nothing to commit, nothing to follow and no snapshot.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.after.is_empty() && self.snapshot.is_none() && self.part.is_none()
    }

    pub(super) fn bytes(&self) -> usize {
        let events: usize = self.events.iter().map(NewEvent::bytes).sum();
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.body.len());
        events + snapshot + self.part.as_ref().map_or(0, |part| part.snapshot.body.len())
    }
}

/// Refuses events too large for one append, before anything has happened; `field` is what the asker would have to make smaller.
pub fn fits(field: &str, bytes: usize) -> Result<(), Refused> {
    if bytes <= TOGETHER_BYTES_MAX {
        return Ok(());
    }
    Err(Refused {
        code: Code::Limit,
        message: format!(
            "it takes {bytes} bytes in the ledger, at most {TOGETHER_BYTES_MAX} at once; nothing was done: give large bodies \
             as payload or stdin, which are stored beside the ledger, or less at once"
        ),
        field: Some(field.to_owned()),
    })
}

/// One append to be, and who is told when it is durable.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) events: Vec<NewEvent>,
    bytes: usize,
    pub(super) after: Vec<After>,
    pub(super) snapshot: Option<StreamSnapshot>,
    pub(super) part: Option<SnapshotPart>,
}

impl Gathered {
    fn takes(&self, events: usize, bytes: usize) -> bool {
        self.events.is_empty()
            || (self.bytes + bytes <= APPEND_BYTES_WANTED && self.events.len() + events <= EVENTS_PER_APPEND_MAX)
    }
}

/// Makes appends of batches: as many as fit go together, and one that is too large is cut where it may be.
pub(super) fn appends_of(batches: Vec<Batch>) -> Vec<Gathered> {
    let (mut appends, mut now) = (Vec::new(), Gathered::default());
    for Batch { events, after, snapshot, part, cuts, .. } in batches {
        let (mut events, mut at) = (events.into_iter(), 0);
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let together: Vec<NewEvent> = events.by_ref().take(cut.saturating_sub(at)).collect();
            at = cut;
            let bytes = together.iter().map(NewEvent::bytes).sum();
            if !now.takes(together.len(), bytes) {
                appends.push(std::mem::take(&mut now));
            }
            now.bytes += bytes;
            now.events.extend(together);
        }
        if part.is_some() && !(now.events.is_empty() && now.after.is_empty()) {
            // A piece goes without events.
            appends.push(std::mem::take(&mut now));
        }
        now.after.extend(after);
        // A snapshot is of the state right here: no event goes into its append after it.
        if snapshot.is_some() || part.is_some() {
            (now.snapshot, now.part) = (snapshot, part);
            appends.push(std::mem::take(&mut now));
        }
    }
    if !now.events.is_empty() || !now.after.is_empty() {
        appends.push(now);
    }
    appends
}
