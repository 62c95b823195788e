//! Signals, freezing and killing, by the strongest means that this machine gives.

use std::{
    process,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::super::{cgroup::Cgroups, procs};

/// Time between attempts to kill what is left.
pub(super) const SWEEP: Duration = Duration::from_millis(5);
/// Time between looks at the memory, where no cgroup limits it.
pub(super) const WATCH: Duration = Duration::from_millis(50);

/// A stop on its way: the next thing to do, and when.
#[derive(Clone, Copy)]
pub(super) struct Stopping {
    pub next: Signal,
    pub at: Instant,
    pub grace: Duration,
}

pub(super) struct Power {
    pub cgroups: Cgroups,
    pub leader: i32,
}

impl Power {
    pub(super) fn signal_group(&self, signal: Signal) {
        // No such group: it has gone, which is fine.
        let _ = kill(Pid::from_raw(-self.leader), signal);
    }

    /// Kills everything, also what left the group or the session; a stopped or frozen process dies too.
    pub(super) fn kill_everything(&self) {
        self.cgroups.kill();
        self.signal_group(Signal::SIGKILL);
        procs::signal_all(&procs::descendants(process::id().cast_signed()), Signal::SIGKILL);
    }

    pub(super) fn freeze(&self, frozen: bool) {
        if self.cgroups.freeze(frozen) {
            return;
        }
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.signal_group(signal);
        procs::signal_all(&procs::descendants(process::id().cast_signed()), signal);
    }

    pub(super) fn rss_bytes(&self) -> u64 {
        procs::rss_bytes(&procs::descendants(process::id().cast_signed()))
    }
}
