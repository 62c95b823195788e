//! What a change of the fleet comes to. Pure.

use std::sync::Arc;

use hiveward_runtime::error::{Code, Refused};

use super::{
    event::{FleetChange, FleetEvent},
    fleet::{Drain, Fleet, HostEntry, need},
    image::ImageSpec,
    lost, reshape,
};
use crate::{
    id::{HostId, VmId},
    placement::vm::{Engine, Guest, Weights, Wish, survives_largest},
    swarm::event::Operation,
    vm::spec::VmSpec,
};

/// Of the whole cluster.
pub const HOSTS_MAX: usize = 10_000;
pub const VMS_MAX: usize = 100_000;
pub const IMAGES_MAX: usize = 1_000;

fn conflict(message: String) -> Refused {
    Refused { code: Code::Conflict, message, field: Some("name".into()) }
}

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
            let same = |other: &&super::fleet::HostEntry| other.spec.uri == spec.uri && other.spec.node == spec.node;
            if let Some(other) = fleet.hosts.values().find(same) {
                let message = format!("{} is host {} already", spec.uri, other.spec.name);
                return Err(Refused { code: Code::Conflict, message, field: Some("uri".into()) });
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
        FleetChange::AddVm { spec, on } => vec![add_vm(fleet, spec, *on, operation, |_| true)?],
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
        FleetChange::BeginReshape { vm, host, number, shape } => reshape::begin(fleet, *vm, *host, *number, shape)?,
        FleetChange::EndReshape { vm, host, number, reshaped, held } => {
            reshape::end(fleet, *vm, *host, *number, *reshaped, *held)
        }
        FleetChange::LetGo { vm, number } => reshape::let_go(fleet, *vm, *number),
        // Said again by the actor of the VM that it is made of.
        FleetChange::AddImage { spec } if fleet.images.contains_key(&spec.id) => Vec::new(),
        FleetChange::AddImage { spec } => {
            if fleet.image_named(&spec.name).is_some() {
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
        FleetChange::RemoveVm { vm } => match fleet.vms.get(vm) {
            Some(entry) => vec![FleetEvent::VmRemoved { vm: *vm, host: entry.host }],
            // Said again: it is so already.
            None => Vec::new(),
        },
    })
}

pub(super) fn wish<'a>(vm: VmId, spec: &'a VmSpec, pin: Option<HostId>) -> Wish<'a> {
    Wish {
        need: need(spec),
        strategy: spec.strategy,
        weights: Weights::default(),
        pin,
        zone: spec.zone.as_deref(),
        labels: &spec.host_labels,
        anti_affinity: &spec.anti_affinity,
        affinity: &spec.affinity,
        // The part of the id that is by chance.
        turn: vm.as_u128() as u64,
    }
}

/// What a drain of a host would come to now, one VM after another: where each goes, or why nowhere, so that it is stopped.
pub fn drain_plan(fleet: &Fleet, host: HostId) -> Vec<(VmId, Result<HostId, String>)> {
    let mut hosts = fleet.columns_without(host);
    let here = fleet.hosts.get(&host).map(|entry| entry.vms.clone()).unwrap_or_default();
    let mut plan = Vec::with_capacity(here.len());
    for vm in here {
        let Some(entry) = fleet.vms.get(&vm) else { continue };
        let wish = Wish { need: entry.need(), ..wish(vm, &entry.spec, None) };
        plan.push(match Engine::default().decide(&hosts, &wish) {
            Ok((at, decision)) => {
                hosts.take(at, wish.need, entry.spec.groups());
                (vm, Ok(decision.chosen))
            }
            Err(why) => (vm, Err(why.to_string())),
        });
    }
    plan
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
    if let Some(to) = to
        && !fleet.hosts.contains_key(&to)
    {
        return Err(Refused { field: Some("to".into()), ..Refused::not_found(to) });
    }
    // As if it were made anew, anywhere but where it is.
    let mut hosts = fleet.columns_without(from);
    if let Some(at) = hosts.position(from) {
        hosts.give_back(at, entry.need(), entry.spec.groups());
    }
    // What its present run holds goes with it.
    let wish = Wish { need: entry.need(), ..wish(vm, &entry.spec, to) };
    let (_, decision) = Engine::default()
        .decide(&hosts, &wish)
        .map_err(|why| Refused::new(Code::Refused, format!("{why}; {} stays where it is", entry.spec.name)))?;
    let (ours, theirs) = (fleet.hosts.get(&from), fleet.hosts.get(&decision.chosen));
    if let (Some(ours), Some(theirs)) = (ours, theirs)
        && ours.spec.scheme() != theirs.spec.scheme()
    {
        let message = format!("{} and {} have hypervisors of different kinds", ours.spec.name, theirs.spec.name);
        return refused(message);
    }
    if entry.spec.ha
        && let (Some(ours), Some(theirs)) = (ours, theirs)
        && ours.spec.disks_of() != theirs.spec.disks_of()
    {
        let message = format!(
            "{} is to come back when its host is lost, and {} does not share its disks",
            entry.spec.name, theirs.spec.name
        );
        return refused(message);
    }
    Ok(vec![FleetEvent::VmMoving { vm, from, to: decision.chosen }])
}

/// With all that its disks begin as, or nothing of it.
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
    let added = add_vm(fleet, spec, on, None, |other| other.spec.scheme() == host.spec.scheme())?;
    let images = images.iter().map(|spec| FleetEvent::ImageAdded { spec: spec.clone(), operation: None });
    Ok(images.chain([added]).collect())
}

fn add_vm(
    fleet: &Fleet,
    spec: &Arc<VmSpec>,
    on: Option<HostId>,
    operation: Option<Operation>,
    suits: impl Fn(&HostEntry) -> bool,
) -> Result<FleetEvent, Refused> {
    if fleet.vm_named(&spec.name).is_some() {
        return Err(conflict(format!("there is a VM named {:?} already", spec.name)));
    }
    if fleet.vms.len() >= VMS_MAX {
        return Err(Refused::new(Code::Limit, format!("there are {VMS_MAX} VMs; remove one first")));
    }
    if let Some(host) = on
        && !fleet.hosts.contains_key(&host)
    {
        return Err(Refused { field: Some("host".into()), ..Refused::not_found(host) });
    }
    let mut hosts = fleet.columns();
    for (host, _) in fleet.hosts.iter().filter(|(_, entry)| !suits(entry)) {
        hosts.close(*host);
    }
    if spec.ha {
        hosts.close_alone();
    }
    let wish = wish(spec.id, spec, on);
    let (at, decision) =
        Engine::default().decide(&hosts, &wish).map_err(|why| Refused::new(Code::Refused, format!("{why}; nothing was made")))?;
    // One that is not to come back takes room from those that are, so it is asked too.
    if spec.ha || fleet.vms.values().any(|entry| entry.spec.ha) {
        hosts.take(at, wish.need, spec.groups());
        let there = fleet.vms.iter().filter(|(_, entry)| entry.spec.ha);
        let guests = there.map(|(vm, entry)| reshape::guest(*vm, entry));
        let mut guests: Vec<_> = guests.collect();
        if spec.ha {
            guests.push(Guest { vm: spec.id, on: decision.chosen, wish });
        }
        survives_largest(&hosts, &guests).map_err(|why| {
            let (field, admitted) = if spec.ha { ("ha", " with `ha`") } else { ("memory", "") };
            let message = format!("{why}; so this VM is not admitted{admitted}, and nothing was made");
            Refused { field: Some(field.into()), ..Refused::new(Code::Refused, message) }
        })?;
    }
    // What the name means now it means for this VM for ever.
    let spec = match fleet.image_named(&spec.image).filter(|_| spec.base.is_none()) {
        Some(image) => Arc::new(VmSpec { base: Some(image), ..(**spec).clone() }),
        None => spec.clone(),
    };
    Ok(FleetEvent::VmAdded { spec, host: decision.chosen, decision: Arc::new(decision), operation })
}
