//! One tail of the ledger per process, shared by every subscriber that is caught up.
//!
//! Each event is read and decoded once and handed round as an `Arc` over a bounded ring. A subscriber first reads the
//! ledger from its own cursor; once level with the ring it takes from there. One that falls out of the ring reads the
//! ledger again from where it is: it misses nothing, gets nothing twice, and holds one batch at a time.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{Stream, stream};
use hiveward_actors::client::{ControlPlane, EventFilter, EventRecord};
use hiveward_runtime::{error::Refused, ledger::Cursor};
use parking_lot::Mutex;
use tokio::{sync::broadcast, task::AbortHandle};

/// The number of events that a caught-up subscriber may be behind before it reads the ledger again.
const RING: usize = 4_096;
/// The number of events that one subscriber reads from the ledger at a time.
const BATCH: usize = 256;

pub struct SharedTail {
    control: ControlPlane,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    ring: Option<broadcast::Sender<Arc<EventRecord>>>,
    /// The cursor of the last event that went into the ring, or where it began.
    reached: Cursor,
    reader: Option<AbortHandle>,
}

impl Drop for SharedTail {
    fn drop(&mut self) {
        if let Some(reader) = self.inner.lock().reader.take() {
            reader.abort();
        }
    }
}

struct Following {
    control: ControlPlane,
    inner: Arc<Mutex<Inner>>,
    /// The door of who follows: events that he does not see are passed over.
    seen_by: ControlPlane,
    filter: EventFilter,
    /// The cursor up to which everything was handed out (or did not match).
    position: Cursor,
    ready: VecDeque<Arc<EventRecord>>,
    ring: Option<broadcast::Receiver<Arc<EventRecord>>>,
    failed: bool,
}

impl SharedTail {
    /// Makes a tail; it reads nothing until somebody follows it.
    pub fn new(control: ControlPlane) -> Self {
        Self { control, inner: Arc::default() }
    }

    /// Returns the cursor after which new events will follow.
    pub fn head(&self) -> Cursor {
        self.control.cluster().cursor
    }

    /// Returns the events after `after` that match and that he who follows sees, without an end. Dropping the stream ends it; an error is its last item.
    pub fn follow(
        &self,
        seen_by: ControlPlane,
        after: Cursor,
        filter: EventFilter,
    ) -> impl Stream<Item = Result<Arc<EventRecord>, Refused>> + Send + use<> {
        let following = Following {
            control: self.control.clone(),
            inner: self.inner.clone(),
            seen_by,
            filter,
            position: after,
            ready: VecDeque::new(),
            ring: None,
            failed: false,
        };
        stream::unfold(following, |mut following| async move {
            if following.failed {
                return None;
            }
            let next = following.next().await;
            following.failed = next.is_err();
            Some((next, following))
        })
    }
}

impl Following {
    async fn next(&mut self) -> Result<Arc<EventRecord>, Refused> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.position = event.cursor;
                return Ok(event);
            }
            match &mut self.ring {
                None => self.catch_up()?,
                Some(ring) => match ring.recv().await {
                    Ok(event) if event.cursor <= self.position => {}
                    Ok(event) => {
                        self.position = event.cursor;
                        if self.filter.wants(&event) && self.seen_by.sees_event(&event) {
                            return Ok(event);
                        }
                    }
                    // It fell out of the ring, or the ring's reader ended: the ledger has it all.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        metrics::counter!("hiveward_event_subscribers_lagged_total").increment(1);
                        self.ring = None;
                    }
                    Err(broadcast::error::RecvError::Closed) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        self.ring = None;
                    }
                },
            }
        }
    }

    /// Reads one batch of the ledger; when it is level with the ring, joins the ring.
    fn catch_up(&mut self) -> Result<(), Refused> {
        // It joins before it reads: whatever the ring gets from now on is not missed, whatever it got before is in the ledger.
        let (ring, reached) = join(&self.control, &self.inner);
        let batch = self.seen_by.events(self.position, &self.filter, BATCH)?;
        let level = batch.len() < BATCH;
        self.ready = batch.into_iter().map(Arc::new).collect();
        if level {
            if self.ready.is_empty() {
                self.position = self.position.max(reached);
            }
            self.ring = Some(ring);
        }
        Ok(())
    }
}

/// Returns a receiver of the ring and the cursor it continues from; starts the ring's reader if there is none.
fn join(control: &ControlPlane, shared: &Arc<Mutex<Inner>>) -> (broadcast::Receiver<Arc<EventRecord>>, Cursor) {
    let mut inner = shared.lock();
    if let Some(ring) = inner.ring.as_ref().filter(|_| inner.reader.as_ref().is_some_and(|reader| !reader.is_finished())) {
        return (ring.subscribe(), inner.reached);
    }
    let head = control.cluster().cursor;
    let (ring, receiver) = broadcast::channel(RING);
    inner.reached = head;
    inner.ring = Some(ring.clone());
    // `SharedTail` owns it and aborts it; it also ends by itself when nothing holds the ring any more.
    inner.reader = Some(tokio::spawn(read(control.clone(), head, ring, Arc::downgrade(shared))).abort_handle());
    (receiver, head)
}

async fn read(control: ControlPlane, after: Cursor, ring: broadcast::Sender<Arc<EventRecord>>, shared: Weak<Mutex<Inner>>) {
    let mut tail = control.event_tail(after, EventFilter::default());
    loop {
        let events = match tail.next().await {
            Ok(events) => events,
            Err(refused) => {
                tracing::warn!(%refused, "the shared tail of the ledger ended; subscribers read the ledger themselves and start it again");
                return;
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        // This is under the lock, so that who joins sees either the event in the ring or a `reached` that covers it.
        let mut inner = shared.lock();
        for event in events {
            inner.reached = event.cursor;
            let _nobody_listens = ring.send(Arc::new(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use hiveward_actors::{
        client::NewSwarm,
        node::{Node, NodeConfig},
    };
    use hiveward_runtime::op::Op;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    async fn something_happens(control: &ControlPlane, name: &str) -> Cursor {
        let new = NewSwarm { name: name.into(), ..NewSwarm::default() };
        control.create_swarm(Op::internal(WITHIN), new).await.unwrap().cursor
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_read_from_the_ledger_and_is_in_the_ring_too_is_handed_out_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig { reserve_bytes: 0, default_agents: 0, ..NodeConfig::new(dir.path()) };
        let node = Node::start(config).await.unwrap();
        let control = node.control();
        let tail = SharedTail::new(control.clone());
        let before = control.cluster().cursor;
        // As `catch_up` does it, with all that can happen in between: joined, then events, then the ledger is read.
        let (ring, _) = join(&control, &tail.inner);
        for name in ["one", "two", "three"] {
            something_happens(&control, name).await;
        }
        let head = control.cluster().cursor;
        tokio::time::timeout(WITHIN, async {
            while tail.inner.lock().reached < head {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        let read: VecDeque<_> =
            control.events(before, &EventFilter::default(), BATCH).unwrap().into_iter().map(Arc::new).collect();
        assert!(read.len() >= 3 && ring.len() >= read.len(), "{} read, {} in the ring", read.len(), ring.len());
        let mut following = Following {
            control: control.clone(),
            inner: tail.inner.clone(),
            seen_by: control.clone(),
            filter: EventFilter::default(),
            position: before,
            ready: read,
            ring: Some(ring),
            failed: false,
        };
        let last = something_happens(&control, "four").await;
        let mut heard = Vec::new();
        while heard.last().is_none_or(|cursor| *cursor < last) {
            heard.push(tokio::time::timeout(WITHIN, following.next()).await.unwrap().unwrap().cursor);
        }
        let events = control.events(before, &EventFilter::default(), BATCH).unwrap();
        let all: Vec<_> = events.iter().map(|event| event.cursor).take_while(|cursor| *cursor <= last).collect();
        assert_eq!(heard, all);
        drop((following, tail));
        node.stop(Duration::from_secs(10)).await;
    }
}
