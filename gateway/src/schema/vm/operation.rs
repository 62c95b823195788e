//! Operations of VMs, and how a migration goes.

use async_graphql::SimpleObject;
use hiveward_catalogue::host::protocol::Progress;
use hiveward_machines::vm::{
    event::{Outcome, Subject},
    state::VmOperation as Operation,
};

use super::super::{
    enums::VmOperationStatus,
    scalars::{BigInt, DateTime},
};

/// Bytes and times of a migration; what is not known is absent.
#[derive(SimpleObject)]
pub struct VmMigration {
    elapsed_ms: Option<BigInt>,
    total_bytes: Option<BigInt>,
    processed_bytes: Option<BigInt>,
    remaining_bytes: Option<BigInt>,
    /// Written by the guest, each second.
    dirty_bytes_per_second: Option<BigInt>,
    /// Sent, each second.
    sent_bytes_per_second: Option<BigInt>,
    /// Passes over the memory.
    iteration: Option<BigInt>,
    /// How long it still takes if it goes on as now; absent if it is not known, or would never end.
    forecast_ms: Option<BigInt>,
    /// Whether the guest writes faster than its memory is sent, so that it does not end by itself; absent if not known.
    is_outrun: Option<bool>,
    /// Of one that slows its guest down: by how much of its time, in percent; absent if the hypervisor does not say.
    throttle_percent: Option<BigInt>,
    /// Of one that has ended: how long the guest stood still, as the hypervisor measured it.
    downtime_ms: Option<BigInt>,
}

impl From<Progress> for VmMigration {
    fn from(progress: Progress) -> Self {
        Self {
            forecast_ms: progress.forecast_ms().map(BigInt),
            is_outrun: progress.is_outrun(),
            elapsed_ms: progress.elapsed_ms.map(BigInt),
            total_bytes: progress.total_bytes.map(BigInt),
            processed_bytes: progress.processed_bytes.map(BigInt),
            remaining_bytes: progress.remaining_bytes.map(BigInt),
            dirty_bytes_per_second: progress.dirty_bytes.map(BigInt),
            sent_bytes_per_second: progress.sent_bytes.map(BigInt),
            iteration: progress.iteration.map(BigInt),
            throttle_percent: progress.throttle_percent.map(BigInt),
            downtime_ms: progress.downtime_ms.map(BigInt),
        }
    }
}

/// One thing that was asked of a VM.
#[derive(SimpleObject)]
pub struct VmOperation {
    /// Counts this VM's operations from 1.
    number: BigInt,
    /// `create`, `start`, `stop`, `reboot`, `pause`, `resume`, `remove`, `migrate`, `snapshot`, `revert`, `remove snapshot`,
    /// `backup`, `resize`, `attach disk`, `detach disk`, `attach network`, `detach network`, `template`,
    /// `clone`, or `recover` and `drill`, which the house asks by itself.
    kind: String,
    status: VmOperationStatus,
    asked_by: Option<String>,
    started_at: DateTime,
    ended_at: Option<DateTime>,
    error: Option<String>,
    /// The snapshot that it is about.
    snapshot: Option<String>,
    /// Of a migration that succeeded.
    measured: Option<VmMigration>,
}

impl From<&Operation> for VmOperation {
    fn from(operation: &Operation) -> Self {
        let (status, error) = match operation.ended.as_ref().map(|(_, outcome)| outcome) {
            None => (VmOperationStatus::Running, None),
            Some(Outcome::Done) => (VmOperationStatus::Succeeded, None),
            Some(Outcome::Failed { message }) => (VmOperationStatus::Failed, Some(message.clone())),
            Some(Outcome::Superseded { by }) => (VmOperationStatus::Superseded, Some(format!("operation {by} was asked"))),
        };
        Self {
            number: BigInt(operation.number),
            kind: operation.kind.name().into(),
            status,
            asked_by: Some(operation.principal.to_string()).filter(|by| !by.is_empty()),
            started_at: operation.asked_at.into(),
            ended_at: operation.ended.as_ref().map(|(at, _)| (*at).into()),
            error,
            snapshot: match &operation.subject {
                Some(Subject::Snapshot { name }) => Some(name.to_string()),
                _ => None,
            },
            measured: operation.measured.clone().map(VmMigration::from),
        }
    }
}
