//! Checks what placement promises, for hosts and wishes by chance.

use std::collections::BTreeMap;

use hiveward_kernel::id::{HostId, VmId};
use proptest::prelude::*;

use super::{
    EXACT_VMS_MAX, Engine, Exact, Guest, HostFacts, Hosts, Need, Reject, Strategy as Way, Weights, Wish, come_back,
    plan::{Annealing, FirstFit, Gap, Plan, Problem, Solver},
    survives_largest,
};

fn gib(cpus: u32, gib: u64) -> Need {
    Need::of(cpus, gib << 30)
}

#[derive(Clone, Debug)]
struct Asked {
    need: Need,
    strategy: Way,
    zone: Option<String>,
    labels: BTreeMap<String, String>,
    anti: Vec<String>,
    with: Vec<String>,
    pin: Option<HostId>,
    turn: u64,
}

impl Asked {
    fn wish(&self) -> Wish<'_> {
        Wish {
            need: self.need,
            strategy: self.strategy,
            weights: Weights::default(),
            pin: self.pin,
            zone: self.zone.as_deref(),
            labels: &self.labels,
            anti_affinity: &self.anti,
            affinity: &self.with,
            overlay: false,
            turn: self.turn,
        }
    }

    fn groups(&self) -> impl Iterator<Item = &str> {
        self.anti.iter().chain(&self.with).map(String::as_str)
    }
}

fn any_hosts() -> impl Strategy<Value = Vec<HostFacts>> {
    let host = (prop::option::weighted(0.2, Just(Reject::Draining)), 1u32..16, 1u64..32, 0u8..3, 0u8..2);
    prop::collection::vec(host, 0..12).prop_map(|hosts| {
        let facts = |(at, (closed, cpus, memory, zone, label)): (usize, (_, u32, u64, u8, u8))| HostFacts {
            host: HostId::from_u128(at as u128 + 1),
            closed,
            total: gib(cpus, memory),
            used: Need::default(),
            zone: format!("z{zone}"),
            labels: BTreeMap::from([("disk".into(), label.to_string())]),
            disks: Some(String::new()),
            overlays: true,
        };
        hosts.into_iter().enumerate().map(facts).collect()
    })
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let strategy = prop_oneof![Just(Way::Spread), Just(Way::Pack), Just(Way::Weighted)];
    let wishes =
        (prop::option::weighted(0.2, 0u8..3), prop::option::weighted(0.2, 0u8..2), prop::option::weighted(0.1, 1u128..13));
    let groups = (prop::option::weighted(0.3, 0u8..3), prop::option::weighted(0.2, 3u8..5));
    (1u32..6, 1u64..12, strategy, wishes, groups, any::<u64>()).prop_map(
        |(cpus, memory, strategy, (zone, label, pin), (anti, with), turn)| Asked {
            need: gib(cpus, memory),
            strategy,
            zone: zone.map(|zone| format!("z{zone}")),
            labels: label.map(|label| ("disk".into(), label.to_string())).into_iter().collect(),
            anti: anti.map(|group| format!("g{group}")).into_iter().collect(),
            with: with.map(|group| format!("g{group}")).into_iter().collect(),
            pin: pin.map(HostId::from_u128),
            turn,
        },
    )
}

fn columns(facts: &[HostFacts]) -> Hosts {
    let mut hosts = Hosts::default();
    for one in facts {
        hosts.push(one.clone());
    }
    hosts
}

/// The placed VMs, kept plainly: the rules as words have them.
#[derive(Default)]
struct Book(Vec<(HostId, Asked)>);

impl Book {
    fn used(&self, host: HostId) -> Need {
        let on = self.0.iter().filter(|(on, _)| *on == host);
        on.fold(Need::default(), |sum, (_, asked)| Need {
            cpu_milli: sum.cpu_milli + asked.need.cpu_milli,
            memory_mib: sum.memory_mib + asked.need.memory_mib,
        })
    }

    fn has(&self, host: Option<HostId>, group: &str) -> bool {
        self.0.iter().any(|(on, asked)| host.is_none_or(|host| host == *on) && asked.groups().any(|of| of == group))
    }

    fn fits(&self, facts: &HostFacts, asked: &Asked) -> bool {
        let used = self.used(facts.host);
        facts.closed.is_none()
            && asked.pin.is_none_or(|pin| pin == facts.host)
            && asked.zone.as_ref().is_none_or(|zone| *zone == facts.zone)
            && asked.labels.iter().all(|(name, value)| facts.labels.get(name) == Some(value))
            && used.cpu_milli + asked.need.cpu_milli <= facts.total.cpu_milli
            && used.memory_mib + asked.need.memory_mib <= facts.total.memory_mib
            && !asked.anti.iter().any(|group| self.has(Some(facts.host), group))
            && asked.with.iter().all(|group| !self.has(None, group) || self.has(Some(facts.host), group))
    }
}

proptest! {
    #[test]
    fn every_choice_keeps_all_rules_and_there_is_one_whenever_any_host_would_do(
        facts in any_hosts(), asked in prop::collection::vec(any_asked(), 1..40),
    ) {
        let (mut hosts, mut engine, mut book) = (columns(&facts), Engine::default(), Book::default());
        for asked in asked {
            let eligible: Vec<_> = facts.iter().filter(|facts| book.fits(facts, &asked)).map(|facts| facts.host).collect();
            match engine.decide(&hosts, &asked.wish()) {
                Ok((at, decision)) => {
                    prop_assert!(eligible.contains(&decision.chosen), "{decision:?} for {asked:?}");
                    prop_assert_eq!(decision.eligible as usize, eligible.len());
                    prop_assert_eq!(decision.scores[0].host, decision.chosen);
                    prop_assert!(decision.scores.windows(2).all(|two| two[0].total >= two[1].total), "{:?}", decision);
                    prop_assert_eq!(decision.scores.len(), eligible.len().min(super::SHOWN_MAX));
                    let out: u32 = decision.left_out.iter().map(|left| left.hosts).sum();
                    prop_assert_eq!(out as usize, facts.len() - eligible.len());
                    prop_assert_eq!(engine.trace().rejects.len(), facts.len());
                    hosts.take(at, asked.need, asked.groups());
                    book.0.push((decision.chosen, asked));
                }
                Err(why) => {
                    prop_assert!(eligible.is_empty(), "{why}, but {eligible:?} for {asked:?}");
                    prop_assert!(why.starts_with("no host is eligible"));
                }
            }
        }
        // What was given back leaves nothing behind.
        for (host, asked) in book.0.drain(..) {
            hosts.give_back(hosts.position(host).unwrap(), asked.need, asked.groups());
        }
        for (at, facts) in facts.iter().enumerate() {
            prop_assert_eq!(hosts.free(at), facts.total);
        }
        prop_assert!(hosts.groups.is_empty());
    }

    #[test]
    fn spread_takes_the_emptiest_by_the_scarcer_resource_and_pack_the_fullest(
        facts in any_hosts(), first in prop::collection::vec(any_asked(), 0..20), asked in any_asked(),
    ) {
        let (mut hosts, mut engine) = (columns(&facts), Engine::default());
        for one in first {
            if let Some(at) = engine.place(&hosts, &one.wish()) {
                hosts.take(at, one.need, one.groups());
            }
        }
        let asked = Asked { anti: Vec::new(), ..asked };
        let left = |at: usize| {
            let (free, total) = (hosts.free(at), hosts.total(at));
            let share = |free: i32, need: i32, total: i32| f64::from(free - need) / f64::from(total);
            (share(free.cpu_milli, asked.need.cpu_milli, total.cpu_milli), share(free.memory_mib, asked.need.memory_mib, total.memory_mib))
        };
        for strategy in [Way::Spread, Way::Pack] {
            let Some(best) = engine.place(&hosts, &Wish { strategy, ..asked.wish() }) else { continue };
            let score = |at: usize| match (strategy, left(at)) {
                (Way::Spread, (cpu, memory)) => cpu.min(memory),
                (_, (cpu, memory)) => -(cpu + memory),
            };
            for at in (0..hosts.len()).filter(|at| engine.trace().rejects[*at] == Reject::None) {
                prop_assert!(score(best) >= score(at) - 1e-5, "{strategy:?}: {} at {best}, {} at {at}", score(best), score(at));
            }
        }
    }

    #[test]
    fn what_was_admitted_survives_the_loss_of_any_one_host(facts in any_hosts(), asked in prop::collection::vec(any_asked(), 1..30)) {
        let (mut hosts, mut engine) = (columns(&facts), Engine::default());
        let mut admitted: Vec<(HostId, Asked)> = Vec::new();
        // Every third is not to come back, and takes room from those that are.
        let comes_back = |n: usize| n % 3 != 2;
        fn guests(admitted: &[(HostId, Asked)], comes_back: impl Fn(usize) -> bool) -> Vec<Guest<'_>> {
            let all = admitted.iter().enumerate().filter(|(n, _)| comes_back(*n));
            all.map(|(n, (on, asked))| Guest { vm: VmId::from_u128(n as u128), on: *on, wish: asked.wish() }).collect()
        }
        for one in &asked {
            let Some(at) = engine.place(&hosts, &one.wish()) else { continue };
            hosts.take(at, one.need, one.groups());
            admitted.push((hosts.id(at).unwrap(), one.clone()));
            if survives_largest(&hosts, &guests(&admitted, comes_back)).is_err() {
                hosts.give_back(at, one.need, one.groups());
                admitted.pop();
            }
        }
        let guests = guests(&admitted, comes_back);
        for lost in facts.iter().map(|facts| facts.host) {
            let places = come_back(&hosts, &guests, lost);
            prop_assert_eq!(places.len(), guests.iter().filter(|guest| guest.on == lost).count(), "each of it once");
            // By the rules in words, with the lost host and all that was on it gone.
            let mut book = Book(admitted.iter().filter(|(on, _)| *on != lost).cloned().collect());
            for (vm, place) in places {
                let place = place.map_err(|why| TestCaseError::fail(format!("{vm} did not come back: {why}")))?;
                let facts = facts.iter().find(|facts| facts.host == place.chosen && facts.host != lost).unwrap();
                let asked = Asked { pin: None, ..admitted[vm.as_u128() as usize].1.clone() };
                prop_assert!(book.fits(facts, &asked), "{asked:?} does not fit on {facts:?}");
                book.0.push((place.chosen, asked));
            }
        }
    }

    #[test]
    fn a_plan_promises_no_host_twice_and_annealing_is_never_worse_than_first_fit(
        vms in prop::collection::vec((1u32..9, 1u64..17, 0u32..4), 1..60), hosts in 1usize..40, seed in any::<u64>(),
    ) {
        let problem = Problem {
            vms: vms.iter().map(|(cpus, memory, _)| gib(*cpus, *memory)).collect(),
            hosts: (0..hosts).map(|n| gib(8 + 4 * (n as u32 % 3), 16 + 8 * (n as u64 % 2))).collect(),
            apart: vms.iter().map(|(_, _, group)| *group).collect(),
        };
        let first = FirstFit.solve(&problem, 0, seed).unwrap();
        let annealed = Annealing.solve(&problem, 20_000, seed).unwrap();
        for plan in [&first, &annealed] {
            prop_assert_eq!(plan.check(&problem), Ok(()));
            prop_assert!(plan.unplaced() > 0 || plan.hosts_used() >= problem.least_hosts());
        }
        prop_assert!((annealed.unplaced(), annealed.hosts_used()) <= (first.unplaced(), first.hosts_used()));
        prop_assert_eq!(&annealed, &Annealing.solve(&problem, 20_000, seed).unwrap(), "the same seed gives the same plan");
    }

    #[test]
    fn the_exact_plan_is_the_best_of_all_that_there_are(
        vms in prop::collection::vec((1u32..7, 1u64..7, 0u32..3), 1..6), hosts in 1usize..4,
    ) {
        let problem = Problem {
            vms: vms.iter().map(|(cpus, memory, _)| gib(*cpus, *memory)).collect(),
            hosts: (0..hosts).map(|n| gib(8 - 2 * (n as u32 % 2), 8)).collect(),
            apart: vms.iter().map(|(_, _, group)| *group).collect(),
        };
        let exact = Exact.solve(&problem, 0, 0).unwrap();
        prop_assert_eq!(exact.check(&problem), Ok(()));
        prop_assert_eq!((exact.unplaced(), exact.hosts_used()), best_of_all(&problem));
    }

    #[test]
    fn on_small_cases_annealing_is_at_most_one_host_from_the_best_there_is(
        vms in prop::collection::vec((1u32..7, 1u64..7, 0u32..4), 1..=EXACT_VMS_MAX), seed in any::<u64>(),
    ) {
        let problem = Problem {
            vms: vms.iter().map(|(cpus, memory, _)| gib(*cpus, *memory)).collect(),
            hosts: vec![gib(8, 8); EXACT_VMS_MAX],
            apart: vms.iter().map(|(_, _, group)| *group).collect(),
        };
        let gap = Annealing.gap(&problem, 50_000, seed).unwrap();
        let Gap { hosts, unplaced, hosts_best, unplaced_best } = gap;
        prop_assert!((unplaced, hosts) >= (unplaced_best, hosts_best), "better than the best: {gap:?}");
        prop_assert!((unplaced, unplaced_best) == (0, 0) && hosts <= hosts_best + 1, "{gap:?}");
    }
}

#[test]
fn where_hosts_are_too_few_annealing_leaves_out_half_as_many_as_first_fit_beyond_what_must_be() {
    const SEEDS: u64 = 200;
    let (mut left, mut left_first, mut least, mut best_plans) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut dice = fastrand::Rng::with_seed(seed);
        let vms = (0..EXACT_VMS_MAX).map(|_| gib(dice.u32(1..7), dice.u64(1..7))).collect();
        let problem = Problem { vms, hosts: vec![gib(8, 8); dice.usize(3..6)], apart: Vec::new() };
        let gap = Annealing.gap(&problem, 20_000, seed).unwrap();
        assert!((gap.unplaced, gap.hosts) >= (gap.unplaced_best, gap.hosts_best), "seed {seed}: better than the best: {gap:?}");
        left += gap.unplaced;
        left_first += FirstFit.gap(&problem, 0, seed).unwrap().unplaced;
        least += gap.unplaced_best;
        best_plans += usize::from((gap.unplaced, gap.hosts) == (gap.unplaced_best, gap.hosts_best));
    }
    println!(
        "{left} without a place, {left_first} by first fit, {least} in the best plans; {best_plans} of {SEEDS} plans are best"
    );
    assert!(left - least <= (left_first - least) / 2, "{left}, {left_first} by first fit, {least} at best");
}

#[test]
fn what_is_too_large_to_try_everything_is_refused() {
    let unit = gib(1, 1);
    let large = Problem { vms: vec![unit; EXACT_VMS_MAX + 1], hosts: vec![unit; 2], apart: Vec::new() };
    assert!(Exact.solve(&large, 0, 0).is_none() && Annealing.gap(&large, 10, 0).is_none());
    assert!(Annealing.solve(&large, 10, 0).is_some());
}

/// Returns the least VMs without a place, and then the fewest hosts, by trying everything.
fn best_of_all(problem: &Problem) -> (usize, usize) {
    let (vms, choices) = (problem.vms.len() as u32, problem.hosts.len() as u64 + 1);
    let plans = (0..choices.pow(vms)).map(|code| {
        let digit = |vm: u32| u32::try_from(code / choices.pow(vm) % choices).ok().filter(|host| u64::from(*host) < choices - 1);
        Plan { host_of: (0..vms).map(digit).collect() }
    });
    plans.filter(|plan| plan.check(problem).is_ok()).map(|plan| (plan.unplaced(), plan.hosts_used())).min().unwrap()
}

#[test]
fn vms_that_are_kept_apart_are_spread_over_zones_before_a_zone_gets_a_second() {
    let mut hosts = Hosts::default();
    for n in 0..6_u128 {
        // Zone z0 has the largest hosts, which spread would like best.
        let total = if n < 2 { gib(64, 256) } else { gib(16, 64) };
        let zone = format!("z{}", n / 2);
        hosts.push(HostFacts {
            host: HostId::from_u128(n + 1),
            closed: None,
            total,
            used: Need::default(),
            zone,
            labels: BTreeMap::new(),
            disks: Some(String::new()),
            overlays: true,
        });
    }
    let asked = Asked {
        need: gib(1, 1),
        strategy: Way::Spread,
        zone: None,
        labels: BTreeMap::new(),
        anti: vec!["web".into()],
        with: Vec::new(),
        pin: None,
        turn: 0,
    };
    let (mut engine, mut zones) = (Engine::default(), Vec::new());
    for _ in 0..6 {
        let at = engine.place(&hosts, &asked.wish()).unwrap();
        hosts.take(at, asked.need, asked.groups());
        zones.push(at / 2);
    }
    zones[..3].sort_unstable();
    zones[3..].sort_unstable();
    assert_eq!(zones, [0, 1, 2, 0, 1, 2]);
    assert!(engine.place(&hosts, &asked.wish()).is_none());
}

#[test]
fn the_least_value_of_the_exported_problem_is_the_best_plan() {
    // Two VMs that fit together on one of two hosts.
    let unit = Need { cpu_milli: 1000, memory_mib: 256 };
    let problem = Problem { vms: vec![unit, unit], hosts: vec![Need { cpu_milli: 2000, memory_mib: 512 }; 2], apart: Vec::new() };
    let qubo = problem.qubo().unwrap();
    assert!(qubo.variables <= 20, "{}", qubo.variables);
    let value = |bits: u32| -> f64 {
        let on = |i: usize| bits >> i & 1 == 1;
        qubo.terms.iter().filter(|(i, j, _)| on(*i) && on(*j)).map(|(_, _, weight)| weight).sum()
    };
    let best = (0..1_u32 << qubo.variables).min_by(|a, b| value(*a).total_cmp(&value(*b))).unwrap();
    let on = |vm: usize| (0..2).filter(|host| best >> (vm * 2 + host) & 1 == 1).collect::<Vec<_>>();
    assert!(on(0).len() == 1 && on(0) == on(1), "{best:b}: {:?} {:?}", on(0), on(1));
    assert_eq!((best >> 4 & 3).count_ones(), 1, "one host is used");
    // Kept apart they need both.
    let apart = Problem { apart: vec![1, 1], ..problem }.qubo().unwrap();
    let value = |bits: u32| -> f64 {
        let on = |i: usize| bits >> i & 1 == 1;
        apart.terms.iter().filter(|(i, j, _)| on(*i) && on(*j)).map(|(_, _, weight)| weight).sum()
    };
    let best = (0..1_u32 << apart.variables).min_by(|a, b| value(*a).total_cmp(&value(*b))).unwrap();
    let on = |vm: usize| (0..2).filter(|host| best >> (vm * 2 + host) & 1 == 1).collect::<Vec<_>>();
    assert!(on(0).len() == 1 && on(1).len() == 1 && on(0) != on(1), "{best:b}");
    let large = Problem { vms: vec![unit; 1000], hosts: vec![unit; 1000], apart: Vec::new() };
    assert!(large.qubo().is_none());
}
