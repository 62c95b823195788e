//! VMs that live for one attempt of a task: made for it, told apart from others by its lease, gone when it is over.
//!
//! Whoever runs the attempt makes its VM and need not remove it: the VM's own actor sees in the view of tasks that the attempt
//! is over, also when it was lost with the node that ran it. So none is left, and none is taken away from an attempt that
//! goes on.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hiveward_catalogue::{
    host::event::FleetChange,
    vm::{machine::MachineSpec, spec::VmSpec},
};
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, ProjectId, VmId},
    lease::Lease,
};
use hiveward_runtime::{
    clock::{Deadline, WallMs},
    error::Code,
};

use super::{
    event::{OperationKind, Outcome},
    message::asks as vm,
    record::VmStatus,
    state::{Ask, HOUSE},
    warm,
};
use crate::host::{ask_roster, services::MachineServices};

/// Interval between two looks whether an attempt is over.
pub(super) const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
/// Bound on how far behind a view is that does not know an attempt yet.
const UNKNOWN_WITHIN: Duration = Duration::from_secs(600);
/// Time for room to be reserved.
const MADE_WITHIN: Duration = Duration::from_secs(30);
const PAUSED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Maker of the VMs of attempts, which also pauses them.
pub trait Machines: Send + Sync + 'static {
    /// Returns the VM of this attempt, and makes it unless that was done before. It may still be starting. Errors: the words for
    /// a user; nothing was made, or what was made goes when the attempt is over.
    fn of<'a>(&'a self, lease: Lease, spec: &'a MachineSpec) -> BoxFuture<'a, Result<VmId, String>>;

    /// Stops every program of a VM in its tracks, or lets them go on. A VM that does not run, or goes on already, is left alone.
    fn pause(&self, vm: VmId, paused: bool) -> BoxFuture<'_, Result<(), String>>;
}

/// The machines of a node without hosts: there are none, and requests fail in words.
#[derive(Debug)]
pub struct NoMachines;

impl Machines for NoMachines {
    fn of<'a>(&'a self, _: Lease, _: &'a MachineSpec) -> BoxFuture<'a, Result<VmId, String>> {
        Box::pin(async { Err("there are no hosts for VMs here".to_owned()) })
    }

    fn pause(&self, _: VmId, _: bool) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("there are no VMs here".to_owned()) })
    }
}

/// Returns the project of an agent, which is that of the VMs that are made for it.
pub(super) fn project_of(services: &MachineServices, agent: AgentId) -> ProjectId {
    services.directory.project_of(Entity::Agent(agent)).unwrap_or(ProjectId::DEFAULT)
}

/// Returns the name of an attempt's VM; there is at most one VM of that name.
pub fn name(lease: Lease) -> String {
    format!("{}-{}", lease.task, lease.attempt)
}

/// Returns the spec of a VM such as the attempts of an agent of this project get, without a lease.
pub(super) fn spec(id: VmId, machine: &MachineSpec, project: ProjectId) -> VmSpec {
    VmSpec {
        project,
        id,
        name: id.to_string(),
        image: machine.image.clone(),
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        disks: machine.disks.clone(),
        networks: machine.networks.clone(),
        ssh_keys: Vec::new(),
        user_data: None,
        anti_affinity: Vec::new(),
        affinity: Vec::new(),
        zone: machine.zone.clone(),
        host_labels: machine.host_labels.clone(),
        strategy: hiveward_catalogue::placement::vm::Strategy::default(),
        ha: false,
        start: true,
        // It is pulled with its attempt.
        stop_grace_ms: 0,
        base: None,
        restored: None,
        bases: Vec::new(),
        lease: None,
        warm: None,
    }
}

/// Tells whether the attempt is over, by what is known of its end.
fn over(ended: Option<bool>, age: Duration) -> bool {
    ended.unwrap_or(age >= UNKNOWN_WITHIN)
}

/// Tells whether nobody needs the VM of this attempt any more. What cannot be read counts as not over.
pub(super) fn is_over(services: &MachineServices, lease: Lease, made_at: WallMs) -> bool {
    let age = services.clock.now().since(made_at);
    // What cannot be read is not known.
    services.needs.is_over(lease).is_ok_and(|ended| over(ended, age))
}

impl MachineServices {
    /// Gives a waiting VM to the attempt, and tells whether there was one. It says no if that cannot be told: a VM that is booted
    /// for the attempt is as good.
    async fn take_warm(&self, lease: Lease, machine: &MachineSpec, deadline: Deadline) -> bool {
        match warm::take_one(self, lease, machine, deadline).await {
            Ok(taken) => taken,
            Err(refused) => {
                tracing::info!(task = %lease.task, why = %refused.message, "no VM that waits was taken for an attempt; it has one booted");
                false
            }
        }
    }
}

impl Machines for MachineServices {
    fn of<'a>(&'a self, lease: Lease, machine: &'a MachineSpec) -> BoxFuture<'a, Result<VmId, String>> {
        Box::pin(async move {
            let deadline = Deadline::after(MADE_WITHIN);
            let known = || self.directory.read(|known| known.fleet.leased(lease));
            let mut asked = known().is_none() && machine.warm > 0 && self.take_warm(lease, machine, deadline).await;
            loop {
                if let Some(vm) = known() {
                    return Ok(vm);
                }
                if !asked {
                    let project = project_of(self, lease.agent);
                    let its = VmSpec { name: name(lease), lease: Some(lease), ..spec(VmId::new(), machine, project) };
                    let change = FleetChange::AddVm { spec: Arc::new(its), on: machine.host };
                    match ask_roster(self, change, deadline).await {
                        // Another life of ours was first, perhaps.
                        Ok(_) => asked = true,
                        Err(refused) if refused.code == Code::Conflict => asked = true,
                        Err(refused) if refused.code == Code::Unavailable && !deadline.passed() => {}
                        Err(refused) => return Err(format!("its VM cannot be made: {}", refused.message)),
                    }
                }
                if deadline.passed() {
                    return Err("its VM is not known here yet; it is gone with the attempt".to_owned());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    fn pause(&self, vm: VmId, paused: bool) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let status = self.vms.get(vm).map_err(|refused| refused.message)?.map(|record| record.status);
            // A VM that is still coming up runs no program, and none is begun before who holds it goes on.
            if status != Some(if paused { VmStatus::Running } else { VmStatus::Paused }) {
                return Ok(());
            }
            let deadline = Deadline::after(PAUSED_WITHIN);
            let kind = if paused { OperationKind::Pause } else { OperationKind::Resume };
            let ask = Ask::new(kind, HOUSE.into(), None);
            let said = self.ask(deadline, vm, vm::Ask { ask }).await.flatten();
            let number = said.map_err(|refused| refused.message)?.value;
            loop {
                let record = self.vms.get(vm).map_err(|refused| refused.message)?;
                let operation = record.as_ref().and_then(|record| record.state.operation(number));
                match operation.and_then(|operation| operation.ended.as_ref()) {
                    Some((_, Outcome::Done)) => return Ok(()),
                    Some((_, Outcome::Failed { message })) => return Err(format!("its VM: {message}")),
                    Some((_, Outcome::Superseded { .. })) => return Ok(()),
                    None if deadline.passed() => return Err("its VM has not stood still yet".to_owned()),
                    None => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use hiveward_kernel::id::TaskId;

    use super::*;
    use crate::{
        host::driver::{Off, Run},
        vm::{
            event::{Seen, VmEvent},
            reconcile::{self, Doing, Next},
            state::VmState,
        },
    };

    fn leased() -> VmSpec {
        let lease = Lease { task: TaskId::new(), attempt: 2, agent: AgentId::new() };
        VmSpec { lease: Some(lease), ..hiveward_catalogue::vm::testing::spec() }
    }

    #[test]
    fn an_attempt_that_no_view_knows_is_over_only_after_a_while() {
        assert!(!over(None, UNKNOWN_WITHIN / 2));
        assert!(over(None, UNKNOWN_WITHIN));
    }

    /// Returns the state of the attempt's VM as its actor leads it once it runs.
    fn running() -> VmState {
        let mut state = VmState::new(&leased(), WallMs(0));
        state.apply(&VmEvent::Seen { seen: Seen::There(Run::Running), epoch: 0 }, WallMs(1));
        state.apply(&VmEvent::Ended { number: 1, outcome: Outcome::Done }, WallMs(1));
        state
    }

    #[test]
    fn the_vm_of_an_attempt_goes_when_that_is_over_and_not_before() {
        let state = running();
        assert_eq!(reconcile::next(&state, Doing::default(), WallMs(2)), Next::Idle);
        let over = Doing { over: true, ..Doing::default() };
        assert_eq!(reconcile::next(&state, over, WallMs(2)), Next::Ask { kind: OperationKind::Remove });
    }

    #[test]
    fn the_vm_of_an_attempt_that_ended_by_itself_is_not_started_again() {
        for off in [Off::Crashed, Off::Shutdown, Off::Destroyed] {
            let mut state = running();
            state.apply(&VmEvent::Seen { seen: Seen::There(Run::Off(off)), epoch: 0 }, WallMs(2));
            let next = reconcile::next(&state, Doing::default(), WallMs(3));
            assert!(matches!(next, Next::Adopt { .. } | Next::GiveUp { .. }), "{off:?}: {next:?}");
        }
    }
}
