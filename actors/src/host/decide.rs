//! What a change of the fleet comes to. Pure.

use std::sync::Arc;

use hiveward_runtime::error::{Code, Refused};

use super::{
    event::{FleetChange, FleetEvent},
    fleet::{Drain, Fleet, need},
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
        FleetChange::AddVm { spec, on } => vec![add_vm(fleet, spec, *on, operation)?],
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
        FleetChange::RemoveVm { vm } => match fleet.vms.get(vm) {
            Some(entry) => vec![FleetEvent::VmRemoved { vm: *vm, host: entry.host }],
            // Said again: it is so already.
            None => Vec::new(),
        },
    })
}

fn wish<'a>(vm: VmId, spec: &'a VmSpec, pin: Option<HostId>) -> Wish<'a> {
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

fn add_vm(fleet: &Fleet, spec: &Arc<VmSpec>, on: Option<HostId>, operation: Option<Operation>) -> Result<FleetEvent, Refused> {
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
    let wish = wish(spec.id, spec, on);
    let (at, decision) =
        Engine::default().decide(&hosts, &wish).map_err(|why| Refused::new(Code::Refused, format!("{why}; nothing was made")))?;
    if spec.ha {
        hosts.take(at, wish.need, spec.groups());
        let there = fleet.vms.iter().filter(|(_, entry)| entry.spec.ha);
        let guests = there.map(|(vm, entry)| Guest { vm: *vm, on: entry.host, wish: self::wish(*vm, &entry.spec, None) });
        let mut guests: Vec<_> = guests.collect();
        guests.push(Guest { vm: spec.id, on: decision.chosen, wish });
        survives_largest(&hosts, &guests).map_err(|why| {
            let message = format!("{why}; so this VM is not admitted with `ha`, and nothing was made");
            Refused { field: Some("ha".into()), ..Refused::new(Code::Refused, message) }
        })?;
    }
    Ok(FleetEvent::VmAdded { spec: spec.clone(), host: decision.chosen, decision: Arc::new(decision), operation })
}
