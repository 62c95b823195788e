//! What a client said a VM is; parsed once. Its shape changes by operations of its own, everything else never.

use std::collections::BTreeMap;

use hiveward_kernel::{
    body::Body,
    id::{ImageId, VmId},
    lease::Lease,
};
use serde::{Deserialize, Serialize};

use super::warm::Warm;
use crate::{host::protocol::DiskCopy, placement::vm::Strategy};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Unique within its VM.
    pub name: String,
    pub size_bytes: u64,
}

/// What of a VM can change while it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<DiskSpec>,
    pub networks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    pub id: VmId,
    /// Unique in the cluster.
    pub name: String,
    pub image: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    #[serde(default)]
    pub networks: Vec<String>,
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// What the guest's first boot is told. It may hold secrets, so it is never shown.
    #[serde(default)]
    pub user_data: Option<Body>,
    /// Never with another VM of one of these groups on a host.
    #[serde(default)]
    pub anti_affinity: Vec<String>,
    /// On a host that has one of each of these groups, once there is one.
    #[serde(default)]
    pub affinity: Vec<String>,
    /// Only hosts of this zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Only hosts with all of these labels.
    #[serde(default)]
    pub host_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub strategy: Strategy,
    /// It is to come back on another host when its own is lost: refused where there is no room for that.
    pub ha: bool,
    /// Start it when it is made.
    pub start: bool,
    /// Between the power button and the plug.
    pub stop_grace_ms: u64,
    /// The image that had this name when it was made.
    #[serde(default)]
    pub base: Option<ImageId>,
    /// Its disks begin as those of a backup, and not as its image.
    #[serde(default)]
    pub restored: Option<Restored>,
    /// It lives for one attempt of a task.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// What other disks than its root begin as, by their names: of a clone.
    #[serde(default)]
    pub bases: Vec<(String, ImageId)>,
    /// It waits for an attempt of an agent, and no attempt has it yet.
    #[serde(default)]
    pub warm: Option<Warm>,
}

impl VmSpec {
    pub const STOP_GRACE_MS_DEFAULT: u64 = 60_000;

    /// All images that its disks are made of.
    pub fn images(&self) -> impl Iterator<Item = ImageId> {
        self.base.into_iter().chain(self.bases.iter().map(|(_, image)| *image))
    }

    pub fn shape(&self) -> Shape {
        Shape { cpus: self.cpus, memory_bytes: self.memory_bytes, disks: self.disks.clone(), networks: self.networks.clone() }
    }

    /// The same VM in another shape.
    #[must_use]
    pub fn shaped(&self, shape: &Shape) -> Self {
        let Shape { cpus, memory_bytes, disks, networks } = shape.clone();
        Self { cpus, memory_bytes, disks, networks, ..self.clone() }
    }

    /// It lives for an attempt, which has it or will have it: whoever it ends for, it is not started again.
    pub const fn is_leased(&self) -> bool {
        self.lease.is_some() || self.warm.is_some()
    }

    /// The same VM once this attempt has it.
    #[must_use]
    pub fn taken(&self, lease: Lease) -> Self {
        Self { lease: Some(lease), warm: None, ..self.clone() }
    }

    /// Of all groups that it is counted in.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.anti_affinity.iter().chain(&self.affinity).map(String::as_str)
    }
}

/// What a VM's disks begin as.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Restored {
    /// On the node that holds its host, or in an object store.
    pub path: String,
    pub disks: Vec<DiskCopy>,
    /// It lives for one drill.
    pub drill: bool,
    /// Backups beside it that it is a difference to, the full one first.
    #[serde(default)]
    pub under: Vec<Layer>,
}

/// One backup of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    pub disks: Vec<DiskCopy>,
}
