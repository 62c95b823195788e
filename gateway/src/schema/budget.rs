//! Budgets: what calls of language models for an agent, a swarm or a label may use.

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{BudgetView, SwarmRef};
use hiveward_catalogue::budget::{Amount, Scope};
use hiveward_kernel::id::BudgetId;
use hiveward_models::price::nanos_from_decimal;
use hiveward_runtime::error::Refused;

use super::{
    Result,
    agent::Agent,
    caught_up, door, op,
    page::{self, Pages},
    parse,
    scalars::{BigInt, Cursor},
    swarm::Swarm,
    task,
    task_input::LabelInput,
    usage::Money,
};

/// What calls of models for one agent, swarm or label may use, counted from when it was first set.
pub struct Budget(BudgetView);

impl From<BudgetView> for Budget {
    fn from(view: BudgetView) -> Self {
        Self(view)
    }
}

/// Tokens of all kinds, and money.
#[derive(SimpleObject)]
pub struct BudgetAmount {
    tokens: Option<BigInt>,
    money: Option<Money>,
}

impl BudgetAmount {
    fn of(ctx: &Context<'_>, tokens: Option<u64>, nanos: Option<u64>) -> Result<Self> {
        let currency = door(ctx)?.currency();
        Ok(Self { tokens: tokens.map(BigInt), money: nanos.map(|nanos| Money::of(nanos, &currency)) })
    }
}

#[Object]
impl Budget {
    async fn id(&self) -> ID {
        self.0.scope.budget_id().to_string().into()
    }
    /// The id of the agent or the swarm, or the label as `key=value`.
    async fn scope(&self) -> String {
        self.0.scope.key()
    }
    /// If it is of an agent that is still there.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<Agent>> {
        let Scope::Agent(agent) = self.0.scope else { return Ok(None) };
        task::agent(ctx, agent).await
    }
    /// If it is of a swarm that is still there.
    async fn swarm(&self, ctx: &Context<'_>) -> Result<Option<Swarm>> {
        let Scope::Swarm(swarm) = self.0.scope else { return Ok(None) };
        Ok(door(ctx)?.swarm(swarm)?.map(Into::into))
    }
    async fn limit(&self, ctx: &Context<'_>) -> Result<BudgetAmount> {
        BudgetAmount::of(ctx, self.0.budget.tokens, self.0.budget.nanos)
    }
    /// In the whole cluster, as far as this node has heard. What a call cost that has no price counts as what it may have
    /// cost; money is absent where it has no limit.
    async fn spent(&self, ctx: &Context<'_>) -> Result<BudgetAmount> {
        self.amount(ctx, self.0.spent)
    }
    /// Set aside for calls that are under way on this node; absent where no models can be called.
    async fn reserved(&self, ctx: &Context<'_>) -> Result<Option<BudgetAmount>> {
        self.0.reserved.map(|reserved| self.amount(ctx, reserved)).transpose()
    }
    async fn warn_percent(&self) -> Option<u8> {
        self.0.budget.warn_percent
    }
    /// What is spent has come to what it warns at.
    async fn warned(&self) -> bool {
        self.0.warned
    }
}

impl Budget {
    fn amount(&self, ctx: &Context<'_>, amount: Amount) -> Result<BudgetAmount> {
        BudgetAmount::of(ctx, Some(amount.tokens), amount.nanos.filter(|_| self.0.budget.nanos.is_some()))
    }
}

#[derive(Default)]
pub struct BudgetQuery;

#[Object]
impl BudgetQuery {
    async fn budgets(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Budget>> {
        caught_up(ctx, at_least).await?;
        let from: Option<BudgetId> = after.as_deref().map(|after| parse::id("after", &after.into())).transpose()?;
        Ok(page::connection(door(ctx)?.budgets(from, page::first(first)?)?, after.as_deref()))
    }
}

/// Of an agent, a swarm or a label: one of them.
#[derive(InputObject)]
pub struct SetBudgetInput {
    operation_id: Option<ID>,
    agent: Option<ID>,
    /// Its id or name.
    swarm: Option<ID>,
    label: Option<LabelInput>,
    /// Of all kinds together.
    tokens: Option<BigInt>,
    /// A decimal in the currency of the price table, such as `20` or `3.75`.
    money: Option<String>,
    /// Of either limit: that it is reached is told once, by an event.
    warn_percent: Option<i32>,
}

#[derive(InputObject)]
pub struct RemoveBudgetInput {
    operation_id: Option<ID>,
    agent: Option<ID>,
    /// Its id or name.
    swarm: Option<ID>,
    label: Option<LabelInput>,
}

#[derive(SimpleObject)]
pub struct SetBudgetPayload {
    budget: Budget,
    cursor: Cursor,
}

#[derive(SimpleObject)]
pub struct RemoveBudgetPayload {
    /// Of the budget that is no more.
    id: ID,
    cursor: Cursor,
}

fn scope(ctx: &Context<'_>, agent: Option<&ID>, swarm: Option<&ID>, label: Option<LabelInput>) -> Result<Scope, Refused> {
    match (agent, swarm, label) {
        (Some(agent), None, None) => Ok(Scope::Agent(parse::id("agent", agent)?)),
        (None, Some(swarm), None) => {
            let control = door(ctx).map_err(|error| Refused::invalid("swarm", error.message))?;
            let id = match parse::swarm("swarm", swarm)? {
                SwarmRef::Id(id) => control.swarm(id)?.ok_or_else(|| Refused::not_found(id))?.spec.id,
                SwarmRef::Name(_) => parse::swarm_id(control, "swarm", swarm)?,
            };
            Ok(Scope::Swarm(id.head()))
        }
        (None, None, Some(LabelInput { key, value })) if !key.contains('=') => Ok(Scope::Label(format!("{key}={value}"))),
        (None, None, Some(_)) => Err(Refused::invalid("label.key", "a key without `=`")),
        _ => Err(Refused::invalid("agent", "a budget is of one `agent`, one `swarm` or one `label`")),
    }
}

#[derive(Default)]
pub struct BudgetMutation;

#[Object]
impl BudgetMutation {
    /// Also changes one that is set: what was spent of it stays spent.
    async fn set_budget(&self, ctx: &Context<'_>, input: SetBudgetInput) -> Result<SetBudgetPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let scope = scope(ctx, input.agent.as_ref(), input.swarm.as_ref(), input.label)?;
        let nanos = input.money.map(|money| {
            nanos_from_decimal(&money)
                .ok_or_else(|| Refused::invalid("money", format!("{money:?} is no sum; write it as `3.75`")))
        });
        let budget = hiveward_catalogue::budget::Budget {
            tokens: input.tokens.map(|tokens| tokens.0),
            nanos: nanos.transpose()?,
            warn_percent: parse::optional_byte("warnPercent", input.warn_percent)?,
        };
        let done = door(ctx)?.set_budget(op, scope, budget).await?;
        Ok(SetBudgetPayload { budget: done.value.into(), cursor: done.cursor.into() })
    }

    async fn remove_budget(&self, ctx: &Context<'_>, input: RemoveBudgetInput) -> Result<RemoveBudgetPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let scope = scope(ctx, input.agent.as_ref(), input.swarm.as_ref(), input.label)?;
        let done = door(ctx)?.remove_budget(op, scope).await?;
        Ok(RemoveBudgetPayload { id: done.value.to_string().into(), cursor: done.cursor.into() })
    }
}
