//! What the simulated lives of one VM are lived on: the machine where it is, and another host that may have it.

use std::collections::BTreeMap;

use hiveward_catalogue::host::protocol::Lag;

use crate::{
    host::driver::{Off, Run},
    vm::{event::Seen, reconcile::Step},
};

/// The hypervisor's side, as the contract of drivers has it.
#[derive(Debug, Default)]
pub struct Machine {
    pub run: Option<Run>,
    pub boots: u64,
    /// The guest heeds the power button at this time.
    pub leaves: Option<i64>,
    pub snapshots: BTreeMap<String, Run>,
    /// Its CPUs as it is defined, and as it runs.
    pub cpus: u32,
    pub runs_with: u32,
}

impl Machine {
    /// As the hypervisor says it when it was reshaped.
    pub fn lag(&self) -> Option<Lag> {
        let other = self.run.is_some_and(Run::is_on) && self.runs_with != self.cpus;
        other.then_some(Lag { cpus: self.runs_with, memory_bytes: 1 << 30, devices: Vec::new() })
    }

    /// Whether it could be done; a second time it answers as the first.
    pub fn step(&mut self, step: Step, tag: Option<String>, now: i64, heeds: bool, cpus: u32) -> bool {
        let tag = tag.unwrap_or_default();
        match (step, self.run) {
            (Step::Reshape | Step::Unshape, Some(_)) => self.cpus = cpus,
            (Step::DropDisk, _) => {}
            (Step::Snapshot, Some(run)) => drop(self.snapshots.entry(tag).or_insert(run)),
            (Step::Revert, Some(_)) => {
                let Some(then) = self.snapshots.get(&tag) else { return false };
                self.boots += u64::from(then.is_on());
                if then.is_on() && !self.run.is_some_and(Run::is_on) {
                    self.runs_with = self.cpus;
                }
                (self.run, self.leaves) = (Some(if then.is_on() { *then } else { Run::Off(Off::Unknown) }), None);
            }
            (Step::RemoveSnapshot, _) => drop(self.snapshots.remove(&tag)),
            (Step::Define, None) => (self.run, self.cpus) = (Some(Run::Off(Off::Unknown)), cpus),
            (Step::Start, Some(Run::Off(_))) => {
                (self.run, self.boots, self.leaves) = (Some(Run::Running), self.boots + 1, None);
                self.runs_with = self.cpus;
            }
            (Step::Shutdown, Some(Run::Running)) if heeds => self.leaves = Some(now + 1_000),
            (Step::Destroy, Some(run)) if run.is_on() => self.run = Some(Run::Off(Off::Destroyed)),
            (Step::Suspend, Some(Run::Running)) => self.run = Some(Run::Paused),
            (Step::Resume, Some(Run::Paused)) => self.run = Some(Run::Running),
            (Step::Reboot, Some(Run::Running)) => self.boots += 1,
            (Step::Undefine, Some(Run::Off(_))) => (self.run, self.snapshots) = (None, BTreeMap::new()),
            (Step::Start | Step::Resume, Some(Run::Running))
            | (Step::Suspend, Some(Run::Paused))
            | (Step::Define | Step::Shutdown, Some(_))
            | (Step::Destroy, Some(Run::Off(_)) | None)
            | (Step::Undefine, None) => {}
            _ => return false,
        }
        true
    }

    pub fn seen(&self) -> Seen {
        self.run.map_or(Seen::Absent, Seen::There)
    }
}

/// The other host's side.
#[derive(Debug, Default)]
pub struct Other {
    /// What somebody moved there.
    pub machine: Option<Machine>,
    pub silent: bool,
}

impl Other {
    pub fn runs(&self) -> bool {
        self.machine.as_ref().and_then(|machine| machine.run).is_some_and(Run::is_on)
    }
}
