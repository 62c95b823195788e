//! Chooses a host for a VM, as the fleet is: the same way for one that is made, asked about, moved or brought away. Pure.

use std::collections::{BTreeMap, BTreeSet};

use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};

use super::{
    fleet::{Fleet, HostEntry, VmEntry, need},
    reshape,
};
use crate::{
    placement::vm::{
        AsWished, Decision, Engine, Guest, Hosts, Leaving, PlacementStrategy, Reject, Weights, Wish,
        rebalance::{Amount, Fill, Stays, Tenant},
        survives_largest,
    },
    vm::spec::VmSpec,
};

/// Returns what a VM that is not on any network between hosts wants of its host.
pub fn wish<'a>(vm: VmId, spec: &'a VmSpec, pin: Option<HostId>) -> Wish<'a> {
    Wish {
        need: need(spec),
        strategy: spec.strategy,
        weights: Weights::default(),
        pin,
        zone: spec.zone.as_deref(),
        labels: &spec.host_labels,
        anti_affinity: &spec.anti_affinity,
        affinity: &spec.affinity,
        overlay: false,
        // The part of the id that is by chance.
        turn: vm.as_u128() as u64,
    }
}

/// Returns what a VM that is there already wants of its host.
pub fn wish_of<'a>(vm: VmId, entry: &'a VmEntry, pin: Option<HostId>) -> Wish<'a> {
    Wish { overlay: entry.needs_overlay(), ..wish(vm, &entry.spec, pin) }
}

/// Chooses the host for a VM that is not there yet, of those that `suits` says could run it.
///
/// Inner error: it is not taken in, with what is at fault in what was wished; the engine keeps the trace of either. Outer error:
/// the host that was named is none.
pub fn select(
    fleet: &Fleet,
    engine: &mut Engine,
    vm: VmId,
    wish: &Wish<'_>,
    ha: bool,
    suits: impl Fn(&HostEntry) -> bool,
) -> Result<Result<Decision, Refused>, Refused> {
    if let Some(host) = wish.pin
        && !fleet.hosts.contains_key(&host)
    {
        return Err(Refused { field: Some("host".into()), ..Refused::not_found(host) });
    }
    let mut hosts = fleet.columns();
    hosts.close_where(|host| fleet.hosts.get(&host).is_some_and(|entry| !suits(entry)).then_some(Reject::Kind));
    if ha {
        hosts.close_alone();
    }
    let (at, decision) = match AsWished.select(engine, &hosts, wish) {
        Ok(chosen) => chosen,
        Err(why) => return Ok(Err(Refused::new(Code::Refused, why))),
    };
    // One that is not to come back takes room from those that are, so it is asked too.
    if ha || fleet.vms.values().any(|entry| entry.spec.ha) {
        hosts.take(at, wish.need, wish.groups());
        let there = fleet.vms.iter().filter(|(_, entry)| entry.spec.ha);
        let guests = there.map(|(vm, entry)| reshape::guest(*vm, entry));
        let mut guests: Vec<_> = guests.collect();
        if ha {
            guests.push(Guest { vm, on: decision.chosen, wish: *wish });
        }
        if let Err(why) = survives_largest(&hosts, &guests) {
            let (field, admitted) = if ha { ("ha", " with `ha`") } else { ("memory", "") };
            let message = format!("{why}; so this VM is not admitted{admitted}");
            return Ok(Err(Refused { field: Some(field.into()), ..Refused::new(Code::Refused, message) }));
        }
    }
    Ok(Ok(decision))
}

/// Returns why nothing that runs on one host can be brought to another, whatever room there is; `None` if it can.
pub fn bars(from: &HostEntry, to: &HostEntry) -> Option<Reject> {
    let local = super::spec::HostUri::parse(&to.spec.uri).is_ok_and(|uri| uri.is_local());
    if from.spec.scheme() != to.spec.scheme() {
        Some(Reject::Kind)
    } else if local && to.spec.peer_uri.is_none() && to.place.node != from.place.node {
        // Its URI means another host on every node.
        Some(Reject::Path)
    } else {
        None
    }
}

/// Returns the hosts as placement sees them for what leaves a host.
fn columns_from(fleet: &Fleet, from: HostId) -> Hosts {
    let mut hosts = fleet.columns_without(from);
    if let Some(ours) = fleet.hosts.get(&from) {
        hosts.close_where(|host| fleet.hosts.get(&host).and_then(|theirs| bars(ours, theirs)));
    }
    hosts
}

/// Returns what a VM that is there takes along: also what its present run holds.
fn present(vm: VmId, entry: &VmEntry) -> Wish<'_> {
    Wish { need: entry.need(), ..wish_of(vm, entry, None) }
}

fn leaving(vm: VmId, entry: &VmEntry) -> Leaving<'_> {
    Leaving { vm, wish: present(vm, entry), keeps_disks: entry.spec.ha }
}

/// Chooses the host that a VM is brought to: the one that is named, or the best.
/// Errors: the named host is none, or nothing can go there; the VM stays where it is.
pub fn another_host(fleet: &Fleet, vm: VmId, entry: &VmEntry, to: Option<HostId>) -> Result<Decision, Refused> {
    let refused = |message: String| Refused::new(Code::Refused, message);
    let mut hosts = columns_from(fleet, entry.host);
    if let Some(to) = to {
        let Some(theirs) = fleet.hosts.get(&to) else {
            return Err(Refused { field: Some("to".into()), ..Refused::not_found(to) });
        };
        let ours = fleet.hosts.get(&entry.host);
        if let Some(bar) = ours.and_then(|ours| bars(ours, theirs)) {
            return Err(refused(format!("{} {}; {} stays where it is", theirs.spec.name, bar.words(), entry.spec.name)));
        }
        if entry.spec.ha && ours.is_some_and(|ours| ours.spec.disks_of() != theirs.spec.disks_of()) {
            let (name, other) = (&entry.spec.name, &theirs.spec.name);
            return Err(refused(format!("{name} is to come back when its host is lost, and {other} does not share its disks")));
        }
        // What else speaks against it is said of it alone.
        hosts.close_where(|host| (host != to).then_some(Reject::NotPinned));
    }
    let leaving = leaving(vm, entry);
    let placed = AsWished.evacuate(&hosts, entry.host, &[leaving]).pop();
    let placed = placed.map_or_else(|| Err("it is nowhere".to_owned()), |(_, placed)| placed);
    placed.map_err(|why| refused(format!("{why}; {} stays where it is", entry.spec.name)))
}

/// Returns what a drain of a host would come to now, the largest VM first: where each goes, or why nowhere, so that it is
/// stopped. `stays` says of each that it does not run (`None`), that it may go, or why it can go nowhere.
pub fn evacuate(
    fleet: &Fleet,
    host: HostId,
    stays: impl Fn(VmId) -> Option<Result<(), String>>,
) -> Vec<(VmId, Result<Decision, String>)> {
    let here = fleet.hosts.get(&host).map(|entry| entry.vms.clone()).unwrap_or_default();
    let (mut plan, mut go) = (Vec::new(), Vec::new());
    for (vm, entry) in here.into_iter().filter_map(|vm| Some((vm, fleet.vms.get(&vm)?))) {
        match stays(vm) {
            None => {}
            Some(Ok(())) => go.push(leaving(vm, entry)),
            Some(Err(why)) => plan.push((vm, Err(why))),
        }
    }
    let mut placed = AsWished.evacuate(&columns_from(fleet, host), host, &go);
    placed.append(&mut plan);
    placed
}

/// The facts about a VM beside what the fleet says.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    pub stays: Option<Stays>,
    pub dirty_bytes_per_s: Option<u64>,
    /// The CPUs and bytes of memory that it used over the window; needed in a plan by what is used.
    pub used: Option<(f32, u64)>,
}

/// The measure by which hosts are made even.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Basis {
    /// The share of what may be promised that VMs were made with.
    #[default]
    Reserved,
    /// The share of what is there that VMs were measured to use.
    Used,
}

/// Everything that a rebalancing plan is made of.
pub struct Scene<'a> {
    pub hosts: Hosts,
    /// The fill of each host by its position; none for one that takes no part.
    pub fills: Vec<Option<Fill>>,
    pub tenants: Vec<Tenant<'a>>,
    /// The hosts that take no part, and why.
    pub apart: Vec<(HostId, Reject)>,
}

const MIB: f32 = 1_048_576.0;

/// Collects the hosts that take VMs, with what is on them. `about` tells what is known of each VM; `cool_down` is how long
/// one that moved stays.
pub fn scene<'a>(
    fleet: &'a Fleet,
    basis: Basis,
    now: WallMs,
    cool_down: std::time::Duration,
    about: impl Fn(VmId) -> About,
) -> Scene<'a> {
    let mut tenants: Vec<Tenant<'a>> = Vec::with_capacity(fleet.vms.len());
    let mut used: BTreeMap<HostId, Amount> = BTreeMap::new();
    let mut dark: BTreeSet<HostId> = BTreeSet::new();
    for (vm, entry) in &fleet.vms {
        let (about, wish) = (about(*vm), present(*vm, entry));
        let weighs = match (basis, about.used) {
            (Basis::Reserved, _) => {
                Some(Amount { cpu_milli: wish.need.cpu_milli as f32, memory_mib: wish.need.memory_mib as f32 })
            }
            (Basis::Used, Some((cpus, bytes))) => Some(Amount { cpu_milli: cpus * 1e3, memory_mib: bytes as f32 / MIB }),
            (Basis::Used, None) => None,
        };
        let lately = entry.moved_at.is_some_and(|at| now.since(at) < cool_down);
        let stays = match about.stays {
            _ if entry.moving.is_some() => Some(Stays::Busy),
            None if weighs.is_none() => Some(Stays::NotMeasured),
            None if lately => Some(Stays::CoolDown),
            stays => stays,
        };
        if weighs.is_none() && stays != Some(Stays::Off) {
            dark.insert(entry.host);
        }
        let weighs = weighs.unwrap_or_default();
        let sum = used.entry(entry.host).or_default();
        sum.cpu_milli += weighs.cpu_milli;
        sum.memory_mib += weighs.memory_mib;
        tenants.push(Tenant {
            vm: *vm,
            on: entry.host,
            wish,
            weighs,
            stays,
            ha: entry.spec.ha,
            memory_bytes: about.used.map_or(entry.spec.memory_bytes, |(_, bytes)| bytes.min(entry.spec.memory_bytes)),
            disk_bytes: entry.spec.disks.iter().map(|disk| disk.size_bytes).sum(),
            dirty_bytes_per_s: about.dirty_bytes_per_s,
        });
    }
    // The order of a map is another on every node.
    tenants.sort_unstable_by_key(|tenant| tenant.vm);
    let mut apart = Vec::new();
    let fill = |(host, entry): (&HostId, &HostEntry)| {
        let why = entry.closed().or(dark.contains(host).then_some(Reject::NotMeasured));
        let (None, Some(capacity)) = (why, &entry.capacity) else {
            apart.push((*host, why.unwrap_or(Reject::Unknown)));
            return None;
        };
        let total = entry.total();
        Some(match basis {
            Basis::Reserved => Fill {
                taken: Amount { cpu_milli: entry.used.cpu_milli as f32, memory_mib: entry.used.memory_mib as f32 },
                of: Amount { cpu_milli: total.cpu_milli as f32, memory_mib: total.memory_mib as f32 },
            },
            Basis::Used => Fill {
                taken: used.get(host).copied().unwrap_or_default(),
                of: Amount { cpu_milli: capacity.cpus as f32 * 1e3, memory_mib: capacity.memory_bytes as f32 / MIB },
            },
        })
    };
    let fills = fleet.hosts.iter().map(fill).collect();
    Scene { hosts: fleet.columns(), fills, tenants, apart }
}
