//! Makes of a backup what a VM's disks begin as: it is brought to this node where it is elsewhere, and a chain is put together.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hiveward_catalogue::{
    host::protocol::{Base, DiskCopy},
    vm::spec::Restored,
};
use hiveward_kernel::id::VmId;
use hiveward_runtime::clock::Deadline;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{qcow2, scratch, targets};
use crate::{
    host::{
        driver::{DriverError, simulated},
        services::MachineServices,
    },
    vm::backup::BACKUP_WITHIN,
};

/// Number of restores at the same time: each reads all of its backups and writes as much.
const RESTORES_AT_ONCE: usize = 2;
static TURNS: Semaphore = Semaphore::const_new(RESTORES_AT_ONCE);

fn dir(services: &MachineServices, vm: VmId) -> PathBuf {
    services.data_dir.join("restores").join(vm.to_string())
}

/// Tells whether the disks of a restored VM are first made on this node: what stands alone in a directory is taken from there.
pub fn is_made(restored: &Restored) -> bool {
    !restored.under.is_empty() || targets::bucket::within(&restored.path).is_some()
}

fn layers<'a>(restored: &'a Restored, disk: &'a DiskCopy) -> impl Iterator<Item = &'a DiskCopy> {
    let below = restored.under.iter().filter_map(|layer| layer.disks.iter().find(|below| below.disk == disk.disk));
    below.chain(std::iter::once(disk))
}

/// Names what a disk begins as: a file on the node.
pub fn base(restored: &Restored, services: &MachineServices, vm: VmId, disk: &DiskCopy) -> Base {
    let there = Base {
        hash: disk.hash.clone(),
        path: format!("{}/{}", restored.path, disk.file),
        bytes: disk.bytes,
        virtual_bytes: disk.virtual_bytes,
        format: disk.format.clone(),
        verify: true,
    };
    if !is_made(restored) {
        return there;
    }
    let mut hash = blake3::Hasher::new();
    for layer in layers(restored, disk) {
        hash.update(layer.hash.as_bytes());
    }
    let path = dir(services, vm).join(&disk.file);
    // When the VM's disks are there nobody reads it, and it is gone.
    let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    let hash = hash.finalize().to_hex().to_string();
    Base { hash, path: path.display().to_string(), bytes, verify: false, ..there }
}

/// Removes what was made for a VM. What cannot be removed now is removed with the VM.
pub async fn forget(services: &MachineServices, vm: VmId) {
    // What cannot be removed now is removed with the VM.
    let _ = tokio::fs::remove_dir_all(dir(services, vm)).await;
}

/// Makes the disks of a VM. Repeated, it begins anew.
pub async fn make(services: &MachineServices, vm: VmId, restored: &Restored) -> Result<(), DriverError> {
    let whole = |error: io::Error| {
        let message = format!("what it is restored of cannot be used: {error}");
        // Read once more it would be the same.
        if targets::is_final(&error) || error.kind() == io::ErrorKind::InvalidData {
            DriverError::Refused { message }
        } else {
            DriverError::Failed { message }
        }
    };
    let work = async {
        let _turn = TURNS.acquire().await.map_err(io::Error::other)?;
        all(services, &dir(services, vm), restored).await
    };
    match tokio::time::timeout(BACKUP_WITHIN, work).await {
        Ok(made) => made.map_err(whole),
        Err(_) => Err(DriverError::Failed { message: "what it is restored of was not read in time".into() }),
    }
}

async fn all(services: &MachineServices, dir: &Path, restored: &Restored) -> io::Result<()> {
    let (place, name) = targets::split(&restored.path)?;
    let target = targets::open(place, &scratch(services))?;
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let brought = dir.join("layers");
    tokio::fs::create_dir_all(&brought).await?;
    for disk in &restored.disks {
        let mut paths = Vec::new();
        for layer in &restored.under {
            let below = layer.disks.iter().find(|below| below.disk == disk.disk);
            let none = || io::Error::new(io::ErrorKind::InvalidData, format!("{} has no disk {}", layer.name, disk.disk));
            paths.push(target.bring(&layer.name, below.ok_or_else(none)?, &brought).await?);
        }
        paths.push(target.bring(name, disk, &brought).await?);
        let (to, disk) = (dir.join(&disk.file), disk.clone());
        targets::blocking(move || put_together(&disk, &paths, &to)).await?;
    }
    tokio::fs::remove_dir_all(&brought).await
}

fn put_together(disk: &DiskCopy, layers: &[PathBuf], to: &Path) -> io::Result<()> {
    match (&*disk.format, layers) {
        // It was brought, or it would be taken from where it is.
        (_, [one]) => std::fs::rename(one, to),
        (simulated::SIMULATED_DISK, _) => {
            let bodies = layers.iter().map(std::fs::read).collect::<io::Result<Vec<_>>>()?;
            std::fs::write(to, simulated::disks::overlay(&disk.disk, &bodies)?)
        }
        ("qcow2", _) => qcow2::flatten(layers, to),
        (other, _) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a disk of format {other} has no chain"))),
    }
}

/// Number of checks that are kept, under way or not asked for since they ended; of more the oldest goes on unheard.
const CHECKS_MAX: usize = 16;
/// Time after which a check is forgotten that nobody asked for.
const CHECK_HEARD_WITHIN: Duration = Duration::from_secs(600);
static CHECKS: Mutex<Vec<Check>> = Mutex::new(Vec::new());

/// The bytes of all files, and what is wrong with each that is not what was written.
pub type Checked = (u64, Vec<String>);

struct Check {
    path: String,
    heard: Instant,
    task: Shared<BoxFuture<'static, Result<Checked, String>>>,
}

/// Reads every file of a backup and of those that it is based on, or goes on where an earlier question left it reading. `None`
/// if it is not done by `deadline`; it reads on, and the same question waits for it.
pub async fn check(services: &MachineServices, path: &str, deadline: Deadline) -> Option<Result<Checked, String>> {
    let task = {
        let mut checks = CHECKS.lock();
        checks.retain(|check| check.heard.elapsed() < CHECK_HEARD_WITHIN);
        match checks.iter_mut().find(|check| check.path == path) {
            Some(check) => {
                check.heard = Instant::now();
                check.task.clone()
            }
            None => {
                let (services, of) = (services.clone(), path.to_owned());
                let task = tokio::spawn(async move { read_all(&services, &of).await.map_err(|error| error.to_string()) });
                let task = async move { task.await.unwrap_or_else(|error| Err(error.to_string())) };
                let task = task.boxed().shared();
                if checks.len() >= CHECKS_MAX {
                    checks.remove(0);
                }
                checks.push(Check { path: path.to_owned(), heard: Instant::now(), task: task.clone() });
                task
            }
        }
    };
    let checked = tokio::time::timeout_at(deadline.instant(), task).await.ok()?;
    // Asked again it is read again.
    CHECKS.lock().retain(|check| check.path != path);
    Some(checked)
}

async fn read_all(services: &MachineServices, path: &str) -> io::Result<Checked> {
    let (place, name) = targets::split(path)?;
    let target = targets::open(place, &scratch(services))?;
    let dir = services.data_dir.join("checks").join(VmId::new().to_string());
    tokio::fs::create_dir_all(&dir).await?;
    let checked = async {
        let (mut bytes, mut wrong) = (0, Vec::new());
        for manifest in targets::chain(&*target, name).await? {
            for disk in &manifest.disks {
                match target.bring(&manifest.name, disk, &dir).await {
                    Ok(file) if file.starts_with(&dir) => tokio::fs::remove_file(file).await?,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => wrong.push(error.to_string()),
                    Err(error) => return Err(error),
                }
                bytes += disk.bytes;
            }
        }
        Ok((bytes, wrong))
    };
    let checked = checked.await;
    let _ = tokio::fs::remove_dir_all(&dir).await;
    checked
}
