//! Decides what a change of a VM's shape reserves, and when it gives back. Pure.
//!
//! A VM's entry is its reservation: the most of what it is, what it is being made, and what its present run still holds. So a
//! growth is reserved before the hypervisor is asked, a shrinkage is free when the hypervisor has it back, and nothing is left
//! when either fails: there is no other book.

use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::error::{Code, Refused};
use serde::{Deserialize, Serialize};

use super::{
    event::FleetEvent,
    fleet::{Fleet, VmEntry, need},
    network,
    placing::wish_of,
};
use crate::{
    placement::vm::{Guest, Need, Reject, Wish, survives_largest},
    vm::spec::Shape,
};

/// The CPUs and the memory of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub cpus: u32,
    pub memory_bytes: u64,
}

fn most(one: Need, other: Need) -> Need {
    Need { cpu_milli: one.cpu_milli.max(other.cpu_milli), memory_mib: one.memory_mib.max(other.memory_mib) }
}

impl VmEntry {
    /// Returns what is reserved for it on its host.
    pub fn need(&self) -> Need {
        let held = self.held.map(|(_, held)| Need::of(held.cpus, held.memory_bytes));
        most(self.lasting(), held.unwrap_or_default())
    }

    /// Returns what is reserved for it without what goes with its present run.
    fn lasting(&self) -> Need {
        let wanted = self.reshaping.as_ref().map(|(_, shape)| Need::of(shape.cpus, shape.memory_bytes));
        most(need(&self.spec), wanted.unwrap_or_default())
    }
}

impl Fleet {
    /// Changes an entry, and with it what is reserved.
    pub fn reshape(&mut self, vm: VmId, change: impl FnOnce(&mut VmEntry)) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let before = entry.need();
        change(entry);
        let (after, on) = (entry.need(), [Some(entry.host), entry.moving]);
        for host in on.into_iter().flatten() {
            self.reserve(host, before, -1);
            self.reserve(host, after, 1);
        }
    }
}

/// Returns a VM that is to come back, in the largest shape that it may have by then.
pub fn guest(vm: VmId, entry: &VmEntry) -> Guest<'_> {
    Guest { vm, on: entry.host, wish: Wish { need: entry.lasting(), ..wish_of(vm, entry, None) } }
}

/// Decides whether a VM may be given this shape, and reserves what it needs. Repeating the same `number` changes nothing.
/// Errors: it is on another host or on its way there, another change is under way, or there is no room.
pub fn begin(fleet: &Fleet, vm: VmId, host: HostId, number: u64, shape: &Shape) -> Result<Vec<FleetEvent>, Refused> {
    let entry = fleet.vms.get(&vm).ok_or_else(|| Refused::not_found(vm))?;
    let refused = |message: String| Err(Refused::new(Code::Refused, message));
    if entry.host != host || entry.moving.is_some() {
        return refused(format!("{} is on another host by now, or on its way there", entry.spec.name));
    }
    match &entry.reshaping {
        // Said again.
        Some((other, _)) if *other == number => return Ok(Vec::new()),
        Some(_) => return refused(format!("another change of {} is under way", entry.spec.name)),
        None if entry.shaped >= number => return Ok(Vec::new()),
        None => {}
    }
    admit(fleet, vm, entry, shape)?;
    let cards = network::book::cards(fleet, entry.spec.project, vm, &shape.networks, &entry.spec.networks)?;
    if cards.iter().any(|card| card.overlay) {
        let of = fleet.hosts.get(&host).filter(|entry| entry.spec.underlay.is_none());
        if let Some(of) = of {
            let (name, why) = (&entry.spec.name, Reject::Underlay.words());
            return refused(format!("{} {why}; move {name} to another host first", of.spec.name));
        }
    }
    Ok(vec![FleetEvent::VmReshaping { vm, host, number, shape: shape.clone(), cards }])
}

/// Refuses unless what the VM takes more is there, and would be if the fullest host were lost.
fn admit(fleet: &Fleet, vm: VmId, entry: &VmEntry, shape: &Shape) -> Result<(), Refused> {
    let (now, then) = (entry.need(), most(entry.need(), Need::of(shape.cpus, shape.memory_bytes)));
    let more = Need { cpu_milli: then.cpu_milli - now.cpu_milli, memory_mib: then.memory_mib - now.memory_mib };
    let lasting = most(entry.lasting(), Need::of(shape.cpus, shape.memory_bytes));
    if more == Need::default() && lasting == entry.lasting() {
        return Ok(());
    }
    let refused =
        |field: &str, message: String| Err(Refused { field: Some(field.into()), ..Refused::new(Code::Refused, message) });
    let Some(host) = fleet.hosts.get(&entry.host) else { return Err(Refused::not_found(entry.host)) };
    let (name, of) = (&entry.spec.name, &host.spec.name);
    if let Some(why) = host.closed() {
        return refused("vm", format!("{of} {}, so {name} cannot grow there; nothing was changed", why.words()));
    }
    let mut hosts = fleet.columns();
    let Some(at) = hosts.position(entry.host) else { return Err(Refused::not_found(entry.host)) };
    let free = hosts.free(at);
    if more.memory_mib > free.memory_mib.max(0) {
        let message = format!(
            "{of} has {} MiB of memory to promise, and {name} would take {} MiB more; nothing was changed",
            free.memory_mib.max(0),
            more.memory_mib
        );
        return refused("memoryBytes", message);
    }
    if more.cpu_milli > free.cpu_milli.max(0) {
        let (left, more) = (free.cpu_milli.max(0) / 1000, more.cpu_milli / 1000);
        let message = format!("{of} has {left} CPUs to promise, and {name} would take {more} more; nothing was changed");
        return refused("cpus", message);
    }
    // As when a VM is made: also one that is not to come back takes room from those that are.
    if fleet.vms.values().any(|entry| entry.spec.ha) {
        hosts.take(at, more, std::iter::empty());
        let there = fleet.vms.iter().filter(|(_, entry)| entry.spec.ha);
        let guests: Vec<_> = there
            .map(|(other, entry)| {
                let mut guest = guest(*other, entry);
                if *other == vm {
                    guest.wish.need = lasting;
                }
                guest
            })
            .collect();
        survives_largest(&hosts, &guests).or_else(|why| {
            refused(
                if entry.spec.ha { "ha" } else { "memoryBytes" },
                format!("{why}; so {name} does not grow, and nothing was changed"),
            )
        })?;
    }
    Ok(())
}

/// Ends the change of shape with this `number`; `held` is what the present run may use beyond it. Repeated, nothing happens.
pub fn end(fleet: &Fleet, vm: VmId, host: HostId, number: u64, reshaped: bool, held: Option<Size>) -> Vec<FleetEvent> {
    let entry = fleet.vms.get(&vm).filter(|entry| entry.host == host);
    match entry.and_then(|entry| entry.reshaping.as_ref()).filter(|(of, _)| *of == number) {
        Some((_, shape)) if reshaped => vec![FleetEvent::VmReshaped { vm, host, number, shape: shape.clone(), held }],
        Some(_) => vec![FleetEvent::VmKeptShape { vm, host, number, held }],
        // Said again, or by an older life: it is so already.
        None => Vec::new(),
    }
}

/// Decides that nothing is held beyond the VM's shape any more, if that was held since the operation `number`.
pub fn let_go(fleet: &Fleet, vm: VmId, number: u64) -> Vec<FleetEvent> {
    match fleet.vms.get(&vm) {
        Some(entry) if entry.held.is_some_and(|(since, _)| since == number) => {
            vec![FleetEvent::VmLetGo { vm, host: entry.host }]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hiveward_runtime::{clock::WallMs, op::NodeId};

    use super::{
        super::{
            decide::decide,
            event::FleetChange,
            spec::{Capacity, HostSpec},
        },
        *,
    };
    use crate::vm::{spec::VmSpec, testing::spec};

    const GIB: u64 = 1 << 30;

    fn host(n: u128) -> HostId {
        HostId::from_u128(n)
    }

    /// Makes two hosts with 8 GiB each, and a VM of 3 GiB on each that is to come back.
    fn two() -> Fleet {
        let mut fleet = Fleet::default();
        for n in 1..=2 {
            let spec = HostSpec::new(host(n), format!("h{n}"), format!("simulated://h{n}"));
            act(&mut fleet, FleetChange::AddHost { spec: Arc::new(spec) });
            let entry = fleet.hosts.get_mut(&host(n)).unwrap();
            (entry.place.node, entry.place.placement) = (Some(NodeId::from_u128(n)), 1);
            let capacity = Capacity { cpus: 8, memory_bytes: 8 * GIB, version: "s".into() };
            act(&mut fleet, FleetChange::Reached { host: host(n), placement: 1, capacity });
        }
        for n in 1..=2 {
            let spec = VmSpec { id: vm(n), name: format!("vm{n}"), memory_bytes: 3 * GIB, ha: true, ..spec() };
            act(&mut fleet, FleetChange::AddVm { spec: Arc::new(spec), on: Some(host(n)) });
        }
        fleet
    }

    fn vm(n: u128) -> VmId {
        VmId::from_u128(n)
    }

    fn act(fleet: &mut Fleet, change: FleetChange) {
        for event in decide(fleet, &change, None).unwrap() {
            fleet.apply(&event, WallMs(0));
        }
    }

    fn to(fleet: &Fleet, memory: u64) -> FleetChange {
        let shape = Shape { memory_bytes: memory, ..fleet.vms[&vm(1)].spec.shape() };
        FleetChange::BeginReshape { vm: vm(1), host: host(1), number: 2, shape }
    }

    fn used(fleet: &Fleet, n: u128) -> i32 {
        fleet.hosts[&host(n)].used.memory_mib / 1024
    }

    #[test]
    fn a_vm_does_not_grow_beyond_what_could_come_back_when_a_host_is_lost() {
        let mut fleet = two();
        let refused = decide(&fleet, &to(&fleet, 6 * GIB), None).unwrap_err();
        assert!(refused.field.as_deref() == Some("ha") && refused.message.contains("does not grow"), "{refused:?}");
        let change = to(&fleet, 5 * GIB);
        act(&mut fleet, change.clone());
        assert_eq!((used(&fleet, 1), decide(&fleet, &change, None).unwrap().len()), (5, 0), "said again it is so already");
        // What it is being made counts for others, too.
        let spec = VmSpec { id: vm(3), name: "vm3".into(), memory_bytes: GIB, ..spec() };
        assert!(decide(&fleet, &FleetChange::AddVm { spec: Arc::new(spec), on: Some(host(2)) }, None).is_err());
    }

    #[test]
    fn a_vm_that_comes_back_amid_a_change_has_the_shape_and_the_reservation_that_it_had() {
        let mut fleet = two();
        let change = to(&fleet, 4 * GIB);
        act(&mut fleet, change);
        let end = |held| FleetChange::EndReshape { vm: vm(1), host: host(1), number: 2, reshaped: true, held };
        act(&mut fleet, end(Some(Size { cpus: 1, memory_bytes: 5 * GIB })));
        assert_eq!((used(&fleet, 1), fleet.vms[&vm(1)].spec.memory_bytes), (5, 4 * GIB));
        let shape = Shape { memory_bytes: 5 * GIB, ..fleet.vms[&vm(1)].spec.shape() };
        act(&mut fleet, FleetChange::BeginReshape { vm: vm(1), host: host(1), number: 3, shape });
        let lost = FleetEvent::HostOff { host: host(1), by: None, why: "t".into(), operation: None };
        fleet.apply(&lost, WallMs(0));
        for event in crate::host::lost::bring_all_back(&fleet) {
            fleet.apply(&event, WallMs(0));
        }
        let entry = &fleet.vms[&vm(1)];
        assert_eq!((entry.host, entry.spec.memory_bytes, entry.need().memory_mib), (host(2), 4 * GIB, 4 << 10));
        assert_eq!((used(&fleet, 1), used(&fleet, 2)), (0, 7));
        // What the life on the lost host would still say is not heard.
        act(&mut fleet, FleetChange::EndReshape { vm: vm(1), host: host(1), number: 3, reshaped: true, held: None });
        act(&mut fleet, FleetChange::LetGo { vm: vm(1), number: 2 });
        assert_eq!((used(&fleet, 1), used(&fleet, 2)), (0, 7));
    }
}
