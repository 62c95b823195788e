//! A host's part in backups: has its driver copy the disks to where they are to be, and sees that they are whole.

mod given;
mod qcow2;
pub mod restore;
pub mod targets;

pub use given::{BACKUPS_AT_ONCE, NewBackup, scratch};

use std::{path::PathBuf, sync::atomic::Ordering};

use hiveward_catalogue::{
    host::{
        image::header::Format,
        protocol::{DiskCopy, Marks},
    },
    vm::spec::VmSpec,
};
use hiveward_kernel::id::VmId;
use hiveward_runtime::{call::Reply, clock::Deadline, supervise::Context};

use super::{
    actor::{Host, State},
    driver::{Action, Driver, DriverError, simulated::SIMULATED_DISK},
    message::HostMsg,
};
use crate::{
    host::services::MachineServices,
    vm::{
        backup::{MANIFEST_FORMAT, MANIFEST_FORMAT_BASED, Manifest},
        copy::Copied,
    },
};

fn failed(what: &str, error: impl std::fmt::Display) -> DriverError {
    DriverError::Failed { message: format!("{what}: {error}") }
}

impl Host {
    pub(super) fn backup(
        &self,
        ctx: &Context<HostMsg>,
        state: &State,
        vm: VmId,
        new: NewBackup,
        reply: Reply<Result<(String, Manifest), DriverError>>,
    ) {
        let Some(driver) = self.reachable(state) else {
            return reply.answer(Err(DriverError::Unreachable { message: "there is no connection to it now".into() }));
        };
        let (turns, deadline, scratch) = (state.backups.clone(), reply.deadline(), scratch(&self.services));
        ctx.task(async move {
            let kept = match turns.acquire().await {
                Ok(_turn) if !reply.is_abandoned() => keep(&*driver, vm, new, &scratch, deadline).await,
                _ => Err(DriverError::Failed { message: "nobody waits for it any more, and it was not begun".into() }),
            };
            reply.answer(kept);
        });
    }

    /// Away with what a backup left that did not come to its end, here and there.
    pub(super) fn end_backup(
        &self,
        ctx: &Context<HostMsg>,
        state: &State,
        vm: VmId,
        new: NewBackup,
        reply: Reply<Result<super::message::Done, DriverError>>,
    ) {
        let Some(driver) = self.reachable(state) else {
            return reply.answer(Err(DriverError::Unreachable { message: "there is no connection to it now".into() }));
        };
        let (looks, deadline, scratch) = (state.looks.clone(), reply.deadline(), scratch(&self.services));
        ctx.task(async move {
            let ended = async {
                let domain = driver.act(vm, Action::EndBackup, deadline).await?;
                let at = looks.fetch_add(1, Ordering::AcqRel) + 1;
                let away = |error: std::io::Error| failed("what is left of it cannot be removed", error);
                match targets::open(&new.to, &scratch).map_err(away)?.remove(&new.name).await {
                    // Where there is no place there is nothing in it.
                    Ok(()) => {}
                    Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
                    Err(error) => return Err(away(error)),
                }
                Ok(super::message::Done { domain, at })
            };
            let ended = ended.await;
            reply.answer(ended);
        });
    }
}

/// A directory that is gone when it is not needed any more, and is begun anew.
struct Staging(PathBuf);

impl Staging {
    fn begin(path: PathBuf) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now the next copy of the same VM removes.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Host {
    /// Copies its disks, or the one of them that is named, and keeps them as blobs.
    pub(super) fn copy(
        &self,
        ctx: &Context<HostMsg>,
        state: &State,
        vm: VmId,
        only: Option<String>,
        reply: Reply<Result<Vec<Copied>, DriverError>>,
    ) {
        let Some(driver) = self.reachable(state) else {
            return reply.answer(Err(DriverError::Unreachable { message: "there is no connection to it now".into() }));
        };
        let (turns, deadline, services) = (state.backups.clone(), reply.deadline(), self.services.clone());
        ctx.task(async move {
            let copied = match turns.acquire().await {
                Ok(_turn) if !reply.is_abandoned() => into_blobs(&services, &*driver, vm, only, deadline).await,
                _ => Err(DriverError::Failed { message: "nobody waits for it any more, and it was not begun".into() }),
            };
            reply.answer(copied);
        });
    }
}

async fn into_blobs(
    services: &MachineServices,
    driver: &dyn Driver,
    vm: VmId,
    only: Option<String>,
    deadline: Deadline,
) -> Result<Vec<Copied>, DriverError> {
    let path = services.data_dir.join("copies").join(vm.to_string());
    let staging = blocking("the node cannot keep a copy", move || Staging::begin(path)).await?;
    let copies = driver.backup(vm, &staging.0, only.as_deref(), Marks::default(), deadline).await?.disks;
    if let (Some(only), true) = (&only, copies.iter().any(|copy| copy.format == SIMULATED_DISK)) {
        return Err(DriverError::Refused { message: format!("it is simulated: its disk {only} holds nothing") });
    }
    let blobs = services.blobs.clone();
    blocking("the node cannot keep a copy", move || {
        let keep = |copy: &DiskCopy| {
            let (hash, bytes) = blobs.put_file(&staging.0.join(&copy.file))?;
            let hash = hash.to_string();
            if (&hash, bytes) != (&copy.hash, copy.bytes) {
                return Err(std::io::Error::other(format!("disk {} is not what was written", copy.disk)));
            }
            let format = if copy.format == Format::Qcow2.name() { Format::Qcow2 } else { Format::Raw };
            Ok(Copied { disk: copy.disk.clone(), hash, bytes, virtual_bytes: copy.virtual_bytes, format })
        };
        copies.iter().map(keep).collect()
    })
    .await
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, DriverError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other).flatten().map_err(|error| failed(what, error))
}

/// Why it cannot be kept there; what would be the same once more is refused.
fn place(to: &str, error: &std::io::Error) -> DriverError {
    let message = format!("it cannot be written to {to}: {error}");
    if targets::is_final(error) { DriverError::Refused { message } } else { DriverError::Failed { message } }
}

async fn keep(
    driver: &dyn Driver,
    vm: VmId,
    new: NewBackup,
    scratch: &std::path::Path,
    deadline: Deadline,
) -> Result<(String, Manifest), DriverError> {
    let NewBackup { name, to, spec, running, at, basis, mut marks } = new;
    let (path, place) = (targets::join(&to, &name), |error: std::io::Error| place(&to, &error));
    let target = targets::open(&to, scratch).map_err(place)?;
    // One that was broken off after it was whole is done.
    if let Some(done) = target.find(&name).await.map_err(|error| failed("what is there cannot be read", error))? {
        return Ok((path, done));
    }
    let staging = target.begin(&name).await.map_err(place)?;
    let mut why = None;
    let basis = match basis {
        None => None,
        Some(Err(not)) => {
            why = Some(not);
            None
        }
        Some(Ok(basis)) => match targets::chain(&*target, &basis).await {
            Ok(mut chain) => chain.pop(),
            Err(error) => {
                why = Some(format!("what it would be based on is not whole: {error}"));
                None
            }
        },
    };
    if basis.is_none() {
        marks.since = None;
    }
    let copies = driver.backup(vm, &staging, None, marks, deadline).await?;
    let basis = basis.filter(|_| copies.since.is_some());
    if let Some(basis) = &basis {
        let names = |disks: &[DiskCopy]| disks.iter().map(|disk| disk.disk.clone()).collect::<std::collections::BTreeSet<_>>();
        if names(&basis.disks) != names(&copies.disks) {
            return Err(failed("it cannot be based on its last backup", "the hypervisor did not copy the same disks"));
        }
    }
    let spec = VmSpec { user_data: None, restored: None, lease: None, bases: Vec::new(), ..(*spec).clone() };
    let manifest = Manifest {
        format: if basis.is_some() { MANIFEST_FORMAT_BASED } else { MANIFEST_FORMAT },
        name,
        taken_at_ms: at.0,
        running,
        spec,
        disks: copies.disks,
        basis: basis.map(|basis| basis.name),
        whole_because: why.or(copies.why),
        marked: copies.mark.is_some(),
    };
    target.keep(&manifest).await.map_err(place)?;
    Ok((path, manifest))
}
