//! Thousands of seeded histories of machines, nodes, keepers and hosts that die, freeze, are cut off and run by clocks of
//! their own, with VMs that come back. At no instant does one of them run twice, and in the end all run. Leases, the
//! roster's decisions and its fold are the real ones; what a node does with them is told again here. Prints the seed that
//! fails.

mod harm;
mod leader;
mod node;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hiveward_catalogue::{
    directory::Known,
    host::{
        event::{FleetChange, FleetEvent},
        spec::{Capacity, HostSpec},
    },
    placement::vm::{Decision, Strategy},
    roster::event::{NodeRecord, RosterEvent},
    vm::spec::VmSpec,
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::{
    clock::{BootTime, WallMs},
    cluster::lease::{Ask, Grant, Grantor, Holder, LeaseTerms, NotGranted},
    op::NodeId,
};

use super::decide;

const STEP: Duration = Duration::from_millis(100);
/// The steps in which things break, forty seconds; they are mended in more than a minute.
const BREAKING: u32 = 400;
const MENDED: u32 = 700;
const NODES: usize = 4;
const VMS: u128 = 6;
const RATE_OFF_MAX: f64 = 0.02;
/// The most steps that a kill takes: the margin, and what is between the begin of a fence and the end of its lease.
const KILL_STEPS_MAX: u32 = 38;
/// The steps for which storage keeps the lock of a machine that says nothing.
const STORAGE_STEPS: u32 = 50;

/// Deliberately wrong variants: the simulation must catch each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    NoMargin,
    NoFence,
    /// The keeper, which fences, dies with the node.
    NoKeeper,
    /// A node acts on what it knew before, whatever has become of it since.
    EpochIgnored,
    /// The disks have no lock, and what the fence does not cover happens.
    NoLock,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Domain {
    epoch: u64,
    /// Whether it has its disk's lock, and so can write.
    lock: bool,
}

/// One computer with a hypervisor. The last one is reached over the network, and has no node.
struct Machine {
    rate: f64,
    offset: f64,
    up: bool,
    /// The step until which it stands still as a whole, guests too.
    paused_until: u32,
    paused_since: u32,
    off_until: u32,
    keeper: bool,
    /// The time that the node has told the keeper; both go by the machine's clock.
    page: Option<BootTime>,
    list: BTreeSet<VmId>,
    /// The step at which a fence that has begun ends what runs.
    kill_at: Option<u32>,
    domains: BTreeMap<VmId, Domain>,
    /// Starts that were asked of the hypervisor, and when it does them.
    starting: Vec<(u32, VmId, u64)>,
}

impl Machine {
    fn clock(&self, step: u32) -> BootTime {
        BootTime(Duration::from_secs_f64(self.offset + STEP.as_secs_f64() * f64::from(step) * self.rate))
    }

    fn lives(&self, step: u32) -> bool {
        self.up && self.paused_until <= step
    }
}

struct Node {
    up: bool,
    up_at: u32,
    frozen_until: u32,
    cut_until: u32,
    generation: u64,
    holder: Holder,
    /// The node's directory; `seen` is how much of the ledger it knows.
    view: Known,
    seen: usize,
    behind_until: u32,
    /// The actors of VMs, with their hosts and epochs.
    actors: BTreeMap<VmId, (HostId, u64)>,
}

impl Node {
    fn runs(&self, step: u32) -> bool {
        self.up && self.frozen_until <= step
    }
}

struct Leader {
    on: usize,
    grantor: Grantor,
    fenced_at: BTreeMap<HostId, BootTime>,
    tried: usize,
    silent: u32,
}

enum Message {
    Ask { node: usize, ask: Ask, empty: bool },
    Grant { node: usize, generation: u64, answer: Result<Grant, NotGranted> },
}

struct World {
    step: u32,
    dice: fastrand::Rng,
    flaw: Option<Flaw>,
    /// Whether disks have locks, and what no fence is a match for happens as well.
    locks: bool,
    machines: Vec<Machine>,
    nodes: Vec<Node>,
    known: Known,
    log: Vec<RosterEvent>,
    leader: Leader,
    flying: Vec<(u32, Message)>,
    remote_cut_until: u32,
    /// Whether nothing breaks any more, and messages are as quick as they are.
    quiet: bool,
    came_back: u32,
}

fn terms() -> LeaseTerms {
    LeaseTerms::default()
}

fn node_id(n: usize) -> NodeId {
    NodeId::from_u128(n as u128 + 1)
}

fn host_id(n: usize) -> HostId {
    HostId::from_u128(n as u128 + 1)
}

fn host_spec(n: usize) -> HostSpec {
    let uri = if n < NODES { "qemu:///system".to_owned() } else { "qemu+tls://remote/system".to_owned() };
    HostSpec {
        node: (n < NODES).then(|| node_id(n)),
        pool: hiveward_catalogue::host::protocol::Pool { path: Some("/shared".into()), shared: true },
        ..HostSpec::new(host_id(n), format!("h{n}"), uri)
    }
}

fn vm_spec(n: u128) -> VmSpec {
    VmSpec { id: VmId::from_u128(n), name: format!("vm{n}"), ha: true, ..hiveward_catalogue::vm::testing::spec() }
}

impl World {
    fn new(seed: u64, flaw: Option<Flaw>, locks: bool) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut machine = || Machine {
            rate: 1.0 + (dice.f64() * 2.0 - 1.0) * RATE_OFF_MAX,
            offset: dice.f64() * 1e4,
            up: true,
            paused_until: 0,
            paused_since: 0,
            off_until: 0,
            keeper: true,
            page: None,
            list: BTreeSet::new(),
            kill_at: None,
            domains: BTreeMap::new(),
            starting: Vec::new(),
        };
        let machines: Vec<Machine> = (0..=NODES).map(|_| machine()).collect();
        let node = |_| Node {
            up: true,
            up_at: 0,
            frozen_until: 0,
            cut_until: 0,
            generation: 1,
            holder: Holder::new(terms(), 1),
            view: Known::default(),
            seen: 0,
            behind_until: 0,
            actors: BTreeMap::new(),
        };
        let grantor = Grantor::elected(terms(), machines[0].clock(0), (0..NODES).map(node_id), []);
        let mut world = Self {
            step: 0,
            dice,
            flaw,
            locks,
            nodes: (0..NODES).map(node).collect(),
            machines,
            known: Known::default(),
            log: Vec::new(),
            leader: Leader { on: 0, grantor, fenced_at: BTreeMap::new(), tried: 0, silent: 0 },
            flying: Vec::new(),
            remote_cut_until: 0,
            quiet: false,
            came_back: 0,
        };
        for n in 0..NODES {
            let record = NodeRecord::of_this_host(node_id(n), n as u64 + 1, String::new());
            world.commit(vec![RosterEvent::NodeJoined { record: NodeRecord { fences: true, ..record } }]);
        }
        for n in 0..=NODES {
            let change = FleetChange::AddHost { spec: Arc::new(host_spec(n)) };
            let events = decide::fleet(&world.known, &change, None).unwrap();
            world.commit(events);
            let capacity = Capacity { cpus: 4, memory_bytes: 4 << 30, version: "s".into() };
            world.commit(vec![RosterEvent::Fleet(FleetEvent::HostReached { host: host_id(n), capacity })]);
        }
        for n in 1..=VMS {
            let host = host_id(world.dice.usize(0..=NODES));
            let decision =
                Decision { strategy: Strategy::Spread, chosen: host, scores: Vec::new(), eligible: 1, left_out: Vec::new() };
            let spec = Arc::new(vm_spec(n));
            let added = FleetEvent::VmAdded { spec, host, decision: Arc::new(decision), operation: None, cards: Vec::new() };
            world.commit(vec![RosterEvent::Fleet(added)]);
        }
        for node in 0..NODES {
            world.catch_up(node);
        }
        world
    }

    fn commit(&mut self, events: Vec<RosterEvent>) {
        for event in events {
            self.came_back += u32::from(event.kind() == "VmComesBack");
            self.known.apply(&event, WallMs(0));
            self.log.push(event);
        }
    }

    fn catch_up(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        for event in &self.log[node.seen..] {
            node.view.apply(event, WallMs(0));
        }
        node.seen = self.log.len();
    }

    fn now(&self, machine: usize) -> BootTime {
        self.machines[machine].clock(self.step)
    }

    /// Tells whether the node runs and hears the others.
    fn is_there(&self, node: usize) -> bool {
        self.machines[node].lives(self.step) && self.nodes[node].runs(self.step) && self.nodes[node].cut_until <= self.step
    }

    fn check(&self) -> Result<(), String> {
        for vm in (1..=VMS).map(VmId::from_u128) {
            let runs =
                |machine: &&Machine| machine.lives(self.step) && machine.domains.get(&vm).is_some_and(|domain| domain.lock);
            let on: Vec<usize> = (0..=NODES).filter(|m| runs(&&self.machines[*m])).collect();
            if on.len() > 1 {
                return Err(format!("at step {} {vm} runs on machines {on:?}", self.step));
            }
        }
        Ok(())
    }

    fn turn(&mut self, harm: bool) -> Result<(), String> {
        self.step += 1;
        if harm {
            self.harm();
        }
        self.come_up();
        self.messages();
        self.roster();
        self.fence();
        (0..NODES).for_each(|node| self.act(node));
        self.hypervisors();
        self.check()
    }

    fn all_run(&self) -> Result<(), String> {
        for (vm, entry) in &self.known.fleet.vms {
            let at = (0..=NODES).find(|h| host_id(*h) == entry.host).unwrap();
            let domain = self.machines[at].domains.get(vm);
            if !domain.is_some_and(|domain| domain.lock && domain.epoch == entry.epoch) {
                let host = &self.known.fleet.hosts[&entry.host];
                let place = (&host.place, &host.lost, &host.unreachable, &entry.waits);
                let node = self.nodes.get(at).map(|node| {
                    let phase = node.holder.phase(self.now(at));
                    (node.up, node.frozen_until, node.cut_until, phase, node.seen, node.actors.get(vm))
                });
                let machine = &self.machines[at];
                let machine = (machine.up, machine.paused_until, machine.page, self.now(at), &machine.starting);
                return Err(format!(
                    "{vm} does not run in the end at step {} of {} events: it belongs to h{at} in epoch {}: {place:?}, domain \
                     {domain:?}, node {node:?}, machine {machine:?}, leader {}",
                    self.step,
                    self.log.len(),
                    entry.epoch,
                    self.leader.on
                ));
            }
        }
        Ok(())
    }
}

/// Runs one history; returns how often a VM came back. The error says what went wrong.
fn run(seed: u64, flaw: Option<Flaw>, locks: bool) -> Result<u32, String> {
    let mut world = World::new(seed, flaw, locks);
    for _ in 0..BREAKING {
        world.turn(true)?;
    }
    world.mend();
    for _ in 0..MENDED {
        world.turn(false)?;
    }
    world.all_run()?;
    Ok(world.came_back)
}

/// Returns how many seeds are tried: a minute's worth, or as many as `HIVEWARD_SEEDS` says; the long form has ten thousand.
fn seeds() -> u64 {
    std::env::var("HIVEWARD_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1_000)
}

#[test]
fn what_comes_back_never_runs_twice_and_all_of_it_runs_in_the_end() {
    let mut came_back = 0;
    for seed in 0..seeds() {
        if seed > 0 && seed.is_multiple_of(500) {
            eprintln!("{seed} seeds, {came_back} comings back");
        }
        came_back += run(seed, None, false).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    assert!(u64::from(came_back) > seeds(), "only {came_back} came back");
}

#[test]
fn where_a_fence_cannot_help_the_lock_of_the_disk_does() {
    for seed in 0..seeds() / 4 {
        run(seed, None, true).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn the_simulation_finds_a_missing_margin_fence_keeper_lock_and_a_node_that_acts_on_an_old_epoch() {
    for flaw in [Flaw::NoMargin, Flaw::NoFence, Flaw::NoKeeper, Flaw::EpochIgnored, Flaw::NoLock] {
        let caught = (0..seeds()).find_map(|seed| Some((seed, run(seed, Some(flaw), false).err()?)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("no seed caught {flaw:?}"));
        eprintln!("{flaw:?} is caught by seed {seed}: {what}");
        assert!(what.contains("runs on machines"), "{flaw:?}: {what}");
    }
}
