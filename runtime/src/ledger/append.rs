//! The batcher: it gathers the appends that wait at the same time into one entry: one commit, one fsync for all of them.
//!
//! Also the place where an older life is turned away: whoever claims a stream waits here until what the older life had
//! on its way has landed. Bounded in appends and bytes; one too many is told `Busy`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    Append, AppendError, Appended, NewEvent,
    core::Core,
    raft::{Applied, Landed, ProposeError},
    record::{Batch, Command, EventBody, Proposed},
};
use crate::{clock::Clock, id::Key};

/// The largest number of appends that wait; one more is refused with `Busy`.
const WAITING_MAX: usize = 16_384;
/// The largest number of bytes that wait.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// The bytes that one entry holds at most, about.
const ENTRY_BYTES_MAX: usize = 2 << 20;
const ENTRY_APPENDS_MAX: usize = 8_192;
/// The largest append, in bytes.
pub const APPEND_BYTES_MAX: usize = 16 << 20;
/// The bytes that an append takes beside its events.
const APPEND_BYTES: usize = 96;
/// The number of entries proposed at the same time: while one is synced the next is gathered, not more.
const ENTRIES_ON_THEIR_WAY: usize = 1;

enum Message {
    Append(Waiting),
    /// A question that is answered when no append of the stream that came before is on its way.
    Settle {
        stream: Key,
        settled: oneshot::Sender<()>,
    },
}

struct Waiting {
    append: Append,
    bytes: usize,
    landed: Landed,
}

/// The place to bring appends to. Cheap to clone; when the last is gone the batcher ends after what it holds.
#[derive(Clone)]
pub struct Inbox {
    queue: mpsc::Sender<Message>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The newest claim on each stream.
pub type Claims = Arc<Mutex<HashMap<Key, u64>>>;

/// The place where the present core is found; `None` while there is none.
pub type CoreNow = Arc<arc_swap::ArcSwapOption<Core>>;

impl Inbox {
    /// Brings an append and waits until it is committed or refused. Errors: `TooLarge` and `Busy` say that nothing was written.
    /// Dropping the future does not take the append back.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let events: usize = append.events.iter().map(NewEvent::bytes).sum();
        let part = append.part.as_ref().map_or(0, |part| part.snapshot.body.len());
        let bytes = events + append.snapshot.as_ref().map_or(0, |snapshot| snapshot.body.len()) + part + APPEND_BYTES;
        if bytes > APPEND_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes, bytes_max: APPEND_BYTES_MAX });
        }
        let (landed, outcome) = oneshot::channel();
        if self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) > WAITING_BYTES_MAX {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(AppendError::Busy { waiting: WAITING_MAX - self.queue.capacity() });
        }
        self.queue.try_send(Message::Append(Waiting { append, bytes, landed })).map_err(|error| {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Busy { waiting: WAITING_MAX },
                mpsc::error::TrySendError::Closed(_) => AppendError::Stopped,
            }
        })?;
        outcome.await.unwrap_or_else(|_| Err(AppendError::Unknown { why: "the ledger stopped before it answered".into() }))
    }

    /// Waits until no append of the stream that came before is on its way; false if the batcher has ended.
    pub async fn settle(&self, stream: &Key) -> bool {
        let (settled, wait) = oneshot::channel();
        self.queue.send(Message::Settle { stream: stream.clone(), settled }).await.is_ok() && wait.await.is_ok()
    }
}

pub struct Batcher {
    core: CoreNow,
    claims: Claims,
    clock: Clock,
    waiting_bytes: Arc<AtomicUsize>,
    kinds: HashMap<&'static str, Arc<str>>,
    /// The appends that go into the next entry.
    gathered: Vec<Waiting>,
    gathered_bytes: usize,
    on_their_way: FuturesUnordered<BoxFuture<'static, u64>>,
    streams_on_their_way: HashMap<u64, (Vec<Key>, Vec<oneshot::Sender<()>>)>,
    /// The askers that wait for streams in `gathered`.
    settle_after: Vec<oneshot::Sender<()>>,
    last_id: u64,
}

/// Makes the batcher: its way in, and the future that runs it.
pub fn batcher(core: CoreNow, claims: Claims, clock: Clock) -> (Inbox, impl Future<Output = ()> + Send) {
    let (queue, waiting) = mpsc::channel(WAITING_MAX);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let batcher = Batcher {
        core,
        claims,
        clock,
        waiting_bytes: waiting_bytes.clone(),
        kinds: HashMap::new(),
        gathered: Vec::new(),
        gathered_bytes: 0,
        on_their_way: FuturesUnordered::new(),
        streams_on_their_way: HashMap::new(),
        settle_after: Vec::new(),
        last_id: 0,
    };
    (Inbox { queue, waiting_bytes }, batcher.run(waiting))
}

impl Batcher {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut messages = Vec::new();
        let mut open = true;
        while open || !self.gathered.is_empty() || !self.on_their_way.is_empty() {
            let room = self.gathered.len() < ENTRY_APPENDS_MAX && self.gathered_bytes < ENTRY_BYTES_MAX;
            tokio::select! {
                biased;
                Some(id) = self.on_their_way.next() => self.landed(id),
                n = queue.recv_many(&mut messages, ENTRY_APPENDS_MAX), if open && room => open = n > 0,
            }
            // Those that came while the entry before was written go into this one.
            while open
                && self.gathered.len() + messages.len() < ENTRY_APPENDS_MAX
                && let Ok(message) = queue.try_recv()
            {
                messages.push(message);
            }
            self.gather(&mut messages);
            if !self.gathered.is_empty() && self.on_their_way.len() < ENTRIES_ON_THEIR_WAY {
                self.propose();
            }
        }
    }

    fn gather(&mut self, messages: &mut Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let claims = self.claims.clone();
        let claims = claims.lock();
        for message in messages.drain(..) {
            match message {
                Message::Append(waiting) => {
                    if let Some(&newest) = claims.get(&waiting.append.stream)
                        && waiting.append.incarnation < newest
                    {
                        self.waiting_bytes.fetch_sub(waiting.bytes, Ordering::Relaxed);
                        // Who asked may be gone.
                        let _ = waiting.landed.send(Err(AppendError::Fenced { newest }));
                        continue;
                    }
                    self.gathered_bytes += waiting.bytes;
                    self.gathered.push(waiting);
                }
                Message::Settle { stream, settled } => {
                    if self.gathered.iter().any(|waiting| waiting.append.stream == stream) {
                        self.settle_after.push(settled);
                    } else if let Some((_, waiting)) =
                        self.streams_on_their_way.values_mut().find(|(streams, _)| streams.contains(&stream))
                    {
                        waiting.push(settled);
                    } else {
                        // Who asked may be gone.
                        let _ = settled.send(());
                    }
                }
            }
        }
    }

    fn landed(&mut self, id: u64) {
        for settled in self.streams_on_their_way.remove(&id).map(|(_, waiting)| waiting).unwrap_or_default() {
            // Who asked may be gone.
            let _ = settled.send(());
        }
    }

    fn propose(&mut self) {
        self.last_id += 1;
        let id = self.last_id;
        let mut bytes = 0;
        let n = self
            .gathered
            .iter()
            .take_while(|waiting| {
                bytes < ENTRY_BYTES_MAX && {
                    bytes += waiting.bytes;
                    true
                }
            })
            .count();
        let rest = self.gathered.split_off(n);
        let gathered = std::mem::replace(&mut self.gathered, rest);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.gathered_bytes -= bytes;
        let mut appends = Vec::with_capacity(gathered.len());
        let mut landed = Vec::with_capacity(gathered.len());
        let mut streams = Vec::with_capacity(gathered.len());
        for waiting in gathered {
            let append = waiting.append;
            streams.push(append.stream.clone());
            let events = append
                .events
                .into_iter()
                .map(|event| EventBody { kind: self.kind(event.kind), format: event.format, body: event.body })
                .collect();
            appends.push(Proposed {
                stream: append.stream,
                incarnation: append.incarnation,
                expected_version: append.expected_version,
                events,
                snapshot: append.snapshot,
                part: append.part,
            });
            landed.push(waiting.landed);
        }
        // Those who wait for what is still gathered wait for the last of it.
        let settle = if self.gathered.is_empty() { std::mem::take(&mut self.settle_after) } else { Vec::new() };
        self.streams_on_their_way.insert(id, (streams, settle));
        let refuse = |landed: Vec<Landed>, error: AppendError| {
            for landed in landed {
                // Who asked may be gone.
                let _ = landed.send(Err(error.clone()));
            }
        };
        let Some(core) = self.core.load_full() else {
            refuse(landed, AppendError::Failed { why: "the store is being reopened".into() });
            return self.landed(id);
        };
        if let Some(why) = core.failure() {
            refuse(landed, AppendError::Failed { why });
            return self.landed(id);
        }
        let batch = match Batch::encode(core.outcomes.origin, id, self.clock.now(), appends) {
            Ok(batch) => batch,
            Err(error) => {
                refuse(landed, AppendError::Failed { why: error.to_string() });
                return self.landed(id);
            }
        };
        core.outcomes.wait(id, landed);
        let proposed = core.consensus.propose(Command::Batch(Arc::new(batch)));
        let outcome = async move {
            let result = proposed.await;
            // Whoever has not been told by now never will be.
            let untold = core.outcomes.take(id);
            match result {
                Ok(Applied::Nothing) if untold.is_empty() => {}
                Ok(_) => refuse(untold, AppendError::Unknown { why: "the answer was withheld".into() }),
                Err(ProposeError::NotLeading(why)) => refuse(untold, AppendError::NoQuorum { why }),
                Err(ProposeError::Unknown(why)) => refuse(untold, AppendError::Unknown { why }),
                Err(ProposeError::Fenced(stale)) => {
                    for (place, landed) in untold.into_iter().enumerate() {
                        let newest = stale.iter().find(|(at, _)| *at as usize == place).map(|(_, newest)| *newest);
                        // Those that came along with a stale one were not written either: their entities look again.
                        let error = newest.map_or_else(
                            || AppendError::NoQuorum { why: "an append beside it was of an older life".into() },
                            |newest| AppendError::Fenced { newest },
                        );
                        // Who asked may be gone.
                        let _ = landed.send(Err(error));
                    }
                }
                Err(ProposeError::Lost(why)) => {
                    core.fail(&why);
                    refuse(untold, AppendError::Unknown { why: core.failure().unwrap_or(why) });
                }
            }
            id
        };
        self.on_their_way.push(outcome.boxed());
    }

    fn kind(&mut self, kind: &'static str) -> Arc<str> {
        self.kinds.entry(kind).or_insert_with(|| kind.into()).clone()
    }
}
