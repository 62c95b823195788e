//! Consensus: openraft over the ledger's file, with one voter from the first day, behind [`Consensus`].
//!
//! `log` keeps entries, `apply` gives committed ones to the machine. Nothing outside this folder and `record` names
//! openraft. More voters need a network here, and nothing else.

mod apply;
mod log;
mod network;
#[cfg(test)]
mod suite;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use openraft::{
    BasicNode, Config, Raft, SnapshotPolicy,
    error::{ClientWriteError, RaftError},
};
use serde::{Deserialize, Serialize};

use super::{
    OpenError,
    file::Witness,
    record::Command,
    snapshot::Image,
    writer::{Disk, Jobs},
};
pub use apply::{Landed, Outcomes};

pub type Node = BasicNode;

/// What became of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    #[default]
    Nothing,
    Epoch(u64),
    Compacted(u64),
}

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Command,
        R = Applied,
        NodeId = u64,
        Node = Node,
        SnapshotData = Image,
);

/// Entries after which the log's older part is dropped; the tables have what they meant.
const ENTRIES_PER_SNAPSHOT: u64 = 5_000;
/// The same, for large entries.
const BYTES_PER_SNAPSHOT: u64 = 32 << 20;
/// Kept for nodes that lag a little.
const ENTRIES_KEPT: u64 = 128;
const ENTRIES_PER_PURGE: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was not taken: nothing was written.
    #[error("this node does not lead: {0}")]
    NotLeading(String),
    /// It may have been taken.
    #[error("{0}")]
    Lost(String),
}

#[derive(Clone, Debug, Default)]
pub struct ConsensusStatus {
    pub term: u64,
    pub leader: Option<u64>,
    pub voters: Vec<u64>,
    pub log_last: u64,
    pub log_purged: u64,
}

/// One partition's agreement on the order of commands.
pub trait Consensus: Send + Sync {
    /// Answers when the command has been applied here.
    fn propose(&self, command: Command) -> BoxFuture<'static, Result<Applied, ProposeError>>;
    fn status(&self) -> ConsensusStatus;
    fn stop(&self) -> BoxFuture<'_, ()>;
}

pub const NODE: u64 = 1;

/// Openraft with this node as its only voter.
pub struct OneVoter {
    raft: Raft<TypeConfig>,
    /// Since the log was last shortened for its size.
    bytes: Arc<AtomicU64>,
}

impl OneVoter {
    /// Starts it; it leads at once, and the epoch it has taken is above all before.
    pub async fn start(
        disk: Arc<Disk>,
        jobs: Jobs,
        outcomes: Arc<Outcomes>,
        witness: Witness,
        within: Duration,
    ) -> Result<(Self, u64), OpenError> {
        let storage = |what: String| OpenError::Storage { path: "ledger.redb".into(), what };
        let config = Config {
            cluster_name: "hiveward".into(),
            heartbeat_interval: 250,
            election_timeout_min: 1_000,
            election_timeout_max: 2_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
            max_in_snapshot_log_to_keep: ENTRIES_KEPT,
            purge_batch_size: ENTRIES_PER_PURGE,
            max_payload_entries: 64,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| storage(error.to_string()))?);
        let log = log::LogStore::load(disk.clone(), jobs.clone()).map_err(|error| storage(error.to_string()))?;
        let machine = apply::MachineStore::new(disk, jobs, outcomes, Some(witness));
        let raft = Raft::new(NODE, config, network::NoPeers, log, machine).await.map_err(|error| storage(error.to_string()))?;
        match lead(&raft, within).await {
            Ok(epoch) => Ok((Self { raft, bytes: Arc::default() }, epoch)),
            Err(error) => {
                // What matters is the error we have.
                let _ = raft.shutdown().await;
                Err(error)
            }
        }
    }
}

/// Makes a lone node its own leader without waiting for an election's timeout.
async fn lead(raft: &Raft<TypeConfig>, within: Duration) -> Result<u64, OpenError> {
    let storage = |what: String| OpenError::Storage { path: "ledger.redb".into(), what };
    let ready = async {
        if !raft.is_initialized().await.map_err(|error| storage(error.to_string()))? {
            raft.initialize(BTreeMap::from([(NODE, Node::new(""))])).await.map_err(|error| storage(error.to_string()))?;
        }
        raft.trigger().elect().await.map_err(|error| storage(error.to_string()))?;
        let mut metrics = raft.metrics();
        loop {
            match raft.client_write(Command::NextEpoch).await {
                Ok(written) => match written.data {
                    Applied::Epoch(epoch) => return Ok(epoch),
                    other => return Err(storage(format!("unexpected answer {other:?}"))),
                },
                Err(RaftError::Fatal(fatal)) => return Err(storage(fatal.to_string())),
                // Not the leader yet: its state will change.
                Err(RaftError::APIError(_)) => metrics.changed().await.map_err(|error| storage(error.to_string()))?,
            }
        }
    };
    let waited_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    tokio::time::timeout(within, ready).await.unwrap_or(Err(OpenError::NotReady { waited_ms }))
}

impl Consensus for OneVoter {
    fn propose(&self, command: Command) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        let (raft, total) = (self.raft.clone(), self.bytes.clone());
        let bytes = if let Command::Batch(batch) = &command { batch.bodies.len() as u64 } else { 0 };
        Box::pin(async move {
            if total.fetch_add(bytes, Ordering::Relaxed) > BYTES_PER_SNAPSHOT {
                total.store(0, Ordering::Relaxed);
                raft.trigger().snapshot().await.map_err(|error| ProposeError::Lost(error.to_string()))?;
            }
            match raft.client_write(command).await {
                Ok(written) => Ok(written.data),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Err(ProposeError::NotLeading(to.to_string())),
                Err(error) => Err(ProposeError::Lost(error.to_string())),
            }
        })
    }

    fn status(&self) -> ConsensusStatus {
        let metrics = self.raft.metrics().borrow().clone();
        ConsensusStatus {
            term: metrics.current_term,
            leader: metrics.current_leader,
            voters: metrics.membership_config.membership().voter_ids().collect(),
            log_last: metrics.last_log_index.unwrap_or(0),
            log_purged: metrics.purged.map_or(0, |log_id| log_id.index),
        }
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Err(error) = self.raft.shutdown().await {
                tracing::warn!(%error, "raft did not stop in order");
            }
        })
    }
}
