//! Ends what agents of a data directory left running: shims, programs, their children, and their cgroups.
//!
//! Agents' processes outlive `hiveward` on purpose, so nobody else would.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What the sessions of a data directory wrote about themselves.
#[derive(Default)]
pub struct Sessions {
    markers: HashSet<String>,
    cgroups: Vec<PathBuf>,
}

impl Sessions {
    pub fn of(data_dir: &Path) -> Self {
        let mut found = Self::default();
        for entry in fs::read_dir(data_dir.join("sessions")).into_iter().flatten().flatten() {
            let started: Option<serde_json::Value> =
                fs::read(entry.path().join("started")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let Some(started) = started else { continue };
            found.markers.extend(started["session"].as_str().map(|session| format!("HIVEWARD_SESSION={session}")));
            found
                .cgroups
                .extend(started["cgroups"].as_array().into_iter().flatten().filter_map(|dir| dir.as_str().map(PathBuf::from)));
        }
        found
    }

    pub fn len(&self) -> usize {
        self.markers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.markers.is_empty()
    }

    /// Living processes of these sessions: by mark in the environment, by cgroup, and by working directory.
    pub fn processes(&self, data_dir: &Path) -> Vec<(i32, String)> {
        let own = std::process::id();
        let in_cgroups: HashSet<i32> = self
            .cgroups
            .iter()
            .flat_map(|dir| {
                fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .filter_map(|pid| pid.parse().ok())
            .collect();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") || pid == own as i32 {
                continue;
            }
            let marked = || {
                let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                environment
                    .split(|byte| *byte == 0)
                    .any(|one| std::str::from_utf8(one).is_ok_and(|one| self.markers.contains(one)))
            };
            let inside = || fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(data_dir));
            if in_cgroups.contains(&pid) || inside() || marked() {
                let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
                found.push((pid, command));
            }
        }
        found
    }
}

/// Kills until nothing is left; removes the cgroups.
pub fn sweep(data_dir: &Path) {
    let sessions = Sessions::of(data_dir);
    let give_up = Instant::now() + Duration::from_secs(5);
    loop {
        let living = sessions.processes(data_dir);
        if living.is_empty() || Instant::now() > give_up {
            break;
        }
        for (pid, _) in living {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for dir in sessions.cgroups {
        let _ = fs::remove_dir(dir);
    }
}
