//! Removes what a dead test process left: processes, mounts, namespaces, links, directories, in this order.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Owner;
use crate::{leftovers, mount::run};

/// All that carries an owner's name now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub processes: Vec<i32>,
    pub mounts: Vec<PathBuf>,
    pub namespaces: Vec<String>,
    pub links: Vec<String>,
    pub dir: Option<PathBuf>,
}

impl Left {
    pub fn of(owner: Owner) -> Self {
        let dir = owner.dir();
        let names = namespaces().into_iter().filter(|name| Owner::of_namespace(name) == Some(owner));
        Self {
            processes: processes(owner),
            mounts: mounts(&dir),
            namespaces: names.collect(),
            links: links().into_iter().filter(|(_, of)| *of == owner).map(|(name, _)| name).collect(),
            dir: dir.exists().then_some(dir),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn namespaces() -> Vec<String> {
    names_in(Path::new("/run/netns"))
}

fn links() -> Vec<(String, Owner)> {
    let links = names_in(Path::new("/sys/class/net")).into_iter();
    links
        .filter_map(|name| {
            let alias = fs::read_to_string(format!("/sys/class/net/{name}/ifalias")).ok()?;
            Some((name, Owner::of_alias(&alias)?))
        })
        .collect()
}

fn mounts(under: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> =
        text.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).filter(|at| at.starts_with(under)).collect();
    // The innermost first.
    found.reverse();
    found
}

/// Nodes by the mark in their environment, and whatever works below the owner's directory.
fn processes(owner: Owner) -> Vec<i32> {
    let (mark, dir) = (format!("FIELD_OWNER={}", owner.label()), owner.dir());
    let own = std::process::id();
    let is_its = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
            || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&dir))
    };
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    let living = |pid: &i32| u32::try_from(*pid).is_ok_and(|pid| pid != own && Owner::of(pid).is_some());
    pids.filter(living).filter(|pid| is_its(*pid)).collect()
}

/// Everybody who left something, living or dead.
fn owners() -> BTreeSet<Owner> {
    let dirs = names_in(&std::env::temp_dir()).into_iter().filter_map(|name| Owner::of_dir(&name));
    let names = namespaces().into_iter().filter_map(|name| Owner::of_namespace(&name));
    dirs.chain(names).chain(links().into_iter().map(|(_, owner)| owner)).collect()
}

/// Removes what dead owners left; says what it found.
pub fn dead_owners() {
    for owner in owners().into_iter().filter(|owner| !owner.is_alive()) {
        eprintln!("sweeping what test process {} left", owner.pid);
        sweep(owner);
    }
}

/// Removes all that carries the owner's name. Tolerates another sweep at the same time.
pub fn sweep(owner: Owner) {
    let dir = owner.dir();
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let living = processes(owner);
        if living.is_empty() || Instant::now() > give_up {
            break;
        }
        for pid in living {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for data_dir in data_dirs(&dir) {
        leftovers::sweep(&data_dir);
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    for at in mounts(&dir) {
        if run("umount", &[&text(&at)]).is_err() {
            let _ = run("umount", &["-l", &text(&at)]);
        }
    }
    for (name, _) in links().into_iter().filter(|(_, of)| *of == owner) {
        let _ = run("ip", &["link", "del", &name]);
    }
    for name in namespaces().into_iter().filter(|name| Owner::of_namespace(name) == Some(owner)) {
        let _ = run("ip", &["netns", "del", &name]);
    }
    let _ = fs::remove_dir_all(&dir);
}

/// Data directories below an owner's directory: two or three levels down, known by their file of the node's id.
fn data_dirs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![(dir.to_owned(), 0)];
    while let Some((at, depth)) = waiting.pop() {
        if at.join("node.id").exists() || at.join("sessions").exists() {
            found.push(at);
        } else if depth < 4 {
            let below = fs::read_dir(&at).into_iter().flatten().flatten().map(|entry| entry.path());
            waiting.extend(below.filter(|path| path.is_dir()).map(|path| (path, depth + 1)));
        }
    }
    found
}
