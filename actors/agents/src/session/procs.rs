//! Finds processes by `/proc`: the descendants of a shim, and the orphans of one that was killed.

use std::{collections::HashMap, fs};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::layout::MARKER;

/// Returns every process that has `ancestor` above it, nearest first.
pub(super) fn descendants(ancestor: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in all() {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(pid) = next.pop() {
        if let Some(mut below) = children.remove(&pid) {
            found.extend_from_slice(&below);
            next.append(&mut below);
        }
    }
    found
}

/// Returns every process whose environment names this session. Dead ones (zombies) have none.
pub(super) fn marked(session: &str) -> Vec<i32> {
    let wanted = format!("{MARKER}={session}").into_bytes();
    all()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.split(|b| *b == 0).any(|var| var == wanted))
        })
        .collect()
}

/// Returns the bytes of resident memory of these processes together; a process that has gone counts nothing.
pub(super) fn rss_bytes(pids: &[i32]) -> u64 {
    pids.iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse::<u64>().ok())
        .sum::<u64>()
        .saturating_mul(rustix::param::page_size() as u64)
}

pub(super) fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids {
        // A process that has gone is what was wanted.
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, so count from the last one: state, parent.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}
