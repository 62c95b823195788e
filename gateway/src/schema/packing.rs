//! On how few hosts all VMs could be: a plan that is only looked at.

use async_graphql::{Context, ID, Json, Object, SimpleObject};
use hiveward_actors::client;
use serde_json::{Value, json};

use super::{Result, door, enums::PackingSolver, page};

/// All VMs on as few hosts as can be, by what they were made with. Zones, labels, disks, affinity, and all groups that a VM is
/// kept apart from but its first are not considered: it says what could be saved, and not what may be moved.
pub struct PackingPlan(client::PackingPlan);

#[Object]
impl PackingPlan {
    /// That made it.
    async fn solver(&self) -> &str {
        self.0.solver
    }
    async fn vms(&self) -> usize {
        self.0.vms
    }
    /// Those that take VMs now.
    async fn hosts(&self) -> usize {
        self.0.hosts
    }
    /// With a VM on them now.
    async fn hosts_used(&self) -> usize {
        self.0.hosts_used
    }
    /// No plan needs fewer: the scarcer resource alone needs that many.
    async fn hosts_least(&self) -> usize {
        self.0.hosts_least
    }
    async fn hosts_planned(&self) -> usize {
        self.0.hosts_planned
    }
    /// VMs that it has no place for.
    async fn unplaced(&self) -> usize {
        self.0.unplaced
    }
    /// How many hosts the best plan needs; absent where that cannot be worked out.
    async fn hosts_best(&self) -> Option<usize> {
        self.0.gap.map(|gap| gap.hosts_best)
    }
    /// Hosts with what it puts on them.
    async fn packed(&self, first: Option<i32>) -> Result<Vec<PackedHost>> {
        let packed = |packed: &client::PackedHost| PackedHost {
            host: packed.host.to_string().into(),
            name: packed.name.clone(),
            vms: packed.vms.clone(),
        };
        Ok(self.0.packed.iter().take(page::first(first)?).map(packed).collect())
    }
    /// The problem as a quadratic unconstrained binary one: `variables` by name, and `terms` `[i, j, weight]`. Absent if it has
    /// too many variables, or was not asked for.
    async fn qubo(&self) -> Option<Json<Value>> {
        let (qubo, variables) = self.0.qubo.as_ref()?;
        Some(Json(json!({ "variables": variables, "terms": qubo.terms })))
    }
}

#[derive(SimpleObject)]
pub struct PackedHost {
    host: ID,
    name: String,
    /// By name.
    vms: Vec<String>,
}

#[derive(Default)]
pub struct PackingQuery;

#[Object]
impl PackingQuery {
    /// On how few hosts all VMs could be. Changes nothing; one is made at a time.
    async fn packing_plan(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "PackingSolver::Annealing")] solver: PackingSolver,
        #[graphql(default)] with_qubo: bool,
    ) -> Result<PackingPlan> {
        Ok(PackingPlan(door(ctx)?.packing_plan(solver.into(), with_qubo).await?))
    }
}
