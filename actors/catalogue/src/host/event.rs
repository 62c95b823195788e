//! Names what happened to the fleet: which hosts and VMs there are, and which VM is on which host. Part of the roster's stream.

use std::sync::Arc;

use hiveward_kernel::{
    id::{HostId, ImageId, NetworkId, VmId},
    lease::Lease,
    operation::Operation,
};
use hiveward_runtime::{id::Key, op::NodeId};
use serde::{Deserialize, Serialize};

use super::{
    image::ImageSpec,
    network::{Card, NetworkSpec},
    reshape::Size,
    spec::{Capacity, HostSpec},
};
use crate::{
    placement::vm::Decision,
    vm::spec::{Shape, VmSpec},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FleetEvent {
    HostAdded {
        spec: Arc<HostSpec>,
        operation: Option<Operation>,
    },
    /// The host's hypervisor answers, and `capacity` is what it has.
    HostReached {
        host: HostId,
        capacity: Capacity,
    },
    HostUnreachable {
        host: HostId,
        why: String,
    },
    /// The host takes no more VMs, and those that run on it are moved away or stopped.
    HostDraining {
        host: HostId,
        operation: Option<Operation>,
    },
    HostDrainCancelled {
        host: HostId,
        operation: Option<Operation>,
    },
    /// Nothing runs on the host any more.
    HostDrained {
        host: HostId,
    },
    HostRemoved {
        host: HostId,
        operation: Option<Operation>,
    },
    /// The VM exists: from here on what it needs is reserved on this host.
    VmAdded {
        spec: Arc<VmSpec>,
        host: HostId,
        decision: Arc<Decision>,
        operation: Option<Operation>,
        /// Its cards on those of its networks that are the cluster's.
        #[serde(default)]
        cards: Vec<Card>,
    },
    /// Nothing of the VM is left, and its reservation is over.
    VmRemoved {
        vm: VmId,
        host: HostId,
    },
    /// Room for the VM is reserved on `to` as well. It belongs to `from` until it is said to have moved.
    VmMoving {
        vm: VmId,
        from: HostId,
        to: HostId,
    },
    /// From here on the VM belongs to `to`, and nothing is reserved for it on `from`.
    VmMoved {
        vm: VmId,
        from: HostId,
        to: HostId,
    },
    /// The VM stays on `from`, and nothing is reserved for it on `to`.
    VmStayed {
        vm: VmId,
        from: HostId,
        to: HostId,
    },
    ImageAdded {
        spec: Arc<ImageSpec>,
        operation: Option<Operation>,
    },
    ImageRemoved {
        image: ImageId,
        operation: Option<Operation>,
    },
    /// The node that the host is a part of is lost. What ran on the host may run still.
    HostLost {
        host: HostId,
        node: NodeId,
        /// Whether the node ends what comes back elsewhere before its lease is over, whatever has become of its process.
        fences: bool,
        why: String,
    },
    /// From here on it is certain that none of the host's VMs that come back runs on it.
    HostOff {
        host: HostId,
        /// The person who gave their word; nobody had to for a node that ends them by itself.
        by: Option<Arc<str>>,
        why: String,
        operation: Option<Operation>,
    },
    /// From here on the VM belongs to `to` in this epoch: whatever there is of it in an older one is ended and never started.
    VmComesBack {
        vm: VmId,
        from: HostId,
        to: HostId,
        epoch: u64,
        decision: Arc<Decision>,
    },
    /// The VM is to come back, and cannot yet.
    VmWaits {
        vm: VmId,
        host: HostId,
        why: Arc<str>,
    },
    /// From here on what this shape of the VM needs is reserved as well.
    VmReshaping {
        vm: VmId,
        host: HostId,
        number: u64,
        shape: Shape,
        /// The cards that it has in this shape.
        #[serde(default)]
        cards: Vec<Card>,
    },
    /// From here on the VM has this shape. Its present run may use as much as is `held`.
    VmReshaped {
        vm: VmId,
        host: HostId,
        number: u64,
        shape: Shape,
        held: Option<Size>,
    },
    /// The VM has the shape that it had before.
    VmKeptShape {
        vm: VmId,
        host: HostId,
        number: u64,
        held: Option<Size>,
    },
    /// Nothing is held for the VM beyond its shape any more.
    VmLetGo {
        vm: VmId,
        host: HostId,
    },
    /// The VM waited for an attempt, and belongs to this one from now on.
    VmTaken {
        vm: VmId,
        host: HostId,
        lease: Lease,
    },
    /// There is a new network; its number is no other network's, ever.
    NetworkAdded {
        spec: Arc<NetworkSpec>,
        number: u32,
        operation: Option<Operation>,
    },
    NetworkRemoved {
        network: NetworkId,
        operation: Option<Operation>,
    },
    /// Somebody brought the VM to another host with the hypervisor's own tool: that host has it from now on.
    VmFound {
        vm: VmId,
        from: HostId,
        to: HostId,
    },
}

impl FleetEvent {
    /// Returns the event's kind, as it is stored in the ledger.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::HostAdded { .. } => "HostAdded",
            Self::HostReached { .. } => "HostReached",
            Self::HostUnreachable { .. } => "HostUnreachable",
            Self::HostDraining { .. } => "HostDraining",
            Self::HostDrainCancelled { .. } => "HostDrainCancelled",
            Self::HostDrained { .. } => "HostDrained",
            Self::HostRemoved { .. } => "HostRemoved",
            Self::VmAdded { .. } => "VmAdded",
            Self::VmRemoved { .. } => "VmRemoved",
            Self::VmMoving { .. } => "VmMoving",
            Self::VmMoved { .. } => "VmMoved",
            Self::VmStayed { .. } => "VmStayed",
            Self::ImageAdded { .. } => "ImageAdded",
            Self::ImageRemoved { .. } => "ImageRemoved",
            Self::HostLost { .. } => "HostLost",
            Self::HostOff { .. } => "HostOff",
            Self::VmComesBack { .. } => "VmComesBack",
            Self::VmWaits { .. } => "VmWaits",
            Self::VmReshaping { .. } => "VmReshaping",
            Self::VmReshaped { .. } => "VmReshaped",
            Self::VmKeptShape { .. } => "VmKeptShape",
            Self::VmLetGo { .. } => "VmLetGo",
            Self::VmTaken { .. } => "VmTaken",
            Self::NetworkAdded { .. } => "NetworkAdded",
            Self::NetworkRemoved { .. } => "NetworkRemoved",
            Self::VmFound { .. } => "VmFound",
        }
    }

    /// Returns the host that the event is about, if it is about one.
    pub fn host(&self) -> Option<HostId> {
        Some(match self {
            Self::HostAdded { spec, .. } => spec.id,
            Self::HostReached { host, .. }
            | Self::HostUnreachable { host, .. }
            | Self::HostDraining { host, .. }
            | Self::HostDrainCancelled { host, .. }
            | Self::HostDrained { host }
            | Self::HostRemoved { host, .. }
            | Self::HostLost { host, .. }
            | Self::HostOff { host, .. }
            | Self::VmWaits { host, .. }
            | Self::VmReshaping { host, .. }
            | Self::VmReshaped { host, .. }
            | Self::VmKeptShape { host, .. }
            | Self::VmLetGo { host, .. }
            | Self::VmTaken { host, .. }
            | Self::VmAdded { host, .. }
            | Self::VmRemoved { host, .. } => *host,
            // Its new host is to hear of it at once; the old one has nobody who could.
            Self::VmComesBack { to, .. } => *to,
            Self::VmMoving { from, .. }
            | Self::VmMoved { from, .. }
            | Self::VmStayed { from, .. }
            | Self::VmFound { from, .. } => *from,
            Self::ImageAdded { .. } | Self::ImageRemoved { .. } | Self::NetworkAdded { .. } | Self::NetworkRemoved { .. } => {
                return None;
            }
        })
    }

    /// Returns the other host that is to hear of the event at once.
    pub const fn other_host(&self) -> Option<HostId> {
        match self {
            // What it gets is to have an actor there.
            Self::VmMoved { to, .. } | Self::VmFound { to, .. } => Some(*to),
            _ => None,
        }
    }

    /// Returns the client's operation that led to the event, and the key that its answer names.
    pub fn operation(&self) -> Option<(&Operation, Key)> {
        let (operation, key) = match self {
            Self::HostAdded { spec, operation } => (operation, spec.id.key()),
            Self::HostDraining { host, operation }
            | Self::HostDrainCancelled { host, operation }
            | Self::HostOff { host, operation, .. }
            | Self::HostRemoved { host, operation } => (operation, host.key()),
            Self::VmAdded { spec, operation, .. } => (operation, spec.id.key()),
            Self::ImageAdded { spec, operation } => (operation, spec.id.key()),
            Self::ImageRemoved { image, operation } => (operation, image.key()),
            Self::NetworkAdded { spec, operation, .. } => (operation, spec.id.key()),
            Self::NetworkRemoved { network, operation } => (operation, network.key()),
            _ => return None,
        };
        Some((operation.as_ref()?, key))
    }

    /// Returns the event's data as clients see it.
    pub fn data(&self) -> serde_json::Value {
        use serde_json::json;
        match self {
            Self::HostAdded { spec, .. } => json!({"host": spec.id.to_string(), "name": spec.name, "uri": spec.uri}),
            Self::HostReached { host, capacity } => json!({
                "host": host.to_string(), "cpus": capacity.cpus, "memoryBytes": capacity.memory_bytes, "version": capacity.version,
            }),
            Self::HostUnreachable { host, why } => json!({"host": host.to_string(), "why": why}),
            Self::HostDraining { host, .. }
            | Self::HostDrainCancelled { host, .. }
            | Self::HostDrained { host }
            | Self::HostRemoved { host, .. } => json!({"host": host.to_string()}),
            Self::VmAdded { spec, host, decision, cards, .. } => json!({
                "vm": spec.id.to_string(), "name": spec.name, "host": host.to_string(), "strategy": decision.strategy,
                "eligible": decision.eligible, "addresses": addresses(cards),
            }),
            Self::VmRemoved { vm, host } => json!({"vm": vm.to_string(), "host": host.to_string()}),
            Self::VmMoving { vm, from, to }
            | Self::VmMoved { vm, from, to }
            | Self::VmStayed { vm, from, to }
            | Self::VmFound { vm, from, to } => {
                json!({"vm": vm.to_string(), "host": from.to_string(), "to": to.to_string()})
            }
            Self::ImageAdded { spec, .. } => {
                json!({"image": spec.id.to_string(), "name": spec.name, "hash": spec.hash, "bytes": spec.bytes})
            }
            Self::ImageRemoved { image, .. } => json!({"image": image.to_string()}),
            Self::HostLost { host, node, fences, why } => {
                json!({"host": host.to_string(), "node": node.to_string(), "fences": fences, "why": why})
            }
            Self::HostOff { host, by, why, .. } => json!({"host": host.to_string(), "by": by, "why": why}),
            Self::VmComesBack { vm, from, to, epoch, decision } => json!({
                "vm": vm.to_string(), "host": from.to_string(), "to": to.to_string(), "epoch": epoch,
                "strategy": decision.strategy, "eligible": decision.eligible,
            }),
            Self::VmWaits { vm, host, why } => json!({"vm": vm.to_string(), "host": host.to_string(), "why": why}),
            Self::VmReshaping { vm, host, shape, cards, .. } => json!({
                "vm": vm.to_string(), "host": host.to_string(), "cpus": shape.cpus, "memoryBytes": shape.memory_bytes,
                "disks": shape.disks.iter().map(|disk| &disk.name).collect::<Vec<_>>(), "networks": shape.networks,
                "addresses": addresses(cards),
            }),
            Self::NetworkAdded { spec, number, .. } => json!({
                "network": spec.id.to_string(), "name": spec.name, "kind": spec.kind.name(), "number": number,
                "cidr": spec.kind.cidr().map(String::from),
            }),
            Self::NetworkRemoved { network, .. } => json!({"network": network.to_string()}),
            Self::VmReshaped { vm, host, shape, .. } => json!({
                "vm": vm.to_string(), "host": host.to_string(), "cpus": shape.cpus, "memoryBytes": shape.memory_bytes,
                "disks": shape.disks.iter().map(|disk| &disk.name).collect::<Vec<_>>(), "networks": shape.networks,
            }),
            Self::VmTaken { vm, host, lease } => json!({
                "vm": vm.to_string(), "host": host.to_string(), "task": lease.task.to_string(), "attempt": lease.attempt,
                "agent": lease.agent.to_string(),
            }),
            Self::VmKeptShape { vm, host, .. } | Self::VmLetGo { vm, host } => {
                json!({"vm": vm.to_string(), "host": host.to_string()})
            }
        }
    }
}

fn addresses(cards: &[Card]) -> Vec<String> {
    cards.iter().filter_map(|card| Some(card.address?.to_string())).collect()
}

/// A change of the fleet that the roster is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FleetChange {
    AddHost {
        spec: Arc<HostSpec>,
    },
    /// Removes a host. Refused while it has VMs; with `force` they are forgotten with it, whatever runs there.
    RemoveHost {
        host: HostId,
        force: bool,
    },
    DrainHost {
        host: HostId,
    },
    CancelDrain {
        host: HostId,
    },
    /// Takes a person's word that nothing runs on a host: what is to come back comes back. `confirm` is the host's name.
    DeclareLost {
        host: HostId,
        confirm: String,
        by: Arc<str>,
    },
    /// Adds a VM, on this host or on the best one.
    AddVm {
        spec: Arc<VmSpec>,
        on: Option<HostId>,
    },

    /// Adds an image whose bytes are kept already.
    AddImage {
        spec: Arc<ImageSpec>,
    },
    /// Removes an image. Refused while a VM is made of it.
    RemoveImage {
        image: ImageId,
    },

    // From a host's actor, in the placement that it lives in.
    Reached {
        host: HostId,
        placement: u64,
        capacity: Capacity,
    },
    Unreachable {
        host: HostId,
        placement: u64,
        why: String,
    },
    Drained {
        host: HostId,
        placement: u64,
    },
    /// Says, from a VM's actor, that nothing of the VM is left.
    RemoveVm {
        vm: VmId,
    },
    /// Asks, from a VM's actor on `from`, for room on `to`, or on the best host.
    BeginMove {
        vm: VmId,
        from: HostId,
        to: Option<HostId>,
    },
    /// Says, from a VM's actor on `from`, where the VM is now.
    EndMove {
        vm: VmId,
        from: HostId,
        moved: bool,
    },
    /// Asks, from a VM's actor on `host`, for room for this shape, before anything is done about it.
    BeginReshape {
        vm: VmId,
        host: HostId,
        number: u64,
        shape: Shape,
    },
    /// Says, from a VM's actor on `host`, that the VM has that shape, or the one it had.
    EndReshape {
        vm: VmId,
        host: HostId,
        number: u64,
        reshaped: bool,
        held: Option<Size>,
    },
    /// Asks, from the actor of the VM `of`, for a clone on this host, or on the best one of the same kind, with what its disks
    /// begin as.
    CloneVm {
        spec: Arc<VmSpec>,
        images: Vec<Arc<ImageSpec>>,
        of: VmId,
        on: Option<HostId>,
    },
    /// Says, from a VM's actor, that its present run no longer uses what was held since this operation.
    LetGo {
        vm: VmId,
        number: u64,
    },
    /// Asks, from an attempt's node, that this VM, which waits, be the attempt's. Refused if another has it, or the attempt
    /// another.
    TakeVm {
        vm: VmId,
        lease: Lease,
    },
    AddNetwork {
        spec: Arc<NetworkSpec>,
    },
    /// Removes a network. Refused while a VM is on it.
    RemoveNetwork {
        network: NetworkId,
    },
    /// Says, from a VM's actor on `from`, where the VM is no more, that `to` has it, and nobody of the cluster brought it there.
    FoundVm {
        vm: VmId,
        from: HostId,
        to: HostId,
    },
}

impl FleetChange {
    /// Returns the key that an answer to this change names.
    pub fn key(&self) -> Key {
        match self {
            Self::AddHost { spec } => spec.id.key(),
            Self::RemoveHost { host, .. }
            | Self::DrainHost { host }
            | Self::CancelDrain { host }
            | Self::DeclareLost { host, .. }
            | Self::Reached { host, .. }
            | Self::Unreachable { host, .. }
            | Self::Drained { host, .. } => host.key(),
            Self::AddVm { spec, .. } | Self::CloneVm { spec, .. } => spec.id.key(),
            Self::AddImage { spec } => spec.id.key(),
            Self::RemoveImage { image } => image.key(),
            Self::AddNetwork { spec } => spec.id.key(),
            Self::RemoveNetwork { network } => network.key(),
            Self::RemoveVm { vm }
            | Self::TakeVm { vm, .. }
            | Self::BeginMove { vm, .. }
            | Self::EndMove { vm, .. }
            | Self::BeginReshape { vm, .. }
            | Self::EndReshape { vm, .. }
            | Self::FoundVm { vm, .. }
            | Self::LetGo { vm, .. } => vm.key(),
        }
    }
}

/// Returns the only node that may open a host's connection: the one it is pinned to, or, for a local hypervisor, its home.
pub fn pinned(spec: &HostSpec, home: Option<NodeId>) -> Option<NodeId> {
    let local = super::spec::HostUri::parse(&spec.uri).is_ok_and(|uri| uri.is_local());
    spec.node.or(home.filter(|_| local))
}
