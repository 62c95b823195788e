//! What keeps the transcripts and files of ended attempts for a while, and removes the oldest.
//!
//! Owns the removal of what is under `sessions/` and `attempts/`, nothing else there. Asks the views which attempts have
//! ended: what runs, and what has no end in the ledger yet, is never touched. After a restart it looks again.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use hiveward_agents::connector::{self, attempt_of};
use hiveward_kernel::{keep::Keep, lease::Lease};
use hiveward_runtime::{
    clock::WallMs,
    error::Refused,
    supervise::{Behaviour, Context, Failure, TimerHandle},
};

use super::report::TranscriptFigures;
use crate::house::House;

/// The most that one turn removes, so that a lowered limit does not keep the disk busy for minutes.
const FORGOTTEN_PER_TURN_MAX: usize = 1_000;

/// How long transcripts of ended attempts are kept. Whichever bound is met first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranscriptRetention {
    pub keep: Duration,
    pub attempts_max: u64,
    /// The most bytes on disk, of all ended attempts together.
    pub bytes_max: u64,
    pub look_every: Duration,
}

impl TranscriptRetention {
    /// The setting that governs it, as messages name it.
    pub const SETTING: &str = "node.transcripts";
    pub const KEEP_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
    pub const ATTEMPTS_MAX_DEFAULT: u64 = 10_000;
    pub const BYTES_MAX_DEFAULT: u64 = 10 << 30;
    pub const LOOK_EVERY_DEFAULT: Duration = Duration::from_secs(60);

    /// Returns the same bounds in the form that all kinds of retention share.
    pub const fn as_keep(&self) -> Keep {
        Keep { age: self.keep, count_max: self.attempts_max, bytes_max: self.bytes_max }
    }
}

impl Default for TranscriptRetention {
    fn default() -> Self {
        Self {
            keep: Self::KEEP_DEFAULT,
            attempts_max: Self::ATTEMPTS_MAX_DEFAULT,
            bytes_max: Self::BYTES_MAX_DEFAULT,
            look_every: Self::LOOK_EVERY_DEFAULT,
        }
    }
}

pub struct TranscriptKeeper {
    house: House,
    limits: TranscriptRetention,
}

/// An ended attempt that is still on disk; neither figure changes any more.
#[derive(Clone, Copy, Debug)]
struct Kept {
    ended_at: WallMs,
    bytes: u64,
}

type Attempts = HashMap<Lease, Kept>;

pub struct State {
    /// The ended attempts on disk, so that each is measured once per life. It is as long as the directory listing, which the
    /// limits bound.
    kept: Attempts,
    removed: u64,
    _timer: TimerHandle,
}

impl TranscriptKeeper {
    /// Returns the behaviour of the actor that keeps transcripts to these limits.
    pub fn new(house: House, limits: TranscriptRetention) -> Self {
        Self { house, limits }
    }
}

impl Behaviour for TranscriptKeeper {
    type Msg = ();
    type State = State;

    async fn start(&self, ctx: &Context<()>) -> Result<State, Failure> {
        Ok(State { kept: HashMap::new(), removed: 0, _timer: ctx.every(self.limits.look_every, || ()) })
    }

    async fn handle(&self, ctx: &Context<()>, (): (), state: &mut State) -> Result<(), Failure> {
        let (house, limits, mut kept) = (self.house.clone(), self.limits, std::mem::take(&mut state.kept));
        let turn = tokio::task::spawn_blocking(move || {
            look(&house, &mut kept)?;
            let removed = forget_oldest(&house, &limits, &mut kept);
            Ok::<_, Refused>((kept, removed))
        });
        match turn.await {
            Ok(Ok((kept, removed))) => {
                state.kept = kept;
                state.removed += removed;
            }
            // They are looked at again next time, from nothing.
            Ok(Err(refused)) => tracing::warn!(%refused, "transcripts could not be looked at"),
            Err(panic) => return Err(Failure::new(format!("looking at transcripts: {panic}"))),
        }
        let bytes: u64 = state.kept.values().map(|kept| kept.bytes).sum();
        let oldest = state.kept.values().map(|kept| kept.ended_at).min();
        let attempts = state.kept.len() as u64;
        self.house.figures.lock().transcripts = TranscriptFigures { attempts, bytes, oldest, removed: state.removed };
        metrics::gauge!("hiveward_transcripts_attempts").set(state.kept.len() as f64);
        metrics::gauge!("hiveward_transcripts_bytes").set(bytes as f64);
        ctx.set_note(&format!("{} ended attempts, {bytes} bytes", state.kept.len()));
        Ok(())
    }
}

/// Learns of attempts on disk that have ended since the last look.
fn look(house: &House, kept: &mut Attempts) -> Result<(), Refused> {
    let mut names = BTreeSet::new();
    for folder in ["sessions", "attempts"] {
        for entry in fs::read_dir(house.data_dir.join(folder)).into_iter().flatten().flatten() {
            names.extend(entry.file_name().to_str().and_then(attempt_of));
        }
    }
    kept.retain(|lease, _| names.contains(&(lease.task, lease.attempt)));
    let known: BTreeSet<_> = kept.keys().map(|lease| (lease.task, lease.attempt)).collect();
    for (task, number) in names.difference(&known).copied() {
        let record = house.work.tasks.get(task)?;
        let attempt = record.as_ref().and_then(|record| record.attempts.iter().find(|attempt| attempt.number == number));
        // Without an end in the ledger the same lease may be run again, and must find what it left.
        let Some((attempt, ended_at)) = attempt.and_then(|attempt| Some((attempt, attempt.ended_at?))) else { continue };
        let lease = Lease { task, attempt: number, agent: attempt.agent };
        let bytes = connector::dirs(&house.data_dir, lease).iter().map(|dir| bytes_under(dir)).sum();
        kept.insert(lease, Kept { ended_at, bytes });
    }
    Ok(())
}

/// Returns the bytes under a directory as the disk counts them: a file's holes take no room.
fn bytes_under(dir: &Path) -> u64 {
    let own = |meta: io::Result<fs::Metadata>| meta.map_or(0, |meta| meta.blocks() * 512);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let inside = entries.map(|entry| {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) { bytes_under(&entry.path()) } else { own(entry.metadata()) }
    });
    own(fs::metadata(dir)) + inside.sum::<u64>()
}

/// Removes the oldest that the limits let go of; returns how many.
fn forget_oldest(house: &House, limits: &TranscriptRetention, kept: &mut Attempts) -> u64 {
    let mut removed = 0;
    for lease in too_many(kept, house.clock.now(), limits).into_iter().take(FORGOTTEN_PER_TURN_MAX) {
        match connector::forget(&house.data_dir, lease) {
            Ok(()) => {
                kept.remove(&lease);
                removed += 1;
                metrics::counter!("hiveward_transcripts_removed_total").increment(1);
            }
            // The attempt's lease was taken away and its process is still on its way out.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => tracing::warn!(task = %lease.task, attempt = lease.attempt, %error, "a transcript cannot be removed"),
        }
    }
    removed
}

/// Lists what the limits let go of, the longest ended first.
fn too_many(kept: &Attempts, now: WallMs, limits: &TranscriptRetention) -> Vec<Lease> {
    let mut oldest_first: Vec<_> = kept.iter().map(|(lease, kept)| (*lease, *kept)).collect();
    oldest_first.sort_unstable_by_key(|(lease, kept)| (kept.ended_at, *lease));
    let mut left = oldest_first.len() as u64;
    let mut bytes: u64 = oldest_first.iter().map(|(_, kept)| kept.bytes).sum();
    let keep_ms = i64::try_from(limits.keep.as_millis()).unwrap_or(i64::MAX);
    let out = oldest_first.into_iter().take_while(|(_, kept)| {
        let old = now.0.saturating_sub(kept.ended_at.0) > keep_ms;
        let over = old || left > limits.attempts_max || bytes > limits.bytes_max;
        left -= 1;
        bytes -= kept.bytes;
        over
    });
    out.map(|(lease, _)| lease).collect()
}

#[cfg(test)]
mod tests {
    use hiveward_kernel::id::{AgentId, TaskId};

    use super::*;

    fn limits(keep_ms: u64, attempts_max: u64, bytes_max: u64) -> TranscriptRetention {
        TranscriptRetention { keep: Duration::from_millis(keep_ms), attempts_max, bytes_max, ..TranscriptRetention::default() }
    }

    #[test]
    fn each_limit_lets_go_of_the_longest_ended_and_of_no_more_than_it_must() {
        let agent = AgentId::new();
        let leases: Vec<_> = (1..=4).map(|attempt| Lease { task: TaskId::new(), attempt, agent }).collect();
        let kept: Attempts =
            leases.iter().zip([10, 20, 30, 40]).map(|(lease, at)| (*lease, Kept { ended_at: WallMs(at), bytes: 100 })).collect();
        let gone = |limits: TranscriptRetention| too_many(&kept, WallMs(50), &limits);
        assert_eq!(gone(limits(1000, 10, 1000)), []);
        assert_eq!(gone(limits(25, 10, 1000)), leases[..2]);
        assert_eq!(gone(limits(1000, 3, 1000)), leases[..1]);
        assert_eq!(gone(limits(1000, 10, 250)), leases[..2]);
        assert_eq!(gone(limits(0, 0, 0)), leases);
    }
}
