//! Decides which events a change of the fleet leads to. Pure.

use std::sync::Arc;

use hiveward_kernel::{
    id::{HostId, ProjectId, VmId},
    operation::Operation,
};
use hiveward_runtime::error::{Code, Refused};

use super::lost;
use crate::{
    host::{
        event::{FleetChange, FleetEvent},
        fleet::{Drain, Fleet, HostEntry},
        image::ImageSpec,
        placing, reshape,
    },
    placement::vm::{Engine, Wish},
    vm::{spec::VmSpec, warm},
};

/// The most hosts of the whole cluster; the constants below bound VMs and images in the same way.
pub const HOSTS_MAX: usize = 10_000;
pub const VMS_MAX: usize = 100_000;
pub const IMAGES_MAX: usize = 1_000;

fn conflict(message: String) -> Refused {
    Refused { code: Code::Conflict, message, field: Some("name".into()) }
}

/// Decides a change of the fleet: returns the events that it leads to, none if it is so already.
/// Errors: what speaks against it, such as a name that is taken; nothing is changed then.
pub fn decide(fleet: &Fleet, change: &FleetChange, operation: Option<&Operation>) -> Result<Vec<FleetEvent>, Refused> {
    let operation = operation.cloned();
    let entry = |host: HostId| fleet.hosts.get(&host).ok_or_else(|| Refused::not_found(host));
    // What an older life of a host's actor says is not heard.
    let current = |host: HostId, placement: u64| fleet.hosts.get(&host).filter(|entry| entry.place.placement == placement);
    Ok(match change {
        FleetChange::AddHost { spec } => {
            if fleet.host_named(&spec.name).is_some() {
                return Err(conflict(format!("there is a host named {:?} already", spec.name)));
            }
            let same = |other: &&crate::host::fleet::HostEntry| other.spec.uri == spec.uri && other.spec.node == spec.node;
            if let Some(other) = fleet.hosts.values().find(same) {
                let message = format!("{} is host {} already", spec.uri, other.spec.name);
                return Err(Refused { code: Code::Conflict, message, field: Some("uri".into()) });
            }
            let reached = |other: &&HostEntry| spec.underlay.is_some() && other.spec.underlay == spec.underlay;
            if let Some(other) = fleet.hosts.values().find(reached) {
                let message = format!("others reach host {} at that address already", other.spec.name);
                return Err(Refused { code: Code::Conflict, message, field: Some("underlay".into()) });
            }
            if fleet.hosts.len() >= HOSTS_MAX {
                return Err(Refused::new(Code::Limit, format!("there are {HOSTS_MAX} hosts; remove one first")));
            }
            vec![FleetEvent::HostAdded { spec: spec.clone(), operation }]
        }
        FleetChange::RemoveHost { host, force } => {
            let entry = entry(*host)?;
            if let Some((vm, _)) = fleet.vms.iter().find(|(_, vm)| vm.moving == Some(*host)) {
                // Also with force: nobody could say any more where it is.
                let message = format!("{vm} is on its way to {}; wait for it, or cancel its migration", entry.spec.name);
                return Err(Refused::new(Code::Refused, message));
            }
            if !entry.vms.is_empty() && !force {
                let message = format!(
                    "{} has {} VMs; remove them first, or use force, which forgets them and leaves what runs there alone",
                    entry.spec.name,
                    entry.vms.len()
                );
                return Err(Refused::new(Code::Refused, message));
            }
            vec![FleetEvent::HostRemoved { host: *host, operation }]
        }
        FleetChange::DrainHost { host } => match entry(*host)?.drain {
            Some(_) => Vec::new(),
            None => vec![FleetEvent::HostDraining { host: *host, operation }],
        },
        FleetChange::CancelDrain { host } => match entry(*host)?.drain {
            Some(_) => vec![FleetEvent::HostDrainCancelled { host: *host, operation }],
            None => {
                return Err(Refused::new(Code::Refused, format!("{} is not drained: there is nothing to cancel", host)));
            }
        },
        FleetChange::DeclareLost { host, confirm, by } => lost::declare(fleet, *host, confirm, by, operation)?,
        FleetChange::AddVm { spec, on } => vec![add_vm(fleet, spec, *on, operation, &[], |_| true)?],
        FleetChange::CloneVm { spec, images, of, on } => clone_vm(fleet, spec, images, *of, *on)?,
        FleetChange::Reached { host, placement, capacity } => match current(*host, *placement) {
            Some(entry) if entry.capacity.as_ref() != Some(capacity) || entry.unreachable.is_some() => {
                vec![FleetEvent::HostReached { host: *host, capacity: capacity.clone() }]
            }
            _ => Vec::new(),
        },
        FleetChange::Unreachable { host, placement, why } => match current(*host, *placement) {
            Some(entry) if entry.unreachable.is_none() => {
                vec![FleetEvent::HostUnreachable { host: *host, why: why.clone() }]
            }
            _ => Vec::new(),
        },
        FleetChange::Drained { host, placement } => match current(*host, *placement) {
            Some(entry) if entry.drain == Some(Drain::Draining) => vec![FleetEvent::HostDrained { host: *host }],
            _ => Vec::new(),
        },
        FleetChange::BeginMove { vm, from, to } => begin_move(fleet, *vm, *from, *to)?,
        FleetChange::EndMove { vm, from, moved } => match fleet.vms.get(vm) {
            // Said again, or by an older life: it is so already.
            Some(entry) if entry.host == *from => match entry.moving {
                Some(to) if *moved => vec![FleetEvent::VmMoved { vm: *vm, from: *from, to }],
                Some(to) => vec![FleetEvent::VmStayed { vm: *vm, from: *from, to }],
                None => Vec::new(),
            },
            _ => Vec::new(),
        },
        FleetChange::FoundVm { vm, from, to } => match fleet.vms.get(vm) {
            Some(entry) if entry.host == *from && entry.moving.is_none() && from != to => {
                fleet.hosts.get(to).ok_or_else(|| Refused::not_found(*to))?;
                vec![FleetEvent::VmFound { vm: *vm, from: *from, to: *to }]
            }
            // Said again, or it is on its way by now.
            _ => Vec::new(),
        },
        FleetChange::BeginReshape { vm, host, number, shape } => reshape::begin(fleet, *vm, *host, *number, shape)?,
        FleetChange::EndReshape { vm, host, number, reshaped, held } => {
            reshape::end(fleet, *vm, *host, *number, *reshaped, *held)
        }
        FleetChange::TakeVm { vm, lease } => warm::take(fleet, *vm, *lease)?,
        FleetChange::LetGo { vm, number } => reshape::let_go(fleet, *vm, *number),
        // Said again by the actor of the VM that it is made of.
        FleetChange::AddImage { spec } if fleet.images.contains_key(&spec.id) => Vec::new(),
        FleetChange::AddImage { spec } => {
            if fleet.image_named(spec.project, &spec.name).is_some() {
                return Err(conflict(format!("there is an image named {:?} already", spec.name)));
            }
            if fleet.images.len() >= IMAGES_MAX {
                return Err(Refused::new(Code::Limit, format!("there are {IMAGES_MAX} images; remove one first")));
            }
            vec![FleetEvent::ImageAdded { spec: spec.clone(), operation }]
        }
        FleetChange::RemoveImage { image } => {
            let entry = fleet.images.get(image).ok_or_else(|| Refused::not_found(*image))?;
            if entry.vms > 0 {
                let message = format!("{} VMs are made of {}; remove them first", entry.vms, entry.spec.name);
                return Err(Refused::new(Code::Refused, message));
            }
            vec![FleetEvent::ImageRemoved { image: *image, operation }]
        }
        FleetChange::AddNetwork { spec } => crate::host::network::book::add(fleet, spec, operation)?,
        FleetChange::RemoveNetwork { network } => crate::host::network::book::remove(fleet, *network, operation)?,
        FleetChange::RemoveVm { vm } => match fleet.vms.get(vm) {
            Some(entry) => vec![FleetEvent::VmRemoved { vm: *vm, host: entry.host }],
            // Said again: it is so already.
            None => Vec::new(),
        },
    })
}

fn begin_move(fleet: &Fleet, vm: VmId, from: HostId, to: Option<HostId>) -> Result<Vec<FleetEvent>, Refused> {
    let entry = fleet.vms.get(&vm).ok_or_else(|| Refused::not_found(vm))?;
    let refused = |message: String| Err(Refused::new(Code::Refused, message));
    if entry.host != from {
        return refused(format!("{} is on another host by now", entry.spec.name));
    }
    if let Some(moving) = entry.moving {
        // Said again. A reservation elsewhere is that of an operation whose end nobody knows yet.
        return if to.is_none_or(|to| to == moving) {
            Ok(Vec::new())
        } else {
            refused("it is on its way to another host".into())
        };
    }
    if to == Some(from) {
        return refused(format!("{} is on that host already", entry.spec.name));
    }
    let decision = placing::another_host(fleet, vm, entry, to)?;
    Ok(vec![FleetEvent::VmMoving { vm, from, to: decision.chosen }])
}

/// Decides a clone: adds the VM with all the images that its disks begin as, or nothing of it.
fn clone_vm(
    fleet: &Fleet,
    spec: &Arc<VmSpec>,
    images: &[Arc<ImageSpec>],
    of: VmId,
    on: Option<HostId>,
) -> Result<Vec<FleetEvent>, Refused> {
    if fleet.vms.contains_key(&spec.id) {
        return Ok(Vec::new());
    }
    if fleet.images.len() + images.len() > IMAGES_MAX {
        return Err(Refused::new(Code::Limit, format!("there are {IMAGES_MAX} images, clones counted in; remove one first")));
    }
    let host = fleet.vms.get(&of).and_then(|entry| fleet.hosts.get(&entry.host)).ok_or_else(|| Refused::not_found(of))?;
    // Its disks are what that kind of hypervisor wrote.
    let known = known_networks(fleet, of);
    let added = add_vm(fleet, spec, on, None, &known, |other| other.spec.scheme() == host.spec.scheme())?;
    let images = images.iter().map(|spec| FleetEvent::ImageAdded { spec: spec.clone(), operation: None });
    Ok(images.chain([added]).collect())
}

/// Returns those of a VM's networks that are its hosts' own: what a name means for it, it means for its clones as well.
fn known_networks(fleet: &Fleet, of: VmId) -> Vec<String> {
    let Some(entry) = fleet.vms.get(&of) else { return Vec::new() };
    let own = entry.spec.networks.iter().filter(|name| fleet.networks.card(entry.spec.project, of, name).is_none());
    own.cloned().collect()
}

fn add_vm(
    fleet: &Fleet,
    spec: &Arc<VmSpec>,
    on: Option<HostId>,
    operation: Option<Operation>,
    own_networks: &[String],
    suits: impl Fn(&HostEntry) -> bool,
) -> Result<FleetEvent, Refused> {
    if fleet.vm_named(spec.project, &spec.name).is_some() {
        return Err(conflict(format!("there is a VM named {:?} already", spec.name)));
    }
    if fleet.vms.len() >= VMS_MAX {
        return Err(Refused::new(Code::Limit, format!("there are {VMS_MAX} VMs; remove one first")));
    }
    if let Some(warm) = &spec.warm {
        warm::may_add(fleet, warm)?;
    }
    if let Some(its) = spec.lease.and_then(|lease| fleet.leased(lease)) {
        return Err(conflict(format!("its attempt has {its} already")));
    }
    let drilled = spec.restored.as_ref().is_some_and(|restored| restored.drill);
    let cards = if drilled {
        Vec::new()
    } else {
        crate::host::network::book::cards(fleet, spec.project, spec.id, &spec.networks, own_networks)?
    };
    let overlay = cards.iter().any(|card| card.overlay);
    let wish = Wish { overlay, ..placing::wish(spec.id, spec, on) };
    let chosen = placing::select(fleet, &mut Engine::default(), spec.id, &wish, spec.ha, suits)?;
    let decision = chosen.map_err(|refused| Refused { message: format!("{}; nothing was made", refused.message), ..refused })?;
    // What the name means now it means for this VM for ever.
    let spec = match fleet.image_named(spec.project, &spec.image).filter(|_| spec.base.is_none()) {
        Some(image) => Arc::new(VmSpec { base: Some(image), ..(**spec).clone() }),
        // What hosts have beside the cluster's images belongs to nobody in particular.
        None if spec.project != ProjectId::DEFAULT && spec.base.is_none() && spec.restored.is_none() => {
            let message = format!("there is no image {:?} in the project; nothing was made", spec.image);
            return Err(Refused { code: Code::NotFound, message, field: Some("image".into()) });
        }
        None => spec.clone(),
    };
    Ok(FleetEvent::VmAdded { spec, host: decision.chosen, decision: Arc::new(decision), operation, cards })
}
