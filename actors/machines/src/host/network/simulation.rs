//! Thousands of seeded changes of networks and of the VMs on them: what is given out is counted anew after each, and never
//! given twice. Prints the seed that fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use hiveward_catalogue::{
    host::{
        decide::decide,
        event::{FleetChange, FleetEvent},
        fleet::Fleet,
        lost,
        network::{
            book::{self, Card},
            spec::{Cidr, Kind, NetworkSpec},
        },
        protocol::Make,
        spec::{Capacity, HostSpec},
    },
    vm::{
        spec::{Shape, VmSpec},
        testing::spec,
    },
};
use hiveward_kernel::id::{HostId, NetworkId, ProjectId, VmId};
use hiveward_runtime::{clock::WallMs, op::NodeId};

use crate::host::network::making;

const SEEDS: u64 = 150;
const STEPS: u32 = 250;
const HOSTS: u128 = 5;

fn host(n: u128, underlay: bool) -> HostSpec {
    HostSpec {
        underlay: underlay.then(|| Ipv4Addr::new(192, 168, 1, u8::try_from(n).unwrap()).into()),
        ..HostSpec::new(HostId::from_u128(n), format!("h{n}"), format!("simulated://h{n}"))
    }
}

/// Returns hosts of which all but the last can carry overlays.
fn hosts() -> Fleet {
    let mut fleet = Fleet::default();
    for n in 1..=HOSTS {
        act(&mut fleet, &FleetChange::AddHost { spec: Arc::new(host(n, n < HOSTS)) }).unwrap();
        let entry = fleet.hosts.get_mut(&HostId::from_u128(n)).unwrap();
        (entry.place.node, entry.place.placement) = (Some(NodeId::from_u128(n)), 1);
        let capacity = Capacity { cpus: 64, memory_bytes: 64 << 30, version: "s".into() };
        act(&mut fleet, &FleetChange::Reached { host: HostId::from_u128(n), placement: 1, capacity }).unwrap();
    }
    fleet
}

/// Applies events as the ledger has them: what is applied went through its form on disk.
fn apply(fleet: &mut Fleet, events: Vec<FleetEvent>) {
    for event in events {
        let stored: FleetEvent = rmp_serde::from_slice(&rmp_serde::to_vec_named(&event).unwrap()).unwrap();
        assert_eq!(stored, event);
        fleet.apply(&stored, WallMs(0));
    }
}

fn act(fleet: &mut Fleet, change: &FleetChange) -> Result<(), String> {
    let events = decide(fleet, change, None).map_err(|refused| refused.message)?;
    apply(fleet, events);
    Ok(())
}

fn network(n: u128, dice: &mut fastrand::Rng) -> NetworkSpec {
    // Small ranges, so that they are used up; the same ones for many tenants.
    let cidr = |dice: &mut fastrand::Rng| Cidr::parse(["10.7.0.0/29", "10.7.0.0/24", "10.8.0.0/28"][dice.usize(0..3)]).unwrap();
    let kind = match dice.u32(0..6) {
        0 => Kind::Isolated,
        1 => Kind::Nat { cidr: cidr(dice) },
        2 => Kind::Bridge { bridge: "br0".into() },
        _ => Kind::Overlay { cidr: dice.bool().then(|| cidr(dice)), mtu: 1_450 },
    };
    NetworkSpec { id: NetworkId::from_u128(n), name: format!("n{}", dice.u32(0..8)), kind, project: ProjectId::DEFAULT }
}

fn names(dice: &mut fastrand::Rng) -> Vec<String> {
    (0..dice.usize(0..4)).map(|_| format!("n{}", dice.u32(0..8))).collect()
}

/// Checks what everyone has against what is counted from the VMs alone.
fn check(fleet: &Fleet, seed: u64) {
    let mut macs = BTreeSet::new();
    let mut on: BTreeMap<NetworkId, BTreeMap<VmId, Card>> = BTreeMap::new();
    let mut carriers: BTreeMap<NetworkId, BTreeMap<HostId, u32>> = BTreeMap::new();
    for (vm, entry) in &fleet.vms {
        for card in entry.all_cards() {
            assert!(macs.insert(card.mac.clone()), "seed {seed}: {} is two cards'", card.mac);
            assert!(on.entry(card.network).or_default().insert(*vm, card.clone()).is_none(), "seed {seed}: {vm} is on it twice");
            for host in [Some(entry.host), entry.moving].into_iter().flatten() {
                *carriers.entry(card.network).or_default().entry(host).or_default() += 1;
                let carries = !card.overlay || fleet.hosts[&host].spec.underlay.is_some();
                assert!(carries, "seed {seed}: {vm} is on a host that its network cannot be on");
            }
        }
        for card in &entry.cards {
            let name = &fleet.networks.all[&card.network].spec.name;
            assert!(entry.spec.networks.contains(name), "seed {seed}: {vm} has a card on {name}, which it does not name");
        }
    }
    let mut numbers = BTreeSet::new();
    for (id, entry) in &fleet.networks.all {
        assert!(numbers.insert(entry.number), "seed {seed}: two networks are number {}", entry.number);
        assert_eq!(entry.vms, on.remove(id).unwrap_or_default(), "seed {seed}: of {id}");
        assert_eq!(entry.carriers, carriers.remove(id).unwrap_or_default(), "seed {seed}: of {id}");
        let addresses: Vec<_> = entry.vms.values().filter_map(|card| card.address).collect();
        assert_eq!(addresses.len(), addresses.iter().collect::<BTreeSet<_>>().len(), "seed {seed}: an address is two VMs'");
        let range = entry.spec.kind.cidr().filter(|_| entry.spec.kind.is_overlay());
        assert_eq!(addresses.len(), if range.is_some() { entry.vms.len() } else { 0 }, "seed {seed}: of {id}");
        if let Some(range) = range {
            assert!(addresses.iter().all(|one| (range.first()..=range.last()).contains(one)), "seed {seed}: {addresses:?}");
        }
    }
    assert!(on.is_empty(), "seed {seed}: VMs are on networks that are no more: {on:?}");
    peers(fleet, seed);
}

/// Checks that each host that carries an overlay names each other that does, and nobody who is lost.
fn peers(fleet: &Fleet, seed: u64) {
    let mut named: BTreeMap<u32, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for (id, _) in fleet.hosts.iter().filter(|(_, host)| host.lost.is_none()) {
        for network in making::wanted(fleet, *id) {
            if let Make::Overlay { local, peers, .. } = network.make {
                named.entry(network.number).or_default().insert(local, peers);
            }
        }
    }
    for (number, of) in named {
        for (local, peers) in &of {
            let mut others: Vec<&String> = of.keys().filter(|other| *other != local).collect();
            let mut peers: Vec<&String> = peers.iter().collect();
            peers.sort();
            others.sort();
            assert_eq!(peers, others, "seed {seed}: the peers of {local} on {number}");
        }
    }
}

#[test]
fn numbers_cards_and_addresses_are_given_out_once_and_stay_with_their_vm_wherever_it_is() {
    for seed in 0..SEEDS {
        let (mut dice, mut fleet) = (fastrand::Rng::with_seed(seed), hosts());
        let mut ever: BTreeMap<u32, NetworkId> = BTreeMap::new();
        let mut full = 0;
        for step in 0..STEPS {
            let next = u128::from(step) + 1;
            let mut vms: Vec<_> = fleet.vms.keys().copied().collect();
            vms.sort_unstable();
            let vm = vms.get(dice.usize(0..vms.len().max(1))).copied().unwrap_or(VmId::from_u128(0));
            let from = fleet.vms.get(&vm).map_or(HostId::from_u128(1), |entry| entry.host);
            let to = HostId::from_u128(dice.u128(1..=HOSTS));
            let number = fleet.vms.get(&vm).map_or(1, |entry| entry.reshaping.as_ref().map_or(entry.shaped + 1, |(n, _)| *n));
            let before: BTreeMap<VmId, Vec<Card>> = fleet.vms.iter().map(|(vm, entry)| (*vm, entry.cards.clone())).collect();
            let mut ends = None;
            let change = match dice.u32(0..20) {
                0..=3 => FleetChange::AddNetwork { spec: Arc::new(network(next, &mut dice)) },
                4 | 5 => {
                    let all: Vec<_> = fleet.networks.all.keys().copied().collect();
                    let network = all.get(dice.usize(0..all.len().max(1))).copied().unwrap_or(NetworkId::from_u128(0));
                    FleetChange::RemoveNetwork { network }
                }
                6..=9 => {
                    let ha = dice.f64() < 0.3;
                    let spec =
                        VmSpec { id: VmId::from_u128(next), name: format!("vm{next}"), networks: names(&mut dice), ha, ..spec() };
                    FleetChange::AddVm { spec: Arc::new(spec), on: dice.bool().then_some(to) }
                }
                10 => FleetChange::RemoveVm { vm },
                11 | 12 => FleetChange::BeginMove { vm, from, to: dice.bool().then_some(to) },
                13 | 14 => FleetChange::EndMove { vm, from, moved: dice.bool() },
                15 | 16 => {
                    let shape = fleet.vms.get(&vm).map_or_else(|| spec().shape(), |entry| entry.spec.shape());
                    let mut networks = shape.networks.clone();
                    networks.retain(|_| dice.f64() < 0.7);
                    networks.extend(names(&mut dice).into_iter().filter(|name| !shape.networks.contains(name)).take(1));
                    FleetChange::BeginReshape { vm, host: from, number, shape: Shape { networks, ..shape } }
                }
                17 | 18 => {
                    ends = Some(vm);
                    FleetChange::EndReshape { vm, host: from, number, reshaped: dice.bool(), held: None }
                }
                _ => {
                    if fleet.hosts[&to].lost.is_some() {
                        fleet.found(to);
                    } else {
                        let off = FleetEvent::HostOff { host: to, by: None, why: "tested".into(), operation: None };
                        apply(&mut fleet, vec![off]);
                        let back = lost::bring_all_back(&fleet);
                        apply(&mut fleet, back);
                    }
                    check(&fleet, seed);
                    FleetChange::RemoveVm { vm: VmId::from_u128(0) }
                }
            };
            match act(&mut fleet, &change) {
                Ok(()) => {}
                Err(why) if why.contains("all addresses") => full += 1,
                Err(_) => {}
            }
            for (id, entry) in &fleet.networks.all {
                assert_eq!(ever.entry(entry.number).or_insert(*id), id, "seed {seed}: {} is given out twice", entry.number);
            }
            for (vm, cards) in before.iter().filter(|(vm, _)| ends != Some(**vm)) {
                let stays = fleet.vms.get(vm).is_none_or(|entry| entry.cards == *cards);
                assert!(stays, "seed {seed}: {vm} has other cards after {change:?}");
            }
            check(&fleet, seed);
        }
        assert!(seed > 0 || ever.len() > 10, "nothing was tried");
        assert!(seed != 1 || full < STEPS, "nothing was free");
        // Nothing is held by who is gone.
        for vm in fleet.vms.keys().copied().collect::<Vec<_>>() {
            act(&mut fleet, &FleetChange::RemoveVm { vm }).unwrap();
        }
        for network in fleet.networks.all.keys().copied().collect::<Vec<_>>() {
            act(&mut fleet, &FleetChange::RemoveNetwork { network }).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
        assert!((1..=HOSTS).all(|n| making::wanted(&fleet, HostId::from_u128(n)).is_empty()), "seed {seed}");
    }
}

fn overlay(fleet: &mut Fleet, n: u128, name: &str, cidr: &str) {
    let kind = Kind::Overlay { cidr: Some(Cidr::parse(cidr).unwrap()), mtu: 1_450 };
    let spec = NetworkSpec { id: NetworkId::from_u128(n), name: name.into(), kind, project: ProjectId::DEFAULT };
    act(fleet, &FleetChange::AddNetwork { spec: Arc::new(spec) }).unwrap();
}

fn on(n: u128, networks: &[&str]) -> FleetChange {
    let networks = networks.iter().map(|name| (*name).to_owned()).collect();
    let spec = VmSpec { id: VmId::from_u128(n), name: format!("vm{n}"), networks, ..spec() };
    FleetChange::AddVm { spec: Arc::new(spec), on: None }
}

#[test]
fn what_a_name_means_to_a_vm_it_means_for_as_long_as_it_is_on_it() {
    let mut fleet = hosts();
    act(&mut fleet, &on(1, &["red"])).unwrap();
    overlay(&mut fleet, 1, "red", "10.7.0.0/24");
    act(&mut fleet, &on(2, &["red"])).unwrap();
    let cards = |fleet: &Fleet, n: u128| fleet.vms[&VmId::from_u128(n)].cards.len();
    assert_eq!((cards(&fleet, 1), cards(&fleet, 2)), (0, 1), "the first is on its host's own");
    let shape = Shape { cpus: 2, ..fleet.vms[&VmId::from_u128(1)].spec.shape() };
    let host = fleet.vms[&VmId::from_u128(1)].host;
    act(&mut fleet, &FleetChange::BeginReshape { vm: VmId::from_u128(1), host, number: 1, shape }).unwrap();
    act(&mut fleet, &FleetChange::EndReshape { vm: VmId::from_u128(1), host, number: 1, reshaped: true, held: None }).unwrap();
    assert_eq!(cards(&fleet, 1), 0, "a change of its CPUs took it to another network");
    for reserved in ["bridge:hwb4097", "hwn4098-den"] {
        assert!(act(&mut fleet, &on(3, &[reserved])).unwrap_err().contains("name the network itself"), "{reserved}");
    }
    assert!(act(&mut fleet, &on(3, &["red", "red"])).unwrap_err().contains("once"));
}

#[test]
fn a_range_that_is_used_up_refuses_and_what_is_given_back_rests_before_it_is_given_again() {
    let mut fleet = hosts();
    overlay(&mut fleet, 1, "red", "10.7.0.0/29");
    let address = |fleet: &Fleet, n: u128| fleet.vms[&VmId::from_u128(n)].cards[0].address.unwrap().octets()[3];
    for n in 1..=5 {
        act(&mut fleet, &on(n, &["red"])).unwrap();
        assert_eq!(u128::from(address(&fleet, n)), n + 1, "the first is a router's");
    }
    assert!(act(&mut fleet, &on(6, &["red"])).unwrap_err().contains("all addresses of network red"));
    for n in [2, 4] {
        act(&mut fleet, &FleetChange::RemoveVm { vm: VmId::from_u128(n) }).unwrap();
    }
    act(&mut fleet, &on(7, &["red"])).unwrap();
    assert_eq!(address(&fleet, 7), 3);
    act(&mut fleet, &FleetChange::RemoveVm { vm: VmId::from_u128(7) }).unwrap();
    act(&mut fleet, &on(8, &["red"])).unwrap();
    assert_eq!(address(&fleet, 8), 5, "what was given back last is given at once");
    assert!(book::NUMBER_FIRST > 4_096 && fleet.networks.all.values().all(|entry| entry.number <= book::NUMBER_LAST));
}

#[test]
fn a_vm_on_an_overlay_goes_only_where_that_can_be() {
    let mut fleet = Fleet::default();
    act(&mut fleet, &FleetChange::AddHost { spec: Arc::new(host(1, false)) }).unwrap();
    let entry = fleet.hosts.get_mut(&HostId::from_u128(1)).unwrap();
    (entry.place.node, entry.place.placement) = (Some(NodeId::from_u128(1)), 1);
    let capacity = Capacity { cpus: 64, memory_bytes: 64 << 30, version: "s".into() };
    act(&mut fleet, &FleetChange::Reached { host: HostId::from_u128(1), placement: 1, capacity }).unwrap();
    overlay(&mut fleet, 1, "red", "10.7.0.0/24");
    let refused = act(&mut fleet, &on(1, &["red"])).unwrap_err();
    assert!(refused.contains("--underlay"), "{refused}");
    act(&mut fleet, &on(1, &[])).unwrap();
    let shape = Shape { networks: vec!["red".into()], ..fleet.vms[&VmId::from_u128(1)].spec.shape() };
    let change = FleetChange::BeginReshape { vm: VmId::from_u128(1), host: HostId::from_u128(1), number: 1, shape };
    let refused = act(&mut fleet, &change).unwrap_err();
    assert!(refused.contains("--underlay"), "{refused}");
    let again = HostSpec { name: "other".into(), uri: "simulated://other".into(), ..host(2, true) };
    act(&mut fleet, &FleetChange::AddHost { spec: Arc::new(again.clone()) }).unwrap();
    let twice = HostSpec { id: HostId::from_u128(3), name: "third".into(), uri: "simulated://third".into(), ..again };
    assert!(act(&mut fleet, &FleetChange::AddHost { spec: Arc::new(twice) }).unwrap_err().contains("at that address already"));
}
