//! A VM that a client asks for, and the checks whether it can be.

use std::collections::{BTreeMap, HashSet};

use hiveward_catalogue::{
    placement::vm::Strategy,
    vm::{
        machine::MachineSpec,
        spec::{DiskSpec, VmSpec},
        warm::WARM_MAX,
    },
};
use hiveward_kernel::id::HostId;
use hiveward_machines::vm::reshape::DISKS_MAX;
use hiveward_runtime::error::Refused;

use super::super::check;

const CPUS_MAX: u32 = 1_024;
const MEMORY_LEAST: u64 = 1 << 20;
const MEMORY_MOST: u64 = 64 << 40;
const DISK_MOST: u64 = 64 << 40;
const LIST_MAX: usize = 64;
const TEXT_MAX: usize = 16 << 10;
/// The most bytes of user data. It goes with the VM through the ledger and to its host, as all of a task or an agent does.
const USER_DATA_MAX: usize = 192 << 10;
const BOOT_WITHIN_MS_MAX: u64 = 3_600_000;
pub(super) const STOP_GRACE_MS_MAX: u64 = 3_600_000;

/// A VM that a client asks for.
#[derive(Clone)]
pub struct NewVm {
    pub name: String,
    /// The host to make it on; the best one if absent.
    pub host: Option<HostId>,
    pub image: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<DiskSpec>,
    pub networks: Vec<String>,
    pub ssh_keys: Vec<String>,
    pub user_data: Option<String>,
    pub anti_affinity: Vec<String>,
    pub affinity: Vec<String>,
    pub zone: Option<String>,
    pub host_labels: BTreeMap<String, String>,
    pub strategy: Strategy,
    pub ha: bool,
    pub start: bool,
    pub stop_grace_ms: u64,
}

impl NewVm {
    /// Returns a VM with this name, image, size in CPUs and memory in bytes, and the defaults of the public API for all else.
    pub fn new(name: impl Into<String>, image: impl Into<String>, cpus: u32, memory_bytes: u64) -> Self {
        Self {
            name: name.into(),
            host: None,
            image: image.into(),
            cpus,
            memory_bytes,
            disks: Vec::new(),
            networks: Vec::new(),
            ssh_keys: Vec::new(),
            user_data: None,
            anti_affinity: Vec::new(),
            affinity: Vec::new(),
            zone: None,
            host_labels: BTreeMap::new(),
            strategy: Strategy::default(),
            ha: false,
            start: true,
            stop_grace_ms: VmSpec::STOP_GRACE_MS_DEFAULT,
        }
    }
}

impl std::fmt::Debug for NewVm {
    /// Shows only a fingerprint of the user data: this text is hashed into an operation, and must not be a secret's copy.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let data = self.user_data.as_ref().map(|text| hiveward_runtime::store::blob::fingerprint(text.as_bytes()));
        f.debug_struct("NewVm")
            .field("name", &self.name)
            .field("host", &self.host)
            .field("image", &self.image)
            .field("cpus", &self.cpus)
            .field("memory_bytes", &self.memory_bytes)
            .field("disks", &self.disks)
            .field("networks", &self.networks)
            .field("ssh_keys", &self.ssh_keys)
            .field("user_data", &data)
            .field("anti_affinity", &self.anti_affinity)
            .field("affinity", &self.affinity)
            .field("zone", &self.zone)
            .field("host_labels", &self.host_labels)
            .field("strategy", &self.strategy)
            .field("ha", &self.ha)
            .field("start", &self.start)
            .field("stop_grace_ms", &self.stop_grace_ms)
            .finish()
    }
}

fn texts(field: &str, given: &[String], fine: impl Fn(&str) -> bool) -> Result<(), Refused> {
    if given.len() > LIST_MAX {
        return Err(Refused::invalid(field, format!("at most {LIST_MAX}")));
    }
    match given
        .iter()
        .position(|text| text.is_empty() || text.len() > TEXT_MAX || text.chars().any(char::is_control) || !fine(text))
    {
        Some(place) => {
            Err(Refused::invalid(format!("{field}.{place}"), "this is empty, too long, or holds what cannot be in it"))
        }
        None => Ok(()),
    }
}

/// Checks, as [`check_new`] does, the VM that an agent's attempts get.
pub(in crate::client) fn check_machine(machine: &MachineSpec) -> Result<(), Refused> {
    if !(1_000..=BOOT_WITHIN_MS_MAX).contains(&machine.boot_within_ms) {
        return Err(Refused::invalid("session.vm.bootWithinMs", format!("1000 to {BOOT_WITHIN_MS_MAX}")));
    }
    if machine.warm > WARM_MAX {
        return Err(Refused::invalid("session.vm.warm", format!("at most {WARM_MAX}")));
    }
    let new = NewVm {
        disks: machine.disks.clone(),
        networks: machine.networks.clone(),
        host_labels: machine.host_labels.clone(),
        zone: machine.zone.clone(),
        ..NewVm::new("attempt", machine.image.clone(), machine.cpus, machine.memory_bytes)
    };
    check_new(&new).map_err(|refused| {
        let field = refused.field.as_ref().map(|field| format!("session.vm.{field}"));
        Refused { field, ..refused }
    })
}

pub(super) fn check_cpus(cpus: u32) -> Result<(), Refused> {
    if (1..=CPUS_MAX).contains(&cpus) { Ok(()) } else { Err(Refused::invalid("cpus", format!("1 to {CPUS_MAX}"))) }
}

pub(super) fn check_memory(bytes: u64) -> Result<(), Refused> {
    if (MEMORY_LEAST..=MEMORY_MOST).contains(&bytes) {
        return Ok(());
    }
    Err(Refused::invalid("memoryBytes", format!("{MEMORY_LEAST} to {MEMORY_MOST} bytes")))
}

pub(super) fn check_disk_bytes(field: &str, bytes: u64) -> Result<(), Refused> {
    if (MEMORY_LEAST..=DISK_MOST).contains(&bytes) {
        return Ok(());
    }
    Err(Refused::invalid(field, format!("{MEMORY_LEAST} to {DISK_MOST} bytes")))
}

pub(super) fn check_new(new: &NewVm) -> Result<(), Refused> {
    check::name("name", &new.name)?;
    let image_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/');
    if new.image.is_empty() || new.image.len() > 256 || !new.image.chars().all(image_fine) || new.image.contains("..") {
        return Err(Refused::invalid("image", "an image's name has letters, digits, `.`, `_`, `-`, `:` and `/`"));
    }
    check_cpus(new.cpus)?;
    check_memory(new.memory_bytes)?;
    if new.disks.len() > DISKS_MAX {
        return Err(Refused::invalid("disks", format!("at most {DISKS_MAX}")));
    }
    let mut names = HashSet::new();
    for (place, disk) in new.disks.iter().enumerate() {
        check::name(&format!("disks.{place}.name"), &disk.name)?;
        if !names.insert(&disk.name) {
            return Err(Refused::invalid(format!("disks.{place}.name"), "another disk has this name"));
        }
        check_disk_bytes(&format!("disks.{place}.sizeBytes"), disk.size_bytes)?;
    }
    texts("networks", &new.networks, |_| true)?;
    texts("sshKeys", &new.ssh_keys, |_| true)?;
    texts("antiAffinity", &new.anti_affinity, |_| true)?;
    texts("affinity", &new.affinity, |_| true)?;
    if new.anti_affinity.iter().any(|group| new.affinity.contains(group)) {
        return Err(Refused::invalid("affinity", "a group is in `antiAffinity` as well: no host could take it"));
    }
    check::labels("hostLabels", &new.host_labels)?;
    check::zone("zone", new.zone.as_deref())?;
    if new.user_data.as_ref().is_some_and(|text| text.len() > USER_DATA_MAX) {
        return Err(Refused::invalid("userData", format!("at most {USER_DATA_MAX} bytes")));
    }
    if new.stop_grace_ms > STOP_GRACE_MS_MAX {
        return Err(Refused::invalid("stopGraceMs", format!("at most {STOP_GRACE_MS_MAX}")));
    }
    Ok(())
}
