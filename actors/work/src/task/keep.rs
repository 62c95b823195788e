//! Decides how long ended tasks stay in their tables, what each of them weighs, and which blobs are theirs.
//!
//! A part of the view of tasks. A task goes with everything that came of it: its subtasks, their subtasks, the rows of all
//! indexes. What has something alive in it or behind it stays, and is looked at again when it would be old once more. Rows that
//! were made before there was this index are taken into it a few at a time.

use std::collections::HashMap;

use hiveward_kernel::{body::Body, id::SwarmId, keep::Keep, view::unreadable};
use hiveward_runtime::{
    clock::WallMs,
    error::Refused,
    ledger::{
        prune::Pruned,
        row::unpack,
        view::{TableWalk, ViewError, copy_table},
    },
    store::blob::BlobHash,
};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use super::{
    record::TaskRecord,
    search::TaskTable,
    spec::Work,
    table::{BY_LABEL, BY_PARENT, BY_STATUS, BY_SWARM, COUNTS, DEPENDANTS, ROWS, label_key},
};

/// The ended tasks that came of no other, by when they are looked at: when they ended, or were last found to be needed.
const ENDED: TableDefinition<'_, (i64, u128), ()> = TableDefinition::new("tasks_ended");
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("tasks_totals");
/// The names of two sums: the number of tasks that have ended, and below what they weigh.
const COUNT: &str = "ended";
const BYTES: &str = "ended_bytes";
/// The bytes of tasks, live ones included: a swarm, or one of its shards → what its tasks weigh.
const USED: TableDefinition<'_, u128, u64> = TableDefinition::new("tasks_bytes_by_swarm");
const BLOBS_OF: TableDefinition<'_, (u128, &[u8; 32]), ()> = TableDefinition::new("task_blobs");
const BLOB_OWNERS: TableDefinition<'_, (&[u8; 32], u128), ()> = TableDefinition::new("blob_tasks");
/// The tasks that are needed: (task, one that is given its result when it runs), also where it had ended before that one was
/// submitted.
const NEEDED_BY: TableDefinition<'_, (u128, u128), ()> = TableDefinition::new("task_needed_by");
/// The id up to which rows were taken into the tables above.
const INDEXED: TableDefinition<'_, &str, u128> = TableDefinition::new("tasks_indexed");
const UP_TO: &str = "up_to";

/// The entry of a row in the tables above.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weighed {
    ended_at: Option<WallMs>,
    root: bool,
    swarm: u128,
    /// The bytes of its row and its blobs.
    bytes: u64,
}

impl Weighed {
    /// Weighs a record whose row takes so many bytes.
    pub fn of(record: &TaskRecord, row_bytes: usize) -> Self {
        let blobs: u64 = blobs_of(record).map(|(_, bytes)| bytes).sum();
        Self {
            ended_at: record.ended_at.filter(|_| record.status.is_terminal()),
            root: record.spec.parent.is_none(),
            swarm: record.spec.swarm.as_u128(),
            bytes: row_bytes as u64 + blobs,
        }
    }
}

/// Iterates over the blobs of its payload, its result and its artifacts, each with its length.
fn blobs_of(record: &TaskRecord) -> impl Iterator<Item = (BlobHash, u64)> {
    let given = match &record.spec.work {
        Work::Command(command) => command.stdin.as_ref(),
        Work::Kind { payload, .. } => payload.as_ref(),
    };
    let bodies = given.into_iter().chain(&record.result).filter_map(|body| match body {
        Body::Inline(_) => None,
        Body::Blob { hash, bytes } => Some((hash, *bytes)),
    });
    let all = bodies.chain(record.artifacts.iter().map(|artifact| (&artifact.hash, artifact.bytes)));
    // What is no hash names no blob.
    all.filter_map(|(hash, bytes)| Some((hash.parse().ok()?, bytes)))
}

pub(super) fn prepare(txn: &WriteTransaction) -> Result<(), ViewError> {
    txn.open_table(ENDED)?;
    txn.open_table(TOTALS)?;
    txn.open_table(USED)?;
    txn.open_table(BLOBS_OF)?;
    txn.open_table(BLOB_OWNERS)?;
    txn.open_table(NEEDED_BY)?;
    let mut indexed = txn.open_table(INDEXED)?;
    if indexed.is_empty()? && txn.open_table(ROWS)?.is_empty()? {
        indexed.insert(UP_TO, u128::MAX)?;
    }
    Ok(())
}

pub(super) fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
    copy_table(ENDED, from, to)?;
    copy_table(TOTALS, from, to)?;
    copy_table(USED, from, to)?;
    copy_table(BLOBS_OF, from, to)?;
    copy_table(BLOB_OWNERS, from, to)?;
    copy_table(NEEDED_BY, from, to)?;
    copy_table(INDEXED, from, to)?;
    Ok(())
}

pub(super) fn check(txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
    walk.keys(ENDED, txn)?;
    walk.keys(TOTALS, txn)?;
    walk.keys(USED, txn)?;
    walk.keys(BLOBS_OF, txn)?;
    walk.keys(BLOB_OWNERS, txn)?;
    walk.keys(NEEDED_BY, txn)?;
    walk.keys(INDEXED, txn)
}

/// The writer that keeps the tables above in step with the rows, for one transaction.
pub(super) struct Keeping<'a> {
    txn: &'a WriteTransaction,
    ended: Table<'a, (i64, u128), ()>,
    blobs_of: Table<'a, (u128, &'static [u8; 32]), ()>,
    blob_owners: Table<'a, (&'static [u8; 32], u128), ()>,
    needed_by: Table<'a, (u128, u128), ()>,
    indexed_up_to: u128,
    count: i64,
    bytes: i64,
    used: HashMap<u128, i64>,
}

impl<'a> Keeping<'a> {
    /// Opens the tables for one transaction.
    pub fn open(txn: &'a WriteTransaction) -> Result<Self, ViewError> {
        Ok(Self {
            txn,
            ended: txn.open_table(ENDED)?,
            blobs_of: txn.open_table(BLOBS_OF)?,
            blob_owners: txn.open_table(BLOB_OWNERS)?,
            needed_by: txn.open_table(NEEDED_BY)?,
            indexed_up_to: txn.open_table(INDEXED)?.get(UP_TO)?.map_or(0, |up_to| up_to.value()),
            count: 0,
            bytes: 0,
            used: HashMap::new(),
        })
    }

    /// Notes that a row is written, in place of one that was `before`.
    pub fn changed(&mut self, before: Option<&Weighed>, record: &TaskRecord, row_bytes: usize) -> Result<(), ViewError> {
        let id = record.id().as_u128();
        // The others have their turn when they are taken in.
        if id > self.indexed_up_to {
            return Ok(());
        }
        if let Some(before) = before {
            self.subtract(id, before)?;
        }
        self.add(id, record, row_bytes)
    }

    fn add(&mut self, id: u128, record: &TaskRecord, row_bytes: usize) -> Result<(), ViewError> {
        let weighed = Weighed::of(record, row_bytes);
        if let Some(at) = weighed.ended_at {
            self.count += 1;
            self.bytes += weighed.bytes as i64;
            if weighed.root {
                self.ended.insert((at.0, id), ())?;
            }
        }
        *self.used.entry(weighed.swarm).or_default() += weighed.bytes as i64;
        for (hash, _) in blobs_of(record) {
            self.blobs_of.insert((id, hash.bytes()), ())?;
            self.blob_owners.insert((hash.bytes(), id), ())?;
        }
        for on in &record.spec.depends_on {
            self.needed_by.insert((on.as_u128(), id), ())?;
        }
        Ok(())
    }

    fn subtract(&mut self, id: u128, before: &Weighed) -> Result<(), ViewError> {
        if let Some(at) = before.ended_at {
            self.count -= 1;
            self.bytes -= before.bytes as i64;
            if before.root {
                self.ended.remove((at.0, id))?;
            }
        }
        *self.used.entry(before.swarm).or_default() -= before.bytes as i64;
        Ok(())
    }

    fn disown_blobs(&mut self, id: u128) -> Result<(), ViewError> {
        let mut hashes = Vec::new();
        for entry in self.blobs_of.range((id, &[0; 32])..=(id, &[u8::MAX; 32]))? {
            hashes.push(*entry?.0.value().1);
        }
        for hash in &hashes {
            self.blobs_of.remove((id, hash))?;
            self.blob_owners.remove((hash, id))?;
        }
        Ok(())
    }

    /// Writes the sums.
    pub fn close(self) -> Result<(), ViewError> {
        if (self.count, self.bytes) != (0, 0) {
            let mut totals = self.txn.open_table(TOTALS)?;
            for (name, change) in [(COUNT, self.count), (BYTES, self.bytes)] {
                let before = totals.get(name)?.map_or(0, |total| total.value());
                totals.insert(name, before.saturating_add_signed(change))?;
            }
        }
        let mut used = self.txn.open_table(USED)?;
        for (swarm, change) in self.used.into_iter().filter(|(_, change)| *change != 0) {
            let before = used.get(swarm)?.map_or(0, |bytes| bytes.value());
            match before.saturating_add_signed(change) {
                0 => used.remove(swarm)?,
                now => used.insert(swarm, now)?,
            };
        }
        Ok(())
    }
}

/// Does one turn: takes in rows of old, or lets go of what need not be kept.
pub(super) fn prune(txn: &WriteTransaction, keep: &Keep, now: WallMs, rows_max: usize) -> Result<Pruned, ViewError> {
    let up_to = txn.open_table(INDEXED)?.get(UP_TO)?.map_or(0, |up_to| up_to.value());
    if up_to < u128::MAX {
        take_in_old(txn, up_to, rows_max)?;
        return Ok(Pruned { rows: 0, more: true });
    }
    let (mut count, mut bytes) = totals(&txn.open_table(TOTALS)?)?;
    let (mut due, mut pruned) = (Vec::new(), Pruned::default());
    for entry in txn.open_table(ENDED)?.iter()?.take(rows_max) {
        due.push(entry?.0.value());
    }
    let looked_at = due.len();
    let mut letting_go = LettingGo::open(txn)?;
    for (at, id) in due {
        if !keep.lets_go(WallMs(at), now, count, bytes) {
            return letting_go.close(pruned);
        }
        if pruned.rows >= rows_max as u64 {
            break;
        }
        let (gone, weighed) = letting_go.root(at, id, now)?;
        pruned.rows += gone;
        count = count.saturating_sub(gone);
        bytes = bytes.saturating_sub(weighed);
    }
    pruned.more = looked_at == rows_max || pruned.rows >= rows_max as u64;
    letting_go.close(pruned)
}

fn take_in_old(txn: &WriteTransaction, after: u128, rows_max: usize) -> Result<(), ViewError> {
    let rows = txn.open_table(ROWS)?;
    let mut keeping = Keeping::open(txn)?;
    let (mut up_to, mut taken) = (u128::MAX, 0);
    for row in rows.range(after + 1..)?.take(rows_max) {
        let (id, row) = row?;
        let record: TaskRecord = unpack(id.value(), row.value())?;
        keeping.add(id.value(), &record, row.value().len())?;
        (up_to, taken) = (id.value(), taken + 1);
    }
    let up_to = if taken < rows_max { u128::MAX } else { up_to };
    keeping.close()?;
    txn.open_table(INDEXED)?.insert(UP_TO, up_to)?;
    Ok(())
}

/// The remover of tasks from all tables.
struct LettingGo<'a> {
    txn: &'a WriteTransaction,
    rows: Table<'a, u128, &'static [u8]>,
    by_status: Table<'a, (u8, u128), ()>,
    by_swarm: Table<'a, (u128, u128), ()>,
    by_parent: Table<'a, (u128, u128), ()>,
    by_label: Table<'a, (&'static str, u128), ()>,
    dependants: Table<'a, (u128, u128), ()>,
    keeping: Keeping<'a>,
    counts: HashMap<(u128, u8), u64>,
}

impl<'a> LettingGo<'a> {
    fn open(txn: &'a WriteTransaction) -> Result<Self, ViewError> {
        Ok(Self {
            txn,
            rows: txn.open_table(ROWS)?,
            by_status: txn.open_table(BY_STATUS)?,
            by_swarm: txn.open_table(BY_SWARM)?,
            by_parent: txn.open_table(BY_PARENT)?,
            by_label: txn.open_table(BY_LABEL)?,
            dependants: txn.open_table(DEPENDANTS)?,
            keeping: Keeping::open(txn)?,
            counts: HashMap::new(),
        })
    }

    fn record(&self, id: u128) -> Result<Option<(TaskRecord, usize)>, ViewError> {
        let Some(row) = self.rows.get(id)? else { return Ok(None) };
        Ok(Some((unpack(id, row.value())?, row.value().len())))
    }

    /// Removes a task and what came of it, unless something of it is needed. Returns how many are gone, and what they weighed.
    fn root(&mut self, at: i64, id: u128, now: WallMs) -> Result<(u64, u64), ViewError> {
        let ended_at = self.record(id)?.and_then(|(record, bytes)| Weighed::of(&record, bytes).ended_at);
        let Some(ended_at) = ended_at else {
            // It is gone, or was sent on its way again; then its end brings it back here.
            self.keeping.ended.remove((at, id))?;
            return Ok((0, 0));
        };
        if ended_at.0 > at {
            // Its later end is in the table as well.
            self.keeping.ended.remove((at, id))?;
            return Ok((0, 0));
        }
        let Some(tree) = self.tree(id)? else {
            self.keeping.ended.remove((at, id))?;
            self.keeping.ended.insert((now.0.max(at + 1), id), ())?;
            return Ok((0, 0));
        };
        let mut weighed = 0;
        let gone = tree.len() as u64;
        for (record, bytes) in tree {
            weighed += self.remove(&record, bytes)?;
        }
        // Where it was put off, it is under another time than that of its end.
        self.keeping.ended.remove((at, id))?;
        Ok((gone, weighed))
    }

    /// Returns all that came of a task, itself first; `None` if something of it lives, or is needed by what lives.
    fn tree(&self, root: u128) -> Result<Option<Vec<(TaskRecord, usize)>>, ViewError> {
        let (mut tree, mut next) = (Vec::new(), vec![root]);
        while let Some(id) = next.pop() {
            // A row that was never written, or set aside, leaves only its entry.
            let Some((record, bytes)) = self.record(id)? else { continue };
            if !record.status.is_terminal() || self.is_needed(id)? {
                return Ok(None);
            }
            for entry in self.by_parent.range((id, 0)..=(id, u128::MAX))? {
                next.push(entry?.0.value().1);
            }
            tree.push((record, bytes));
        }
        Ok(Some(tree))
    }

    fn is_needed(&self, id: u128) -> Result<bool, ViewError> {
        for entry in self.keeping.needed_by.range((id, 0)..=(id, u128::MAX))? {
            let by = entry?.0.value().1;
            if self.record(by)?.is_some_and(|(record, _)| !record.status.is_terminal()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove(&mut self, record: &TaskRecord, bytes: usize) -> Result<u64, ViewError> {
        let (id, swarm, status) = (record.id().as_u128(), record.spec.swarm.as_u128(), record.status as u8);
        self.rows.remove(id)?;
        self.by_status.remove((status, id))?;
        self.by_swarm.remove((swarm, id))?;
        *self.counts.entry((swarm, status)).or_default() += 1;
        if let Some((parent, _)) = &record.spec.parent {
            self.by_parent.remove((parent.as_u128(), id))?;
        }
        for label in &record.spec.labels {
            self.by_label.remove((label_key(label).as_str(), id))?;
        }
        for on in &record.spec.depends_on {
            self.dependants.remove((on.as_u128(), id))?;
            self.keeping.needed_by.remove((on.as_u128(), id))?;
        }
        let mut waited = Vec::new();
        for entry in self.dependants.range((id, 0)..=(id, u128::MAX))? {
            waited.push(entry?.0.value());
        }
        for entry in waited {
            self.dependants.remove(entry)?;
        }
        let weighed = Weighed::of(record, bytes);
        self.keeping.subtract(id, &weighed)?;
        self.keeping.disown_blobs(id)?;
        Ok(weighed.bytes)
    }

    fn close(self, pruned: Pruned) -> Result<Pruned, ViewError> {
        let mut table = self.txn.open_table(COUNTS)?;
        for (key, gone) in self.counts {
            let before = table.get(key)?.map_or(0, |count| count.value());
            table.insert(key, before.saturating_sub(gone))?;
        }
        self.keeping.close()?;
        Ok(pruned)
    }
}

fn totals(table: &impl ReadableTable<&'static str, u64>) -> Result<(u64, u64), ViewError> {
    let of = |name| -> Result<u64, ViewError> { Ok(table.get(name)?.map_or(0, |total| total.value())) };
    Ok((of(COUNT)?, of(BYTES)?))
}

/// The bytes that ended tasks take, and those of all tasks of each swarm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TasksKept {
    pub ended: u64,
    /// The bytes of the rows and blobs of ended tasks.
    pub ended_bytes: u64,
    /// The time when the one that ended first did, of those that came of no other.
    pub oldest: Option<WallMs>,
    /// The bytes of the rows and blobs of all tasks, by swarm or shard.
    pub by_swarm: Vec<(SwarmId, u64)>,
}

impl TaskTable {
    /// Returns what is kept, as of now. Rows that are not indexed yet do not count.
    pub fn kept(&self) -> Result<TasksKept, Refused> {
        let read = || -> Result<TasksKept, ViewError> {
            let txn = self.views.read()?;
            let (ended, ended_bytes) = totals(&txn.open_table(TOTALS)?)?;
            let oldest = txn.open_table(ENDED)?.first()?.map(|(key, _)| WallMs(key.value().0));
            let mut by_swarm = Vec::new();
            for entry in txn.open_table(USED)?.iter()? {
                let (swarm, bytes) = entry?;
                by_swarm.push((SwarmId::from_u128(swarm.value()), bytes.value()));
            }
            Ok(TasksKept { ended, ended_bytes, oldest, by_swarm })
        };
        read().map_err(unreadable)
    }

    /// Tells of each of these blobs whether it is a task's. `None` while not all rows are indexed: then nobody can tell.
    pub fn owned(&self, blobs: &[BlobHash]) -> Result<Option<Vec<bool>>, Refused> {
        let read = || -> Result<Option<Vec<bool>>, ViewError> {
            let txn = self.views.read()?;
            if txn.open_table(INDEXED)?.get(UP_TO)?.is_none_or(|up_to| up_to.value() < u128::MAX) {
                return Ok(None);
            }
            let owners = txn.open_table(BLOB_OWNERS)?;
            let owned = |blob: &BlobHash| -> Result<bool, ViewError> {
                Ok(owners.range((blob.bytes(), 0)..=(blob.bytes(), u128::MAX))?.next().transpose()?.is_some())
            };
            Ok(Some(blobs.iter().map(owned).collect::<Result<_, _>>()?))
        };
        read().map_err(unreadable)
    }
}

#[cfg(test)]
mod tests;
