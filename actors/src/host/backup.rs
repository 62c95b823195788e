//! A host's part in backups: has its driver copy the disks to where they are to be, and sees that they are whole.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use hiveward_runtime::{
    call::Reply,
    clock::{Deadline, WallMs},
    supervise::Context,
};

use super::{
    actor::{Host, State},
    backup_target::{self, Target},
    driver::{Action, DiskCopy, Driver, DriverError, simulated::SIMULATED_DISK},
    image::Format,
    message::HostMsg,
};
use crate::{
    house::House,
    id::VmId,
    vm::{
        backup::{MANIFEST_FORMAT, Manifest},
        copy::Copied,
        spec::VmSpec,
    },
};

/// Of one host at the same time: each reads its disks and takes room in its pool.
pub(super) const BACKUPS_AT_ONCE: usize = 2;

/// What is to be kept, and where.
#[derive(Clone, Debug)]
pub struct NewBackup {
    pub name: String,
    /// See [`backup_target::open`].
    pub to: String,
    pub spec: Arc<VmSpec>,
    pub running: bool,
    pub at: WallMs,
}

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
        let (turns, deadline) = (state.backups.clone(), reply.deadline());
        ctx.task(async move {
            let kept = match turns.acquire().await {
                Ok(_turn) if !reply.is_abandoned() => keep(&*driver, vm, new, deadline).await,
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
        let (looks, deadline) = (state.looks.clone(), reply.deadline());
        ctx.task(async move {
            let ended = async {
                let domain = driver.act(vm, Action::EndBackup, deadline).await?;
                let at = looks.fetch_add(1, Ordering::AcqRel) + 1;
                blocking("what is left of it cannot be removed", move || {
                    backup_target::open(&new.to).and_then(|target| target.discard(&new.name))
                })
                .await?;
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
        let (turns, deadline, house) = (state.backups.clone(), reply.deadline(), self.house.clone());
        ctx.task(async move {
            let copied = match turns.acquire().await {
                Ok(_turn) if !reply.is_abandoned() => into_blobs(&house, &*driver, vm, only, deadline).await,
                _ => Err(DriverError::Failed { message: "nobody waits for it any more, and it was not begun".into() }),
            };
            reply.answer(copied);
        });
    }
}

async fn into_blobs(
    house: &House,
    driver: &dyn Driver,
    vm: VmId,
    only: Option<String>,
    deadline: Deadline,
) -> Result<Vec<Copied>, DriverError> {
    let path = house.data_dir.join("copies").join(vm.to_string());
    let staging = blocking("the node cannot keep a copy", move || Staging::begin(path)).await?;
    let copies = driver.backup(vm, &staging.0, only.as_deref(), deadline).await?;
    if let (Some(only), true) = (&only, copies.iter().any(|copy| copy.format == SIMULATED_DISK)) {
        return Err(DriverError::Refused { message: format!("it is simulated: its disk {only} holds nothing") });
    }
    let blobs = house.blobs.clone();
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

async fn keep(driver: &dyn Driver, vm: VmId, new: NewBackup, deadline: Deadline) -> Result<(String, Manifest), DriverError> {
    let NewBackup { name, to, spec, running, at } = new;
    let target: Arc<dyn Target> = backup_target::open(&to).map_err(|error| failed("it cannot be written there", error))?.into();
    let (looked, of) = (target.clone(), name.clone());
    // One that was broken off after it was whole is done.
    if let Some(done) = blocking("what is there cannot be read", move || looked.find(&of)).await? {
        return Ok(done);
    }
    let (begun, of) = (target.clone(), name.clone());
    // A directory that is not there now will not be there in a moment.
    let staging = blocking("it cannot be written there", move || begun.begin(&of)).await;
    let staging = staging.map_err(|error| DriverError::Refused {
        message: format!("{to}: {error}; it must be a directory on the node that holds the host"),
    })?;
    let disks = driver.backup(vm, &staging, None, deadline).await?;
    let spec = VmSpec { user_data: None, restored: None, lease: None, bases: Vec::new(), ..(*spec).clone() };
    let manifest = Manifest { format: MANIFEST_FORMAT, name, taken_at_ms: at.0, running, spec, disks };
    blocking("it cannot be kept", move || {
        // Read again from where it was written.
        for disk in &manifest.disks {
            backup_target::verify(&staging, disk)?;
        }
        let path = target.keep(&manifest)?;
        Ok((path, manifest))
    })
    .await
}
