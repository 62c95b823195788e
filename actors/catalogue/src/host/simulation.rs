//! Makes thousands of seeded changes of a fleet. After each what is reserved is what is counted anew, and nothing is promised
//! twice. Prints the seed that fails.

use std::sync::Arc;

use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::{clock::WallMs, op::NodeId};

use super::decide::decide;
use crate::{
    host::{
        event::FleetChange,
        fleet::{Fleet, need},
        reshape::Size,
        spec::{Capacity, HostSpec},
    },
    placement::vm::{Need, Strategy},
    vm::spec::{Shape, VmSpec},
};

const SEEDS: u64 = 200;
const STEPS: u32 = 200;

fn host(n: u128, dice: &mut fastrand::Rng) -> HostSpec {
    let (name, uri) = (format!("h{}", dice.u32(0..20)), format!("simulated://h{}", dice.u32(0..20)));
    HostSpec {
        zone: format!("z{}", dice.u32(0..3)),
        cpu_overcommit_milli: dice.u32(1_000..3_000),
        ..HostSpec::new(HostId::from_u128(n), name, uri)
    }
}

fn vm(n: u128, dice: &mut fastrand::Rng) -> VmSpec {
    let group =
        |dice: &mut fastrand::Rng, of: u32| if dice.f64() < 0.3 { vec![format!("g{}", dice.u32(0..of))] } else { Vec::new() };
    VmSpec {
        id: VmId::from_u128(n),
        name: format!("vm{}", dice.u32(0..100)),
        cpus: dice.u32(1..5),
        memory_bytes: dice.u64(1..9) << 30,
        anti_affinity: group(dice, 4),
        strategy: [Strategy::Spread, Strategy::Pack, Strategy::Weighted][dice.usize(0..3)],
        ha: dice.f64() < 0.2,
        ..crate::vm::testing::spec()
    }
}

fn check(fleet: &Fleet, seed: u64) {
    for (id, entry) in &fleet.hosts {
        let on: Vec<_> = fleet.vms.iter().filter(|(_, vm)| vm.host == *id).collect();
        let sum = on.iter().fold(Need::default(), |sum, (_, vm)| {
            let mut need = need(&vm.spec);
            let sizes = vm.held.map(|(_, held)| (held.cpus, held.memory_bytes));
            let wanted = vm.reshaping.as_ref().map(|(_, shape)| (shape.cpus, shape.memory_bytes));
            for (cpus, memory_bytes) in sizes.into_iter().chain(wanted) {
                let other = Need::of(cpus, memory_bytes);
                need.cpu_milli = need.cpu_milli.max(other.cpu_milli);
                need.memory_mib = need.memory_mib.max(other.memory_mib);
            }
            Need { cpu_milli: sum.cpu_milli + need.cpu_milli, memory_mib: sum.memory_mib + need.memory_mib }
        });
        assert_eq!(entry.used, sum, "seed {seed}: of {id}");
        assert_eq!(entry.vms.len(), on.len(), "seed {seed}: of {id}");
        let total = entry.total();
        assert!(sum.cpu_milli <= total.cpu_milli && sum.memory_mib <= total.memory_mib, "seed {seed}: {id} is promised twice");
        for (vm, one) in &on {
            for group in &one.spec.anti_affinity {
                let other = on.iter().find(|(other, two)| other != vm && two.spec.groups().any(|of| of == group));
                assert!(other.is_none(), "seed {seed}: {vm} is with another of {group}");
            }
        }
    }
    assert!(fleet.vms.values().all(|vm| fleet.hosts.contains_key(&vm.host)), "seed {seed}: a VM is nowhere");
    for (id, vm) in &fleet.vms {
        assert_eq!(fleet.vm_named(vm.spec.project, &vm.spec.name), Some(*id), "seed {seed}");
    }
    let columns = fleet.columns();
    for (id, entry) in &fleet.hosts {
        let free = columns.free(columns.position(*id).unwrap());
        assert_eq!(free.cpu_milli, entry.total().cpu_milli - entry.used.cpu_milli, "seed {seed}");
    }
}

#[test]
fn nothing_is_promised_twice_and_no_reservation_outlives_its_vm() {
    for seed in 0..SEEDS {
        let (mut dice, mut fleet, mut next) = (fastrand::Rng::with_seed(seed), Fleet::default(), 1_u128);
        for _ in 0..STEPS {
            next += 1;
            let some_host = |dice: &mut fastrand::Rng| {
                let hosts: Vec<_> = fleet.hosts.keys().copied().collect();
                hosts.get(dice.usize(0..hosts.len().max(1))).copied().unwrap_or(HostId::from_u128(0))
            };
            let some_vm = |dice: &mut fastrand::Rng| {
                let mut vms: Vec<_> = fleet.vms.keys().copied().collect();
                vms.sort_unstable();
                vms.get(dice.usize(0..vms.len().max(1))).copied().unwrap_or(VmId::from_u128(0))
            };
            let host_here = some_host(&mut dice);
            let placement = fleet.hosts.get(&host_here).map_or(0, |entry| entry.place.placement) + u64::from(dice.f64() < 0.1);
            let one = some_vm(&mut dice);
            let (on, size) = fleet.vms.get(&one).map_or((host_here, Size { cpus: 1, memory_bytes: 1 << 30 }), |entry| {
                (entry.host, Size { cpus: entry.spec.cpus, memory_bytes: entry.spec.memory_bytes })
            });
            let shape = |dice: &mut fastrand::Rng| Shape {
                cpus: dice.u32(1..7),
                memory_bytes: dice.u64(1..12) << 30,
                disks: Vec::new(),
                networks: Vec::new(),
            };
            // Of the operation that is under way, or of another one.
            let number = fleet.vms.get(&one).map_or(0, |entry| {
                entry.reshaping.as_ref().map_or(entry.shaped + 1, |(number, _)| *number) + u64::from(dice.f64() < 0.1)
            });
            let change = match dice.u32(0..28) {
                20..=22 => FleetChange::BeginReshape { vm: one, host: on, number, shape: shape(&mut dice) },
                23..=25 => {
                    // A run lags behind what it was, never beyond what was reserved for it.
                    let held = (dice.f64() < 0.4).then_some(size);
                    FleetChange::EndReshape { vm: one, host: on, number, reshaped: dice.bool(), held }
                }
                26..=27 => FleetChange::LetGo { vm: one, number: number.saturating_sub(u64::from(dice.bool())) },
                0..=2 => FleetChange::AddHost { spec: Arc::new(host(next, &mut dice)) },
                3 => FleetChange::RemoveHost { host: host_here, force: dice.f64() < 0.3 },
                4 => FleetChange::DrainHost { host: host_here },
                5 => FleetChange::CancelDrain { host: host_here },
                6 => FleetChange::Drained { host: host_here, placement },
                7 => FleetChange::Unreachable { host: host_here, placement, why: "tested".into() },
                8..=10 => {
                    // What a host has does not shrink under what was promised of it.
                    let known = fleet.hosts.get(&host_here).and_then(|entry| entry.capacity.clone());
                    let capacity = known.unwrap_or(Capacity {
                        cpus: dice.u32(4..17),
                        memory_bytes: dice.u64(8..33) << 30,
                        version: "s".into(),
                    });
                    FleetChange::Reached { host: host_here, placement, capacity }
                }
                11..=13 => FleetChange::RemoveVm { vm: some_vm(&mut dice) },
                _ => FleetChange::AddVm { spec: Arc::new(vm(next, &mut dice)), on: (dice.f64() < 0.1).then_some(host_here) },
            };
            if let Ok(events) = decide(&fleet, &change, None) {
                for event in events {
                    fleet.apply(&event, WallMs(0));
                    if let crate::host::event::FleetEvent::HostAdded { spec, .. } = &event
                        && let Some(entry) = fleet.hosts.get_mut(&spec.id)
                    {
                        (entry.place.node, entry.place.placement) = (Some(NodeId::from_u128(1)), 1);
                    }
                }
            }
            if dice.f64() < 0.02 {
                // A node may begin from what another wrote down.
                fleet = rmp_serde::from_slice(&rmp_serde::to_vec_named(&fleet).unwrap()).unwrap();
            }
            check(&fleet, seed);
        }
    }
}
