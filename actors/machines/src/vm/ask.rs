//! What a VM asks of its host: what a domain is made of, and one step.

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

use super::backup::BACKUP_WITHIN;
use crate::host::{
    backup::restore,
    driver::{Action, DomainSpec, DriverError, domain_name},
    message::STEP_WITHIN,
    message::{Done, HostMsg},
    network::making,
    services::MachineServices,
};

const DEFINE_WITHIN: Duration = Duration::from_secs(240);
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(240);
const RESHAPE_WITHIN: Duration = Duration::from_secs(120);

pub(crate) fn error(refused: Refused) -> DriverError {
    match refused.code {
        Code::Refused | Code::Invalid | Code::Limit | Code::NotFound => DriverError::Refused { message: refused.message },
        _ => DriverError::Failed { message: refused.message },
    }
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

pub(crate) async fn ask_host(
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
