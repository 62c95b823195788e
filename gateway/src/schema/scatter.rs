//! Scatters: one piece of work over many items or agents.

use std::sync::Arc;

use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{NewHedge, NewScatter, Over};
use hiveward_runtime::error::Refused;
use hiveward_work::task::{
    bounds::LABELS_MAX,
    scatter::{self, HedgeAfter, Policy, ScatterSpec},
};

use super::{
    Result, door,
    enums::Aggregate,
    op, parse,
    scalars::Cursor,
    task::Task,
    task_input::{LabelInput, TaskFields, at_most},
};

/// How many of its parts a scatter takes.
#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterPolicy {
    /// All; a part that fails fails the scatter at once.
    All,
    /// `atLeast` of them; the rest is cancelled as soon as they are in.
    AtLeast,
    /// Those that are in when all have ended, or at the deadline; at least one.
    BestEffort,
}

#[derive(InputObject)]
pub struct ScatterInput {
    /// Makes it idempotent: the same id and input give the same answer.
    pub operation_id: Option<ID>,
    /// By key or name; `default` if absent.
    pub swarm: Option<ID>,
    pub title: Option<String>,
    pub labels: Option<Vec<LabelInput>>,
    /// One part for each: a program has it in `HIVEWARD_ITEM`; for a kind it is the payload, or in the payload as `item`.
    pub items: Option<Vec<serde_json::Value>>,
    /// Instead of `items`: one part for each agent.
    pub over_agents: Option<OverAgentsInput>,
    /// What each part does.
    pub part: TaskFields,
    #[graphql(default_with = "ScatterPolicy::All")]
    pub policy: ScatterPolicy,
    pub at_least: Option<i32>,
    /// From submitted to gathered; what is late is cancelled.
    pub deadline_ms: Option<i32>,
    /// How the results of the parts that are in become one.
    pub aggregate: Option<Aggregate>,
    /// Instead of `aggregate`: a task that gets the results of the parts that are in as its inputs.
    pub reduce: Option<TaskFields>,
    /// A part that takes too long gets a twin on another agent; the first that succeeds counts.
    pub hedge: Option<HedgeInput>,
}

#[derive(InputObject)]
pub struct OverAgentsInput {
    /// All of the swarm if absent; as many as a scatter has parts at most.
    pub agents: Option<Vec<ID>>,
    /// Only those that have all of them.
    pub skills: Option<Vec<String>>,
}

#[derive(InputObject)]
pub struct HedgeInput {
    /// After this time of a part's attempt.
    pub after_ms: Option<i32>,
    /// Instead of `afterMs`: after so many times the median of those that succeeded, once half of all have.
    pub factor: Option<f64>,
    /// Of the parts, how many may get a twin.
    #[graphql(default = 0.25)]
    pub share: f64,
}

impl HedgeInput {
    fn parse(self) -> std::result::Result<NewHedge, Refused> {
        let after = match (self.after_ms, self.factor) {
            (Some(ms), None) => HedgeAfter::Ms(parse::natural("hedge.afterMs", ms)?),
            (None, Some(factor)) => HedgeAfter::Factor(factor),
            _ => return Err(Refused::invalid("hedge", "give either `afterMs` or `factor`")),
        };
        Ok(NewHedge { after, share: self.share })
    }
}

impl ScatterInput {
    fn parse(self) -> std::result::Result<NewScatter, Refused> {
        let over = match (self.items, self.over_agents) {
            (Some(items), None) => Over::Items(items),
            (None, Some(over)) => {
                let agents = over.agents.unwrap_or_default().into_iter().enumerate();
                let agents = agents.map(|(n, id)| parse::id(&format!("overAgents.agents.{n}"), &id));
                Over::Agents { agents: agents.collect::<Result<_, Refused>>()?, skills: over.skills.unwrap_or_default() }
            }
            _ => return Err(Refused::invalid("items", "give either `items` or `overAgents`")),
        };
        let policy = match (self.policy, self.at_least) {
            (ScatterPolicy::AtLeast, Some(wanted)) => Policy::AtLeast(parse::natural("atLeast", wanted)?),
            (ScatterPolicy::AtLeast, None) => return Err(Refused::invalid("atLeast", "say how many parts are enough")),
            (_, Some(_)) => return Err(Refused::invalid("atLeast", "atLeast goes with the policy AT_LEAST")),
            (ScatterPolicy::All, None) => Policy::All,
            (ScatterPolicy::BestEffort, None) => Policy::BestEffort,
        };
        if self.aggregate.is_some() && self.reduce.is_some() {
            return Err(Refused::invalid("reduce", "give either `aggregate` or `reduce`"));
        }
        let labels = at_most("labels".into(), self.labels.unwrap_or_default(), LABELS_MAX)?;
        Ok(NewScatter {
            swarm: self.swarm.map(|swarm| parse::swarm("swarm", &swarm)).transpose()?,
            title: self.title,
            labels: labels.into_iter().map(LabelInput::label).collect(),
            policy,
            deadline_ms: parse::optional_natural("deadlineMs", self.deadline_ms)?,
            aggregate: self.aggregate.map_or_else(Default::default, Into::into),
            reduce: self.reduce.map(|reduce| reduce.parse("reduce", None)).transpose()?,
            hedge: self.hedge.map(HedgeInput::parse).transpose()?,
            ..NewScatter::new(over, self.part.parse("part", None)?)
        })
    }
}

/// What a scatter gathers, and when it has enough.
pub struct Scatter(pub Arc<ScatterSpec>);

#[derive(SimpleObject)]
pub struct Hedge {
    after_ms: Option<u64>,
    factor: Option<f64>,
    /// So many parts may get a twin.
    twins_max: usize,
}

#[Object]
impl Scatter {
    async fn policy(&self) -> ScatterPolicy {
        match self.0.policy {
            Policy::All => ScatterPolicy::All,
            Policy::AtLeast(_) => ScatterPolicy::AtLeast,
            Policy::BestEffort => ScatterPolicy::BestEffort,
        }
    }
    async fn at_least(&self) -> Option<u32> {
        match self.0.policy {
            Policy::AtLeast(wanted) => Some(wanted),
            _ => None,
        }
    }
    async fn deadline_ms(&self) -> Option<u64> {
        self.0.deadline_ms
    }
    /// Absent if a task reduces the parts.
    async fn aggregate(&self) -> Option<Aggregate> {
        self.0.reduce.is_none().then(|| self.0.aggregate.into())
    }
    async fn hedge(&self) -> Option<Hedge> {
        let scatter::HedgeSpec { after, twins } = self.0.hedge.as_ref()?;
        let (after_ms, factor) = match after {
            HedgeAfter::Ms(ms) => (Some(*ms), None),
            HedgeAfter::Factor(factor) => (None, Some(*factor)),
        };
        Some(Hedge { after_ms, factor, twins_max: twins.len() })
    }
}

#[derive(SimpleObject)]
pub struct ScatterPayload {
    /// The task that gathers; its result says which parts are in, failed and late.
    task: Task,
    cursor: Cursor,
}

#[derive(Default)]
pub struct ScatterMutation;

#[Object]
impl ScatterMutation {
    /// Does one piece of work over many items or agents, and gathers what came of it.
    async fn scatter(&self, ctx: &Context<'_>, input: ScatterInput) -> Result<ScatterPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let done = door(ctx)?.scatter(op, input.parse()?).await?;
        Ok(ScatterPayload { task: done.value.into(), cursor: done.cursor.into() })
    }
}
