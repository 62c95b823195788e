//! Rows of the views: tasks, agents and swarms, one by one and in pages, as far as the caller sees them.

use hiveward_agents::{record::AgentRecord, table::AgentFilter};
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, ProjectId, SwarmId, TaskId},
    page::Page,
};
use hiveward_runtime::error::Refused;
use hiveward_work::{
    swarm::{record::SwarmRecord, table::SwarmFilter},
    task::{
        record::TaskRecord,
        search::{TaskFilter, TaskOrder},
    },
};

use super::{ControlPlane, query::page_key};

impl ControlPlane {
    /// Returns a task as this node's views have it.
    pub fn task(&self, id: TaskId) -> Result<Option<TaskRecord>, Refused> {
        Ok(self.house.work.tasks.get(id)?.filter(|record| self.sees_task(record)))
    }

    /// Returns a task; `None` only while the views, whose lag is read first, may not have it yet. Once they would, it is an
    /// error.
    pub(super) fn known_task(&self, id: TaskId) -> Result<Option<TaskRecord>, Refused> {
        let behind = self.house.views.lag() > 0;
        let found = self.task(id)?;
        if found.is_none() && !behind { Err(Refused::not_found(id)) } else { Ok(found) }
    }

    pub fn tasks_by_id(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskRecord>>, Refused> {
        let found = self.house.work.tasks.get_many(ids)?;
        Ok(found.into_iter().map(|record| record.filter(|record| self.sees_task(record))).collect())
    }

    pub fn agent(&self, id: AgentId) -> Result<Option<AgentRecord>, Refused> {
        Ok(self.house.agent_table.get(id)?.filter(|record| self.sees_agent(record)))
    }

    pub fn agents_by_id(&self, ids: &[AgentId]) -> Result<Vec<Option<AgentRecord>>, Refused> {
        let found = self.house.agent_table.get_many(ids)?;
        Ok(found.into_iter().map(|record| record.filter(|record| self.sees_agent(record))).collect())
    }

    pub fn swarm(&self, id: SwarmId) -> Result<Option<SwarmRecord>, Refused> {
        Ok(self.house.swarm_table.get(id)?.filter(|record| self.sees(record.spec.id)))
    }

    pub fn swarms_by_id(&self, ids: &[SwarmId]) -> Result<Vec<Option<SwarmRecord>>, Refused> {
        let found = self.house.swarm_table.get_many(ids)?;
        Ok(found.into_iter().map(|record| record.filter(|record| self.sees(record.spec.id))).collect())
    }

    pub fn swarm_named(&self, name: &str) -> Result<Option<SwarmRecord>, Refused> {
        let page = self.house.swarm_table.page(&SwarmFilter::default(), None, usize::MAX)?;
        let here = |swarm| self.house.directory.project_of(Entity::Swarm(swarm)).unwrap_or(ProjectId::DEFAULT) == self.project();
        let mut named = page.items.into_iter().map(|(_, record)| record).filter(|record| record.spec.name == name);
        Ok(named.find(|record| here(record.spec.id) && self.sees(record.spec.id)))
    }

    pub fn agent_named(&self, swarm: SwarmId, name: &str) -> Result<Option<AgentRecord>, Refused> {
        let filter = AgentFilter { swarm: Some(swarm), ..AgentFilter::default() };
        let page = self.house.agent_table.page(&filter, None, usize::MAX)?;
        let mut named = page.items.into_iter().map(|(_, record)| record).filter(|record| record.spec.name == name);
        Ok(named.find(|record| self.sees_agent(record)))
    }

    pub fn tasks(
        &self,
        filter: &TaskFilter,
        order: TaskOrder,
        after: Option<&str>,
        first: usize,
    ) -> Result<Page<TaskRecord>, Refused> {
        let read =
            |after: Option<&str>, first| self.house.work.tasks.page(filter, order, after.map(page_key).transpose()?, first);
        self.seen_page(after, first, read, |record| self.sees_task(record))
    }

    pub fn agents(&self, filter: &AgentFilter, after: Option<&str>, first: usize) -> Result<Page<AgentRecord>, Refused> {
        let read = |after: Option<&str>, first| self.house.agent_table.page(filter, after.map(page_key).transpose()?, first);
        self.seen_page(after, first, read, |record| self.sees_agent(record))
    }

    pub fn swarms(&self, filter: &SwarmFilter, after: Option<&str>, first: usize) -> Result<Page<SwarmRecord>, Refused> {
        let read = |after: Option<&str>, first| self.house.swarm_table.page(filter, after.map(page_key).transpose()?, first);
        self.seen_page(after, first, read, |record| self.sees(record.spec.id))
    }
}
