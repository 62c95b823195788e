//! The GraphQL schema: one file per noun, each with its types, queries and mutations.
//!
//! Parses input once into the control plane's own types and calls it; decides nothing and keeps nothing. A field that is
//! needed for every row of a page goes through a loader in `load`.

pub mod access;
mod access_input;
pub mod agent;
mod artifact;
mod attempt;
pub mod balance;
pub mod budget;
pub mod cluster;
pub mod coding;
pub mod coding_input;
pub mod enums;
pub mod event;
pub mod fault;
pub mod host;
pub mod image;
pub mod load;
mod machine;
pub mod metering;
pub mod metrics;
pub mod network;
pub mod node;
pub mod output;
pub mod packing;
pub mod page;
pub mod parse;
pub mod preset;
pub mod scalars;
pub mod scatter;
pub mod select;
pub mod storage;
pub mod swarm;
pub mod task;
pub mod task_input;
pub mod tree;
mod typed;
pub mod usage;
pub mod vm;

use std::sync::Arc;

use async_graphql::{Context, MergedObject, MergedSubscription, Schema, SchemaBuilder};
use hiveward_actors::client::ControlPlane;
use hiveward_runtime::{clock::Deadline, error::Refused, op::Op};

use crate::{
    auth::verbs,
    bound::Bounds,
    engine::{Caller, Engine},
    history::History,
};

#[derive(MergedObject, Default)]
pub struct Query(
    node::NodeQuery,
    task::TaskQuery,
    agent::AgentQuery,
    swarm::SwarmQuery,
    event::EventQuery,
    tree::TreeQuery,
    cluster::ClusterQuery,
    fault::FaultQuery,
    coding::CodingQuery,
    preset::PresetQuery,
    usage::UsageQuery,
    budget::BudgetQuery,
    host::HostQuery,
    image::ImageQuery,
    network::NetworkQuery,
    vm::VmQuery,
    vm::BackupQuery,
    metrics::MetricsQuery,
    metering::MeteringQuery,
    select::SelectQuery,
    balance::BalanceQuery,
    storage::StorageQuery,
    packing::PackingQuery,
    access::AccessQuery,
);

#[derive(MergedObject, Default)]
pub struct Mutation(
    task::TaskMutation,
    scatter::ScatterMutation,
    agent::AgentMutation,
    swarm::SwarmMutation,
    cluster::ClusterMutation,
    fault::FaultMutation,
    coding::CodingMutation,
    budget::BudgetMutation,
    host::HostMutation,
    image::ImageMutation,
    network::NetworkMutation,
    vm::VmMutation,
    vm::ConsoleMutation,
    vm::BackupMutation,
    vm::GuestMutation,
    balance::BalanceMutation,
    vm::ShapeMutation,
    vm::CopyMutation,
    storage::StorageMutation,
    access::AccessMutation,
);

#[derive(MergedSubscription, Default)]
pub struct Subscription(
    event::EventFeed,
    output::OutputFeed,
    tree::TreeFeed,
    metrics::MetricsFeed,
    coding::CodingFeed,
    vm::ConsoleFeed,
);

pub type HivewardSchema = Schema<Query, Mutation, Subscription>;

fn builder() -> SchemaBuilder<Query, Mutation, Subscription> {
    // The limits of `crate::limit` are checked before, those of `crate::bound` while an answer is made; the parser's own recursion limit stays as a second line.
    Schema::build(Query::default(), Mutation::default(), Subscription::default())
        .disable_suggestions()
        .extension(Bounds)
        .extension(typed::Typed)
}

/// The schema over a node's control plane. It also takes samples of it, for as long as it lives.
pub fn build(control: ControlPlane) -> HivewardSchema {
    let tail = crate::stream::tail::SharedTail::new(control.clone());
    let history = Arc::new(History::start(control.clone()));
    builder().data(Arc::new(tail)).data(history).data(Whole(control)).finish()
}

/// The control plane of the node itself, from which that of each caller is made. Resolvers have only the caller's.
pub struct Whole(ControlPlane);

impl Whole {
    /// Gives a request the control plane and the loaders of the one who made it. Errors: it names a project that he cannot see.
    pub fn of_caller(&self, request: async_graphql::Request) -> Result<async_graphql::Request, Refused> {
        let caller = request.data.get(&std::any::TypeId::of::<Caller>()).and_then(|caller| caller.downcast_ref::<Caller>());
        let Some(caller) = caller else { return Ok(request) };
        let project = self.0.project_for(&caller.principal, caller.project.as_deref())?;
        let control = self.0.of(caller.principal.clone(), project);
        Ok(request.data(load::loaders(control.clone())).data(control))
    }
}

/// Returns the engine over a node's control plane. What executes queries is compiled here, and not again in each program that
/// serves them.
pub fn engine(control: ControlPlane) -> Arc<dyn Engine> {
    Arc::new(build(control))
}

/// The schema as text, as committed in `gateway/schema.graphql`.
pub fn sdl() -> String {
    builder()
        .finish()
        .sdl_with_options(async_graphql::SDLExportOptions::new().sorted_fields().sorted_arguments().sorted_enum_items())
}

/// The result of a resolver; a [`Refused`] becomes an error with its code.
pub type Result<T, E = async_graphql::Error> = std::result::Result<T, E>;

pub(crate) fn door<'a>(ctx: &Context<'a>) -> Result<&'a ControlPlane> {
    ctx.data()
}

pub(crate) fn caller<'a>(ctx: &Context<'a>) -> Result<&'a Caller> {
    ctx.data()
}

/// Stamps a mutation: who, under which operation id, by when.
pub(crate) fn op(ctx: &Context<'_>, operation_id: Option<&async_graphql::ID>) -> Result<Op> {
    op_in(ctx, door(ctx)?, operation_id)
}

/// Stamps a mutation as [`op`] does, in the project of a control plane.
pub(crate) fn op_in(ctx: &Context<'_>, control: &ControlPlane, operation_id: Option<&async_graphql::ID>) -> Result<Op> {
    let caller = caller(ctx)?;
    if let Some(id) = operation_id
        && (id.is_empty() || id.len() > 128)
    {
        return Err(Refused::invalid("operationId", "an operation id has 1 to 128 bytes").into());
    }
    Ok(Op {
        operation: operation_id.map(|id| control.scoped(id.as_str())),
        principal: caller.principal.name.clone(),
        trace: caller.trace,
        deadline: margin(caller.deadline),
        admitted: false,
    })
}

/// A little before the transport's own deadline, so that the answer still says what is known.
fn margin(deadline: Deadline) -> Deadline {
    let left = deadline.remaining();
    deadline.at_most(left - (left / 20).min(std::time::Duration::from_millis(200)))
}

/// Waits until the views have reached `at_least`, if the query asks for it.
pub(crate) async fn caught_up(ctx: &Context<'_>, at_least: Option<scalars::Cursor>) -> Result<()> {
    if let Some(scalars::Cursor(cursor)) = at_least {
        let op = op(ctx, None)?;
        door(ctx)?.at_least(&op, cursor).await?;
    }
    Ok(())
}

/// Refuses a subscription to who may not open it. Queries and mutations are looked at before their resolvers run.
pub(crate) fn may_open(ctx: &Context<'_>, subscription: &str) -> Result<()> {
    Ok(verbs::admit(door(ctx)?, subscription)?)
}

/// Returns the caller's control plane as it is in another project. Errors: he cannot see that one.
pub(crate) fn door_in(ctx: &Context<'_>, project: Option<&async_graphql::ID>) -> Result<ControlPlane> {
    let (control, who) = (door(ctx)?, caller(ctx)?.principal.clone());
    let Some(project) = project else { return Ok(control.clone()) };
    parse::reference("project", project)?;
    let project = control.project_for(&who, Some(project.as_str()))?;
    Ok(control.of(who, project))
}
