//! Copies of a VM's disks as they are at one moment while it runs on: an image of its system disk, or another VM. Pure.
//!
//! First the disks are copied and kept by the hash of their bytes, wherever images are; that is durable before the roster is
//! asked for the image or the VM, once. A clone's disks begin as images of its own that nobody else sees and that go with it,
//! so it needs neither the VM nor the node that it came from. What was copied for one that failed is removed.

use std::time::Duration;

use hiveward_catalogue::{host::image::header::Format, vm::spec::VmSpec};
use hiveward_runtime::{clock::WallMs, error::Refused};
use serde::{Deserialize, Serialize};

use super::{
    backup::BACKUP_WITHIN,
    event::{OperationKind, Outcome, Seen, Subject},
    reconcile::{Doing, Next, OPERATION_WITHIN, Step},
    state::{VmOperation, VmState},
};
use crate::host::driver::{Off, Run};

const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One disk as it was at that moment, among the blobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Copied {
    pub disk: String,
    /// BLAKE3 hash of its bytes, in hexadecimal digits.
    pub hash: String,
    pub bytes: u64,
    /// Size of the disk that it is, in bytes.
    pub virtual_bytes: u64,
    pub format: Format,
}

/// Checks that a template or a clone of this VM may be asked for now. Errors: it is not said what is to be made, or the VM is not
/// on its host.
pub fn may_ask(state: &VmState, spec: &VmSpec, kind: OperationKind, subject: Option<&Subject>) -> Result<(), Refused> {
    match (kind, subject) {
        (OperationKind::Template, Some(Subject::Template { .. })) | (OperationKind::Clone, Some(Subject::Clone { .. })) => {}
        _ => return Err(Refused::invalid("name", "what is to be made of it is not said")),
    }
    state.must_be_here(spec)
}

/// Returns what to do next about the template or the clone under way.
pub fn next(state: &VmState, active: &VmOperation, doing: Doing, now: WallMs) -> Next {
    let age = now.since(active.asked_at);
    let abandon = |why: &str| Next::Abandon { why: why.into() };
    if let Some(why) = &active.abandoned {
        let failed = |message: String| Next::End(Outcome::Failed { message });
        return match doing.done {
            Some(Step::EndCopy) => failed(why.clone()),
            _ if age >= BACKUP_WITHIN + OPERATION_WITHIN => failed(format!("{why}; what was written of it may be left")),
            _ => Next::Do(Step::EndCopy),
        };
    }
    if !active.copied.is_empty() {
        return match doing.done {
            Some(Step::Publish) => Next::End(Outcome::Done),
            _ if age >= BACKUP_WITHIN + OPERATION_WITHIN => abandon("it was not done in time"),
            _ => Next::Do(Step::Publish),
        };
    }
    match state.seen {
        _ if age >= BACKUP_WITHIN => abandon("it was not done in time"),
        Seen::Absent => abandon("its host has nothing of it any more"),
        Seen::There(Run::Moving) => Next::Wait { until: now.plus(LOOK_AGAIN) },
        Seen::There(Run::Off(Off::Moved)) => abandon("another host has it"),
        Seen::There(_) => Next::Do(Step::Copy),
    }
}
