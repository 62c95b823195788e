//! What a node keeps, as it is told to whoever asks: what uses its disk, for whom, and what was let go of.

use hiveward_kernel::{id::SwarmId, keep::Keep, view::unreadable};
use hiveward_runtime::{
    clock::WallMs,
    error::Refused,
    ledger::{prune, view::ViewError},
    op::NodeId,
};
use serde::{Deserialize, Serialize};

use super::{Retention, blobs::BlobFigures, disk::DiskFigures};
use crate::{house::House, retention::ledger::LedgerRetention};

/// The figures that the keepers of a node measured last.
#[derive(Debug, Default)]
pub struct Figures {
    pub retention: Retention,
    pub ledger: LedgerRetention,
    pub blobs: BlobFigures,
    pub disk: DiskFigures,
    pub transcripts: TranscriptFigures,
    /// The names of sessions whose transcripts are damaged, as of the last look at them; the first hundred.
    pub damaged_transcripts: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TranscriptFigures {
    /// The number of attempts that have ended and have a transcript.
    pub attempts: u64,
    pub bytes: u64,
    pub oldest: Option<WallMs>,
    /// The number that was removed since the node started.
    pub removed: u64,
}

/// One kind of what is kept, with how much of it may be kept. A kind without a limit of some sort has none here either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub kind: String,
    pub count: u64,
    pub bytes: Option<u64>,
    /// The time when the oldest ended, or came.
    pub oldest: Option<WallMs>,
    pub age_ms_max: Option<u64>,
    pub count_max: Option<u64>,
    pub bytes_max: Option<u64>,
    /// The number that was let go of so far.
    pub removed: u64,
}

/// What one node keeps on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageReport {
    pub node: NodeId,
    pub disk: DiskFigures,
    pub kept: Vec<Kept>,
    /// The bytes of rows and blobs of each swarm's tasks, the largest first.
    pub swarms: Vec<(SwarmId, u64)>,
}

impl Kept {
    fn of(kind: &str, keep: Keep) -> Self {
        Self {
            kind: kind.to_owned(),
            count: 0,
            bytes: None,
            oldest: None,
            age_ms_max: Some(u64::try_from(keep.age.as_millis()).unwrap_or(u64::MAX)),
            count_max: Some(keep.count_max),
            bytes_max: Some(keep.bytes_max),
            removed: 0,
        }
    }
}

/// The most swarms in a report; the smaller ones are left out.
const SWARMS_MAX: usize = 100;

/// Puts together what this node keeps, from its views and from what its keepers measured last.
pub fn of(house: &House) -> Result<StorageReport, Refused> {
    let tasks = house.work.tasks.kept()?;
    let operations = house.machines.operations.kept()?;
    let removed = |view: &str| -> Result<u64, Refused> {
        let read = || -> Result<u64, ViewError> { prune::removed(&house.views.read()?, view) };
        read().map_err(unreadable)
    };
    let (status, figures) = (house.ledger.status(), house.figures.lock());
    let Figures { retention, ledger, blobs, disk, transcripts, damaged_transcripts: _ } = &*figures;
    let kept = vec![
        Kept {
            count: tasks.ended,
            bytes: Some(tasks.ended_bytes),
            oldest: tasks.oldest,
            removed: removed("tasks")?,
            ..Kept::of("tasks", retention.tasks.0)
        },
        Kept {
            count: operations.count,
            bytes: Some(operations.bytes),
            oldest: operations.oldest,
            removed: removed("operations")?,
            ..Kept::of("operations", retention.operations.0)
        },
        Kept {
            count: transcripts.attempts,
            bytes: Some(transcripts.bytes),
            oldest: transcripts.oldest,
            removed: transcripts.removed,
            ..Kept::of("transcripts", retention.transcripts.as_keep())
        },
        Kept {
            count: blobs.blobs,
            bytes: Some(blobs.bytes),
            removed: blobs.removed,
            age_ms_max: None,
            count_max: None,
            bytes_max: None,
            ..Kept::of("blobs", retention.transcripts.as_keep())
        },
        Kept {
            count: status.head.0.saturating_sub(status.oldest.0),
            bytes: Some(status.file_bytes),
            removed: status.oldest.0,
            ..Kept::of("events", Keep { age: ledger.keep, count_max: ledger.events_max, bytes_max: ledger.bytes_max })
        },
    ];
    let known = |swarm: &SwarmId| house.directory.read(|known| known.swarms.contains_key(swarm));
    let mut swarms: std::collections::BTreeMap<SwarmId, u64> = Default::default();
    for (swarm, bytes) in tasks.by_swarm {
        let head = swarm.head();
        *swarms.entry(if known(&head) { head } else { swarm }).or_default() += bytes;
    }
    let mut swarms: Vec<_> = swarms.into_iter().collect();
    swarms.sort_by_key(|(swarm, bytes)| (std::cmp::Reverse(*bytes), *swarm));
    swarms.truncate(SWARMS_MAX);
    Ok(StorageReport { node: house.me.node, disk: disk.clone(), kept, swarms })
}
