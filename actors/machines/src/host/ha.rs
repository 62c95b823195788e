//! A host's part in what comes back elsewhere: nothing of it begins here that could not be ended in time, or that belongs
//! elsewhere by now.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hiveward_catalogue::{directory::Known, host::spec::HostSpec};
use hiveward_kernel::id::VmId;

use super::{actor::Host, driver::Domain};
use crate::host::services::MachineServices;

/// Checks that a VM may begin to run on this host now; from then on it is ended before this node's lease is over. Errors: why it
/// may not.
pub(super) async fn may_run(services: &MachineServices, host: &Arc<HostSpec>, vm: VmId) -> Result<(), String> {
    if !services.peers.may_act() {
        return Err("the lease of this node is over".into());
    }
    let ends_with_lease = services.directory.read(|known| match known.fleet.vms.get(&vm) {
        // The task of an attempt that has this VM comes back elsewhere, and its program here must not go on beside it.
        Some(entry) if entry.host == host.id || entry.moving == Some(host.id) => Ok(entry.spec.ha || entry.spec.is_leased()),
        Some(_) => Err("it belongs to another host by now".to_owned()),
        // The VM is being removed.
        None => Ok(false),
    })?;
    if !ends_with_lease {
        return Ok(());
    }
    let (fence, host) = (services.fence.clone(), host.clone());
    let held = tokio::task::spawn_blocking(move || fence.hold(&host, vm)).await;
    held.map_err(|error| error.to_string())?
}

impl Host {
    /// Returns what is here of an older epoch: of VMs that have come back elsewhere since, though they may belong here again.
    pub(super) fn stale(&self, found: &HashMap<VmId, Domain>) -> HashSet<VmId> {
        self.services.directory.read(|known| {
            let is = |domain: &&Domain| known.fleet.vms.get(&domain.vm).is_some_and(|entry| domain.epoch < entry.epoch);
            found.values().filter(is).map(|domain| domain.vm).collect()
        })
    }

    /// Tells the fence that what neither runs here nor belongs here needs not be ended in time any more.
    pub(super) fn let_go(&self, on: &HashSet<VmId>) {
        let host = self.spec.id;
        let belongs = |vm: VmId| {
            let entry = |known: &Known| known.fleet.vms.get(&vm).map(|entry| entry.host == host || entry.moving == Some(host));
            self.services.directory.read(entry).unwrap_or(false)
        };
        self.services.fence.let_go(host, |vm| !on.contains(&vm) && !belongs(vm));
    }
}
