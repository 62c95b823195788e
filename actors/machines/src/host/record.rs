//! A host as the gateway shows it.

use std::sync::Arc;

use hiveward_catalogue::host::{
    fleet::{Drain, HostEntry},
    spec::{Capacity, HostSpec},
};
use hiveward_runtime::{clock::WallMs, op::NodeId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostStatus {
    /// The host was not reached yet.
    Connecting,
    Up,
    Draining,
    Drained,
    /// The host's hypervisor does not answer.
    Unreachable,
    /// No node holds the host's connection.
    Lost,
}

#[derive(Clone, Debug)]
pub struct HostRecord {
    pub spec: Arc<HostSpec>,
    pub status: HostStatus,
    pub why: Option<String>,
    pub node: Option<NodeId>,
    pub capacity: Option<Capacity>,
    pub vms: u32,
    /// CPUs that its VMs may use, by what they were made with.
    pub reserved_cpus: u32,
    pub reserved_memory_bytes: u64,
    /// CPUs that may be reserved, with overcommit.
    pub reservable_cpus: f64,
    pub reservable_memory_bytes: u64,
    pub added_at: WallMs,
}

impl From<&HostEntry> for HostRecord {
    fn from(entry: &HostEntry) -> Self {
        let total = entry.total();
        let bytes = |mib: i32| u64::try_from(mib).unwrap_or(0) << 20;
        Self {
            spec: entry.spec.clone(),
            status: HostStatus::of(entry),
            why: entry
                .lost
                .as_ref()
                .map(|lost| lost.why.clone())
                .or_else(|| entry.unreachable.clone())
                .or_else(|| entry.place.node.is_none().then(|| entry.place.why.to_string())),
            node: entry.place.node,
            capacity: entry.capacity.clone(),
            vms: u32::try_from(entry.vms.len()).unwrap_or(u32::MAX),
            reserved_cpus: u32::try_from(entry.used.cpu_milli / 1000).unwrap_or(0),
            reserved_memory_bytes: bytes(entry.used.memory_mib),
            reservable_cpus: f64::from(total.cpu_milli) / 1e3,
            reservable_memory_bytes: bytes(total.memory_mib),
            added_at: entry.added_at,
        }
    }
}

impl HostStatus {
    /// Tells how a host is, by its entry.
    pub fn of(entry: &HostEntry) -> Self {
        match (&entry.unreachable, entry.drain) {
            _ if entry.place.node.is_none() || entry.lost.is_some() => HostStatus::Lost,
            (Some(_), _) => HostStatus::Unreachable,
            (None, Some(Drain::Draining)) => HostStatus::Draining,
            (None, Some(Drain::Drained)) => HostStatus::Drained,
            (None, None) if entry.capacity.is_none() => HostStatus::Connecting,
            (None, None) => HostStatus::Up,
        }
    }
}
