//! All that a node is made of: the platform, what each noun stands on, and what only the node itself knows.

use std::{path::PathBuf, sync::Arc, time::Instant};

use hiveward_agents::{
    approvals_table::ApprovalTable, connector::SecretSource, hearer::AgentsHere, record::AgentStatus, services::AgentServices,
    table::AgentTable,
};
use hiveward_catalogue::{
    directory::Directory,
    platform::{Foundations, Platform},
    roster::event::NodeRecord,
};
use hiveward_kernel::{doors::Doors, id::AgentId, lease::Lease, shim::ShimProgram};
use hiveward_machines::host::services::{MachineServices, Needs};
use hiveward_models::{access::ModelAccess, services::ModelServices};
use hiveward_runtime::{
    clock::Clock,
    cluster::{
        peers::{Peers, PeersDriver},
        router::Router,
    },
    error::Refused,
    ledger::{Ledger, view::Views},
    net::identity::Identity,
    op::NodeId,
    store::blob::Blobs,
};
use hiveward_work::{
    swarm::{services::WorkServices, table::SwarmTable},
    task::search::TaskTable,
};
use parking_lot::Mutex;

use crate::{
    retention::report::Figures,
    roster::{NoNodeChanges, NodeChanges},
};

/// All that a node is made of. It is cheap to clone and holds no state of its own.
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
    /// The record that this node gives of itself.
    pub me: NodeRecord,
    /// The number of this start of the node, which grows with each.
    pub generation: u64,
    pub peers: Peers,
    pub router: Router,
    pub directory: Directory,
    /// The identity that join tokens are made with; absent on a node that takes in nobody.
    pub identity: Option<Identity>,
    pub node_changes: Arc<dyn NodeChanges>,
}

impl Clustered {
    /// Returns the parts of a node that has no peers, with the driver that keeps it its own leader.
    pub fn alone(node: NodeId, generation: u64, ledger: &Ledger) -> (Self, PeersDriver) {
        let (peers, driver) = Peers::alone(node);
        let directory = Directory::new(ledger.clone(), peers.clone());
        let router = Router::new(node, Arc::new(directory.clone()));
        let me = NodeRecord::of_this_host(node, hiveward_runtime::ledger::member_id(node), String::new());
        let node_changes = Arc::new(NoNodeChanges);
        (Self { me, generation, peers, router, directory, identity: None, node_changes }, driver)
    }
}

/// The parts of a [`House`].
pub struct Rooms {
    platform: Platform,
    pub work: WorkServices,
    pub machines: MachineServices,
    pub models: ModelServices,
    pub agents: AgentServices,
    pub swarm_table: SwarmTable,
    pub agent_table: AgentTable,
    pub approvals: ApprovalTable,
    /// The identity that join tokens are made with; absent on a node that takes in nobody.
    pub identity: Option<Identity>,
    pub node_changes: Arc<dyn NodeChanges>,
    /// What the keepers of this node measured last.
    pub figures: Mutex<Figures>,
}

impl std::ops::Deref for Rooms {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

impl House {
    #[allow(clippy::too_many_arguments)] // Each is a part of its own; made once, in `node`.
    /// Puts a node's parts together. Nothing runs yet.
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
        let platform = Platform::new(Foundations {
            me: Arc::new(me),
            generation,
            peers,
            router,
            directory,
            ledger,
            views,
            blobs,
            doors: Doors::default(),
            clock,
            data_dir,
            started: Instant::now(),
        });
        let work = WorkServices::new(platform.clone(), Arc::new(AgentsHere(platform.doors.clone())));
        let agent_table = AgentTable::new(platform.views.clone());
        let needs = Needed { tasks: work.tasks.clone(), agents: agent_table.clone() };
        let machines = MachineServices::new(platform.clone(), shim.clone(), Arc::new(needs));
        Self(Arc::new(Rooms {
            agents: AgentServices::new(platform.clone(), machines.clone(), secrets, shim, models.clone()),
            models: ModelServices::new(platform.clone(), models),
            swarm_table: SwarmTable::new(platform.views.clone()),
            approvals: ApprovalTable::new(platform.views.clone()),
            agent_table,
            work,
            machines,
            identity,
            node_changes,
            figures: Mutex::default(),
            platform,
        }))
    }

    /// Returns what every actor stands on.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }
}

/// Whether those that VMs were made for still need them, as the views say.
struct Needed {
    tasks: TaskTable,
    agents: AgentTable,
}

impl Needs for Needed {
    fn is_over(&self, lease: Lease) -> Result<Option<bool>, Refused> {
        let record = self.tasks.get(lease.task)?;
        let attempt = record.as_ref().and_then(|record| record.attempts.iter().find(|attempt| attempt.number == lease.attempt));
        Ok(attempt.map(|attempt| attempt.ended_at.is_some()))
    }

    fn holds(&self, agent: AgentId) -> Result<Option<bool>, Refused> {
        Ok(self.agents.get(agent)?.map(|record| match record.status {
            AgentStatus::Starting | AgentStatus::Idle | AgentStatus::Busy | AgentStatus::Paused | AgentStatus::Lost => true,
            AgentStatus::Created | AgentStatus::Stopping | AgentStatus::Stopped | AgentStatus::Failed => false,
        }))
    }
}
