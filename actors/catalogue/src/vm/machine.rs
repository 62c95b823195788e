//! Holds the VM that each attempt of an agent gets.

use hiveward_kernel::id::HostId;
use serde::{Deserialize, Serialize};

use super::spec::DiskSpec;

/// The VM that each attempt of an agent gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// The name of its image, which has QEMU's guest agent, `sh`, `tar` and what the agent's programs need.
    pub image: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<DiskSpec>,
    pub networks: Vec<String>,
    pub zone: Option<String>,
    pub host_labels: std::collections::BTreeMap<String, String>,
    /// The host that it is made on; the best one if absent.
    pub host: Option<HostId>,
    /// The milliseconds that its guest's agent has to answer.
    pub boot_within_ms: u64,
    /// How many VMs wait booted for the agent's next attempts; at most [`WARM_MAX`](super::warm::WARM_MAX).
    #[serde(default)]
    pub warm: u32,
}

impl MachineSpec {
    pub const BOOT_WITHIN_MS_DEFAULT: u64 = 300_000;
}
