//! Finds tasks in [their tables](super::table), by pages.

use std::collections::BTreeMap;

use hiveward_kernel::{
    body::Label,
    id::{AgentId, SwarmId, TaskId},
    page::Page,
    view::unreadable,
};
use hiveward_runtime::{
    error::Refused,
    ledger::{
        row::unpack,
        view::{ViewError, Views},
    },
};

use super::{
    record::TaskRecord,
    spec::Work,
    status::{Priority, TaskStatus},
    table::{BY_LABEL, BY_PARENT, BY_STATUS, BY_SWARM, COUNTS, ROWS, label_key},
};

/// The wishes of a query for tasks; empty wants all.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub status: Vec<TaskStatus>,
    pub swarm: Option<SwarmId>,
    pub agent: Option<AgentId>,
    pub priority: Vec<Priority>,
    pub label: Vec<Label>,
    pub kind: Option<String>,
    pub title_contains: Option<String>,
    pub parent: Option<TaskId>,
}

impl TaskFilter {
    fn wants(&self, record: &TaskRecord) -> bool {
        let spec = &record.spec;
        (self.status.is_empty() || self.status.contains(&record.status))
            && self.swarm.is_none_or(|swarm| swarm.covers(spec.swarm))
            && self
                .agent
                .is_none_or(|agent| spec.agent == Some(agent) || record.attempts.iter().any(|attempt| attempt.agent == agent))
            && (self.priority.is_empty() || self.priority.contains(&spec.priority))
            && self.label.iter().all(|label| spec.labels.contains(label))
            && self.kind.as_ref().is_none_or(|kind| matches!(&spec.work, Work::Kind { kind: its, .. } if **its == **kind))
            && self.title_contains.as_ref().is_none_or(|part| spec.title.to_lowercase().contains(&part.to_lowercase()))
            && self.parent.is_none_or(|parent| spec.parent.as_ref().is_some_and(|(its, _)| *its == parent))
    }
}

/// The order in which tasks are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskOrder {
    #[default]
    CreatedDesc,
    CreatedAsc,
    /// CRITICAL first; within a priority, oldest first.
    PriorityThenCreated,
}

/// The most rows that one page looks at before it gives back what it found so far, with where to go on.
const ROWS_PER_PAGE_MAX: usize = 20_000;

/// The reader of the tables.
#[derive(Clone)]
pub struct TaskTable {
    pub(super) views: Views,
}

impl TaskTable {
    /// Makes a reader of these views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// Returns a task; `None` if the views have none of this id.
    pub fn get(&self, id: TaskId) -> Result<Option<TaskRecord>, Refused> {
        Ok(self.get_many(&[id])?.pop().flatten())
    }

    /// Returns tasks in the order of `ids`; `None` for one that the views do not have.
    pub fn get_many(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskRecord>>, Refused> {
        let read = || -> Result<Vec<Option<TaskRecord>>, ViewError> {
            let txn = self.views.read()?;
            let rows = txn.open_table(ROWS)?;
            ids.iter().map(|id| rows.get(id.as_u128())?.map(|row| Ok(unpack(id.as_u128(), row.value())?)).transpose()).collect()
        };
        read().map_err(unreadable)
    }

    /// Counts the tasks per status, in the order of `TaskStatus::ALL`; over all shards of a swarm that has several.
    pub fn counts(&self, swarm: SwarmId) -> Result<[u64; 10], Refused> {
        let mut counts = [0; 10];
        for (_, of_shard) in self.counts_by_shard(swarm)? {
            for (sum, count) in counts.iter_mut().zip(of_shard) {
                *sum += count;
            }
        }
        Ok(counts)
    }

    /// Counts the tasks per status of each shard that has or had any.
    pub fn counts_by_shard(&self, swarm: SwarmId) -> Result<BTreeMap<SwarmId, [u64; 10]>, Refused> {
        let read = || -> Result<BTreeMap<SwarmId, [u64; 10]>, ViewError> {
            let txn = self.views.read()?;
            let table = txn.open_table(COUNTS)?;
            let mut counts = BTreeMap::new();
            let covered = swarm.covered();
            for row in table.range((*covered.start(), 0)..=(*covered.end(), u8::MAX))? {
                let (key, count) = row?;
                let (of, status) = key.value();
                let counts: &mut [u64; 10] = counts.entry(SwarmId::from_u128(of)).or_default();
                if let Some(slot) = TaskStatus::ALL.iter().position(|known| *known as u8 == status) {
                    counts[slot] = count.value();
                }
            }
            Ok(counts)
        };
        read().map_err(unreadable)
    }

    /// Returns a page of at most `first` tasks, which begins after the task `after`. A page may be short though more follow:
    /// `last_seen` says where to go on.
    pub fn page(
        &self,
        filter: &TaskFilter,
        order: TaskOrder,
        after: Option<TaskId>,
        first: usize,
    ) -> Result<Page<TaskRecord>, Refused> {
        if order != TaskOrder::PriorityThenCreated {
            return self.read_page(filter, order, after, first).map_err(unreadable);
        }
        let mut from = match after {
            Some(after) => self.get(after)?.map_or(Priority::Critical, |record| record.spec.priority),
            None => Priority::Critical,
        };
        let (mut whole, mut after) = (Page::default(), after);
        loop {
            let wanted = filter.priority.is_empty() || filter.priority.contains(&from);
            if wanted {
                let one = TaskFilter { priority: vec![from], ..filter.clone() };
                let page = self.read_page(&one, TaskOrder::CreatedAsc, after, first - whole.items.len()).map_err(unreadable)?;
                whole.items.extend(page.items);
                whole.last_seen = page.last_seen.or(whole.last_seen);
                whole.has_next = page.has_next;
                if page.has_next {
                    return Ok(whole);
                }
            }
            after = None;
            match Priority::ALL.get(from.index() + 1) {
                Some(next) => from = *next,
                None => return Ok(whole),
            }
        }
    }

    fn read_page(
        &self,
        filter: &TaskFilter,
        order: TaskOrder,
        after: Option<TaskId>,
        first: usize,
    ) -> Result<Page<TaskRecord>, ViewError> {
        use std::ops::Bound::{Excluded, Included};
        let txn = self.views.read()?;
        let rows = txn.open_table(ROWS)?;
        let (low, high) = match (order, after) {
            (_, None) => (Included(0), Included(u128::MAX)),
            (TaskOrder::CreatedDesc, Some(after)) => (Included(0), Excluded(after.as_u128())),
            (_, Some(after)) => (Excluded(after.as_u128()), Included(u128::MAX)),
        };
        let with = |outer: u128| (low.map(|id| (outer, id)), high.map(|id| (outer, id)));
        // The narrowest index that the filter allows, each already in the order of ids.
        let ids: Box<dyn Iterator<Item = Result<u128, ViewError>>> = if let Some(parent) = filter.parent {
            let range = txn.open_table(BY_PARENT)?.range(with(parent.as_u128()))?;
            turned(range.map(|entry| Ok(entry?.0.value().1)), order)
        } else if let Some(label) = filter.label.first() {
            let key = label_key(label);
            let range = (low.map(|id| (key.as_str(), id)), high.map(|id| (key.as_str(), id)));
            let found: Vec<Result<u128, ViewError>> =
                txn.open_table(BY_LABEL)?.range::<(&str, u128)>(range)?.map(|entry| Ok(entry?.0.value().1)).collect();
            turned(found.into_iter(), order)
        } else if !filter.status.is_empty() {
            let table = txn.open_table(BY_STATUS)?;
            let mut merged: Vec<Box<dyn Iterator<Item = Result<u128, ViewError>>>> = Vec::new();
            let mut wanted = filter.status.clone();
            wanted.sort_unstable();
            wanted.dedup();
            for status in wanted {
                let range = table.range((low.map(|id| (status as u8, id)), high.map(|id| (status as u8, id))))?;
                merged.push(turned(range.map(|entry| Ok(entry?.0.value().1)), order));
            }
            Box::new(Merge::new(merged, order))
        } else if let Some(swarm) = filter.swarm {
            let table = txn.open_table(BY_SWARM)?;
            let mut runs: Vec<Ids<'_>> = Vec::new();
            // From one shard that has tasks to the next.
            let covered = swarm.covered();
            let mut next = Some(*covered.start());
            while let Some(from) = next {
                let first = table.range((from, 0)..=(*covered.end(), u128::MAX))?.next().transpose()?;
                let Some(shard) = first.map(|(key, _)| key.value().0) else { break };
                runs.push(turned(table.range(with(shard))?.map(|entry| Ok(entry?.0.value().1)), order));
                next = shard.checked_add(1).filter(|next| covered.contains(next));
            }
            Box::new(Merge::new(runs, order))
        } else {
            turned(rows.range::<u128>((low, high))?.map(|entry| Ok(entry?.0.value())), order)
        };
        let mut page = Page::default();
        for (seen, id) in ids.enumerate() {
            let id = id?;
            if page.items.len() == first || seen == ROWS_PER_PAGE_MAX {
                page.has_next = true;
                break;
            }
            page.last_seen = Some(TaskId::from_u128(id).to_string());
            let Some(row) = rows.get(id)? else { continue };
            let record: TaskRecord = unpack(id, row.value())?;
            if filter.wants(&record) {
                page.items.push((record.id().to_string(), record));
            }
        }
        Ok(page)
    }
}

fn turned<'a, T: 'a>(ids: impl DoubleEndedIterator<Item = T> + 'a, order: TaskOrder) -> Box<dyn Iterator<Item = T> + 'a> {
    match order {
        TaskOrder::CreatedDesc => Box::new(ids.rev()),
        TaskOrder::CreatedAsc | TaskOrder::PriorityThenCreated => Box::new(ids),
    }
}

type Ids<'a> = Box<dyn Iterator<Item = Result<u128, ViewError>> + 'a>;

/// The iterator that makes several ordered runs of ids one.
struct Merge<'a> {
    runs: Vec<std::iter::Peekable<Ids<'a>>>,
    order: TaskOrder,
}

impl<'a> Merge<'a> {
    fn new(runs: Vec<Ids<'a>>, order: TaskOrder) -> Self {
        Self { runs: runs.into_iter().map(Iterator::peekable).collect(), order }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<u128, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut best: Option<(usize, u128)> = None;
        for place in 0..self.runs.len() {
            match self.runs[place].peek() {
                None => {}
                Some(Err(_)) => return self.runs[place].next(),
                Some(&Ok(id)) => {
                    let better = best.is_none_or(|(_, best)| match self.order {
                        TaskOrder::CreatedDesc => id > best,
                        TaskOrder::CreatedAsc | TaskOrder::PriorityThenCreated => id < best,
                    });
                    if better {
                        best = Some((place, id));
                    }
                }
            }
        }
        self.runs[best?.0].next()
    }
}
