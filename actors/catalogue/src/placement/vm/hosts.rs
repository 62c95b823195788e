//! Keeps hosts as columns: what one decision scans is together in memory.

use std::collections::{BTreeMap, HashMap};

use hiveward_kernel::id::HostId;
use serde::{Deserialize, Serialize};

use super::Reject;

/// The amount that a VM takes of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The CPU, in thousandths of one.
    pub cpu_milli: i32,
    pub memory_mib: i32,
}

impl Need {
    /// Returns the need of so many CPUs and bytes of memory; part of a MiB counts as a whole one.
    pub fn of(cpus: u32, memory_bytes: u64) -> Self {
        let memory_mib = i32::try_from(memory_bytes.div_ceil(1 << 20)).unwrap_or(i32::MAX);
        Self { cpu_milli: i32::try_from(u64::from(cpus) * 1000).unwrap_or(i32::MAX), memory_mib }
    }
}

/// The facts about one host as they are told to [`Hosts`].
#[derive(Clone, Debug)]
pub struct HostFacts {
    pub host: HostId,
    /// The reason why it takes nothing, if it does not.
    pub closed: Option<Reject>,
    /// The amount that it may promise, overcommit counted in.
    pub total: Need,
    pub used: Need,
    pub zone: String,
    pub labels: BTreeMap<String, String>,
    /// The name of its set of disks: hosts with the same have the same disks; none where no other host has them.
    pub disks: Option<String>,
    /// Whether networks between hosts can be on it.
    pub overlays: bool,
}

/// The columns of all hosts. Positions are those in which hosts were added, and never change.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    pub(super) ids: Vec<HostId>,
    pub(super) closed: Vec<Reject>,
    pub(super) cpu_free: Vec<i32>,
    pub(super) memory_free: Vec<i32>,
    pub(super) cpu_total: Vec<i32>,
    pub(super) memory_total: Vec<i32>,
    /// One over the total: a multiplication is cheaper than a division.
    pub(super) cpu_share: Vec<f32>,
    pub(super) memory_share: Vec<f32>,
    pub(super) zone: Vec<u16>,
    pub(super) zones: Vec<String>,
    pub(super) labels: Vec<BTreeMap<String, String>>,
    pub(super) disks: Vec<Option<String>>,
    pub(super) overlays: Vec<bool>,
    at: HashMap<HostId, u32>,
    /// The number of VMs of each group on each host.
    pub(super) groups: HashMap<String, HashMap<u32, u32>>,
}

impl Hosts {
    /// Counts the hosts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Tells whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the position of a host; `None` if it was not added.
    pub fn position(&self, host: HostId) -> Option<usize> {
        self.at.get(&host).map(|at| *at as usize)
    }

    /// Returns the host at a position.
    pub fn id(&self, at: usize) -> Option<HostId> {
        self.ids.get(at).copied()
    }

    /// Returns what may still be promised of a host. It is negative if more is promised than there is, and 0 without the host.
    pub fn free(&self, at: usize) -> Need {
        Need {
            cpu_milli: self.cpu_free.get(at).copied().unwrap_or(0),
            memory_mib: self.memory_free.get(at).copied().unwrap_or(0),
        }
    }

    /// Returns what may be promised of a host in all; 0 without the host.
    pub fn total(&self, at: usize) -> Need {
        Need {
            cpu_milli: self.cpu_total.get(at).copied().unwrap_or(0),
            memory_mib: self.memory_total.get(at).copied().unwrap_or(0),
        }
    }

    /// Tells whether nothing closes a host.
    pub fn is_open(&self, at: usize) -> bool {
        self.closed.get(at) == Some(&Reject::None)
    }

    /// Closes a host for this reason, and returns what was said of it before. [`Reject::None`] opens it again.
    pub fn close(&mut self, at: usize, why: Reject) -> Reject {
        self.closed.get_mut(at).map_or(Reject::Unknown, |closed| std::mem::replace(closed, why))
    }

    /// Closes every open host for which `bars` gives a reason.
    pub fn close_where(&mut self, bars: impl Fn(HostId) -> Option<Reject>) {
        for (host, closed) in self.ids.iter().zip(&mut self.closed) {
            if *closed == Reject::None
                && let Some(why) = bars(*host)
            {
                *closed = why;
            }
        }
    }

    /// Tells whether both hosts have the same disks.
    pub fn share_disks(&self, one: usize, other: usize) -> bool {
        let of = |at: usize| self.disks.get(at).and_then(Option::as_ref);
        of(one).is_some() && of(one) == of(other)
    }

    /// Counts the VMs of these groups that are in the zone of a host.
    pub(super) fn in_zone_of(&self, at: usize, groups: &[String]) -> u32 {
        let zone = self.zone.get(at);
        let of = groups.iter().filter_map(|group| self.groups.get(group)).flatten();
        of.filter(|(on, _)| self.zone.get(**on as usize) == zone).map(|(_, count)| count).sum()
    }

    /// Adds a host after the others.
    pub fn push(&mut self, facts: HostFacts) {
        let zone = self.zones.iter().position(|zone| *zone == facts.zone).unwrap_or_else(|| {
            self.zones.push(facts.zone.clone());
            self.zones.len() - 1
        });
        self.at.insert(facts.host, u32::try_from(self.ids.len()).unwrap_or(u32::MAX));
        self.ids.push(facts.host);
        self.closed.push(facts.closed.unwrap_or(Reject::None));
        self.cpu_free.push(facts.total.cpu_milli.saturating_sub(facts.used.cpu_milli));
        self.memory_free.push(facts.total.memory_mib.saturating_sub(facts.used.memory_mib));
        self.cpu_total.push(facts.total.cpu_milli);
        self.memory_total.push(facts.total.memory_mib);
        self.cpu_share.push(1.0 / facts.total.cpu_milli.max(1) as f32);
        self.memory_share.push(1.0 / facts.total.memory_mib.max(1) as f32);
        self.zone.push(u16::try_from(zone).unwrap_or(u16::MAX));
        self.labels.push(facts.labels);
        self.disks.push(facts.disks);
        self.overlays.push(facts.overlays);
    }

    /// Notes that so many of a group are on a host already.
    pub fn count(&mut self, group: &str, host: HostId, count: u32) {
        if let Some(at) = self.at.get(&host) {
            self.groups.entry(group.to_owned()).or_default().insert(*at, count);
        }
    }

    /// Reserves what a VM needs on a host.
    pub fn take<'a>(&mut self, at: usize, need: Need, groups: impl Iterator<Item = &'a str>) {
        self.change(at, need, 1);
        for group in groups {
            let on = u32::try_from(at).unwrap_or(u32::MAX);
            match self.groups.get_mut(group) {
                Some(hosts) => *hosts.entry(on).or_default() += 1,
                None => drop(self.groups.insert(group.to_owned(), HashMap::from([(on, 1)]))),
            }
        }
    }

    /// Gives back what [`take`](Self::take) reserved.
    pub fn give_back<'a>(&mut self, at: usize, need: Need, groups: impl Iterator<Item = &'a str>) {
        self.change(at, need, -1);
        let on = u32::try_from(at).unwrap_or(u32::MAX);
        for group in groups {
            let Some(hosts) = self.groups.get_mut(group) else { continue };
            if let Some(count) = hosts.get_mut(&on) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    hosts.remove(&on);
                }
            }
            if hosts.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    fn change(&mut self, at: usize, need: Need, sign: i32) {
        if let (Some(cpu), Some(memory)) = (self.cpu_free.get_mut(at), self.memory_free.get_mut(at)) {
            *cpu = cpu.saturating_sub(sign.saturating_mul(need.cpu_milli));
            *memory = memory.saturating_sub(sign.saturating_mul(need.memory_mib));
        }
    }
}
