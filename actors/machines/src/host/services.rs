//! The services that actors of hosts and VMs are given.

use std::sync::Arc;

use hiveward_catalogue::platform::Platform;
use hiveward_kernel::{id::AgentId, lease::Lease, operation::table::OperationTable, shim::ShimProgram};
use hiveward_runtime::error::Refused;

use super::{fence::Fence, image::import::Imports, meter::Meters};
use crate::{guest::Askers, vm::table::VmTable};

/// Port that knows whether those that VMs were made for still need them.
pub trait Needs: Send + Sync + 'static {
    /// Tells whether an attempt is over; `None` if it is not known yet.
    fn is_over(&self, lease: Lease) -> Result<Option<bool>, Refused>;

    /// Tells whether an agent has VMs wait for it, by its state; `None` if it is not known yet.
    fn holds(&self, agent: AgentId) -> Result<Option<bool>, Refused>;
}

/// Services of hosts and VMs. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct MachineServices(Arc<MachineParts>);

impl std::ops::Deref for MachineServices {
    type Target = MachineParts;

    fn deref(&self) -> &MachineParts {
        &self.0
    }
}

/// The parts of [`MachineServices`].
pub struct MachineParts {
    platform: Platform,
    pub vms: VmTable,
    pub operations: OperationTable,
    /// Images on their way in.
    pub imports: Imports,
    /// Processes here that may ask guests.
    pub askers: Askers,
    /// Fence that ends VMs here that come back elsewhere.
    pub fence: Fence,
    /// What VMs use of this node's hosts.
    pub meters: Meters,
    pub needs: Arc<dyn Needs>,
}

impl std::ops::Deref for MachineParts {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

impl MachineServices {
    /// Puts them together for a node. The fence's keeper is started by this program.
    pub fn new(platform: Platform, shim: ShimProgram, needs: Arc<dyn Needs>) -> Self {
        Self(Arc::new(MachineParts {
            vms: VmTable::new(platform.views.clone()),
            operations: OperationTable::new(platform.views.clone()),
            imports: Imports::default(),
            askers: Askers::default(),
            fence: Fence::new(&platform.data_dir, shim),
            meters: Meters::default(),
            needs,
            platform,
        }))
    }
}
