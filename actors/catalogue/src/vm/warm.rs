//! Decides how many VMs wait booted for an agent's next attempts, and whose one becomes. Pure.

use hiveward_kernel::{
    id::{AgentId, VmId},
    lease::Lease,
};
use hiveward_runtime::{
    error::{Code, Refused},
    store::blob,
};
use serde::{Deserialize, Serialize};

use super::machine::MachineSpec;
use crate::host::{
    event::FleetEvent,
    fleet::{Fleet, VmEntry},
};

/// The most VMs that wait for one agent.
pub const WARM_MAX: u32 = 64;

/// The attempts that a VM which was made ahead waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    pub agent: AgentId,
    /// How many such VMs wait at once.
    pub count: u32,
    /// A fingerprint of the VM that the agent's attempts get: one that is otherwise is not taken.
    pub of: u128,
}

impl Warm {
    /// Returns what a VM of this agent waits for, with a fingerprint by which a VM that is otherwise is told from it.
    pub fn new(agent: AgentId, machine: &MachineSpec) -> Self {
        let bytes = rmp_serde::to_vec(machine).unwrap_or_default();
        Self { agent, count: machine.warm, of: u128::from_be_bytes(blob::fingerprint(&bytes)) }
    }
}

/// Iterates over the VMs that wait as this one does, the oldest first, where they can be taken from.
pub fn waiting<'a>(fleet: &'a Fleet, warm: &'a Warm) -> impl Iterator<Item = &'a VmEntry> {
    let open = |entry: &&VmEntry| fleet.hosts.get(&entry.host).is_some_and(|host| host.closed().is_none());
    fleet.warm_of(warm.agent).filter(|entry| entry.spec.warm.is_some_and(|other| other.of == warm.of)).filter(open)
}

/// Refuses with `LIMIT` while as many wait as may. Pure.
pub fn may_add(fleet: &Fleet, warm: &Warm) -> Result<(), Refused> {
    if waiting(fleet, warm).count() < warm.count.min(WARM_MAX) as usize {
        return Ok(());
    }
    Err(Refused::new(Code::Limit, format!("{} VMs wait for {} already", warm.count, warm.agent)))
}

/// Decides that the VM is the attempt's from now on. Repeated, nothing happens. Pure.
/// Errors: `CONFLICT` if the attempt has another VM, or if this one does not wait for its agent.
pub fn take(fleet: &Fleet, vm: VmId, lease: Lease) -> Result<Vec<FleetEvent>, Refused> {
    let entry = fleet.vms.get(&vm).ok_or_else(|| Refused::not_found(vm))?;
    match fleet.leased(lease) {
        Some(its) if its == vm => return Ok(Vec::new()),
        Some(its) => {
            return Err(Refused::new(Code::Conflict, format!("attempt {} of {} has {its} already", lease.attempt, lease.task)));
        }
        None => {}
    }
    if entry.spec.warm.is_none_or(|warm| warm.agent != lease.agent) {
        return Err(Refused::new(Code::Conflict, format!("{vm} does not wait for an attempt of {}", lease.agent)));
    }
    Ok(vec![FleetEvent::VmTaken { vm, host: entry.host, lease }])
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use hiveward_kernel::id::{HostId, TaskId};
    use hiveward_runtime::{clock::WallMs, op::NodeId};

    use super::*;
    use crate::{
        host::{
            decide::decide,
            event::FleetChange,
            spec::{Capacity, HostSpec},
        },
        vm::spec::VmSpec,
    };

    /// Makes a host with room for twenty.
    fn one_host() -> Fleet {
        let (mut fleet, host) = (Fleet::default(), HostId::new());
        let spec = HostSpec::new(host, "h", "simulated://h");
        fleet.apply(&FleetEvent::HostAdded { spec: Arc::new(spec), operation: None }, WallMs(0));
        let capacity = Capacity { cpus: 20, memory_bytes: 1 << 40, version: String::new() };
        fleet.apply(&FleetEvent::HostReached { host, capacity }, WallMs(0));
        fleet.hosts.get_mut(&host).unwrap().place.node = Some(NodeId::from_u128(1));
        fleet
    }

    fn vm(warm: Warm) -> Arc<VmSpec> {
        let id = VmId::new();
        Arc::new(VmSpec { id, name: format!("warm-{id}"), warm: Some(warm), ..crate::vm::testing::spec() })
    }

    /// Runs attempts, makers and removers at once, each of which may hear late, twice or never what became of what it asked.
    #[test]
    fn a_vm_that_waits_is_given_to_one_attempt_and_no_attempt_gets_two() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut fleet, agents) = (one_host(), [AgentId::new(), AgentId::new()]);
            let leases: Vec<Lease> =
                (0..6).map(|n| Lease { task: TaskId::new(), attempt: 1, agent: agents[n % agents.len()] }).collect();
            let mut owners: HashMap<VmId, Lease> = HashMap::new();
            for _ in 0..200 {
                let some = random.choice(fleet.vms.keys().copied().collect::<Vec<_>>());
                let change = match (random.u8(0..10), some) {
                    (0..=3, _) | (_, None) => {
                        let agent = agents[random.usize(0..agents.len())];
                        let warm = Warm { agent, count: 3, of: u128::from(random.u8(0..2)) };
                        FleetChange::AddVm { spec: vm(warm), on: None }
                    }
                    (4..=8, Some(vm)) => FleetChange::TakeVm { vm, lease: leases[random.usize(0..leases.len())] },
                    (_, Some(vm)) => FleetChange::RemoveVm { vm },
                };
                let Ok(events) = decide(&fleet, &change, None) else { continue };
                for event in events {
                    fleet.apply(&event, WallMs(1));
                    match event {
                        FleetEvent::VmTaken { vm, lease, .. } => {
                            assert_eq!(owners.insert(vm, lease), None, "seed {seed}: {vm} is given away twice");
                        }
                        FleetEvent::VmRemoved { vm, .. } => drop(owners.remove(&vm)),
                        _ => {}
                    }
                }
                for lease in &leases {
                    let its = owners.iter().filter(|(_, owner)| *owner == lease).map(|(vm, _)| *vm).collect::<Vec<_>>();
                    assert!(its.len() <= 1, "seed {seed}: {lease:?} has {its:?}");
                    assert_eq!(fleet.leased(*lease), its.first().copied(), "seed {seed}");
                    assert!(its.iter().all(|vm| fleet.vms[vm].spec.lease == Some(*lease)), "seed {seed}");
                    assert!(owners.values().all(|owner| agents.contains(&owner.agent)), "seed {seed}");
                }
                for (agent, of) in agents.iter().flat_map(|agent| [(agent, 0), (agent, 1)]) {
                    let waits = fleet.warm_of(*agent).filter(|entry| entry.spec.warm.is_some_and(|warm| warm.of == of));
                    assert!(waits.count() <= 3, "seed {seed}: more wait than were asked for");
                }
            }
        }
    }

    #[test]
    fn a_vm_waits_for_its_agent_and_for_no_other() {
        let (mut fleet, agent) = (one_host(), AgentId::new());
        let spec = vm(Warm { agent, count: 1, of: 7 });
        for event in decide(&fleet, &FleetChange::AddVm { spec: spec.clone(), on: None }, None).unwrap() {
            fleet.apply(&event, WallMs(1));
        }
        let other = Lease { task: TaskId::new(), attempt: 1, agent: AgentId::new() };
        assert!(take(&fleet, spec.id, other).is_err());
        let its = Lease { agent, ..other };
        for event in take(&fleet, spec.id, its).unwrap() {
            fleet.apply(&event, WallMs(5_000));
        }
        assert_eq!(take(&fleet, spec.id, its).unwrap(), Vec::new(), "repeated");
        assert!(take(&fleet, spec.id, Lease { attempt: 2, ..its }).is_err(), "it is another attempt's");
        assert_eq!(fleet.vms[&spec.id].leased_at, WallMs(5_000), "its attempt is as old as that, whenever it was made");
    }
}
