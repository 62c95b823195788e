//! What happened to a VM, as its stream keeps it. That it exists, and on which host, is in the roster's stream.

use std::sync::Arc;

use bytes::Bytes;
use hiveward_catalogue::host::protocol::{Lag, Progress};
use hiveward_kernel::{
    event::DecodeError,
    id::{HostId, ImageId, VmId},
    operation::Operation,
};
use serde::{Deserialize, Serialize};

use super::{backup::Backup, copy::Copied, migrate::Move, schedule::Schedule};
use crate::host::driver::{Off, Run};

pub const FORMAT: u16 = 1;

/// What can be asked of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OperationKind {
    /// Making of the VM: the first operation of each.
    Create,
    Start,
    Stop,
    Reboot,
    Pause,
    Resume,
    Remove,
    /// Move to another host.
    Migrate,
    /// Another start, asked by Hiveward itself, because the VM ended without anybody's will.
    Recover,
    Snapshot,
    /// Return to what the VM was when a snapshot was taken.
    Revert,
    RemoveSnapshot,
    Backup,
    /// Check of a VM that was made for it, asked by Hiveward itself: whether what was restored lives.
    Drill,
    /// Change of CPUs or memory.
    Resize,
    AttachDisk,
    DetachDisk,
    AttachNetwork,
    DetachNetwork,
    /// Making of an image of its system disk.
    Template,
    /// Making of another VM with its disks.
    Clone,
}

/// What an operation is about, where that is not said by its kind alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    Snapshot {
        name: Arc<str>,
    },
    /// Target of a backup.
    Backup {
        to: Arc<str>,
        /// Whether it is to have only what was written since the last one there, where that is known.
        #[serde(default)]
        incremental: bool,
    },
    Resize {
        cpus: Option<u32>,
        memory_bytes: Option<u64>,
        /// Whether what runs is left as it is.
        offline: bool,
    },
    /// Disk to attach or detach; its size matters only where it is attached.
    Disk {
        name: Arc<str>,
        size_bytes: u64,
    },
    Network {
        name: Arc<str>,
    },
    Template {
        image: ImageId,
        name: Arc<str>,
    },
    Clone {
        vm: VmId,
        name: Arc<str>,
        on: Option<HostId>,
        start: bool,
    },
}

impl OperationKind {
    /// Returns the name of the operation, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reboot => "reboot",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Remove => "remove",
            Self::Migrate => "migrate",
            Self::Recover => "recover",
            Self::Snapshot => "snapshot",
            Self::Revert => "revert",
            Self::RemoveSnapshot => "remove snapshot",
            Self::Backup => "backup",
            Self::Drill => "drill",
            Self::Resize => "resize",
            Self::AttachDisk => "attach disk",
            Self::DetachDisk => "detach disk",
            Self::AttachNetwork => "attach network",
            Self::DetachNetwork => "detach network",
            Self::Template => "template",
            Self::Clone => "clone",
        }
    }

    /// Tells whether what is done for it is undone before it ends, if it does not succeed: nothing comes between.
    pub const fn is_undone(self) -> bool {
        matches!(self, Self::Snapshot | Self::Backup) || self.is_of_shape() || self.is_copy()
    }

    /// Tells whether its failure says nothing of the VM itself, which stays as it is.
    pub const fn is_aside(self) -> bool {
        matches!(self, Self::Snapshot | Self::RemoveSnapshot | Self::Backup | Self::Drill) || self.is_of_shape() || self.is_copy()
    }

    /// Tells whether no other operation but a removal may come between.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Snapshot | Self::Revert | Self::RemoveSnapshot | Self::Backup)
            || self.is_of_shape()
            || self.is_copy()
    }

    /// Tells whether something else is made of the VM's disks as they are.
    pub const fn is_copy(self) -> bool {
        matches!(self, Self::Template | Self::Clone)
    }

    /// Tells whether it is over when the VM runs, or does not.
    pub const fn is_of_run(self) -> bool {
        matches!(self, Self::Create | Self::Start | Self::Recover | Self::Stop)
    }

    /// Tells whether it changes the VM's [`Shape`](hiveward_catalogue::vm::spec::Shape).
    pub const fn is_of_shape(self) -> bool {
        matches!(self, Self::Resize | Self::AttachDisk | Self::DetachDisk | Self::AttachNetwork | Self::DetachNetwork)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done,
    /// The operation failed, and what it wanted is not wanted any more: the VM stays as it is seen.
    Failed {
        message: String,
    },
    /// Another operation was asked for that leaves this one without a sense.
    Superseded {
        by: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Number of the operation; a VM's operations are counted from 1.
    pub number: u64,
    pub kind: OperationKind,
    pub principal: Arc<str>,
    pub operation: Option<Operation>,
    /// Whether a stop or a removal goes without the power button.
    pub force: bool,
    /// Milliseconds between the power button and the plug, of a stop.
    pub grace_ms: u64,
    /// Number of times that the VM had begun to run by then, as far as was known.
    pub boots: Option<u64>,
    /// What is asked of a migration, if it is one.
    #[serde(default)]
    pub migration: Option<Box<Move>>,
    #[serde(default)]
    pub subject: Option<Subject>,
    /// Epoch of the VM on its host, where Hiveward itself asks.
    #[serde(default)]
    pub epoch: u64,
}

impl Asked {
    /// Returns an operation without anything that is asked of some kinds only.
    pub fn new(number: u64, kind: OperationKind, principal: impl Into<Arc<str>>) -> Self {
        Self {
            number,
            kind,
            principal: principal.into(),
            operation: None,
            force: false,
            grace_ms: 0,
            boots: None,
            migration: None,
            subject: None,
            epoch: 0,
        }
    }
}

/// What a VM is as its hypervisor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// The hypervisor knows nothing of it.
    Absent,
    There(Run),
}

impl Seen {
    /// Returns the state in words for a user.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::There(Run::Running) => "running",
            Self::There(Run::Paused) => "paused",
            Self::There(Run::Moving) => "handed over",
            Self::There(Run::Off(Off::Moved)) => "moved away",
            Self::There(Run::Off(Off::Unknown)) => "off",
            Self::There(Run::Off(Off::Shutdown)) => "shut down",
            Self::There(Run::Off(Off::Destroyed)) => "destroyed",
            Self::There(Run::Off(Off::Crashed)) => "crashed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    Stopped,
    Running,
    Paused,
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmEvent {
    Asked(Box<Asked>),
    Ended {
        number: u64,
        outcome: Outcome,
    },
    /// The VM was seen as something else than last.
    Seen {
        seen: Seen,
        /// Epoch of the VM on the host that it was seen on.
        #[serde(default)]
        epoch: u64,
    },
    /// The operation is not wanted any more, or did not succeed. A migration ends when it is certain where the VM runs, a
    /// snapshot when nothing of it is left.
    Abandoned {
        number: u64,
        why: String,
    },
    /// A migration has succeeded, and this was measured of it.
    Moved {
        number: u64,
        measured: Progress,
    },
    /// A backup is whole.
    BackedUp {
        backup: Box<Backup>,
    },
    /// Somebody else than Hiveward changed the VM, and that is how it is wanted from now on.
    Adopted {
        wanted: Wanted,
        why: String,
    },
    /// The VM ended by itself too often and is not started again by itself.
    GivenUp {
        message: String,
    },
    /// The VM is not where it was. It is neither started nor said to be stopped before it is known whether another host has it.
    Withheld {
        why: String,
    },
    /// The VM makes backups by itself from now on, or none any more.
    BackupScheduled {
        schedule: Option<Box<Schedule>>,
    },
    /// A backup that the VM made by itself was old, and is gone.
    BackupForgotten {
        number: u64,
    },
    /// The VM's definition has another shape, and this is what its present run does not have of it.
    Reshaped {
        number: u64,
        lag: Option<Lag>,
    },
    /// The VM's disks are kept as they were at one moment, by the hash of their bytes.
    Copied {
        number: u64,
        disks: Vec<Copied>,
    },
}

impl VmEvent {
    /// Returns the name of the event in the ledger.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Asked(_) => "VmOperationAsked",
            Self::Ended { .. } => "VmOperationEnded",
            Self::Seen { .. } => "VmSeen",
            // Named when there was nothing else to abandon; a name in the ledger stays.
            Self::Abandoned { .. } => "VmMigrationAbandoned",
            Self::Moved { .. } => "VmMigrated",
            Self::BackedUp { .. } => "VmBackedUp",
            Self::Adopted { .. } => "VmAdopted",
            Self::GivenUp { .. } => "VmGivenUp",
            Self::Withheld { .. } => "VmWithheld",
            Self::BackupScheduled { .. } => "VmBackupScheduled",
            Self::BackupForgotten { .. } => "VmBackupForgotten",
            Self::Reshaped { .. } => "VmShapeDefined",
            Self::Copied { .. } => "VmDisksCopied",
        }
    }

    /// Returns what happened as JSON, as clients see it.
    pub fn data(&self) -> serde_json::Value {
        use serde_json::json;
        match self {
            Self::Asked(asked) => {
                let mut data = json!({"number": asked.number, "operation": asked.kind.name(), "principal": asked.principal,
                    "force": asked.force});
                match &asked.subject {
                    Some(Subject::Snapshot { name }) => data["snapshot"] = json!(name),
                    Some(Subject::Backup { to, incremental }) => {
                        data["to"] = json!(to);
                        data["incremental"] = json!(incremental);
                    }
                    Some(Subject::Resize { cpus, memory_bytes, offline }) => {
                        data["cpus"] = json!(cpus);
                        data["memoryBytes"] = json!(memory_bytes);
                        data["offline"] = json!(offline);
                    }
                    Some(Subject::Disk { name, size_bytes }) => {
                        data["disk"] = json!(name);
                        data["sizeBytes"] = json!(size_bytes);
                    }
                    Some(Subject::Network { name }) => data["network"] = json!(name),
                    Some(Subject::Template { image, name }) => {
                        data["image"] = json!(image.to_string());
                        data["name"] = json!(name);
                    }
                    Some(Subject::Clone { vm, name, .. }) => {
                        data["clone"] = json!(vm.to_string());
                        data["name"] = json!(name);
                    }
                    None => {}
                }
                data
            }
            Self::Ended { number, outcome } => match outcome {
                Outcome::Done => json!({"number": number, "outcome": "DONE"}),
                Outcome::Failed { message } => json!({"number": number, "outcome": "FAILED", "message": message}),
                Outcome::Superseded { by } => json!({"number": number, "outcome": "SUPERSEDED", "by": by}),
            },
            Self::Seen { seen, .. } => json!({"seen": seen.words()}),
            Self::Abandoned { number, why } => json!({"number": number, "why": why}),
            Self::Moved { number, measured } => json!({"number": number, "downtimeMs": measured.downtime_ms}),
            Self::BackedUp { backup } => {
                json!({"number": backup.number, "path": backup.path, "bytes": backup.bytes, "basis": backup.basis,
                    "wholeBecause": backup.whole_because})
            }
            Self::Adopted { wanted, why } => json!({"wanted": format!("{wanted:?}").to_uppercase(), "why": why}),
            Self::GivenUp { message } => json!({"message": message}),
            Self::Withheld { why } => json!({"why": why}),
            Self::BackupScheduled { schedule: Some(schedule) } => {
                json!({"cron": schedule.cron, "to": schedule.to, "keep": schedule.keep, "principal": schedule.principal})
            }
            Self::BackupScheduled { schedule: None } => json!({"cron": null}),
            Self::BackupForgotten { number } => json!({"number": number}),
            Self::Copied { number, disks } => {
                json!({"number": number, "bytes": disks.iter().map(|disk| disk.bytes).sum::<u64>()})
            }
            Self::Reshaped { number, lag } => json!({"number": number, "untilItIsStartedAgain": lag.as_ref().map(Lag::words)}),
        }
    }

    /// Returns the event's body as the ledger keeps it.
    pub fn encode(&self) -> Result<Bytes, rmp_serde::encode::Error> {
        hiveward_kernel::event::encoded(self)
    }

    /// Reads an event as the ledger keeps it. Errors: its format is unknown here, or its body cannot be read.
    pub fn decode(kind: &str, format: u16, body: &[u8]) -> Result<Self, DecodeError> {
        if format != FORMAT {
            return Err(DecodeError::Format { kind: kind.to_owned(), format });
        }
        rmp_serde::from_slice(body).map_err(|source| DecodeError::Body { kind: kind.to_owned(), source })
    }
}
