//! Decides what becomes of VMs whose host is lost. Pure.
//!
//! A host that is a part of its node (a local hypervisor) is lost with it. Its VMs come back elsewhere only when it is certain
//! that none of them runs there: after the node's lease and a margin, by when the node's fence has ended them
//! ([`fence`](hiveward_machines::host::fence)), or by a person's word. A host that another node can reach is no such host: that
//! node looks.

use std::{sync::Arc, time::Duration};

use hiveward_kernel::{
    id::{HostId, VmId},
    operation::Operation,
};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    op::NodeId,
};

use crate::{
    host::{
        event::FleetEvent,
        fleet::{Fleet, HostEntry, Lost},
        placing::wish_of,
        spec::{HostSpec, HostUri, Scheme},
    },
    placement::vm::{Decision, Engine, Guest, Reject, come_back},
    roster::event::NodeRecord,
};

/// The time that a node's fence may take after the end of its lease; the fence begins before that end.
pub const FENCE_MARGIN: Duration = Duration::from_secs(2);

/// Tells whether what comes back elsewhere is ended on the host by its own node, before that node's lease is over.
pub fn is_fenced(spec: &HostSpec, node: Option<&NodeRecord>) -> bool {
    HostUri::parse(&spec.uri).is_ok_and(|uri| match uri.scheme {
        // Its guests are in the node's own process.
        Scheme::Simulated => true,
        Scheme::Libvirt => uri.is_local() && uri.has_disks() && node.is_some_and(|record| record.fences),
    })
}

/// Decides that the hosts which are a part of this node are lost with it.
pub fn with_node(fleet: &Fleet, node: NodeId, record: Option<&NodeRecord>, why: &str) -> Vec<FleetEvent> {
    let of_it = |entry: &&HostEntry| {
        let local = HostUri::parse(&entry.spec.uri).is_ok_and(|uri| uri.is_local());
        local && entry.place.node == Some(node) && entry.lost.is_none()
    };
    let lost = |entry: &HostEntry| FleetEvent::HostLost {
        host: entry.spec.id,
        node,
        fences: is_fenced(&entry.spec, record),
        why: why.to_owned(),
    };
    fleet.hosts.values().filter(of_it).map(lost).collect()
}

/// Iterates over lost hosts whose VMs wait only until the node has surely ended them.
pub fn being_fenced(fleet: &Fleet) -> impl Iterator<Item = (HostId, &Lost)> {
    let lost = fleet.hosts.iter().filter(|(_, entry)| entry.place.node.is_none());
    lost.filter_map(|(host, entry)| Some((*host, entry.lost.as_ref().filter(|lost| lost.fences && !lost.off)?)))
}

/// Decides that the host is off for certain; what is to come back does so where there is room.
pub fn fenced(fleet: &Fleet, host: HostId) -> Vec<FleetEvent> {
    let Some(lost) = fleet.hosts.get(&host).and_then(|entry| entry.lost.as_ref()) else { return Vec::new() };
    let off = FleetEvent::HostOff { host, by: None, why: lost.why.clone(), operation: None };
    off_with_all(fleet, host, off)
}

fn off_with_all(fleet: &Fleet, host: HostId, off: FleetEvent) -> Vec<FleetEvent> {
    let mut then = fleet.clone();
    then.apply(&off, WallMs(0));
    let mut events = vec![off];
    events.extend(bring_back(&then, host));
    events
}

/// Decides what follows from a person's word that nothing runs on a host; nothing if it is off already.
/// Errors: `confirm` is not the host's name, or the host is not known to be lost.
pub fn declare(
    fleet: &Fleet,
    host: HostId,
    confirm: &str,
    by: &Arc<str>,
    operation: Option<Operation>,
) -> Result<Vec<FleetEvent>, Refused> {
    let entry = fleet.hosts.get(&host).ok_or_else(|| Refused::not_found(host))?;
    let name = &entry.spec.name;
    if confirm != name {
        let message = format!("to say that nothing runs on it, repeat its name: {name:?}");
        return Err(Refused::invalid("confirm", message));
    }
    if entry.lost.as_ref().is_some_and(|lost| lost.off) {
        return Ok(Vec::new());
    }
    if entry.lost.is_none() && entry.unreachable.is_none() && entry.place.node.is_some() {
        let message = format!(
            "{name} is not known to be lost: drain it instead; if it has failed just now, its node's lease is not over yet"
        );
        return Err(Refused::new(Code::Refused, message));
    }
    let off = FleetEvent::HostOff { host, by: Some(by.clone()), why: format!("{by} said that it is off"), operation };
    Ok(off_with_all(fleet, host, off))
}

/// Decides what comes back from all hosts that are off and now can; also that it cannot, where that is news.
pub fn bring_all_back(fleet: &Fleet) -> Vec<FleetEvent> {
    let off: Vec<HostId> = fleet.hosts.iter().filter(|(_, entry)| is_off(entry)).map(|(host, _)| *host).collect();
    let mut events = Vec::new();
    // Each on what the ones before it will have made.
    let mut then: Option<Fleet> = None;
    for host in off {
        let now = then.as_ref().unwrap_or(fleet);
        let more = bring_back(now, host);
        if !more.is_empty() {
            let then = then.get_or_insert_with(|| fleet.clone());
            more.iter().for_each(|event| then.apply(event, WallMs(0)));
            events.extend(more);
        }
    }
    events
}

/// Tells whether it is certain that nothing which comes back elsewhere runs on the host.
pub fn is_off(entry: &HostEntry) -> bool {
    entry.lost.as_ref().is_some_and(|lost| lost.off)
}

fn bring_back(fleet: &Fleet, host: HostId) -> Vec<FleetEvent> {
    let Some(lost) = fleet.hosts.get(&host).filter(|entry| is_off(entry)) else { return Vec::new() };
    let back: Vec<VmId> = lost.vms.iter().filter(|vm| fleet.vms.get(vm).is_some_and(|entry| entry.spec.ha)).copied().collect();
    if back.is_empty() {
        return Vec::new();
    }
    let mut fleet_then = fleet.clone();
    let mut events = Vec::new();
    let mut settle = |fleet: &mut Fleet, vm: VmId, place: Result<Decision, String>| {
        let Some(entry) = fleet.vms.get(&vm) else { return };
        let event = match place {
            Ok(decision) => FleetEvent::VmComesBack {
                vm,
                from: host,
                to: decision.chosen,
                epoch: entry.epoch + 1,
                decision: Arc::new(decision),
            },
            Err(why) if entry.waits.as_deref() == Some(&*why) => return,
            Err(why) => FleetEvent::VmWaits { vm, host, why: why.into() },
        };
        fleet.apply(&event, WallMs(0));
        events.push(event);
    };
    // One on its way elsewhere may run there by now: it comes back there, or nowhere while that cannot be asked.
    let is_bound = |vm: &VmId| {
        let to = fleet.vms.get(vm).and_then(|entry| entry.moving);
        to.is_some_and(|to| fleet.hosts.get(&to).is_some_and(|entry| !is_off(entry)))
    };
    let (bound, free): (Vec<VmId>, Vec<VmId>) = back.into_iter().partition(is_bound);
    for vm in bound {
        let place = to_where_it_went(&fleet_then, vm);
        settle(&mut fleet_then, vm, place);
    }
    let (hosts, then) = (fleet_then.columns(), fleet_then.clone());
    let guests = free.iter().filter_map(|vm| then.vms.get(vm).map(|entry| (vm, entry)));
    let guests: Vec<_> = guests.map(|(vm, entry)| Guest { vm: *vm, on: host, wish: wish_of(*vm, entry, None) }).collect();
    for (vm, place) in come_back(&hosts, &guests, host) {
        settle(&mut fleet_then, vm, place);
    }
    events
}

fn to_where_it_went(fleet: &Fleet, vm: VmId) -> Result<Decision, String> {
    let nowhere = || "it belongs nowhere".to_owned();
    let entry = fleet.vms.get(&vm).ok_or_else(nowhere)?;
    let to = entry.moving.ok_or_else(nowhere)?;
    let mut hosts = fleet.columns();
    let at = hosts.position(to).ok_or_else(nowhere)?;
    if !hosts.is_open(at) {
        let why = fleet.hosts.get(&to).and_then(HostEntry::closed).map_or("takes nothing", Reject::words);
        return Err(format!("it was on its way to {to}, which {why}: it may run there"));
    }
    // Room for it is reserved there already.
    hosts.give_back(at, entry.need(), entry.spec.groups());
    Engine::default().decide(&hosts, &wish_of(vm, entry, Some(to))).map(|(_, decision)| decision)
}
