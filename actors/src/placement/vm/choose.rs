//! One decision: who is left out and why, what each of the others scores, and who is best.
//!
//! Two passes without branches over columns; what is rare (pins, labels, zones, groups) is marked before them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Decision, Hosts, LeftOut, Need, SHOWN_MAX, Scored, Strategy, Weights};
use crate::id::HostId;

/// Why a host was not considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Reject {
    None = 0,
    Unknown,
    Unreachable,
    Draining,
    NotPinned,
    Zone,
    Label,
    AntiAffinity,
    Affinity,
    Cpu,
    Memory,
}

impl Reject {
    const COUNT: usize = 11;
    const ALL: [Self; Self::COUNT] = [
        Self::None,
        Self::Unknown,
        Self::Unreachable,
        Self::Draining,
        Self::NotPinned,
        Self::Zone,
        Self::Label,
        Self::AntiAffinity,
        Self::Affinity,
        Self::Cpu,
        Self::Memory,
    ];

    pub const fn words(self) -> &'static str {
        match self {
            Self::None => "is eligible",
            Self::Unknown => "was not reached yet",
            Self::Unreachable => "cannot be reached",
            Self::Draining => "is drained",
            Self::NotPinned => "is not the host that was named",
            Self::Zone => "is in another zone",
            Self::Label => "lacks a label",
            Self::AntiAffinity => "has one of its anti-affinity group",
            Self::Affinity => "has none of its affinity group",
            Self::Cpu => "has too little free CPU",
            Self::Memory => "has too little free memory",
        }
    }
}

/// What a VM wants of its host.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub need: Need,
    pub strategy: Strategy,
    pub weights: Weights,
    pub pin: Option<HostId>,
    pub zone: Option<&'a str>,
    pub labels: &'a BTreeMap<String, String>,
    pub anti_affinity: &'a [String],
    pub affinity: &'a [String],
    /// Turns the order in which equal hosts are taken; of the VM's id.
    pub turn: u64,
}

/// Everything one decision was made from, by the hosts' positions. Kept between decisions, so that none allocates.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub rejects: Vec<Reject>,
    /// Of a host that was left out it means nothing.
    pub scores: Vec<f32>,
}

/// Makes decisions.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    trace: Trace,
    zone_members: Vec<u32>,
}

impl Engine {
    /// Of the last decision.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The best host's position; `None` if every host is left out. The trace says why.
    pub fn place(&mut self, hosts: &Hosts, wish: &Wish<'_>) -> Option<usize> {
        self.mark(hosts, wish);
        self.score(hosts, wish);
        self.crowded_zones(hosts, wish);
        self.best(wish.turn)
    }

    /// The decision to be kept, or the sentence that says why there is none.
    pub fn decide(&mut self, hosts: &Hosts, wish: &Wish<'_>) -> Result<(usize, Decision), String> {
        let best = self.place(hosts, wish);
        let left_out = self.left_out();
        let Some(best) = best else {
            let out: Vec<_> = left_out.iter().map(|left| format!("{} {}", left.hosts, left.reason)).collect();
            let out = if out.is_empty() { "there are none".into() } else { out.join(", ") };
            return Err(format!("no host is eligible: {out}"));
        };
        let mut scored: Vec<(usize, f32)> = Vec::new();
        for (at, (reject, score)) in self.trace.rejects.iter().zip(&self.trace.scores).enumerate() {
            if *reject == Reject::None {
                scored.push((at, *score));
            }
        }
        let eligible = u32::try_from(scored.len()).unwrap_or(u32::MAX);
        // The chosen one first among equals.
        let better =
            |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then((a.0 != best).cmp(&(b.0 != best))).then(a.0.cmp(&b.0));
        if scored.len() > SHOWN_MAX {
            scored.select_nth_unstable_by(SHOWN_MAX - 1, better);
            scored.truncate(SHOWN_MAX);
        }
        scored.sort_unstable_by(better);
        let scores = scored.into_iter().filter_map(|(at, total)| Some(Scored { host: hosts.id(at)?, total })).collect();
        let chosen = hosts.id(best).ok_or_else(|| "no host is eligible: there are none".to_owned())?;
        Ok((best, Decision { strategy: wish.strategy, chosen, scores, eligible, left_out }))
    }

    fn left_out(&self) -> Vec<LeftOut> {
        let mut counts = [0_u32; Reject::COUNT];
        for reject in &self.trace.rejects {
            counts[*reject as usize] += 1;
        }
        let some = Reject::ALL.into_iter().zip(counts).filter(|(reject, count)| *reject != Reject::None && *count > 0);
        some.map(|(reject, hosts)| LeftOut { reason: reject.words().into(), hosts }).collect()
    }

    fn mark(&mut self, hosts: &Hosts, wish: &Wish<'_>) {
        let rejects = &mut self.trace.rejects;
        rejects.clear();
        rejects.extend_from_slice(&hosts.closed);
        let mut leave_out = |at: usize, why: Reject| {
            if let Some(reject) = rejects.get_mut(at).filter(|reject| **reject == Reject::None) {
                *reject = why;
            }
        };
        if let Some(pin) = wish.pin {
            for at in 0..hosts.len() {
                if hosts.ids[at] != pin {
                    leave_out(at, Reject::NotPinned);
                }
            }
        }
        if let Some(wanted) = wish.zone {
            let zone = hosts.zones.iter().position(|zone| zone == wanted);
            for at in 0..hosts.len() {
                if Some(usize::from(hosts.zone[at])) != zone {
                    leave_out(at, Reject::Zone);
                }
            }
        }
        if !wish.labels.is_empty() {
            for (at, labels) in hosts.labels.iter().enumerate() {
                if wish.labels.iter().any(|(name, value)| labels.get(name) != Some(value)) {
                    leave_out(at, Reject::Label);
                }
            }
        }
        for group in wish.anti_affinity {
            for at in hosts.groups.get(group).into_iter().flat_map(|on| on.keys()) {
                leave_out(*at as usize, Reject::AntiAffinity);
            }
        }
        for group in wish.affinity {
            // The first of a group may go anywhere.
            let Some(on) = hosts.groups.get(group) else { continue };
            for at in 0..hosts.len() {
                if !on.contains_key(&u32::try_from(at).unwrap_or(u32::MAX)) {
                    leave_out(at, Reject::Affinity);
                }
            }
        }
    }

    fn score(&mut self, hosts: &Hosts, wish: &Wish<'_>) {
        let count = hosts.len();
        let Trace { rejects, scores } = &mut self.trace;
        scores.clear();
        scores.resize(count, 0.0);
        let Need { cpu_milli, memory_mib } = wish.need;
        // Slices of one length: the compiler then needs no checks inside, and does several hosts at once.
        let (cpu_free, memory_free) = (&hosts.cpu_free[..count], &hosts.memory_free[..count]);
        let (cpu_share, memory_share) = (&hosts.cpu_share[..count], &hosts.memory_share[..count]);
        let (rejects, scores) = (&mut rejects[..count], &mut scores[..count]);
        let left = |at: usize| {
            let cpu = (cpu_free[at] - cpu_milli) as f32 * cpu_share[at];
            let memory = (memory_free[at] - memory_mib) as f32 * memory_share[at];
            (cpu, memory)
        };
        match wish.strategy {
            Strategy::Spread => {
                for (at, score) in scores.iter_mut().enumerate() {
                    let (cpu, memory) = left(at);
                    *score = if cpu < memory { cpu } else { memory };
                }
            }
            Strategy::Pack => {
                for (at, score) in scores.iter_mut().enumerate() {
                    let (cpu, memory) = left(at);
                    *score = 1.0 - 0.5 * (cpu + memory);
                }
            }
            Strategy::Weighted => {
                let Weights { cpu: by_cpu, memory: by_memory, balance } = wish.weights;
                for (at, score) in scores.iter_mut().enumerate() {
                    let (cpu, memory) = left(at);
                    *score = by_cpu * cpu + by_memory * memory + balance * (1.0 - (cpu - memory).abs());
                }
            }
        }
        for at in 0..count {
            let too_small = if cpu_free[at] < cpu_milli {
                Reject::Cpu
            } else if memory_free[at] < memory_mib {
                Reject::Memory
            } else {
                Reject::None
            };
            rejects[at] = if rejects[at] == Reject::None { too_small } else { rejects[at] };
        }
    }

    /// Of VMs that are kept apart, as few as can be in one zone: what takes a zone takes all of its hosts.
    fn crowded_zones(&mut self, hosts: &Hosts, wish: &Wish<'_>) {
        if wish.anti_affinity.is_empty() || hosts.zones.len() < 2 {
            return;
        }
        self.zone_members.clear();
        self.zone_members.resize(hosts.zones.len(), 0);
        for (at, count) in wish.anti_affinity.iter().filter_map(|group| hosts.groups.get(group)).flatten() {
            self.zone_members[usize::from(hosts.zone[*at as usize])] += count;
        }
        for (score, zone) in self.trace.scores.iter_mut().zip(&hosts.zone) {
            // More than any score differs from another.
            *score -= 4.0 * self.zone_members[usize::from(*zone)] as f32;
        }
    }

    /// The first of the best, beginning at whose turn it is.
    fn best(&self, turn: u64) -> Option<usize> {
        let (rejects, scores) = (&self.trace.rejects, &self.trace.scores);
        let count = rejects.len().min(scores.len());
        let (rejects, scores) = (&rejects[..count], &scores[..count]);
        let mut top = f32::NEG_INFINITY;
        for (reject, score) in rejects.iter().zip(scores) {
            let score = if *reject == Reject::None { *score } else { f32::NEG_INFINITY };
            top = if score > top { score } else { top };
        }
        if top == f32::NEG_INFINITY {
            return None;
        }
        let start = usize::try_from(turn % count.max(1) as u64).unwrap_or(0);
        let is_top = |at: &usize| rejects[*at] == Reject::None && scores[*at] >= top;
        (start..count).find(is_top).or_else(|| (0..start).find(is_top))
    }
}
