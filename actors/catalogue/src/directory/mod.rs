//! Where every entity of the cluster is, and what its spec says: the roster's stream, folded on every node.
//!
//! Owns that fold in memory. Asks the local ledger for the stream; never claims or writes it. It may be behind the leader
//! by as much as this node's ledger is. After a restart it replays, without a claim.

mod keeper;
mod known;
pub mod snapshot;

use std::{collections::HashSet, sync::Arc};

use futures_util::future::BoxFuture;
use hiveward_kernel::{
    event::DecodeError,
    id::{AgentId, SwarmId},
};
use hiveward_runtime::{
    clock::Deadline,
    cluster::{
        peers::Peers,
        router::{self, Location},
    },
    error::{Code, Refused},
    fault::{self, InjectedError},
    id::Key,
    ledger::{Cursor, Ledger, ReadError},
    op::NodeId,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::{agent::spec::AgentSpec, roster::event::RosterEvent, swarm::SwarmSpec};

pub use hiveward_kernel::entity::{Entity, Place};
pub use keeper::DirectoryKeeper;
pub use known::{AgentEntry, BudgetEntry, Drain, Known, NodeEntry, NodeStatus, SwarmEntry, Touched};

/// Read at once when it catches up.
const EVENTS_PER_READ: usize = 4096;
/// Changes that are told one by one; when more wait, everything may have changed.
const CHANGES_MAX: usize = 65_536;

#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Snapshot(#[from] snapshot::SnapshotError),
    #[error(transparent)]
    Injected(#[from] InjectedError),
}

/// What may have changed since the last look.
#[derive(Debug, Default)]
pub struct Changes {
    pub entities: HashSet<Entity>,
    pub nodes: HashSet<NodeId>,
    /// Too many to name: look at everything.
    pub all: bool,
}

/// Cheap to clone; all clones are one fold.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    peers: Peers,
    known: RwLock<Known>,
    /// One reader of the stream at a time; the others find it done.
    reading: Mutex<()>,
    cursor: watch::Sender<Cursor>,
    changes: Mutex<Changes>,
    rung: Notify,
}

impl Directory {
    pub fn new(ledger: Ledger, peers: Peers) -> Self {
        Self(Arc::new(Inner {
            ledger,
            peers,
            known: RwLock::default(),
            reading: Mutex::new(()),
            cursor: watch::Sender::new(Cursor::default()),
            changes: Mutex::new(Changes { all: true, ..Changes::default() }),
            rung: Notify::new(),
        }))
    }

    /// Takes in what the local ledger has. Reads from disk what is not in memory: short but for the first time.
    pub fn catch_up(&self) -> Result<(), DirectoryError> {
        let _reading = self.0.reading.lock();
        fault::point_sync("directory.fold", None)?;
        // Looked at first: what is read then is at least as new.
        let mut at = self.0.ledger.head();
        let stream = RosterEvent::stream();
        let mut touched = Vec::new();
        loop {
            let after = self.0.known.read().version;
            if after == 0 && self.begin_from_snapshot(&stream, after)? {
                continue;
            }
            let events = match self.0.ledger.read_stream(&stream, after, EVENTS_PER_READ) {
                // It lagged so far that what follows was let go of.
                Err(ReadError::Compacted { .. }) if self.begin_from_snapshot(&stream, after)? => continue,
                events => events?,
            };
            if events.is_empty() {
                break;
            }
            let mut decoded = Vec::with_capacity(events.len());
            for event in &events {
                decoded.push((event, RosterEvent::decode(&event.kind, event.format, &event.body)?));
            }
            let mut known = self.0.known.write();
            for (event, what) in decoded {
                touched.push(known.apply(&what, event.at));
                (known.version, known.cursor) = (event.version, event.cursor);
                if matches!(what, RosterEvent::BudgetSet { .. } | RosterEvent::BudgetRemoved { .. }) {
                    known.budgets_changed = event.cursor;
                }
                at = at.max(event.cursor);
            }
        }
        if !touched.is_empty() {
            self.tell(&touched);
        }
        self.0.cursor.send_if_modified(|seen| std::mem::replace(seen, (*seen).max(at)) < at);
        Ok(())
    }

    /// Whether there was a newer state to begin from.
    fn begin_from_snapshot(&self, stream: &Key, after: u64) -> Result<bool, DirectoryError> {
        let Some(found) = snapshot::read(&self.0.ledger, stream, after)? else { return Ok(false) };
        *self.0.known.write() = found;
        self.0.changes.lock().all = true;
        self.0.rung.notify_one();
        Ok(true)
    }

    fn tell(&self, touched: &[Touched]) {
        let mut changes = self.0.changes.lock();
        for one in touched {
            match one {
                Touched::Entity(entity) => drop(changes.entities.insert(*entity)),
                Touched::Hosts(one, other) => changes.entities.extend([Entity::Host(*one), Entity::Host(*other)]),
                Touched::Node(node) => drop(changes.nodes.insert(*node)),
                Touched::Nothing => {}
            }
        }
        if changes.entities.len() > CHANGES_MAX {
            changes.entities = HashSet::new();
            changes.all = true;
        }
        drop(changes);
        self.0.rung.notify_one();
    }

    /// For the one who makes what runs here what the directory says: waits until something may have changed.
    pub async fn changed(&self) {
        self.0.rung.notified().await;
    }

    pub fn take_changes(&self) -> Changes {
        std::mem::take(&mut *self.0.changes.lock())
    }

    pub fn cursor(&self) -> Cursor {
        *self.0.cursor.borrow()
    }

    /// Up to which event it is, as it moves.
    pub fn follow(&self) -> watch::Receiver<Cursor> {
        self.0.cursor.subscribe()
    }

    /// Waits until what was committed at `cursor` is taken in; false if it is not by the deadline.
    pub async fn at_least(&self, cursor: Cursor, deadline: Deadline) -> bool {
        if self.cursor() >= cursor {
            return true;
        }
        let mut seen = self.0.cursor.subscribe();
        tokio::time::timeout_at(deadline.instant(), seen.wait_for(|seen| *seen >= cursor)).await.is_ok_and(|found| found.is_ok())
    }

    pub fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.0.known.read())
    }

    pub fn swarm(&self, id: SwarmId) -> Option<Arc<SwarmSpec>> {
        self.read(|known| known.swarms.get(&id).map(|entry| entry.spec.clone()))
    }

    pub fn swarm_named(&self, name: &str) -> Option<Arc<SwarmSpec>> {
        self.read(|known| known.swarms.get(&known.swarm_named(name)?).map(|entry| entry.spec.clone()))
    }

    pub fn agent(&self, id: AgentId) -> Option<Arc<AgentSpec>> {
        self.read(|known| known.agents.get(&id).map(|entry| entry.spec.clone()))
    }

    /// Where an entity is now; `None` while it is placed nowhere.
    pub fn location(&self, entity: Entity) -> Option<Location> {
        self.read(|known| {
            let place = known.place(entity)?;
            Some(Location { node: place.node?, incarnation: place.placement })
        })
    }

    /// The placement of an entity, placed or not; 0 for one that is unknown.
    pub fn placement(&self, entity: Entity) -> u64 {
        self.read(|known| known.place(entity).map_or(0, |place| place.placement))
    }

    pub fn has_swarms(&self) -> bool {
        self.read(|known| !known.swarms.is_empty())
    }

    /// Where the roster acts now: on the node that leads.
    pub fn roster(&self) -> Option<Location> {
        let leader = self.0.peers.leader().borrow().leader?;
        Some(Location { node: leader, incarnation: ROSTER_INCARNATION })
    }
}

/// The roster's door is open on every node; one that does not lead says so.
pub const ROSTER_INCARNATION: u64 = 1;

/// What the roster is addressed by.
pub fn roster_key() -> Key {
    Key::trusted("roster_main")
}

impl router::Directory for Directory {
    fn locate<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Location>, Refused>> {
        let location = if key.noun() == RosterEvent::NOUN {
            self.roster().map(Some).ok_or_else(|| Refused::new(Code::Unavailable, "no leader is known"))
        } else {
            Ok(Entity::of(key).and_then(|entity| self.location(entity)))
        };
        Box::pin(std::future::ready(location))
    }
}
