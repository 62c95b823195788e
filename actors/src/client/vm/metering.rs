//! What VMs and hosts used: series for people, and the newest figures for machines that watch.

use std::collections::HashMap;

use hiveward_kernel::{
    entity::Entity,
    id::{HostId, VmId},
};
use hiveward_machines::host::{
    message::asks as host,
    meter::{HostNow, HostSample, Samples, VmSample},
};
use hiveward_runtime::{clock::WallMs, error::Refused, op::Op};

use crate::client::ControlPlane;

/// The newest figures of a host of this node, with names.
#[derive(Clone, Debug)]
pub struct Metered {
    pub name: String,
    pub now: HostNow,
    /// The names of its VMs.
    pub names: HashMap<VmId, String>,
}

impl ControlPlane {
    /// Returns what a VM used on the host where it is now: see [`Meters`](hiveward_machines::host::meter::Meters). It is empty if
    /// nothing was measured, or its host is nowhere now.
    pub async fn vm_samples(&self, op: &Op, vm: VmId, window: (WallMs, WallMs), points: u32) -> Result<Vec<VmSample>, Refused> {
        let record = self.vm(vm)?.ok_or_else(|| Refused::not_found(vm))?;
        Ok(self.samples(op, record.host, Some(vm), window, points).await?.vm)
    }

    /// Returns what all VMs of a host used together, and what was reserved of it.
    pub async fn host_samples(
        &self,
        op: &Op,
        host: HostId,
        window: (WallMs, WallMs),
        points: u32,
    ) -> Result<Vec<HostSample>, Refused> {
        self.host(host).ok_or_else(|| Refused::not_found(host))?;
        Ok(self.samples(op, host, None, window, points).await?.host)
    }

    async fn samples(
        &self,
        op: &Op,
        host: HostId,
        vm: Option<VmId>,
        (since, until): (WallMs, WallMs),
        points: u32,
    ) -> Result<Samples, Refused> {
        if self.house.directory.location(Entity::Host(host)).is_none() {
            return Ok(Samples::default());
        }
        self.ask(op, host, host::Samples { vm, since, until, points }).await
    }

    /// Returns the newest figures of every host whose connection this node holds.
    pub fn metered(&self) -> Vec<Metered> {
        let here = self.house.me.node;
        let of_here = |host| self.house.directory.location(Entity::Host(host)).is_some_and(|at| at.node == here);
        let now = self.house.machines.meters.now(of_here);
        self.house.directory.read(|known| {
            let name = |vm: &VmId| Some((*vm, known.fleet.vms.get(vm)?.spec.name.clone()));
            let of = |now: HostNow| {
                let name_of = known.fleet.hosts.get(&now.host)?.spec.name.clone();
                Some(Metered { name: name_of, names: now.vms.iter().filter_map(|(vm, _)| name(vm)).collect(), now })
            };
            now.into_iter().filter_map(of).collect()
        })
    }
}
