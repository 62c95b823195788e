//! Loaders: what many rows of one answer need is read together, once.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use async_graphql::{
    dataloader::{DataLoader, Loader},
    runtime::Timer,
};
use futures_util::{
    future::BoxFuture,
    task::{FutureObj, Spawn, SpawnError},
};
use hiveward_actors::client::ControlPlane;
use hiveward_agents::record::AgentRecord;
use hiveward_catalogue::budget::Scope;
use hiveward_kernel::{
    id::{AgentId, HostId, SwarmId, TaskId, VmId},
    lease::Lease,
};
use hiveward_machines::host::{driver::Usage, record::HostRecord};
use hiveward_models::table::Total;
use hiveward_runtime::error::Refused;
use hiveward_work::{swarm::record::SwarmRecord, task::record::TaskRecord};

pub struct Views(ControlPlane);

pub type Loaders = DataLoader<Views>;

/// Batches are cut as soon as the executor has nothing else to do: views are local, so there is no round trip to save
/// and waiting a millisecond would cost more than the read.
struct NextTurn;

impl Timer for NextTurn {
    fn delay(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }
}

struct OnTokio;

impl Spawn for OnTokio {
    fn spawn_obj(&self, future: FutureObj<'static, ()>) -> Result<(), SpawnError> {
        // Short-lived: one read of the views, owned by the request that waits for it.
        tokio::spawn(future);
        Ok(())
    }
}

pub fn loaders(control: ControlPlane) -> Loaders {
    DataLoader::new(Views(control), OnTokio, NextTurn)
}

impl Loader<Scope> for Views {
    type Value = Arc<Total>;
    type Error = Refused;

    async fn load(&self, scopes: &[Scope]) -> Result<HashMap<Scope, Self::Value>, Refused> {
        let totals = self.0.usage_of(scopes)?;
        Ok(scopes.iter().cloned().zip(totals).filter_map(|(scope, total)| Some((scope, Arc::new(total?)))).collect())
    }
}

impl Loader<Lease> for Views {
    type Value = Arc<Vec<(String, Total)>>;
    type Error = Refused;

    async fn load(&self, leases: &[Lease]) -> Result<HashMap<Lease, Self::Value>, Refused> {
        leases.iter().map(|lease| Ok((*lease, Arc::new(self.0.usage_of_attempt(*lease)?)))).collect()
    }
}

fn found<K: Copy + Hash + Eq, R>(ids: &[K], records: Vec<Option<R>>) -> HashMap<K, Arc<R>> {
    ids.iter().copied().zip(records).filter_map(|(id, record)| Some((id, Arc::new(record?)))).collect()
}

impl Loader<TaskId> for Views {
    type Value = Arc<TaskRecord>;
    type Error = Refused;

    async fn load(&self, ids: &[TaskId]) -> Result<HashMap<TaskId, Self::Value>, Refused> {
        Ok(found(ids, self.0.tasks_by_id(ids)?))
    }
}

impl Loader<AgentId> for Views {
    type Value = Arc<AgentRecord>;
    type Error = Refused;

    async fn load(&self, ids: &[AgentId]) -> Result<HashMap<AgentId, Self::Value>, Refused> {
        Ok(found(ids, self.0.agents_by_id(ids)?))
    }
}

impl Loader<HostId> for Views {
    type Value = Arc<HostRecord>;
    type Error = Refused;

    async fn load(&self, ids: &[HostId]) -> Result<HashMap<HostId, Self::Value>, Refused> {
        Ok(found(ids, self.0.hosts_by_id(ids)))
    }
}

/// What was measured of a VM on its host.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Measured(pub VmId, pub HostId);

impl Loader<Measured> for Views {
    type Value = Usage;
    type Error = Refused;

    async fn load(&self, wanted: &[Measured]) -> Result<HashMap<Measured, Usage>, Refused> {
        let of: Vec<_> = wanted.iter().map(|Measured(vm, host)| (*vm, *host)).collect();
        let usage = self.0.vm_usage(&of).await;
        Ok(wanted.iter().filter_map(|wanted| Some((*wanted, *usage.get(&wanted.0)?))).collect())
    }
}

impl Loader<SwarmId> for Views {
    type Value = Arc<SwarmRecord>;
    type Error = Refused;

    async fn load(&self, ids: &[SwarmId]) -> Result<HashMap<SwarmId, Self::Value>, Refused> {
        Ok(found(ids, self.0.swarms_by_id(ids)?))
    }
}
