//! The machines on which the simulated lives of one VM are lived: the machine where it is, and another host that may have it.

use std::collections::BTreeMap;

use hiveward_catalogue::host::protocol::Lag;

use crate::{
    host::driver::{Off, Run},
    vm::{event::Seen, reconcile::Step},
};

/// A machine as the hypervisor has it, by the contract of drivers.
#[derive(Debug, Default)]
pub struct Machine {
    pub run: Option<Run>,
    pub boots: u64,
    /// Time at which the guest heeds the power button.
    pub leaves: Option<i64>,
    pub snapshots: BTreeMap<String, Run>,
    /// CPUs of the machine as it is defined; `runs_with` has those that it runs with.
    pub cpus: u32,
    pub runs_with: u32,
}

impl Machine {
    /// Returns what the present run has other than the definition, as the hypervisor says it after a change of shape.
    pub fn lag(&self) -> Option<Lag> {
        let other = self.run.is_some_and(Run::is_on) && self.runs_with != self.cpus;
        other.then_some(Lag { cpus: self.runs_with, memory_bytes: 1 << 30, devices: Vec::new() })
    }

    /// Does a step, and tells whether it could be done; a second time it answers as the first.
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

    /// Returns the machine as a look at the hypervisor shows it.
    pub fn seen(&self) -> Seen {
        self.run.map_or(Seen::Absent, Seen::There)
    }
}

/// The other host.
#[derive(Debug, Default)]
pub struct Other {
    /// Machine that somebody moved there.
    pub machine: Option<Machine>,
    pub silent: bool,
}

impl Other {
    /// Tells whether the VM runs on the other host.
    pub fn runs(&self) -> bool {
        self.machine.as_ref().and_then(|machine| machine.run).is_some_and(Run::is_on)
    }
}
