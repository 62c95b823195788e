//! Where each entity of this node is reached: key → the door that follows it through its restarts.

use std::{collections::HashMap, sync::Arc};

use hiveward_runtime::call::Door;
use parking_lot::RwLock;

use crate::{
    agent::message::AgentMsg,
    directory::Entity,
    host::message::HostMsg,
    id::{AgentId, HostId, SwarmId, VmId},
    swarm::message::SwarmMsg,
    vm::message::VmMsg,
};

/// Cheap to clone; all clones are one table.
#[derive(Clone, Default)]
pub struct Doors {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// With the placement it is here in.
    agents: HashMap<AgentId, (u64, SwarmId, Door<AgentMsg>)>,
    swarms: HashMap<SwarmId, (u64, Door<SwarmMsg>)>,
    hosts: HashMap<HostId, (u64, Door<HostMsg>)>,
    vms: HashMap<VmId, (u64, HostId, Door<VmMsg>)>,
}

impl Doors {
    pub fn agent(&self, agent: AgentId) -> Option<Door<AgentMsg>> {
        self.inner.read().agents.get(&agent).map(|(_, _, door)| door.clone())
    }

    pub fn swarm(&self, swarm: SwarmId) -> Option<Door<SwarmMsg>> {
        self.inner.read().swarms.get(&swarm).map(|(_, door)| door.clone())
    }

    pub fn agents_of(&self, swarm: SwarmId) -> Vec<Door<AgentMsg>> {
        self.inner.read().agents.values().filter(|(_, of, _)| *of == swarm).map(|(_, _, door)| door.clone()).collect()
    }

    /// Everything that was placed here, and in which placement; VMs are their hosts' matter.
    pub fn all(&self) -> Vec<(Entity, u64)> {
        let inner = self.inner.read();
        let swarms = inner.swarms.iter().map(|(id, (placement, _))| (Entity::Swarm(*id), *placement));
        let agents = inner.agents.iter().map(|(id, (placement, ..))| (Entity::Agent(*id), *placement));
        let hosts = inner.hosts.iter().map(|(id, (placement, _))| (Entity::Host(*id), *placement));
        swarms.chain(agents).chain(hosts).collect()
    }

    pub fn host(&self, host: HostId) -> Option<Door<HostMsg>> {
        self.inner.read().hosts.get(&host).map(|(_, door)| door.clone())
    }

    pub fn vm(&self, vm: VmId) -> Option<Door<VmMsg>> {
        self.inner.read().vms.get(&vm).map(|(_, _, door)| door.clone())
    }

    /// If that is where its actor is; of one that has moved another host of this node may have the door.
    pub fn vm_on(&self, vm: VmId, host: HostId) -> Option<Door<VmMsg>> {
        self.inner.read().vms.get(&vm).filter(|(_, on, _)| *on == host).map(|(_, _, door)| door.clone())
    }

    /// Away with the door of a VM's actor beside this host; whether it was that host's.
    pub fn remove_vm(&self, vm: VmId, host: HostId) -> bool {
        let mut inner = self.inner.write();
        let its = inner.vms.get(&vm).is_some_and(|(_, on, _)| *on == host);
        if its {
            inner.vms.remove(&vm);
        }
        its
    }

    pub fn vms_of(&self, host: HostId) -> Vec<VmId> {
        self.inner.read().vms.iter().filter(|(_, (_, on, _))| *on == host).map(|(vm, _)| *vm).collect()
    }

    pub fn add_host(&self, host: HostId, placement: u64, door: Door<HostMsg>) {
        self.inner.write().hosts.insert(host, (placement, door));
    }

    /// The placement of another host's door to it, which this one takes the place of.
    pub fn add_vm(&self, vm: VmId, host: HostId, placement: u64, door: Door<VmMsg>) -> Option<u64> {
        let before = self.inner.write().vms.insert(vm, (placement, host, door));
        before.filter(|(_, on, _)| *on != host).map(|(placement, ..)| placement)
    }

    /// Agents and swarms.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner.read();
        (inner.agents.len() as u64, inner.swarms.len() as u64)
    }

    pub fn add_agent(&self, agent: AgentId, swarm: SwarmId, placement: u64, door: Door<AgentMsg>) {
        self.inner.write().agents.insert(agent, (placement, swarm, door));
    }

    pub fn add_swarm(&self, swarm: SwarmId, placement: u64, door: Door<SwarmMsg>) {
        self.inner.write().swarms.insert(swarm, (placement, door));
    }

    pub fn remove(&self, entity: Entity) {
        match entity {
            Entity::Agent(agent) => drop(self.inner.write().agents.remove(&agent)),
            Entity::Swarm(swarm) => drop(self.inner.write().swarms.remove(&swarm)),
            Entity::Host(host) => drop(self.inner.write().hosts.remove(&host)),
            Entity::Vm(vm) => drop(self.inner.write().vms.remove(&vm)),
        }
    }

    /// Whether somebody lives behind its door; `None` if it has none here.
    pub fn is_living(&self, entity: Entity) -> Option<bool> {
        let inner = self.inner.read();
        match entity {
            Entity::Agent(agent) => inner.agents.get(&agent).map(|(_, _, door)| door.current().is_some()),
            Entity::Swarm(swarm) => inner.swarms.get(&swarm).map(|(_, door)| door.current().is_some()),
            Entity::Host(host) => inner.hosts.get(&host).map(|(_, door)| door.current().is_some()),
            Entity::Vm(vm) => inner.vms.get(&vm).map(|(_, _, door)| door.current().is_some()),
        }
    }
}
