//! Backups that a VM makes by itself: when the next is due, and which are let go of. Pure.
//!
//! The schedule is in the VM's own stream, so it goes where the VM goes and survives what the VM survives. Of times that passed
//! while nothing could be done one backup is made, when it can be. Those that it made itself are kept to their number; what
//! a person asked for is theirs.

use std::{sync::Arc, time::Duration};

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};
use serde::{Deserialize, Serialize};

use super::{
    backup::{BACKUPS_KEPT_MAX, Backup},
    chain::{self, CHAIN_MAX},
    event::{OperationKind, Seen, Subject},
    reconcile::{Next, Step},
    state::VmState,
};
use crate::host::driver::{Off, Run};

/// Number of backups that a schedule keeps at most. It is less than half of what a VM remembers, because what a chain is based on
/// is remembered for as long as anything of it is kept.
pub const KEEP_MAX: u32 = 31;
const _: () = assert!(KEEP_MAX as usize + 2 * CHAIN_MAX as usize <= BACKUPS_KEPT_MAX);
/// Longest time between two looks at what is due, because somebody may set the clock.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(3_600);
/// Time between two looks at a VM that cannot be backed up.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const CRON_BYTES_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Schedule {
    /// Five fields of cron, and a time zone behind them; UTC without one.
    pub cron: Arc<str>,
    /// Directory of whichever node holds the VM's host.
    pub to: Arc<str>,
    /// Number of its backups that are kept: the newest.
    pub keep: u32,
    pub principal: Arc<str>,
    pub set_at: WallMs,
    /// Time at which it asked for a backup last, whatever came of it.
    pub last_at: Option<WallMs>,
    /// Number of backups of which one is full, the others being differences; with 1 all are full.
    #[serde(default = "one")]
    pub full_every: u32,
}

const fn one() -> u32 {
    1
}

fn parse(cron: &str) -> Result<Crontab, Refused> {
    let bad = |why: String| Refused::invalid("cron", why);
    if cron.len() > CRON_BYTES_MAX {
        return Err(bad(format!("at most {CRON_BYTES_MAX} bytes")));
    }
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    cronexpr::parse_crontab_with(cron, options).map_err(|error| {
        bad(format!("{cron:?} is no schedule: {error}; write minute, hour, day, month, weekday and perhaps a time zone: 0 3 * * * Europe/Berlin"))
    })
}

impl Schedule {
    /// Returns the schedule that a client gives. Errors: a number is out of bounds, or `cron` cannot be read or never comes.
    pub fn new(cron: &str, to: &str, keep: u32, full_every: u32, principal: Arc<str>, now: WallMs) -> Result<Self, Refused> {
        if !(1..=KEEP_MAX).contains(&keep) {
            return Err(Refused::invalid("keep", format!("1 to {KEEP_MAX}")));
        }
        if !(1..=CHAIN_MAX).contains(&full_every) {
            return Err(Refused::invalid("fullEvery", format!("1 to {CHAIN_MAX}")));
        }
        let schedule = Self { cron: cron.into(), to: to.into(), keep, principal, set_at: now, last_at: None, full_every };
        parse(cron)?;
        match schedule.due() {
            Some(_) => Ok(schedule),
            None => Err(Refused::invalid("cron", format!("{cron:?} never comes"))),
        }
    }

    /// Tells whether the other says the same, no matter who set it and when.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.cron, &self.to, self.keep, self.full_every) == (&other.cron, &other.to, other.keep, other.full_every)
    }

    /// Returns when the next backup is to be made, which may have passed; `None` if it never comes.
    pub fn due(&self) -> Option<WallMs> {
        let after = self.last_at.unwrap_or(self.set_at);
        let after = jiff::Timestamp::from_millisecond(after.0).ok()?;
        let next = parse(&self.cron).ok()?.find_next(after).ok()?;
        Some(WallMs(next.timestamp().as_millisecond()))
    }

    /// Returns what its next backup is: a difference as long as the chain is short enough, else a full one.
    pub fn subject(&self, state: &VmState) -> Subject {
        let length = chain::length(state, &self.to);
        Subject::Backup { to: self.to.clone(), incremental: (1..self.full_every).contains(&length) }
    }
}

/// Checks that this VM may have a schedule. Errors: it lives for one drill or attempt only.
pub fn may_set(state: &VmState) -> Result<(), Refused> {
    if state.is_drill || state.is_leased {
        return Err(Refused::new(Code::Refused, "it lives for one thing and is gone after it: nothing of it is worth keeping"));
    }
    Ok(())
}

/// Returns one of the backups that the VM made by itself that is not kept any more and that no other is based on. Without a
/// schedule all stay.
pub fn too_many(state: &VmState) -> Option<&Backup> {
    chain::unneeded(state, state.schedule.as_ref()?.keep as usize)
}

/// Returns what to do next about scheduled backups, when there is nothing else to do.
pub fn next(state: &VmState, now: WallMs) -> Option<Next> {
    if too_many(state).is_some() {
        return Some(Next::Do(Step::Prune));
    }
    let due = state.schedule.as_ref()?.due()?;
    if now < due {
        return Some(Next::Wait { until: WallMs(due.0.min(now.plus(LOOKED_AT_EVERY).0)) });
    }
    match state.seen {
        Seen::There(Run::Running | Run::Paused | Run::Off(Off::Unknown | Off::Shutdown | Off::Destroyed | Off::Crashed)) => {
            Some(Next::Ask { kind: OperationKind::Backup })
        }
        Seen::Absent | Seen::There(Run::Moving | Run::Off(Off::Moved)) => Some(Next::Wait { until: now.plus(LOOK_AGAIN) }),
    }
}

#[cfg(test)]
mod tests {
    use hiveward_catalogue::vm::testing::spec;
    use hiveward_kernel::id::HostId;

    use super::*;
    use crate::vm::{
        event::{Asked, Outcome, VmEvent},
        reconcile::{self, Doing},
        state::HOUSE,
    };

    fn at(text: &str) -> WallMs {
        WallMs(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn schedule(cron: &str, now: &str) -> Schedule {
        Schedule::new(cron, "/b", 2, 1, "p".into(), at(now)).unwrap()
    }

    #[test]
    fn a_schedule_comes_when_it_says_in_its_own_time_zone() {
        let due = |cron: &str, now: &str| schedule(cron, now).due().unwrap();
        assert_eq!(due("0 3 * * *", "2026-11-22T02:00:00Z"), at("2026-11-22T03:00:00Z"));
        assert_eq!(due("0 3 * * *", "2026-11-22T03:00:00Z"), at("2026-11-23T03:00:00Z"));
        assert_eq!(due("0 3 * * * Europe/Berlin", "2026-11-22T00:00:00Z"), at("2026-11-22T02:00:00Z"));
        assert_eq!(due("30 1 1 * *", "2026-11-22T00:00:00Z"), at("2026-12-01T01:30:00Z"));
    }

    #[test]
    fn what_is_no_schedule_or_never_comes_is_refused_with_its_field() {
        for cron in ["", "* * * *", "61 * * * *", "0 3 * * * Nowhere/Here", "0 0 30 2 *", "x"] {
            let refused = Schedule::new(cron, "/b", 2, 1, "p".into(), at("2026-11-22T00:00:00Z")).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("cron"), "{cron:?}: {refused:?}");
        }
        for keep in [0, KEEP_MAX + 1] {
            let refused = Schedule::new("0 3 * * *", "/b", keep, 1, "p".into(), WallMs(0)).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("keep"));
        }
    }

    /// Leads a VM through its days as its actor does; returns when it was backed up, and its state at the end.
    fn lead(seed: u64, days: i64, full_every: u32) -> (Vec<WallMs>, VmState) {
        let host = HostId::new();
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut state = VmState::new(&spec(), WallMs(0));
        let mut now = at("2026-11-22T00:00:00Z");
        state.apply(&VmEvent::Seen { seen: Seen::There(Run::Running), epoch: 0 }, now);
        state.apply(&VmEvent::Ended { number: 1, outcome: Outcome::Done }, now);
        let set = Schedule::new("0 3 * * *", "/b", 3, full_every, "p".into(), now).unwrap();
        state.apply(&VmEvent::BackupScheduled { schedule: Some(Box::new(set)) }, now);
        let (end, mut made, mut done) = (now.plus(Duration::from_secs(86_400 * u64::try_from(days).unwrap())), Vec::new(), None);
        while now < end {
            match reconcile::next(&state, Doing { done, ..Doing::default() }, now) {
                // The machine is not always on time, and sometimes away for days.
                Next::Wait { until } => {
                    assert!(until > now, "seed {seed}: it never sleeps");
                    now = until.plus(Duration::from_secs(dice.u64(0..600)));
                    if dice.u32(0..200) == 0 {
                        now = now.plus(Duration::from_secs(dice.u64(0..400_000)));
                    }
                }
                Next::Ask { kind: OperationKind::Backup } => {
                    let asked = Asked {
                        subject: Some(state.schedule.as_ref().unwrap().subject(&state)),
                        ..Asked::new(state.last_number() + 1, OperationKind::Backup, HOUSE)
                    };
                    done = None;
                    made.push(now);
                    state.apply(&VmEvent::Asked(Box::new(asked)), now);
                }
                Next::Do(Step::Backup) if dice.u32(0..4) > 0 => {
                    let number = state.active().unwrap().number;
                    let incremental = matches!(state.active().unwrap().subject, Some(Subject::Backup { incremental: true, .. }));
                    // What the hypervisor marked is lost now and then.
                    let basis = chain::basis(&state, "/b", host).ok().filter(|_| incremental && dice.u32(0..20) > 0);
                    let backup = Backup { taken_at: now, ..chain::tests::backup(number, "/b", basis, host) };
                    state.apply(&VmEvent::BackedUp { backup: Box::new(backup) }, now);
                    done = Some(Step::Backup);
                }
                Next::Do(Step::Backup) => {
                    let number = state.active().unwrap().number;
                    state.apply(&VmEvent::Ended { number, outcome: Outcome::Failed { message: "no".into() } }, now);
                }
                Next::Do(Step::Prune) => {
                    let number = too_many(&state).unwrap().number;
                    state.apply(&VmEvent::BackupForgotten { number }, now);
                }
                Next::End(outcome) => {
                    let number = state.active().unwrap().number;
                    state.apply(&VmEvent::Ended { number, outcome }, now);
                    done = None;
                }
                next => panic!("seed {seed}: {next:?}"),
            }
        }
        (made, state)
    }

    #[test]
    fn each_day_is_backed_up_once_and_no_more_are_kept_than_were_asked_for() {
        let mut based = 0;
        for seed in 0..100 {
            let full_every = u32::try_from(seed % 6 + 1).unwrap();
            let (made, state) = lead(seed, 60, full_every);
            // From one time that it is due to the next.
            let day = |at: &WallMs| (at.0 - 3 * 3_600_000) / 86_400_000;
            // What it missed while it was away is made up for once.
            for pair in made.windows(2) {
                assert!(day(&pair[0]) < day(&pair[1]), "seed {seed}: twice on one day: {pair:?}");
            }
            assert!(made.len() > 20, "seed {seed}: {}", made.len());
            // The newest three, and what they are based on.
            assert!(state.backups.len() < 3 + full_every as usize, "seed {seed}: {:?}", state.backups);
            chain::tests::whole(&state, &format!("seed {seed}"));
            let deepest = state.backups.iter().map(|backup| backup.depth).max();
            assert!(deepest < Some(full_every), "seed {seed}: {:?}", state.backups);
            based += usize::from(deepest > Some(0));
        }
        assert!(based > 50, "hardly any is based on another: {based}");
    }

    /// Records a backup that Hiveward itself or a person asked for, and returns its number.
    fn backed_up(state: &mut VmState, principal: &str) -> u64 {
        let number = state.last_number() + 1;
        state.apply(&VmEvent::Asked(Box::new(Asked::new(number, OperationKind::Backup, principal))), WallMs(1));
        let backup = chain::tests::backup(number, "/b", None, HostId::new());
        state.apply(&VmEvent::BackedUp { backup: Box::new(backup) }, WallMs(1));
        state.apply(&VmEvent::Ended { number, outcome: Outcome::Done }, WallMs(1));
        number
    }

    #[test]
    fn what_a_person_asked_for_is_never_let_go_of() {
        let mut state = VmState::new(&spec(), WallMs(0));
        let set = Schedule::new("0 3 * * *", "/b", 1, 1, "p".into(), WallMs(0)).unwrap();
        state.apply(&VmEvent::BackupScheduled { schedule: Some(Box::new(set)) }, WallMs(0));
        backed_up(&mut state, "a person");
        let first = backed_up(&mut state, HOUSE);
        assert_eq!(too_many(&state), None, "a person's does not count");
        backed_up(&mut state, "a person");
        backed_up(&mut state, HOUSE);
        assert_eq!(too_many(&state).map(|backup| backup.number), Some(first), "the older of its own two");
        state.apply(&VmEvent::BackupScheduled { schedule: None }, WallMs(1));
        assert_eq!(too_many(&state), None, "without a schedule all stay");
    }
}
