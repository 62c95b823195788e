//! How a step of a VM is done: by the roster, by its host or by another, each kind in a room of its own; what is left is the
//! hypervisor's. [`reconcile`](super::reconcile) says which step is next, and its actor that it is done one at a time.

use std::sync::Arc;

use hiveward_catalogue::vm::spec::VmSpec;
use hiveward_kernel::id::HostId;
use hiveward_runtime::error::{Code, Refused};

use super::{
    ask::{ask_host, definition},
    copying::{self, Copying},
    event::OperationKind,
    keep::{self, Errand},
    message::Stepped,
    migrate::Move,
    reconcile::{Doing, Sought, Step},
    shaping::{self, Shaping},
    snapshot,
    state::VmState,
    trip::Trip,
};
use crate::host::{
    backup::restore,
    driver::{Action, DriverError},
    services::MachineServices,
};

/// The names of the fault points before a step is asked for, and when it was done and nothing was written of it yet.
pub(super) const fn points(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Define => ("vm.define", "vm.define.done"),
        Step::Start => ("vm.start", "vm.start.done"),
        Step::Shutdown => ("vm.shutdown", "vm.shutdown.done"),
        Step::Destroy => ("vm.destroy", "vm.destroy.done"),
        Step::Suspend => ("vm.suspend", "vm.suspend.done"),
        Step::Resume => ("vm.resume", "vm.resume.done"),
        Step::Reboot => ("vm.reboot", "vm.reboot.done"),
        Step::Undefine => ("vm.undefine", "vm.undefine.done"),
        Step::Backup => ("vm.backup", "vm.backup.done"),
        Step::EndBackup => ("vm.end_backup", "vm.end_backup.done"),
        Step::Prune => ("vm.prune", "vm.prune.done"),
        Step::Check => ("vm.check", "vm.check.done"),
        Step::Report => ("vm.report", "vm.report.done"),
        Step::Snapshot => ("vm.snapshot", "vm.snapshot.done"),
        Step::Revert => ("vm.revert", "vm.revert.done"),
        Step::RemoveSnapshot => ("vm.remove_snapshot", "vm.remove_snapshot.done"),
        Step::Reserve => ("vm.reserve", "vm.reserve.done"),
        Step::Prepare => ("vm.prepare", "vm.prepare.done"),
        Step::Migrate => ("vm.migrate", "vm.migrate.done"),
        Step::Compare => ("vm.compare", "vm.compare.done"),
        Step::Abort => ("vm.abort", "vm.abort.done"),
        Step::DropHere => ("vm.drop_here", "vm.drop_here.done"),
        Step::DropThere => ("vm.drop_there", "vm.drop_there.done"),
        Step::CleanHere => ("vm.clean_here", "vm.clean_here.done"),
        Step::Clear => ("vm.clear", "vm.clear.done"),
        Step::Settle => ("vm.settle", "vm.settle.done"),
        Step::Release => ("vm.release", "vm.release.done"),
        Step::Claim => ("vm.claim", "vm.claim.done"),
        Step::Reshape => ("vm.reshape", "vm.reshape.done"),
        Step::Unshape => ("vm.unshape", "vm.unshape.done"),
        Step::Enact => ("vm.enact", "vm.enact.done"),
        Step::GiveBack => ("vm.give_back", "vm.give_back.done"),
        Step::DropDisk => ("vm.drop_disk", "vm.drop_disk.done"),
        Step::LetGo => ("vm.let_go", "vm.let_go.done"),
        Step::Seek => ("vm.seek", "vm.seek.done"),
        Step::Follow => ("vm.follow", "vm.follow.done"),
        Step::Copy => ("vm.copy", "vm.copy.done"),
        Step::EndCopy => ("vm.end_copy", "vm.end_copy.done"),
        Step::Publish => ("vm.publish", "vm.publish.done"),
    }
}

/// A step, and what of its VM it depends on.
pub(super) struct Work {
    services: MachineServices,
    spec: Arc<VmSpec>,
    host: HostId,
    step: Step,
    /// Where to, if it moves.
    asked: Option<Box<Move>>,
    /// Where else it was found.
    sought: Option<Sought>,
    /// Which snapshot, if it is about one.
    tag: Option<String>,
    errand: Errand,
    shaping: Shaping,
    copying: Option<Copying>,
    /// Its disks begin with it.
    creates: bool,
}

impl Work {
    pub fn of(vm: &VmState, doing: &Doing, services: MachineServices, spec: Arc<VmSpec>, host: HostId, step: Step) -> Self {
        Self {
            asked: vm.active().and_then(|active| active.migration.clone()),
            sought: doing.sought,
            tag: snapshot::tag_under_way(vm),
            errand: Errand::of(vm, &spec, host, services.clock.now()),
            shaping: Shaping::of(vm),
            copying: Copying::of(vm),
            creates: vm.active().is_some_and(|active| active.kind == OperationKind::Create),
            services,
            spec,
            host,
            step,
        }
    }

    pub async fn done(self) -> Result<Stepped, DriverError> {
        let Self { services, spec, host, step, asked, sought, tag, errand, shaping, copying, creates } = self;
        let trip = Trip { services: &services, spec: &spec, host, asked: asked.as_deref(), sought };
        if let Some(result) = trip.step(step).await {
            return result;
        }
        if let Some(result) = keep::step(&services, &spec, host, errand, step).await {
            return result;
        }
        if let Some(result) = shaping::step(&services, &spec, host, shaping, step).await {
            return result;
        }
        if let Some(result) = copying::step(&services, &spec, host, copying, step).await {
            return result;
        }
        let made = spec.restored.as_ref().filter(|restored| restore::is_made(restored));
        // Later its disks are there, or lost: they do not begin once more by themselves.
        if let Some(restored) = made.filter(|_| creates && step == Step::Define) {
            restore::make(&services, spec.id, restored).await?;
        }
        let action = action(&services, &spec, host, step, tag)
            .await
            .map_err(|refused| DriverError::Failed { message: refused.message })?;
        let done = ask_host(&services, host, &spec, action).await?;
        if made.is_some() && matches!(step, Step::Define | Step::Start | Step::Undefine) {
            restore::forget(&services, spec.id).await;
        }
        Ok(Stepped::Seen(done))
    }
}

async fn action(
    services: &MachineServices,
    spec: &Arc<VmSpec>,
    host: HostId,
    step: Step,
    tag: Option<String>,
) -> Result<Action, Refused> {
    let name = || tag.clone().ok_or_else(|| Refused::new(Code::Internal, "which snapshot is not known"));
    Ok(match step {
        Step::Define => Action::Define(Box::new(definition(services, spec, host).await?)),
        Step::Start => Action::Start,
        Step::Shutdown => Action::Shutdown,
        Step::Destroy => Action::Destroy,
        Step::Suspend => Action::Suspend,
        Step::Resume => Action::Resume,
        Step::Reboot => Action::Reboot,
        Step::Undefine => Action::Undefine,
        Step::Snapshot => Action::Snapshot { name: name()? },
        Step::Revert => Action::Revert { name: name()? },
        Step::RemoveSnapshot => Action::RemoveSnapshot { name: name()? },
        _ => return Err(Refused::new(Code::Internal, "that is no step of the hypervisor's")),
    })
}
