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
    /// It has never run.
    Defined,
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
    Migrating,
    /// It does not run, and was to.
    Failed,
    /// Its host cannot be asked.
    Lost,
    /// Nothing of it is left.
    Removed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    pub spec: Arc<VmSpec>,
    pub host: HostId,
    /// Why that host.
    pub decision: Arc<Decision>,
    pub state: VmState,
    pub status: VmStatus,
    pub created_at: WallMs,
    pub started_at: Option<WallMs>,
    pub cursor: u64,
    /// Oldest first.
    #[serde(default)]
    pub come_backs: Vec<ComeBack>,
}
