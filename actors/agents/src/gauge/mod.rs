//! What the processes of each agent of this node really use: memory, CPU, how many there are, now and in the last hour.
//!
//! Owns the samples and the task that takes them, which ends with it. In memory alone: after a restart of the node it
//! begins empty, as what was not measured is absent. A program that began and ended between two looks is not in it.

pub(crate) mod procs;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hiveward_kernel::{
    id::AgentId,
    lease::Lease,
    series::{self, Series},
};
use hiveward_runtime::clock::WallMs;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use self::procs::{Process, Shim, Sum};
use super::session::SessionDir;
use crate::connector::attempt_of;

pub const EVERY: Duration = Duration::from_secs(5);
/// Number of samples of one agent: an hour's. The oldest is forgotten for a new one.
const SAMPLES_MAX: usize = 3600 / EVERY.as_secs() as usize;
/// Number of agents beyond which those are forgotten that have run nothing for longest. With all samples an agent takes about 30
/// KiB.
const AGENTS_MAX: usize = 2_000;

/// What an agent's processes used at one moment, the shims that hold them not counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourcesSample {
    pub at: WallMs,
    pub processes: u32,
    /// Milliseconds of user and system time of every session that this life of the node saw. Never falls while the node lives.
    pub cpu_ms_total: u64,
    /// Bytes of memory of all of them together; pages that they share are counted for each.
    pub resident_bytes: u64,
}

impl series::Sample for ResourcesSample {
    fn at(&self) -> WallMs {
        self.at
    }
}

/// What one agent used.
#[derive(Debug, Default)]
struct Measured {
    samples: Series<ResourcesSample, SAMPLES_MAX>,
    cpu_ms_total: u64,
}

/// A session that was seen, and how much of its time is counted already.
#[derive(Debug)]
struct Session {
    agent: AgentId,
    dir: PathBuf,
    counted_ms: u64,
}

#[derive(Debug, Default)]
struct Book {
    agents: HashMap<AgentId, Measured>,
    sessions: HashMap<Shim, Session>,
}

impl Book {
    /// Takes in one look. `find` says whose a session is that was not seen before; `ended` what one that has gone used in
    /// all, if it left a record.
    fn take(
        &mut self,
        at: WallMs,
        sums: &HashMap<Shim, (Sum, PathBuf)>,
        scale: Scale,
        find: impl Fn(&Path) -> Option<AgentId>,
        ended: impl Fn(&Path) -> Option<u64>,
    ) {
        for (shim, session) in self.sessions.extract_if(|shim, _| !sums.contains_key(shim)) {
            tracing::trace!(?shim, agent = %session.agent, "a session has gone");
            let rest = ended(&session.dir).unwrap_or(0).saturating_sub(session.counted_ms);
            self.agents.entry(session.agent).or_default().cpu_ms_total += rest;
        }
        let mut now: HashMap<AgentId, (u32, u64)> = HashMap::new();
        for (shim, (sum, dir)) in sums {
            if !self.sessions.contains_key(shim) {
                let Some(agent) = find(dir) else { continue };
                self.sessions.insert(*shim, Session { agent, dir: dir.clone(), counted_ms: 0 });
            }
            let Some(session) = self.sessions.get_mut(shim) else { continue };
            let used_ms = sum.ticks.saturating_mul(1000) / scale.ticks_per_second.max(1);
            let measured = self.agents.entry(session.agent).or_default();
            measured.cpu_ms_total += used_ms.saturating_sub(session.counted_ms);
            session.counted_ms = session.counted_ms.max(used_ms);
            let (processes, bytes) = now.entry(session.agent).or_default();
            *processes += sum.processes;
            *bytes += sum.resident_pages.saturating_mul(scale.page_bytes);
        }
        for (agent, measured) in &mut self.agents {
            let (processes, resident_bytes) = now.get(agent).copied().unwrap_or_default();
            // The first such sample says that an agent runs nothing, and then nothing is to be said.
            let quiet = processes == 0 && measured.samples.last().is_some_and(|last| last.processes == 0);
            if quiet && measured.samples.last().is_some_and(|last| last.cpu_ms_total == measured.cpu_ms_total) {
                continue;
            }
            measured.samples.push(ResourcesSample { at, processes, cpu_ms_total: measured.cpu_ms_total, resident_bytes });
        }
        self.forget();
    }

    fn forget(&mut self) {
        while self.agents.len() > AGENTS_MAX {
            let last = |measured: &Measured| measured.samples.last().map_or(0, |sample| sample.at.0);
            let Some(oldest) = self.agents.iter().min_by_key(|(_, measured)| last(measured)).map(|(agent, _)| *agent) else {
                return;
            };
            self.agents.remove(&oldest);
        }
    }
}

/// Units that this machine counts in.
#[derive(Clone, Copy, Debug)]
struct Scale {
    ticks_per_second: u64,
    page_bytes: u64,
}

impl Scale {
    fn here() -> Self {
        Self {
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            page_bytes: u64::try_from(rustix::param::page_size()).unwrap_or(4096),
        }
    }
}

/// The gauges of a node. Cheap to clone; the last clone ends the measuring.
#[derive(Clone, Debug)]
pub struct Gauges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    book: Arc<Mutex<Book>>,
    taking: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.taking.abort();
    }
}

impl Gauges {
    /// Begins to measure the sessions of this data directory.
    pub fn start(data_dir: &Path) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        // As the kernel names a shim's working directory.
        let dir = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
        let kept = book.clone();
        let taking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let (kept, dir) = (kept.clone(), dir.clone());
                // Files of the kernel: quick, but not to be waited for here.
                let looked = tokio::task::spawn_blocking(move || look(&mut kept.lock(), &dir, &procs::all(), WallMs::now()));
                if let Err(error) = looked.await {
                    tracing::error!(%error, "a look at the processes of agents broke off; the next follows");
                }
            }
        });
        Self(Arc::new(Inner { book, taking }))
    }

    /// Returns real samples of an agent between two moments, oldest first; where there are more than `points`, every second,
    /// third, … of them, the newest among them.
    pub fn between(&self, agent: AgentId, since: WallMs, until: WallMs, points: usize) -> Vec<ResourcesSample> {
        let book = self.0.book.lock();
        let samples = book.agents.get(&agent).into_iter().flat_map(|measured| measured.samples.iter());
        series::between(samples, (since, until), points).into_iter().copied().collect()
    }
}

fn look(book: &mut Book, data_dir: &Path, processes: &[Process], at: WallMs) {
    let sessions = data_dir.join("sessions");
    let own = |(shim, sum): (Shim, Sum)| {
        let dir = procs::session_of(shim.0)?;
        procs::name_in(&sessions, &dir)?;
        Some((shim, (sum, dir)))
    };
    let sums = procs::sums(processes).into_iter().filter_map(own).collect();
    let ended = |dir: &Path| SessionDir::new(dir).exit().map(|exit| exit.cpu_ms);
    book.take(at, &sums, Scale::here(), |dir| owner(data_dir, dir), ended);
}

/// Returns the agent that a session belongs to: it is the agent's own, or that of an attempt, which has its lease on disk.
fn owner(data_dir: &Path, session: &Path) -> Option<AgentId> {
    let name = session.file_name()?.to_str()?;
    if let Some(agent) = name.strip_suffix("-worker") {
        return agent.parse().ok();
    }
    let (task, attempt) = attempt_of(name)?;
    let lease = std::fs::read(data_dir.join("attempts").join(format!("{task}-{attempt}")).join("lease.json")).ok()?;
    Some(serde_json::from_slice::<Lease>(&lease).ok()?.agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale { ticks_per_second: 100, page_bytes: 4096 };

    fn seen(shim: i32, ticks: u64, processes: u32) -> (Shim, (Sum, PathBuf)) {
        let sum = Sum { processes, ticks, resident_pages: u64::from(processes) * 10 };
        ((shim, 1), (sum, PathBuf::from(format!("s{shim}"))))
    }

    #[test]
    fn an_agents_time_grows_over_its_sessions_and_counts_what_a_session_used_at_its_end() {
        let agent = AgentId::new();
        let mut book = Book::default();
        let mut at = 0;
        let mut take = |sums: &[(Shim, (Sum, PathBuf))], ended: Option<u64>| {
            at += 1;
            book.take(WallMs(at), &sums.iter().cloned().collect(), SCALE, |_| Some(agent), |_| ended);
            *book.agents[&agent].samples.last().unwrap()
        };
        let first = take(&[seen(1, 50, 2), seen(2, 10, 1)], None);
        assert_eq!((first.cpu_ms_total, first.processes, first.resident_bytes), (600, 3, 30 * 4096));
        // One ended in between: its record says 900 ms, of which 500 are counted.
        let second = take(&[seen(2, 20, 1)], Some(900));
        assert_eq!((second.cpu_ms_total, second.processes), (1100, 1));
        // The same number again is another process if it began at another time.
        let third = take(&[((2, 9), (Sum { processes: 1, ticks: 5, resident_pages: 1 }, PathBuf::from("s3")))], None);
        assert_eq!(third.cpu_ms_total, 1150);
        // Nothing runs: said once.
        assert_eq!(take(&[], None).processes, 0);
        let told = take(&[], None);
        assert_eq!((told.at, told.cpu_ms_total), (WallMs(4), 1150));
    }

    #[test]
    fn an_hour_of_an_agent_is_kept_and_of_too_many_agents_those_that_rested_longest_go() {
        let mut book = Book::default();
        for at in 0..SAMPLES_MAX as i64 + 5 {
            let sums = HashMap::from([seen(1, at as u64, 1)]);
            book.take(WallMs(at), &sums, SCALE, |_| Some(AgentId::from_u128(1)), |_| None);
        }
        let samples = &book.agents[&AgentId::from_u128(1)].samples;
        assert_eq!((samples.len(), samples.iter().next().unwrap().at), (SAMPLES_MAX, WallMs(5)));
        let many = (0..AGENTS_MAX as i32 + 10).map(|shim| seen(shim + 2, 1, 1)).collect();
        let by_dir = |dir: &Path| Some(AgentId::from_u128(dir.to_str()?.strip_prefix('s')?.parse().ok()?));
        book.take(WallMs(10_000), &many, SCALE, by_dir, |_| None);
        assert_eq!(book.agents.len(), AGENTS_MAX);
    }
}
