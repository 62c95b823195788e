//! One node of this process: opens what is durable, starts the tree, and stops both in order.

mod gateway_at;
mod lock;

pub use gateway_at::GatewayAt;

use std::{path::PathBuf, sync::Arc, time::Duration};

use hiveward_access::policy::{BadPolicy, PolicySource};
use hiveward_agents::{
    connector::SecretFiles,
    gauge::Gauges,
    session::{owner::holder as session_owner, scrub as transcript_scrub},
};
use hiveward_catalogue::{
    agent::spec::{AgentSpec, ConnectorSpec, Limits, SessionSpec},
    directory::{Directory, DirectoryError},
    roster::event::NodeRecord,
};
use hiveward_kernel::shim::ShimProgram;
use hiveward_machines::host::fence::{Counting, Fence};
use hiveward_models::{
    UsageKeeper,
    access::{ModelAccess, NoModels},
    bank::{self, BankDesk, Following},
};
use hiveward_runtime::{
    clock::{Clock, Deadline, WallMs},
    cluster::{
        lease::Phase,
        membership::Membership,
        peers::{Peers, PeersDriver},
        router::Router,
    },
    file::{make_dir, replace},
    ledger::{DiskState, Ledger, LedgerConfig, OpenError, holes::Holes, scrub as row_scrub, view::Views, view_share::ViewShare},
    op::{NodeId, Op},
    rounds::Rounds,
    store::{blob::Blobs, replicas::Replicas, scrub as blob_scrub},
    supervise::{StartError as TreeError, Tree},
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    client::{ControlPlane, NewAgent, NewSwarm, SwarmRef},
    cluster::{
        Cluster, ClusterConfig, ClusterError, Connected,
        book::{Book, Removals},
        next_generation,
    },
    house::{Clustered, House},
    report::{self, NodeReport, Reports},
    retention::{Retention, ledger::LedgerRetention},
    terminals::Terminals,
    transcripts::Transcripts,
    tree, views,
};

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub data_dir: PathBuf,
    /// The free space below which writes are refused.
    pub reserve_bytes: u64,
    /// Whether faults may be injected by clients.
    pub faults_allowed: bool,
    /// Policies of this node's own configuration, beside those that all nodes know.
    pub policies: Vec<PolicySource>,
    /// The number of `command` agents that the `default` swarm begins with; none makes the swarm empty.
    pub default_agents: u32,
    /// What holds agents' processes.
    pub shim: ShimProgram,
    /// How agents' programs get at language models.
    pub models: Arc<dyn ModelAccess>,
    pub retention: Retention,
    pub ledger: LedgerRetention,
    /// When the ledger's file is made smaller.
    pub holes: Holes,
    /// Absent on a node that has no peers.
    pub cluster: Option<ClusterConfig>,
    /// Digests of the tokens that its gateway accepts, for other nodes to accept them too.
    pub token_digests: Vec<String>,
    /// Where browsers reach its gateway, told to the other nodes.
    pub gateway: Option<GatewayAt>,
    /// The machine's watchdog, such as `/dev/watchdog`: armed while VMs are here that come back elsewhere.
    pub watchdog: Option<PathBuf>,
    /// The clock that says what time it is; tests give another than the machine's.
    pub clock: Clock,
}

impl NodeConfig {
    /// Returns a configuration with the defaults for all but the data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            reserve_bytes: LedgerConfig::RESERVE_BYTES_DEFAULT,
            faults_allowed: false,
            policies: Vec::new(),
            default_agents: std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1)),
            shim: ShimProgram::this_binary(),
            models: Arc::new(NoModels),
            retention: Retention::default(),
            ledger: LedgerRetention::default(),
            holes: Holes::default(),
            cluster: None,
            token_digests: Vec::new(),
            gateway: None,
            watchdog: None,
            clock: Clock::System,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Each program of such a node would begin another node, without end.
    #[error(
        "this process was begun to hold a session, and began a node instead; `main` of a program with a node in it must call \
         `session::shim::main` where its first argument is `shim`, or its node be given another `NodeConfig::shim`"
    )]
    IsShim,
    /// A policy of the configuration does not fit.
    #[error("a policy of the configuration does not count: {0}")]
    Policy(#[from] BadPolicy),
    #[error("the data directory {dir} cannot be used")]
    DataDir {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{dir} is in use by another hiveward; stop it, or give another --data-dir")]
    InUse { dir: PathBuf },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Ledger(#[from] OpenError),
    #[error("what the log says of the cluster's nodes cannot be read")]
    Book(#[from] DirectoryError),
    #[error("the views cannot be opened: {0}")]
    Views(String),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the default swarm could not be made: {0}")]
    Default(String),
}

struct Clustering {
    connected: Connected,
    membership: Arc<Membership>,
    replicas: Replicas,
    transcripts: Transcripts,
    view_share: ViewShare,
    terminals: Terminals,
    budgets: BankDesk,
    reports: Reports,
    announcing: JoinHandle<()>,
}

pub struct Node {
    house: House,
    running: tree::Running,
    control: ControlPlane,
    clustering: Option<Clustering>,
    usage: Option<UsageKeeper>,
    /// The count of its lease, which lasts while this lives; only of a node among others.
    _counting: Option<Counting>,
    /// The rounds that look at all that is stored, while they live: blobs, ledger and views, transcripts.
    scrubs: [Rounds; 3],
    /// The bank's side of calls of models; it lasts until the last call is settled.
    _following: Following,
    /// What makes a node without peers its own leader, while this lives.
    _alone: Option<PeersDriver>,
    _lock: nix::fcntl::Flock<std::fs::File>,
}

const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

impl Node {
    /// Opens what is durable and starts the node. Errors: `InUse` if another process has the data directory.
    pub async fn start(mut config: NodeConfig) -> Result<Self, StartError> {
        if config.shim.began_this_process() {
            return Err(StartError::IsShim);
        }
        let dir = &config.data_dir.clone();
        let unusable = |source| StartError::DataDir { dir: dir.clone(), source };
        make_dir(dir).map_err(unusable)?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(unusable)?;
        let lock = lock::take(dir).await?;
        config.shim.owner = owner_lock(&dir.join("lock"));
        if config.cluster.is_some() {
            config.shim.lease = Some(std::path::absolute(Fence::dir_of(dir)).map_err(unusable)?);
        }
        let id = node_id(dir).map_err(unusable)?;
        let generation = next_generation(dir).map_err(unusable)?;
        let cluster = match &config.cluster {
            Some(cluster) => Some(Cluster::open(cluster.clone(), dir, id).await?),
            None => None,
        };
        let mut ledger = LedgerConfig {
            reserve_bytes: config.reserve_bytes,
            clock: config.clock.clone(),
            holes: config.holes,
            ..LedgerConfig::new(dir.join("ledger"))
        };
        ledger.raft.node = id;
        if let Some(cluster) = &cluster {
            ledger.raft = cluster.raft(&ledger.dir);
        }
        let founds = ledger.raft.founds;
        let ledger = Ledger::open(ledger).await?;
        let views = views::of_a_node(&config.retention, &config.clock);
        let views = Views::start_pruned(&ledger, &dir.join("views.redb"), views, config.retention.look_every)
            .await
            .map_err(|error| StartError::Views(error.to_string()))?;
        let blobs = Blobs::open(dir.join("blobs")).map_err(unusable)?;
        let secrets = Arc::new(SecretFiles { dir: dir.join("secrets") });
        let (lease, held) = watch::channel(Phase::Over);
        let removals = Arc::new(Removals::default());
        let (clustered, alone) = match (&cluster, &config.cluster) {
            (Some(cluster), Some(settings)) => {
                let peers = Peers::of(id, ledger.leadership(), held);
                let directory = Directory::new(ledger.clone(), peers.clone());
                let router = Router::new(id, Arc::new(directory.clone()));
                let me = NodeRecord {
                    labels: settings.labels.clone(),
                    zone: settings.zone.clone().unwrap_or_default(),
                    token_digests: config.token_digests.clone(),
                    fences: Fence::can_end(),
                    watchdog: config.watchdog.is_some(),
                    key: Some(cluster.identity.certificate().key),
                    gateway: config.gateway.as_ref().and_then(|gateway| gateway.url(&cluster.address)),
                    ..NodeRecord::of_this_host(id, cluster.raft_id(), cluster.address.clone())
                };
                let (identity, node_changes) = (Some(cluster.identity.clone()), removals.clone());
                (Clustered { me, generation, peers, router, directory, identity, node_changes }, None)
            }
            _ => {
                let (clustered, driver) = Clustered::alone(id, generation, &ledger);
                (clustered, Some(driver))
            }
        };
        let house = House::new(
            clustered,
            ledger,
            views,
            blobs,
            config.clock.clone(),
            dir.clone(),
            secrets,
            config.shim.clone(),
            config.models.clone(),
        );
        house.figures.lock().retention = config.retention;
        house.figures.lock().ledger = config.ledger;
        house
            .machines
            .fence
            .set_watchdog(config.watchdog.clone())
            .map_err(|source| StartError::DataDir { dir: dir.clone(), source })?;
        // This comes before the tree, whose entities may be spoken to as soon as they are placed.
        let connected = match cluster {
            Some(cluster) => Some(cluster.connect(generation, &house.router).await?),
            None => None,
        };
        // This comes before an agent is adopted that may call a model.
        let following = bank::follow(&house.models, house.models.counter());
        let usage = UsageKeeper::start(&house.models);
        let running = tree::start(house.clone(), config.retention, config.ledger, config.reserve_bytes).await?;
        let mut control = ControlPlane::of_node(&house, &running, id, config.faults_allowed, config.policies)?;
        let gauges = Gauges::start(dir);
        let (mut clustering, mut counting) = (None, None);
        if let Some(connected) = connected {
            let book = Arc::new(Book::new(house.clone(), running.roster.clone())?);
            connected.cluster.credentials.open(house.ledger.clone(), book.clone());
            let membership = Arc::new(connected.membership(generation, &house.ledger, book, lease));
            removals.ask(&membership);
            let phase = Arc::downgrade(&membership);
            house.peers.read_phase(move || phase.upgrade().map_or(Phase::Over, |membership| membership.phase()));
            let held = Arc::downgrade(&membership);
            counting = Some(house.machines.fence.count(move || held.upgrade().and_then(|membership| membership.stops_in())));
            let lanes = connected.lanes().clone();
            let replicas = Replicas::open(&house.blobs, lanes.bulk.clone(), house.ledger.clone(), id);
            let transcripts = Transcripts::open(dir.clone(), lanes.bulk.clone(), house.ledger.clone(), id);
            let copies = dir.join("view-copies");
            let view_share =
                ViewShare::open(&house.views, lanes.bulk.clone(), house.ledger.clone(), id, copies).map_err(unusable)?;
            let terminals = Terminals::open(dir.clone(), lanes.bulk.clone());
            let budgets = BankDesk::open(&house.models, house.models.counter(), lanes.raft.clone());
            control = control.with_terminals(terminals.clone());
            let own = own_report(&house, &connected, &membership, running.tree.clone());
            let reports = Reports::open(&house, own, running.tree.clone(), gauges, Some(lanes.raft.clone()));
            control = control.with_others(Some(transcripts.clone()), reports.clone());
            let announcing = tokio::spawn(announce(control.clone()));
            clustering = Some(Clustering {
                connected,
                membership,
                replicas,
                transcripts,
                view_share,
                terminals,
                budgets,
                reports,
                announcing,
            });
        } else {
            let own = report_alone(&house, running.tree.clone());
            control = control.with_others(None, Reports::open(&house, own, running.tree.clone(), gauges, None));
        }
        let node = Self {
            scrubs: [
                blob_scrub::in_rounds(house.blobs.clone()),
                row_scrub::in_rounds(house.ledger.clone(), house.views.clone()),
                transcript_scrub::in_rounds(house.data_dir.join("sessions"), {
                    let house = house.clone();
                    move |damaged| house.figures.lock().damaged_transcripts = damaged
                }),
            ],
            house,
            running,
            control,
            clustering,
            usage,
            _counting: counting,
            _following: following,
            _alone: alone,
            _lock: lock,
        };
        if founds {
            node.ensure_default(config.default_agents).await.map_err(|refused| StartError::Default(refused.message))?;
        }
        Ok(node)
    }

    /// Returns the control plane, through which this node is read and commanded.
    pub fn control(&self) -> ControlPlane {
        self.control.clone()
    }

    /// Returns the address at which other nodes reach this one; `None` without peers.
    pub fn cluster_address(&self) -> Option<&str> {
        self.clustering.as_ref().map(|clustering| clustering.connected.cluster.address.as_str())
    }

    /// Makes the `default` swarm, once; who removes its agents keeps them removed.
    async fn ensure_default(&self, agents: u32) -> Result<(), hiveward_runtime::error::Refused> {
        const WITHIN: Duration = Duration::from_secs(30);
        let new = NewSwarm { name: "default".into(), ..NewSwarm::default() };
        let op = Op { operation: Some("default-swarm".into()), ..Op::internal(WITHIN) };
        if self.house.directory.has_swarms() {
            return Ok(());
        }
        self.control.create_swarm(op, new).await?;
        for n in 1..=agents {
            let new = NewAgent { swarm: Some(SwarmRef::Name("default".into())), ..NewAgent::command(format!("command-{n}")) };
            let op = Op { operation: Some(format!("default-agent-{n}").into()), ..Op::internal(WITHIN) };
            self.control.create_agent(op, new).await?;
        }
        Ok(())
    }

    /// Stops the tree, then what it stood on. Agents' processes live on, to be adopted by the next start.
    pub async fn stop(self, within: Duration) {
        let deadline = Deadline::after(within);
        if let Some(clustering) = &self.clustering {
            clustering.announcing.abort();
            // Another leads from now on, if there is another: its writes do not wait for this node's silence to be noticed.
            if self.house.ledger.leadership().borrow().is_me && !self.house.ledger.is_alone() {
                self.house.ledger.step_aside(STEP_ASIDE_WITHIN).await;
            }
        }
        drop(self.scrubs);
        self.running.root.shutdown(within).await;
        if let Some(usage) = self.usage {
            usage.stop(deadline.at_most(within)).await;
        }
        if let Some(clustering) = &self.clustering {
            clustering.replicas.close();
            clustering.transcripts.close();
            clustering.view_share.close();
            clustering.terminals.close();
            clustering.budgets.close();
            clustering.reports.close();
            clustering.membership.stop().await;
        }
        self.house.views.stop().await;
        if tokio::time::timeout_at(deadline.at_most(within).instant(), self.house.ledger.stop()).await.is_err() {
            tracing::warn!("the ledger did not stop in time; nothing that was acknowledged is lost by that");
        }
        if let Some(clustering) = self.clustering {
            clustering.connected.stop().await;
        }
    }
}

/// How long another voter may take to be elected before this one stops all the same.
const STEP_ASIDE_WITHIN: Duration = Duration::from_secs(3);

async fn announce(control: ControlPlane) {
    loop {
        match control.announce().await {
            Ok(true) => return,
            Ok(false) => {}
            Err(refused) => tracing::debug!(why = refused.message, "this node is not known to the cluster yet"),
        }
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
}

fn report_alone(house: &House, tree: Tree) -> impl Fn() -> NodeReport + Send + Sync + 'static {
    let house = house.clone();
    move || {
        let status = house.ledger.status();
        let (agents, swarms) = house.doors.counts();
        NodeReport {
            node: house.me.node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: house.generation,
            wall: WallMs::now(),
            cores: house.me.cores,
            load_average: report::load_average(),
            resident_bytes: crate::client::resident_bytes(),
            agents,
            swarms,
            cursor: status.head.0,
            view_lag: house.views.lag(),
            term: status.term,
            leader: status.leader,
            lease: phase_name(*house.peers.lease().borrow()).to_owned(),
            disk: match status.disk {
                DiskState::Ok => "ok".into(),
                DiskState::Full { free_bytes } => format!("full: {free_bytes} bytes are free"),
                DiskState::Failed { why } => format!("failed: {why}"),
            },
            links: Vec::new(),
            leases: Vec::new(),
            certificate_until: None,
            troubled: report::troubled(
                &tree,
                house.views.set_aside(),
                &house.ledger.damages(),
                &house.figures.lock().damaged_transcripts,
            ),
        }
    }
}

fn own_report(
    house: &House,
    connected: &Connected,
    membership: &Arc<Membership>,
    tree: Tree,
) -> impl Fn() -> NodeReport + Send + Sync + 'static {
    let (alone, links, identity) = (report_alone(house, tree), connected.links().clone(), connected.cluster.identity.clone());
    let membership = Arc::downgrade(membership);
    move || NodeReport {
        links: report::links(&links),
        leases: membership.upgrade().map(|membership| report::leases(membership.leases())).unwrap_or_default(),
        certificate_until: Some(identity.certificate().not_after),
        ..alone()
    }
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Held => "held",
        Phase::Stopping => "stopping",
        Phase::Over => "over",
    }
}

/// Returns the lock by which sessions know their node, if the kernel shows them its holder: else they would not hear it.
fn owner_lock(lock: &std::path::Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(lock).and_then(|lock| Ok((session_owner(&lock)?, lock)));
    match absolute {
        Ok((Some(holder), lock)) if u32::try_from(holder).ok() == Some(std::process::id()) => Some(lock),
        found => {
            tracing::warn!(
                ?found,
                "the kernel does not say who holds the lock on the data directory: any program of this user may speak to sessions"
            );
            None
        }
    }
}

/// Reads the id of this node, which is made once per data directory.
fn node_id(dir: &std::path::Path) -> std::io::Result<NodeId> {
    let path = dir.join("node.id");
    match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = NodeId::new();
            replace(&path, format!("{id}\n").as_bytes())?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

impl NewAgent {
    /// Returns an agent of the `command` connector with the defaults of the public API.
    pub fn command(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            swarm: None,
            connector: ConnectorSpec::Command,
            skills: Vec::new(),
            weight: 1,
            max_concurrent_tasks: 1,
            limits: Limits::default(),
            env: Vec::new(),
            session: SessionSpec::Pipes,
            auto_start: true,
            start_timeout_ms: AgentSpec::START_TIMEOUT_MS_DEFAULT,
            stop_grace_ms: AgentSpec::STOP_GRACE_MS_DEFAULT,
            node_labels: Default::default(),
            node: None,
        }
    }
}
