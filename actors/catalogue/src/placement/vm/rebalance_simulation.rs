//! Checks what rebalancing promises, for fleets by chance: every rule is kept at every step, it pays, it comes to rest and stays
//! there.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use hiveward_kernel::id::{HostId, VmId};

use super::{
    Engine, Guest, HostFacts, Hosts, Need, PlacementStrategy, Reject, Strategy, Weights, Wish,
    rebalance::{Amount, Cluster, Fill, Moment, Rebalance, Rules, Share, Stays, Tenant, held},
    survives_largest,
};

const SEEDS: u64 = 1_500;

#[derive(Clone, Debug)]
struct Machine {
    vm: VmId,
    on: HostId,
    need: Need,
    /// The share in use of what it needs.
    busy: f32,
    zone: Option<String>,
    labels: BTreeMap<String, String>,
    anti: Vec<String>,
    with: Vec<String>,
    ha: bool,
    stays: Option<Stays>,
    disk_bytes: u64,
    dirty: Option<u64>,
}

impl Machine {
    fn wish(&self) -> Wish<'_> {
        Wish {
            need: self.need,
            strategy: Strategy::Spread,
            weights: Weights::default(),
            pin: None,
            zone: self.zone.as_deref(),
            labels: &self.labels,
            anti_affinity: &self.anti,
            affinity: &self.with,
            overlay: false,
            turn: self.vm.as_u128() as u64,
        }
    }

    fn groups(&self) -> impl Iterator<Item = &String> {
        self.anti.iter().chain(&self.with)
    }
}

#[derive(Clone, Debug)]
struct World {
    hosts: Vec<HostFacts>,
    kinds: Vec<u8>,
    machines: Vec<Machine>,
    by_use: bool,
    moved: HashSet<VmId>,
}

impl World {
    /// Makes hosts and VMs by chance, the VMs wherever their rules let them be, as if nobody had cared how evenly.
    fn by_chance(dice: &mut fastrand::Rng) -> Self {
        let facts = |n: usize, dice: &mut fastrand::Rng| HostFacts {
            host: HostId::from_u128(n as u128 + 1),
            closed: (dice.f64() < 0.1).then_some(Reject::Draining),
            total: Need::of(dice.u32(8..65), dice.u64(16..257) << 30),
            used: Need::default(),
            zone: format!("z{}", dice.u32(0..3)),
            labels: BTreeMap::from([("disk".to_owned(), dice.u32(0..2).to_string())]),
            disks: (dice.f64() < 0.9).then(|| format!("pool{}", dice.u32(0..2))),
            overlays: true,
        };
        let count = dice.usize(2..9);
        let hosts: Vec<_> = (0..count).map(|n| facts(n, dice)).collect();
        let kinds = hosts.iter().map(|_| u8::from(dice.f64() < 0.1)).collect();
        let mut world = Self { hosts, kinds, machines: Vec::new(), by_use: dice.bool(), moved: HashSet::new() };
        for n in 0..dice.u128(1..60) {
            let groups = |dice: &mut fastrand::Rng, at: u32| (dice.f64() < 0.3).then(|| format!("g{}", at + dice.u32(0..2)));
            let mut machine = Machine {
                vm: VmId::from_u128(n + 1),
                on: HostId::from_u128(0),
                need: Need::of(dice.u32(1..9), dice.u64(1..17) << 30),
                busy: dice.f32(),
                zone: (dice.f64() < 0.1).then(|| format!("z{}", dice.u32(0..3))),
                labels: (dice.f64() < 0.1).then(|| ("disk".to_owned(), dice.u32(0..2).to_string())).into_iter().collect(),
                anti: groups(dice, 0).into_iter().collect(),
                with: groups(dice, 5).into_iter().collect(),
                ha: dice.f64() < 0.3,
                stays: (dice.f64() < 0.1).then_some(Stays::Snapshots),
                disk_bytes: dice.u64(0..20) << 30,
                dirty: (dice.f64() < 0.2).then(|| dice.u64(0..200 << 20)),
            };
            let hosts = world.columns();
            let mut engine = Engine::default();
            engine.place(&hosts, &machine.wish());
            let fine = |at: &usize| engine.trace().rejects.get(*at) == Some(&Reject::None);
            let eligible: Vec<usize> = (0..hosts.len()).filter(fine).collect();
            // Mostly where many are already.
            let Some(at) = eligible.get(if dice.f64() < 0.7 { 0 } else { dice.usize(0..eligible.len().max(1)) }) else {
                continue;
            };
            machine.on = hosts.id(*at).unwrap();
            world.machines.push(machine);
            if world.survives().is_err() {
                world.machines.pop();
            }
        }
        world
    }

    fn columns(&self) -> Hosts {
        let mut hosts = Hosts::default();
        self.hosts.iter().for_each(|facts| hosts.push(facts.clone()));
        for machine in &self.machines {
            let at = hosts.position(machine.on).unwrap();
            hosts.take(at, machine.need, machine.groups().map(String::as_str));
        }
        hosts
    }

    fn survives(&self) -> Result<(), String> {
        let guests = self.machines.iter().filter(|machine| machine.ha);
        let guests: Vec<_> = guests.map(|machine| Guest { vm: machine.vm, on: machine.on, wish: machine.wish() }).collect();
        survives_largest(&self.columns(), &guests)
    }

    fn weighs(&self, machine: &Machine) -> Amount {
        let busy = if self.by_use { machine.busy } else { 1.0 };
        // Whole numbers, so that sums are the same in any order.
        Amount {
            cpu_milli: (machine.need.cpu_milli as f32 * busy).round(),
            memory_mib: (machine.need.memory_mib as f32 * busy).round(),
        }
    }

    fn fills(&self) -> Vec<Option<Fill>> {
        let of = |facts: &HostFacts| {
            let mut taken = Amount::default();
            for weighs in self.machines.iter().filter(|machine| machine.on == facts.host).map(|machine| self.weighs(machine)) {
                taken.cpu_milli += weighs.cpu_milli;
                taken.memory_mib += weighs.memory_mib;
            }
            let of = Amount { cpu_milli: facts.total.cpu_milli as f32, memory_mib: facts.total.memory_mib as f32 };
            facts.closed.is_none().then_some(Fill { taken, of })
        };
        self.hosts.iter().map(of).collect()
    }

    fn plan(&self, strategy: Strategy, rules: &Rules) -> Rebalance {
        let tenant = |machine: &'_ Machine| -> Tenant<'_> {
            let machine: &Machine = self.machines.iter().find(|other| other.vm == machine.vm).unwrap();
            Tenant {
                vm: machine.vm,
                on: machine.on,
                wish: machine.wish(),
                weighs: self.weighs(machine),
                stays: machine.stays.or(self.moved.contains(&machine.vm).then_some(Stays::CoolDown)),
                ha: machine.ha,
                memory_bytes: (machine.need.memory_mib as u64) << 20,
                disk_bytes: machine.disk_bytes,
                dirty_bytes_per_s: machine.dirty,
            }
        };
        let tenants: Vec<Tenant<'_>> = self.machines.iter().map(tenant).collect();
        let kind = |host: HostId| self.kinds[usize::try_from(host.as_u128()).unwrap() - 1];
        let bars = |from: HostId, to: HostId| (kind(from) != kind(to)).then_some(Reject::Kind);
        let (hosts, fills) = (self.columns(), self.fills());
        strategy.rebalance(&Cluster { hosts: &hosts, fills: &fills, tenants: &tenants, bars: &bars }, rules)
    }

    fn loads(&self, strategy: Strategy) -> Vec<f32> {
        let shares = self
            .fills()
            .into_iter()
            .flatten()
            .map(|fill| strategy.load(fill.taken.cpu_milli / fill.of.cpu_milli, fill.taken.memory_mib / fill.of.memory_mib));
        let mut loads: Vec<f32> = shares.collect();
        loads.sort_by(|a, b| b.total_cmp(a));
        loads
    }

    /// Checks the rules as words have them, for a VM where it is now.
    fn check(&self, vm: VmId, seed: u64) {
        let machine = self.machines.iter().find(|machine| machine.vm == vm).unwrap();
        let facts = self.hosts.iter().find(|facts| facts.host == machine.on).unwrap();
        let others: Vec<_> = self.machines.iter().filter(|other| other.vm != vm).collect();
        let here: Vec<_> = others.iter().filter(|other| other.on == machine.on).collect();
        assert_eq!(facts.closed, None, "seed {seed}: {vm} is on a host that takes nothing");
        assert!(machine.zone.as_ref().is_none_or(|zone| *zone == facts.zone), "seed {seed}: {vm} left its zone");
        assert!(machine.labels.iter().all(|(key, value)| facts.labels.get(key) == Some(value)), "seed {seed}: {vm}'s labels");
        let apart = |group: &String| !here.iter().any(|other| other.groups().any(|of| of == group));
        assert!(machine.anti.iter().all(apart), "seed {seed}: {vm} is together with what it is kept apart from");
        let with = |group: &String| {
            let any = others.iter().any(|other| other.groups().any(|of| of == group));
            !any || here.iter().any(|other| other.groups().any(|of| of == group))
        };
        assert!(machine.with.iter().all(with), "seed {seed}: {vm} is parted from its group");
        let sum = |of: fn(&Need) -> i32| here.iter().map(|other| of(&other.need)).sum::<i32>() + of(&machine.need);
        let fits = sum(|need| need.cpu_milli) <= facts.total.cpu_milli && sum(|need| need.memory_mib) <= facts.total.memory_mib;
        assert!(fits, "seed {seed}: {} is promised more than it has", facts.host);
    }

    /// Does all of a plan, and holds it to what it says.
    fn follow(&mut self, plan: &Rebalance, strategy: Strategy, rules: &Rules, seed: u64) {
        let comes_back = self.survives().is_ok();
        for step in &plan.moves {
            let before = self.loads(strategy);
            let shares = |world: &Self| {
                let disks = |host: HostId| world.hosts.iter().find(|facts| facts.host == host).unwrap().disks.clone();
                disks(step.from).is_some() && disks(step.from) == disks(step.to)
            };
            let shared = shares(self);
            let machine = self.machines.iter_mut().find(|machine| machine.vm == step.vm).unwrap();
            assert_eq!(machine.on, step.from, "seed {seed}");
            assert!(machine.stays.is_none() && self.moved.insert(step.vm), "seed {seed}: {} was to stay", step.vm);
            assert!(!machine.ha || shared, "seed {seed}: {} left its disks", step.vm);
            assert!(step.gain - step.cost > rules.margin, "seed {seed}: {step:?} does not pay");
            let copied = ((machine.need.memory_mib as u64) << 20) + if shared { 0 } else { machine.disk_bytes };
            assert_eq!(step.copy_bytes, copied, "seed {seed}: what is shared is not copied, and the rest is");
            machine.on = step.to;
            self.check(step.vm, seed);
            let after = self.loads(strategy);
            assert!(after < before, "seed {seed}: {step:?} made it no better: {before:?} to {after:?}");
        }
        assert!(!comes_back || self.survives().is_ok(), "seed {seed}: {:?}", self.survives());
        // What was forecast is what is.
        let fills = self.fills();
        for forecast in &plan.forecast {
            let at = self.hosts.iter().position(|facts| facts.host == forecast.host).unwrap();
            let fill = fills[at].unwrap();
            let share =
                Share { cpu: fill.taken.cpu_milli / fill.of.cpu_milli, memory: fill.taken.memory_mib / fill.of.memory_mib };
            assert_eq!(forecast.after.share, share, "seed {seed}: of {}", forecast.host);
        }
        assert!(plan.imbalance_after <= plan.imbalance, "seed {seed}");
    }
}

fn rules(dice: &mut fastrand::Rng) -> Rules {
    Rules {
        threshold: dice.f32() * 0.2,
        margin: 0.001 + dice.f32() * 0.05,
        pays_within: Duration::from_secs(dice.u64(60..86_400)),
        copy_bytes_per_s: dice.u64(10..1_000) << 20,
        moves_max: 1_000,
    }
}

#[test]
fn a_rebalancing_keeps_every_rule_pays_and_a_second_plan_right_after_is_empty() {
    let (mut moves, mut waiting) = (0, 0);
    for seed in 0..SEEDS {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut world = World::by_chance(&mut dice);
        let (strategy, rules) = (if dice.bool() { Strategy::Spread } else { Strategy::Weighted }, rules(&mut dice));
        let plan = world.plan(strategy, &rules);
        assert_eq!(plan, world.plan(strategy, &rules), "seed {seed}: the same is planned for the same");
        world.follow(&plan, strategy, &rules, seed);
        moves += plan.moves.len();
        waiting += plan.moves.iter().filter(|step| step.waits).count();
        let again = world.plan(strategy, &rules);
        assert_eq!(again.moves, [], "seed {seed}: it does not rest");
        // Over the threshold it says why nothing more moves.
        let silent = again.imbalance > rules.threshold && again.stay.is_empty();
        let over = world.loads(strategy).into_iter().any(|load| load > again.mean + rules.threshold);
        assert!(!silent || !over || world.machines.is_empty(), "seed {seed}: {again:?}");
    }
    assert!(moves > SEEDS as usize, "{moves} moves in all: nothing was tried");
    println!("{moves} moves, of which {waiting} waited for another");
}

#[test]
fn with_constant_load_it_comes_to_rest_even_if_a_vm_may_move_again_at_once() {
    for seed in 0..SEEDS / 3 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut world = World::by_chance(&mut dice);
        let rules = Rules { moves_max: dice.usize(1..4), ..rules(&mut dice) };
        let (mut plans, mut seen) = (0, HashSet::new());
        loop {
            let places: Vec<_> = world.machines.iter().map(|machine| machine.on).collect();
            assert!(seen.insert(places), "seed {seed}: it went in a circle");
            let plan = world.plan(Strategy::Spread, &rules);
            if plan.moves.is_empty() {
                break;
            }
            world.moved.clear();
            world.follow(&plan, Strategy::Spread, &rules, seed);
            // Nothing cools down.
            world.moved.clear();
            plans += 1;
            assert!(plans < 1_000, "seed {seed}: it does not rest");
        }
    }
}

#[test]
fn what_waits_needs_room_that_another_move_frees_and_all_others_may_begin_together() {
    for seed in 0..SEEDS {
        let mut dice = fastrand::Rng::with_seed(seed);
        let world = World::by_chance(&mut dice);
        let plan = world.plan(Strategy::Spread, &rules(&mut dice));
        // As the roster reserves them: there as well, and here still.
        let mut hosts = world.columns();
        for step in &plan.moves {
            let machine = world.machines.iter().find(|machine| machine.vm == step.vm).unwrap();
            let (from, to) = (hosts.position(step.from).unwrap(), hosts.position(step.to).unwrap());
            let was = hosts.close(from, Reject::Own);
            hosts.give_back(from, machine.need, machine.groups().map(String::as_str));
            let mut engine = Engine::default();
            let placed = engine.place(&hosts, &Wish { pin: Some(step.to), ..machine.wish() });
            hosts.take(from, machine.need, machine.groups().map(String::as_str));
            hosts.close(from, was);
            assert_eq!(placed.is_none(), step.waits, "seed {seed}: {step:?}");
            if placed.is_some() {
                hosts.take(to, machine.need, machine.groups().map(String::as_str));
            }
        }
    }
}

/// Makes two hosts of 10 CPUs, and VMs of one CPU and 1 GiB on the first.
fn two(vms: u128) -> World {
    let facts = |n: u128| HostFacts {
        host: HostId::from_u128(n),
        closed: None,
        total: Need::of(10, 100 << 30),
        used: Need::default(),
        zone: String::new(),
        labels: BTreeMap::new(),
        disks: Some(String::new()),
        overlays: true,
    };
    let machine = |n: u128| Machine {
        vm: VmId::from_u128(n),
        on: HostId::from_u128(1),
        need: Need::of(1, 1 << 30),
        busy: 1.0,
        zone: None,
        labels: BTreeMap::new(),
        anti: Vec::new(),
        with: Vec::new(),
        ha: false,
        stays: None,
        disk_bytes: 0,
        dirty: None,
    };
    World {
        hosts: vec![facts(1), facts(2)],
        kinds: vec![0, 0],
        machines: (1..=vms).map(machine).collect(),
        by_use: false,
        moved: HashSet::new(),
    }
}

#[test]
fn a_move_is_made_only_over_the_threshold_and_if_it_gains_more_than_it_costs_and_the_margin() {
    let world = two(6);
    let plan = |rules: Rules| world.plan(Strategy::Spread, &rules);
    let usual = plan(Rules::default());
    // 60 % and nothing, so 30 points above the mean; two leave it at 40 and 20.
    assert!((usual.imbalance - 0.3).abs() < 1e-6 && (usual.imbalance_after - 0.1).abs() < 1e-6, "{usual:?}");
    assert_eq!(usual.moves.len(), 2);
    let first = usual.moves[0];
    assert!((first.gain - 0.1).abs() < 1e-6 && (first.cost - 10.24 / 3_600.0).abs() < 1e-6, "{first:?}");
    assert_eq!((first.from_before.load, first.to_before.load), (0.6, 0.0));
    assert_eq!((first.copy_bytes, first.copy.as_millis()), (1 << 30, 10_240));
    assert_eq!(plan(Rules { threshold: 0.3, ..Rules::default() }).moves, []);
    assert_eq!(plan(Rules { margin: 0.1, ..Rules::default() }).stay, [(Stays::NotWorth, 6)]);
    let dear = plan(Rules { pays_within: Duration::from_secs(60), ..Rules::default() });
    assert_eq!((dear.moves.len(), &dear.stay[..]), (0, &[(Stays::NotWorth, 6)][..]), "a copy of ten seconds in each minute");
    assert_eq!(plan(Rules { moves_max: 1, ..Rules::default() }).moves.len(), 1);
    let mut wild = world.clone();
    wild.machines.iter_mut().for_each(|machine| machine.dirty = Some(200 << 20));
    assert_eq!(wild.plan(Strategy::Spread, &Rules::default()).stay, [(Stays::Writes, 6)]);
    // What is packed stays packed.
    assert_eq!(world.plan(Strategy::Pack, &Rules::default()).moves, []);
}

#[test]
fn an_imbalance_counts_from_when_it_was_last_allowed_or_nobody_looked() {
    let moment = |first: f32, second: f32| -> Moment {
        let amount = |cpu_milli: f32| Amount { cpu_milli, memory_mib: 0.0 };
        let fill = |cpu: f32| Fill { taken: amount(cpu), of: amount(1.0) };
        BTreeMap::from([(HostId::from_u128(1), fill(first)), (HostId::from_u128(2), fill(second))])
    };
    let held = |moments: &[Moment]| held(moments, Duration::from_secs(60), 0.1, &|cpu, memory| cpu.max(memory)).as_secs();
    let (over, even) = (moment(0.9, 0.1), moment(0.5, 0.5));
    assert_eq!(held(&[over.clone(), over.clone(), even.clone(), over.clone()]), 120);
    assert_eq!(held(&[even, over.clone()]), 0);
    assert_eq!(held(&[over.clone(), Moment::new(), over]), 60);
    assert_eq!(held(&[]), 0);
}
