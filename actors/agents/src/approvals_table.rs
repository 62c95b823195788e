//! The view of what agents' programs asked persons. Owns its table; built from agents' streams.

use hiveward_catalogue::agent::coding::Permission;
use hiveward_kernel::{
    id::{AgentId, ApprovalId, TaskId},
    page::Page,
    view::unreadable,
};
use hiveward_runtime::{
    error::Refused,
    ledger::{
        Event,
        row::{pack, unpack},
        view::{TableWalk, View, ViewError, Views, copy_table},
    },
};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use super::{
    approval::{ApprovalRecord, ApprovalStatus},
    event::AgentEvent,
};

const ROWS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("approvals");
/// Number of rows; more than these are kept only while they are open.
const ROWS_MAX: u64 = 10_000;

pub struct ApprovalView;

impl View for ApprovalView {
    fn name(&self) -> &'static str {
        "approvals"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(ROWS)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(ROWS, from, to)
    }

    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(ROWS, txn, |id, row| unpack::<ApprovalRecord>(id, row).map(drop))?;
        Ok(())
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let ours = |event: &&Event| event.stream.noun() == AgentId::NOUN && event.kind.starts_with("Approval");
        for event in events.iter().filter(ours) {
            let mut rows = txn.open_table(ROWS)?;
            let what = AgentEvent::decode(&event.kind, event.format, &event.body)?;
            let (approval, status, verdict) = match what {
                AgentEvent::ApprovalAsked { ask } => {
                    let record = ApprovalRecord {
                        agent: AgentId::try_from(&event.stream)?,
                        status: ApprovalStatus::Open,
                        verdict: None,
                        asked_at: event.at,
                        ended_at: None,
                        cursor: event.cursor.0,
                        ask: *ask,
                    };
                    let id = record.ask.approval.as_u128();
                    rows.insert(id, pack(id, &record)?.as_slice())?;
                    if rows.len()? > ROWS_MAX {
                        forget_oldest(&mut rows)?;
                    }
                    continue;
                }
                AgentEvent::ApprovalAnswered { approval, verdict } => {
                    let allowed = verdict.decision == Permission::Allow;
                    (approval, if allowed { ApprovalStatus::Allowed } else { ApprovalStatus::Denied }, Some(verdict))
                }
                AgentEvent::ApprovalWithdrawn { approval, .. } => (approval, ApprovalStatus::Withdrawn, None),
                _ => continue,
            };
            let row =
                rows.get(approval.as_u128())?.map(|row| unpack::<ApprovalRecord>(approval.as_u128(), row.value())).transpose()?;
            if let Some(record) = row {
                let record = ApprovalRecord { status, verdict, ended_at: Some(event.at), cursor: event.cursor.0, ..record };
                rows.insert(approval.as_u128(), pack(approval.as_u128(), &record)?.as_slice())?;
            }
        }
        Ok(())
    }
}

/// Removes the oldest question that is not open, if there is one among the oldest few.
fn forget_oldest(rows: &mut redb::Table<'_, u128, &[u8]>) -> Result<(), ViewError> {
    const LOOKED_AT: usize = 64;
    let mut oldest = None;
    for row in rows.range::<u128>(..)?.take(LOOKED_AT) {
        let (id, bytes) = row?;
        let record: ApprovalRecord = unpack(id.value(), bytes.value())?;
        if record.status != ApprovalStatus::Open {
            oldest = Some(id.value());
            break;
        }
    }
    if let Some(id) = oldest {
        rows.remove(id)?;
    }
    Ok(())
}

/// What a query wants; empty wants all.
#[derive(Clone, Debug, Default)]
pub struct ApprovalFilter {
    pub status: Vec<ApprovalStatus>,
    pub agent: Option<AgentId>,
    pub task: Option<TaskId>,
}

impl ApprovalFilter {
    fn wants(&self, record: &ApprovalRecord) -> bool {
        (self.status.is_empty() || self.status.contains(&record.status))
            && self.agent.is_none_or(|agent| record.agent == agent)
            && self.task.is_none_or(|task| record.ask.lease.task == task)
    }
}

/// Reader of the table.
#[derive(Clone)]
pub struct ApprovalTable {
    views: Views,
}

impl ApprovalTable {
    /// Returns a reader of these views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// Returns the record of a question; `None` if there is no such question, or it was forgotten.
    pub fn get(&self, id: ApprovalId) -> Result<Option<ApprovalRecord>, Refused> {
        let read = || -> Result<Option<ApprovalRecord>, ViewError> {
            let rows = self.views.read()?.open_table(ROWS)?;
            Ok(rows.get(id.as_u128())?.map(|row| unpack(id.as_u128(), row.value())).transpose()?)
        };
        read().map_err(unreadable)
    }

    /// Returns a page of the questions, the newest first.
    pub fn page(
        &self,
        filter: &ApprovalFilter,
        after: Option<ApprovalId>,
        first: usize,
    ) -> Result<Page<ApprovalRecord>, Refused> {
        let read = || -> Result<Page<ApprovalRecord>, ViewError> {
            let rows = self.views.read()?.open_table(ROWS)?;
            let mut page = Page::default();
            let to = after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(after.as_u128()));
            for row in rows.range::<u128>((std::ops::Bound::Unbounded, to))?.rev() {
                let (id, bytes) = row?;
                let record: ApprovalRecord = unpack(id.value(), bytes.value())?;
                if !filter.wants(&record) {
                    continue;
                }
                if page.items.len() == first {
                    page.has_next = true;
                    break;
                }
                let key = ApprovalId::from_u128(id.value()).to_string();
                page.last_seen = Some(key.clone());
                page.items.push((key, record));
            }
            Ok(page)
        };
        read().map_err(unreadable)
    }
}
