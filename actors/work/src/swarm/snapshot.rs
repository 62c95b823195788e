//! Writes down a swarm's state at one version, so that a replay need not begin at the first event.
//!
//! A small one is one record, taken at once. A larger one is taken in pieces, from a cut, while the swarm goes on.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use hiveward_catalogue::swarm::SwarmSpec;
use hiveward_kernel::id::{AgentId, TaskId};
use hiveward_runtime::op::OperationId;
use serde::{Deserialize, Serialize};

use super::{
    lives::Cut,
    seat::Tally,
    state::{Due, Live, Now, Plan, Remembered, Swarm},
    steal::TransfersKept,
};
use crate::task::status::TaskStatus;

/// The format of a snapshot that is one record.
pub const FORMAT: u16 = 1;
/// The format of a piece.
pub const PIECE_FORMAT: u16 = 2;
/// The bytes of a piece, about; only a task that has more makes a larger one. It fills the half of a megabyte that the
/// ledger's file gives it.
const PIECE_BYTES_WANTED: usize = 480 << 10;
/// The most bytes of memory of a swarm that is written down at once; a larger one is written in pieces.
pub const AT_ONCE_BYTES_MAX: usize = 2 << 20;
/// The bytes that an ended task, a move or an agent's tally takes, about.
const ENTRY_BYTES: usize = 48;

/// The state of a swarm as one record.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    live: Vec<Live>,
    ended: Vec<(TaskId, TaskStatus)>,
    operations: Vec<(OperationId, Remembered)>,
    tallies: Vec<(AgentId, Tally)>,
    /// The transfers between shards; last, and absent from what is stored where there is one shard.
    #[serde(default, skip_serializing_if = "TransfersKept::is_none")]
    transfers: TransfersKept,
}

/// A part of the state. Variants have names: add, never rename.
#[derive(Debug, Serialize, Deserialize)]
pub enum Piece {
    /// Live tasks, with the turn at which each came into the queue; the largest number for those that do not wait.
    Live(Vec<(u64, Live)>),
    Ended(Vec<(TaskId, TaskStatus)>),
    Operations(Vec<(OperationId, Remembered)>),
    Tallies(Vec<(AgentId, Tally)>),
    Transfers(TransfersKept),
}

/// Returns a task's place among those that wait.
fn turn(live: &Live) -> u64 {
    live.ticket.map_or(u64::MAX, |ticket| ticket.turn)
}

/// Returns about how many bytes the state takes in memory and on disk.
pub fn bytes_of(swarm: &Swarm) -> usize {
    let lives = swarm.live.bytes() + swarm.live.len() * ENTRY_BYTES;
    lives + (swarm.ended.len() + swarm.seats.tallies.len()) * ENTRY_BYTES + swarm.operations.weight() + swarm.transfers.bytes()
}

impl Snapshot {
    /// Returns the snapshot of a swarm in which everything that follows from what happened has happened: what is still to follow
    /// is not kept.
    pub fn of(swarm: &Swarm) -> Self {
        debug_assert!(swarm.is_settled(), "what follows from what happened has not happened");
        let mut live: Vec<_> = swarm.live.values().cloned().collect();
        // The order in which they wait; a restored queue is as fair as the one it was taken from.
        live.sort_by_key(|task| (turn(task), task.spec.id));
        Self {
            live,
            ended: swarm.ended.iter().map(|(task, status)| (*task, *status)).collect(),
            operations: swarm.operations.iter().map(|(id, remembered)| (id.clone(), Remembered::clone(remembered))).collect(),
            tallies: swarm.seats.tallies.iter().map(|(agent, tally)| (*agent, *tally)).collect(),
            transfers: TransfersKept::of(&swarm.transfers),
        }
    }

    /// Puts the swarm together again. `now` is when that is done: waits that have passed since are over.
    pub fn restore(self, spec: Arc<SwarmSpec>, now: Now) -> Swarm {
        let mut restoring = Restoring::new(spec);
        restoring.take(Piece::Ended(self.ended));
        restoring.take(Piece::Operations(self.operations));
        restoring.take(Piece::Tallies(self.tallies));
        restoring.take(Piece::Transfers(self.transfers));
        restoring.take(Piece::Live((0..).zip(self.live).collect()));
        restoring.done(now)
    }
}

/// A state that is about to be written down piece by piece, as it was at one moment. Taking it costs little, and so does
/// keeping it: tasks are shared with the swarm until they change there.
pub struct Pieces {
    live: Cut,
    /// The tasks that are left of the bucket that was begun.
    begun: Vec<(u64, Live)>,
    rest: VecDeque<Piece>,
}

impl Pieces {
    /// Takes the state of a swarm in which everything that follows from what happened has happened.
    pub fn of(swarm: &Swarm) -> Self {
        debug_assert!(swarm.is_settled(), "what follows from what happened has not happened");
        let mut rest = VecDeque::new();
        let ended: Vec<_> = swarm.ended.iter().map(|(task, status)| (*task, *status)).collect();
        let entries = PIECE_BYTES_WANTED / ENTRY_BYTES;
        rest.extend(ended.chunks(entries).map(|entries| Piece::Ended(entries.to_vec())));
        let tallies: Vec<_> = swarm.seats.tallies.iter().map(|(agent, tally)| (*agent, *tally)).collect();
        rest.extend(tallies.chunks(entries).map(|entries| Piece::Tallies(entries.to_vec())));
        let (mut operations, mut bytes) = (Vec::new(), 0);
        for (id, remembered) in swarm.operations.iter() {
            bytes += remembered.weight(id);
            operations.push((id.clone(), Remembered::clone(remembered)));
            if bytes >= PIECE_BYTES_WANTED {
                (bytes, _) = (0, rest.push_back(Piece::Operations(std::mem::take(&mut operations))));
            }
        }
        rest.push_back(Piece::Operations(operations));
        let transfers = TransfersKept::of(&swarm.transfers);
        rest.extend(transfers.in_pieces(entries).map(Piece::Transfers));
        Self { live: swarm.live.cut(), begun: Vec::new(), rest }
    }

    /// Encodes the next piece; returns it and whether it is the last, and `None` after the last. There is always one.
    pub fn take_next(&mut self) -> Result<Option<(Bytes, bool)>, rmp_serde::encode::Error> {
        let (mut lives, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES_WANTED {
            let Some((turn, live)) = self.begun.pop() else {
                let Some(bucket) = self.live.next() else { break };
                self.begun.extend(bucket.values().map(|live| (self::turn(live), live.clone())));
                continue;
            };
            bytes += live.bytes();
            lives.push((turn, live));
        }
        let piece = match lives.is_empty() {
            false => Piece::Live(lives),
            true => match self.rest.pop_front() {
                Some(piece) => piece,
                None => return Ok(None),
            },
        };
        // What is left of the state is in `rest`, of which the last piece is never taken while tasks are left.
        let last = self.rest.is_empty();
        Ok(Some((rmp_serde::to_vec(&piece)?.into(), last)))
    }
}

/// A swarm that is being put together again from pieces.
pub struct Restoring {
    swarm: Swarm,
    waiting: Vec<(u64, TaskId)>,
}

impl Restoring {
    /// Begins with an empty swarm.
    pub fn new(spec: Arc<SwarmSpec>) -> Self {
        Self { swarm: Swarm::new(spec), waiting: Vec::new() }
    }

    /// Takes in a piece. Those of operations come oldest first, as they were made; otherwise their order does not matter.
    pub fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Live(lives) => {
                for (turn, live) in lives {
                    self.waiting.push((turn, live.spec.id));
                    self.swarm.live.insert(live.spec.id, live);
                }
            }
            Piece::Ended(ended) => ended.into_iter().for_each(|(task, status)| self.swarm.ended.insert(task, status)),
            Piece::Operations(operations) => {
                operations.into_iter().for_each(|(id, remembered)| self.swarm.remember_as(id, remembered));
            }
            Piece::Tallies(tallies) => self.swarm.seats.tallies.extend(tallies),
            Piece::Transfers(transfers) => transfers.restore(&mut self.swarm.transfers),
        }
    }

    /// Returns the swarm once all pieces are in, with its queue and timers as of `now`.
    pub fn done(self, now: Now) -> Swarm {
        let Self { mut swarm, mut waiting } = self;
        waiting.sort_unstable();
        for (_, id) in waiting {
            let Some(task) = swarm.live.get(&id) else { continue };
            let spec = task.spec.clone();
            for on in spec.depends_on.iter().filter(|_| task.waits_for > 0) {
                if swarm.live.contains_key(on) {
                    swarm.dependents.entry(*on).or_default().push(id);
                }
            }
            let (status, wait_ms, delayed) = (task.status, task.wait_ms, task.delayed);
            let all_ended = task.plan.as_ref().is_some_and(Plan::is_over);
            swarm.set_timer(id, Due::TotalTimeout, now);
            match status {
                TaskStatus::Retrying | TaskStatus::Queued if delayed => swarm.set_timer(id, Due::Ready, now),
                TaskStatus::Queued => {
                    if let Some(task) = swarm.live.get_mut(&id) {
                        task.ticket = Some(swarm.ready.push(&spec));
                        task.wait_ms = wait_ms;
                    }
                    swarm.set_timer(id, Due::QueueTimeout, now);
                }
                TaskStatus::Running => swarm.set_timer(id, Due::RunOverdue, now),
                _ => {}
            }
            if spec.role.as_ref().is_some_and(|role| role.scatter().is_some()) {
                swarm.set_timer(id, Due::Gather, now);
                swarm.to_gather.push((id, false));
            }
            swarm.set_timer(id, Due::Hedge, now);
            if all_ended {
                swarm.to_aggregate.push(id);
            }
        }
        swarm
    }
}

#[cfg(test)]
mod tests {
    use hiveward_runtime::clock::WallMs;

    use super::*;
    use crate::swarm::{event::SwarmEvent, testing};

    #[test]
    fn a_snapshot_from_before_there_were_shards_is_read_and_that_of_a_single_shard_is_stored_like_it() {
        // Four empty lists, as they were written.
        let before = [0x94, 0x90, 0x90, 0x90, 0x90];
        let snapshot: Snapshot = rmp_serde::from_slice(&before).unwrap();
        assert_eq!(rmp_serde::to_vec(&snapshot).unwrap(), before);
        // A task that another depends on is a list of fifteen, as it was.
        let mut swarm = snapshot.restore(Arc::new(testing::swarm(1)), Now::default());
        let first = Arc::new(testing::spec(|_| {}));
        let second = Arc::new(testing::spec(|task| task.depends_on = vec![first.id]));
        let submitted = SwarmEvent::Submitted { tasks: vec![first, second], operation: None, principal: "test".into() };
        swarm.apply(&submitted, WallMs(1), Now::default());
        let bytes = rmp_serde::to_vec(&Snapshot::of(&swarm)).unwrap();
        assert_eq!(bytes[..3], [0x94, 0x92, 0x9f]);
    }

    #[test]
    fn a_swarm_of_any_size_is_written_in_pieces_of_half_a_megabyte_as_it_was_while_it_goes_on() {
        let mut swarm = Swarm::new(Arc::new(testing::swarm(1)));
        let submit = |swarm: &mut Swarm, tasks: usize, n: usize| {
            let tasks = (0..tasks).map(|at| {
                let payload = hiveward_kernel::body::Body::Inline(vec![0xff; (at * 37 + n) % 4096]);
                Arc::new(testing::spec(|task| {
                    task.work = crate::task::spec::Work::Kind { kind: "probe".into(), payload: Some(payload) };
                }))
            });
            let operation = Some(hiveward_kernel::operation::Operation { id: format!("op {n}").into(), input: [n as u8; 16] });
            let submitted = SwarmEvent::Submitted { tasks: tasks.collect(), operation, principal: "test".into() };
            swarm.apply(&submitted, WallMs(1), Now::default());
        };
        for n in 0..40 {
            submit(&mut swarm, 250, n);
        }
        // Kept under one version as the record that is taken at once keeps it.
        let whole = rmp_serde::to_vec(&Snapshot::of(&swarm)).unwrap();
        assert!(whole.len() > 16 << 20 && bytes_of(&swarm) >= whole.len(), "{} of {}", whole.len(), bytes_of(&swarm));
        let mut pieces = Pieces::of(&swarm);
        let mut restoring = Restoring::new(swarm.spec.clone());
        let (mut count, mut ended) = (0, false);
        while let Some((bytes, last)) = pieces.take_next().unwrap() {
            assert!(!ended && bytes.len() <= 512 << 10, "{} bytes", bytes.len());
            restoring.take(rmp_serde::from_slice(&bytes).unwrap());
            (count, ended) = (count + 1, last);
            // It goes on meanwhile: tasks come, and all that were there are cancelled one after the other.
            submit(&mut swarm, 10, 1_000 + count);
            for task in swarm.live_tasks().map(|live| live.spec.id).take(200).collect::<Vec<_>>() {
                let cancelled = SwarmEvent::Cancelled { task, reason: "test".into(), lease: None, operation: None };
                swarm.apply(&cancelled, WallMs(2), Now::default());
            }
        }
        assert!(ended && count > 40, "{count} pieces");
        let restored = restoring.done(Now::default());
        assert_eq!(rmp_serde::to_vec(&Snapshot::of(&restored)).unwrap(), whole, "as it was, in the order in which they waited");
    }
}
