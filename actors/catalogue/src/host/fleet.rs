//! Hosts and VMs, folded from the roster's stream. Pure. A reservation is a VM's entry and nothing else: it cannot leak.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hiveward_kernel::{
    entity::Place,
    id::{AgentId, HostId, ImageId, VmId},
    lease::Lease,
};
use hiveward_runtime::{clock::WallMs, op::NodeId};
use serde::{Deserialize, Serialize};

use super::{
    event::FleetEvent,
    image::ImageSpec,
    network::{Card, Networks},
    reshape::Size,
    spec::{Capacity, HostSpec},
};
use crate::name::in_project;
use crate::{
    placement::vm::{HostFacts, Hosts, Need, Reject},
    vm::spec::{Shape, VmSpec},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Drain {
    Draining,
    Drained,
}

/// The facts about a host whose node is lost, or that somebody said is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub why: String,
    /// Whether its node ends by itself what comes back elsewhere.
    pub fences: bool,
    /// Whether it is certain that nothing that comes back runs on it.
    pub off: bool,
    pub since: WallMs,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostEntry {
    pub spec: Arc<HostSpec>,
    pub place: Place,
    /// The first node it was placed on: a local hypervisor is nowhere else.
    pub home: Option<NodeId>,
    pub capacity: Option<Capacity>,
    /// The reason why it cannot be reached, if it cannot.
    pub unreachable: Option<String>,
    pub drain: Option<Drain>,
    /// The facts of its loss, until it is placed on a node again, or reached.
    pub lost: Option<Lost>,
    pub vms: BTreeSet<VmId>,
    pub used: Need,
    pub added_at: WallMs,
}

impl HostEntry {
    /// Returns what may be promised of it, overcommit counted in.
    pub fn total(&self) -> Need {
        let Some(capacity) = &self.capacity else { return Need::default() };
        let over = |value: u64, milli: u32| i32::try_from(value * u64::from(milli) / 1000).unwrap_or(i32::MAX);
        Need {
            cpu_milli: over(u64::from(capacity.cpus) * 1000, self.spec.cpu_overcommit_milli),
            memory_mib: over(capacity.memory_bytes >> 20, self.spec.memory_overcommit_milli),
        }
    }

    /// Returns why it takes no VM; `None` if it does.
    pub fn closed(&self) -> Option<Reject> {
        if self.drain.is_some() {
            Some(Reject::Draining)
        } else if self.unreachable.is_some() || self.lost.is_some() || self.place.node.is_none() {
            Some(Reject::Unreachable)
        } else if self.capacity.is_none() {
            Some(Reject::Unknown)
        } else {
            None
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmEntry {
    pub spec: Arc<VmSpec>,
    pub host: HostId,
    /// The host that it is being brought to, where room is reserved for it as well.
    pub moving: Option<HostId>,
    /// The number that grows whenever it comes back elsewhere.
    pub epoch: u64,
    /// The reason why it has not come back yet, if it is to.
    pub waits: Option<Arc<str>>,
    pub added_at: WallMs,
    /// The time when its attempt got it; as old as itself if it was made for one, or for none.
    pub leased_at: WallMs,
    /// The time when it came to its host from another.
    pub moved_at: Option<WallMs>,
    /// The number of the operation that gives it a new shape, and that shape, which is reserved as well.
    pub reshaping: Option<(u64, Shape)>,
    /// The number of the last operation that gave it its shape.
    pub shaped: u64,
    /// The operation since which its present run may use more than its shape, until it is started again, and how much.
    pub held: Option<(u64, Size)>,
    /// Its cards on those of its networks that are the cluster's.
    pub cards: Vec<Card>,
    /// Its cards in the shape that it is being given.
    pub cards_then: Vec<Card>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageEntry {
    pub spec: Arc<ImageSpec>,
    /// The number of VMs that are made of it.
    pub vms: u32,
    pub added_at: WallMs,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Fleet {
    pub hosts: BTreeMap<HostId, HostEntry>,
    pub vms: HashMap<VmId, VmEntry>,
    pub images: BTreeMap<ImageId, ImageEntry>,
    pub networks: Networks,
    pub(super) image_names: HashMap<String, ImageId>,
    pub(super) host_names: HashMap<String, HostId>,
    pub(super) vm_names: HashMap<String, VmId>,
    /// The VM of each attempt that has one.
    leases: HashMap<Lease, VmId>,
    /// VMs that wait for attempts of an agent, the oldest first.
    warm: HashMap<AgentId, BTreeSet<VmId>>,
    /// The number of VMs of each group on each host.
    groups: HashMap<String, BTreeMap<HostId, u32>>,
}

pub fn need(spec: &VmSpec) -> Need {
    Need::of(spec.cpus, spec.memory_bytes)
}

impl Fleet {
    /// Returns the VM that this attempt has.
    pub fn leased(&self, lease: Lease) -> Option<VmId> {
        self.leases.get(&lease).copied()
    }

    /// Iterates over the VMs that wait for attempts of an agent, the oldest first.
    pub fn warm_of(&self, agent: AgentId) -> impl Iterator<Item = &VmEntry> {
        self.warm.get(&agent).into_iter().flatten().filter_map(|vm| self.vms.get(vm))
    }

    /// Returns the hosts as placement sees them.
    pub fn columns(&self) -> Hosts {
        self.columns_but(None)
    }

    /// Returns the hosts as placement sees them when it may take any but this one.
    pub fn columns_without(&self, host: HostId) -> Hosts {
        self.columns_but(Some(host))
    }

    fn columns_but(&self, closed: Option<HostId>) -> Hosts {
        let mut hosts = Hosts::default();
        for (host, entry) in &self.hosts {
            hosts.push(HostFacts {
                host: *host,
                closed: if closed == Some(*host) { Some(Reject::Own) } else { entry.closed() },
                total: entry.total(),
                used: entry.used,
                zone: entry.spec.zone.clone(),
                labels: entry.spec.labels.clone(),
                disks: entry.spec.disks_of(),
                overlays: entry.spec.underlay.is_some(),
            });
        }
        for (group, on) in &self.groups {
            for (host, count) in on {
                hosts.count(group, *host, *count);
            }
        }
        hosts
    }

    fn group(&mut self, host: HostId, spec: &VmSpec, sign: i32) {
        for group in spec.groups() {
            let on = self.groups.entry(group.to_owned()).or_default();
            let count = on.entry(host).or_default();
            *count = count.saturating_add_signed(sign);
            on.retain(|_, count| *count > 0);
            if on.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    pub fn reserve(&mut self, host: HostId, of: Need, sign: i32) {
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.used.cpu_milli = entry.used.cpu_milli.saturating_add(sign.saturating_mul(of.cpu_milli));
            entry.used.memory_mib = entry.used.memory_mib.saturating_add(sign.saturating_mul(of.memory_mib));
        }
    }

    fn use_image(&mut self, spec: &VmSpec, sign: i32) {
        for image in spec.images() {
            if let Some(entry) = self.images.get_mut(&image) {
                entry.vms = entry.vms.saturating_add_signed(sign);
            }
        }
    }

    fn let_wait(&mut self, spec: &VmSpec, waits: bool) {
        let Some(warm) = spec.warm else { return };
        let of = self.warm.entry(warm.agent).or_default();
        if waits {
            of.insert(spec.id);
        } else {
            of.remove(&spec.id);
        }
        if of.is_empty() {
            self.warm.remove(&warm.agent);
        }
    }

    fn forget(&mut self, vm: VmId) {
        if let Some(entry) = self.vms.remove(&vm) {
            self.vm_names.remove(&*in_project(entry.spec.project, &entry.spec.name));
            if let Some(lease) = entry.spec.lease {
                self.leases.remove(&lease);
            }
            self.let_wait(&entry.spec, false);
            self.use_image(&entry.spec, -1);
            for image in entry.spec.images() {
                if self.images.get(&image).is_some_and(|image| image.spec.only_for == Some(vm)) {
                    self.images.remove(&image);
                }
            }
            self.reserve(entry.host, entry.need(), -1);
            self.group(entry.host, &entry.spec, -1);
            if let Some(to) = entry.moving {
                self.reserve(to, entry.need(), -1);
                self.group(to, &entry.spec, -1);
            }
            if let Some(host) = self.hosts.get_mut(&entry.host) {
                host.vms.remove(&vm);
            }
        }
    }

    /// Makes an event part of the state.
    pub fn apply(&mut self, event: &FleetEvent, at: WallMs) {
        let touched = self.touched(event);
        self.enter(&touched, false);
        self.change(event, at);
        self.enter(&touched, true);
    }

    /// Returns the VMs whose cards or whose place the event changes.
    fn touched(&self, event: &FleetEvent) -> Vec<VmId> {
        match event {
            FleetEvent::VmAdded { spec, cards, .. } if !cards.is_empty() => vec![spec.id],
            FleetEvent::HostRemoved { host, .. } => {
                self.hosts.get(host).map(|entry| entry.vms.iter().copied().collect()).unwrap_or_default()
            }
            FleetEvent::VmRemoved { vm, .. }
            | FleetEvent::VmMoving { vm, .. }
            | FleetEvent::VmMoved { vm, .. }
            | FleetEvent::VmFound { vm, .. }
            | FleetEvent::VmStayed { vm, .. }
            | FleetEvent::VmComesBack { vm, .. }
            | FleetEvent::VmReshaping { vm, .. }
            | FleetEvent::VmReshaped { vm, .. }
            | FleetEvent::VmKeptShape { vm, .. } => vec![*vm],
            _ => Vec::new(),
        }
    }

    fn enter(&mut self, vms: &[VmId], there: bool) {
        for vm in vms {
            if let Some(entry) = self.vms.get(vm) {
                self.networks.enter(*vm, entry, there);
            }
        }
    }

    fn change(&mut self, event: &FleetEvent, at: WallMs) {
        match event {
            FleetEvent::HostAdded { spec, .. } => {
                self.host_names.insert(spec.name.clone(), spec.id);
                let entry = HostEntry {
                    spec: spec.clone(),
                    place: Place::default(),
                    home: None,
                    capacity: None,
                    unreachable: None,
                    drain: None,
                    lost: None,
                    vms: BTreeSet::new(),
                    used: Need::default(),
                    added_at: at,
                };
                self.hosts.insert(spec.id, entry);
            }
            FleetEvent::HostReached { host, capacity } => {
                if let Some(entry) = self.hosts.get_mut(host) {
                    (entry.capacity, entry.unreachable) = (Some(capacity.clone()), None);
                    self.found(*host);
                }
            }
            FleetEvent::HostUnreachable { host, why } => {
                if let Some(entry) = self.hosts.get_mut(host) {
                    entry.unreachable = Some(why.clone());
                }
            }
            FleetEvent::HostDraining { host, .. } => self.set_drain(*host, Some(Drain::Draining)),
            FleetEvent::HostDrainCancelled { host, .. } => self.set_drain(*host, None),
            FleetEvent::HostDrained { host } => self.set_drain(*host, Some(Drain::Drained)),
            FleetEvent::HostRemoved { host, .. } => {
                let vms = self.hosts.get(host).map(|entry| entry.vms.clone()).unwrap_or_default();
                for vm in vms {
                    self.forget(vm);
                }
                if let Some(entry) = self.hosts.remove(host) {
                    self.host_names.remove(&entry.spec.name);
                }
            }
            FleetEvent::VmAdded { spec, host, cards, .. } => {
                self.networks.given(cards);
                self.vm_names.insert(in_project(spec.project, &spec.name).into_owned(), spec.id);
                if let Some(lease) = spec.lease {
                    self.leases.insert(lease, spec.id);
                }
                self.let_wait(spec, true);
                self.use_image(spec, 1);
                self.reserve(*host, need(spec), 1);
                self.group(*host, spec, 1);
                if let Some(entry) = self.hosts.get_mut(host) {
                    entry.vms.insert(spec.id);
                }
                self.vms.insert(
                    spec.id,
                    VmEntry {
                        spec: spec.clone(),
                        host: *host,
                        moving: None,
                        epoch: 0,
                        waits: None,
                        added_at: at,
                        leased_at: at,
                        moved_at: None,
                        reshaping: None,
                        shaped: 0,
                        held: None,
                        cards: cards.clone(),
                        cards_then: Vec::new(),
                    },
                );
            }
            FleetEvent::VmRemoved { vm, .. } => {
                self.forget(*vm);
            }
            FleetEvent::VmMoving { vm, to, .. } => {
                if let Some(entry) = self.vms.get_mut(vm) {
                    entry.moving = Some(*to);
                    let (spec, need) = (entry.spec.clone(), entry.need());
                    self.reserve(*to, need, 1);
                    self.group(*to, &spec, 1);
                }
            }
            FleetEvent::VmMoved { vm, from, to } => self.hand_over(*vm, *from, *to, at),
            FleetEvent::VmFound { vm, from, to } => {
                let Some((spec, need)) = self.vms.get(vm).map(|entry| (entry.spec.clone(), entry.need())) else { return };
                // Whether or not there is room: it is there.
                self.reserve(*to, need, 1);
                self.group(*to, &spec, 1);
                self.hand_over(*vm, *from, *to, at);
            }
            FleetEvent::VmComesBack { vm, from, to, epoch, .. } => {
                // Nothing of it runs any more: it begins in the shape that it has.
                self.reshape(*vm, |entry| {
                    (entry.reshaping, entry.held) = (None, None);
                    entry.cards_then.clear();
                });
                let moving = self.vms.get_mut(vm).and_then(|entry| {
                    (entry.epoch, entry.waits) = (*epoch, None);
                    entry.moving.take()
                });
                // What it had on the way there goes with it.
                if let (Some(moving), Some(spec)) = (moving, self.vms.get(vm).map(|entry| entry.spec.clone())) {
                    self.reserve(moving, need(&spec), -1);
                    self.group(moving, &spec, -1);
                }
                if let Some(spec) = self.vms.get(vm).map(|entry| entry.spec.clone()) {
                    self.reserve(*to, need(&spec), 1);
                    self.group(*to, &spec, 1);
                    self.hand_over(*vm, *from, *to, at);
                }
            }
            FleetEvent::VmWaits { vm, why, .. } => {
                if let Some(entry) = self.vms.get_mut(vm) {
                    entry.waits = Some(why.clone());
                }
            }
            FleetEvent::HostLost { host, fences, why, .. } => {
                if let Some(entry) = self.hosts.get_mut(host) {
                    entry.lost = Some(Lost { why: why.clone(), fences: *fences, off: false, since: at });
                }
            }
            FleetEvent::HostOff { host, why, .. } => {
                if let Some(entry) = self.hosts.get_mut(host) {
                    let fences = entry.lost.as_ref().is_some_and(|lost| lost.fences);
                    entry.lost = Some(Lost { why: why.clone(), fences, off: true, since: at });
                }
            }
            FleetEvent::VmStayed { vm, to, .. } => {
                if let Some(entry) = self.vms.get_mut(vm) {
                    entry.moving = None;
                    let (spec, need) = (entry.spec.clone(), entry.need());
                    self.reserve(*to, need, -1);
                    self.group(*to, &spec, -1);
                }
            }
            FleetEvent::VmReshaping { vm, number, shape, cards, .. } => {
                self.networks.given(cards);
                self.reshape(*vm, |entry| {
                    (entry.reshaping, entry.cards_then) = (Some((*number, shape.clone())), cards.clone());
                });
            }
            FleetEvent::VmReshaped { vm, number, shape, held, .. } => self.reshape(*vm, |entry| {
                entry.spec = Arc::new(entry.spec.shaped(shape));
                (entry.reshaping, entry.shaped, entry.held) = (None, *number, held.map(|held| (*number, held)));
                entry.cards = std::mem::take(&mut entry.cards_then);
            }),
            FleetEvent::VmKeptShape { vm, number, held, .. } => self.reshape(*vm, |entry| {
                (entry.reshaping, entry.held) = (None, held.map(|held| (*number, held)));
                entry.cards_then.clear();
            }),
            FleetEvent::VmTaken { vm, lease, .. } => {
                let Some(spec) = self.vms.get(vm).map(|entry| entry.spec.clone()) else { return };
                self.let_wait(&spec, false);
                self.leases.insert(*lease, *vm);
                if let Some(entry) = self.vms.get_mut(vm) {
                    (entry.spec, entry.leased_at) = (Arc::new(spec.taken(*lease)), at);
                }
            }
            FleetEvent::VmLetGo { vm, .. } => self.reshape(*vm, |entry| entry.held = None),
            FleetEvent::NetworkAdded { spec, number, .. } => self.networks.add(spec, *number, at),
            FleetEvent::NetworkRemoved { network, .. } => self.networks.remove(*network),
            FleetEvent::ImageAdded { spec, .. } => {
                if spec.only_for.is_none() {
                    self.image_names.insert(in_project(spec.project, &spec.name).into_owned(), spec.id);
                }
                self.images.insert(spec.id, ImageEntry { spec: spec.clone(), vms: 0, added_at: at });
            }
            FleetEvent::ImageRemoved { image, .. } => {
                if let Some(entry) = self.images.remove(image) {
                    self.image_names.remove(&*in_project(entry.spec.project, &entry.spec.name));
                }
            }
        }
    }

    /// Makes the VM belong to `to`, where room for it is reserved.
    fn hand_over(&mut self, vm: VmId, from: HostId, to: HostId, at: WallMs) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        (entry.host, entry.moving, entry.moved_at) = (to, None, Some(at));
        let (spec, need) = (entry.spec.clone(), entry.need());
        self.reserve(from, need, -1);
        self.group(from, &spec, -1);
        if let Some(host) = self.hosts.get_mut(&from) {
            host.vms.remove(&vm);
        }
        if let Some(host) = self.hosts.get_mut(&to) {
            host.vms.insert(vm);
        }
    }

    /// Marks a host as being there again: what still belongs to it goes on there.
    pub fn found(&mut self, host: HostId) {
        let Some(entry) = self.hosts.get_mut(&host).filter(|entry| entry.lost.is_some()) else { return };
        entry.lost = None;
        for vm in entry.vms.clone() {
            if let Some(vm) = self.vms.get_mut(&vm) {
                vm.waits = None;
            }
        }
    }

    fn set_drain(&mut self, host: HostId, drain: Option<Drain>) {
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.drain = drain;
        }
    }
}
