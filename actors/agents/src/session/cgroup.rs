//! One leaf per session in the cgroup hierarchies that can be written: v2 for killing and freezing everything at once,
//! and whichever version has the memory, cpu and pids controllers for limits.
//!
//! Leaves are made below the node's own group, so its limits hold for them too; else below the root.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use hiveward_catalogue::agent::spec::Limits;

pub(super) struct Cgroups {
    unified: Option<PathBuf>,
    /// Leaf where memory is limited, and whether it is a v2 one.
    memory: Option<(PathBuf, bool)>,
    others: Vec<PathBuf>,
    /// Limits that were asked for and cannot be held here by a cgroup.
    pub unmet: Vec<&'static str>,
}

impl Cgroups {
    /// Makes what can be made. Never fails: what is missing is in `unmet`, and killing falls back to process groups.
    pub(super) fn create(session: &str, limits: &Limits) -> Self {
        let mounts = Mounts::read();
        let leaf = format!("hw-{session}");
        let mut made = Self { unified: mounts.leaf(None, &leaf), memory: None, others: Vec::new(), unmet: Vec::new() };
        if let Some(bytes) = limits.memory_bytes
            && !made.limit_memory(&mounts, &leaf, bytes)
        {
            made.unmet.push("memory");
        }
        if let Some(millis) = limits.cpu_millis {
            let quota_us = u64::from(millis).saturating_mul(100).max(1000);
            let held = made.set_unified("cpu.max", &format!("{quota_us} 100000"))
                || made.set_v1(
                    &mounts,
                    "cpu",
                    &leaf,
                    &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", &quota_us.to_string())],
                );
            if !held {
                made.unmet.push("cpu");
            }
        }
        if let Some(max) = limits.processes_max {
            let held = made.set_unified("pids.max", &max.to_string())
                || made.set_v1(&mounts, "pids", &leaf, &[("pids.max", &max.to_string())]);
            if !held {
                made.unmet.push("processes");
            }
        }
        made
    }

    fn limit_memory(&mut self, mounts: &Mounts, leaf: &str, bytes: u64) -> bool {
        let bytes = bytes.to_string();
        if self.set_unified("memory.max", &bytes) {
            self.set_unified("memory.swap.max", "0");
            self.set_unified("memory.oom.group", "1");
            self.memory = self.unified.clone().map(|dir| (dir, true));
            return true;
        }
        let Some(dir) = mounts.leaf(Some("memory"), leaf) else { return false };
        let held = fs::write(dir.join("memory.limit_in_bytes"), &bytes).is_ok();
        // Absent without swap accounting; then swap is not limited.
        let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), &bytes);
        self.memory = Some((dir, false));
        held
    }

    fn set_unified(&self, file: &str, value: &str) -> bool {
        // Files of a controller that is not enabled here do not exist, and must not be created as ordinary ones.
        self.unified.as_ref().is_some_and(|dir| dir.join(file).exists() && fs::write(dir.join(file), value).is_ok())
    }

    fn set_v1(&mut self, mounts: &Mounts, controller: &str, leaf: &str, values: &[(&str, &str)]) -> bool {
        let Some(dir) = mounts.leaf(Some(controller), leaf) else { return false };
        let held = values.iter().all(|(file, value)| fs::write(dir.join(file), value).is_ok());
        self.others.push(dir);
        held
    }

    pub(super) fn dirs(&self) -> Vec<PathBuf> {
        let memory = self.memory.iter().map(|(dir, _)| dir);
        let mut dirs: Vec<PathBuf> = self.unified.iter().chain(memory).chain(&self.others).cloned().collect();
        dirs.dedup();
        dirs
    }

    /// Returns the files into which a process writes `0` to join.
    pub(super) fn doors(&self) -> Vec<File> {
        self.dirs().iter().filter_map(|dir| OpenOptions::new().write(true).open(dir.join("cgroup.procs")).ok()).collect()
    }

    pub(super) fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Freezes the leaf or thaws it, and tells whether that could be done: not where there is no v2 group.
    pub(super) fn freeze(&self, frozen: bool) -> bool {
        self.set_unified("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    pub(super) fn kill(&self) {
        self.unified.as_deref().map(kill_all);
    }

    pub(super) fn oom_kills(&self) -> u64 {
        let Some((dir, unified)) = &self.memory else { return 0 };
        let file = if *unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the leaf; that only works once every process has gone.
    pub(super) fn remove(&self) {
        remove_all(&self.dirs());
    }
}

/// Kills whatever is in the leaf, of either version.
pub(super) fn kill_all(dir: &Path) {
    let door = dir.join("cgroup.kill");
    if !(door.exists() && fs::write(&door, "1").is_ok()) {
        super::procs::signal_all(&members(dir), nix::sys::signal::Signal::SIGKILL);
    }
}

pub(super) fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

pub(super) fn remove_all(dirs: &[PathBuf]) {
    for dir in dirs {
        // A leaf that stays (a process in an unkillable wait) is empty noise, not a failure of the session.
        let _ = fs::remove_dir(dir);
    }
}

/// Place where each hierarchy is mounted, and our own group in it. `None` as the controller means v2.
struct Mounts {
    mounts: String,
    own: String,
}

impl Mounts {
    fn read() -> Self {
        Self {
            mounts: fs::read_to_string("/proc/self/mounts").unwrap_or_default(),
            own: fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        }
    }

    fn mount(&self, controller: Option<&str>) -> Option<&Path> {
        self.mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, point, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let wanted = match controller {
                None => kind == "cgroup2",
                Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
            };
            wanted.then_some(Path::new(point))
        })
    }

    fn own_group(&self, controller: Option<&str>) -> Option<&str> {
        self.own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            let wanted = match controller {
                None => names.is_empty(),
                Some(name) => names.split(',').any(|one| one == name),
            };
            wanted.then(|| path.trim_start_matches('/'))
        })
    }

    fn leaf(&self, controller: Option<&str>, name: &str) -> Option<PathBuf> {
        let mount = self.mount(controller)?;
        let below = self.own_group(controller).map(|own| mount.join(own));
        below.into_iter().chain([mount.to_owned()]).map(|parent| parent.join(name)).find(|leaf| fs::create_dir(leaf).is_ok())
    }
}
