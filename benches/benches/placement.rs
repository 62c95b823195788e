//! Which host a VM goes to: decisions per second with what is kept of them, how tightly a plan of the whole cluster packs,
//! and how full hosts are over a day on which VMs come and go.

use std::{collections::BTreeMap, time::Instant};

use hiveward_benches::{Figures, load};
use hiveward_catalogue::placement::vm::{
    EXACT_VMS_MAX, Engine, HostFacts, Hosts, Need, PlacementStrategy, Strategy, Weights, Wish,
    plan::{Annealing, FirstFit, Problem, Solver},
    rebalance::{Amount, Cluster, Fill, Rules, Tenant},
};
use hiveward_kernel::id::{HostId, VmId};

const HOSTS: usize = 1_000;
const VMS: usize = 10_000;
const MOVES: u64 = 20_000_000;
const SEED: u64 = 7;
const SMALL_CASES: u32 = 200;
const MOVES_SMALL: u64 = 50_000;
/// Of the day: arrivals are as many as would fill the hosts this often over.
const OFFERED: f64 = 1.25;
const DAY_HOSTS: usize = 200;
const ARRIVALS: usize = 40_000;

fn main() -> anyhow::Result<()> {
    let mut figures = Figures::new("placement");
    figures.row("load of the machine", load()?, "", "");
    let mut dice = fastrand::Rng::with_seed(SEED);
    let vms = flavours(&mut dice, VMS);
    for strategy in [Strategy::Spread, Strategy::Pack, Strategy::Weighted] {
        decisions(&mut figures, strategy, &vms)?;
    }
    let (host, usual) = (Need::of(64, 256 << 30), vms.clone());
    plan(&mut figures, "10,000 VMs of usual sizes", Problem { vms, hosts: vec![host; HOSTS], apart: Vec::new() })?;
    let any = (0..VMS).map(|_| Need { cpu_milli: dice.i32(1..=16) * 500, memory_mib: dice.i32(1..=64) * 512 }).collect();
    let hosts = vec![Need { cpu_milli: 48_000, memory_mib: 192 << 10 }; HOSTS];
    plan(&mut figures, "10,000 VMs of any size", Problem { vms: any, hosts, apart: Vec::new() })?;
    let large = (0..3_000).map(|_| Need { cpu_milli: dice.i32(50..=500) * 64, memory_mib: dice.i32(50..=500) * 256 }).collect();
    let hosts = vec![Need { cpu_milli: 64_000, memory_mib: 256_000 }; 1_100];
    plan(&mut figures, "3,000 VMs of 5 to 50 % of a host", Problem { vms: large, hosts, apart: Vec::new() })?;
    rebalancing(&mut figures, &usual)?;
    gap(&mut figures, &mut dice)?;
    for strategy in [Strategy::Spread, Strategy::Pack] {
        day(&mut figures, strategy);
    }
    figures.write()?;
    Ok(())
}

/// CPUs and GiB as clouds sell them, with how often each is asked for.
fn flavours(dice: &mut fastrand::Rng, count: usize) -> Vec<Need> {
    const KINDS: [(u32, u64, u32); 10] =
        [(1, 1, 10), (1, 2, 18), (2, 2, 8), (2, 4, 18), (2, 8, 10), (4, 8, 14), (4, 16, 8), (8, 16, 6), (8, 32, 5), (16, 64, 3)];
    let all: u32 = KINDS.iter().map(|kind| kind.2).sum();
    let one = |_| {
        let mut at = dice.u32(0..all);
        let kind = KINDS.iter().find(|kind| at.checked_sub(kind.2).map(|left| at = left).is_none());
        let (cpus, gib, _) = kind.copied().unwrap_or(KINDS[0]);
        Need::of(cpus, gib << 30)
    };
    (0..count).map(one).collect()
}

fn empty(count: usize, total: Need) -> Hosts {
    let mut hosts = Hosts::default();
    for n in 0..count {
        let (host, zone) = (HostId::from_u128(n as u128 + 1), format!("z{}", n % 4));
        hosts.push(HostFacts {
            host,
            closed: None,
            total,
            used: Need::default(),
            zone,
            labels: BTreeMap::new(),
            disks: Some(String::new()),
            overlays: true,
        });
    }
    hosts
}

fn wish(need: Need, strategy: Strategy, labels: &BTreeMap<String, String>, turn: u64) -> Wish<'_> {
    let (weights, turn) = (Weights::default(), turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Wish { need, strategy, weights, pin: None, zone: None, labels, anti_affinity: &[], affinity: &[], overlay: false, turn }
}

fn decisions(figures: &mut Figures, strategy: Strategy, vms: &[Need]) -> anyhow::Result<()> {
    let (mut hosts, mut engine, labels) = (empty(HOSTS, Need::of(64, 256 << 30)), Engine::default(), BTreeMap::new());
    let begun = Instant::now();
    for (n, need) in vms.iter().enumerate() {
        let decided = engine.decide(&hosts, &wish(*need, strategy, &labels, n as u64)).map_err(anyhow::Error::msg)?;
        hosts.take(decided.0, *need, std::iter::empty());
        std::hint::black_box((&decided, engine.trace()));
    }
    let what = format!("decisions over 1,000 hosts with their trace, {strategy:?}");
    figures.row(&what, vms.len() as f64 / begun.elapsed().as_secs_f64(), "1/s", "at least 100,000");
    Ok(())
}

fn plan(figures: &mut Figures, name: &str, problem: Problem) -> anyhow::Result<()> {
    let least = problem.least_hosts();
    figures.row(&format!("{name}: hosts that the scarcer resource needs"), least as f64, "hosts", "no plan is better");
    for solver in [&FirstFit as &dyn Solver, &Annealing] {
        let begun = Instant::now();
        let plan = solver.solve(&problem, MOVES, SEED).ok_or_else(|| anyhow::anyhow!("{} cannot", solver.name()))?;
        let took = begun.elapsed();
        plan.check(&problem).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(plan.unplaced() == 0, "{} VMs have no place", plan.unplaced());
        let over = 100.0 * (plan.hosts_used() as f64 / least as f64 - 1.0);
        figures.row(&format!("{name}: {}, hosts over that", solver.name()), over, "%", "within 4 as a plan");
        figures.row(&format!("{name}: {}", solver.name()), took.as_secs_f64(), "s", "");
    }
    Ok(())
}

/// Which moves make hosts more even that were packed one after another.
fn rebalancing(figures: &mut Figures, needs: &[Need]) -> anyhow::Result<()> {
    let (mut hosts, mut engine, labels) = (empty(HOSTS, Need::of(64, 256 << 30)), Engine::default(), BTreeMap::new());
    let mut tenants = Vec::with_capacity(needs.len());
    for (n, need) in needs.iter().enumerate() {
        let wish = wish(*need, Strategy::Pack, &labels, n as u64);
        let (at, decision) = engine.decide(&hosts, &wish).map_err(anyhow::Error::msg)?;
        hosts.take(at, *need, std::iter::empty());
        tenants.push(Tenant {
            vm: VmId::from_u128(n as u128 + 1),
            on: decision.chosen,
            wish,
            weighs: Amount { cpu_milli: need.cpu_milli as f32, memory_mib: need.memory_mib as f32 },
            stays: None,
            ha: false,
            memory_bytes: u64::try_from(need.memory_mib)? << 20,
            disk_bytes: 0,
            dirty_bytes_per_s: None,
        });
    }
    let fill = |at: usize| {
        let (free, total) = (hosts.free(at), hosts.total(at));
        let amount = |cpu: i32, memory: i32| Amount { cpu_milli: cpu as f32, memory_mib: memory as f32 };
        let taken = amount(total.cpu_milli - free.cpu_milli, total.memory_mib - free.memory_mib);
        Some(Fill { taken, of: amount(total.cpu_milli, total.memory_mib) })
    };
    let fills: Vec<_> = (0..hosts.len()).map(fill).collect();
    let cluster = Cluster { hosts: &hosts, fills: &fills, tenants: &tenants, bars: &|_, _| None };
    let begun = Instant::now();
    let plan = Strategy::Spread.rebalance(&cluster, &Rules { moves_max: 256, ..Rules::default() });
    let took = begun.elapsed();
    figures.row("rebalancing 1,000 hosts and 10,000 VMs: moves", plan.moves.len() as f64, "", "256 were allowed");
    figures.row("rebalancing 1,000 hosts and 10,000 VMs: the plan", took.as_secs_f64(), "s", "");
    Ok(())
}

/// How far plans of small cases are from the best there are.
fn gap(figures: &mut Figures, dice: &mut fastrand::Rng) -> anyhow::Result<()> {
    for solver in [&FirstFit as &dyn Solver, &Annealing] {
        let (mut more, mut best, mut worse) = (0, 0, 0_u32);
        for _ in 0..SMALL_CASES {
            let vms = (0..EXACT_VMS_MAX).map(|_| Need::of(dice.u32(1..7), dice.u64(1..7) << 30)).collect();
            let problem = Problem { vms, hosts: vec![Need::of(8, 8 << 30); EXACT_VMS_MAX], apart: Vec::new() };
            let gap = solver.gap(&problem, MOVES_SMALL, SEED).ok_or_else(|| anyhow::anyhow!("a small case is too large"))?;
            anyhow::ensure!(gap.unplaced == gap.unplaced_best, "{gap:?}");
            (more, best) = (more + gap.hosts - gap.hosts_best, best + gap.hosts_best);
            worse += u32::from(gap.hosts > gap.hosts_best);
        }
        let name = format!("{SMALL_CASES} small cases: {}, hosts over the best plan there is", solver.name());
        figures.row(&name, 100.0 * more as f64 / best as f64, "%", "");
        figures.row(&format!("{SMALL_CASES} small cases: {}, not the best plan", solver.name()), worse.into(), "cases", "");
    }
    Ok(())
}

/// VMs come at random and stay for a random time; one that finds no host goes away. How full hosts are once it is steady.
fn day(figures: &mut Figures, strategy: Strategy) {
    let (mut dice, labels, mut engine) = (fastrand::Rng::with_seed(SEED), BTreeMap::new(), Engine::default());
    let total = Need::of(64, 192 << 30);
    let mut hosts = empty(DAY_HOSTS, total);
    let vms = flavours(&mut dice, ARRIVALS);
    let mean = |of: fn(&Need) -> i32| vms.iter().map(|vm| f64::from(of(vm))).sum::<f64>() / vms.len() as f64;
    let cpu = mean(|need| need.cpu_milli) / f64::from(total.cpu_milli);
    let memory = mean(|need| need.memory_mib) / f64::from(total.memory_mib);
    // So many are there at a time if all found a host.
    let staying = OFFERED * DAY_HOSTS as f64 / cpu.max(memory);
    let (mut leaving, mut used, mut looks) = (BTreeMap::new(), 0.0, 0_u32);
    let (mut cpu_used, mut memory_used, mut refused) = (0.0, 0.0, 0);
    for (n, need) in vms.iter().enumerate() {
        while let Some(entry) = leaving.first_entry().filter(|entry| *entry.key() <= (n as u64, 0)) {
            let (at, need): (usize, Need) = entry.remove();
            hosts.give_back(at, need, std::iter::empty());
            cpu_used -= f64::from(need.cpu_milli);
            memory_used -= f64::from(need.memory_mib);
        }
        match engine.place(&hosts, &wish(*need, strategy, &labels, n as u64)) {
            Some(at) => {
                hosts.take(at, *need, std::iter::empty());
                cpu_used += f64::from(need.cpu_milli);
                memory_used += f64::from(need.memory_mib);
                let stays = -staying * (1.0 - dice.f64()).ln();
                leaving.insert((n as u64 + stays.ceil() as u64, n + 1), (at, *need));
            }
            None => refused += 1,
        }
        if n > ARRIVALS / 2 {
            let share = |used: f64, one: i32| used / (f64::from(one) * DAY_HOSTS as f64);
            used += share(cpu_used, total.cpu_milli).max(share(memory_used, total.memory_mib));
            looks += 1;
        }
    }
    let what = format!("a day of arrivals and departures, {strategy:?}: the scarcer resource in use");
    figures.row(&what, 100.0 * used / f64::from(looks.max(1)), "%", "over 84.8");
    figures.row(
        &format!("a day of arrivals and departures, {strategy:?}: refused"),
        100.0 * f64::from(refused) / ARRIVALS as f64,
        "%",
        "",
    );
}
