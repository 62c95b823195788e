//! What is stored beside the ledger, and whether it is whole.

use std::time::Duration;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::{
    client::{ControlPlane, Looked},
    retention::report::StorageReport,
};
use hiveward_runtime::{ledger::scrub::Damage, op::NodeId};

use super::{
    Result, door,
    scalars::{BigInt, DateTime},
};

/// How long nodes may take to say what they keep; who does not is shown as not answering.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// A folder or a file of a node's data directory, with all that is in it.
#[derive(SimpleObject)]
pub struct StorageFolder {
    name: String,
    /// As the disk counts.
    bytes: BigInt,
    files: BigInt,
}

/// One kind of what a node keeps. The oldest goes first, by whichever limit is met first; a limit that is absent is none.
#[derive(SimpleObject)]
pub struct StorageKind {
    /// `tasks` that have ended, `operations` that clients named, `transcripts` of attempts, `blobs`, `events` of the ledger.
    kind: String,
    count: BigInt,
    bytes: Option<BigInt>,
    /// When the oldest ended, or came.
    oldest: Option<DateTime>,
    age_hours_max: Option<f64>,
    count_max: Option<BigInt>,
    bytes_max: Option<BigInt>,
    /// What was let go of so far.
    removed: BigInt,
}

/// What the tasks of a swarm take: rows and blobs.
#[derive(SimpleObject)]
pub struct StorageOfSwarm {
    swarm: ID,
    /// Absent if it was removed.
    name: Option<String>,
    bytes: BigInt,
}

/// What uses the disk of one node.
#[derive(SimpleObject)]
pub struct NodeStorage {
    node: ID,
    /// Why there is nothing below.
    problem: Option<String>,
    /// Of the file system that the data directory is on.
    total_bytes: Option<BigInt>,
    free_bytes: Option<BigInt>,
    /// When writes will be refused if it goes on as in the last hour; absent if the disk does not fill.
    full_at: Option<DateTime>,
    /// The largest first; measured every ten minutes.
    folders: Vec<StorageFolder>,
    measured_at: Option<DateTime>,
    kept: Vec<StorageKind>,
    /// The hundred that use most, the largest first.
    swarms: Vec<StorageOfSwarm>,
}

impl NodeStorage {
    fn of(control: &ControlPlane, node: NodeId, said: std::result::Result<Box<StorageReport>, String>) -> Self {
        let node = ID(node.to_string());
        let report = match said {
            Ok(report) => *report,
            Err(problem) => {
                return Self {
                    node,
                    problem: Some(problem),
                    total_bytes: None,
                    free_bytes: None,
                    full_at: None,
                    folders: Vec::new(),
                    measured_at: None,
                    kept: Vec::new(),
                    swarms: Vec::new(),
                };
            }
        };
        let StorageReport { disk, kept, swarms, .. } = report;
        let measured = disk.total_bytes > 0;
        let kept = kept.into_iter().map(|kept| StorageKind {
            kind: kept.kind,
            count: BigInt(kept.count),
            bytes: kept.bytes.map(BigInt),
            oldest: kept.oldest.map(DateTime),
            age_hours_max: kept.age_ms_max.map(|ms| ms as f64 / 3_600_000.0),
            count_max: kept.count_max.map(BigInt),
            bytes_max: kept.bytes_max.map(BigInt),
            removed: BigInt(kept.removed),
        });
        let folders = disk.folders.into_iter().map(|folder| StorageFolder {
            name: folder.name,
            bytes: BigInt(folder.bytes),
            files: BigInt(folder.files),
        });
        let swarms = swarms.into_iter().map(|(swarm, bytes)| StorageOfSwarm {
            swarm: ID(swarm.to_string()),
            name: control.swarm(swarm).ok().flatten().map(|swarm| swarm.spec.name.to_string()),
            bytes: BigInt(bytes),
        });
        Self {
            node,
            problem: None,
            total_bytes: measured.then_some(BigInt(disk.total_bytes)),
            free_bytes: measured.then_some(BigInt(disk.free_bytes)),
            full_at: disk.full_at.map(DateTime),
            folders: folders.collect(),
            measured_at: disk.walked_at.map(DateTime),
            kept: kept.collect(),
            swarms: swarms.collect(),
        }
    }
}

#[derive(Default)]
pub struct StorageQuery;

#[Object]
impl StorageQuery {
    /// What uses the disk of each node, of whom, and when it will be full.
    async fn storage(&self, ctx: &Context<'_>) -> Result<Vec<NodeStorage>> {
        let control = door(ctx)?;
        let said = control.storage(ANSWER_WITHIN).await;
        Ok(said.into_iter().map(|(node, said)| NodeStorage::of(control, node, said)).collect())
    }
}

#[derive(InputObject)]
pub struct ScrubInput {
    /// The `next` of the turn before; from the beginning if absent.
    after: Option<String>,
}

/// A value of a node's ledger or views that is damaged, or a place where some are missing.
#[derive(SimpleObject)]
pub struct DamagedRow {
    table: String,
    position: String,
    what: String,
}

impl From<Damage> for DamagedRow {
    fn from(damage: Damage) -> Self {
        Self { table: damage.table, position: damage.position, what: damage.what }
    }
}

/// One turn of looking at what a node stores: its ledger and views, then its blobs (bodies, artifacts, images and files of
/// backups, by their hashes), and then what its agents' programs wrote.
#[derive(SimpleObject)]
pub struct ScrubPayload {
    /// Values of the ledger and rows of the views that were read.
    rows: BigInt,
    row_bytes: BigInt,
    /// Found damaged or missing. None of them is served.
    damaged_rows: BigInt,
    /// Of those: whole again, from another node or made again.
    repaired_rows: BigInt,
    /// Of those that are not: the first hundred.
    lost_rows: Vec<DamagedRow>,
    /// Blobs that were read.
    blobs: BigInt,
    bytes: BigInt,
    /// Found damaged now, or before and not mended since. None of them is served.
    damaged: BigInt,
    /// Of those: fetched again from another node.
    repaired: BigInt,
    /// Of those: hashes that no node has which can be asked. The first hundred.
    lost: Vec<String>,
    /// Transcripts that were read: what programs wrote, one for each session.
    transcripts: BigInt,
    transcript_bytes: BigInt,
    /// Found damaged. What is damaged of them is not served, and no other node has them.
    damaged_transcripts: BigInt,
    /// Of those: the first hundred, by the names of their sessions.
    lost_transcripts: Vec<String>,
    /// What to go on after; absent when all were looked at.
    next: Option<String>,
}

impl From<Looked> for ScrubPayload {
    fn from(Looked { rows, blobs: found, transcripts, next }: Looked) -> Self {
        Self {
            rows: BigInt(rows.rows),
            row_bytes: BigInt(rows.bytes),
            damaged_rows: BigInt(rows.damaged),
            repaired_rows: BigInt(rows.repaired),
            lost_rows: rows.lost.into_iter().map(DamagedRow::from).collect(),
            blobs: BigInt(found.blobs),
            bytes: BigInt(found.bytes),
            damaged: BigInt(found.damaged),
            repaired: BigInt(found.repaired),
            lost: found.lost.iter().map(ToString::to_string).collect(),
            transcripts: BigInt(transcripts.transcripts),
            transcript_bytes: BigInt(transcripts.bytes),
            damaged_transcripts: BigInt(transcripts.damaged),
            lost_transcripts: transcripts.names,
            next,
        }
    }
}

#[derive(Default)]
pub struct StorageMutation;

#[Object]
impl StorageMutation {
    /// Looks at this node's ledger, views, blobs and transcripts for some seconds: sets aside what is damaged and mends what another node
    /// has. The node does the same by itself, slowly.
    async fn scrub(&self, ctx: &Context<'_>, input: ScrubInput) -> Result<ScrubPayload> {
        Ok(door(ctx)?.scrub(input.after.as_deref()).await?.into())
    }
}
