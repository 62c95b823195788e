//! What the processes of this node's sessions use, by one pass over `/proc`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use hiveward_kernel::shim::BRIDGE;

/// The name that a session's shim gives itself.
const SHIM: &str = "hiveward-shim";

/// One process, as its `stat` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Ticks from the start of the machine to that of the process: with the number, a process's identity.
    pub started: u64,
    pub is_shim: bool,
    pub is_bridge: bool,
    /// Ticks of its own time on a CPU.
    pub own_ticks: u64,
    /// Ticks of its children that ended and were waited for.
    pub ended_ticks: u64,
    pub resident_pages: u64,
}

/// What one session's processes use, its shim not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub processes: u32,
    /// Ticks since the session began: a process's time goes to whoever waits for it when it ends, so that this never falls.
    pub ticks: u64,
    pub resident_pages: u64,
}

/// A shim, by its number and when it was started.
pub(super) type Shim = (i32, u64);

pub(super) fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

fn parse(pid: i32, stat: &str) -> Option<Process> {
    // The name is in parentheses and may hold anything: it ends with the last one.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: number(19)?,
        is_shim: name == SHIM,
        is_bridge: name == BRIDGE,
        own_ticks: number(11)? + number(12)?,
        ended_ticks: number(13)? + number(14)?,
        resident_pages: number(21)?,
    })
}

/// Returns the session directory that a shim holds: it works in it.
pub(super) fn session_of(shim: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{shim}/cwd")).ok()
}

/// Returns for each shim what the processes below it use.
pub(super) fn sums(processes: &[Process]) -> HashMap<Shim, Sum> {
    let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let below = |shim: &Process| {
        let mut sum = Sum { ticks: shim.ended_ticks, ..Sum::default() };
        let mut next = vec![shim.pid];
        // A number that was used again amid the pass could make a circle: nothing is counted twice.
        let mut left = processes.len();
        while let Some(pid) = next.pop() {
            for child in children.get(&pid).into_iter().flatten() {
                // A session within a session is counted as its own.
                if child.is_shim || child.is_bridge || left == 0 {
                    continue;
                }
                left -= 1;
                sum.processes += 1;
                sum.ticks += child.own_ticks + child.ended_ticks;
                sum.resident_pages += child.resident_pages;
                next.push(child.pid);
            }
        }
        sum
    };
    processes.iter().filter(|process| process.is_shim).map(|shim| ((shim.pid, shim.started), below(shim))).collect()
}

/// Returns the name of a session's directory, if it is one of this node's.
pub(super) fn name_in<'a>(sessions: &Path, dir: &'a Path) -> Option<&'a str> {
    (dir.parent()? == sessions).then(|| dir.file_name()?.to_str()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, own: u64, ended: u64) -> Process {
        let is_shim = pid % 100 == 0;
        Process {
            pid,
            parent,
            started: 7,
            is_shim,
            is_bridge: pid % 100 == 99,
            own_ticks: own,
            ended_ticks: ended,
            resident_pages: 10,
        }
    }

    #[test]
    fn a_line_of_stat_is_read_whatever_the_program_calls_itself() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 50 60 70 80 20 0 1 0 999 12345 678 1844";
        let read = parse(42, stat).unwrap();
        let wanted = Process {
            pid: 42,
            parent: 7,
            started: 999,
            is_shim: false,
            is_bridge: false,
            own_ticks: 110,
            ended_ticks: 150,
            resident_pages: 678,
        };
        assert_eq!(read, wanted);
        assert_eq!(parse(42, "42 (cut) S 7"), None);
        assert!(parse(42, &stat.replace("a) b (c", "hiveward-shim")).unwrap().is_shim);
    }

    #[test]
    fn a_session_is_all_below_its_shim_and_time_is_not_lost_when_a_child_ends() {
        let before = [process(100, 1, 5, 0), process(101, 100, 20, 0), process(102, 101, 30, 0), process(9, 1, 1000, 0)];
        let sum = sums(&before)[&(100, 7)];
        assert_eq!(sum, Sum { processes: 2, ticks: 50, resident_pages: 20 });
        // The grandchild has ended, its parent waited for it.
        let after = [process(100, 1, 6, 0), process(101, 100, 21, 30)];
        assert_eq!(sums(&after)[&(100, 7)].ticks, 51);
        // All have ended; the shim waited for them.
        assert_eq!(sums(&[process(100, 1, 6, 51)])[&(100, 7)], Sum { processes: 0, ticks: 51, resident_pages: 0 });
    }

    #[test]
    fn what_brings_a_program_into_a_guest_is_not_that_program() {
        let sum = sums(&[process(100, 1, 0, 0), process(199, 100, 20, 0)])[&(100, 7)];
        assert_eq!((sum.processes, sum.resident_pages), (0, 0));
    }

    #[test]
    fn a_session_within_a_session_is_counted_as_its_own() {
        let all = [process(100, 1, 0, 0), process(101, 100, 3, 0), process(200, 101, 50, 0), process(201, 200, 4, 0)];
        let sums = sums(&all);
        assert_eq!((sums[&(100, 7)].ticks, sums[&(200, 7)].ticks), (3, 4));
    }
}
