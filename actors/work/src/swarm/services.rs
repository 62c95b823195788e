//! Holds what coordinators stand on.

use std::sync::Arc;

use hiveward_catalogue::platform::Platform;
use hiveward_kernel::operation::table::OperationTable;

use super::reference::Hearers;
use crate::task::search::TaskTable;

/// The services of coordinators. They are cheap to clone; all clones are one.
#[derive(Clone)]
pub struct WorkServices(Arc<WorkParts>);

impl std::ops::Deref for WorkServices {
    type Target = WorkParts;

    fn deref(&self) -> &WorkParts {
        &self.0
    }
}

/// The parts of [`WorkServices`].
pub struct WorkParts {
    platform: Platform,
    pub tasks: TaskTable,
    /// The agents that are on this node.
    pub hearers: Arc<dyn Hearers>,
    pub operations: OperationTable,
}

impl std::ops::Deref for WorkParts {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

impl WorkServices {
    /// Puts the services together for a node.
    pub fn new(platform: Platform, hearers: Arc<dyn Hearers>) -> Self {
        Self(Arc::new(WorkParts {
            hearers,
            tasks: TaskTable::new(platform.views.clone()),
            operations: OperationTable::new(platform.views.clone()),
            platform,
        }))
    }
}
