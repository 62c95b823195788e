//! What a backup is asked with, and where it is made ready.

use std::{path::PathBuf, sync::Arc};

use hiveward_catalogue::{host::protocol::Marks, vm::spec::VmSpec};
use hiveward_runtime::clock::WallMs;

use crate::host::services::MachineServices;

/// Of one host at the same time: each reads its disks and takes room in its pool.
pub const BACKUPS_AT_ONCE: usize = 2;

/// What is to be kept, and where.
#[derive(Clone, Debug)]
pub struct NewBackup {
    pub name: String,
    /// See [`targets::open`].
    pub to: String,
    pub spec: Arc<VmSpec>,
    pub running: bool,
    pub at: WallMs,
    /// The name of the one that it is to be based on, or why it is on none though that was asked for.
    pub basis: Option<Result<String, String>>,
    pub marks: Marks,
}

/// Where this node keeps what is on its way to an object store.
pub fn scratch(services: &MachineServices) -> PathBuf {
    services.data_dir.join("backups")
}
