//! Tells whether the loss of the fullest host could be made good: admission for VMs that are to come back elsewhere.

use std::collections::BTreeSet;

use hiveward_kernel::id::{HostId, VmId};

use super::{Decision, Engine, Hosts, Need, Wish};

/// A VM that is to come back, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    pub vm: VmId,
    pub on: HostId,
    pub wish: Wish<'a>,
}

/// The number of the fullest hosts that are tried, by memory and by CPU: in a cluster of no more, every single one.
const LOSSES_TRIED_MAX: usize = 16;

/// Checks that all of `guests` on one of the fullest hosts would find a place on the others, whichever of those is lost, one
/// after another, the largest first. The error says which one would not, and why.
pub fn survives_largest(hosts: &Hosts, guests: &[Guest<'_>]) -> Result<(), String> {
    let mut held = vec![(0_i64, 0_i64); hosts.len()];
    for guest in guests {
        if let Some(held) = hosts.position(guest.on).and_then(|at| held.get_mut(at)) {
            held.0 += i64::from(guest.wish.need.memory_mib);
            held.1 += i64::from(guest.wish.need.cpu_milli);
        }
    }
    // Those that have the same disks stand in for each other, so there are fullest ones among each such group.
    let groups: BTreeSet<&String> = hosts.disks.iter().flatten().collect();
    for group in groups {
        let of_group = |at: &usize| hosts.disks.get(*at).and_then(Option::as_ref) == Some(group);
        let mut by_memory: Vec<usize> = (0..held.len()).filter(of_group).filter(|at| held[*at] != (0, 0)).collect();
        let mut by_cpu = by_memory.clone();
        by_memory.sort_unstable_by_key(|at| (std::cmp::Reverse(held[*at].0), *at));
        by_cpu.sort_unstable_by_key(|at| (std::cmp::Reverse(held[*at].1), *at));
        by_memory.truncate(LOSSES_TRIED_MAX);
        by_cpu.truncate(LOSSES_TRIED_MAX);
        let tried: BTreeSet<usize> = by_memory.into_iter().chain(by_cpu).collect();
        tried.into_iter().try_for_each(|at| survives(hosts, guests, at))?;
    }
    Ok(())
}

fn survives(hosts: &Hosts, guests: &[Guest<'_>], lost: usize) -> Result<(), String> {
    let Some(lost_id) = hosts.id(lost) else { return Ok(()) };
    let places = come_back(hosts, guests, lost_id);
    let of = places.len();
    match places.into_iter().find_map(|(vm, place)| Some((vm, place.err()?))) {
        Some((vm, why)) => Err(format!("if {lost_id} were lost, {vm} of its {of} VMs could not come back: {why}")),
        None => Ok(()),
    }
}

/// Says where each of `guests` that was on a lost host comes back, or why it cannot: one after another, the largest first.
///
/// What was admitted was tried with this same function, on the same hosts in the same order, so that what it promised is what
/// happens when nothing else changed in between.
pub fn come_back(hosts: &Hosts, guests: &[Guest<'_>], lost: HostId) -> Vec<(VmId, Result<Decision, String>)> {
    let mut moving: Vec<_> = guests.iter().filter(|guest| guest.on == lost).collect();
    if moving.is_empty() {
        return Vec::new();
    }
    moving.sort_unstable_by_key(|guest| {
        let Need { cpu_milli, memory_mib } = guest.wish.need;
        (std::cmp::Reverse(memory_mib), std::cmp::Reverse(cpu_milli), guest.vm)
    });
    let mut after = hosts.clone();
    if let Some(lost) = hosts.position(lost) {
        after.lose(lost);
    }
    let mut engine = Engine::default();
    let place = |guest: &Guest<'_>| {
        // Where it was named to be is lost: it may go anywhere else.
        let wish = Wish { pin: None, ..guest.wish };
        let decided = engine.decide(&after, &wish).map(|(at, decision)| {
            after.take(at, wish.need, wish.anti_affinity.iter().chain(wish.affinity).map(String::as_str));
            decision
        });
        (guest.vm, decided)
    };
    moving.into_iter().map(place).collect()
}

impl Hosts {
    /// Closes the hosts whose disks no other host has, for a VM that is to come back.
    pub fn close_alone(&mut self) {
        for (disks, closed) in self.disks.iter().zip(&mut self.closed) {
            if *closed == super::Reject::None && disks.is_none() {
                *closed = super::Reject::Disks;
            }
        }
    }

    /// Takes a host away, with all that is on it, and leaves only those open that have its VMs' disks.
    fn lose(&mut self, at: usize) {
        let its = self.disks.get(at).cloned().flatten();
        for (other, closed) in self.disks.iter().zip(&mut self.closed) {
            if *closed == super::Reject::None && (its.is_none() || *other != its) {
                *closed = super::Reject::Disks;
            }
        }
        if let Some(closed) = self.closed.get_mut(at) {
            *closed = super::Reject::Unreachable;
        }
        let on = u32::try_from(at).unwrap_or(u32::MAX);
        for members in self.groups.values_mut() {
            members.remove(&on);
        }
        self.groups.retain(|_, members| !members.is_empty());
    }
}
