//! Hosts, images, networks and VMs as a file for `hiveward apply` has them.

use serde::{Deserialize, Serialize};

use super::{super::args, file::LabelItem};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HostItem {
    name: String,
    uri: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<LabelItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_overcommit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_overcommit: Option<f64>,
    /// The directory on the host for disks and images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_shared: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    underlay: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ImageItem {
    name: String,
    /// A file on the node's machine, or an `http` or `https` URL.
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetworkItem {
    name: String,
    #[serde(serialize_with = "constant")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cidr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
}

fn constant<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&args::constant(text))
}

fn maybe_constant<S: serde::Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().map(args::constant).serialize(serializer)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VmItem {
    /// With `count`, the VMs are named `name-1`, `name-2` and so on.
    name: String,
    #[serde(default, skip_serializing)]
    pub count: Option<u32>,
    image: String,
    cpus: u32,
    /// `2GiB`, or bytes.
    #[serde(rename(serialize = "memoryBytes"))]
    memory: Size,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    disks: Vec<Disk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    networks: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ssh_keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_data: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    anti_affinity: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    affinity: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    host_labels: Vec<LabelItem>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_constant")]
    strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ha: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_grace_ms: Option<u32>,
}

/// The VM that each attempt of an agent gets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MachineItem {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<u32>,
    /// `2GiB`, or bytes.
    #[serde(rename(serialize = "memoryBytes"))]
    memory: Size,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    disks: Vec<Disk>,
    /// On this host, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    networks: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    host_labels: Vec<LabelItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_within_ms: Option<u32>,
    /// How many wait booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    warm: Option<u32>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    name: String,
    #[serde(rename(serialize = "sizeBytes"))]
    size: Size,
}

/// As people write sizes; bytes for the API.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = match self {
            Self::Bytes(bytes) => *bytes,
            Self::Text(text) => args::bytes(text).map_err(serde::ser::Error::custom)?,
        };
        serializer.serialize_u64(bytes)
    }
}
