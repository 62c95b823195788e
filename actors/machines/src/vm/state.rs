//! What a VM is wanted to be, what is being done about it, and what it was last seen as. Decides and applies; no I/O.

use std::{collections::VecDeque, sync::Arc};

use hiveward_catalogue::{
    host::protocol::{Lag, Progress},
    vm::spec::VmSpec,
};
use hiveward_kernel::operation::{Operation, used_otherwise};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    op::OperationId,
};
use serde::{Deserialize, Serialize};

use super::{
    backup::{self, BACKUPS_KEPT_MAX, Backup},
    copy::{self, Copied},
    event::{Asked, OperationKind, Outcome, Seen, Subject, VmEvent, Wanted},
    migrate::Move,
    record::VmStatus,
    reshape,
    schedule::Schedule,
    snapshot::{self, Snapshot},
};
use crate::host::driver::{Off, Run};

/// Format of the state as a snapshot of its stream has it.
pub const SNAPSHOT_FORMAT: u16 = 1;
/// Principal of what Hiveward asks by itself.
pub const HOUSE: &str = "hiveward";
/// Number of ended operations that are remembered: a client's repetition of one gets the same answer.
pub const OPERATIONS_KEPT_MAX: usize = 16;
pub const RECOVERIES_KEPT_MAX: usize = 8;

/// One operation, under way or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmOperation {
    pub number: u64,
    pub kind: OperationKind,
    pub principal: Arc<str>,
    pub operation: Option<Operation>,
    pub force: bool,
    pub grace_ms: u64,
    pub boots: Option<u64>,
    pub asked_at: WallMs,
    pub ended: Option<(WallMs, Outcome)>,
    #[serde(default)]
    pub migration: Option<Box<Move>>,
    /// Reason why it is not gone on with.
    #[serde(default)]
    pub abandoned: Option<String>,
    /// Measures of a migration that succeeded.
    #[serde(default)]
    pub measured: Option<Progress>,
    #[serde(default)]
    pub subject: Option<Subject>,
    /// Disks that are kept for a template or a clone.
    #[serde(default)]
    pub copied: Vec<Copied>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    pub wanted: Wanted,
    pub seen: Seen,
    /// Whether it has run at some time.
    pub ran: bool,
    /// Reason why the last operation left it other than it was wanted.
    pub failed: Option<String>,
    pub removed: bool,
    /// Operations, oldest first as snapshots and backups are too; the last may be under way, no other is.
    pub operations: VecDeque<VmOperation>,
    /// Times at which it was started again by itself, lately.
    pub recoveries: VecDeque<WallMs>,
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// Epoch in which it was recovered last.
    #[serde(default)]
    pub epoch: u64,
    #[serde(default)]
    pub backups: VecDeque<Backup>,
    /// Whether it lives for one drill of a backup.
    #[serde(default)]
    pub is_drill: bool,
    /// Whether it lives for one attempt of a task.
    #[serde(default)]
    pub is_leased: bool,
    /// Schedule of the backups that it makes by itself.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// What its present run does not have of its shape, or has beyond it.
    #[serde(default)]
    pub lag: Option<Lag>,
    /// Whether its disks begin as those of a backup, which takes its time.
    #[serde(default)]
    pub is_restored: bool,
    /// Reason why nothing is done with it though it is not as it is wanted: another host may have it.
    #[serde(default)]
    pub withheld: Option<String>,
    /// The last epoch in which it was seen running.
    #[serde(default)]
    pub ran_in: u64,
    // What is new comes last: kept rows are sequences.
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub kind: OperationKind,
    pub force: bool,
    pub grace_ms: Option<u64>,
    pub principal: Arc<str>,
    pub operation: Option<Operation>,
    #[serde(default)]
    pub migration: Option<Box<Move>>,
    #[serde(default)]
    pub subject: Option<Subject>,
}

impl Ask {
    /// Returns a wish for this kind of operation and nothing more.
    pub fn new(kind: OperationKind, principal: Arc<str>, operation: Option<Operation>) -> Self {
        Self { kind, force: false, grace_ms: None, principal, operation, migration: None, subject: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// The operation is under way, or was done, under this number; nothing new happens.
    Already(u64),
    New(u64, Vec<VmEvent>),
}

impl VmState {
    /// Returns the state of a VM that was just made: its creation is under way.
    pub fn new(spec: &VmSpec, created_at: WallMs) -> Self {
        let create = VmOperation {
            number: 1,
            kind: OperationKind::Create,
            principal: "".into(),
            operation: None,
            force: false,
            grace_ms: spec.stop_grace_ms,
            boots: Some(0),
            asked_at: created_at,
            ended: None,
            migration: None,
            abandoned: None,
            measured: None,
            subject: None,
            copied: Vec::new(),
        };
        Self {
            wanted: if spec.start { Wanted::Running } else { Wanted::Stopped },
            seen: Seen::Absent,
            ran: false,
            failed: None,
            withheld: None,
            removed: false,
            operations: VecDeque::from([create]),
            recoveries: VecDeque::new(),
            snapshots: Vec::new(),
            epoch: 0,
            ran_in: 0,
            backups: VecDeque::new(),
            is_drill: spec.restored.as_ref().is_some_and(|restored| restored.drill),
            is_leased: spec.is_leased(),
            schedule: None,
            lag: None,
            is_restored: spec.restored.is_some(),
        }
    }

    /// Returns the operation that is under way, if one is.
    pub fn active(&self) -> Option<&VmOperation> {
        self.operations.back().filter(|operation| operation.ended.is_none())
    }

    pub fn operation(&self, number: u64) -> Option<&VmOperation> {
        self.operations.iter().find(|operation| operation.number == number)
    }

    /// Tells whether the operation may have been forgotten: it is not among those that are kept here, and not all are.
    pub fn may_have_forgotten(&self, operation: &Operation) -> bool {
        self.by_client(&operation.id).is_none() && self.operations.front().is_some_and(|oldest| oldest.number > 1)
    }

    fn by_client(&self, id: &OperationId) -> Option<&VmOperation> {
        self.operations.iter().find(|known| known.operation.as_ref().is_some_and(|operation| operation.id == *id))
    }

    pub fn last_number(&self) -> u64 {
        self.operations.back().map_or(0, |operation| operation.number)
    }

    /// Tells whether the last thing that was tried is a migration of Hiveward's own, and failed.
    pub fn could_not_be_moved(&self) -> bool {
        self.operations.back().is_some_and(|last| {
            let failed = matches!(last.ended, Some((_, Outcome::Failed { .. })));
            last.kind == OperationKind::Migrate && &*last.principal == HOUSE && failed
        })
    }

    /// Checks that its host has it, and that no other is about to: its disks are there.
    pub(super) fn must_be_here(&self, spec: &VmSpec) -> Result<(), Refused> {
        match self.seen {
            Seen::Absent => Err(Refused::new(Code::Refused, format!("its host has nothing of {} yet", spec.name))),
            Seen::There(Run::Moving | Run::Off(Off::Moved)) => {
                Err(Refused::new(Code::Refused, format!("{} is on its way to another host", spec.name)))
            }
            Seen::There(_) => Ok(()),
        }
    }

    /// Tells whether its host has it, as far as is seen.
    fn is_here(&self) -> bool {
        !matches!(self.seen, Seen::Absent | Seen::There(Run::Off(Off::Moved)))
    }

    pub fn is_on(&self) -> bool {
        matches!(self.seen, Seen::There(run) if run.is_on())
    }

    /// Applies an event of its stream that was committed at this time. Decides nothing.
    pub fn apply(&mut self, event: &VmEvent, at: WallMs) {
        match event {
            VmEvent::Asked(asked) => {
                let Asked { number, kind, principal, operation, force, grace_ms, boots, migration, subject, epoch } = &**asked;
                self.withheld = None;
                match kind {
                    OperationKind::Create | OperationKind::Reboot | OperationKind::Migrate => {}
                    OperationKind::Snapshot | OperationKind::Revert | OperationKind::RemoveSnapshot => {}
                    OperationKind::Backup if **principal == *HOUSE => {
                        if let Some(schedule) = &mut self.schedule {
                            schedule.last_at = Some(at);
                        }
                    }
                    OperationKind::Backup | OperationKind::Drill => {}
                    OperationKind::Resize | OperationKind::AttachDisk | OperationKind::DetachDisk => {}
                    OperationKind::AttachNetwork | OperationKind::DetachNetwork => {}
                    OperationKind::Template | OperationKind::Clone => {}
                    OperationKind::Start | OperationKind::Resume => self.wanted = Wanted::Running,
                    OperationKind::Stop => self.wanted = Wanted::Stopped,
                    OperationKind::Pause => self.wanted = Wanted::Paused,
                    OperationKind::Remove => self.wanted = Wanted::Absent,
                    // That its host was lost is no fault of its own.
                    OperationKind::Recover if *epoch > self.epoch => self.epoch = *epoch,
                    OperationKind::Recover => {
                        self.recoveries.push_back(at);
                        if self.recoveries.len() > RECOVERIES_KEPT_MAX {
                            self.recoveries.pop_front();
                        }
                    }
                }
                self.operations.push_back(VmOperation {
                    number: *number,
                    kind: *kind,
                    principal: principal.clone(),
                    operation: operation.clone(),
                    force: *force,
                    grace_ms: *grace_ms,
                    boots: *boots,
                    asked_at: at,
                    ended: None,
                    migration: migration.clone(),
                    abandoned: None,
                    measured: None,
                    subject: subject.clone(),
                    copied: Vec::new(),
                });
                if self.operations.len() > OPERATIONS_KEPT_MAX {
                    self.operations.pop_front();
                }
            }
            VmEvent::Ended { number, outcome } => {
                let Some(operation) = self.operations.iter_mut().find(|operation| operation.number == *number) else { return };
                operation.ended = Some((at, outcome.clone()));
                let kind = operation.kind;
                self.forget_lag();
                if kind == OperationKind::Backup && matches!(outcome, Outcome::Failed { .. }) {
                    // It was whole, and then taken away: a new one must not be based on it.
                    self.backups.retain(|backup| backup.number != *number);
                }
                match outcome {
                    Outcome::Done => {
                        self.failed = None;
                        self.removed |= kind == OperationKind::Remove;
                        match kind {
                            OperationKind::Snapshot | OperationKind::RemoveSnapshot => snapshot::done(self, *number, at),
                            OperationKind::Revert => self.want_what_is(),
                            _ => {}
                        }
                    }
                    // It runs on where it was.
                    Outcome::Failed { .. } if kind == OperationKind::Migrate && self.is_on() => {}
                    // It stays as it was.
                    Outcome::Failed { .. } if kind.is_aside() => {}
                    Outcome::Failed { .. } if kind == OperationKind::Revert && self.is_as_wanted() => {}
                    // It is done when it is known where it is.
                    Outcome::Failed { .. } if self.withheld.is_some() => {}
                    // It was lost meanwhile, with its host perhaps, and is started again where it belongs.
                    Outcome::Failed { .. } if self.is_lost_within(kind) => {}
                    Outcome::Failed { message } => {
                        self.failed = Some(message.clone());
                        self.want_what_is();
                    }
                    Outcome::Superseded { .. } => {}
                }
            }
            VmEvent::Abandoned { number, why } => {
                if let Some(operation) = self.operations.iter_mut().find(|operation| operation.number == *number) {
                    match &mut operation.abandoned {
                        None => operation.abandoned = Some(why.clone()),
                        Some(first) if operation.kind.is_of_shape() && !first.contains(&**why) => {
                            first.push_str("; then: ");
                            first.push_str(why);
                        }
                        Some(_) => {}
                    }
                }
            }
            VmEvent::Moved { number, measured } => {
                if let Some(operation) = self.operations.iter_mut().find(|operation| operation.number == *number) {
                    operation.measured = Some(measured.clone());
                }
            }
            VmEvent::BackedUp { backup } => {
                if self.backups.iter().all(|known| known.number != backup.number) {
                    let scheduled = self.operation(backup.number).is_some_and(|operation| &*operation.principal == HOUSE);
                    self.backups.push_back(Backup { scheduled, ..(**backup).clone() });
                    if self.backups.len() > BACKUPS_KEPT_MAX {
                        self.backups.pop_front();
                    }
                }
            }
            VmEvent::Seen { seen, epoch } => {
                self.seen = *seen;
                // Another's run is the new wish first, and looked for again if it goes before that.
                let anothers = self.active().is_none() && self.is_on() && matches!(self.wanted, Wanted::Stopped | Wanted::Absent);
                if self.is_here() && !anothers {
                    self.withheld = None;
                }
                if self.is_on() {
                    self.ran = true;
                    self.ran_in = self.ran_in.max(*epoch).max(self.epoch);
                }
                // One that migrates is seen as gone here before it is seen there.
                if self.active().is_none_or(|active| active.kind != OperationKind::Migrate) {
                    self.forget_lag();
                }
            }
            VmEvent::Copied { number, disks } => {
                if let Some(operation) = self.operations.iter_mut().find(|operation| operation.number == *number) {
                    operation.copied = disks.clone();
                }
            }
            VmEvent::Reshaped { lag, .. } => self.lag = lag.clone().filter(|_| self.is_on()),
            VmEvent::Adopted { wanted, .. } => {
                self.wanted = *wanted;
                (self.failed, self.withheld) = (None, None);
            }
            VmEvent::Withheld { why } => self.withheld = Some(why.clone()),
            VmEvent::BackupScheduled { schedule } => self.schedule = schedule.as_deref().cloned(),
            VmEvent::BackupForgotten { number } => self.backups.retain(|backup| backup.number != *number),
            VmEvent::GivenUp { message } => {
                self.wanted = Wanted::Stopped;
                self.failed = Some(message.clone());
            }
        }
    }

    fn is_as_wanted(&self) -> bool {
        match self.wanted {
            Wanted::Running => self.seen == Seen::There(Run::Running),
            Wanted::Paused => self.seen == Seen::There(Run::Paused),
            Wanted::Stopped => !self.is_on(),
            Wanted::Absent => false,
        }
    }

    /// Tells whether what failed was asked of a running VM that ended without anybody's will or is elsewhere by now.
    fn is_lost_within(&self, kind: OperationKind) -> bool {
        use OperationKind::{Migrate, Pause, Reboot, Resume};
        let ran = matches!(kind, Migrate | Reboot | Pause | Resume);
        let crashed = self.seen == Seen::There(Run::Off(Off::Crashed));
        (!self.is_here() && (ran || kind.is_whole())) || (crashed && ran)
    }

    fn forget_lag(&mut self) {
        if !self.is_on() {
            self.lag = None;
        }
    }

    fn want_what_is(&mut self) {
        self.wanted = match self.seen {
            Seen::There(Run::Running) => Wanted::Running,
            Seen::There(Run::Paused | Run::Moving) => Wanted::Paused,
            Seen::There(Run::Off(_)) | Seen::Absent => Wanted::Stopped,
        };
    }

    /// Returns the status as users see it, by what is wanted, what is seen and what is under way.
    pub fn status(&self) -> VmStatus {
        let seen = match self.seen {
            Seen::There(Run::Running) => VmStatus::Running,
            Seen::There(Run::Paused) => VmStatus::Paused,
            Seen::There(Run::Moving) => VmStatus::Migrating,
            Seen::There(Run::Off(Off::Unknown)) if !self.ran => VmStatus::Defined,
            Seen::Absent if !self.ran => VmStatus::Defined,
            Seen::There(Run::Off(_)) | Seen::Absent => VmStatus::Stopped,
        };
        match self.active().map(|operation| operation.kind) {
            _ if self.removed => VmStatus::Removed,
            Some(OperationKind::Create) if self.wanted != Wanted::Running => VmStatus::Defined,
            Some(OperationKind::Create | OperationKind::Start | OperationKind::Recover) => VmStatus::Starting,
            Some(OperationKind::Stop | OperationKind::Remove) => VmStatus::Stopping,
            Some(OperationKind::Migrate) => VmStatus::Migrating,
            Some(OperationKind::Reboot | OperationKind::Pause | OperationKind::Resume) => seen,
            Some(OperationKind::Snapshot | OperationKind::Revert | OperationKind::RemoveSnapshot) => seen,
            Some(OperationKind::Backup | OperationKind::Drill) => seen,
            Some(OperationKind::Resize | OperationKind::AttachDisk | OperationKind::DetachDisk) => seen,
            Some(OperationKind::AttachNetwork | OperationKind::DetachNetwork) => seen,
            Some(OperationKind::Template | OperationKind::Clone) => seen,
            None if (self.failed.is_some() || self.withheld.is_some()) && !self.is_on() => VmStatus::Failed,
            None => seen,
        }
    }

    /// Decides what a client's wish comes to. Errors: why it cannot be done now.
    pub fn decide(&self, spec: &VmSpec, ask: Ask, boots: Option<u64>) -> Result<Decided, Refused> {
        if let Some(operation) = &ask.operation
            && let Some(before) = self.by_client(&operation.id)
        {
            if before.operation.as_ref() == Some(operation) {
                return Ok(Decided::Already(before.number));
            }
            return Err(used_otherwise(operation));
        }
        if self.removed {
            return Err(Refused::not_found(spec.id));
        }
        let refuse = |message: String| Err(Refused::new(Code::Refused, message));
        if ask.kind == OperationKind::Remove && self.is_on() && !ask.force {
            return refuse(format!("{} runs; stop it, or use force", spec.name));
        }
        let mut events = Vec::new();
        let number = self.last_number() + 1;
        if let Some(active) = self.active() {
            let same = active.kind == ask.kind && active.force >= ask.force && active.subject == ask.subject;
            let overrides = match ask.kind {
                // Nobody takes it away while it may be on either host.
                _ if active.kind == OperationKind::Migrate => false,
                // If the removal failed, something would be left that nobody knows.
                _ if active.kind.is_undone() => false,
                OperationKind::Remove => true,
                _ if active.kind.is_whole() => false,
                OperationKind::Stop => active.kind != OperationKind::Remove,
                _ => active.kind == OperationKind::Recover,
            };
            if same {
                return Ok(Decided::Already(active.number));
            }
            if !overrides {
                return refuse(format!("{} is under way for {}; wait for its end, or stop it", active.kind.name(), spec.name));
            }
            events.push(VmEvent::Ended { number: active.number, outcome: Outcome::Superseded { by: number } });
        }
        let (running, paused) = (self.seen == Seen::There(Run::Running), self.seen == Seen::There(Run::Paused));
        match ask.kind {
            OperationKind::Migrate if !running && !paused => {
                return refuse(format!("{} does not run; start it, or remove it and make it there", spec.name));
            }
            OperationKind::Migrate if !self.snapshots.is_empty() => {
                return refuse(format!("{} has snapshots, which do not move; remove them first", spec.name));
            }
            OperationKind::Snapshot | OperationKind::Revert | OperationKind::RemoveSnapshot => {
                snapshot::may_ask(self, spec, ask.kind, ask.subject.as_ref())?;
            }
            OperationKind::Migrate if ask.migration.is_none() => return refuse("where to is not said".into()),
            OperationKind::Reboot if !running => return refuse(format!("{} does not run; start it", spec.name)),
            OperationKind::Pause if !running && !paused => return refuse(format!("{} does not run; start it", spec.name)),
            OperationKind::Resume if !running && !paused => return refuse(format!("{} does not run; start it", spec.name)),
            OperationKind::Start if paused => return refuse(format!("{} is paused; resume it", spec.name)),
            OperationKind::Backup => backup::may_ask(self, spec, ask.subject.as_ref())?,
            kind if kind.is_copy() => copy::may_ask(self, spec, kind, ask.subject.as_ref())?,
            kind if kind.is_of_shape() => reshape::may_ask(self, spec, kind, ask.subject.as_ref())?,
            OperationKind::Create | OperationKind::Recover | OperationKind::Drill => {
                return refuse("that is not asked from outside".into());
            }
            _ => {}
        }
        events.push(VmEvent::Asked(Box::new(Asked {
            number,
            kind: ask.kind,
            principal: ask.principal,
            operation: ask.operation,
            force: ask.force,
            grace_ms: ask.grace_ms.unwrap_or(spec.stop_grace_ms),
            boots,
            migration: ask.migration,
            subject: ask.subject,
            epoch: 0,
        })));
        Ok(Decided::New(number, events))
    }
}
