//! Holds what a client said a VM is; parsed once. Its shape changes by operations of its own, everything else never.

use std::collections::BTreeMap;

use hiveward_kernel::{
    body::Body,
    id::{ImageId, ProjectId, VmId},
    lease::Lease,
};
use serde::{Deserialize, Serialize};

use super::warm::Warm;
use crate::{host::protocol::DiskCopy, placement::vm::Strategy};

/// A disk beside the root, as a client declared it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Unique within its VM.
    pub name: String,
    pub size_bytes: u64,
}

/// The part of a VM that can change while it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<DiskSpec>,
    pub networks: Vec<String>,
}

/// A VM as a client declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    pub id: VmId,
    /// The name, unique in its project.
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
    /// The data that the guest's first boot is told. It may hold secrets, so it is never shown.
    #[serde(default)]
    pub user_data: Option<Body>,
    /// The groups of which no other VM may be on its host.
    #[serde(default)]
    pub anti_affinity: Vec<String>,
    /// The groups of which its host must have one each, once there is one.
    #[serde(default)]
    pub affinity: Vec<String>,
    /// The only zone whose hosts it may be on.
    #[serde(default)]
    pub zone: Option<String>,
    /// The labels of which its host must have all.
    #[serde(default)]
    pub host_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub strategy: Strategy,
    /// Whether it is to come back on another host when its own is lost: refused where there is no room for that.
    pub ha: bool,
    /// Whether it is started when it is made.
    pub start: bool,
    /// The milliseconds between the power button and the plug.
    pub stop_grace_ms: u64,
    /// The image that had this name when it was made.
    #[serde(default)]
    pub base: Option<ImageId>,
    /// The backup whose disks its own begin as, and not as its image.
    #[serde(default)]
    pub restored: Option<Restored>,
    /// The attempt of a task that it lives for.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// The images that other disks than the root begin as, by the disks' names: of a clone.
    #[serde(default)]
    pub bases: Vec<(String, ImageId)>,
    /// The agent for whose attempts it waits, while no attempt has it yet.
    #[serde(default)]
    pub warm: Option<Warm>,
    /// The project that it belongs to. The last field, and absent from what is stored for `default`.
    #[serde(default = "crate::name::default_project", skip_serializing_if = "crate::name::is_default")]
    pub project: ProjectId,
}

impl VmSpec {
    pub const STOP_GRACE_MS_DEFAULT: u64 = 60_000;

    /// Iterates over all images that its disks are made of.
    pub fn images(&self) -> impl Iterator<Item = ImageId> {
        self.base.into_iter().chain(self.bases.iter().map(|(_, image)| *image))
    }

    /// Returns the shape that it has.
    pub fn shape(&self) -> Shape {
        Shape { cpus: self.cpus, memory_bytes: self.memory_bytes, disks: self.disks.clone(), networks: self.networks.clone() }
    }

    /// Returns the same VM in another shape.
    #[must_use]
    pub fn shaped(&self, shape: &Shape) -> Self {
        let Shape { cpus, memory_bytes, disks, networks } = shape.clone();
        Self { cpus, memory_bytes, disks, networks, ..self.clone() }
    }

    /// Tells whether it lives for an attempt, which has it or will have it: whoever it ends for, it is not started again.
    pub const fn is_leased(&self) -> bool {
        self.lease.is_some() || self.warm.is_some()
    }

    /// Returns the same VM once this attempt has it.
    #[must_use]
    pub fn taken(&self, lease: Lease) -> Self {
        Self { lease: Some(lease), warm: None, ..self.clone() }
    }

    /// Iterates over all groups that it is counted in.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.anti_affinity.iter().chain(&self.affinity).map(String::as_str)
    }
}

/// The backup that a VM's disks begin as.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Restored {
    /// The path on the node that holds its host, or in an object store.
    pub path: String,
    pub disks: Vec<DiskCopy>,
    /// Whether it lives for one drill.
    pub drill: bool,
    /// The backups beside it that it is a difference to, the full one first.
    #[serde(default)]
    pub under: Vec<Layer>,
}

/// One backup of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    pub disks: Vec<DiskCopy>,
}
