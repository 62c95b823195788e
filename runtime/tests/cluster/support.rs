//! Nodes of a test cluster, and waiting for conditions.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use hiveward_runtime::{
    clock::WallMs,
    cluster::router::{Directory, Inbound, LocalDoor, Location, NotDelivered, Router},
    error::Refused,
    id::Key,
    net::{
        identity::{Identity, KeyPin, NodeKey},
        link::{Down, Inbox, InboxFrame, Lane, LaneHandler, Lanes, Link, LinkConfig, LinkManager, LinkSetup, PeerSpec, Taken},
    },
    op::NodeId,
};
use parking_lot::Mutex;
use tempfile::TempDir;

pub const LIFE: Duration = Duration::from_secs(3600);
/// How long a condition may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `seen` answers.
pub async fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(seen) = seen() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("never saw: {what}"))
}

/// A lane handler that remembers what it saw.
#[derive(Default)]
pub struct Seen {
    pub frames: AtomicU64,
    pub last: Mutex<Vec<u8>>,
    pub ups: AtomicU64,
    pub downs: Mutex<Vec<Down>>,
}

impl LaneHandler for Seen {
    fn up(&self, _: &Link) {
        self.ups.fetch_add(1, Ordering::SeqCst);
    }

    fn frame(&self, _: &Link, payload: &[u8], _: usize) -> Taken {
        *self.last.lock() = payload.to_vec();
        self.frames.fetch_add(1, Ordering::SeqCst);
        Taken::Now
    }

    fn down(&self, _: &Link, why: &Down) {
        self.downs.lock().push(why.clone());
    }
}

/// A founder and members with ids that grow, so that each dials the later ones.
pub struct Hive {
    pub founder: Identity,
    dirs: Vec<TempDir>,
}

impl Hive {
    pub fn found() -> Self {
        let dir = TempDir::new().unwrap();
        let founder = Identity::open_or_found(dir.path(), NodeId::new(), WallMs::now()).unwrap();
        Self { founder, dirs: vec![dir] }
    }

    pub fn member(&mut self) -> Identity {
        self.member_signed_at(NodeId::new(), WallMs::now())
    }

    pub fn member_signed_at(&mut self, node: NodeId, at: WallMs) -> Identity {
        let (dir, key, authority) = (TempDir::new().unwrap(), NodeKey::create().unwrap(), self.founder.authority().unwrap());
        let certificate = authority.sign_key(&key, node, at, LIFE).unwrap();
        let identity = Identity::joined(dir.path(), node, key, &certificate, authority.certificate()).unwrap();
        self.dirs.push(dir);
        identity
    }
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Quick enough for a test, slow enough for a busy machine.
pub fn quick() -> LinkConfig {
    let mut config = LinkConfig::new(loopback());
    config.ping_every = Duration::from_millis(50);
    config.read_idle = Duration::from_secs(2);
    config.write_stall = Duration::from_secs(2);
    config.handshake_within = Duration::from_secs(2);
    config.backoff.max = Duration::from_millis(200);
    config.backoff.first = Duration::from_millis(10);
    config
}

pub struct Node {
    pub manager: LinkManager,
    pub seen: Arc<Seen>,
}

impl Node {
    pub async fn start(identity: &Identity, generation: u64, config: LinkConfig) -> Self {
        let seen = Arc::new(Seen::default());
        let lane = Some(seen.clone() as Arc<dyn LaneHandler>);
        let lanes = Lanes { router: lane.clone(), raft: lane.clone(), bulk: lane };
        let setup = LinkSetup { config, identity: identity.clone(), generation, lanes, join: None };
        Self { manager: LinkManager::start(setup).await.unwrap(), seen }
    }

    pub fn knows(&self, peer: NodeId, address: SocketAddr) {
        let spec = PeerSpec::new(address.to_string(), [Lane::Router]);
        self.manager.links().set_peers(BTreeMap::from([(peer, spec)]));
    }

    /// As a node that never said where it is: it may come, and is not dialled.
    pub fn lets_in(&self, peer: NodeId, key: Option<KeyPin>) {
        self.manager.links().set_peers(BTreeMap::from([(peer, PeerSpec::new("", []).with_key(key))]));
    }

    pub fn node(&self) -> NodeId {
        self.manager.links().node()
    }

    pub async fn linked(&self, peer: NodeId) -> Link {
        until("a link", || self.manager.links().link(peer, Lane::Router)).await
    }

    /// Waits until the link to `peer` is down for a reason that says `words`.
    pub async fn down(&self, peer: NodeId, words: &str) {
        until(words, || {
            let snapshot = self.manager.links().snapshot();
            let why = snapshot.links.iter().filter(|link| link.peer == peer).find_map(|link| link.why_down.clone());
            why.filter(|why| why.contains(words))
        })
        .await;
    }
}

/// Two nodes that are linked.
pub async fn pair(hive: &mut Hive, config: LinkConfig) -> (Node, Node) {
    let other = hive.member();
    let a = Node::start(&hive.founder, 1, config.clone()).await;
    let b = Node::start(&other, 1, config).await;
    a.knows(b.node(), b.manager.address());
    b.knows(a.node(), a.manager.address());
    a.linked(b.node()).await;
    b.linked(a.node()).await;
    (a, b)
}

/// A directory that a test writes by hand.
#[derive(Default)]
pub struct Book(pub Mutex<std::collections::HashMap<Key, Location>>);

impl Directory for Book {
    fn locate<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Location>, Refused>> {
        Box::pin(async move { Ok(self.0.lock().get(key).copied()) })
    }
}

/// A node with a router.
pub struct Routed {
    pub manager: LinkManager,
    pub router: Router,
    /// What came in on the bulk lane, and is not taken until the test takes it.
    pub bulk: tokio::sync::mpsc::Receiver<InboxFrame>,
}

impl Routed {
    pub async fn start(identity: &Identity, generation: u64, config: LinkConfig, book: &Arc<Book>) -> Self {
        let router = Router::new(identity.node(), book.clone());
        let (inbox, bulk) = Inbox::create(config.window_bytes);
        let lanes = Lanes { router: Some(Arc::new(router.clone())), raft: None, bulk: Some(inbox) };
        let setup = LinkSetup { config, identity: identity.clone(), generation, lanes, join: None };
        let manager = LinkManager::start(setup).await.unwrap();
        router.attach(manager.links().clone());
        Self { manager, router, bulk }
    }

    pub fn node(&self) -> NodeId {
        self.manager.links().node()
    }

    pub async fn linked(&self, peer: NodeId, lane: Lane) -> Link {
        until("a link", || self.manager.links().link(peer, lane)).await
    }

    pub fn lets_in(&self, peer: NodeId) {
        self.manager.links().set_peers(BTreeMap::from([(peer, PeerSpec::new("", []))]));
    }

    pub async fn link_to(&self, peer: NodeId, address: SocketAddr) {
        let spec = PeerSpec::new(address.to_string(), [Lane::Router, Lane::Bulk]);
        self.manager.links().set_peers(BTreeMap::from([(peer, spec)]));
        self.linked(peer, Lane::Router).await;
        self.linked(peer, Lane::Bulk).await;
    }
}

/// Two nodes with routers, linked, and the directory they share.
pub async fn routed_pair(hive: &mut Hive, config: LinkConfig) -> (Routed, Routed, Arc<Book>) {
    let (other, book) = (hive.member(), Arc::new(Book::default()));
    let a = Routed::start(&hive.founder, 1, config.clone(), &book).await;
    let b = Routed::start(&other, 1, config, &book).await;
    b.lets_in(a.node());
    a.link_to(b.node(), b.manager.address()).await;
    b.linked(a.node(), Lane::Router).await;
    (a, b, book)
}

/// A door made of a closure.
pub struct DoorFn<F>(pub F);

impl<F: Fn(&Inbound<'_>) -> Result<(), NotDelivered> + Send + Sync + 'static> LocalDoor for DoorFn<F> {
    fn deliver(&self, inbound: &Inbound<'_>) -> Result<(), NotDelivered> {
        (self.0)(inbound)
    }
}

pub fn key() -> Key {
    NodeId::new().key()
}
