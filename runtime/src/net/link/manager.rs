//! The owner of the cluster port: everything about links runs under its one task, and ends with it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    Down, JoinDoor, Lane, Lanes, Link, LinkConfig, LinkRefused, LinksSnapshot, PEERS_MAX,
    accept::{Acceptor, accept},
    dial::dial,
    gate::Gate,
    hello::{Hello, WIRE_NEWEST, WIRE_OLDEST},
    table::Table,
};
use crate::{
    net::{
        LifeId,
        identity::{Identity, IdentityError, KeyPin, NotAllowed},
    },
    op::NodeId,
};

/// The address at which a peer listens, and the lanes to keep up with it. The lower id of the two dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// The `host:port`, which is looked up at each dial.
    ///
    /// It is empty for a peer that is let in and never dialled, because it has not said where it is.
    pub address: String,
    pub lanes: BTreeSet<Lane>,
    /// The key that its certificates must be for; any key is good while this is not known.
    pub key: Option<KeyPin>,
}

impl PeerSpec {
    /// Makes a spec for a peer whose key is not known.
    pub fn new(address: impl Into<String>, lanes: impl IntoIterator<Item = Lane>) -> Self {
        Self { address: address.into(), lanes: lanes.into_iter().collect(), key: None }
    }

    /// Sets the key that the peer's certificates must be for.
    pub fn with_key(self, key: Option<KeyPin>) -> Self {
        Self { key, ..self }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: is another hiveward running there?")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The things that a node brings to its links.
pub struct LinkSetup {
    pub config: LinkConfig,
    pub identity: Identity,
    /// The number of this start of the node, greater at each.
    pub generation: u64,
    pub lanes: Lanes,
    /// The door that answers hosts that want to join; without it they are refused.
    pub join: Option<Arc<dyn JoinDoor>>,
}

/// The facts that every task of the links shares.
pub(super) struct Shared {
    pub(super) config: LinkConfig,
    pub(super) identity: Identity,
    pub(super) hello: Hello,
    pub(super) lanes: Lanes,
    pub(super) join: Option<Arc<dyn JoinDoor>>,
    pub(super) table: Table,
    pub(super) gate: Gate,
    pub(super) rejected: AtomicU64,
    /// A bell that rings when somebody whom the book does not name was refused.
    pub(super) strangers: Notify,
    peers: watch::Sender<Arc<BTreeMap<NodeId, PeerSpec>>>,
    pub(super) stop: CancellationToken,
}

/// The owner of the links. Dropping it closes them all at once; [`LinkManager::stop`] says goodbye first.
pub struct LinkManager {
    links: Links,
    address: SocketAddr,
    root: JoinHandle<()>,
}

/// The handle to the links that everyone else holds. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

impl LinkManager {
    /// Listens on the cluster port and starts to accept. Nobody is let in or dialled before [`Links::set_peers`].
    pub async fn start(setup: LinkSetup) -> Result<Self, StartError> {
        let LinkSetup { config, identity, generation, lanes, join } = setup;
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let hello = Hello {
            wire_oldest: WIRE_OLDEST,
            wire_newest: WIRE_NEWEST,
            cluster: identity.cluster(),
            node: identity.node(),
            generation,
            life: LifeId::new(),
            window_bytes: config.window_bytes,
        };
        let acceptor = Acceptor::new(&identity)?;
        let shared = Arc::new(Shared {
            gate: Gate::new(config.unproven_max, config.unproven_per_address_max),
            config,
            identity,
            hello,
            lanes,
            join,
            table: Table::default(),
            rejected: AtomicU64::new(0),
            strangers: Notify::new(),
            peers: watch::Sender::new(Arc::default()),
            stop: CancellationToken::new(),
        });
        let root = tokio::spawn(root(shared.clone(), listener, acceptor));
        Ok(Self { links: Links(shared), address, root })
    }

    /// Returns the handle to the links.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Returns the address at which it listens, with the port that was chosen if none was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells every peer, closes every link and waits until all is over.
    pub async fn stop(mut self) {
        self.links.0.stop.cancel();
        // It is ours alone and is not aborted: it ends.
        let _ = (&mut self.root).await;
    }
}

impl Drop for LinkManager {
    fn drop(&mut self) {
        self.links.0.stop.cancel();
        self.root.abort();
    }
}

impl Links {
    /// Returns the id of this node.
    pub fn node(&self) -> NodeId {
        self.0.hello.node
    }

    /// Returns the identity that this node shows on its links.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Returns the live link with this peer on this lane; `None` while there is none.
    pub fn link(&self, peer: NodeId, lane: Lane) -> Option<Link> {
        self.0.table.link(peer, lane)
    }

    /// Sets which peers to be linked with, and nobody else: a peer that is no longer named is forgotten and its links close, one
    /// that is not named is refused when it dials. At most [`PEERS_MAX`] are kept, the lowest ids. Before the first call nobody
    /// is let in.
    pub fn set_peers(&self, peers: BTreeMap<NodeId, PeerSpec>) {
        self.set_members(peers, BTreeSet::new());
    }

    /// Sets the peers as [`Self::set_peers`] does; those in `removed` are told why they are refused.
    pub fn set_members(&self, peers: BTreeMap<NodeId, PeerSpec>, removed: BTreeSet<NodeId>) {
        let peers: BTreeMap<_, _> = peers.into_iter().filter(|(peer, _)| *peer != self.node()).take(PEERS_MAX).collect();
        let keys = peers.iter().map(|(peer, spec)| (*peer, spec.key)).collect();
        // First who is let in, then who is closed: what comes in between is looked at once more when it is on the table.
        self.0.identity.allowed().set(keys, removed);
        self.0.peers.send_replace(Arc::new(peers));
        let allowed = self.0.identity.allowed();
        for link in self.0.table.links() {
            let node = link.peer();
            match allowed.check_key(node, link.key()) {
                Err(NotAllowed::Removed) => link.close(Down::WeRefused(LinkRefused::Voided { node })),
                Err(NotAllowed::OtherKey) => link.close(Down::WeRefused(LinkRefused::OtherKey { node })),
                Err(NotAllowed::Unknown) | Ok(()) => {}
            }
        }
        let now = self.0.peers.borrow().clone();
        self.0.table.forget(&Down::Forgotten, |peer| !now.contains_key(&peer));
    }

    /// Returns the peers that have a live link of this lane.
    pub fn peers_up(&self, lane: Lane) -> Vec<NodeId> {
        let links = self.0.table.links();
        links.iter().filter(|link| link.lane() == lane && link.is_up()).map(Link::peer).collect()
    }

    /// Waits until a node was refused that the book does not name: it may be the book that is old.
    pub async fn stranger(&self) {
        self.0.strangers.notified().await;
    }

    /// Returns the state of all links, and how many connections are unproven or were rejected.
    pub fn snapshot(&self) -> LinksSnapshot {
        LinksSnapshot {
            links: self.0.table.snapshot(),
            unproven: self.0.gate.inside(),
            rejected: self.0.rejected.load(Ordering::Relaxed),
        }
    }
}

/// Owns every other task, so that they end with it.
async fn root(shared: Arc<Shared>, listener: TcpListener, acceptor: Acceptor) {
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(shared.clone(), listener, acceptor));
    let mut dialling: HashMap<(NodeId, Lane), (String, AbortHandle)> = HashMap::new();
    let mut peers = shared.peers.subscribe();
    loop {
        let wanted = peers.borrow_and_update().clone();
        let ours = wanted.iter().filter(|(peer, spec)| shared.hello.node < **peer && !spec.address.is_empty());
        let ours: HashMap<_, _> =
            ours.flat_map(|(peer, spec)| spec.lanes.iter().map(|lane| ((*peer, *lane), &spec.address))).collect();
        // A changed address is a new dial; the old link closes with its task.
        dialling.retain(|key, (address, task)| {
            let stays = ours.get(key).is_some_and(|wanted| *wanted == address);
            if !stays {
                if let Some(link) = shared.table.link(key.0, key.1) {
                    link.close(Down::Forgotten);
                }
                task.abort();
            }
            stays
        });
        for (key, address) in ours {
            if key.1 != Lane::Join && !dialling.contains_key(&key) {
                let task = tasks.spawn(dial(shared.clone(), key.0, key.1, address.clone()));
                dialling.insert(key, (address.clone(), task));
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => break,
            changed = peers.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next() => {
                // A dial ends only by abort. Anything else is a bug: say so, and let what remains go on.
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a link task panicked");
                    dialling.retain(|_, (_, task)| !task.is_finished());
                }
            }
        }
    }
    // Each link says goodbye by itself; the accept task waits for those it accepted.
    for link in shared.table.links() {
        link.close(Down::Stopped);
    }
    while tasks.join_next().await.is_some() {}
}
