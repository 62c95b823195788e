//! Keeps the view of all swarms. Owns its table; counts of tasks are kept by the view of tasks.

use hiveward_catalogue::roster::event::RosterEvent;
use hiveward_kernel::{id::SwarmId, page::Page, view::unreadable};
use hiveward_runtime::{
    error::Refused,
    ledger::{
        Event,
        row::{pack, unpack},
        view::{TableWalk, View, ViewError, Views, copy_table},
    },
};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::record::SwarmRecord;
use crate::task::search::TaskTable;

const ROWS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("swarms");

/// The view that builds the table.
pub struct SwarmView;

impl View for SwarmView {
    fn name(&self) -> &'static str {
        "swarms"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(ROWS)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(ROWS, from, to)?;
        Ok(())
    }

    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(ROWS, txn, |id, row| unpack::<SwarmRecord>(id, row).map(drop))?;
        Ok(())
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut rows = txn.open_table(ROWS)?;
        for event in events.iter().filter(|event| event.stream.noun() == RosterEvent::NOUN) {
            let (swarm, change): (SwarmId, i32) = match RosterEvent::decode(&event.kind, event.format, &event.body)? {
                RosterEvent::SwarmAdded { spec, .. } => {
                    let id = spec.id.as_u128();
                    let record = SwarmRecord { spec, agents: 0, tasks: [0; 10], created_at: event.at, cursor: event.cursor.0 };
                    rows.insert(id, pack(id, &record)?.as_slice())?;
                    continue;
                }
                RosterEvent::SwarmRemoved { swarm, .. } => {
                    rows.remove(swarm.as_u128())?;
                    continue;
                }
                RosterEvent::AgentAdded { spec, .. } => (spec.swarm, 1),
                RosterEvent::AgentRemoved { swarm, .. } => (swarm, -1),
                _ => continue,
            };
            let found = rows.get(swarm.as_u128())?.map(|row| unpack::<SwarmRecord>(swarm.as_u128(), row.value())).transpose()?;
            if let Some(mut record) = found {
                record.agents = record.agents.saturating_add_signed(change);
                record.cursor = event.cursor.0;
                rows.insert(swarm.as_u128(), pack(swarm.as_u128(), &record)?.as_slice())?;
            }
        }
        Ok(())
    }
}

/// Returns a swarm with what belongs to all its shards.
fn summed(rows: &impl ReadableTable<u128, &'static [u8]>, mut head: SwarmRecord) -> Result<SwarmRecord, ViewError> {
    if head.spec.is_sharded() {
        for shard in head.spec.shard_ids().skip(1) {
            let Some(row) = rows.get(shard.as_u128())? else { continue };
            let shard: SwarmRecord = unpack(shard.as_u128(), row.value())?;
            head.agents += shard.agents;
            head.cursor = head.cursor.max(shard.cursor);
        }
    }
    Ok(head)
}

/// The wishes of a query for swarms; empty wants all.
#[derive(Clone, Debug, Default)]
pub struct SwarmFilter {
    pub name_contains: Option<String>,
}

/// The reader of the table.
#[derive(Clone)]
pub struct SwarmTable {
    views: Views,
    tasks: TaskTable,
}

impl SwarmTable {
    /// Makes a reader of these views.
    pub fn new(views: Views) -> Self {
        Self { tasks: TaskTable::new(views.clone()), views }
    }

    /// Returns the whole swarm, whichever of its shards the id is of; `None` if there is none.
    pub fn get(&self, id: SwarmId) -> Result<Option<SwarmRecord>, Refused> {
        Ok(self.get_many(&[id])?.pop().flatten())
    }

    /// Returns whole swarms in the order of `ids`, whichever of its shards each id is of.
    pub fn get_many(&self, ids: &[SwarmId]) -> Result<Vec<Option<SwarmRecord>>, Refused> {
        let read = || -> Result<Vec<Option<SwarmRecord>>, ViewError> {
            let txn = self.views.read()?;
            let rows = txn.open_table(ROWS)?;
            let row = |id: SwarmId| -> Result<Option<SwarmRecord>, ViewError> {
                Ok(rows.get(id.as_u128())?.map(|row| unpack(id.as_u128(), row.value())).transpose()?)
            };
            let whole = |id: &SwarmId| match row(*id)? {
                Some(record) if record.spec.shard != 0 => row(record.spec.head())?.map(|head| summed(&rows, head)).transpose(),
                found => found.map(|head| summed(&rows, head)).transpose(),
            };
            ids.iter().map(whole).collect()
        };
        let mut found = read().map_err(unreadable)?;
        for record in found.iter_mut().flatten() {
            record.tasks = self.tasks.counts(record.spec.id)?;
        }
        Ok(found)
    }

    /// Returns a page of at most `first` swarms in order of creation, which begins after the swarm `after`.
    pub fn page(&self, filter: &SwarmFilter, after: Option<SwarmId>, first: usize) -> Result<Page<SwarmRecord>, Refused> {
        let read = || -> Result<Page<SwarmRecord>, ViewError> {
            let txn = self.views.read()?;
            let rows = txn.open_table(ROWS)?;
            let mut page = Page::default();
            let from = after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(after.as_u128()));
            for row in rows.range::<u128>((from, std::ops::Bound::Unbounded))? {
                let (id, bytes) = row?;
                let record: SwarmRecord = unpack(id.value(), bytes.value())?;
                // Shown with their head.
                if record.spec.shard != 0 {
                    continue;
                }
                let record = summed(&rows, record)?;
                if !filter
                    .name_contains
                    .as_ref()
                    .is_none_or(|part| record.spec.name.to_lowercase().contains(&part.to_lowercase()))
                {
                    continue;
                }
                if page.items.len() == first {
                    page.has_next = true;
                    break;
                }
                let key = record.spec.id.to_string();
                page.last_seen = Some(key.clone());
                page.items.push((key, record));
            }
            Ok(page)
        };
        let mut page = read().map_err(unreadable)?;
        for (_, record) in &mut page.items {
            record.tasks = self.tasks.counts(record.spec.id)?;
        }
        Ok(page)
    }
}
