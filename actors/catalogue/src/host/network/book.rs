//! Decides which networks there are, and what of them is given to whom: numbers, cards and addresses. Pure.
//!
//! A number is given to one network and never to another, so that nothing which is left of one on a wire is taken for the next. A
//! card's address is its VM's for as long as the VM is on the network, wherever it runs: the VM's entry is the reservation, as it
//! is for memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use hiveward_kernel::{
    id::{HostId, NetworkId, ProjectId, VmId},
    operation::Operation,
};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};
use serde::{Deserialize, Serialize};

use super::spec::{NetworkSpec, is_reserved};
use crate::host::{
    event::FleetEvent,
    fleet::{Fleet, VmEntry},
};
use crate::name::in_project;

/// The most networks of the whole cluster.
pub const NETWORKS_MAX: usize = 4_096;
/// The first number that is given out: those below are what people give by hand.
pub const NUMBER_FIRST: u32 = 4_097;
/// The last number: a VXLAN's has 24 bits.
pub const NUMBER_LAST: u32 = (1 << 24) - 1;

/// A VM's place on a network of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    pub network: NetworkId,
    pub mac: String,
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Whether it is a network between hosts.
    #[serde(default)]
    pub overlay: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkEntry {
    pub spec: Arc<NetworkSpec>,
    /// The number of the network; of an overlay it is the VNI.
    pub number: u32,
    pub added_at: WallMs,
    /// The VMs that are on it, or are being put on it, with their cards.
    pub vms: BTreeMap<VmId, Card>,
    /// The hosts that those VMs are on or on their way to, and how many.
    pub carriers: BTreeMap<HostId, u32>,
    addresses: BTreeMap<Ipv4Addr, VmId>,
    /// The address that was given out last: the next is after it, so that what was given back rests.
    last: Option<Ipv4Addr>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Networks {
    pub all: BTreeMap<NetworkId, NetworkEntry>,
    names: HashMap<String, NetworkId>,
    macs: HashMap<String, VmId>,
    /// The number that was given out last.
    last: Option<u32>,
}

impl Networks {
    /// Returns the network with this name in a project.
    pub fn named(&self, project: ProjectId, name: &str) -> Option<NetworkId> {
        self.names.get(&*in_project(project, name)).copied()
    }

    /// Returns a VM's card on the network that its project calls this, with the network.
    pub fn card<'a>(&'a self, project: ProjectId, vm: VmId, name: &str) -> Option<(&'a NetworkEntry, &'a Card)> {
        let entry = self.all.get(&self.named(project, name)?)?;
        Some((entry, entry.vms.get(&vm)?))
    }

    /// Adds a network that got this number.
    pub fn add(&mut self, spec: &Arc<NetworkSpec>, number: u32, at: WallMs) {
        self.names.insert(in_project(spec.project, &spec.name).into_owned(), spec.id);
        self.last = self.last.max(Some(number));
        let entry = NetworkEntry {
            spec: spec.clone(),
            number,
            added_at: at,
            vms: BTreeMap::new(),
            carriers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            last: None,
        };
        self.all.insert(spec.id, entry);
    }

    /// Removes a network. Repeating it changes nothing.
    pub fn remove(&mut self, network: NetworkId) {
        if let Some(entry) = self.all.remove(&network) {
            self.names.remove(&*in_project(entry.spec.project, &entry.spec.name));
        }
    }

    /// Returns the hosts that carry a network between hosts together with one of these.
    pub fn beside(&self, hosts: &HashSet<HostId>) -> HashSet<HostId> {
        let carried =
            |entry: &&NetworkEntry| entry.spec.kind.is_overlay() && hosts.iter().any(|host| entry.carriers.contains_key(host));
        self.all.values().filter(carried).flat_map(|entry| entry.carriers.keys().copied()).collect()
    }

    /// Notes the addresses of new cards as given out, so that the next address of each network is after them.
    pub fn given(&mut self, cards: &[Card]) {
        for card in cards {
            if let Some(network) = self.all.get_mut(&card.network)
                && let Some(address) = card.address
                && !network.addresses.contains_key(&address)
            {
                network.last = Some(address);
            }
        }
    }

    /// Enters what a VM has and where it is, or with `false` strikes it out again.
    pub fn enter(&mut self, vm: VmId, entry: &VmEntry, there: bool) {
        for card in entry.all_cards() {
            let Some(network) = self.all.get_mut(&card.network) else { continue };
            if there {
                network.vms.insert(vm, card.clone());
                self.macs.insert(card.mac.clone(), vm);
            } else {
                network.vms.remove(&vm);
                self.macs.remove(&card.mac);
            }
            if let Some(address) = card.address {
                if there {
                    network.addresses.insert(address, vm);
                } else {
                    network.addresses.remove(&address);
                }
            }
            for host in [Some(entry.host), entry.moving].into_iter().flatten() {
                let count = network.carriers.entry(host).or_default();
                *count = count.saturating_add_signed(if there { 1 } else { -1 });
                network.carriers.retain(|_, count| *count > 0);
            }
        }
    }

    /// Returns a card's address on the wire: the same for the same VM and network, unless another has it by chance.
    fn mac(&self, vm: VmId, network: NetworkId) -> String {
        let seed = (vm.as_u128().to_be_bytes(), network.as_u128().to_be_bytes());
        let of = |turn: u32| {
            let mut hash = blake3::Hasher::new();
            hash.update(&seed.0).update(&seed.1).update(&turn.to_be_bytes());
            let [a, b, c, d, e, ..] = *hash.finalize().as_bytes();
            // For one's own use, and of one card.
            format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
        };
        (0..).map(of).find(|mac| !self.macs.contains_key(mac)).unwrap_or_default()
    }
}

impl NetworkEntry {
    fn free_address(&self) -> Result<Option<Ipv4Addr>, Refused> {
        let Some(range) = self.spec.kind.cidr().filter(|_| self.spec.kind.is_overlay()) else { return Ok(None) };
        let (first, last) = (range.first().to_bits(), range.last().to_bits());
        let from = self.last.map_or(first, |last| last.to_bits() + 1).clamp(first, last + 1);
        let all = (from..=last).chain(first..from).map(Ipv4Addr::from_bits);
        let free = all.take(self.addresses.len() + 1).find(|address| !self.addresses.contains_key(address));
        free.map(Some).ok_or_else(|| {
            let message = format!("all addresses of network {} ({range}) are given out; nothing was changed", self.spec.name);
            Refused { field: Some("networks".into()), ..Refused::new(Code::Limit, message) }
        })
    }
}

impl VmEntry {
    /// Iterates over the VM's cards, also those that it is being given.
    pub fn all_cards(&self) -> impl Iterator<Item = &Card> {
        let more = self.cards_then.iter().filter(|card| !self.cards.contains(card));
        self.cards.iter().chain(more)
    }

    /// Tells whether it goes only where networks between hosts can be.
    pub fn needs_overlay(&self) -> bool {
        self.all_cards().any(|card| card.overlay)
    }
}

/// Decides whether a network is added, and gives it a number.
/// Errors: its name is taken, its range overlaps with that of another, or there are too many.
pub fn add(fleet: &Fleet, spec: &Arc<NetworkSpec>, operation: Option<Operation>) -> Result<Vec<FleetEvent>, Refused> {
    let networks = &fleet.networks;
    let conflict = |field: &str, message: String| Refused { code: Code::Conflict, message, field: Some(field.into()) };
    if networks.named(spec.project, &spec.name).is_some() {
        return Err(conflict("name", format!("there is a network named {:?} already", spec.name)));
    }
    if networks.all.len() >= NETWORKS_MAX {
        return Err(Refused::new(Code::Limit, format!("there are {NETWORKS_MAX} networks; remove one first")));
    }
    // Two that hosts route: a packet to an address of both would go to either.
    if let super::Kind::Nat { cidr } = &spec.kind {
        let overlaps =
            |other: &&NetworkEntry| matches!(&other.spec.kind, super::Kind::Nat { cidr: theirs } if theirs.overlaps(*cidr));
        if let Some(other) = networks.all.values().find(overlaps) {
            // What another project calls its network is its own affair.
            let whose = if other.spec.project == spec.project {
                format!("network {}", other.spec.name)
            } else {
                "another network".into()
            };
            return Err(conflict("cidr", format!("{cidr} overlaps with that of {whose}")));
        }
    }
    let number = networks.last.map_or(NUMBER_FIRST, |last| last + 1);
    if number > NUMBER_LAST {
        let message = "every number of a network was given out once, and none is given out twice";
        return Err(Refused::new(Code::Limit, message));
    }
    Ok(vec![FleetEvent::NetworkAdded { spec: spec.clone(), number, operation }])
}

/// Decides whether a network is removed. Errors: there is none, or a VM is on it.
pub fn remove(fleet: &Fleet, network: NetworkId, operation: Option<Operation>) -> Result<Vec<FleetEvent>, Refused> {
    let Some(entry) = fleet.networks.all.get(&network) else { return Err(Refused::not_found(network)) };
    if let Some(vm) = entry.vms.keys().next() {
        let name = fleet.vms.get(vm).map_or_else(|| vm.to_string(), |entry| entry.spec.name.clone());
        let others = entry.vms.len() - 1;
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        let message = format!("{name}{others} are on network {}; detach or remove them first", entry.spec.name);
        return Err(Refused::new(Code::Refused, message));
    }
    Ok(vec![FleetEvent::NetworkRemoved { network, operation }])
}

/// Returns the cards of a VM of a project that is to be on these networks. `known` are those of its names that mean already what they
/// mean: the cards that it has on them it keeps, and what is none of the cluster's stays so.
pub fn cards(fleet: &Fleet, project: ProjectId, vm: VmId, networks: &[String], known: &[String]) -> Result<Vec<Card>, Refused> {
    let book = &fleet.networks;
    let refused = |at: usize, message: String| Err(Refused::invalid(format!("networks.{at}"), message));
    let mut cards: Vec<Card> = Vec::new();
    for (at, name) in networks.iter().enumerate() {
        if known.contains(name) {
            cards.extend(book.card(project, vm, name).map(|(_, card)| card.clone()));
            continue;
        }
        let Some(entry) = book.named(project, name).and_then(|network| book.all.get(&network)) else {
            if is_reserved(name.strip_prefix("bridge:").unwrap_or(name)) {
                return refused(
                    at,
                    format!("{name} is what a network of the cluster is called on hosts; name the network itself"),
                );
            }
            if project != ProjectId::DEFAULT {
                // What hosts have beside the cluster's networks leads who knows where.
                return refused(at, format!("there is no network {name:?} in the project"));
            }
            continue;
        };
        let network = entry.spec.id;
        if cards.iter().any(|card| card.network == network) {
            return refused(at, format!("a VM is on network {name} once"));
        }
        let overlay = entry.spec.kind.is_overlay();
        cards.push(Card { network, mac: book.mac(vm, network), address: entry.free_address()?, overlay });
    }
    Ok(cards)
}
