//! Two nodes of one cluster in two processes, for the benches of links and router: what they share before they start.

use std::{
    net::SocketAddr,
    path::Path,
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
        identity::{Identity, NodeKey},
        link::{Lane, Lanes, LinkConfig, LinkManager, LinkSetup, PeerSpec},
    },
    op::NodeId,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};

/// What is told: 100 B and a little, as rmp-serde writes it.
#[derive(Serialize, Deserialize)]
pub struct Payload {
    pub id: u64,
    pub ts: u64,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

impl ractor::Message for Payload {}

/// An actor that counts what it was told.
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub async fn spawn() -> anyhow::Result<(ActorRef<Payload>, Arc<AtomicU64>)> {
        let count = Arc::new(AtomicU64::new(0));
        let (actor, _) = Actor::spawn(None, Self(count.clone()), ()).await?;
        Ok((actor, count))
    }
}

impl Actor for Counter {
    type Msg = Payload;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Payload>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Payload>, payload: Payload, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.0.fetch_add(u64::from(!payload.bytes.is_empty()), Ordering::Relaxed);
        Ok(())
    }
}

/// Two identities of one cluster; the second is opened by the other process.
pub fn found(dir: &Path) -> anyhow::Result<(Identity, NodeId)> {
    // The lower id dials.
    let (first, second) = (NodeId::new(), NodeId::new());
    let founder = Identity::open_or_found(&dir.join("a"), first, WallMs::now())?;
    let (key, authority) = (NodeKey::create()?, founder.authority()?);
    let certificate = authority.sign_key(&key, second, WallMs::now(), Duration::from_secs(3600))?;
    Identity::joined(&dir.join("b"), second, key, &certificate, authority.certificate())?;
    Ok((founder, second))
}

/// Knows nothing: places are learnt by hand.
struct Nowhere;

impl Directory for Nowhere {
    fn locate<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Location>, Refused>> {
        Box::pin(async { Ok(None) })
    }
}

pub struct Routed {
    pub manager: LinkManager,
    pub router: Router,
}

impl Routed {
    pub async fn start(identity: &Identity) -> anyhow::Result<Self> {
        let router = Router::new(identity.node(), Arc::new(Nowhere));
        let lanes = Lanes { router: Some(Arc::new(router.clone())), ..Lanes::default() };
        let config = LinkConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let setup = LinkSetup { config, identity: identity.clone(), generation: 1, lanes, join: None };
        let manager = LinkManager::start(setup).await?;
        router.attach(manager.links().clone());
        Ok(Self { manager, router })
    }

    /// May come, and is not dialled.
    pub fn let_in(&self, peer: NodeId) {
        self.manager.links().set_peers([(peer, PeerSpec::new("", []))].into());
    }

    pub async fn link_to(&self, peer: NodeId, address: &str) {
        self.manager.links().set_peers([(peer, PeerSpec::new(address, [Lane::Router]))].into());
        while self.manager.links().link(peer, Lane::Router).is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A door made of a closure.
pub struct DoorFn<F>(pub F);

impl<F: Fn(&Inbound<'_>) -> Result<(), NotDelivered> + Send + Sync + 'static> LocalDoor for DoorFn<F> {
    fn deliver(&self, inbound: &Inbound<'_>) -> Result<(), NotDelivered> {
        (self.0)(inbound)
    }
}

/// User and kernel time of a process so far.
pub fn cpu_time(pid: u32) -> std::io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = [11, 12].into_iter().filter_map(|at| fields.get(at)?.parse::<u64>().ok()).sum::<u64>();
    // Linux counts in hundredths of a second wherever this runs.
    Ok(Duration::from_millis(ticks * 10))
}
