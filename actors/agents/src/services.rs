//! The services that actors of agents are given.

use std::sync::Arc;

use hiveward_catalogue::platform::Platform;
use hiveward_kernel::shim::ShimProgram;
use hiveward_machines::host::services::MachineServices;
use hiveward_models::access::ModelAccess;
use hiveward_work::task::search::TaskTable;

use super::connector::{ConnectorEnv, Reports, SecretSource};

/// Services of agents. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct AgentServices(Arc<AgentParts>);

impl std::ops::Deref for AgentServices {
    type Target = AgentParts;

    fn deref(&self) -> &AgentParts {
        &self.0
    }
}

/// The parts of [`AgentServices`].
pub struct AgentParts {
    platform: Platform,
    pub tasks: TaskTable,
    pub machines: MachineServices,
    secrets: Arc<dyn SecretSource>,
    shim: ShimProgram,
    models: Arc<dyn ModelAccess>,
}

impl std::ops::Deref for AgentParts {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

impl AgentServices {
    /// Puts them together for a node whose sessions are held by this program.
    pub fn new(
        platform: Platform,
        machines: MachineServices,
        secrets: Arc<dyn SecretSource>,
        shim: ShimProgram,
        models: Arc<dyn ModelAccess>,
    ) -> Self {
        Self(Arc::new(AgentParts { tasks: TaskTable::new(platform.views.clone()), platform, machines, secrets, shim, models }))
    }

    /// Returns what a connector of this node is given.
    pub fn connector_env(&self, reports: Reports, incarnation: u64) -> ConnectorEnv {
        ConnectorEnv {
            data_dir: self.data_dir.clone(),
            secrets: self.secrets.clone(),
            artifacts: Arc::new(self.blobs.clone()),
            reports,
            shim: self.shim.clone(),
            models: self.models.clone(),
            machines: Arc::new(self.machines.clone()),
            askers: self.machines.askers.clone(),
            incarnation,
            clock: self.clock.clone(),
        }
    }
}
