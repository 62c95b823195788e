//! Attempts at tasks, and why each agent was chosen.

use async_graphql::{Context, ID, Object, SimpleObject};
use hiveward_catalogue::placement;
use hiveward_kernel::{id::TaskId, lease::Lease};
use hiveward_work::task::record::AttemptRecord;

use super::{
    Result,
    agent::Agent,
    enums::{AttemptStatus, PlacementStrategy},
    scalars::DateTime,
    task::agent,
    usage::{self, ModelUsage},
};

/// One try at a task under one lease.
pub struct Attempt {
    pub(super) task: TaskId,
    pub(super) record: AttemptRecord,
}

#[Object]
impl Attempt {
    /// From 1.
    async fn number(&self) -> u32 {
        self.record.number
    }
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<Agent>> {
        agent(ctx, self.record.agent).await
    }
    /// The agent's key, even after it was removed.
    async fn agent_id(&self) -> ID {
        self.record.agent.to_string().into()
    }
    async fn lease(&self) -> String {
        self.record.lease(self.task)
    }
    async fn status(&self) -> AttemptStatus {
        self.record.status.into()
    }
    async fn assigned_at(&self) -> DateTime {
        self.record.assigned_at.into()
    }
    async fn started_at(&self) -> Option<DateTime> {
        self.record.started_at.map(Into::into)
    }
    async fn ended_at(&self) -> Option<DateTime> {
        self.record.ended_at.map(Into::into)
    }
    async fn exit_code(&self) -> Option<i32> {
        self.record.exit_code
    }
    /// What its calls of models used, by model.
    async fn usage(&self, ctx: &Context<'_>) -> Result<Vec<ModelUsage>> {
        let AttemptRecord { number, agent, .. } = self.record;
        usage::of_attempt(ctx, Lease { task: self.task, attempt: number, agent }).await
    }
    /// The number of the signal that ended it.
    async fn signal(&self) -> Option<i32> {
        self.record.signal
    }
    async fn error(&self) -> Option<&str> {
        self.record.error.as_deref()
    }
    /// Whether the failure was one that another attempt may mend.
    async fn retriable(&self) -> Option<bool> {
        self.record.retriable
    }
    /// Why this agent.
    async fn decision(&self) -> Decision {
        Decision::from(&*self.record.decision)
    }
}

/// A placement with all that it was made from.
#[derive(SimpleObject)]
pub struct Decision {
    strategy: PlacementStrategy,
    chosen: ID,
    /// The best candidates, best first.
    scores: Vec<Score>,
    /// How many agents were eligible, shown or not.
    eligible: u32,
    left_out: Vec<LeftOut>,
}

#[derive(SimpleObject)]
pub struct Score {
    agent: ID,
    total: f32,
    specialisation: f32,
    success: f32,
    load: f32,
}

#[derive(SimpleObject)]
pub struct LeftOut {
    reason: String,
    agents: u32,
}

impl From<&placement::Decision> for Decision {
    fn from(decision: &placement::Decision) -> Self {
        let score = |scored: &placement::Scored| Score {
            agent: scored.agent.to_string().into(),
            total: scored.total,
            specialisation: scored.specialisation,
            success: scored.success,
            load: scored.load,
        };
        Self {
            strategy: decision.strategy.into(),
            chosen: decision.chosen.to_string().into(),
            scores: decision.scores.iter().map(score).collect(),
            eligible: decision.eligible,
            left_out: decision
                .left_out
                .iter()
                .map(|left| LeftOut { reason: left.reason.to_string(), agents: left.agents })
                .collect(),
        }
    }
}
