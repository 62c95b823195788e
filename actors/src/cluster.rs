//! How this node comes to its cluster: founds one, joins one, or opens what it had; and the lanes to the others.
//!
//! Owns `<data-dir>/cluster/`, the cluster port and the certificates. Which member of the ledger's group it is follows from
//! how it came: the founder is number 1, a joiner's number is its id's. After a restart it opens its files and dials again.

pub(crate) mod book;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hiveward_runtime::{
    clock::WallMs,
    cluster::{
        credentials::Credentials,
        lease::{LeaseTerms, Phase},
        membership::{Membership, MembershipSetup, NodeBook, voters::VoterPolicy},
        router::Router,
    },
    file::{make_dir, replace},
    ledger::{FOUNDER, Ledger, LedgerLanes, RaftSetup, RaftTiming, member_id},
    net::{
        identity::{Identity, IdentityError, JoinToken, NodeKey},
        link::{JoinError, Lane, Lanes, LinkConfig, LinkManager, LinkSetup, Links, Member, StartError, join},
        rpc::LaneRpc,
    },
    op::NodeId,
};
use serde::{Deserialize, Serialize};

/// How long a join is tried before the start fails.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// How long is waited between tries, while the cluster cannot take members.
const JOIN_RETRY: Duration = Duration::from_millis(500);
const JOINED_FILE: &str = "joined.json";

#[derive(Clone, Debug)]
pub struct JoinTarget {
    /// `host:port` of any member.
    pub address: String,
    pub token: JoinToken,
}

#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub listen: SocketAddr,
    /// The `host:port` that peers dial; it is found out if absent.
    pub advertise: Option<String>,
    /// A cluster to join, read only at the first start: later this node is a member.
    pub join: Option<JoinTarget>,
    pub lease: LeaseTerms,
    pub voters: VoterPolicy,
    pub raft: RaftTiming,
    pub labels: BTreeMap<String, String>,
    pub zone: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Listen(#[from] StartError),
    #[error("the cluster at {address} did not take this node in")]
    Join {
        address: String,
        #[source]
        source: JoinError,
    },
    #[error("{dir} holds a ledger of its own: join with an empty data directory, or start without --join")]
    HasLedger { dir: PathBuf },
    #[error("this node began to join a cluster and is no member yet: start it again with --join and a token")]
    HalfJoined,
    #[error("{path} cannot be used")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The file that a node which joined keeps beside its identity.
#[derive(Serialize, Deserialize)]
struct Joined {
    /// The members that it was told of: they are dialled until the ledger knows better.
    members: Vec<Member>,
}

/// This node's end of everything that goes between nodes, before anything goes.
pub struct Cluster {
    pub identity: Identity,
    pub credentials: Credentials,
    pub lanes: LedgerLanes,
    /// The address at which peers reach this node.
    pub address: String,
    first_peers: Vec<Member>,
    founder: bool,
    config: ClusterConfig,
}

impl Cluster {
    /// Opens or makes this node's identity, and joins if asked to.
    pub async fn open(config: ClusterConfig, dir: &Path, node: NodeId) -> Result<Self, ClusterError> {
        let folder = dir.join("cluster");
        let file = |source| ClusterError::File { path: folder.clone(), source };
        let near = config.join.as_ref().map(|target| target.address.as_str());
        let address = config.advertise.clone().unwrap_or_else(|| guess_address(config.listen, near));
        let (identity, joined) = match (Identity::open(&folder, node)?, read_joined(&folder).map_err(file)?, &config.join) {
            (Some(identity), joined, _) => (identity, joined),
            (None, _, Some(target)) => {
                if dir.join("ledger").join("ledger.redb").exists() {
                    return Err(ClusterError::HasLedger { dir: dir.to_owned() });
                }
                let (identity, joined) = join_cluster(&folder, node, target, &address).await?;
                (identity, Some(joined))
            }
            (None, Some(_), None) => return Err(ClusterError::HalfJoined),
            (None, None, None) => (Identity::open_or_found(&folder, node, WallMs::now())?, None),
        };
        let lanes = LedgerLanes { raft: LaneRpc::new(Lane::Raft), bulk: LaneRpc::new(Lane::Bulk) };
        let credentials = Credentials::new(identity.clone(), lanes.raft.clone());
        let founder = joined.is_none();
        let first_peers = joined.into_iter().flat_map(|joined| joined.members).filter(|member| member.node != node).collect();
        Ok(Self { identity, credentials, lanes, address, first_peers, founder, config })
    }

    /// Returns the number of this node in the ledger's group: the founder's is fixed, a joiner's follows from its id.
    pub fn raft_id(&self) -> u64 {
        if self.founder { FOUNDER } else { member_id(self.identity.node()) }
    }

    /// Returns the settings with which the ledger in `ledger_dir` takes part in its group.
    pub fn raft(&self, ledger_dir: &Path) -> RaftSetup {
        RaftSetup {
            id: self.raft_id(),
            node: self.identity.node(),
            address: self.address.clone(),
            founds: self.founder,
            lanes: Some(self.lanes.clone()),
            timing: self.config.raft,
            dir: ledger_dir.to_owned(),
        }
    }

    /// Starts to listen and to dial. Errors: `Listen` if the port cannot be had.
    pub async fn connect(self, generation: u64, router: &Router) -> Result<Connected, ClusterError> {
        let handlers = Lanes {
            router: Some(Arc::new(router.clone())),
            raft: Some(Arc::new(self.lanes.raft.clone())),
            bulk: Some(Arc::new(self.lanes.bulk.clone())),
        };
        let setup = LinkSetup {
            config: LinkConfig::new(self.config.listen),
            identity: self.identity.clone(),
            generation,
            lanes: handlers,
            join: Some(Arc::new(self.credentials.clone())),
        };
        let manager = LinkManager::start(setup).await?;
        let links = manager.links().clone();
        router.attach(links.clone());
        self.lanes.raft.attach(links.clone());
        self.lanes.bulk.attach(links);
        let tending = self.credentials.tend();
        Ok(Connected { cluster: self, manager, tending })
    }
}

/// A node's live end of the cluster.
pub struct Connected {
    pub cluster: Cluster,
    manager: LinkManager,
    tending: tokio::task::JoinHandle<()>,
}

impl Connected {
    /// Returns the authenticated connections to other nodes.
    pub fn links(&self) -> &Links {
        self.manager.links()
    }

    /// Returns the lanes on which the ledger speaks to other nodes.
    pub fn lanes(&self) -> &LedgerLanes {
        &self.cluster.lanes
    }

    /// Keeps leases, votes and links as `book` says; tells `lease` what phase this node's own is in.
    pub fn membership(
        &self,
        generation: u64,
        ledger: &Ledger,
        book: Arc<dyn NodeBook>,
        lease: tokio::sync::watch::Sender<Phase>,
    ) -> Membership {
        let config = &self.cluster.config;
        Membership::start(MembershipSetup {
            node: self.cluster.identity.node(),
            generation,
            terms: config.lease,
            voters: config.voters,
            ledger: ledger.clone(),
            links: self.links().clone(),
            lane: self.cluster.lanes.raft.clone(),
            book,
            first_peers: self.cluster.first_peers.clone(),
            lease,
        })
    }

    /// Says goodbye to every peer, and ends what they asked.
    pub async fn stop(self) {
        self.tending.abort();
        // Aborted, as asked.
        let _ = self.tending.await;
        self.cluster.lanes.raft.stop().await;
        self.cluster.lanes.bulk.stop().await;
        self.manager.stop().await;
    }
}

fn read_joined(folder: &Path) -> std::io::Result<Option<Joined>> {
    match std::fs::read(folder.join(JOINED_FILE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(std::io::Error::other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn join_cluster(folder: &Path, node: NodeId, target: &JoinTarget, ours: &str) -> Result<(Identity, Joined), ClusterError> {
    let key = NodeKey::create()?;
    let until = tokio::time::Instant::now() + JOIN_WITHIN;
    let grant = loop {
        match join(&target.address, &target.token, node, &key, ours, JOIN_WITHIN).await {
            Ok(grant) => break grant,
            Err(error) if error.is_passing() && tokio::time::Instant::now() < until => {
                tracing::warn!(%error, "the cluster did not take this node in yet");
                tokio::time::sleep(JOIN_RETRY).await;
            }
            Err(source) => return Err(ClusterError::Join { address: target.address.clone(), source }),
        }
    };
    let mut joined = Joined { members: grant.members.clone() };
    // A member told of itself by another name than the one that led here is reached by the one that did.
    if joined.members.is_empty() {
        tracing::warn!("the cluster named no members; they are learnt when they dial");
    }
    joined.members.retain(|member| member.node != node);
    let file = |source| ClusterError::File { path: folder.to_owned(), source };
    make_dir(folder).map_err(file)?;
    // This comes before the certificate: without this file a start would take itself for a founder.
    let text = serde_json::to_vec(&joined).map_err(|error| file(error.into()))?;
    replace(&folder.join(JOINED_FILE), &text).map_err(file)?;
    let identity = grant.keep(folder, node, key)?;
    Ok((identity, joined))
}

/// Returns the number of this start of the node, which is greater than that of any before, and keeps it.
///
/// The number is written over in place, in as many bytes as before, so that it works where the disk is full.
pub fn next_generation(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let path = dir.join("generation");
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u64>().map_err(std::io::Error::other)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            replace(&path, format!("{:020}\n", 1).as_bytes())?;
            return Ok(1);
        }
        Err(error) => return Err(error),
    };
    let file = std::fs::File::options().write(true).open(&path)?;
    file.write_all_at(format!("{:020}\n", before + 1).as_bytes(), 0)?;
    file.sync_data()?;
    Ok(before + 1)
}

/// Returns where peers reach this node: where it listens, or the address from which it reaches `near` (or the world).
fn guess_address(listen: SocketAddr, near: Option<&str>) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    // Connecting a datagram socket sends nothing; it only chooses the route.
    let from = |to: &str| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    let ip = near.and_then(|near| from(near).ok()).or_else(|| from("192.0.2.1:9").ok());
    SocketAddr::new(ip.unwrap_or(IpAddr::from([127, 0, 0, 1])), listen.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_an_older_version_was_told_of_when_it_joined_still_reads() {
        let node = NodeId::new();
        let text = format!(r#"{{"members":[{{"node":"{node}","address":"10.0.0.1:7701"}}]}}"#);
        let joined: Joined = serde_json::from_str(&text).unwrap();
        assert_eq!(joined.members, [Member { node, address: "10.0.0.1:7701".into(), key: None }]);
    }

    #[test]
    fn a_generation_grows_at_each_start() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(next_generation(dir.path()).unwrap(), 1);
        assert_eq!(next_generation(dir.path()).unwrap(), 2);
        std::fs::write(dir.path().join("generation"), "seven").unwrap();
        assert!(next_generation(dir.path()).is_err(), "never begun anew by guessing");
    }

    #[test]
    fn peers_are_told_an_address_they_can_dial() {
        assert_eq!(guess_address("10.1.2.3:7701".parse().unwrap(), None), "10.1.2.3:7701");
        assert_eq!(guess_address("0.0.0.0:7701".parse().unwrap(), Some("127.0.0.1:9")), "127.0.0.1:7701");
    }
}
