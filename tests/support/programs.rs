//! Watches which attempts' programs live on this machine, to find a task that runs twice at once.
//!
//! Asks the kernel alone: what nodes say of their attempts is what is to be tested.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Between two looks at all processes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A process, and when it was started: a number alone is given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    start: u64,
}

impl Process {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: the state, and as the twentieth word the start.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut words = rest.split_ascii_whitespace();
        let state = words.next()?;
        let start = words.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, start })
    }

    fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

type Attempt = (String, u32);

/// The attempt that a process works for.
fn attempt_of(pid: i32) -> Option<Attempt> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        let mut all = environment.split(|byte| *byte == 0).filter_map(|one| std::str::from_utf8(one).ok());
        all.find_map(|one| one.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    Some((value("HIVEWARD_TASK")?, value("HIVEWARD_ATTEMPT")?.parse().ok()?))
}

/// All that live now.
fn living() -> Vec<(Attempt, Process)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let (process, attempt) = (Process::of(pid)?, attempt_of(pid)?);
        process.lives().then_some((attempt, process))
    })
    .collect()
}

#[derive(Default)]
struct Seen {
    attempts: BTreeSet<Attempt>,
    doubled: BTreeSet<String>,
}

/// A look at all processes again and again, until it is dropped.
pub struct Programs {
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    looking: Option<JoinHandle<()>>,
}

impl Programs {
    #[must_use]
    pub fn watch() -> Self {
        let (seen, over) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (seen_there, over_there) = (seen.clone(), over.clone());
        let looking = thread::spawn(move || {
            while !over_there.load(Ordering::Acquire) {
                look(&seen_there);
                thread::sleep(LOOK_EVERY);
            }
        });
        Self { seen, over, looking: Some(looking) }
    }

    /// Whether a program of this attempt lives now.
    pub fn lives(task: &str, attempt: u32) -> bool {
        living().iter().any(|((of, number), _)| of == task && *number == attempt)
    }

    /// How many attempts' programs of these tasks were seen.
    pub fn seen(&self, tasks: &[String]) -> usize {
        self.seen.lock().unwrap().attempts.iter().filter(|(task, _)| tasks.contains(task)).count()
    }

    /// Panics if of any task two attempts' programs lived at one time.
    pub fn assert_none_ran_twice_at_once(&self) {
        let doubled = &self.seen.lock().unwrap().doubled;
        assert!(doubled.is_empty(), "{} tasks ran twice at once: {doubled:#?}", doubled.len());
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(looking) = self.looking.take() {
            let _ = looking.join();
        }
    }
}

fn look(seen: &Mutex<Seen>) {
    let mut tasks: BTreeMap<String, Vec<(u32, Process)>> = BTreeMap::new();
    for ((task, attempt), process) in living() {
        seen.lock().unwrap().attempts.insert((task.clone(), attempt));
        tasks.entry(task).or_default().push((attempt, process));
    }
    for (task, processes) in tasks {
        // All of them were read one after the other: those that are there still have lived beside those that were read since.
        let still: Vec<_> = processes.into_iter().filter(|(_, process)| process.lives()).collect();
        let attempts: BTreeSet<u32> = still.iter().map(|(attempt, _)| *attempt).collect();
        if attempts.len() > 1 {
            let words: Vec<_> = still
                .iter()
                .map(|(attempt, process)| {
                    let line = fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
                    format!("attempt {attempt}: {} {}", process.pid, line.replace('\0', " "))
                })
                .collect();
            seen.lock().unwrap().doubled.insert(format!("{task}: {}", words.join("; ")));
        }
    }
}
