//! The living tree: one record per supervised actor, kept up to date by the actors' own machinery.
//!
//! Reading it asks no actor and blocks none. Changes are told to whoever listens; a listener that is too slow is told how
//! many it missed and reads the tree again.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::{sync::broadcast, time::Instant};

use crate::{
    call::{CallError, Depth},
    clock::{Deadline, WallMs},
    id::Key,
};

/// The number of changes kept for a listener that is behind.
const CHANGES_KEPT: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum ActorStatus {
    Starting,
    Running,
    /// It waits for its backoff, or for its supervisor to start it again.
    Restarting,
    Stopping,
    Stopped,
    /// It was given up, because it failed too often.
    Failed,
}

impl ActorStatus {
    const ALL: [Self; 6] = [Self::Starting, Self::Running, Self::Restarting, Self::Stopping, Self::Stopped, Self::Failed];
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastFailure {
    pub message: String,
    pub at: WallMs,
    /// The time from the failure until the next life was ready; absent while there is none.
    pub recovered_in: Option<Duration>,
}

/// The record of one actor and its children, as a node of the cluster shows it, also to others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TreeNode {
    /// The names from the root, joined by `/`.
    pub path: String,
    pub name: String,
    pub kind: Cow<'static, str>,
    pub key: Option<Key>,
    pub status: ActorStatus,
    /// The words with which the actor says what it is doing.
    pub note: Option<Arc<str>>,
    pub restarts: u64,
    pub last_failure: Option<LastFailure>,
    pub mailbox: usize,
    pub mailbox_bound: usize,
    pub started_at: WallMs,
    pub age: Duration,
    /// The number of children in all, also when `children` was cut by depth.
    pub children_total: usize,
    pub children: Vec<TreeNode>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TreeChange {
    pub at: WallMs,
    pub path: String,
    pub kind: &'static str,
    pub key: Option<Key>,
    pub what: Change,
}

#[derive(Clone, Debug, Serialize)]
pub enum Change {
    Started,
    Stopped,
    Failed { message: String },
    Restarted { took: Duration },
    GaveUp { message: String },
    Removed,
}

type Observer = Arc<dyn Fn(Deadline) -> BoxFuture<'static, Result<serde_json::Value, CallError>> + Send + Sync>;

/// The record of one supervised actor. It outlives the actor's lives.
pub(crate) struct Node {
    pub(super) name: Arc<str>,
    pub(super) kind: &'static str,
    pub(super) key: Option<Key>,
    path: Arc<str>,
    seq: u64,
    status: AtomicU8,
    restarts: AtomicU64,
    mailbox_bound: AtomicUsize,
    changing: Mutex<Changing>,
    children: RwLock<BTreeMap<u64, Arc<Node>>>,
    parent: Weak<Node>,
}

struct Changing {
    note: Option<Arc<str>>,
    /// The words with which others say what is wrong with it.
    trouble: Option<Arc<str>>,
    last_failure: Option<LastFailure>,
    failed_at: Option<Instant>,
    started_at: WallMs,
    started: Instant,
    depth: Arc<Depth>,
    observer: Option<Observer>,
}

/// The living tree of a process. Cheap to clone; all clones are one tree.
#[derive(Clone)]
pub struct Tree {
    shared: Arc<Shared>,
}

struct Shared {
    root: Mutex<Option<Arc<Node>>>,
    by_key: RwLock<HashMap<Key, Weak<Node>>>,
    changes: broadcast::Sender<TreeChange>,
    next_seq: AtomicU64,
}

impl Default for Tree {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        Self {
            shared: Arc::new(Shared { root: Mutex::new(None), by_key: RwLock::default(), changes, next_seq: AtomicU64::new(0) }),
        }
    }
}

/// The changes that a listener hears.
pub struct TreeChanges(broadcast::Receiver<TreeChange>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The number of changes that were dropped: read the tree again.
    Lagged(u64),
    /// The tree is gone.
    Closed,
}

impl TreeChanges {
    /// Waits for the next change. Dropping the future loses nothing. Errors: `Lagged` if this listener was too slow.
    pub async fn next(&mut self) -> Result<TreeChange, Missed> {
        self.0.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(changes) => Missed::Lagged(changes),
            broadcast::error::RecvError::Closed => Missed::Closed,
        })
    }
}

impl Tree {
    /// Returns what is known of `root`, a path or a key; `None` means the whole tree. `depth` 0 gives the node without children.
    pub fn snapshot(&self, root: Option<&str>, depth: usize) -> Option<TreeNode> {
        Some(self.lookup(root)?.read(depth, Instant::now()))
    }

    /// Returns the record of the actor with this key, without its children; `None` if there is none.
    pub fn find(&self, key: &Key) -> Option<TreeNode> {
        Some(self.shared.by_key.read().get(key)?.upgrade()?.read(0, Instant::now()))
    }

    /// Starts to listen to changes; those from now on are heard.
    pub fn changes(&self) -> TreeChanges {
        TreeChanges(self.shared.changes.subscribe())
    }

    /// Asks the actor for its snapshot of its state. Errors: `Gone` if there is no such actor or it has no life now.
    pub async fn observe(&self, path_or_key: &str, deadline: Deadline) -> Result<serde_json::Value, CallError> {
        let observer = self.lookup(Some(path_or_key)).and_then(|node| node.changing.lock().observer.clone());
        match observer {
            Some(observe) => observe(deadline).await,
            None => Err(CallError::Gone),
        }
    }

    /// Returns how many messages an actor has begun in this life, and how many wait; `None` if there is no such actor.
    pub fn progress(&self, key: &Key) -> Option<(usize, usize)> {
        let node = self.shared.by_key.read().get(key)?.upgrade()?;
        let depth = node.changing.lock().depth.clone();
        Some((depth.begun(), depth.now()))
    }

    /// Says what is wrong with an actor that cannot say so itself; its next life begins without.
    pub fn set_trouble(&self, key: &Key, trouble: Option<&str>) {
        if let Some(node) = self.shared.by_key.read().get(key).and_then(Weak::upgrade) {
            node.changing.lock().trouble = trouble.map(Into::into);
        }
    }

    /// Lists actors that do not do what they are there for, and why: those given up, and those that others say are in trouble. At
    /// most `max`, in the tree's order.
    pub fn troubled(&self, max: usize) -> Vec<(TreeNode, Arc<str>)> {
        let mut found = Vec::new();
        let top = self.shared.root.lock().clone();
        if let Some(top) = top {
            top.troubled(max, &mut found);
        }
        found
    }

    /// Returns how many actors there are.
    pub fn len(&self) -> usize {
        self.shared.root.lock().as_ref().map_or(0, |root| root.count())
    }

    /// Tells whether there are no actors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lookup(&self, root: Option<&str>) -> Option<Arc<Node>> {
        let top = self.shared.root.lock().clone()?;
        let Some(wanted) = root else { return Some(top) };
        if let Ok(key) = wanted.parse::<Key>() {
            return self.shared.by_key.read().get(&key)?.upgrade();
        }
        let mut names = wanted.split('/');
        if names.next() != Some(&*top.name) {
            return None;
        }
        let mut at = top;
        for name in names {
            let next = at.children.read().values().find(|child| &*child.name == name).cloned()?;
            at = next;
        }
        Some(at)
    }

    pub(super) fn add(&self, parent: Option<&Arc<Node>>, name: Arc<str>, kind: &'static str, key: Option<Key>) -> Arc<Node> {
        let seq = self.shared.next_seq.fetch_add(1, Ordering::Relaxed);
        let path = parent.map_or_else(|| name.clone(), |parent| format!("{}/{name}", parent.path).into());
        let node = Arc::new(Node {
            name,
            kind,
            key: key.clone(),
            path,
            seq,
            status: AtomicU8::new(ActorStatus::Starting as u8),
            restarts: AtomicU64::new(0),
            mailbox_bound: AtomicUsize::new(0),
            changing: Mutex::new(Changing {
                note: None,
                trouble: None,
                last_failure: None,
                failed_at: None,
                started_at: WallMs::now(),
                started: Instant::now(),
                depth: Arc::default(),
                observer: None,
            }),
            children: RwLock::default(),
            parent: parent.map(Arc::downgrade).unwrap_or_default(),
        });
        match parent {
            Some(parent) => drop(parent.children.write().insert(seq, node.clone())),
            None => *self.shared.root.lock() = Some(node.clone()),
        }
        if let Some(key) = key {
            self.shared.by_key.write().insert(key, Arc::downgrade(&node));
        }
        node
    }

    /// Takes a node and all below it out of the tree.
    pub(super) fn remove(&self, node: &Arc<Node>) {
        self.clear(node);
        if let Some(parent) = node.parent.upgrade() {
            parent.children.write().remove(&node.seq);
        }
        if let Some(key) = &node.key {
            let mut by_key = self.shared.by_key.write();
            // A newer child of the same key may have taken the place.
            if by_key.get(key).is_some_and(|there| std::ptr::eq(there.as_ptr(), Arc::as_ptr(node))) {
                by_key.remove(key);
            }
        }
        self.tell(node, Change::Removed);
    }

    /// Takes out all below a node: what a supervisor that was killed could not do itself.
    pub(super) fn clear(&self, node: &Arc<Node>) {
        let children = std::mem::take(&mut *node.children.write());
        for child in children.values() {
            self.remove(child);
        }
    }

    pub(super) fn tell(&self, node: &Node, what: Change) {
        if self.shared.changes.receiver_count() > 0 {
            let change =
                TreeChange { at: WallMs::now(), path: node.path.to_string(), kind: node.kind, key: node.key.clone(), what };
            // The last listener may have left.
            let _ = self.shared.changes.send(change);
        }
    }
}

impl Node {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn status(&self) -> ActorStatus {
        ActorStatus::ALL.get(usize::from(self.status.load(Ordering::Relaxed))).copied().unwrap_or(ActorStatus::Stopped)
    }

    pub(super) fn set_status(&self, status: ActorStatus) {
        self.status.store(status as u8, Ordering::Relaxed);
    }

    pub(super) fn set_note(&self, note: &str) {
        self.changing.lock().note = Some(note.into());
    }

    /// Notes that a life begins with this mailbox.
    pub(super) fn begin_life(&self, depth: Arc<Depth>, bound: usize, observer: Option<Observer>) {
        self.mailbox_bound.store(bound, Ordering::Relaxed);
        let mut changing = self.changing.lock();
        changing.depth = depth;
        changing.observer = observer;
        changing.started_at = WallMs::now();
        changing.started = Instant::now();
        changing.note = None;
        changing.trouble = None;
    }

    /// Notes that the life is over; what was in its mailbox is dropped.
    pub(super) fn end_life(&self) {
        let mut changing = self.changing.lock();
        changing.depth = Arc::default();
        changing.observer = None;
    }

    /// Notes that the life is ready; returns how long there was none, if one before it failed.
    pub(super) fn ready(&self) -> Option<Duration> {
        self.set_status(ActorStatus::Running);
        let mut changing = self.changing.lock();
        let took = changing.failed_at.take().map(|failed| failed.elapsed());
        if let (Some(took), Some(failure)) = (took, &mut changing.last_failure) {
            failure.recovered_in = Some(took);
        }
        took
    }

    pub(super) fn failed(&self, message: String) {
        let mut changing = self.changing.lock();
        changing.failed_at.get_or_insert_with(Instant::now);
        changing.last_failure = Some(LastFailure { message, at: WallMs::now(), recovered_in: None });
    }

    pub(super) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        1 + self.children.read().values().map(|child| child.count()).sum::<usize>()
    }

    fn troubled(self: &Arc<Self>, max: usize, found: &mut Vec<(TreeNode, Arc<str>)>) {
        let trouble = self.changing.lock().trouble.clone();
        let why = trouble.or_else(|| {
            let gave_up = self.status() == ActorStatus::Failed;
            gave_up.then(|| self.changing.lock().note.clone().unwrap_or_else(|| "it was given up".into()))
        });
        if let Some(why) = why
            && found.len() < max
        {
            found.push((self.read(0, Instant::now()), why));
        }
        let children: Vec<_> = self.children.read().values().cloned().collect();
        for child in children {
            if found.len() >= max {
                return;
            }
            child.troubled(max, found);
        }
    }

    fn read(&self, depth: usize, now: Instant) -> TreeNode {
        let changing = self.changing.lock();
        let (note, last_failure) = (changing.note.clone(), changing.last_failure.clone());
        let (started_at, started, mailbox) = (changing.started_at, changing.started, changing.depth.now());
        drop(changing);
        let (children_total, children): (usize, Vec<Arc<Node>>) = {
            let children = self.children.read();
            (children.len(), if depth > 0 { children.values().cloned().collect() } else { Vec::new() })
        };
        TreeNode {
            path: self.path.to_string(),
            name: self.name.to_string(),
            kind: self.kind.into(),
            key: self.key.clone(),
            status: self.status(),
            note,
            restarts: self.restarts.load(Ordering::Relaxed),
            last_failure,
            mailbox,
            mailbox_bound: self.mailbox_bound.load(Ordering::Relaxed),
            started_at,
            age: now.saturating_duration_since(started),
            children_total,
            children: children.iter().map(|child| child.read(depth - 1, now)).collect(),
        }
    }
}
