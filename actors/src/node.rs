//! One node of this process: opens what is durable, starts the tree, and stops both in order.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hiveward_runtime::{
    clock::{Clock, Deadline},
    cluster::peers::PeersDriver,
    ledger::{Ledger, LedgerConfig, OpenError, view::Views},
    op::{NodeId, Op},
    store::blob::Blobs,
    supervise::StartError as TreeError,
};

use crate::{
    agent::{AgentSpec, ConnectorSpec, Limits, SessionSpec, connector::SecretFiles, session::ShimProgram, table::AgentView},
    client::{ControlPlane, NewAgent, NewSwarm, SwarmRef},
    house::{Clustered, House},
    retention::TranscriptRetention,
    swarm::table::SwarmView,
    task::table::TaskView,
    tree,
};

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub data_dir: PathBuf,
    /// Free space below which writes are refused.
    pub reserve_bytes: u64,
    /// Whether faults may be injected by clients.
    pub faults_allowed: bool,
    /// `command` agents that the `default` swarm begins with; none makes the swarm empty.
    pub default_agents: u32,
    /// What holds agents' processes.
    pub shim: ShimProgram,
    pub transcripts: TranscriptRetention,
}

impl NodeConfig {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            reserve_bytes: LedgerConfig::RESERVE_BYTES_DEFAULT,
            faults_allowed: false,
            default_agents: std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1)),
            shim: ShimProgram::this_binary(),
            transcripts: TranscriptRetention::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data directory {dir} cannot be used")]
    DataDir {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{dir} is in use by another hiveward; stop it, or give another --data-dir")]
    InUse { dir: PathBuf },
    #[error(transparent)]
    Ledger(#[from] OpenError),
    #[error("the views cannot be opened: {0}")]
    Views(String),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the default swarm could not be made: {0}")]
    Default(String),
}

pub struct Node {
    house: House,
    running: tree::Running,
    control: ControlPlane,
    /// While it lives, this node leads itself.
    _peers: PeersDriver,
    _lock: nix::fcntl::Flock<std::fs::File>,
}

impl Node {
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let dir = &config.data_dir;
        let unusable = |source| StartError::DataDir { dir: dir.clone(), source };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(unusable)?;
        let lock = std::fs::File::options().create(true).write(true).truncate(false).open(dir.join("lock")).map_err(unusable)?;
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
            .map_err(|_| StartError::InUse { dir: dir.clone() })?;
        let id = node_id(dir).map_err(unusable)?;
        let mut ledger = LedgerConfig { reserve_bytes: config.reserve_bytes, ..LedgerConfig::new(dir.join("ledger")) };
        ledger.raft.node = id;
        let ledger = Ledger::open(ledger).await?;
        let views: Vec<Box<dyn hiveward_runtime::ledger::view::View>> =
            vec![Box::new(TaskView), Box::new(AgentView), Box::new(SwarmView)];
        let views =
            Views::start(&ledger, &dir.join("views.redb"), views).await.map_err(|error| StartError::Views(error.to_string()))?;
        let blobs = Blobs::open(dir.join("blobs")).map_err(unusable)?;
        let secrets = Arc::new(SecretFiles { dir: dir.join("secrets") });
        let generation = generation(dir).map_err(unusable)?;
        let (clustered, peers) = Clustered::alone(id, generation, &ledger);
        let house = House::new(clustered, ledger, views, blobs, Clock::System, dir.clone(), secrets, config.shim.clone());
        let running = tree::start(house.clone(), config.transcripts).await?;
        let control = ControlPlane::new(house.clone(), running.tree.clone(), running.roster.clone(), id, config.faults_allowed);
        let node = Self { house, running, control, _peers: peers, _lock: lock };
        node.ensure_default(config.default_agents).await.map_err(|refused| StartError::Default(refused.message))?;
        Ok(node)
    }

    pub fn control(&self) -> ControlPlane {
        self.control.clone()
    }

    /// The `default` swarm is made once; who removes its agents keeps them removed.
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
        self.running.root.shutdown(within).await;
        self.house.views.stop().await;
        if tokio::time::timeout_at(deadline.at_most(within).instant(), self.house.ledger.stop()).await.is_err() {
            tracing::warn!("the ledger did not stop in time; nothing that was acknowledged is lost by that");
        }
    }
}

/// Grows at each start of the node.
fn generation(dir: &std::path::Path) -> std::io::Result<u64> {
    let path = dir.join("node.generation");
    let before: u64 = match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let new = dir.join("node.generation.new");
    std::fs::write(&new, format!("{}\n", before + 1))?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, &path)?;
    Ok(before + 1)
}

/// Made once per data directory.
fn node_id(dir: &std::path::Path) -> std::io::Result<NodeId> {
    let path = dir.join("node.id");
    match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = NodeId::new();
            let new = dir.join("node.id.new");
            std::fs::write(&new, format!("{id}\n"))?;
            std::fs::File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &path)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

impl NewAgent {
    /// An agent of the `command` connector with the defaults of the public API.
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
