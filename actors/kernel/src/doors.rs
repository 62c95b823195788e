//! Keeps where each entity of this node is reached: its key leads to the door that follows it through its restarts.

use std::{any::Any, collections::HashMap, sync::Arc};

use hiveward_runtime::call::Door;
use parking_lot::RwLock;

use crate::{
    entity::Entity,
    id::{HostId, VmId},
};

/// The messages of one kind of entity.
pub trait Addressed: Send + Sized + 'static {
    /// The id by which such an entity is called.
    type Id: Copy;

    /// Names the entity among all that can be placed.
    fn entity(id: Self::Id) -> Entity;
}

/// The table of doors of this node. It is cheap to clone; all clones are one table.
#[derive(Clone, Default)]
pub struct Doors {
    inner: Arc<RwLock<HashMap<Entity, Entry>>>,
}

struct Entry {
    /// The number of the placement that brought the entity here.
    placement: u64,
    /// The entity that it goes with, such as the host of a VM.
    with: Option<Entity>,
    door: Box<dyn AnyDoor>,
}

trait AnyDoor: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn is_living(&self) -> bool;
}

impl<M: Send + 'static> AnyDoor for Door<M> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_living(&self) -> bool {
        self.current().is_some()
    }
}

impl Entry {
    fn door<M: Addressed>(&self) -> Option<Door<M>> {
        self.door.as_any().downcast_ref::<Door<M>>().cloned()
    }
}

impl Doors {
    /// Returns the door of an entity that is here.
    pub fn of<M: Addressed>(&self, id: M::Id) -> Option<Door<M>> {
        self.inner.read().get(&M::entity(id))?.door()
    }

    /// Opens a door, in the place of one that was there.
    pub fn add<M: Addressed>(&self, id: M::Id, placement: u64, door: Door<M>) {
        self.inner.write().insert(M::entity(id), Entry { placement, with: None, door: Box::new(door) });
    }

    /// Returns everything that was placed here, and in which placement; VMs are their hosts' matter.
    pub fn all(&self) -> Vec<(Entity, u64)> {
        let inner = self.inner.read();
        inner.iter().filter(|(_, entry)| entry.with.is_none()).map(|(entity, entry)| (*entity, entry.placement)).collect()
    }

    /// Returns the door of a VM if its actor is beside this host; another host of this node has that of one that has moved.
    pub fn of_vm_on<M: Addressed<Id = VmId>>(&self, vm: VmId, host: HostId) -> Option<Door<M>> {
        let inner = self.inner.read();
        inner.get(&Entity::Vm(vm)).filter(|entry| entry.with == Some(Entity::Host(host)))?.door()
    }

    /// Opens the door of a VM's actor beside a host. Returns the placement of another host's door to it, which this one takes
    /// the place of.
    pub fn add_vm<M: Addressed<Id = VmId>>(&self, vm: VmId, host: HostId, placement: u64, door: Door<M>) -> Option<u64> {
        let with = Some(Entity::Host(host));
        let before = self.inner.write().insert(Entity::Vm(vm), Entry { placement, with, door: Box::new(door) });
        before.filter(|entry| entry.with != with).map(|entry| entry.placement)
    }

    /// Removes the door of a VM if this host has it; returns whether it did.
    pub fn remove_vm(&self, vm: VmId, host: HostId) -> bool {
        let mut inner = self.inner.write();
        let its = inner.get(&Entity::Vm(vm)).is_some_and(|entry| entry.with == Some(Entity::Host(host)));
        if its {
            inner.remove(&Entity::Vm(vm));
        }
        its
    }

    /// Returns the VMs whose actors are beside this host.
    pub fn vms_of(&self, host: HostId) -> Vec<VmId> {
        let inner = self.inner.read();
        let beside = inner.iter().filter(|(_, entry)| entry.with == Some(Entity::Host(host)));
        beside.filter_map(|(entity, _)| if let Entity::Vm(vm) = entity { Some(*vm) } else { None }).collect()
    }

    /// Counts the agents and the coordinators that are here.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner.read();
        let count = |of: fn(&Entity) -> bool| inner.keys().filter(|entity| of(entity)).count() as u64;
        (count(|entity| matches!(entity, Entity::Agent(_))), count(|entity| matches!(entity, Entity::Swarm(_))))
    }

    /// Removes the door of an entity. Repeating it changes nothing.
    pub fn remove(&self, entity: Entity) {
        self.inner.write().remove(&entity);
    }

    /// Tells whether somebody lives behind its door; `None` if it has none here.
    pub fn is_living(&self, entity: Entity) -> Option<bool> {
        self.inner.read().get(&entity).map(|entry| entry.door.is_living())
    }
}
