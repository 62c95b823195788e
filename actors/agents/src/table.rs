//! The view of all agents. Owns its tables; built from the roster, agents' streams and what swarms granted.

use std::{collections::HashMap, sync::Arc};

use hiveward_catalogue::roster::event::RosterEvent;
use hiveward_kernel::{
    id::{AgentId, SwarmId},
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
use hiveward_work::{swarm::event::SwarmEvent, task::status::AttemptStatus};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    event::AgentEvent,
    record::{AgentRecord, AgentStatus},
};

const ROWS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("agents");
const BY_SWARM: TableDefinition<'_, (u128, u128), ()> = TableDefinition::new("agents_by_swarm");

/// Builder of the tables.
pub struct AgentView;

impl View for AgentView {
    fn name(&self) -> &'static str {
        "agents"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(ROWS)?;
        txn.open_table(BY_SWARM)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(ROWS, from, to)?;
        copy_table(BY_SWARM, from, to)?;
        Ok(())
    }

    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(ROWS, txn, |id, row| unpack::<AgentRecord>(id, row).map(drop))?;
        walk.keys(BY_SWARM, txn)?;
        Ok(())
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut rows = Rows { txn, changed: HashMap::new() };
        for event in events {
            match event.stream.noun() {
                AgentId::NOUN => rows.lifecycle(event)?,
                RosterEvent::NOUN => rows.roster(event)?,
                SwarmId::NOUN if matches!(&*event.kind, "TaskAssigned" | "TaskAttemptEnded" | "TaskCancelled" | "TaskFailed") => {
                    rows.work(event)?
                }
                _ => {}
            }
        }
        rows.write()
    }
}

/// Rows of the view that these events change.
struct Rows<'a> {
    txn: &'a WriteTransaction,
    /// Records by agent; `None` for one that was removed. The flag says that the row is new.
    changed: HashMap<AgentId, (Option<AgentRecord>, bool)>,
}

impl Rows<'_> {
    fn get(&mut self, id: AgentId) -> Result<Option<&mut AgentRecord>, ViewError> {
        if !self.changed.contains_key(&id) {
            let rows = self.txn.open_table(ROWS)?;
            let Some(row) = rows.get(id.as_u128())? else { return Ok(None) };
            let record = unpack(id.as_u128(), row.value())?;
            self.changed.insert(id, (Some(record), false));
        }
        Ok(self.changed.get_mut(&id).and_then(|(record, _)| record.as_mut()))
    }

    fn roster(&mut self, event: &Event) -> Result<(), ViewError> {
        match RosterEvent::decode(&event.kind, event.format, &event.body)? {
            RosterEvent::AgentAdded { spec, .. } => {
                let record = AgentRecord {
                    spec: spec.clone(),
                    status: AgentStatus::Created,
                    incarnation: 0,
                    running: 0,
                    succeeded: 0,
                    failed: 0,
                    last_failure: None,
                    created_at: event.at,
                    started_at: None,
                    cursor: event.cursor.0,
                };
                self.changed.insert(spec.id, (Some(record), true));
            }
            RosterEvent::AgentRemoved { agent, .. } => {
                if let Some(record) = self.get(agent)?.cloned() {
                    self.txn.open_table(BY_SWARM)?.remove((record.spec.swarm.as_u128(), agent.as_u128()))?;
                    self.txn.open_table(ROWS)?.remove(agent.as_u128())?;
                    self.changed.insert(agent, (None, false));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn lifecycle(&mut self, event: &Event) -> Result<(), ViewError> {
        let id = AgentId::try_from(&event.stream)?;
        let what = AgentEvent::decode(&event.kind, event.format, &event.body)?;
        let Some(record) = self.get(id)? else { return Ok(()) };
        record.cursor = event.cursor.0;
        let up = |record: &AgentRecord| if record.running > 0 { AgentStatus::Busy } else { AgentStatus::Idle };
        match what {
            AgentEvent::StartAsked => record.status = AgentStatus::Starting,
            AgentEvent::Starting { incarnation } => {
                record.status = AgentStatus::Starting;
                record.incarnation = incarnation;
            }
            AgentEvent::Ready { incarnation } => {
                record.incarnation = incarnation;
                record.started_at = Some(event.at);
                if record.status != AgentStatus::Paused {
                    record.status = up(record);
                }
            }
            AgentEvent::Failed { incarnation, message } => {
                record.incarnation = incarnation;
                record.status = AgentStatus::Failed;
                record.last_failure = Some(message);
            }
            AgentEvent::PauseAsked { .. } => record.status = AgentStatus::Paused,
            AgentEvent::ResumeAsked => record.status = up(record),
            AgentEvent::StopAsked => record.status = AgentStatus::Stopping,
            AgentEvent::Stopped | AgentEvent::Removed => record.status = AgentStatus::Stopped,
            // The approvals' own table has them.
            AgentEvent::ApprovalAsked { .. } | AgentEvent::ApprovalAnswered { .. } | AgentEvent::ApprovalWithdrawn { .. } => {}
        }
        Ok(())
    }

    /// Counts leases, as the swarm's stream tells them.
    fn work(&mut self, event: &Event) -> Result<(), ViewError> {
        let (agent, change, ended) = match SwarmEvent::decode(&event.kind, event.format, &event.body)? {
            SwarmEvent::Assigned { lease, .. } => (lease.agent, 1, None),
            SwarmEvent::AttemptEnded { lease, ended, .. } => (lease.agent, -1, Some(ended.status)),
            // The lease of a task that was ended from outside is given back by who held it.
            SwarmEvent::Cancelled { lease: Some(lease), .. } | SwarmEvent::Failed { lease: Some(lease), .. } => {
                (lease.agent, -1, None)
            }
            _ => return Ok(()),
        };
        let Some(record) = self.get(agent)? else { return Ok(()) };
        record.cursor = event.cursor.0;
        record.running = record.running.saturating_add_signed(change);
        match ended {
            Some(AttemptStatus::Succeeded) => record.succeeded += 1,
            Some(AttemptStatus::Failed | AttemptStatus::TimedOut) => record.failed += 1,
            _ => {}
        }
        if matches!(record.status, AgentStatus::Idle | AgentStatus::Busy) {
            record.status = if record.running > 0 { AgentStatus::Busy } else { AgentStatus::Idle };
        }
        Ok(())
    }

    fn write(self) -> Result<(), ViewError> {
        let mut rows = self.txn.open_table(ROWS)?;
        let mut by_swarm = self.txn.open_table(BY_SWARM)?;
        for (id, (record, new)) in self.changed {
            let Some(record) = record else { continue };
            rows.insert(id.as_u128(), pack(id.as_u128(), &record)?.as_slice())?;
            if new {
                by_swarm.insert((record.spec.swarm.as_u128(), id.as_u128()), ())?;
            }
        }
        Ok(())
    }
}

/// What a query wants of the agents; empty wants all.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    pub status: Vec<AgentStatus>,
    pub swarm: Option<SwarmId>,
    pub skill: Option<String>,
    pub name_contains: Option<String>,
}

impl AgentFilter {
    fn wants(&self, record: &AgentRecord) -> bool {
        (self.status.is_empty() || self.status.contains(&record.status))
            && self.swarm.is_none_or(|swarm| swarm.covers(record.spec.swarm))
            && self.skill.as_ref().is_none_or(|wanted| record.spec.skills.iter().any(|skill| *skill.name == **wanted))
            && self.name_contains.as_ref().is_none_or(|part| record.spec.name.to_lowercase().contains(&part.to_lowercase()))
    }
}

/// Reader of the tables.
#[derive(Clone)]
pub struct AgentTable {
    views: Views,
}

impl AgentTable {
    /// Returns a reader of these views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// Returns the record of an agent; `None` if there is no such agent.
    pub fn get(&self, id: AgentId) -> Result<Option<AgentRecord>, Refused> {
        Ok(self.get_many(&[id])?.pop().flatten())
    }

    /// Returns the records of these agents, in the same order; `None` for each that does not exist.
    pub fn get_many(&self, ids: &[AgentId]) -> Result<Vec<Option<AgentRecord>>, Refused> {
        let read = || -> Result<Vec<Option<AgentRecord>>, ViewError> {
            let txn = self.views.read()?;
            let rows = txn.open_table(ROWS)?;
            ids.iter().map(|id| rows.get(id.as_u128())?.map(|row| Ok(unpack(id.as_u128(), row.value())?)).transpose()).collect()
        };
        read().map_err(unreadable)
    }

    /// Shows every agent that is wanted, in order of creation, one after the other: none is held longer than that takes.
    pub fn each(&self, filter: &AgentFilter, mut see: impl FnMut(AgentRecord)) -> Result<(), Refused> {
        let mut read = || -> Result<(), ViewError> {
            let txn = self.views.read()?;
            for row in txn.open_table(ROWS)?.iter()? {
                let (id, bytes) = row?;
                let record: AgentRecord = unpack(id.value(), bytes.value())?;
                if filter.wants(&record) {
                    see(record);
                }
            }
            Ok(())
        };
        read().map_err(unreadable)
    }

    /// Returns a page of the agents that `filter` wants, in order of creation.
    pub fn page(&self, filter: &AgentFilter, after: Option<AgentId>, first: usize) -> Result<Page<AgentRecord>, Refused> {
        let read = || -> Result<Page<AgentRecord>, ViewError> {
            let txn = self.views.read()?;
            let rows = txn.open_table(ROWS)?;
            let mut page = Page::default();
            let from = after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(after.as_u128()));
            for row in rows.range::<u128>((from, std::ops::Bound::Unbounded))? {
                let (id, bytes) = row?;
                let record: AgentRecord = unpack(id.value(), bytes.value())?;
                if !filter.wants(&record) {
                    continue;
                }
                if page.items.len() == first {
                    page.has_next = true;
                    break;
                }
                let key = AgentId::from_u128(id.value()).to_string();
                page.last_seen = Some(key.clone());
                page.items.push((key, record));
            }
            Ok(page)
        };
        read().map_err(unreadable)
    }

    /// Returns the spec of the agent of this name in a swarm; `None` if there is none. Reads all agents of the swarm.
    pub fn named(&self, swarm: SwarmId, name: &str) -> Result<Option<Arc<hiveward_catalogue::agent::spec::AgentSpec>>, Refused> {
        let filter = AgentFilter { swarm: Some(swarm), ..AgentFilter::default() };
        let page = self.page(&filter, None, usize::MAX)?;
        Ok(page.items.into_iter().map(|(_, record)| record.spec).find(|spec| spec.name == name))
    }
}
