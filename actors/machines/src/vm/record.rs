//! A VM as the views keep it and the gateway shows it.

use std::sync::Arc;

use hiveward_catalogue::{placement::vm::Decision, vm::spec::VmSpec};
use hiveward_kernel::id::HostId;
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

use super::{ha::ComeBack, state::VmState};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VmStatus {
    /// The VM has never run.
    Defined,
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
    Migrating,
    /// The VM does not run, and was to.
    Failed,
    /// The VM's host cannot be asked.
    Lost,
    /// Nothing of the VM is left.
    Removed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    pub spec: Arc<VmSpec>,
    pub host: HostId,
    /// Reason why it is on that host.
    pub decision: Arc<Decision>,
    pub state: VmState,
    pub status: VmStatus,
    pub created_at: WallMs,
    pub started_at: Option<WallMs>,
    pub cursor: u64,
    /// Comings back, oldest first.
    #[serde(default)]
    pub come_backs: Vec<ComeBack>,
}
