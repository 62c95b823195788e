//! Places many VMs at once on as few hosts as can be: a whole-cluster plan, not one decision after another.
//!
//! A [`Solver`] takes a problem and a budget of moves, not of time, so that the same seed gives the same plan anywhere.
//! [`FirstFit`] is the classic; [`Annealing`] begins with the best of several greedy packings and then empties hosts;
//! [`Exact`](super::Exact) tries everything, where that is little. What no plan can be better than is
//! [`Problem::least_hosts`].

use super::{Exact, Need, Qubo};

/// The VMs and hosts of a plan, without names: positions stand for them.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    pub vms: Vec<Need>,
    /// The amounts that each host can take.
    pub hosts: Vec<Need>,
    /// The group of each VM; those of one group are never together on a host, and 0 is no group.
    pub apart: Vec<u32>,
}

/// The host of each VM; `None` for one that has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub host_of: Vec<Option<u32>>,
}

/// The distance of a plan from the best there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub hosts: usize,
    pub unplaced: usize,
    /// The number of hosts that the best plan uses.
    pub hosts_best: usize,
    pub unplaced_best: usize,
}

/// A way to find a plan.
pub trait Solver {
    /// Returns the solver's name, for people.
    fn name(&self) -> &'static str;

    /// Finds a plan; at most so many moves are tried after the first packing. `None` if the problem is too large for this solver.
    fn solve(&self, problem: &Problem, moves_max: u64, seed: u64) -> Option<Plan>;

    /// Returns the problem for solvers of another kind, if it is small enough to be worth it.
    fn qubo(&self, problem: &Problem) -> Option<Qubo> {
        problem.qubo()
    }

    /// Returns its plan beside the best there is; `None` where that cannot be worked out.
    fn gap(&self, problem: &Problem, moves_max: u64, seed: u64) -> Option<Gap> {
        let best = Exact.solve(problem, 0, seed)?;
        let plan = self.solve(problem, moves_max, seed)?;
        Some(Gap {
            hosts: plan.hosts_used(),
            unplaced: plan.unplaced(),
            hosts_best: best.hosts_used(),
            unplaced_best: best.unplaced(),
        })
    }
}

impl Problem {
    /// Returns a number of hosts below which no plan can go: the scarcer resource alone needs that many, the largest hosts taken
    /// first.
    pub fn least_hosts(&self) -> usize {
        let least = |of: fn(&Need) -> i32| {
            let wanted: i64 = self.vms.iter().map(|vm| i64::from(of(vm))).sum();
            let mut offers: Vec<i64> = self.hosts.iter().map(|host| i64::from(of(host))).collect();
            offers.sort_unstable_by_key(|offer| std::cmp::Reverse(*offer));
            let (mut given, mut hosts) = (0, 0);
            for offer in offers.into_iter().take_while(|offer| *offer > 0) {
                if given >= wanted {
                    break;
                }
                (given, hosts) = (given + offer, hosts + 1);
            }
            hosts
        };
        least(|need| need.cpu_milli).max(least(|need| need.memory_mib))
    }

    /// Returns the group of a VM; 0 is none.
    pub(super) fn group(&self, vm: usize) -> u32 {
        self.apart.get(vm).copied().unwrap_or(0)
    }
}

impl Plan {
    /// Counts the hosts that at least one VM is on.
    pub fn hosts_used(&self) -> usize {
        let used: std::collections::HashSet<_> = self.host_of.iter().flatten().collect();
        used.len()
    }

    /// Counts the VMs without a place.
    pub fn unplaced(&self) -> usize {
        self.host_of.iter().filter(|host| host.is_none()).count()
    }

    /// Checks that no host is promised more than it has and that groups are apart. The error says what is wrong.
    pub fn check(&self, problem: &Problem) -> Result<(), String> {
        let mut free: Vec<(i64, i64)> =
            problem.hosts.iter().map(|host| (i64::from(host.cpu_milli), i64::from(host.memory_mib))).collect();
        let mut groups = std::collections::HashSet::new();
        for (vm, host) in self.host_of.iter().enumerate() {
            let (Some(host), Some(need)) = (host, problem.vms.get(vm)) else { continue };
            let Some(free) = free.get_mut(*host as usize) else {
                return Err(format!("VM {vm} is on host {host}, which is none"));
            };
            free.0 -= i64::from(need.cpu_milli);
            free.1 -= i64::from(need.memory_mib);
            if free.0 < 0 || free.1 < 0 {
                return Err(format!("host {host} is promised more than it has"));
            }
            let group = problem.group(vm);
            if group != 0 && !groups.insert((*host, group)) {
                return Err(format!("two VMs of group {group} are on host {host}"));
            }
        }
        Ok(())
    }
}

/// A plan in the making.
#[derive(Clone)]
struct Packing<'a> {
    problem: &'a Problem,
    free: Vec<Need>,
    on: Vec<Vec<u32>>,
    host_of: Vec<Option<u32>>,
}

impl<'a> Packing<'a> {
    fn new(problem: &'a Problem) -> Self {
        Self {
            problem,
            free: problem.hosts.clone(),
            on: vec![Vec::new(); problem.hosts.len()],
            host_of: vec![None; problem.vms.len()],
        }
    }

    fn fits(&self, vm: u32, host: usize) -> bool {
        let (need, free) = (self.problem.vms[vm as usize], self.free[host]);
        need.cpu_milli <= free.cpu_milli && need.memory_mib <= free.memory_mib && self.is_apart(vm, host, None)
    }

    /// Tells whether nobody on the host, but for `leaving`, is of the VM's group.
    fn is_apart(&self, vm: u32, host: usize, leaving: Option<u32>) -> bool {
        let group = self.problem.group(vm as usize);
        group == 0 || !self.on[host].iter().any(|other| Some(*other) != leaving && self.problem.group(*other as usize) == group)
    }

    fn put(&mut self, vm: u32, host: usize) {
        let need = self.problem.vms[vm as usize];
        self.free[host].cpu_milli -= need.cpu_milli;
        self.free[host].memory_mib -= need.memory_mib;
        self.on[host].push(vm);
        self.host_of[vm as usize] = u32::try_from(host).ok();
    }

    fn take(&mut self, vm: u32) -> Option<usize> {
        let host = self.host_of[vm as usize].take()? as usize;
        let need = self.problem.vms[vm as usize];
        self.free[host].cpu_milli += need.cpu_milli;
        self.free[host].memory_mib += need.memory_mib;
        self.on[host].retain(|other| *other != vm);
        Some(host)
    }

    fn used(&self) -> usize {
        self.on.iter().filter(|on| !on.is_empty()).count()
    }

    fn plan(self) -> Plan {
        Plan { host_of: self.host_of }
    }
}

/// Returns how much of a host of the middle size each VM takes, by each resource.
fn shares(problem: &Problem) -> Vec<(f64, f64)> {
    let count = problem.hosts.len().max(1) as f64;
    let cpu: f64 = problem.hosts.iter().map(|host| f64::from(host.cpu_milli)).sum::<f64>() / count;
    let memory: f64 = problem.hosts.iter().map(|host| f64::from(host.memory_mib)).sum::<f64>() / count;
    let share = |vm: &Need| (f64::from(vm.cpu_milli) / cpu.max(1.0), f64::from(vm.memory_mib) / memory.max(1.0));
    problem.vms.iter().map(share).collect()
}

/// Returns the order in which hosts are filled: large ones first, since a large one costs no more than a small one.
fn host_order(problem: &Problem) -> Vec<usize> {
    let mut order: Vec<usize> = (0..problem.hosts.len()).collect();
    let size = |host: &usize| i64::from(problem.hosts[*host].cpu_milli) * i64::from(problem.hosts[*host].memory_mib);
    order.sort_by_key(|host| std::cmp::Reverse(size(host)));
    order
}

/// A solver that puts the largest VM first, by its larger share, each on the first host that takes it.
pub struct FirstFit;

impl Solver for FirstFit {
    fn name(&self) -> &'static str {
        "first-fit decreasing"
    }

    fn solve(&self, problem: &Problem, _: u64, _: u64) -> Option<Plan> {
        Some(first_fit(problem, |size| -size).plan())
    }
}

/// Puts each VM on the first host that takes it, in the order that `order_of` makes of the larger share that it needs.
fn first_fit(problem: &Problem, order_of: impl Fn(f64) -> f64) -> Packing<'_> {
    let (shares, hosts) = (shares(problem), host_order(problem));
    let mut order: Vec<u32> = (0..u32::try_from(problem.vms.len()).unwrap_or(u32::MAX)).collect();
    let rank = |vm: &u32| order_of(shares[*vm as usize].0.max(shares[*vm as usize].1));
    order.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then(a.cmp(b)));
    let mut packing = Packing::new(problem);
    for vm in order {
        if let Some(host) = hosts.iter().copied().find(|host| packing.fits(vm, *host)) {
            packing.put(vm, host);
        }
    }
    packing
}

/// Fills one host after another, each time with the VM whose needs point the way the host's room does.
fn fill(problem: &Problem, bias: f64) -> Packing<'_> {
    let (shares, hosts) = (shares(problem), host_order(problem));
    let mut packing = Packing::new(problem);
    // VMs that are alike stand together: one look for all of them.
    let mut kinds: std::collections::BTreeMap<(i32, i32, u32), Vec<u32>> = std::collections::BTreeMap::new();
    for (vm, need) in problem.vms.iter().enumerate() {
        kinds
            .entry((need.cpu_milli, need.memory_mib, problem.group(vm)))
            .or_default()
            .push(u32::try_from(vm).unwrap_or(u32::MAX));
    }
    let mut kinds: Vec<Vec<u32>> = kinds.into_values().collect();
    for host in hosts {
        loop {
            let total = problem.hosts[host];
            let free = packing.free[host];
            let room = (
                f64::from(free.cpu_milli) / f64::from(total.cpu_milli.max(1)),
                f64::from(free.memory_mib) / f64::from(total.memory_mib.max(1)),
            );
            let fit = |kind: &Vec<u32>| {
                let vm = *kind.last()?;
                packing.fits(vm, host).then_some(())?;
                let (cpu, memory) = shares[vm as usize];
                // Along the room that is left, and the larger the better.
                Some(cpu * room.0 + memory * room.1 + bias * (cpu * cpu + memory * memory))
            };
            let best =
                kinds.iter().enumerate().filter_map(|(at, kind)| Some((at, fit(kind)?))).max_by(|a, b| a.1.total_cmp(&b.1));
            let Some((at, _)) = best else { break };
            if let Some(vm) = kinds[at].pop() {
                packing.put(vm, host);
            }
            if kinds[at].is_empty() {
                kinds.swap_remove(at);
            }
        }
        if kinds.is_empty() {
            break;
        }
    }
    packing
}

/// A solver that begins with the best of several packings, then moves and swaps VMs so that fuller hosts get fuller and a host
/// at a time is emptied; now and then it takes a worse step, less often as it goes.
pub struct Annealing;

/// The most by which a step may be worse at the beginning, in squares of a host's share.
const HEAT: f64 = 0.02;
/// The weights of size against direction, one for each greedy packing.
const BIASES: [f64; 5] = [0.0, 0.5, 1.0, 2.0, 4.0];

impl Solver for Annealing {
    fn name(&self) -> &'static str {
        "annealing"
    }

    fn solve(&self, problem: &Problem, moves_max: u64, seed: u64) -> Option<Plan> {
        let mut best = first_fit(problem, |size| -size);
        let rank = |packing: &Packing<'_>| (packing.host_of.iter().filter(|host| host.is_none()).count(), packing.used());
        // Where hosts are too few, most find a place when the smallest go first.
        for packing in BIASES.into_iter().map(|bias| fill(problem, bias)).chain([first_fit(problem, |size| size)]) {
            if rank(&packing) < rank(&best) {
                best = packing;
            }
        }
        let mut spent = 0;
        let best = place_the_rest(best, moves_max, &mut spent, seed);
        Some(anneal(best, moves_max - spent.min(moves_max), seed).plan())
    }
}

/// Makes room for those without a place, one after another, the smallest first; one that finds none changes nothing.
fn place_the_rest<'a>(mut packing: Packing<'a>, moves_max: u64, spent: &mut u64, seed: u64) -> Packing<'a> {
    let (problem, mut dice) = (packing.problem, fastrand::Rng::with_seed(seed));
    let hosts: Vec<usize> = (0..problem.hosts.len()).collect();
    let mut rest: Vec<u32> = (0..u32::try_from(problem.vms.len()).unwrap_or(u32::MAX)).collect();
    rest.retain(|vm| packing.host_of[*vm as usize].is_none());
    let size = |vm: &u32| i64::from(problem.vms[*vm as usize].cpu_milli) * i64::from(problem.vms[*vm as usize].memory_mib);
    rest.sort_by_key(size);
    for vm in rest.into_iter().take(HOMELESS_MAX) {
        let mut tried = packing.clone();
        let budget = moves_max.saturating_sub(*spent).min(EMPTYING_MOVES);
        if home(&mut tried, &mut vec![vm], &hosts, budget, &mut dice, spent) {
            packing = tried;
        }
    }
    packing
}

/// The most VMs without a place for which room is made. Where there are more the hosts are simply too few.
const HOMELESS_MAX: usize = 16;

fn anneal(mut packing: Packing<'_>, moves_max: u64, seed: u64) -> Packing<'_> {
    let (problem, mut dice) = (packing.problem, fastrand::Rng::with_seed(seed));
    let least = problem.least_hosts();
    let mut spent = 0;
    while spent < moves_max && packing.used() > least {
        // The emptiest host is the one to go.
        let filling = |host: usize| {
            let (total, free) = (problem.hosts[host], packing.free[host]);
            let used = |total: i32, free: i32| f64::from(total - free) / f64::from(total.max(1));
            used(total.cpu_milli, free.cpu_milli) + used(total.memory_mib, free.memory_mib)
        };
        let mut used: Vec<usize> = (0..problem.hosts.len()).filter(|host| !packing.on[*host].is_empty()).collect();
        used.sort_by(|a, b| filling(*a).total_cmp(&filling(*b)).then(a.cmp(b)));
        let Some((&victim, rest)) = used.split_first() else { break };
        let mut tried = packing.clone();
        let mut homeless: Vec<u32> = tried.on[victim].clone();
        for vm in &homeless {
            tried.take(*vm);
        }
        let budget = (moves_max - spent).min(EMPTYING_MOVES);
        if home(&mut tried, &mut homeless, rest, budget, &mut dice, &mut spent) {
            packing = tried;
        } else if budget < EMPTYING_MOVES {
            break;
        }
    }
    packing
}

/// The most moves that are tried for one host before another order of things is.
const EMPTYING_MOVES: u64 = 400_000;

/// Finds a place for each of `homeless` on `hosts`, by putting it where it fits, in the place of a smaller one that goes on
/// to look, or after a swap that makes room; returns whether all found one.
fn home(
    packing: &mut Packing<'_>,
    homeless: &mut Vec<u32>,
    hosts: &[usize],
    budget: u64,
    dice: &mut fastrand::Rng,
    spent: &mut u64,
) -> bool {
    let problem = packing.problem;
    let (cpu, memory) = hosts.iter().fold((1.0_f64, 1.0_f64), |(cpu, memory), host| {
        let total = problem.hosts[*host];
        (cpu.max(f64::from(total.cpu_milli)), memory.max(f64::from(total.memory_mib)))
    });
    let size = |need: Need| f64::from(need.cpu_milli) / cpu + f64::from(need.memory_mib) / memory;
    // Room in one place is worth more than the same in two.
    let worth = |free: Need| {
        let (cpu, memory) = (f64::from(free.cpu_milli) / cpu, f64::from(free.memory_mib) / memory);
        cpu * cpu + memory * memory + cpu * memory
    };
    let end = *spent + budget;
    homeless.sort_by(|a, b| size(problem.vms[*a as usize]).total_cmp(&size(problem.vms[*b as usize])));
    while let Some(vm) = homeless.pop() {
        // The largest first; the fullest host that takes it.
        let fitting = hosts.iter().copied().filter(|host| packing.fits(vm, *host));
        if let Some(host) = fitting.min_by(|a, b| size(packing.free[*a]).total_cmp(&size(packing.free[*b]))) {
            packing.put(vm, host);
            continue;
        }
        let need = problem.vms[vm as usize];
        let mut placed = false;
        while *spent < end && !placed {
            *spent += 1;
            let host = hosts[dice.usize(0..hosts.len())];
            let heat = HEAT * (end - *spent) as f64 / budget.max(1) as f64;
            if packing.on[host].is_empty() {
                continue;
            }
            let out = packing.on[host][dice.usize(0..packing.on[host].len())];
            let gone = problem.vms[out as usize];
            let free = packing.free[host];
            let fits_instead = need.cpu_milli <= free.cpu_milli + gone.cpu_milli
                && need.memory_mib <= free.memory_mib + gone.memory_mib
                && packing.is_apart(vm, host, Some(out));
            if fits_instead && size(gone) < size(need) {
                // It goes in, and what was smaller looks for a place.
                packing.take(out);
                packing.put(vm, host);
                homeless.push(out);
                homeless.sort_by(|a, b| size(problem.vms[*a as usize]).total_cmp(&size(problem.vms[*b as usize])));
                placed = true;
                continue;
            }
            // A swap of two that leaves more room in one place.
            let other = hosts[dice.usize(0..hosts.len())];
            if other == host || packing.on[other].is_empty() {
                continue;
            }
            let back = packing.on[other][dice.usize(0..packing.on[other].len())];
            let come = problem.vms[back as usize];
            if gone == come {
                continue;
            }
            let after = |free: Need, out: Need, into: Need| Need {
                cpu_milli: free.cpu_milli + out.cpu_milli - into.cpu_milli,
                memory_mib: free.memory_mib + out.memory_mib - into.memory_mib,
            };
            let (here, there) = (after(free, gone, come), after(packing.free[other], come, gone));
            if here.cpu_milli < 0 || here.memory_mib < 0 || there.cpu_milli < 0 || there.memory_mib < 0 {
                continue;
            }
            let gain = worth(here) + worth(there) - worth(free) - worth(packing.free[other]);
            let takes = gain > 0.0 || (heat > 0.0 && dice.f64() < (gain / heat).exp());
            if takes && packing.is_apart(back, host, Some(out)) && packing.is_apart(out, other, Some(back)) {
                packing.take(out);
                packing.take(back);
                packing.put(back, host);
                packing.put(out, other);
                for host in [host, other] {
                    if !placed && packing.fits(vm, host) {
                        packing.put(vm, host);
                        placed = true;
                    }
                }
            }
        }
        if !placed {
            return false;
        }
    }
    true
}
