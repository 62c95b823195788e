//! How long what has ended is kept, on every node. Each kind has an age, a count and bytes; whichever is met first counts.

use hiveward_kernel::keep::{OperationRetention, TaskRetention};

pub mod blobs;
pub mod disk;
pub mod ledger;
pub mod report;
pub mod transcripts;

use std::time::Duration;

use hiveward_runtime::ledger::prune::PRUNE_EVERY;

pub use transcripts::{TranscriptKeeper, TranscriptRetention};

/// What a node keeps of what has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How often the views are asked what may go.
    pub look_every: Duration,
    pub transcripts: TranscriptRetention,
    pub operations: OperationRetention,
    pub tasks: TaskRetention,
    pub blobs: blobs::BlobRetention,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            look_every: PRUNE_EVERY,
            transcripts: TranscriptRetention::default(),
            operations: OperationRetention::default(),
            tasks: TaskRetention::default(),
            blobs: blobs::BlobRetention::default(),
        }
    }
}
