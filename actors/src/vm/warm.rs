//! VMs that wait ready for attempts of an agent, so that no attempt waits for a guest to boot.
//!
//! The agent's actor has as many made as its spec says. Which of them an attempt gets, the roster decides, and only once: a VM
//! that was taken is that attempt's, and goes with it. One that is not needed any more, or has ended by itself, takes itself
//! away; nobody else has to remember it.

use std::{sync::Arc, time::Duration};

use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, VmId},
    lease::Lease,
};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::NodeId,
    store::blob,
};
use serde::{Deserialize, Serialize};

use super::{
    attempt::{self, MachineSpec},
    record::VmStatus,
    spec::VmSpec,
};
use crate::{
    agent::{AgentStatus, SessionSpec},
    host::{
        ask_roster,
        event::{FleetChange, FleetEvent},
        fleet::{Fleet, VmEntry},
    },
    house::House,
};

/// Of one agent.
pub const WARM_MAX: u32 = 64;
/// How often it is looked whether one is to be made.
const KEPT_EVERY: Duration = Duration::from_secs(1);
const MADE_WITHIN: Duration = Duration::from_secs(10);
/// Of one that could not be started: another is made no sooner.
const FAILED_KEPT: Duration = Duration::from_secs(30);

/// What a VM that was made ahead waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    pub agent: AgentId,
    /// How many such wait at once.
    pub count: u32,
    /// Of the VM that the agent's attempts get: one that is otherwise is not taken.
    pub of: u128,
}

impl Warm {
    fn new(agent: AgentId, machine: &MachineSpec) -> Self {
        let bytes = rmp_serde::to_vec(machine).unwrap_or_default();
        Self { agent, count: machine.warm, of: u128::from_be_bytes(blob::fingerprint(&bytes)) }
    }
}

/// Those that wait as this one does, the oldest first, where they can be taken from.
fn waiting<'a>(fleet: &'a Fleet, warm: &'a Warm) -> impl Iterator<Item = &'a VmEntry> {
    let open = |entry: &&VmEntry| fleet.hosts.get(&entry.host).is_some_and(|host| host.closed().is_none());
    fleet.warm_of(warm.agent).filter(|entry| entry.spec.warm.is_some_and(|other| other.of == warm.of)).filter(open)
}

/// Refused while as many wait as may. Pure.
pub fn may_add(fleet: &Fleet, warm: &Warm) -> Result<(), Refused> {
    if waiting(fleet, warm).count() < warm.count.min(WARM_MAX) as usize {
        return Ok(());
    }
    Err(Refused::new(Code::Limit, format!("{} VMs wait for {} already", warm.count, warm.agent)))
}

/// The VM is the attempt's from now on. Repeated, nothing happens. Pure.
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

/// What of a VM that waits is known where it is.
struct Facts {
    /// What its agent wants now; `None` if there is no such agent.
    wanted: Option<Option<Warm>>,
    stopped: bool,
    /// It does not run, and nothing is done about it.
    is_off: bool,
    age: Duration,
    /// Among those that wait as it does; `None` on a host that takes no VMs.
    place: Option<usize>,
    drained: bool,
}

/// Whether nobody needs it.
fn is_spare(warm: &Warm, facts: &Facts) -> bool {
    let Some(Some(wanted)) = facts.wanted else { return true };
    let other = wanted.of != warm.of;
    let many = facts.place.is_some_and(|place| place >= wanted.count as usize);
    other || many || facts.stopped || facts.drained || (facts.is_off && facts.age >= FAILED_KEPT)
}

/// Whether an agent in this state has VMs wait for it.
const fn holds(status: AgentStatus) -> bool {
    match status {
        AgentStatus::Starting | AgentStatus::Idle | AgentStatus::Busy | AgentStatus::Paused | AgentStatus::Lost => true,
        AgentStatus::Created | AgentStatus::Stopping | AgentStatus::Stopped | AgentStatus::Failed => false,
    }
}

/// Whether nobody needs this VM any more, which waits and was not taken.
pub(super) fn is_over(house: &House, vm: VmId, warm: &Warm, is_off: bool) -> bool {
    // What cannot be read is not known. A view that does not know the agent yet is behind.
    let Ok(record) = house.agents.get(warm.agent) else { return false };
    let facts = house.directory.read(|known| {
        let entry = known.fleet.vms.get(&vm)?;
        let wanted = known.agents.get(&warm.agent).map(|agent| match &agent.spec.session {
            SessionSpec::Vm(machine) => Some(Warm::new(warm.agent, machine)),
            SessionSpec::Pipes | SessionSpec::Pty { .. } => None,
        });
        Some(Facts {
            wanted,
            stopped: record.is_some_and(|record| !holds(record.status)),
            is_off,
            age: house.clock.now().since(entry.added_at),
            place: waiting(&known.fleet, warm).position(|other| other.spec.id == vm),
            drained: known.fleet.hosts.get(&entry.host).is_some_and(|host| host.drain.is_some()),
        })
    });
    facts.is_some_and(|facts| is_spare(warm, &facts))
}

/// A VM that waits, for this attempt if there is one. The next look at the directory says which it got.
pub(super) async fn take_one(house: &House, lease: Lease, machine: &MachineSpec, deadline: Deadline) -> Result<bool, Refused> {
    let warm = Warm::new(lease.agent, machine);
    let candidates: Vec<VmId> = house.directory.read(|known| waiting(&known.fleet, &warm).map(|entry| entry.spec.id).collect());
    for vm in candidates {
        if house.vms.get(vm)?.is_none_or(|record| record.status != VmStatus::Running) {
            continue;
        }
        match ask_roster(house, FleetChange::TakeVm { vm, lease }, deadline).await {
            Ok(_) => return Ok(true),
            // Another attempt was first, or it has gone.
            Err(refused) if matches!(refused.code, Code::Conflict | Code::NotFound) => {}
            Err(refused) => return Err(refused),
        }
    }
    Ok(false)
}

/// Has as many VMs wait for an agent as its spec says, for as long as it lives here.
pub async fn keep(house: House, agent: AgentId, machine: Arc<MachineSpec>) {
    let (warm, here): (Warm, NodeId) = (Warm::new(agent, &machine), house.me.node);
    let mut said = None;
    loop {
        tokio::time::sleep(KEPT_EVERY).await;
        let is_here = house.directory.location(Entity::Agent(agent)).is_some_and(|at| at.node == here);
        if !is_here || !house.agents.get(agent).is_ok_and(|record| record.is_some_and(|record| holds(record.status))) {
            continue;
        }
        let waiting = house.directory.read(|known| waiting(&known.fleet, &warm).count());
        for _ in waiting..warm.count as usize {
            let id = VmId::new();
            let spec = VmSpec { id, name: format!("warm-{id}"), warm: Some(warm), ..attempt::spec(id, &machine) };
            let change = FleetChange::AddVm { spec: Arc::new(spec), on: machine.host };
            match ask_roster(&house, change, Deadline::after(MADE_WITHIN)).await {
                Ok(_) => said = None,
                // What was made before is not known here yet.
                Err(refused) if refused.code == Code::Limit => break,
                Err(refused) => {
                    if said.as_ref() != Some(&refused.message) {
                        tracing::warn!(%agent, why = %refused.message, "no VM can be made to wait for its attempts; they have theirs booted");
                    }
                    said = Some(refused.message);
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hiveward_kernel::id::{HostId, TaskId};
    use hiveward_runtime::clock::WallMs;

    use super::*;
    use crate::host::{
        decide::decide,
        spec::{Capacity, HostSpec},
    };

    /// A host with room for twenty.
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
        Arc::new(VmSpec { id, name: format!("warm-{id}"), warm: Some(warm), ..crate::vm::simulation::spec() })
    }

    /// Attempts, makers and removers at once, each of which may be told late, twice or never what became of what it asked.
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

    #[test]
    fn a_vm_that_waits_goes_when_nobody_needs_it_and_not_before() {
        let warm = Warm { agent: AgentId::new(), count: 2, of: 7 };
        let facts = || Facts {
            wanted: Some(Some(warm)),
            stopped: false,
            is_off: false,
            age: FAILED_KEPT * 2,
            place: Some(1),
            drained: false,
        };
        assert!(!is_spare(&warm, &facts()));
        assert!(!is_spare(&warm, &Facts { place: None, ..facts() }), "its host may come back, with what runs there");
        assert!(!is_spare(&warm, &Facts { is_off: true, age: FAILED_KEPT / 2, ..facts() }), "another is not made at once");
        for (why, facts) in [
            ("no agent", Facts { wanted: None, ..facts() }),
            ("no such session", Facts { wanted: Some(None), ..facts() }),
            ("other VMs", Facts { wanted: Some(Some(Warm { of: 8, ..warm })), ..facts() }),
            ("one too many", Facts { place: Some(2), ..facts() }),
            ("its agent was stopped", Facts { stopped: true, ..facts() }),
            ("it ended", Facts { is_off: true, ..facts() }),
            ("its host is drained", Facts { drained: true, ..facts() }),
        ] {
            assert!(is_spare(&warm, &facts), "{why}");
        }
    }
}
