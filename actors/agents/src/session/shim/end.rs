//! The end of a session: the program's status, whatever it left behind, the last output, the record; in this order.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hiveward_runtime::{clock::WallMs, file::replace};
use nix::{
    errno::Errno,
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    super::{
        Stream,
        layout::{EXIT, Exit, STARTED, stream_name},
        wire::Event,
    },
    hold::{DISK_RETRY, Shim},
    kept,
    kill::SWEEP,
};

/// Time that the end waits for processes that SIGKILL does not end (in an unkillable wait).
const SWEEP_MAX: Duration = Duration::from_secs(10);

/// Interval between looks whether its directory is still there. They are rare: nothing else wakes an idle shim.
pub(super) const HOME_LOOK: Duration = Duration::from_secs(5);

impl Shim {
    /// Looks whether its directory is still there. Without it the session can neither be found nor recorded: it ends, and all its
    /// processes.
    pub(super) fn look_home(&mut self, now: Instant) {
        if self.next_home_look > now {
            return;
        }
        self.next_home_look = now + HOME_LOOK;
        // Written at the start and never removed by us; any other error says nothing about the directory.
        if !matches!(std::fs::symlink_metadata(STARTED), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
            return;
        }
        let since = Instant::now();
        self.power.kill_everything();
        while since.elapsed() < SWEEP_MAX {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    self.power.kill_everything();
                    std::thread::sleep(SWEEP);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.power.cgroups.remove();
        self.homeless = true;
    }

    pub(super) fn reap(&mut self) {
        if self.recorded_since.is_some() || self.disk_retry.is_some() {
            return;
        }
        let nobody_left = loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break false,
                Ok(status) if status.pid() == Some(Pid::from_raw(self.power.leader)) => {
                    self.status = Some(status);
                    self.ended_since = Some(Instant::now());
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break true,
            }
        };
        let Some(since) = self.ended_since else { return };
        if !nobody_left && since.elapsed() < SWEEP_MAX {
            // The program is over; what it left behind is not a service of ours.
            return self.power.kill_everything();
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.read_output(stream) {}
        }
        if self.outputs.iter().all(|output| output.pending.is_empty()) {
            self.record();
        }
    }

    fn record(&mut self) {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
        let cpu = usage.as_ref().map_or(0, |usage| usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds());
        let (code, signal) = match self.status {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
            _ => (None, None),
        };
        // First the output and what it names, then the record that says how much of it there was: a success is never believed
        // with less.
        let artifacts = |keeps: &PathBuf| kept::sync(Path::new(stream_name(Stream::Stdout)), keeps);
        if self.transcripts.finish().and_then(|()| self.limits.keeps.as_ref().map_or(Ok(()), artifacts)).is_err() {
            self.disk_retry = Some(Instant::now() + DISK_RETRY);
            return;
        }
        let (stdout, stderr) = self.transcripts.lengths();
        let exit = Exit {
            code,
            signal,
            timed_out: self.timed_out,
            stopped: self.stopped,
            lease_over: self.lease_over,
            oom_killed: self.memory_kill || self.power.cgroups.oom_kills() > 0,
            cpu_ms: cpu.unsigned_abs(),
            rss_max_bytes: usage.map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024),
            dropped_bytes: self.transcripts.dropped,
            stdout_bytes: Some(stdout),
            stderr_bytes: Some(stderr),
            ended_at: WallMs::now(),
            launch_error: None,
        };
        let written = exit.sealed().and_then(|record| replace(&Path::new(".").join(EXIT), &record));
        if written.is_err() {
            self.disk_retry = Some(Instant::now() + DISK_RETRY);
            return;
        }
        self.power.cgroups.remove();
        self.outputs.clear();
        self.recorded_since = Some(Instant::now());
        for client in &mut self.clients {
            client.flush(self.transcripts.lengths());
            client.tell(&Event::Exited(exit.clone()));
        }
        self.exit = Some(exit);
    }
}
