//! The view of all operations that clients named: what they asked for and what they were answered with.
//!
//! Owns its tables. Lets go of what is older than it is to be remembered.

use hiveward_runtime::{
    clock::{AgeClock, WallMs},
    error::Refused,
    id::Key,
    ledger::{
        Event,
        prune::Pruned,
        row::{pack, unpack},
        view::{TableWalk, View, ViewError, Views, copy_table},
    },
    store::blob::fingerprint,
};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::{id::TaskId, keep::OperationRetention, operation::Operation, view::unreadable};

/// The rows, by the fingerprint of the stream and the operation's id.
const ROWS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("operations");
/// The order in which rows go: (time, fingerprint) → bytes of the row.
const BY_TIME: TableDefinition<'_, (i64, u128), u32> = TableDefinition::new("operations_by_time");
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("operations_totals");
const COUNT: &str = "count";
const BYTES: &str = "bytes";
/// About how many bytes a row takes beside what is in it, in both tables.
const ROW_BYTES: usize = 96;

/// An operation of a client: what was asked under its id, and what it was answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// A fingerprint of what was asked for.
    #[serde(with = "serde_bytes")]
    pub input: [u8; 16],
    pub at: WallMs,
    /// The tasks of a submission; the one task of a cancellation or a retry.
    pub tasks: Vec<TaskId>,
    /// The thing that a change of what is declared was about.
    pub about: Option<String>,
    /// The number of the operation, for one of a VM.
    pub number: Option<u64>,
}

/// Reads the operation that an event tells of, if it tells of one, and what it was answered with.
pub type Named = fn(&Event) -> Result<Option<(Operation, Answered)>, ViewError>;

/// The view that builds the tables.
pub struct OperationView {
    pub keep: OperationRetention,
    /// Reads the operation that an event tells of, if it tells of one.
    pub named: Named,
    pub clock: AgeClock,
}

fn row_key(stream: &str, id: &str) -> u128 {
    u128::from_be_bytes(fingerprint(format!("{stream}\0{id}").as_bytes()))
}

impl View for OperationView {
    fn name(&self) -> &'static str {
        "operations"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(ROWS)?;
        txn.open_table(BY_TIME)?;
        txn.open_table(TOTALS)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(ROWS, from, to)?;
        copy_table(BY_TIME, from, to)?;
        copy_table(TOTALS, from, to)?;
        Ok(())
    }

    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(ROWS, txn, |key, row| unpack::<Answered>(key, row).map(drop))?;
        walk.keys(BY_TIME, txn)?;
        walk.keys(TOTALS, txn)
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let (mut rows, mut by_time) = (txn.open_table(ROWS)?, txn.open_table(BY_TIME)?);
        let (mut count, mut bytes) = (0, 0);
        for event in events {
            let Some((operation, answered)) = (self.named)(event)? else { continue };
            let key = row_key(event.stream.as_str(), &operation.id);
            let row = pack(key, &answered)?;
            let weight = u32::try_from(ROW_BYTES + row.len()).unwrap_or(u32::MAX);
            // The same operation once more in one stream, after the first was let go of: the newer one counts.
            let before = rows.insert(key, row.as_slice())?.map(|row| unpack::<Answered>(key, row.value()));
            if let Some(before) = before.transpose()?
                && let Some(weighed) = by_time.remove((before.at.0, key))?
            {
                count -= 1;
                bytes -= i64::from(weighed.value());
            }
            by_time.insert((answered.at.0, key), weight)?;
            count += 1;
            bytes += i64::from(weight);
        }
        add(txn, count, bytes)
    }

    fn prune(&self, txn: &WriteTransaction, rows_max: usize) -> Result<Pruned, ViewError> {
        let now = self.clock.now();
        let (mut count, mut bytes) = totals(&txn.open_table(TOTALS)?)?;
        let (before, mut over) = ((count, bytes), Vec::new());
        let mut by_time = txn.open_table(BY_TIME)?;
        for row in by_time.iter()?.take(rows_max) {
            let (key, weight) = row?;
            let (at, key) = key.value();
            if !self.keep.0.lets_go(WallMs(at), now, count, bytes) {
                break;
            }
            count = count.saturating_sub(1);
            bytes = bytes.saturating_sub(u64::from(weight.value()));
            over.push((at, key));
        }
        let mut rows = txn.open_table(ROWS)?;
        for key in &over {
            by_time.remove(*key)?;
            rows.remove(key.1)?;
        }
        add(txn, count as i64 - before.0 as i64, bytes as i64 - before.1 as i64)?;
        Ok(Pruned { rows: over.len() as u64, more: over.len() == rows_max })
    }
}

fn totals(table: &impl ReadableTable<&'static str, u64>) -> Result<(u64, u64), ViewError> {
    let of = |name| -> Result<u64, ViewError> { Ok(table.get(name)?.map_or(0, |total| total.value())) };
    Ok((of(COUNT)?, of(BYTES)?))
}

fn add(txn: &WriteTransaction, count: i64, bytes: i64) -> Result<(), ViewError> {
    if (count, bytes) == (0, 0) {
        return Ok(());
    }
    let mut table = txn.open_table(TOTALS)?;
    let before = totals(&table)?;
    table.insert(COUNT, before.0.saturating_add_signed(count))?;
    table.insert(BYTES, before.1.saturating_add_signed(bytes))?;
    Ok(())
}

/// The size of what is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationsKept {
    pub count: u64,
    pub bytes: u64,
    pub oldest: Option<WallMs>,
}

/// The reader of remembered operations.
#[derive(Clone)]
pub struct OperationTable {
    views: Views,
}

impl OperationTable {
    /// Makes a reader of these views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// Returns how many operations are remembered, their bytes, and when the oldest was answered.
    pub fn kept(&self) -> Result<OperationsKept, Refused> {
        let read = || -> Result<OperationsKept, ViewError> {
            let txn = self.views.read()?;
            let (count, bytes) = totals(&txn.open_table(TOTALS)?)?;
            let oldest = txn.open_table(BY_TIME)?.first()?.map(|(key, _)| WallMs(key.value().0));
            Ok(OperationsKept { count, bytes, oldest })
        };
        read().map_err(unreadable)
    }

    /// Returns how an operation of a stream was answered, if it is remembered and the views have it already.
    pub fn get(&self, stream: &Key, id: &str) -> Result<Option<Answered>, Refused> {
        let read = || -> Result<Option<Answered>, ViewError> {
            let rows = self.views.read()?.open_table(ROWS)?;
            let key = row_key(stream.as_str(), id);
            let row = rows.get(key)?;
            Ok(row.map(|row| unpack(key, row.value())).transpose()?)
        };
        read().map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicI64},
        time::Duration,
    };

    use hiveward_runtime::{clock::Clock, ledger::Cursor};
    use redb::{Database, ReadableDatabase, ReadableTableMetadata};

    use super::*;
    use crate::{id::SwarmId, keep::Keep};

    fn cancelled(stream: SwarmId, id: &str, at: i64) -> Event {
        let operation = Operation { id: id.into(), input: [7; 16] };
        Event {
            cursor: Cursor(1),
            stream: stream.key(),
            version: 1,
            incarnation: 1,
            at: WallMs(at),
            kind: "TaskCancelled".into(),
            format: 1,
            body: crate::event::encoded(&operation).unwrap(),
        }
    }

    fn named(event: &Event) -> Result<Option<(Operation, Answered)>, ViewError> {
        let operation: Operation = rmp_serde::from_slice(&event.body).unwrap();
        let tasks = vec![TaskId::new()];
        let answered = Answered { input: operation.input, at: event.at, tasks, about: None, number: None };
        Ok(Some((operation, answered)))
    }

    struct Scene {
        db: Database,
        view: OperationView,
        now: Arc<AtomicI64>,
    }

    impl Scene {
        fn new(keep: Keep) -> Self {
            let db = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
            let now = Arc::new(AtomicI64::new(0));
            let view = OperationView { named, keep: OperationRetention(keep), clock: AgeClock::of(Clock::Manual(now.clone())) };
            let txn = db.begin_write().unwrap();
            view.prepare(&txn).unwrap();
            txn.commit().unwrap();
            Self { db, view, now }
        }

        fn take_in(&self, events: &[Event]) {
            let txn = self.db.begin_write().unwrap();
            self.view.apply(&txn, events).unwrap();
            txn.commit().unwrap();
        }

        /// Returns the rows that are let go of at a time, in turns of at most three.
        fn prune(&self, now: i64) -> Vec<Pruned> {
            self.now.store(now, std::sync::atomic::Ordering::Relaxed);
            let mut turns = Vec::new();
            loop {
                let txn = self.db.begin_write().unwrap();
                turns.push(self.view.prune(&txn, 3).unwrap());
                txn.commit().unwrap();
                if !turns[turns.len() - 1].more {
                    return turns;
                }
            }
        }

        /// Counts the rows, and returns what the totals say of them.
        fn kept(&self) -> (u64, u64, (u64, u64)) {
            let txn = self.db.begin_read().unwrap();
            let weights = txn.open_table(BY_TIME).unwrap().iter().unwrap().map(|row| u64::from(row.unwrap().1.value())).sum();
            (txn.open_table(ROWS).unwrap().len().unwrap(), weights, totals(&txn.open_table(TOTALS).unwrap()).unwrap())
        }
    }

    const PLENTY: Keep = Keep { age: Duration::from_millis(1_000), count_max: 1_000, bytes_max: 1 << 20 };

    #[test]
    fn operations_go_by_age_count_and_bytes_a_few_at_a_time_and_the_totals_follow() {
        let (one, other) = (SwarmId::new(), SwarmId::new());
        let events: Vec<_> =
            (0..10_i64).map(|n| cancelled(if n % 2 == 0 { one } else { other }, &format!("{n}"), n * 10)).collect();
        let of = |keep: Keep, now: i64| {
            let scene = Scene::new(keep);
            scene.take_in(&events);
            let turns: Vec<_> = scene.prune(now).iter().map(|turn| turn.rows).collect();
            let (rows, weights, totals) = scene.kept();
            assert_eq!(totals, (rows, weights), "the totals are those of the rows");
            (turns, rows)
        };
        assert_eq!(of(PLENTY, 1_000), (vec![0], 10));
        assert_eq!(of(PLENTY, 1_045), (vec![3, 2], 5));
        assert_eq!(of(Keep { count_max: 9, ..PLENTY }, 0), (vec![1], 9));
        assert_eq!(of(Keep { count_max: 0, ..PLENTY }, 0), (vec![3, 3, 3, 1], 0));
        let (_, rows) = of(Keep { bytes_max: 600, ..PLENTY }, 0);
        assert!((1..=5).contains(&rows), "{rows}");
        assert_eq!(of(Keep { bytes_max: 0, ..PLENTY }, 0).1, 0);
    }

    #[test]
    fn one_that_comes_again_in_its_stream_counts_once_and_another_streams_is_another() {
        let (one, other) = (SwarmId::new(), SwarmId::new());
        let scene = Scene::new(PLENTY);
        scene.take_in(&[cancelled(one, "same", 1), cancelled(one, "same", 5), cancelled(other, "same", 9)]);
        let (rows, weights, totals) = scene.kept();
        assert_eq!((rows, totals), (2, (2, weights)));
        // The first of them is not found by its older time any more.
        assert_eq!(scene.prune(1_003), [Pruned { rows: 0, more: false }]);
        assert_eq!(scene.prune(1_006), [Pruned { rows: 1, more: false }]);
    }
}
