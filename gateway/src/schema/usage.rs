//! What calls of language models used, and what they cost.

use async_graphql::{Context, Enum, Object, SimpleObject, dataloader::DataLoader};
use hiveward_catalogue::budget::Scope;
use hiveward_kernel::lease::Lease;
use hiveward_models::{
    price::decimal_from_nanos,
    table::{self, Total},
};

use super::{
    Result, caught_up, door,
    load::Views,
    page::{self, Pages},
    scalars::{BigInt, Cursor},
};

/// A sum of money.
#[derive(SimpleObject, Clone)]
pub struct Money {
    /// A decimal, such as `3.75`.
    pub amount: String,
    pub currency: String,
}

impl Money {
    pub fn of(nanos: u64, currency: &str) -> Self {
        Self { amount: decimal_from_nanos(nanos), currency: currency.to_owned() }
    }
}

/// What calls of models used together. Kinds of tokens do not overlap.
#[derive(SimpleObject, Clone)]
pub struct Usage {
    calls: BigInt,
    input: BigInt,
    output: BigInt,
    cache_read: BigInt,
    cache_write: BigInt,
    /// Absent if one of the calls has no price.
    money: Option<Money>,
    /// Calls that were cut before they had said all they used; the rest of it is not known.
    incomplete: BigInt,
}

impl From<&Total> for Usage {
    fn from(total: &Total) -> Self {
        Self {
            calls: BigInt(total.calls),
            input: BigInt(total.usage.input),
            output: BigInt(total.usage.output),
            cache_read: BigInt(total.usage.cache_read),
            cache_write: BigInt(total.usage.cache_write),
            money: total.money().map(|(nanos, currency)| Money::of(nanos, currency)),
            incomplete: BigInt(total.incomplete),
        }
    }
}

/// What was used of one model.
#[derive(SimpleObject)]
pub struct ModelUsage {
    model: String,
    #[graphql(flatten)]
    usage: Usage,
}

/// A line of the account.
#[derive(SimpleObject)]
pub struct UsageLine {
    /// The agent's or the swarm's id, the label as `key=value`, or the model's name.
    id: String,
    /// Of the agent or the swarm, while there is one.
    name: Option<String>,
    #[graphql(flatten)]
    usage: Usage,
}

impl From<(String, Option<String>, Total)> for UsageLine {
    fn from((id, name, total): (String, Option<String>, Total)) -> Self {
        Self { id, name, usage: Usage::from(&total) }
    }
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "table::UsageBy")]
pub enum UsageBy {
    Agent,
    Swarm,
    Label,
    Model,
}

/// Of an agent, a swarm or a label; none if no model was called for it.
pub(super) async fn total(ctx: &Context<'_>, scope: Scope) -> Result<Option<Usage>> {
    let views: &DataLoader<Views> = ctx.data()?;
    Ok(views.load_one(scope).await?.as_deref().map(Usage::from))
}

pub(super) async fn of_attempt(ctx: &Context<'_>, lease: Lease) -> Result<Vec<ModelUsage>> {
    let views: &DataLoader<Views> = ctx.data()?;
    let by_model = views.load_one(lease).await?;
    let line = |(model, total): &(String, Total)| ModelUsage { model: model.clone(), usage: Usage::from(total) };
    Ok(by_model.iter().flat_map(|by_model| by_model.iter()).map(line).collect())
}

#[derive(Default)]
pub struct UsageQuery;

#[Object]
impl UsageQuery {
    /// What calls of models used in the whole cluster, as far as this node has heard; in the order of ids.
    async fn usage(
        &self,
        ctx: &Context<'_>,
        by: UsageBy,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<UsageLine>> {
        caught_up(ctx, at_least).await?;
        let control = door(ctx)?;
        let found = control.usage(by.into(), after.as_deref(), page::first(first)?)?;
        let ids: Vec<&str> = found.items.iter().map(|(id, _)| id.as_str()).collect();
        let names: Vec<Option<String>> = match by {
            UsageBy::Agent => {
                let ids: Vec<_> = ids.iter().filter_map(|id| id.parse().ok()).collect();
                control.agents_by_id(&ids)?.into_iter().map(|agent| Some(agent?.spec.name.clone())).collect()
            }
            UsageBy::Swarm => {
                let ids: Vec<_> = ids.iter().filter_map(|id| id.parse().ok()).collect();
                control.swarms_by_id(&ids)?.into_iter().map(|swarm| Some(swarm?.spec.name.clone())).collect()
            }
            UsageBy::Label | UsageBy::Model => vec![None; ids.len()],
        };
        let lines = found.items.into_iter().zip(names);
        let items = lines.map(|((id, total), name)| (id.clone(), (id, name, total))).collect();
        let found = hiveward_kernel::page::Page { items, has_next: found.has_next, last_seen: found.last_seen };
        Ok(page::connection(found, after.as_deref()))
    }
}
