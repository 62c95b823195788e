//! The VMs beside a host: an actor for each that belongs here, under a supervisor of their own, and none for others.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::{host::fleet::Drain, vm::spec::VmSpec};
use hiveward_kernel::{entity::Entity, id::VmId};
use hiveward_runtime::{
    clock::Deadline,
    cluster::router::ActorDoor,
    supervise::{Backoff, ChildSpec, Context, Failure, Intensity, Restart, Shutdown, StartError},
};

use super::{
    actor::{Host, State, deliver},
    ha,
    message::HostMsg,
};
use crate::vm::{self, actor::Vm, message::VmMsg};

const MAILBOX_VM: usize = 64;
const START_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// A VM's actor that fails more often than this is given up until someone starts it again.
const CRASH_LOOP: Intensity = Intensity { restarts_max: 10, period: Duration::from_secs(60) };

impl Host {
    pub(super) async fn look(&self, ctx: &Context<HostMsg>, state: &mut State) -> Result<(), Failure> {
        let host = self.spec.id;
        let (wanted, draining): (Vec<(VmId, Arc<VmSpec>)>, bool) = self.services.directory.read(|known| {
            let entry = known.fleet.hosts.get(&host).filter(|entry| entry.place.placement == self.placement);
            let Some(entry) = entry else { return (Vec::new(), false) };
            let new = entry.vms.iter().filter(|vm| !state.children.contains_key(vm));
            let new = new.filter_map(|vm| Some((*vm, known.fleet.vms.get(vm)?.spec.clone())));
            (new.collect(), entry.drain == Some(Drain::Draining))
        });
        for (vm, spec) in wanted {
            let epoch = self.begin(spec).await?;
            state.children.insert(vm, false);
            state.epochs.insert(vm, epoch);
        }
        let gone: Vec<_> = self.services.directory.read(|known| {
            let here = |vm: &VmId| {
                let entry = known.fleet.vms.get(vm).filter(|entry| entry.host == host);
                entry.is_some_and(|entry| state.epochs.get(vm).is_none_or(|epoch| *epoch == entry.epoch))
            };
            state.children.iter().filter(|(vm, stopping)| !**stopping && !here(vm)).map(|(vm, _)| *vm).collect()
        });
        for vm in gone {
            state.children.insert(vm, true);
            self.end(ctx, vm);
        }
        if draining {
            self.drain(state);
            self.say(ctx, state);
        }
        Ok(())
    }

    /// Sees that every VM is under the supervisor: one that was itself restarted has forgotten them.
    pub(super) async fn ensure(&self, state: &State) -> Result<(), Failure> {
        let away = state
            .children
            .iter()
            .filter(|(vm, stopping)| !**stopping && self.services.doors.is_living(Entity::Vm(**vm)) != Some(true));
        let away: Vec<_> = away.map(|(vm, _)| *vm).collect();
        let specs: Vec<_> = self
            .services
            .directory
            .read(|known| away.iter().filter_map(|vm| known.fleet.vms.get(vm)).map(|entry| entry.spec.clone()).collect());
        for spec in specs {
            self.begin(spec).await?;
        }
        Ok(())
    }

    async fn begin(&self, spec: Arc<VmSpec>) -> Result<u64, Failure> {
        let Some(beside) = self.beside.get() else { return Err(Failure::new("its supervisor is not known yet")) };
        let (vm, host, services, placement) = (spec.id, self.spec.id, self.services.clone(), self.placement);
        let epoch = services.directory.read(|known| known.fleet.vms.get(&vm).map_or(0, |entry| entry.epoch));
        if spec.ha {
            // It may run here already, from before this node knew what it must end.
            if let Err(why) = ha::may_run(&services, &self.spec, vm).await {
                tracing::warn!(%vm, host = %self.spec.name, why, "it may not be started here now");
            }
        }
        let (child, door) = ChildSpec::actor(vm.to_string(), "vm", move || Vm::new(services.clone(), spec.clone(), host, epoch))
            .key(vm.key())
            .restart(Restart::Transient)
            .backoff(Backoff::default())
            .crash_loop(CRASH_LOOP)
            .shutdown(Shutdown::Grace(Duration::from_secs(5)))
            .mailbox(MAILBOX_VM)
            .build();
        match beside.enlist_child(child, Deadline::after(START_WITHIN)).await {
            Ok(()) => {
                if let Some(before) = self.services.doors.add_vm(vm, host, placement, door.clone()) {
                    self.services.router.close(&vm.key(), before);
                }
                self.services.router.open(&vm.key(), placement, Arc::new(ActorDoor::new(door, vm::message::VmWire::message)));
                Ok(epoch)
            }
            // The VM's actor is from an earlier life of this one; its door is still open.
            Err(StartError::Duplicate(_)) => Ok(epoch),
            Err(error) => Err(error.into()),
        }
    }

    fn end(&self, ctx: &Context<HostMsg>, vm: VmId) {
        if self.services.doors.remove_vm(vm, self.spec.id) {
            self.services.router.close(&vm.key(), self.placement);
        }
        let (beside, me) = (self.beside.get().cloned(), ctx.addr().clone());
        ctx.task(async move {
            if let Some(beside) = beside
                && let Err(error) = beside.stop_child(vm.key().as_str(), Deadline::after(STOP_WITHIN)).await
            {
                tracing::warn!(%error, %vm, "a VM's actor did not stop in order");
            }
            deliver(&me, HostMsg::ChildStopped { vm }).await;
        });
    }

    /// Tells the VMs that run here to go elsewhere, or to stop. What is not heard is said again at the next refresh.
    fn drain(&self, state: &State) {
        for (vm, stopping) in &state.children {
            if !stopping && let Some(door) = self.services.doors.of_vm_on::<VmMsg>(*vm, self.spec.id) {
                // Not heard: said again at the next refresh.
                let _ = door.tell(VmMsg::Drain);
            }
        }
    }
}
