//! What every actor of this node shares: the ledger, the views, blobs, clocks, and the doors to each other.

use std::{path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use hiveward_catalogue::{directory::Directory, roster::event::NodeRecord};
use hiveward_kernel::{
    body::{Body, INLINE_BYTES_MAX},
    doors::Doors,
    operation::table::OperationTable,
    shim::ShimProgram,
};
use hiveward_runtime::{
    clock::Clock,
    cluster::{
        identity::Identity,
        peers::{Peers, PeersDriver},
        router::Router,
    },
    error::{Code, Refused},
    ledger::{Ledger, view::Views},
    op::NodeId,
    store::blob::Blobs,
};
use parking_lot::Mutex;

use crate::{
    agent::{
        approvals_table::ApprovalTable,
        connector::{ArtifactStore, ConnectorEnv, Reports, SecretSource},
        table::AgentTable,
    },
    guest::Askers,
    host::{fence::Fence, image::import::Imports, meter::Meters},
    model::{ModelAccess, Models, bank::Counter, table::UsageTable},
    retention::report::Figures,
    roster::{NoNodeChanges, NodeChanges},
    swarm::table::SwarmTable,
    task::search::TaskTable,
    vm::table::VmTable,
};

/// Cheap to clone; holds no state of its own.
#[derive(Clone)]
pub struct House(Arc<Rooms>);

impl std::ops::Deref for House {
    type Target = Rooms;

    fn deref(&self) -> &Rooms {
        &self.0
    }
}

/// This node's part of a cluster.
pub struct Clustered {
    /// What this node says of itself.
    pub me: NodeRecord,
    /// Grows at each start of the node.
    pub generation: u64,
    pub peers: Peers,
    pub router: Router,
    pub directory: Directory,
    /// What join tokens are made with; absent on a node that takes in nobody.
    pub identity: Option<Identity>,
    pub node_changes: Arc<dyn NodeChanges>,
}

impl Clustered {
    /// A single node.
    pub fn alone(node: NodeId, generation: u64, ledger: &Ledger) -> (Self, PeersDriver) {
        let (peers, driver) = Peers::alone(node);
        let directory = Directory::new(ledger.clone(), peers.clone());
        let router = Router::new(node, Arc::new(directory.clone()));
        let me = NodeRecord::of_this_host(node, hiveward_runtime::ledger::member_id(node), String::new());
        let node_changes = Arc::new(NoNodeChanges);
        (Self { me, generation, peers, router, directory, identity: None, node_changes }, driver)
    }
}

pub struct Rooms {
    pub me: Arc<NodeRecord>,
    pub generation: u64,
    pub peers: Peers,
    pub router: Router,
    pub directory: Directory,
    pub identity: Option<Identity>,
    pub node_changes: Arc<dyn NodeChanges>,
    pub ledger: Ledger,
    pub views: Views,
    pub blobs: Blobs,
    #[doc(hidden)]
    pub doors: Doors,
    pub tasks: TaskTable,
    pub agents: AgentTable,
    pub swarms: SwarmTable,
    pub approvals: ApprovalTable,
    pub vms: VmTable,
    pub operations: OperationTable,
    /// Images on their way in.
    pub imports: Imports,
    /// Processes here that may ask guests.
    pub askers: Askers,
    /// Ends VMs here that come back elsewhere.
    pub fence: Fence,
    /// What VMs use of this node's hosts.
    pub meters: Meters,
    pub clock: Clock,
    pub data_dir: PathBuf,
    secrets: Arc<dyn SecretSource>,
    shim: ShimProgram,
    models: Arc<dyn ModelAccess>,
    counter: Counter,
    pub usage: UsageTable,
    /// What the keepers of this node measured last.
    pub figures: Mutex<Figures>,
    started: Instant,
}

impl House {
    #[allow(clippy::too_many_arguments)] // Each is a room of its own; made once, in `node`.
    pub fn new(
        clustered: Clustered,
        ledger: Ledger,
        views: Views,
        blobs: Blobs,
        clock: Clock,
        data_dir: PathBuf,
        secrets: Arc<dyn SecretSource>,
        shim: ShimProgram,
        models: Arc<dyn ModelAccess>,
    ) -> Self {
        let Clustered { me, generation, peers, router, directory, identity, node_changes } = clustered;
        Self(Arc::new(Rooms {
            me: Arc::new(me),
            generation,
            peers,
            router,
            directory,
            identity,
            node_changes,
            tasks: TaskTable::new(views.clone()),
            agents: AgentTable::new(views.clone()),
            swarms: SwarmTable::new(views.clone()),
            approvals: ApprovalTable::new(views.clone()),
            vms: VmTable::new(views.clone()),
            operations: OperationTable::new(views.clone()),
            imports: Imports::default(),
            askers: Askers::default(),
            fence: Fence::new(&data_dir, shim.clone()),
            meters: Meters::default(),
            usage: UsageTable::new(views.clone()),
            ledger,
            views,
            blobs,
            doors: Doors::default(),
            clock,
            data_dir,
            secrets,
            shim,
            counter: models.meter().map(|models| models.counter().clone()).unwrap_or_default(),
            models,
            figures: Mutex::default(),
            started: Instant::now(),
        }))
    }

    /// What a connector of this node is given.
    pub fn connector_env(&self, reports: Reports, incarnation: u64) -> ConnectorEnv {
        ConnectorEnv {
            data_dir: self.data_dir.clone(),
            secrets: self.secrets.clone(),
            artifacts: Arc::new(BlobArtifacts(self.blobs.clone())),
            reports,
            shim: self.shim.clone(),
            models: self.models.clone(),
            machines: Arc::new(self.clone()),
            askers: self.askers.clone(),
            incarnation,
            clock: self.clock.clone(),
        }
    }

    /// What meters calls of models here, if anything does.
    pub fn models(&self) -> Option<Models> {
        self.models.meter()
    }

    /// Has this node go by the budgets that the directory has, and what the view says was spent of them.
    pub(crate) fn know_budgets(&self) {
        let (scopes, at) = (self.directory.read(|known| known.budgets.keys().cloned().collect()), self.directory.cursor());
        self.counter.know(scopes, at.0);
        self.counter.refresh();
    }

    /// Where calls of models wait for their turn.
    pub fn counter(&self) -> &Counter {
        &self.counter
    }

    /// Milliseconds of this process, for what is due; never jumps.
    pub fn mono_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The bytes behind a body. Reads a file if it is in the blob store.
    pub fn body(&self, body: &Body) -> Result<Bytes, Refused> {
        match body {
            Body::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            Body::Blob { hash, .. } => {
                let parsed = hash.parse().map_err(|_| Refused::new(Code::Internal, format!("{hash:?} is no blob hash")))?;
                match self.blobs.get(&parsed) {
                    Ok(Some(bytes)) => Ok(bytes),
                    Ok(None) => Err(Refused::new(Code::NotFound, format!("blob {hash} is not in this node's store"))),
                    Err(error) => Err(Refused::new(Code::Unavailable, format!("blob {hash} cannot be read: {error}"))),
                }
            }
        }
    }

    /// Keeps bytes where a body of this size belongs. Durable on return if it is a blob.
    pub fn store_body(&self, bytes: &[u8]) -> Result<Body, Refused> {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Ok(Body::Inline(bytes.to_vec()));
        }
        let hash = self.blobs.put(bytes).map_err(|error| {
            Refused::new(Code::Unavailable, format!("a body of {} bytes cannot be stored: {error}", bytes.len()))
        })?;
        Ok(Body::Blob { hash: hash.to_string().into(), bytes: bytes.len() as u64 })
    }
}

/// Artifacts go where large bodies go.
struct BlobArtifacts(Blobs);

impl ArtifactStore for BlobArtifacts {
    fn put_file(&self, path: &std::path::Path) -> std::io::Result<(Arc<str>, u64)> {
        self.0.put_file(path).map(|(hash, bytes)| (hash.to_string().into(), bytes))
    }
}
