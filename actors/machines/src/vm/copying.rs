//! The steps of a copy: what [`copy`](super::copy) wants done, asked of the VM's host and of the roster.

use std::sync::Arc;

use hiveward_catalogue::{
    host::{event::FleetChange, image::ImageSpec},
    vm::spec::{DiskSpec, VmSpec},
};
use hiveward_kernel::id::{HostId, ImageId, VmId};
use hiveward_runtime::{clock::Deadline, error::Code};

use super::{
    ask::{ask_host, error},
    backup::BACKUP_WITHIN,
    copy::Copied,
    event::Subject,
    message::Stepped,
    reconcile::Step,
    reshape::ROOT,
    state::VmState,
};
use crate::host::{
    ask_roster,
    driver::{Action, DriverError},
    message::HostMsg,
    services::MachineServices,
};

const ROSTER_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The copy that is under way.
#[derive(Clone)]
pub(super) struct Copying {
    number: u64,
    subject: Option<Subject>,
    copied: Vec<Copied>,
}

impl Copying {
    pub fn of(state: &VmState) -> Option<Self> {
        let active = state.active().filter(|active| active.kind.is_copy())?;
        Some(Self { number: active.number, subject: active.subject.clone(), copied: active.copied.clone() })
    }
}

/// `None` if it is another's step.
pub(super) async fn step(
    services: &MachineServices,
    spec: &Arc<VmSpec>,
    host: HostId,
    copying: Option<Copying>,
    step: Step,
) -> Option<Result<Stepped, DriverError>> {
    let Copying { number, subject, copied } = copying?;
    let vm = spec.id;
    Some(match step {
        Step::Copy => {
            let Some(door) = services.doors.of::<HostMsg>(host) else {
                return Some(Err(DriverError::Failed { message: "its host has no actor now".into() }));
            };
            // An image is of the disk that its VM boots from.
            let only = matches!(subject, Some(Subject::Template { .. })).then(|| ROOT.to_owned());
            let make = |reply| HostMsg::Copy { vm, only: only.clone(), reply };
            match door.ask(Deadline::after(BACKUP_WITHIN), make).await {
                Ok(copied) => copied.map(|disks| Stepped::Copied { number, disks }),
                Err(error) => Err(DriverError::Failed { message: format!("its host's actor: {error}") }),
            }
        }
        Step::EndCopy => ask_host(services, host, spec, Action::EndBackup).await.map(Stepped::Seen),
        Step::Publish => {
            let change = match subject {
                Some(Subject::Template { image, name }) => template(spec, image, &name, &copied),
                Some(Subject::Clone { vm, name, on, start }) => Some(clone(spec, vm, &name, on, start, &copied)),
                _ => None,
            };
            let Some(change) = change else {
                return Some(Err(DriverError::Refused { message: "there is no disk to make it of".into() }));
            };
            let asked = ask_roster(services, change, Deadline::after(ROSTER_WITHIN)).await;
            asked.map(|_| Stepped::Told).map_err(|refused| match refused.code {
                // Another has the name by now, and asking again does not change that.
                Code::Conflict => DriverError::Refused { message: refused.message },
                _ => error(refused),
            })
        }
        _ => return None,
    })
}

fn image(spec: &VmSpec, id: ImageId, name: String, copied: &Copied, only_for: Option<VmId>) -> ImageSpec {
    ImageSpec {
        project: spec.project,
        id,
        name,
        hash: copied.hash.clone(),
        bytes: copied.bytes,
        virtual_bytes: copied.virtual_bytes,
        format: copied.format,
        source: format!("VM {}", spec.name),
        only_for,
    }
}

fn template(spec: &VmSpec, id: ImageId, name: &str, copied: &[Copied]) -> Option<FleetChange> {
    let root = copied.iter().find(|copied| copied.disk == ROOT)?;
    Some(FleetChange::AddImage { spec: Arc::new(image(spec, id, name.to_owned(), root, None)) })
}

/// All that the VM is, but for what is its own: a new id, a new name, and with them a new seed and new addresses.
fn clone(spec: &VmSpec, vm: VmId, name: &str, on: Option<HostId>, start: bool, copied: &[Copied]) -> FleetChange {
    let images: Vec<_> = copied
        .iter()
        .map(|disk| Arc::new(image(spec, ImageId::new(), format!("{name}.{}", disk.disk), disk, Some(vm))))
        .collect();
    let of = |disk: &Copied| images.iter().zip(copied).find(|(_, copied)| copied.disk == disk.disk).map(|(image, _)| image.id);
    let sizes = copied.iter().map(|disk| {
        let known = spec.disks.iter().find(|known| known.name == disk.disk).map_or(0, |known| known.size_bytes);
        DiskSpec { name: disk.disk.clone(), size_bytes: known.max(disk.virtual_bytes) }
    });
    let others = copied.iter().filter(|disk| disk.disk != ROOT);
    let made = VmSpec {
        id: vm,
        name: name.to_owned(),
        disks: sizes.collect(),
        base: copied.iter().find(|disk| disk.disk == ROOT).and_then(of),
        bases: others.filter_map(|disk| Some((disk.disk.clone(), of(disk)?))).collect(),
        restored: None,
        lease: None,
        warm: None,
        start,
        ..spec.clone()
    };
    FleetChange::CloneVm { spec: Arc::new(made), images, of: spec.id, on }
}
