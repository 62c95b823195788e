//! Gathers the appends that wait at the same time into one entry: one commit, one fsync for all of them.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{Raft, error::RaftError};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Append, AppendError, Appended, LedgerConfig,
    disk::Disk,
    raft::{OnItsWay, TypeConfig},
    record::{Applied, AppendRefused, Command, EventBody, ProposedAppend},
};
use crate::{clock::WallMs, fault};

/// Appends that wait; one more is refused with `Busy`.
const WAITING_MAX: usize = 8_192;
/// One entry holds at most about so much.
const ENTRY_BYTES_MAX: usize = 4 << 20;
const ENTRY_APPENDS_MAX: usize = 4_096;
/// One append may be this large.
pub const APPEND_BYTES_MAX: usize = 16 << 20;
/// How long a look at the free space is believed.
const FREE_LOOKED_AT: Duration = Duration::from_millis(100);

pub(super) struct Waiting {
    append: Append,
    bytes: usize,
    answer: oneshot::Sender<Result<Appended, AppendError>>,
    _on_its_way: OnItsWay,
}

pub(super) struct Batcher {
    waiting: Mutex<Option<mpsc::Sender<Waiting>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    disk: Disk,
    space: Space,
    reserve_bytes: u64,
}

/// What is free on the ledger's disk, looked at now and then.
struct Space {
    dir: PathBuf,
    free: AtomicU64,
    looked: Mutex<Option<Instant>>,
}

impl Space {
    /// Absent if it cannot be told.
    fn free_bytes(&self) -> Option<u64> {
        let mut looked = self.looked.lock();
        if looked.is_none_or(|at| at.elapsed() >= FREE_LOOKED_AT) {
            let free = nix::sys::statvfs::statvfs(&self.dir).map(|stat| stat.blocks_available() * stat.fragment_size());
            self.free.store(free.unwrap_or(u64::MAX), Ordering::Relaxed);
            *looked = Some(Instant::now());
        }
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }
}

impl Batcher {
    pub(super) fn start(raft: Raft<TypeConfig>, disk: Disk, config: &LedgerConfig) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(run(raft, disk.clone(), queue));
        Self {
            waiting: Mutex::new(Some(waiting)),
            task: Mutex::new(Some(task)),
            disk,
            space: Space { dir: config.dir.clone(), free: AtomicU64::new(u64::MAX), looked: Mutex::new(None) },
            reserve_bytes: config.reserve_bytes,
        }
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.space.free_bytes()
    }

    pub(super) async fn append(&self, append: Append, on_its_way: OnItsWay) -> Result<Appended, AppendError> {
        let bytes = append.events.iter().map(|event| event.body.len() + 32).sum::<usize>()
            + append.snapshot.as_ref().map_or(0, |snapshot| snapshot.body.len())
            + 64;
        let without_snapshot = bytes - append.snapshot.as_ref().map_or(0, |snapshot| snapshot.body.len());
        if without_snapshot > APPEND_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes, bytes_max: APPEND_BYTES_MAX });
        }
        if let Some(why) = self.disk.failure() {
            return Err(AppendError::Failed { why });
        }
        if let Some(free_bytes) = self.space.free_bytes().filter(|free| *free < self.reserve_bytes) {
            return Err(AppendError::DiskFull { dir: self.space.dir.display().to_string(), free_bytes, reserve_bytes: self.reserve_bytes });
        }
        fault::point("ledger.before_append", Some(&append.stream)).await.map_err(|error| AppendError::Failed { why: error.to_string() })?;
        let (answer, wait) = oneshot::channel();
        {
            let waiting = self.waiting.lock();
            let Some(queue) = waiting.as_ref() else { return Err(AppendError::Stopped) };
            queue.try_send(Waiting { append, bytes, answer, _on_its_way: on_its_way }).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Busy { waiting: WAITING_MAX },
                mpsc::error::TrySendError::Closed(_) => AppendError::Stopped,
            })?;
        }
        wait.await.unwrap_or_else(|_| Err(AppendError::Unknown { why: "the ledger stopped before it answered".into() }))
    }

    /// Takes no more; what waits is still written.
    pub(super) async fn stop(&self) {
        self.waiting.lock().take();
        let task = self.task.lock().take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::warn!("the ledger's batcher did not end in order");
        }
    }
}

async fn run(raft: Raft<TypeConfig>, disk: Disk, mut queue: mpsc::Receiver<Waiting>) {
    let mut held: Option<Waiting> = None;
    loop {
        let first = match held.take() {
            Some(waiting) => waiting,
            None => match queue.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < ENTRY_APPENDS_MAX {
            let Ok(next) = queue.try_recv() else { break };
            if bytes + next.bytes > ENTRY_BYTES_MAX {
                held = Some(next);
                break;
            }
            bytes += next.bytes;
            batch.push(next);
        }
        propose(&raft, &disk, batch).await;
    }
}

async fn propose(raft: &Raft<TypeConfig>, disk: &Disk, batch: Vec<Waiting>) {
    let mut appends = Vec::with_capacity(batch.len());
    let mut answers = Vec::with_capacity(batch.len());
    for Waiting { append, answer, _on_its_way, .. } in batch {
        appends.push(ProposedAppend {
            stream: append.stream,
            incarnation: append.incarnation,
            expected_version: append.expected_version,
            events: append.events.into_iter().map(|event| EventBody { kind: event.kind.into(), format: event.format, body: event.body }).collect(),
            snapshot: append.snapshot,
        });
        answers.push((answer, _on_its_way));
    }
    let command = Command::Appends { at: WallMs::now(), appends: Arc::new(appends) };
    let written = raft.client_write(command).await;
    if let Err(error) = fault::point("ledger.before_reply", None).await {
        tracing::warn!(%error, "answers are withheld");
        return;
    }
    let unknown = match written {
        Ok(written) => match written.data {
            Applied::Appends(results) if results.len() == answers.len() => {
                for ((answer, _), result) in answers.into_iter().zip(results) {
                    let result = match result {
                        Ok((cursor, version)) => Ok(Appended { cursor, version }),
                        Err(AppendRefused::Fenced { newest }) => Err(AppendError::Fenced { newest }),
                        Err(AppendRefused::Version { is, expected }) => Err(AppendError::Version { is, expected }),
                    };
                    // Who asked may be gone; the append stands.
                    let _ = answer.send(result);
                }
                return;
            }
            other => format!("unexpected answer {other:?}"),
        },
        Err(RaftError::APIError(error)) => error.to_string(),
        Err(RaftError::Fatal(fatal)) => disk.failure().unwrap_or_else(|| fatal.to_string()),
    };
    for (answer, _) in answers {
        let _ = answer.send(Err(AppendError::Unknown { why: unknown.clone() }));
    }
}
