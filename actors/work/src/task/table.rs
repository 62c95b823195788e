//! Keeps the view of all tasks, ended ones included: rows by id, with the indexes that [queries](super::search) need.
//!
//! Owns its tables. Built from swarm streams only; may lag behind the ledger and can always be rebuilt.

use std::{collections::HashMap, sync::Arc};

use hiveward_kernel::{
    body::Label,
    id::{SwarmId, TaskId},
    keep::TaskRetention,
};
use hiveward_runtime::{
    clock::AgeClock,
    ledger::{
        Event,
        prune::Pruned,
        row::{pack, unpack},
        view::{TableWalk, View, ViewError, copy_table},
    },
};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    keep::{self, Keeping, Weighed},
    record::{AttemptRecord, MoveRecord, TaskRecord},
    spec::TaskSpec,
    status::{AttemptStatus, TaskStatus},
};
use crate::swarm::event::{Next, SwarmEvent};

pub(super) const ROWS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("tasks");
pub(super) const BY_STATUS: TableDefinition<'_, (u8, u128), ()> = TableDefinition::new("tasks_by_status");
pub(super) const BY_SWARM: TableDefinition<'_, (u128, u128), ()> = TableDefinition::new("tasks_by_swarm");
pub(super) const BY_PARENT: TableDefinition<'_, (u128, u128), ()> = TableDefinition::new("tasks_by_parent");
pub(super) const BY_LABEL: TableDefinition<'_, (&str, u128), ()> = TableDefinition::new("tasks_by_label");
pub(super) const DEPENDANTS: TableDefinition<'_, (u128, u128), ()> = TableDefinition::new("task_dependants");
/// The number of tasks: (swarm, status) → tasks.
pub(super) const COUNTS: TableDefinition<'_, (u128, u8), u64> = TableDefinition::new("task_counts");

/// The view that builds the tables.
#[derive(Default)]
pub struct TaskView {
    pub keep: TaskRetention,
    pub clock: AgeClock,
}

impl View for TaskView {
    fn name(&self) -> &'static str {
        "tasks"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(ROWS)?;
        txn.open_table(BY_STATUS)?;
        txn.open_table(BY_SWARM)?;
        txn.open_table(BY_PARENT)?;
        txn.open_table(BY_LABEL)?;
        txn.open_table(DEPENDANTS)?;
        txn.open_table(COUNTS)?;
        keep::prepare(txn)
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(ROWS, from, to)?;
        copy_table(BY_STATUS, from, to)?;
        copy_table(BY_SWARM, from, to)?;
        copy_table(BY_PARENT, from, to)?;
        copy_table(BY_LABEL, from, to)?;
        copy_table(DEPENDANTS, from, to)?;
        copy_table(COUNTS, from, to)?;
        keep::copy(from, to)
    }

    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(ROWS, txn, |id, row| unpack::<TaskRecord>(id, row).map(drop))?;
        walk.keys(BY_STATUS, txn)?;
        walk.keys(BY_SWARM, txn)?;
        walk.keys(BY_PARENT, txn)?;
        walk.keys(BY_LABEL, txn)?;
        walk.keys(DEPENDANTS, txn)?;
        walk.keys(COUNTS, txn)?;
        keep::check(txn, walk)
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut rows = Rows { txn, changed: HashMap::new(), new_dependants: HashMap::new() };
        for event in events.iter().filter(|event| event.stream.noun() == SwarmId::NOUN && event.kind.starts_with("Task")) {
            let what = SwarmEvent::decode(&event.kind, event.format, &event.body)?;
            rows.apply(&what, event)?;
        }
        rows.write()
    }

    fn prune(&self, txn: &WriteTransaction, rows_max: usize) -> Result<Pruned, ViewError> {
        keep::prune(txn, &self.keep.0, self.clock.now(), rows_max)
    }
}

/// The state of a row before it changed.
struct Before {
    status: TaskStatus,
    swarm: SwarmId,
    weighed: Weighed,
}

/// The rows that a run of events changes, each read and written once.
struct Rows<'a> {
    txn: &'a WriteTransaction,
    /// The changed rows, with what each was in the tables; `None` for a new row.
    changed: HashMap<TaskId, (Option<Before>, TaskRecord)>,
    new_dependants: HashMap<TaskId, Vec<TaskId>>,
}

impl Rows<'_> {
    fn get(&mut self, id: TaskId) -> Result<Option<&mut TaskRecord>, ViewError> {
        if !self.changed.contains_key(&id) {
            let rows = self.txn.open_table(ROWS)?;
            let Some(row) = rows.get(id.as_u128())? else { return Ok(None) };
            let record: TaskRecord = unpack(id.as_u128(), row.value())?;
            let before =
                Before { status: record.status, swarm: record.spec.swarm, weighed: Weighed::of(&record, row.value().len()) };
            self.changed.insert(id, (Some(before), record));
        }
        Ok(self.changed.get_mut(&id).map(|(_, record)| record))
    }

    fn attempt(&mut self, id: TaskId, number: u32, cursor: u64) -> Result<Option<(&mut TaskRecord, usize)>, ViewError> {
        let Some(record) = self.get(id)? else { return Ok(None) };
        record.cursor = cursor;
        let place = record.attempts.iter().rposition(|attempt| attempt.number == number);
        Ok(place.map(|place| (record, place)))
    }

    fn apply(&mut self, what: &SwarmEvent, event: &Event) -> Result<(), ViewError> {
        let (at, cursor) = (event.at, event.cursor.0);
        match what {
            SwarmEvent::Submitted { tasks, principal, .. } => self.insert(tasks, principal, event)?,
            SwarmEvent::Planned { task, subtasks } => {
                let Some(planner) = self.get(*task)? else { return Ok(()) };
                planner.cursor = cursor;
                planner.subtasks = subtasks.iter().map(|spec| spec.id).collect();
                let principal = planner.principal.clone();
                self.insert(subtasks, &principal, event)?;
            }
            SwarmEvent::Assigned { lease, decision, .. } => {
                let Some(record) = self.get(lease.task)? else { return Ok(()) };
                record.cursor = cursor;
                record.status = TaskStatus::Assigned;
                record.not_before = None;
                record.attempts.push(AttemptRecord {
                    number: lease.attempt,
                    agent: lease.agent,
                    status: AttemptStatus::Assigned,
                    assigned_at: at,
                    started_at: None,
                    ended_at: None,
                    exit_code: None,
                    signal: None,
                    error: None,
                    retriable: None,
                    decision: decision.clone(),
                });
            }
            SwarmEvent::Started { lease } => {
                if let Some((record, place)) = self.attempt(lease.task, lease.attempt, cursor)? {
                    record.status = TaskStatus::Running;
                    record.started_at.get_or_insert(at);
                    record.attempts[place].status = AttemptStatus::Running;
                    record.attempts[place].started_at = Some(at);
                }
            }
            SwarmEvent::Verifying { lease } => {
                if let Some((record, place)) = self.attempt(lease.task, lease.attempt, cursor)? {
                    record.status = TaskStatus::Verifying;
                    record.attempts[place].status = AttemptStatus::Verifying;
                }
            }
            SwarmEvent::AttemptEnded { lease, ended, next } => {
                let Some((record, place)) = self.attempt(lease.task, lease.attempt, cursor)? else { return Ok(()) };
                let attempt = &mut record.attempts[place];
                attempt.status = ended.status;
                attempt.ended_at = Some(at);
                attempt.exit_code = ended.exit_code;
                attempt.signal = ended.signal;
                attempt.error.clone_from(&ended.error);
                attempt.retriable = (ended.status != AttemptStatus::Succeeded).then_some(ended.retriable);
                record.artifacts.clone_from(&ended.artifacts);
                match next {
                    Next::Plan => {
                        record.result.clone_from(&ended.result);
                        record.status = TaskStatus::Running;
                    }
                    Next::Succeed => {
                        record.result.clone_from(&ended.result);
                        self.end(lease.task, TaskStatus::Succeeded, None, event)?;
                    }
                    Next::Fail => self.end(lease.task, TaskStatus::Failed, ended.error.clone(), event)?,
                    Next::Die => self.end(lease.task, TaskStatus::Dead, ended.error.clone(), event)?,
                    Next::Retry { wait_ms: 0 } => record.status = TaskStatus::Queued,
                    Next::Retry { wait_ms } => {
                        record.status = TaskStatus::Retrying;
                        record.not_before = Some(at.plus(std::time::Duration::from_millis(*wait_ms)));
                    }
                }
            }
            SwarmEvent::Hedged { twin, .. } => self.add_subtask(twin, event)?,
            SwarmEvent::Gathered { task, reduce, .. } => {
                if let Some(record) = self.get(*task)? {
                    record.cursor = cursor;
                }
                if let Some(reduce) = reduce {
                    self.add_subtask(reduce, event)?;
                }
            }
            SwarmEvent::Aggregated { task, result, error } => {
                if let Some(record) = self.get(*task)? {
                    record.result.clone_from(result);
                }
                let status = if error.is_none() { TaskStatus::Succeeded } else { TaskStatus::Failed };
                self.end(*task, status, error.clone(), event)?;
            }
            SwarmEvent::Cancelled { task, reason, .. } => {
                self.end(*task, TaskStatus::Cancelled, Some(reason.to_string()), event)?
            }
            SwarmEvent::Failed { task, error, .. } => self.end(*task, TaskStatus::Failed, Some(error.clone()), event)?,
            SwarmEvent::Redriven { spec, .. } => {
                let Some(record) = self.get(spec.id)? else { return Ok(()) };
                record.cursor = cursor;
                record.spec = spec.clone();
                record.status = TaskStatus::Queued;
                record.ended_at = None;
                record.error = None;
                record.result = None;
                record.subtasks.clear();
                record.not_before = None;
            }
            SwarmEvent::StaleRefused { lease, said } => {
                if let Some((record, place)) = self.attempt(lease.task, lease.attempt, cursor)? {
                    let late = format!("its late report ({said:?}) was refused: the lease was no longer valid");
                    let attempt = &mut record.attempts[place];
                    attempt.error = Some(attempt.error.take().map_or(late.clone(), |error| format!("{error}; {late}")));
                }
            }
            // It waits all the while, and counts where it was until the other shard has it.
            SwarmEvent::TasksGiven { to, tasks, why, .. } => {
                let why: Arc<str> = why.as_str().into();
                for task in tasks {
                    let Some(record) = self.get(*task)? else { continue };
                    record.cursor = cursor;
                    let from = record.spec.swarm;
                    record.moves.push(MoveRecord { from, to: *to, given_at: at, taken_at: None, why: why.clone() });
                }
            }
            SwarmEvent::TasksTaken { tasks, .. } => {
                for moving in tasks {
                    let Some(record) = self.get(moving.spec.id)? else { continue };
                    record.cursor = cursor;
                    record.spec = moving.spec.clone();
                    if let Some(last) = record.moves.last_mut() {
                        last.taken_at = Some(at);
                    }
                }
            }
            SwarmEvent::TransferRefused { .. } | SwarmEvent::TransferSettled { .. } => {}
        }
        Ok(())
    }

    fn insert(&mut self, specs: &[Arc<TaskSpec>], principal: &Arc<str>, event: &Event) -> Result<(), ViewError> {
        for spec in specs {
            let mut record = crate::swarm::actor::fresh_record(spec.clone(), principal.clone(), event.at, event.cursor.0);
            for on in &spec.depends_on {
                let ended = match specs.iter().any(|other| other.id == *on) {
                    true => false,
                    false => self.get(*on)?.is_none_or(|on| on.status == TaskStatus::Succeeded),
                };
                if !ended {
                    record.waits_for += 1;
                    self.new_dependants.entry(*on).or_default().push(spec.id);
                }
            }
            if spec.role.as_ref().is_some_and(|role| role.scatter().is_some()) {
                let parts = specs.iter().filter(|part| part.parent_id() == Some(spec.id));
                record.subtasks = parts.map(|part| part.id).collect();
            } else {
                record.status = if record.waits_for == 0 { TaskStatus::Queued } else { TaskStatus::Pending };
            }
            self.changed.insert(spec.id, (None, record));
        }
        Ok(())
    }

    /// Adds a subtask that came to a scatter after it was submitted.
    fn add_subtask(&mut self, spec: &Arc<TaskSpec>, event: &Event) -> Result<(), ViewError> {
        let parent = match spec.parent_id() {
            Some(parent) => self.get(parent)?,
            None => None,
        };
        let Some(parent) = parent else { return Ok(()) };
        parent.cursor = event.cursor.0;
        parent.subtasks.push(spec.id);
        let principal = parent.principal.clone();
        self.insert(std::slice::from_ref(spec), &principal, event)
    }

    fn end(&mut self, id: TaskId, status: TaskStatus, error: Option<String>, event: &Event) -> Result<(), ViewError> {
        let Some(record) = self.get(id)? else { return Ok(()) };
        if record.status.is_terminal() {
            return Ok(());
        }
        record.status = status;
        record.ended_at = Some(event.at);
        record.error = error;
        record.not_before = None;
        record.cursor = event.cursor.0;
        // The attempt that was running when the task was ended from outside.
        if let Some(attempt) = record.attempts.last_mut().filter(|attempt| attempt.ended_at.is_none()) {
            attempt.ended_at = Some(event.at);
            attempt.status = if status == TaskStatus::Cancelled { AttemptStatus::Cancelled } else { AttemptStatus::TimedOut };
        }
        if status == TaskStatus::Succeeded {
            for dependant in self.dependants(id)? {
                let Some(waiting) = self.get(dependant)? else { continue };
                waiting.waits_for = waiting.waits_for.saturating_sub(1);
                if waiting.waits_for == 0 && waiting.status == TaskStatus::Pending {
                    waiting.status = TaskStatus::Queued;
                    let delay_ms = waiting.spec.delay_ms;
                    waiting.not_before = (delay_ms > 0).then(|| event.at.plus(std::time::Duration::from_millis(delay_ms)));
                    waiting.cursor = event.cursor.0;
                }
            }
        }
        Ok(())
    }

    fn dependants(&self, id: TaskId) -> Result<Vec<TaskId>, ViewError> {
        let mut found = self.new_dependants.get(&id).cloned().unwrap_or_default();
        let table = self.txn.open_table(DEPENDANTS)?;
        for entry in table.range((id.as_u128(), 0)..=(id.as_u128(), u128::MAX))? {
            found.push(TaskId::from_u128(entry?.0.value().1));
        }
        Ok(found)
    }

    fn write(self) -> Result<(), ViewError> {
        let txn = self.txn;
        let mut rows = txn.open_table(ROWS)?;
        let mut by_status = txn.open_table(BY_STATUS)?;
        let mut by_swarm = txn.open_table(BY_SWARM)?;
        let mut by_parent = txn.open_table(BY_PARENT)?;
        let mut by_label = txn.open_table(BY_LABEL)?;
        let mut dependants = txn.open_table(DEPENDANTS)?;
        let mut counts: HashMap<(u128, u8), i64> = HashMap::new();
        let mut keeping = Keeping::open(txn)?;
        let mut changed: Vec<_> = self.changed.into_iter().collect();
        changed.sort_unstable_by_key(|(id, _)| *id);
        for (id, (before, record)) in changed {
            let (id, swarm) = (id.as_u128(), record.spec.swarm.as_u128());
            let row = pack(id, &record)?;
            rows.insert(id, row.as_slice())?;
            keeping.changed(before.as_ref().map(|before| &before.weighed), &record, row.len())?;
            let before = before.map(|before| (before.status, before.swarm));
            if before != Some((record.status, record.spec.swarm)) {
                if let Some((before, of)) = before {
                    by_status.remove((before as u8, id))?;
                    *counts.entry((of.as_u128(), before as u8)).or_default() -= 1;
                }
                by_status.insert((record.status as u8, id), ())?;
                *counts.entry((swarm, record.status as u8)).or_default() += 1;
            }
            // Only a task that moved to another shard has left one.
            if let Some((_, of)) = before.filter(|(_, of)| *of != record.spec.swarm) {
                by_swarm.remove((of.as_u128(), id))?;
                by_swarm.insert((swarm, id), ())?;
            }
            if before.is_none() {
                by_swarm.insert((swarm, id), ())?;
                if let Some((parent, _)) = &record.spec.parent {
                    by_parent.insert((parent.as_u128(), id), ())?;
                }
                for label in &record.spec.labels {
                    by_label.insert((label_key(label).as_str(), id), ())?;
                }
            }
        }
        keeping.close()?;
        for (on, waiting) in self.new_dependants {
            for dependant in waiting {
                dependants.insert((on.as_u128(), dependant.as_u128()), ())?;
            }
        }
        let mut table = txn.open_table(COUNTS)?;
        for (key, change) in counts {
            let before = table.get(key)?.map_or(0, |count| count.value());
            table.insert(key, before.saturating_add_signed(change))?;
        }
        Ok(())
    }
}

pub(super) fn label_key(label: &Label) -> String {
    format!("{}\u{0}{}", label.key, label.value)
}
