//! Makes one decision: who is left out and why, what each of the others scores, and who is best.
//!
//! Two passes without branches over columns; what is rare (pins, labels, zones, groups) is marked before them.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use hiveward_kernel::id::HostId;
use serde::{Deserialize, Serialize};

use super::{Decision, Hosts, LeftOut, Need, SHOWN_MAX, Scored, Strategy, Weights};
use crate::placement::each;

/// The reason why a host was not considered.
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
    /// The host is the one that a moving VM is on.
    Own,
    /// The host lacks the disks of a VM that is to come back with them.
    Disks,
    /// The host has another kind of hypervisor than the one that a moving VM is on.
    Kind,
    /// The host cannot be reached from the one that a moving VM is on.
    Path,
    /// The host was not measured, where hosts are compared by what is used of them.
    NotMeasured,
    /// The host cannot carry networks between hosts, and the VM is on one.
    Underlay,
}

impl Reject {
    const COUNT: usize = 17;
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
        Self::Own,
        Self::Disks,
        Self::Kind,
        Self::Path,
        Self::NotMeasured,
        Self::Underlay,
    ];

    /// Returns the reason as the end of a sentence about the host.
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
            Self::Own => "is where it is now",
            Self::Disks => "does not share its disks",
            Self::Kind => "has a hypervisor of another kind",
            Self::Underlay => "was registered without `--underlay`, which networks between hosts need",
            Self::NotMeasured => "has VMs that were not measured",
            Self::Path => "cannot be reached from its host: it was registered without `--peer-uri`",
        }
    }
}

/// The wishes of a VM for its host.
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
    /// Whether it is on a network between hosts.
    pub overlay: bool,
    /// A number from the VM's id that turns the order in which equal hosts are taken.
    pub turn: u64,
}

impl<'a> Wish<'a> {
    /// Iterates over all groups that it is counted in.
    pub fn groups(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.anti_affinity.iter().chain(self.affinity).map(String::as_str)
    }
}

/// The facts that one decision was made from, by the hosts' positions. Kept between decisions, so that none allocates.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub rejects: Vec<Reject>,
    /// The score of each host; minus infinity for one that was left out.
    pub scores: Vec<f32>,
}

/// The maker of decisions, which keeps its memory from one to the next.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    trace: Trace,
    zone_members: Vec<u32>,
}

impl Engine {
    /// Returns the trace of the last decision.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Returns the best host's position; `None` if every host is left out. The trace says why.
    pub fn place(&mut self, hosts: &Hosts, wish: &Wish<'_>) -> Option<usize> {
        self.mark(hosts, wish);
        self.score(hosts, wish);
        self.crowded_zones(hosts, wish);
        self.best(wish.turn)
    }

    /// Returns the best host's position with the decision to be kept, or the sentence that says why there is none.
    pub fn decide(&mut self, hosts: &Hosts, wish: &Wish<'_>) -> Result<(usize, Decision), String> {
        let best = self.place(hosts, wish);
        let (eligible, left_out) = self.left_out();
        let Some(best) = best else {
            let out: Vec<_> = left_out.iter().map(|left| format!("{} {}", each(left.hosts), left.reason)).collect();
            let out = if out.is_empty() { "there are none".into() } else { out.join(", ") };
            return Err(format!("no host is eligible: {out}"));
        };
        let shown = self.shown(best);
        let scores = shown.into_iter().filter_map(|(at, total)| Some(Scored { host: hosts.id(at)?, total })).collect();
        let chosen = hosts.id(best).ok_or_else(|| "no host is eligible: there are none".to_owned())?;
        Ok((best, Decision { strategy: wish.strategy, chosen, scores, eligible, left_out }))
    }

    /// Returns the best hosts, best first, with the chosen one first among equals.
    fn shown(&self, best: usize) -> Vec<(usize, f32)> {
        let scores = &self.trace.scores;
        let mut shown: Vec<(usize, f32)> = Vec::with_capacity(SHOWN_MAX + 1);
        shown.extend(scores.get(best).map(|score| (best, *score)));
        let mut least = f32::NEG_INFINITY;
        for (at, score) in scores.iter().enumerate() {
            // Nearly all end here.
            if *score <= least || at == best {
                continue;
            }
            let place = shown.iter().skip(1).position(|(_, other)| score > other).map_or(shown.len(), |place| place + 1);
            shown.insert(place, (at, *score));
            shown.truncate(SHOWN_MAX);
            if shown.len() == SHOWN_MAX {
                least = shown.last().map_or(least, |(_, least)| *least);
            }
        }
        shown
    }

    /// Counts how many are eligible, and why the others are not.
    fn left_out(&self) -> (u32, Vec<LeftOut>) {
        let mut counts = [0_u32; Reject::COUNT];
        for reject in &self.trace.rejects {
            counts[*reject as usize] += 1;
        }
        let some = Reject::ALL.into_iter().zip(counts).filter(|(reject, count)| *reject != Reject::None && *count > 0);
        let left_out = some.map(|(reject, hosts)| LeftOut { reason: words(reject), hosts }).collect();
        (counts[Reject::None as usize], left_out)
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
        if wish.overlay {
            for (at, overlays) in hosts.overlays.iter().enumerate() {
                if !overlays {
                    leave_out(at, Reject::Underlay);
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

    /// Scores every host; one that is left out, already or for want of room, has no score.
    fn score(&mut self, hosts: &Hosts, wish: &Wish<'_>) {
        let count = hosts.len();
        let Trace { rejects, scores } = &mut self.trace;
        scores.resize(count, 0.0);
        let Need { cpu_milli, memory_mib } = wish.need;
        // Slices of one length: the compiler then needs no checks inside, and does several hosts at once.
        let (cpu_free, memory_free) = (&hosts.cpu_free[..count], &hosts.memory_free[..count]);
        let (cpu_share, memory_share) = (&hosts.cpu_share[..count], &hosts.memory_share[..count]);
        let (rejects, scores) = (&mut rejects[..count], &mut scores[..count]);
        macro_rules! by {
            ($score:expr) => {
                for at in 0..count {
                    let (cpu_left, memory_left) = (cpu_free[at] - cpu_milli, memory_free[at] - memory_mib);
                    let score = $score(cpu_left as f32 * cpu_share[at], memory_left as f32 * memory_share[at]);
                    // Negative in either: it does not fit.
                    scores[at] = if cpu_left | memory_left < 0 { f32::NEG_INFINITY } else { score };
                }
            };
        }
        match wish.strategy {
            Strategy::Spread => by!(|cpu: f32, memory: f32| if cpu < memory { cpu } else { memory }),
            Strategy::Pack => by!(|cpu: f32, memory: f32| 1.0 - 0.5 * (cpu + memory)),
            Strategy::Weighted => {
                let Weights { cpu: by_cpu, memory: by_memory, balance } = wish.weights;
                by!(|cpu: f32, memory: f32| by_cpu * cpu + by_memory * memory + balance * (1.0 - (cpu - memory).abs()));
            }
        }
        for at in 0..count {
            let room = if memory_free[at] < memory_mib { Reject::Memory } else { Reject::None };
            let room = if cpu_free[at] < cpu_milli { Reject::Cpu } else { room };
            rejects[at] = if rejects[at] == Reject::None { room } else { rejects[at] };
        }
        for at in 0..count {
            scores[at] = if rejects[at] == Reject::None { scores[at] } else { f32::NEG_INFINITY };
        }
    }

    /// Lowers the scores of zones by the VMs in them that are kept apart, so that as few as can be are in one zone: what takes a
    /// zone takes all of its hosts.
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

    /// Returns the first of the best, beginning at whose turn it is.
    fn best(&self, turn: u64) -> Option<usize> {
        const LANES: usize = 16;
        let scores = &self.trace.scores;
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = scores.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, score) in lanes.iter_mut().zip(chunk) {
                *lane = if *score > *lane { *score } else { *lane };
            }
        }
        let top = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |top, score| top.max(*score));
        if top == f32::NEG_INFINITY {
            return None;
        }
        let start = usize::try_from(turn % scores.len().max(1) as u64).unwrap_or(0);
        let (before, after) = scores.split_at(start);
        let found = |part: &[f32]| part.iter().position(|score| *score >= top);
        found(after).map(|at| start + at).or_else(|| found(before))
    }
}

/// Returns the words of a reason. They are alike in thousands of decisions, so they are kept once.
fn words(reject: Reject) -> Arc<str> {
    static WORDS: LazyLock<[Arc<str>; Reject::COUNT]> = LazyLock::new(|| Reject::ALL.map(|reject| reject.words().into()));
    WORDS[reject as usize].clone()
}
