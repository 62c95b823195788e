//! VMs that wait ready for attempts of an agent, so that no attempt waits for a guest to boot.
//!
//! The agent's actor has as many made as its spec says. Which of them an attempt gets, the roster decides, and only once: a VM
//! that was taken is that attempt's, and goes with it. One that is not needed any more, or has ended by itself, takes itself
//! away; nobody else has to remember it.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::{
    agent::spec::SessionSpec,
    host::event::FleetChange,
    vm::{
        machine::MachineSpec,
        spec::VmSpec,
        warm::{Warm, waiting},
    },
};
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, VmId},
    lease::Lease,
};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::NodeId,
};

use super::{
    attempt::{self},
    record::VmStatus,
};
use crate::host::{ask_roster, services::MachineServices};

/// Interval between two looks whether one is to be made.
const KEPT_EVERY: Duration = Duration::from_secs(1);
const MADE_WITHIN: Duration = Duration::from_secs(10);
/// Time for which a VM that could not be started stays: no other is made in its place before.
const FAILED_KEPT: Duration = Duration::from_secs(30);

/// What is known of a VM that waits, where it is.
struct Facts {
    /// Kind of VM that its agent wants now; `None` if there is no such agent.
    wanted: Option<Option<Warm>>,
    stopped: bool,
    /// Whether it does not run, and nothing is done about it.
    is_off: bool,
    age: Duration,
    /// Its place among those that wait as it does; `None` on a host that takes no VMs.
    place: Option<usize>,
    drained: bool,
}

/// Tells whether nobody needs a VM that waits.
fn is_spare(warm: &Warm, facts: &Facts) -> bool {
    let Some(Some(wanted)) = facts.wanted else { return true };
    let other = wanted.of != warm.of;
    let many = facts.place.is_some_and(|place| place >= wanted.count as usize);
    other || many || facts.stopped || facts.drained || (facts.is_off && facts.age >= FAILED_KEPT)
}

/// Tells whether nobody needs this VM any more, which waits and was not taken. What cannot be read counts as needed.
pub(super) fn is_over(services: &MachineServices, vm: VmId, warm: &Warm, is_off: bool) -> bool {
    // What cannot be read is not known. A view that does not know the agent yet is behind.
    let Ok(holds) = services.needs.holds(warm.agent) else { return false };
    let facts = services.directory.read(|known| {
        let entry = known.fleet.vms.get(&vm)?;
        let wanted = known.agents.get(&warm.agent).map(|agent| match &agent.spec.session {
            SessionSpec::Vm(machine) => Some(Warm::new(warm.agent, machine)),
            SessionSpec::Pipes | SessionSpec::Pty { .. } => None,
        });
        Some(Facts {
            wanted,
            stopped: holds == Some(false),
            is_off,
            age: services.clock.now().since(entry.added_at),
            place: waiting(&known.fleet, warm).position(|other| other.spec.id == vm),
            drained: known.fleet.hosts.get(&entry.host).is_some_and(|host| host.drain.is_some()),
        })
    });
    facts.is_some_and(|facts| is_spare(warm, &facts))
}

/// Gives a VM that waits to this attempt, and returns whether there was one. The next look at the directory says which it got.
pub(super) async fn take_one(
    services: &MachineServices,
    lease: Lease,
    machine: &MachineSpec,
    deadline: Deadline,
) -> Result<bool, Refused> {
    let warm = Warm::new(lease.agent, machine);
    let candidates: Vec<VmId> =
        services.directory.read(|known| waiting(&known.fleet, &warm).map(|entry| entry.spec.id).collect());
    for vm in candidates {
        if services.vms.get(vm)?.is_none_or(|record| record.status != VmStatus::Running) {
            continue;
        }
        match ask_roster(services, FleetChange::TakeVm { vm, lease }, deadline).await {
            Ok(_) => return Ok(true),
            // Another attempt was first, or it has gone.
            Err(refused) if matches!(refused.code, Code::Conflict | Code::NotFound) => {}
            Err(refused) => return Err(refused),
        }
    }
    Ok(false)
}

/// Keeps as many VMs waiting for an agent as its spec says, for as long as the agent lives here.
pub async fn keep(services: MachineServices, agent: AgentId, machine: Arc<MachineSpec>) {
    let (warm, here): (Warm, NodeId) = (Warm::new(agent, &machine), services.me.node);
    let mut said = None;
    loop {
        tokio::time::sleep(KEPT_EVERY).await;
        let is_here = services.directory.location(Entity::Agent(agent)).is_some_and(|at| at.node == here);
        if !is_here || !services.needs.holds(agent).is_ok_and(|holds| holds == Some(true)) {
            continue;
        }
        let waiting = services.directory.read(|known| waiting(&known.fleet, &warm).count());
        let project = attempt::project_of(&services, agent);
        for _ in waiting..warm.count as usize {
            let id = VmId::new();
            let spec = VmSpec { id, name: format!("warm-{id}"), warm: Some(warm), ..attempt::spec(id, &machine, project) };
            let change = FleetChange::AddVm { spec: Arc::new(spec), on: machine.host };
            match ask_roster(&services, change, Deadline::after(MADE_WITHIN)).await {
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
    use super::*;

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
