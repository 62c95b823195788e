//! How a step of a VM is done: by the roster, by its host or by another, each kind in a room of its own; what is left is the
//! hypervisor's. [`reconcile`](super::reconcile) says which step is next, and its actor that it is done one at a time.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::{
    host::{protocol::Base, spec::HostUri},
    vm::spec::VmSpec,
};
use hiveward_kernel::id::{HostId, ImageId};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
};

use super::{
    backup::BACKUP_WITHIN,
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
    actor::STEP_WITHIN,
    backup::restore,
    driver::{Action, DomainSpec, DriverError, domain_name},
    message::{Done, HostMsg},
    network::making,
    services::MachineServices,
};

const DEFINE_WITHIN: Duration = Duration::from_secs(240);
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(240);
const RESHAPE_WITHIN: Duration = Duration::from_secs(120);

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

pub(super) async fn ask_host(
    services: &MachineServices,
    host: HostId,
    spec: &VmSpec,
    action: Action,
) -> Result<Done, DriverError> {
    let unreachable = |why: String| DriverError::Unreachable { message: why };
    let Some(door) = services.doors.of::<HostMsg>(host) else { return Err(unreachable("its host has no actor now".into())) };
    // An image may have to be copied there first.
    let within = match action {
        // All of a backup is read and written.
        Action::Define(_) if spec.restored.is_some() => BACKUP_WITHIN,
        Action::Define(_) => DEFINE_WITHIN,
        // A guest's memory is written or read.
        Action::Snapshot { .. } | Action::Revert { .. } | Action::RemoveSnapshot { .. } => SNAPSHOT_WITHIN,
        // A guest is waited for.
        Action::Reshape { .. } => RESHAPE_WITHIN,
        _ => STEP_WITHIN,
    };
    let (deadline, vm) = (Deadline::after(within), spec.id);
    let asked = door.ask(deadline, |reply| HostMsg::Act { vm, action, reply }).await;
    asked.unwrap_or_else(|error| Err(unreachable(format!("its host's actor: {error}"))))
}

/// The image's bytes, on this node; `None` where no domain is made of them, or none is known by that name.
async fn base(services: &MachineServices, image: Option<ImageId>, host: HostId) -> Result<Option<Base>, Refused> {
    let found = services.directory.read(|known| {
        let uri = HostUri::parse(&known.fleet.hosts.get(&host)?.spec.uri).ok()?;
        uri.has_disks().then(|| Some(known.fleet.images.get(&image?)?.spec.clone()))?
    });
    let Some(image) = found else { return Ok(None) };
    let unavailable = |why: String| Refused::new(Code::Unavailable, format!("image {} cannot be read: {why}", image.name));
    let hash = image.hash.parse().map_err(|_| unavailable(format!("{:?} is no hash", image.hash)))?;
    let blobs = services.blobs.clone();
    let brought = tokio::task::spawn_blocking(move || blobs.bring(&hash).map(|here| here.then(|| blobs.file(&hash)))).await;
    let path = brought.map_err(|error| unavailable(error.to_string()))?.map_err(|error| unavailable(error.to_string()))?;
    let path = path.ok_or_else(|| unavailable("no node has its bytes".into()))?;
    Ok(Some(Base {
        hash: image.hash.clone(),
        path: path.display().to_string(),
        bytes: image.bytes,
        virtual_bytes: image.virtual_bytes,
        format: image.format.name().into(),
        verify: false,
    }))
}

/// All that a hypervisor needs to make its domain on `host`.
pub(crate) async fn definition(services: &MachineServices, spec: &Arc<VmSpec>, host: HostId) -> Result<DomainSpec, Refused> {
    let user_data = match &spec.user_data {
        None => Vec::new(),
        Some(body) => {
            let (services, body) = (services.clone(), body.clone());
            let read = tokio::task::spawn_blocking(move || services.body(&body)).await;
            read.map_err(|error| Refused::new(Code::Internal, error.to_string()))??.to_vec()
        }
    };
    let epoch = services.directory.read(|known| known.fleet.vms.get(&spec.id).map_or(0, |entry| entry.epoch));
    let mut cloned = Vec::with_capacity(spec.bases.len());
    for (disk, image) in &spec.bases {
        cloned.extend(base(services, Some(*image), host).await?.map(|base| (disk.clone(), base)));
    }
    let cards = services.directory.read(|known| making::cards(&known.fleet, host, spec.id, &spec.networks));
    let cards = cards.map_err(|message| Refused::new(Code::Refused, message))?;
    Ok(DomainSpec {
        owner: host,
        cards,
        base: match &spec.restored {
            Some(restored) => restored
                .disks
                .iter()
                .find(|disk| disk.disk == "root")
                .map(|disk| restore::base(restored, services, spec.id, disk)),
            None => base(services, spec.base, host).await?,
        },
        bases: spec
            .restored
            .iter()
            .flat_map(|restored| {
                restored.disks.iter().map(|disk| (disk.disk.clone(), restore::base(restored, services, spec.id, disk)))
            })
            .chain(cloned)
            .collect(),
        isolated: spec.restored.as_ref().is_some_and(|restored| restored.drill),
        name: domain_name(&spec.name, epoch),
        cpus: spec.cpus,
        memory_bytes: spec.memory_bytes,
        image: spec.image.clone(),
        disks: spec.disks.clone(),
        networks: spec.networks.clone(),
        ssh_keys: spec.ssh_keys.clone(),
        user_data,
    })
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
