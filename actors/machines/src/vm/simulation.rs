//! Thousands of seeded lives of one VM: wishes, steps that fail before or after they were done, lives of its actor that end
//! between any two events, guests that crash and operators who meddle, or move it to another host that may be silent. Whatever
//! happened, it never runs twice, and once it is quiet no operation is left without an end, and the machine is as it is wanted.
//! Prints the seed that fails.

use hiveward_catalogue::vm::testing::spec;

mod machine;

use std::collections::BTreeMap;

use hiveward_catalogue::vm::spec::VmSpec;
use hiveward_kernel::id::HostId;
use hiveward_runtime::clock::WallMs;

use super::{
    event::{Asked, OperationKind, Outcome, Seen, Subject, VmEvent, Wanted},
    reconcile::{self, Doing, Next, Sought, Step},
    reshape::Claim,
    snapshot::{self, Snapshot},
    state::{Ask, Decided, VmState},
};
use crate::host::driver::{Off, Run};
use machine::{Machine, Other};

const SEEDS: u64 = 20_000;
const STEPS: u32 = 120;

/// The roster's side, of this one VM.
#[derive(Debug)]
struct Roster {
    cpus: u32,
    wanted: Option<(u64, u32)>,
    shaped: u64,
    held: Option<u32>,
    room: u32,
}

impl Roster {
    fn reserved(&self) -> u32 {
        self.cpus.max(self.wanted.map_or(0, |(_, cpus)| cpus)).max(self.held.unwrap_or(0))
    }
}

/// The actor of the VM, without its mailbox.
struct Life {
    state: VmState,
    doing: Doing,
    log: Vec<(VmEvent, WallMs)>,
    now: i64,
    roster: Roster,
    other: Other,
}

impl Life {
    fn record(&mut self, event: VmEvent) {
        let at = WallMs(self.now);
        self.state.apply(&event, at);
        self.log.push((event, at));
    }

    fn look(&mut self, machine: &Machine) {
        self.doing.boots = Some(machine.boots);
        if self.state.seen != machine.seen() {
            self.doing.sought = None;
            self.record(VmEvent::Seen { seen: machine.seen(), epoch: 0 });
        }
    }

    /// Begins a new life: only what was written is known.
    fn replay(&mut self, spec: &VmSpec) {
        let mut state = VmState::new(spec, WallMs(0));
        for (event, at) in &self.log {
            state.apply(event, *at);
        }
        assert_eq!(state, self.state, "what was replayed is not what was lived");
        let kept: VmState = rmp_serde::from_slice(&rmp_serde::to_vec_named(&state).unwrap()).unwrap();
        assert_eq!(kept, state, "what a snapshot has is not what was lived");
        self.doing = Doing::default();
    }

    /// Reads from the roster what the actor reads before it looks what is next.
    fn read(&mut self) {
        let number = self.state.active().filter(|active| active.kind.is_of_shape()).map(|active| active.number);
        self.doing.claim = match (number, self.roster.wanted) {
            (Some(number), _) if self.roster.shaped >= number => Claim::Enacted,
            (Some(number), Some((of, _))) if of == number => Claim::Held,
            _ => Claim::Free,
        };
        self.doing.holds = self.roster.held.is_some() && self.state.lag.is_none();
    }

    /// Asks the roster for a step, and returns whether it agrees; `None` if the step is asked of the hypervisor.
    fn ask_roster(&mut self, step: Step) -> Option<bool> {
        let held = self.state.lag.as_ref().map(|lag| lag.cpus);
        let active = self.state.active();
        match step {
            Step::Claim => {
                let active = active.expect("a claim for nothing");
                let Some(Subject::Resize { cpus: Some(cpus), .. }) = active.subject else { panic!("{active:?}") };
                assert!(self.roster.wanted.is_none_or(|(of, _)| of == active.number), "two claims at once");
                if cpus > self.roster.room {
                    return Some(false);
                }
                self.roster.wanted = Some((active.number, cpus));
            }
            Step::Enact => {
                let (number, cpus) = self.roster.wanted.take()?;
                (self.roster.cpus, self.roster.shaped, self.roster.held) = (cpus, number, held);
            }
            Step::GiveBack => (self.roster.wanted, self.roster.held) = (None, held),
            Step::LetGo => self.roster.held = None,
            // Nothing is asked of its host.
            Step::Seek | Step::Follow => {}
            _ => return None,
        }
        Some(true)
    }

    /// Looks for the VM on the other host; it may be here again.
    fn seek(&mut self, machine: &Machine) {
        if machine.run.is_some_and(Run::is_on) {
            self.doing.sought = Some(Sought::Nowhere);
        } else if self.other.silent {
            self.record(VmEvent::Withheld { why: "a host was not asked".into() });
        } else {
            let there = Sought::On(HostId::from_u128(2));
            self.doing.sought = Some(if self.other.runs() { there } else { Sought::Nowhere });
        }
    }

    /// Follows the VM to the other host: from then on that host's life of it goes on.
    fn follow(&mut self, spec: &VmSpec, machine: &mut Machine) {
        let here = std::mem::replace(machine, self.other.machine.take().unwrap_or_default());
        self.other.machine = Some(here);
        self.replay(spec);
        self.look(machine);
    }

    fn cpus_for(&self, step: Step) -> u32 {
        if step == Step::Reshape { self.roster.wanted.expect("nothing is reserved for it").1 } else { self.roster.cpus }
    }

    /// Tells whether somebody can move it: it runs, that was seen, and nothing is done with what it is made of.
    fn may_be_carried(&self, machine: &Machine) -> bool {
        let led = matches!(self.state.wanted, Wanted::Running | Wanted::Paused) && self.state.is_on();
        let shaped = self.state.active().is_some_and(|active| active.kind.is_of_shape()) || self.roster.held.is_some();
        led && self.state.seen == machine.seen() && machine.snapshots.is_empty() && !shaped && self.state.lag.is_none()
    }

    fn has_had_its_effect(&self) -> bool {
        let Some(active) = self.state.active() else { return false };
        let booted = active.boots.zip(self.doing.boots).is_some_and(|(before, now)| now > before);
        match (active.kind, self.state.seen) {
            (OperationKind::Create, seen) if self.state.wanted != Wanted::Running => seen != Seen::Absent,
            (OperationKind::Create | OperationKind::Start | OperationKind::Recover, seen) => {
                seen == Seen::There(Run::Running) || booted
            }
            (OperationKind::Stop, seen) => !matches!(seen, Seen::There(run) if run.is_on()),
            // Where nobody knew how often it had begun to run, the step itself must have been done in this life.
            (OperationKind::Reboot, seen) => {
                let uncounted = active.boots.is_none() || self.doing.boots.is_none();
                seen == Seen::There(Run::Running) && (booted || (uncounted && self.doing.done == Some(Step::Reboot)))
            }
            (OperationKind::Pause, seen) => seen == Seen::There(Run::Paused),
            (OperationKind::Resume, seen) => seen == Seen::There(Run::Running),
            (OperationKind::Remove, seen) => seen == Seen::Absent,
            (OperationKind::Migrate, _) => false,
            (OperationKind::Backup | OperationKind::Drill, _) => false,
            (kind, _) if kind.is_of_shape() => self.roster.shaped == active.number,
            (
                OperationKind::Resize
                | OperationKind::AttachDisk
                | OperationKind::DetachDisk
                | OperationKind::AttachNetwork
                | OperationKind::DetachNetwork
                | OperationKind::Template
                | OperationKind::Clone,
                _,
            ) => false,
            (OperationKind::Snapshot, _) => self.doing.done == Some(Step::Snapshot),
            (OperationKind::Revert, _) => self.doing.done == Some(Step::Revert),
            (OperationKind::RemoveSnapshot, _) => self.doing.done == Some(Step::RemoveSnapshot),
        }
    }

    fn ask_oneself(&mut self, kind: OperationKind) {
        let number = self.state.last_number() + 1;
        let asked = Asked { grace_ms: 5_000, boots: self.doing.boots, ..Asked::new(number, kind, "hiveward") };
        self.doing.done = None;
        self.record(VmEvent::Asked(Box::new(asked)));
    }

    /// Does one turn, and tells whether there was something to do.
    fn turn(&mut self, spec: &VmSpec, machine: &mut Machine, dice: &mut fastrand::Rng, trouble: f64, heeds: bool) -> bool {
        self.read();
        match reconcile::next(&self.state, self.doing, WallMs(self.now)) {
            Next::Do(step) => {
                self.now += 50;
                let lost_before = dice.f64() < trouble;
                let tag = snapshot::tag_under_way(&self.state);
                let refused = !lost_before
                    && !match self.ask_roster(step) {
                        Some(agreed) => agreed,
                        // Refused when half of it was done.
                        None if step == Step::Reshape && dice.f64() < trouble => {
                            machine.step(step, tag, self.now, heeds, self.cpus_for(step));
                            false
                        }
                        None => machine.step(step, tag, self.now, heeds, self.cpus_for(step)),
                    };
                // Whatever is lost: what runs is reserved.
                let reserved = self.roster.reserved();
                assert!(
                    machine.run.is_none_or(|run| !run.is_on()) || machine.runs_with <= reserved,
                    "{} CPUs run, and {reserved} are reserved",
                    machine.runs_with
                );
                assert!(!(machine.run.is_some_and(Run::is_on) && self.other.runs()), "it runs twice after {step:?}");
                if dice.f64() < trouble {
                    self.replay(spec);
                    self.look(machine);
                    return true;
                }
                if lost_before {
                    self.doing.sought = None;
                    return true;
                }
                if refused {
                    if step == Step::Unshape {
                        self.doing.done = Some(step);
                    }
                    if let Some(event) = reconcile::refused(&self.state, "refused".into()) {
                        self.record(event);
                    }
                    self.look(machine);
                    return true;
                }
                self.doing.done = Some(step);
                self.look(machine);
                match step {
                    Step::Seek => self.seek(machine),
                    Step::Follow => self.follow(spec, machine),
                    _ => {}
                }
                if matches!(step, Step::Reshape | Step::Unshape)
                    && let Some(number) = self.state.active().map(|active| active.number)
                {
                    self.record(VmEvent::Reshaped { number, lag: machine.lag() });
                }
            }
            Next::Wait { until } => {
                assert!(until.0 > self.now, "it waits for what is over");
                self.now = machine.leaves.map_or(until.0, |leaves| leaves.clamp(self.now + 1, until.0));
            }
            Next::End(outcome) => {
                let active = self.state.active().expect("something ended that was not under way");
                let number = active.number;
                if outcome == Outcome::Done {
                    assert!(self.has_had_its_effect(), "{:?} is said to be done, and seen is {:?}", active.kind, self.state.seen);
                }
                self.record(VmEvent::Ended { number, outcome });
            }
            Next::Abandon { why } => {
                let active = self.state.active().expect("something was given up that was not under way");
                assert!(active.kind.is_undone(), "there is no migration");
                let number = active.number;
                self.record(VmEvent::Abandoned { number, why });
            }
            Next::Ask { kind } => {
                assert_eq!(kind, OperationKind::Remove, "this is no drill");
                assert!(self.state.wanted == Wanted::Absent, "it was not asked before");
                self.ask_oneself(kind);
            }
            Next::Recover => self.ask_oneself(OperationKind::Recover),
            Next::Adopt { wanted, why } => self.record(VmEvent::Adopted { wanted, why }),
            Next::GiveUp { message } => self.record(VmEvent::GivenUp { message }),
            Next::Idle => return false,
        }
        true
    }
}

fn guest_leaves(machine: &mut Machine, now: i64) {
    if machine.leaves.is_some_and(|at| now >= at) && machine.run == Some(Run::Running) {
        (machine.run, machine.leaves) = (Some(Run::Off(Off::Shutdown)), None);
    }
}

fn live(seed: u64) {
    let (mut dice, spec) = (fastrand::Rng::with_seed(seed), spec());
    let spec = VmSpec { start: dice.bool(), ..spec };
    let heeds = dice.f64() < 0.8;
    let mut machine = Machine::default();
    let mut life = Life {
        state: VmState::new(&spec, WallMs(0)),
        doing: Doing { boots: Some(0), ..Doing::default() },
        log: Vec::new(),
        now: 0,
        roster: Roster { cpus: spec.cpus, wanted: None, shaped: 0, held: None, room: 6 },
        other: Other::default(),
    };
    for _ in 0..STEPS {
        life.now += dice.i64(0..2_000);
        guest_leaves(&mut machine, life.now);
        match dice.u32(0..20) {
            0..=3 => {
                let kinds = [
                    OperationKind::Start,
                    OperationKind::Stop,
                    OperationKind::Reboot,
                    OperationKind::Pause,
                    OperationKind::Resume,
                    OperationKind::Snapshot,
                    OperationKind::Revert,
                    OperationKind::RemoveSnapshot,
                    OperationKind::Resize,
                    OperationKind::Resize,
                ];
                let kind = if dice.f64() < 0.02 { OperationKind::Remove } else { kinds[dice.usize(0..kinds.len())] };
                let ask = Ask {
                    kind,
                    force: dice.bool(),
                    grace_ms: None,
                    principal: "tester".into(),
                    operation: None,
                    migration: None,
                    subject: if kind == OperationKind::Resize {
                        Some(Subject::Resize { cpus: Some(dice.u32(1..9)), memory_bytes: None, offline: false })
                    } else {
                        kind.is_whole().then(|| Subject::Snapshot { name: ["a", "b"][dice.usize(0..2)].into() })
                    },
                };
                if let Ok(Decided::New(_, events)) = life.state.decide(&spec, ask, life.doing.boots) {
                    (life.doing.done, life.doing.sought) = (None, None);
                    for event in events {
                        life.record(event);
                    }
                }
            }
            9 if life.may_be_carried(&machine) => {
                // Its definition may stay.
                let left = Machine { run: dice.bool().then_some(Run::Off(Off::Moved)), cpus: machine.cpus, ..Machine::default() };
                life.other.machine = Some(std::mem::replace(&mut machine, left));
            }
            // It ends there, or is brought back; what comes back of one that was removed its host ends.
            10 if life.other.runs() => {
                let back = life.other.machine.take().filter(|_| dice.bool() && life.state.wanted != Wanted::Absent);
                machine = back.unwrap_or(machine);
            }
            11 => life.other.silent = dice.bool(),
            4 if machine.run.is_some_and(Run::is_on) => machine.run = Some(Run::Off(Off::Crashed)),
            5 if machine.run.is_some() && !life.other.runs() => {
                let runs = [Run::Running, Run::Paused, Run::Off(Off::Destroyed), Run::Off(Off::Shutdown)];
                let run = runs[dice.usize(0..runs.len())];
                if run.is_on() && !machine.run.is_some_and(Run::is_on) {
                    (machine.boots, machine.runs_with) = (machine.boots + 1, machine.cpus);
                }
                machine.run = Some(run);
            }
            6 if dice.f64() < 0.2 && !machine.run.is_some_and(Run::is_on) => {
                (machine.run, machine.snapshots) = (None, BTreeMap::new());
            }
            7 => life.look(&machine),
            8 => life.replay(&spec),
            _ => drop(life.turn(&spec, &mut machine, &mut dice, 0.2, heeds)),
        }
        let under_way = life.state.operations.iter().filter(|operation| operation.ended.is_none()).count();
        assert!(under_way <= 1, "seed {seed}: {under_way} operations are under way");
    }
    // Quiet from here on.
    life.other.silent = false;
    let mut turns = 0;
    loop {
        guest_leaves(&mut machine, life.now);
        life.look(&machine);
        if !life.turn(&spec, &mut machine, &mut dice, 0.0, heeds) && life.state.seen == machine.seen() {
            break;
        }
        turns += 1;
        assert!(turns < 200, "seed {seed}: it does not come to rest: {:?} {machine:?}", life.state);
    }
    assert!(life.state.active().is_none(), "seed {seed}: {:?}", life.state.active());
    let as_wanted = match life.state.wanted {
        Wanted::Running => machine.run == Some(Run::Running),
        Wanted::Paused => machine.run == Some(Run::Paused),
        Wanted::Stopped => !machine.run.is_some_and(Run::is_on),
        Wanted::Absent => machine.run.is_none() && life.state.removed,
    };
    let forced = life.state.removed && life.state.operations.back().is_some_and(|last| last.force);
    assert!(!life.other.runs() || forced, "seed {seed}: it runs where nobody knows of it: {:?}", life.state);
    let known: Vec<_> = life.state.snapshots.iter().map(Snapshot::tag).collect();
    let unknown: Vec<_> = machine.snapshots.keys().filter(|tag| !known.contains(tag)).collect();
    assert!(unknown.is_empty() || life.state.removed, "seed {seed}: nobody knows of {unknown:?}");
    // What was removed goes with all that was reserved for it.
    let reserved = (life.roster.wanted, life.roster.held.is_some());
    assert!(life.state.removed || reserved == (None, life.state.lag.is_some()), "seed {seed}: {reserved:?} for nothing");
    assert!(machine.run.is_none() || machine.cpus == life.roster.cpus, "seed {seed}: {machine:?} is not {:?}", life.roster);
    let lags = machine.run.is_some_and(Run::is_on) && machine.runs_with != machine.cpus;
    assert!(!lags || life.state.lag.is_some(), "seed {seed}: nobody knows that {machine:?} is to be started again");
    assert!(as_wanted, "seed {seed}: {:?} is wanted, and there is {machine:?}", life.state.wanted);
    life.replay(&spec);
}

#[test]
fn every_operation_ends_and_the_machine_is_as_it_is_wanted_once_it_is_quiet() {
    for seed in 0..SEEDS {
        if let Err(panic) = std::panic::catch_unwind(|| live(seed)) {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}
