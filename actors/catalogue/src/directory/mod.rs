//! Tells where every entity of the cluster is, and what its spec says: the roster's stream, folded on every node.
//!
//! Owns that fold in memory. Asks the local ledger for the stream; never claims or writes it. It may be behind the leader by as
//! much as this node's ledger is. After a restart it replays, without a claim.

mod keeper;
mod known;
mod node;
mod size;
pub mod snapshot;

use std::{collections::HashSet, sync::Arc};

use futures_util::future::BoxFuture;
use hiveward_kernel::{
    event::DecodeError,
    id::{AgentId, ProjectId, SwarmId},
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
pub use known::{AgentEntry, Known, SwarmEntry, Touched};
pub use node::{Drain, NodeEntry, NodeStatus};
pub use size::of as size_of;

/// The most events that are read at once.
const EVENTS_PER_READ: usize = 4096;
/// The most changes that are told one by one; when more wait, everything may have changed.
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

/// The things that may have changed since the last look.
#[derive(Debug, Default)]
pub struct Changes {
    pub entities: HashSet<Entity>,
    pub nodes: HashSet<NodeId>,
    /// Whether too many changed to name them: look at everything.
    pub all: bool,
}

/// The directory of a node. It is cheap to clone; all clones are one fold.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    peers: Peers,
    known: RwLock<Known>,
    /// The lock of the one reader of the stream; the others find its work done.
    reading: Mutex<()>,
    cursor: watch::Sender<Cursor>,
    changes: Mutex<Changes>,
    rung: Notify,
}

impl Directory {
    /// Makes a directory that has read nothing yet.
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

    /// Takes in what the local ledger has. Blocks while it reads from disk what is not in memory: short but for the first time.
    /// Errors: the stream or its snapshot cannot be read or decoded; what was taken in before stays.
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
                (known.version, known.cursor) = (event.version, event.cursor);
                touched.push(known.apply(&what, event.at));
                at = at.max(event.cursor);
            }
        }
        if !touched.is_empty() {
            self.tell(&touched);
        }
        self.0.cursor.send_if_modified(|seen| std::mem::replace(seen, (*seen).max(at)) < at);
        Ok(())
    }

    /// Begins anew from the stream's snapshot; returns whether there was one newer than `after`.
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

    /// Waits until something may have changed; for the one actor that makes what runs here what the directory says.
    /// Dropping the future loses no change.
    pub async fn changed(&self) {
        self.0.rung.notified().await;
    }

    /// Returns what changed since this was called last, and forgets it.
    pub fn take_changes(&self) -> Changes {
        std::mem::take(&mut *self.0.changes.lock())
    }

    /// Returns the cursor up to which the ledger is taken in.
    pub fn cursor(&self) -> Cursor {
        *self.0.cursor.borrow()
    }

    /// Returns a watch on the cursor up to which the ledger is taken in.
    pub fn follow(&self) -> watch::Receiver<Cursor> {
        self.0.cursor.subscribe()
    }

    /// Waits until what was committed at `cursor` is taken in; returns false if it is not by the deadline.
    pub async fn at_least(&self, cursor: Cursor, deadline: Deadline) -> bool {
        if self.cursor() >= cursor {
            return true;
        }
        let mut seen = self.0.cursor.subscribe();
        tokio::time::timeout_at(deadline.instant(), seen.wait_for(|seen| *seen >= cursor)).await.is_ok_and(|found| found.is_ok())
    }

    /// Calls `look` with the folded state, which must not block: nothing is taken in meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.0.known.read())
    }

    /// Returns the spec of a coordinator by its id.
    pub fn swarm(&self, id: SwarmId) -> Option<Arc<SwarmSpec>> {
        self.read(|known| known.swarms.get(&id).map(|entry| entry.spec.clone()))
    }

    /// Returns the spec of the head of the swarm that has this name in a project.
    pub fn swarm_named(&self, project: ProjectId, name: &str) -> Option<Arc<SwarmSpec>> {
        self.read(|known| known.swarms.get(&known.swarm_named(project, name)?).map(|entry| entry.spec.clone()))
    }

    /// Returns the project that an entity belongs to; `None` for one that is the cluster's own, or unknown.
    pub fn project_of(&self, entity: Entity) -> Option<ProjectId> {
        self.read(|known| known.project_of(entity))
    }

    /// Returns the spec of an agent.
    pub fn agent(&self, id: AgentId) -> Option<Arc<AgentSpec>> {
        self.read(|known| known.agents.get(&id).map(|entry| entry.spec.clone()))
    }

    /// Returns where an entity is now; `None` while it is placed nowhere.
    pub fn location(&self, entity: Entity) -> Option<Location> {
        self.read(|known| {
            let place = known.place(entity)?;
            Some(Location { node: place.node?, incarnation: place.placement })
        })
    }

    /// Returns the number of an entity's placement, placed or not; 0 for one that is unknown.
    pub fn placement(&self, entity: Entity) -> u64 {
        self.read(|known| known.place(entity).map_or(0, |place| place.placement))
    }

    /// Tells whether there is any swarm.
    pub fn has_swarms(&self) -> bool {
        self.read(|known| !known.swarms.is_empty())
    }

    /// Returns where the roster acts now, which is the node that leads; `None` while no leader is known.
    pub fn roster(&self) -> Option<Location> {
        let leader = self.0.peers.leader().borrow().leader?;
        Some(Location { node: leader, incarnation: ROSTER_INCARNATION })
    }
}

/// The incarnation of the roster's door, which is open on every node; one that does not lead says so.
pub const ROSTER_INCARNATION: u64 = 1;

/// Returns the key that the roster is addressed by.
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
