//! Swarms: their type, queries and mutations.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{self, NewSwarm, ShardView};
use hiveward_catalogue::{budget::Scope, placement::Weights as PlacementWeights, swarm::SwarmSpec};
use hiveward_kernel::entity::Entity;
use hiveward_runtime::error::Refused;
use hiveward_work::{swarm::record::SwarmRecord, task};

use super::{
    Result,
    access::Project,
    agent::{self, Agent, AgentFields, AgentFilter},
    caught_up,
    cluster::ClusterNode,
    door, door_in,
    enums::{PlacementStrategy, TaskOrder, TaskStatus, Topology},
    op, op_in,
    page::{self, Pages},
    parse,
    scalars::{BigInt, Cursor, DateTime},
    task::{self as tasks, Task, TaskFilter},
    usage::{self, Usage},
};

/// Agents with a coordinator and its queue of tasks.
#[derive(Clone)]
pub struct Swarm(pub Arc<SwarmRecord>);

impl From<SwarmRecord> for Swarm {
    fn from(record: SwarmRecord) -> Self {
        Self(Arc::new(record))
    }
}

#[Object]
impl Swarm {
    pub(super) async fn id(&self) -> ID {
        self.0.spec.id.to_string().into()
    }
    async fn name(&self) -> &str {
        &self.0.spec.name
    }
    /// The project that it belongs to, with its tasks and agents.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        Project::of(ctx, Entity::Swarm(self.0.spec.id))
    }
    /// What calls of models for its tasks used; absent if there were none.
    async fn usage(&self, ctx: &Context<'_>) -> Result<Option<Usage>> {
        usage::total(ctx, Scope::Swarm(self.0.spec.id.head())).await
    }
    async fn topology(&self) -> Topology {
        self.0.spec.topology.into()
    }
    async fn strategy(&self) -> PlacementStrategy {
        self.0.spec.strategy.into()
    }
    async fn weights(&self) -> Weights {
        let weights = &self.0.spec.weights;
        Weights {
            specialisation: weights.specialisation,
            success: weights.success,
            free: weights.free,
            max_load: weights.load_max,
        }
    }
    /// Tasks that are not ended; more are refused.
    async fn max_queued(&self) -> u32 {
        self.0.spec.queued_max
    }
    async fn max_running(&self) -> Option<u32> {
        self.0.spec.running_max
    }
    async fn agent_count(&self) -> u32 {
        self.0.agents
    }
    async fn task_counts(&self) -> Vec<TaskCount> {
        let counts = task::TaskStatus::ALL.into_iter().zip(self.0.tasks);
        counts.map(|(status, count)| TaskCount { status: status.into(), count: BigInt(count) }).collect()
    }
    /// Its coordinators, which share its tasks and give each other those that have not begun. Most swarms have one.
    async fn shards(&self, ctx: &Context<'_>) -> Result<Vec<SwarmShard>> {
        Ok(door(ctx)?.shards(self.0.spec.id)?.into_iter().map(SwarmShard).collect())
    }
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }
    async fn cursor(&self) -> Cursor {
        hiveward_runtime::ledger::Cursor(self.0.cursor).into()
    }
    async fn agents(
        &self,
        ctx: &Context<'_>,
        filter: Option<AgentFilter>,
        first: Option<i32>,
        after: Option<String>,
    ) -> Result<Pages<Agent>> {
        let id = self.0.spec.id;
        agent::list(ctx, filter.unwrap_or_default(), |filter| filter.swarm = Some(id), first, after.as_deref())
    }
    async fn tasks(
        &self,
        ctx: &Context<'_>,
        filter: Option<TaskFilter>,
        order_by: Option<TaskOrder>,
        first: Option<i32>,
        after: Option<String>,
    ) -> Result<Pages<Task>> {
        let id = self.0.spec.id;
        tasks::list(ctx, filter.unwrap_or_default(), |filter| filter.swarm = Some(id), order_by, first, after.as_deref())
    }
}

/// One coordinator of a swarm.
pub struct SwarmShard(ShardView);

#[Object]
impl SwarmShard {
    /// From 0.
    async fn number(&self) -> u32 {
        self.0.number.into()
    }
    /// Where it is; null while it is placed nowhere.
    async fn node(&self, ctx: &Context<'_>) -> Result<Option<ClusterNode>> {
        let control = door(ctx)?;
        Ok(self.0.node.and_then(|node| ClusterNode::find(control, node)))
    }
    async fn node_id(&self) -> Option<ID> {
        self.0.node.map(|node| node.to_string().into())
    }
    /// Agents that belong to it.
    async fn agent_count(&self) -> u32 {
        self.0.agents
    }
    /// Tasks that wait, for an agent or before that for a dependency or a time.
    async fn queued(&self) -> BigInt {
        BigInt(self.0.queued)
    }
    /// Tasks that are leased to an agent.
    async fn running(&self) -> BigInt {
        BigInt(self.0.running)
    }
}

#[derive(SimpleObject)]
pub struct TaskCount {
    status: TaskStatus,
    count: BigInt,
}

/// Of the skill formula, and the load from which an agent is left out.
#[derive(SimpleObject)]
pub struct Weights {
    specialisation: f64,
    success: f64,
    free: f64,
    max_load: f64,
}

#[derive(InputObject)]
pub struct CreateSwarmInput {
    operation_id: Option<ID>,
    /// Unique in its project.
    name: String,
    /// By key or name; the caller's own if absent, or else `default`.
    project: Option<ID>,
    #[graphql(default_with = "Topology::Hierarchical")]
    topology: Topology,
    strategy: Option<PlacementStrategy>,
    weights: Option<WeightsInput>,
    max_queued: Option<i32>,
    max_running: Option<i32>,
    /// Coordinators that share its tasks, on several nodes where there are several; 1 to 64, and then for good. A task and
    /// what it waits for are in one of them.
    #[graphql(default = 1)]
    shards: i32,
}

#[derive(InputObject)]
pub struct WeightsInput {
    specialisation: Option<f64>,
    success: Option<f64>,
    free: Option<f64>,
    max_load: Option<f64>,
}

impl WeightsInput {
    fn parse(self) -> Result<PlacementWeights, Refused> {
        let usual = PlacementWeights::default();
        let weights = PlacementWeights {
            specialisation: self.specialisation.unwrap_or(usual.specialisation),
            success: self.success.unwrap_or(usual.success),
            free: self.free.unwrap_or(usual.free),
            load_max: self.max_load.unwrap_or(usual.load_max),
        };
        for (name, value) in [
            ("specialisation", weights.specialisation),
            ("success", weights.success),
            ("free", weights.free),
            ("maxLoad", weights.load_max),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Refused::invalid(format!("weights.{name}"), "0 to 1"));
            }
        }
        Ok(weights)
    }
}

#[derive(SimpleObject)]
pub struct CreateSwarmPayload {
    swarm: Swarm,
    cursor: Cursor,
}

#[derive(InputObject)]
pub struct ScaleSwarmInput {
    operation_id: Option<ID>,
    /// By key or name.
    swarm: ID,
    /// How many agents it shall have.
    agents: i32,
    /// What new agents are like; a copy of the last one if absent.
    template: Option<AgentTemplateInput>,
}

#[derive(InputObject)]
pub struct AgentTemplateInput {
    /// Their names begin with this and end with a number.
    #[graphql(default_with = "String::from(\"agent\")")]
    name: String,
    #[graphql(flatten)]
    agent: AgentFields,
}

#[derive(SimpleObject)]
pub struct ScaleSwarmPayload {
    swarm: Swarm,
    cursor: Cursor,
}

#[derive(InputObject)]
pub struct RemoveSwarmInput {
    operation_id: Option<ID>,
    /// By key or name.
    swarm: ID,
    /// Even while it has tasks or agents; tasks are cancelled, agents removed.
    #[graphql(default)]
    force: bool,
}

#[derive(SimpleObject)]
pub struct RemoveSwarmPayload {
    swarm: Swarm,
    cursor: Cursor,
}

#[derive(InputObject, Default)]
pub struct SwarmFilter {
    name_contains: Option<String>,
}

#[derive(Default)]
pub struct SwarmQuery;

#[Object]
impl SwarmQuery {
    async fn swarms(
        &self,
        ctx: &Context<'_>,
        filter: Option<SwarmFilter>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Swarm>> {
        caught_up(ctx, at_least).await?;
        let filter = client::SwarmFilter { name_contains: filter.unwrap_or_default().name_contains };
        Ok(page::connection(door(ctx)?.swarms(&filter, after.as_deref(), page::first(first)?)?, after.as_deref()))
    }
}

#[derive(Default)]
pub struct SwarmMutation;

#[Object]
impl SwarmMutation {
    async fn create_swarm(&self, ctx: &Context<'_>, input: CreateSwarmInput) -> Result<CreateSwarmPayload> {
        let control = door_in(ctx, input.project.as_ref())?;
        let new = NewSwarm {
            name: parse::name("name", input.name)?,
            topology: input.topology.into(),
            strategy: input.strategy.map_or_else(Default::default, Into::into),
            weights: input.weights.map(WeightsInput::parse).transpose()?.unwrap_or_default(),
            queued_max: parse::optional_natural("maxQueued", input.max_queued)?.unwrap_or(SwarmSpec::QUEUED_MAX_DEFAULT),
            running_max: parse::optional_natural("maxRunning", input.max_running)?,
            node_labels: Default::default(),
            node: None,
            shards: parse::natural("shards", input.shards)?,
        };
        let done = control.create_swarm(op_in(ctx, &control, input.operation_id.as_ref())?, new).await?;
        Ok(CreateSwarmPayload { swarm: done.value.into(), cursor: done.cursor.into() })
    }

    /// Adds agents of the template, or removes the last ones, until there are `agents`.
    async fn scale_swarm(&self, ctx: &Context<'_>, input: ScaleSwarmInput) -> Result<ScaleSwarmPayload> {
        let control = door(ctx)?;
        let id = parse::swarm_id(control, "swarm", &input.swarm)?;
        let agents = parse::natural("agents", input.agents)?;
        let template = input.template.map(|template| {
            let name = parse::name("template.name", template.name)?;
            template.agent.parse("template", name, Some(client::SwarmRef::Id(id)))
        });
        let done = control.scale_swarm(op(ctx, input.operation_id.as_ref())?, id, agents, template.transpose()?).await?;
        Ok(ScaleSwarmPayload { swarm: done.value.into(), cursor: done.cursor.into() })
    }

    async fn remove_swarm(&self, ctx: &Context<'_>, input: RemoveSwarmInput) -> Result<RemoveSwarmPayload> {
        let control = door(ctx)?;
        let id = parse::swarm_id(control, "swarm", &input.swarm)?;
        let done = control.remove_swarm(op(ctx, input.operation_id.as_ref())?, id, input.force).await?;
        Ok(RemoveSwarmPayload { swarm: done.value.into(), cursor: done.cursor.into() })
    }
}
