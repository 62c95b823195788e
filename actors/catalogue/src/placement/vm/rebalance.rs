//! Plans which moves make hosts more even: a plan that pays, that comes to rest and that says why. Pure.
//!
//! A host's *load* is one number, 1 when it is full ([`PlacementStrategy::load`](super::PlacementStrategy::load)); the
//! *imbalance* is how far the fullest is above the *mean*, which all would have if they were one host. While that is over the
//! threshold, the move is taken that is worth most: its *gain* is how much less full the fuller of its two hosts is afterwards,
//! its *cost* how much of a host copying it takes, spread over the time in which it is to pay. Only what gains more than it costs
//! and the margin is moved.
//!
//! It never oscillates: a move replaces two loads of which one was larger than both of the new ones, so that the loads, the
//! largest first, only ever become smaller as words in a dictionary do. With what is constant it comes to rest, whatever the
//! rules; that a VM which moved stays for a while spares it a second move that is worth little.

use std::{collections::BTreeMap, time::Duration};

use hiveward_kernel::id::{HostId, VmId};

use super::{Engine, Guest, Hosts, Reject, Wish, survives_largest};

/// The rules that say when it is worth to move, and how much at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How much fuller than the mean the fullest host may be.
    pub threshold: f32,
    /// How much a move must gain beyond its cost.
    pub margin: f32,
    /// The time within which a copy is to have paid.
    pub pays_within: Duration,
    /// The speed at which memory and disks are copied, if nothing else is known.
    pub copy_bytes_per_s: u64,
    pub moves_max: usize,
}

/// The default speed of a copy: nearly that of a gigabit network.
pub const COPY_BYTES_PER_S: u64 = 100 << 20;

impl Default for Rules {
    fn default() -> Self {
        Self {
            threshold: 0.1,
            margin: 0.01,
            pays_within: Duration::from_secs(3_600),
            copy_bytes_per_s: COPY_BYTES_PER_S,
            moves_max: 16,
        }
    }
}

/// An amount of CPU and of memory, in the same units for hosts and VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    pub cpu_milli: f32,
    pub memory_mib: f32,
}

impl Amount {
    #[must_use]
    fn plus(self, other: Self, sign: f32) -> Self {
        Self { cpu_milli: self.cpu_milli + sign * other.cpu_milli, memory_mib: self.memory_mib + sign * other.memory_mib }
    }
}

/// The amount that is taken of a host, and what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fill {
    pub taken: Amount,
    pub of: Amount,
}

impl Fill {
    fn share(self) -> Share {
        let share = |taken: f32, of: f32| if of > 0.0 { taken / of } else { 0.0 };
        Share { cpu: share(self.taken.cpu_milli, self.of.cpu_milli), memory: share(self.taken.memory_mib, self.of.memory_mib) }
    }
}

/// The share of a host that is taken, 1 for all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    pub cpu: f32,
    pub memory: f32,
}

/// The reason why a VM is not moved, whatever it would gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stays {
    /// It does not run, so that there is nothing to relieve its host of but a reservation.
    Off,
    Snapshots,
    /// Another operation of it is under way, or it is on its way already.
    Busy,
    /// It moved only lately.
    CoolDown,
    /// It writes faster than could be sent.
    Writes,
    /// Nothing is known of what it uses.
    NotMeasured,
    /// No other host may take it.
    NoHost,
    /// No move of it gains more than it costs.
    NotWorth,
    /// Without it there, or with it elsewhere, a VM that is to come back could not.
    Ha,
}

impl Stays {
    /// Returns the reason as the end of a sentence about the VM.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Off => "does not run",
            Self::Snapshots => "has snapshots, which do not move",
            Self::Busy => "has an operation under way",
            Self::CoolDown => "moved only lately",
            Self::Writes => "writes its memory faster than that could be sent",
            Self::NotMeasured => "was not measured",
            Self::NoHost => "may go to no other host",
            Self::NotWorth => "would cost more than it gains",
            Self::Ha => "would leave a VM with `ha` no place to come back to",
        }
    }
}

/// A VM where it is now.
#[derive(Clone, Copy, Debug)]
pub struct Tenant<'a> {
    pub vm: VmId,
    pub on: HostId,
    /// Its wishes, with what is reserved for it.
    pub wish: Wish<'a>,
    /// The amount of which its host is relieved when it leaves, in the units of the hosts' fills.
    pub weighs: Amount,
    pub stays: Option<Stays>,
    /// Whether it is to come back elsewhere when its host is lost; then it goes only where its disks are.
    pub ha: bool,
    pub memory_bytes: u64,
    /// The bytes that are copied as well where the other host does not share its disks.
    pub disk_bytes: u64,
    /// The bytes of its memory that the guest was seen to write each second, when it moved last.
    pub dirty_bytes_per_s: Option<u64>,
}

/// The facts that a plan is made from.
pub struct Cluster<'a> {
    pub hosts: &'a Hosts,
    /// The fill of each host by its position. `None` takes no part: nothing comes or goes.
    pub fills: &'a [Option<Fill>],
    pub tenants: &'a [Tenant<'a>],
    /// The function that says why nothing can be brought from the first host to the second, if nothing can.
    pub bars: &'a dyn Fn(HostId, HostId) -> Option<Reject>,
}

/// The level to which a host is full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    pub share: Share,
    pub load: f32,
}

/// One move of a plan, with what it gains and costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    pub vm: VmId,
    pub from: HostId,
    pub to: HostId,
    pub gain: f32,
    pub cost: f32,
    pub copy_bytes: u64,
    pub copy: Duration,
    /// Whether the room there is freed by a move before it, so that it cannot begin together with that.
    pub waits: bool,
    /// The level of the host that it leaves, before it; the next three are of that host and the other, before and after it.
    pub from_before: Level,
    pub from_after: Level,
    pub to_before: Level,
    pub to_after: Level,
}

/// The level of a host before and after a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    pub host: HostId,
    pub before: Level,
    pub after: Level,
}

/// A plan of moves, with what it comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rebalance {
    pub imbalance: f32,
    pub imbalance_after: f32,
    pub mean: f32,
    /// The moves in the order in which they are to be begun.
    pub moves: Vec<Move>,
    /// The forecast of every host that takes part.
    pub forecast: Vec<Forecast>,
    /// The VMs that stay on hosts that are too full still: for each reason, how many.
    pub stay: Vec<(Stays, u32)>,
}

type LoadOf<'a> = &'a dyn Fn(f32, f32) -> f32;

/// The most candidates of one step whose consequences for VMs that come back are worked out, which is what takes long; what is
/// worth less is not tried.
const TRIED_MAX: usize = 64;

struct Drafting<'a, 'b> {
    cluster: &'b Cluster<'a>,
    rules: &'b Rules,
    load_of: LoadOf<'b>,
    fills: Vec<Option<Fill>>,
    /// The hosts after the moves so far.
    then: Hosts,
    /// The hosts with what comes reserved and what goes not freed, as it is while all are on their way.
    meanwhile: Hosts,
    /// The hosts of the tenants, by their positions.
    on: Vec<HostId>,
    moved: Vec<bool>,
    guests: Vec<(usize, Guest<'a>)>,
    engine: Engine,
}

#[derive(Clone, Copy)]
struct Candidate {
    tenant: usize,
    from: usize,
    to: usize,
    gain: f32,
    cost: f32,
    copy_bytes: u64,
    copy: Duration,
}

pub(super) fn plan(cluster: &Cluster<'_>, rules: &Rules, load_of: LoadOf<'_>) -> Rebalance {
    let guests = cluster.tenants.iter().enumerate().filter(|(_, tenant)| tenant.ha);
    let guests: Vec<_> =
        guests.map(|(n, tenant)| (n, Guest { vm: tenant.vm, on: tenant.on, wish: Wish { pin: None, ..tenant.wish } })).collect();
    let mut drafting = Drafting {
        cluster,
        rules,
        load_of,
        fills: cluster.fills.to_vec(),
        then: cluster.hosts.clone(),
        meanwhile: cluster.hosts.clone(),
        on: cluster.tenants.iter().map(|tenant| tenant.on).collect(),
        moved: vec![false; cluster.tenants.len()],
        guests,
        engine: Engine::default(),
    };
    let before: Vec<_> = (0..cluster.hosts.len()).map(|at| drafting.level(at)).collect();
    let (mean, imbalance) = drafting.balance();
    let keeps_ha = drafting.survives();
    let (mut moves, mut stay) = (Vec::new(), BTreeMap::new());
    while let Some(next) = drafting.next(keeps_ha, moves.len() < rules.moves_max, &mut stay) {
        moves.push(drafting.take(&next));
    }
    let forecast = before.iter().enumerate().filter_map(|(at, before)| {
        Some(Forecast { host: cluster.hosts.id(at)?, before: (*before)?, after: drafting.level(at)? })
    });
    Rebalance {
        imbalance,
        imbalance_after: drafting.balance().1,
        mean,
        forecast: forecast.collect(),
        moves,
        stay: stay.into_iter().collect(),
    }
}

fn level(fill: Fill, load_of: LoadOf<'_>) -> Level {
    let share = fill.share();
    Level { share, load: load_of(share.cpu, share.memory) }
}

impl<'a> Drafting<'a, '_> {
    fn level(&self, at: usize) -> Option<Level> {
        Some(level((*self.fills.get(at)?)?, self.load_of))
    }

    /// Returns the mean, and how far the largest load is above it.
    fn balance(&self) -> (f32, f32) {
        balance(self.fills.iter().flatten(), self.load_of)
    }

    fn survives(&self) -> bool {
        let guests: Vec<_> = self.guests.iter().map(|(_, guest)| *guest).collect();
        survives_largest(&self.then, &guests).is_ok()
    }

    /// Returns the move that is worth most, off the fullest host that any move relieves; `None` once nothing is over the
    /// threshold
    /// or nothing pays. `stay` then has why.
    fn next(&mut self, keeps_ha: bool, may: bool, stay: &mut BTreeMap<Stays, u32>) -> Option<Candidate> {
        stay.clear();
        let (mean, imbalance) = self.balance();
        if imbalance <= self.rules.threshold {
            return None;
        }
        let over = |at: &usize| self.level(*at).is_some_and(|level| level.load > mean + self.rules.threshold);
        let mut full: Vec<usize> = (0..self.fills.len()).filter(over).collect();
        let load = |at: &usize| self.level(*at).map_or(0.0, |level| level.load);
        full.sort_by(|a, b| load(b).total_cmp(&load(a)).then(a.cmp(b)));
        if !may {
            return None;
        }
        let mut tries = TRIED_MAX;
        for from in full {
            let mut candidates = Vec::new();
            for tenant in self.tenants_on(from) {
                match self.best_of(tenant, from) {
                    Ok(candidate) => candidates.push(candidate),
                    Err(why) => *stay.entry(why).or_default() += 1,
                }
            }
            let worth = |candidate: &Candidate| candidate.gain - candidate.cost;
            let id = |candidate: &Candidate| self.cluster.tenants[candidate.tenant].vm;
            candidates.sort_by(|a, b| worth(b).total_cmp(&worth(a)).then_with(|| id(a).cmp(&id(b))));
            for candidate in candidates {
                // What could not come back before is not for this to mend.
                if !keeps_ha || (tries > 0 && self.survives_with(&candidate)) {
                    return Some(candidate);
                }
                tries = tries.saturating_sub(1);
                *stay.entry(Stays::Ha).or_default() += 1;
            }
        }
        None
    }

    fn tenants_on(&self, at: usize) -> Vec<usize> {
        let host = self.cluster.hosts.id(at);
        (0..self.on.len()).filter(|tenant| Some(self.on[*tenant]) == host).collect()
    }

    /// Returns the best that can be done with one VM of a host that is too full.
    fn best_of(&mut self, tenant: usize, from: usize) -> Result<Candidate, Stays> {
        let one = self.cluster.tenants[tenant];
        if let Some(stays) = one.stays {
            return Err(stays);
        }
        if self.moved[tenant] {
            return Err(Stays::CoolDown);
        }
        let Some(source) = self.fills[from] else { return Err(Stays::NoHost) };
        let wish = Wish { pin: None, ..one.wish };
        // As the roster will ask it: as if it were made anew, anywhere but where it is.
        let was = self.then.close(from, Reject::Own);
        self.then.give_back(from, wish.need, wish.groups());
        self.engine.place(&self.then, &wish);
        let own_zone = self.then.in_zone_of(from, wish.anti_affinity);
        let (mut best, mut eligible, mut writes) = (None::<Candidate>, false, false);
        for to in 0..self.then.len() {
            let (Some(target), Some(Reject::None)) = (self.fills[to], self.engine.trace().rejects.get(to)) else { continue };
            let shares = self.then.share_disks(from, to);
            let barred = self.then.id(to).is_none_or(|other| (self.cluster.bars)(self.on[tenant], other).is_some());
            // Those that are kept apart are not brought closer to each other.
            let crowds = !wish.anti_affinity.is_empty() && self.then.in_zone_of(to, wish.anti_affinity) > own_zone;
            if barred || crowds || (one.ha && !shares) {
                continue;
            }
            eligible = true;
            let copy_bytes = one.memory_bytes + if shares { 0 } else { one.disk_bytes };
            let Some(copy) = copy_time(copy_bytes, one.dirty_bytes_per_s, self.rules.copy_bytes_per_s) else {
                writes = true;
                continue;
            };
            let load = |fill: Fill| level(fill, self.load_of).load;
            let left = load(Fill { taken: source.taken.plus(one.weighs, -1.0), ..source });
            let come = load(Fill { taken: target.taken.plus(one.weighs, 1.0), ..target });
            let gain = load(source) - left.max(come);
            // As if the copy took a whole host for as long as it lasts.
            let cost = copy.as_secs_f32() / self.rules.pays_within.as_secs_f32().max(1.0);
            let candidate = Candidate { tenant, from, to, gain, cost, copy_bytes, copy };
            let worth = gain - cost;
            if worth > self.rules.margin && best.is_none_or(|best| worth > best.gain - best.cost) {
                best = Some(candidate);
            }
        }
        self.then.take(from, wish.need, wish.groups());
        self.then.close(from, was);
        best.ok_or(match (eligible, writes) {
            (false, _) => Stays::NoHost,
            (true, true) => Stays::Writes,
            (true, false) => Stays::NotWorth,
        })
    }

    fn survives_with(&mut self, candidate: &Candidate) -> bool {
        if self.guests.is_empty() {
            return true;
        }
        let wish = self.cluster.tenants[candidate.tenant].wish;
        let (Some(from), Some(to)) = (self.then.id(candidate.from), self.then.id(candidate.to)) else { return false };
        self.then.give_back(candidate.from, wish.need, wish.groups());
        self.then.take(candidate.to, wish.need, wish.groups());
        self.settle_guest(candidate.tenant, to);
        let survives = self.survives();
        self.then.give_back(candidate.to, wish.need, wish.groups());
        self.then.take(candidate.from, wish.need, wish.groups());
        self.settle_guest(candidate.tenant, from);
        survives
    }

    fn settle_guest(&mut self, tenant: usize, on: HostId) {
        for (_, guest) in self.guests.iter_mut().filter(|(of, _)| *of == tenant) {
            guest.on = on;
        }
    }

    fn take(&mut self, next: &Candidate) -> Move {
        let one = self.cluster.tenants[next.tenant];
        let (from, to) = (self.on[next.tenant], self.then.id(next.to).unwrap_or(self.on[next.tenant]));
        let nothing = Level { share: Share::default(), load: 0.0 };
        let levels = |all: &Self| [next.from, next.to].map(|at| all.level(at).unwrap_or(nothing));
        let [from_before, to_before] = levels(self);
        for (at, sign) in [(next.from, -1.0), (next.to, 1.0)] {
            if let Some(Some(fill)) = self.fills.get_mut(at) {
                fill.taken = fill.taken.plus(one.weighs, sign);
            }
        }
        let [from_after, to_after] = levels(self);
        let wish = Wish { pin: Some(to), ..one.wish };
        // Asked as the roster will be asked when all have been begun together.
        let was = self.meanwhile.close(next.from, Reject::Own);
        self.meanwhile.give_back(next.from, wish.need, wish.groups());
        let waits = self.engine.place(&self.meanwhile, &wish).is_none();
        self.meanwhile.take(next.from, wish.need, wish.groups());
        self.meanwhile.close(next.from, was);
        if !waits {
            self.meanwhile.take(next.to, wish.need, wish.groups());
        }
        self.then.give_back(next.from, wish.need, wish.groups());
        self.then.take(next.to, wish.need, wish.groups());
        self.on[next.tenant] = to;
        self.moved[next.tenant] = true;
        self.settle_guest(next.tenant, to);
        let Candidate { gain, cost, copy_bytes, copy, .. } = *next;
        Move { vm: one.vm, from, to, gain, cost, copy_bytes, copy, waits, from_before, from_after, to_before, to_after }
    }
}

/// Returns how long a copy takes while the guest writes on; `None` if it never ends.
fn copy_time(bytes: u64, dirty_bytes_per_s: Option<u64>, copy_bytes_per_s: u64) -> Option<Duration> {
    let gained = copy_bytes_per_s.saturating_sub(dirty_bytes_per_s.unwrap_or(0));
    (gained > 0).then(|| Duration::from_secs_f64(bytes as f64 / gained as f64))
}

/// Returns the load of all hosts as one, which no move changes, and how far the largest is above it.
fn balance<'a>(fills: impl Iterator<Item = &'a Fill>, load_of: LoadOf<'_>) -> (f32, f32) {
    let (mut all, mut most) = (Fill::default(), 0.0_f32);
    for fill in fills {
        (all.taken, all.of) = (all.taken.plus(fill.taken, 1.0), all.of.plus(fill.of, 1.0));
        most = most.max(level(*fill, load_of).load);
    }
    let mean = level(all, load_of).load;
    (mean, (most - mean).max(0.0))
}

/// The fills of hosts at one time.
pub type Moment = BTreeMap<HostId, Fill>;

/// Returns for how long, up to the newest, the imbalance has been over the threshold at every one of `moments`, which are
/// `apart` from each other, the newest first. One at which nobody looked ends it: fewer than two hosts are even.
pub fn held(moments: &[Moment], apart: Duration, threshold: f32, load_of: LoadOf<'_>) -> Duration {
    let over = |moment: &&Moment| balance(moment.values(), load_of).1 > threshold;
    apart * u32::try_from(moments.iter().take_while(over).count()).unwrap_or(u32::MAX)
}
