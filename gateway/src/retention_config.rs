//! The section `retention` of the configuration: how much a node keeps of what has ended.

use std::time::Duration;

use hiveward_actors::retention::{Retention, blobs::BlobRetention};
use hiveward_kernel::keep::{Keep, OperationRetention, TaskRetention};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of each kind: whichever bound is met first counts, and the oldest goes first. What is still needed is kept besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSection {
    /// Operation ids that clients gave: a mutation that is repeated under its id for so long is answered as the first time.
    pub operations: KeptOperations,
    /// Tasks that have ended, with their attempts, results and artifacts.
    pub tasks: KeptTasks,
    /// Bodies, artifacts and images by their hashes, which go with what names them.
    pub blobs: KeptBlobs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeptOperations {
    pub keep_hours: u64,
    pub count_max: u64,
    /// On disk, together.
    pub bytes_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeptTasks {
    pub keep_hours: u64,
    pub count_max: u64,
    /// Of rows and blobs, together.
    pub bytes_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeptBlobs {
    /// How long one stays that nothing names: what is to name it may be on its way. At least a minute.
    pub unnamed_minutes: u64,
    /// How often it is looked at.
    pub look_every_ms: u64,
}

impl Default for KeptTasks {
    fn default() -> Self {
        let TaskRetention(Keep { age, count_max, bytes_max }) = TaskRetention::default();
        Self { keep_hours: age.as_secs() / HOUR, count_max, bytes_max }
    }
}

impl Default for KeptBlobs {
    fn default() -> Self {
        let BlobRetention { unnamed, look_every } = BlobRetention::default();
        Self { unnamed_minutes: unnamed.as_secs() / MINUTE, look_every_ms: look_every.as_millis() as u64 }
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

impl Default for KeptOperations {
    fn default() -> Self {
        let OperationRetention(Keep { age, count_max, bytes_max }) = OperationRetention::default();
        Self { keep_hours: age.as_secs() / HOUR, count_max, bytes_max }
    }
}

fn keep(hours: u64, count_max: u64, bytes_max: u64) -> Keep {
    Keep { age: Duration::from_secs(hours.saturating_mul(HOUR)), count_max, bytes_max }
}

impl RetentionSection {
    /// Returns all bounds but those of the transcripts, which have a section of their own.
    pub fn retention(&self) -> Retention {
        let Self { operations, tasks, blobs } = self;
        Retention {
            operations: OperationRetention(keep(operations.keep_hours, operations.count_max, operations.bytes_max)),
            tasks: TaskRetention(keep(tasks.keep_hours, tasks.count_max, tasks.bytes_max)),
            blobs: BlobRetention {
                unnamed: Duration::from_secs(blobs.unnamed_minutes.max(1).saturating_mul(MINUTE)),
                look_every: Duration::from_millis(blobs.look_every_ms.max(1)),
            },
            ..Retention::default()
        }
    }
}
