//! Figures as they are measured.

use std::{sync::Arc, time::Duration};

use async_graphql::{Context, ID, Object, SimpleObject, Subscription};
use futures_util::{Stream, stream};
use hiveward_actors::client;
use hiveward_agents::gauge;
use hiveward_runtime::{clock::WallMs, error::Refused};

use super::{
    Result, door, op,
    scalars::{BigInt, DateTime},
};
use crate::history::History;

/// What was measured at one moment; what was not measured is absent.
#[derive(SimpleObject)]
pub struct MetricsSample {
    at: DateTime,
    tasks_running: BigInt,
    tasks_queued: BigInt,
    tasks_ended_total: BigInt,
    agents_running: BigInt,
    events_total: BigInt,
    /// Of this process.
    cpu_seconds_total: Option<f64>,
    /// Of this process.
    resident_bytes: Option<BigInt>,
}

impl From<client::MetricsSample> for MetricsSample {
    fn from(sample: client::MetricsSample) -> Self {
        Self {
            at: sample.at.into(),
            tasks_running: BigInt(sample.tasks_running),
            tasks_queued: BigInt(sample.tasks_queued),
            tasks_ended_total: BigInt(sample.tasks_ended_total),
            agents_running: BigInt(sample.agents_running),
            events_total: BigInt(sample.events_total),
            cpu_seconds_total: sample.cpu_seconds_total,
            resident_bytes: sample.resident_bytes.map(BigInt),
        }
    }
}

/// What the processes of one agent used at one moment, the shims that hold them not counted.
#[derive(SimpleObject)]
pub struct ResourcesSample {
    at: DateTime,
    processes: u32,
    /// User and system time of every session that this life of the agent's node saw. Never falls while that lives.
    cpu_seconds_total: f64,
    /// Of all together; pages that they share are counted for each.
    resident_bytes: BigInt,
}

impl From<gauge::ResourcesSample> for ResourcesSample {
    fn from(sample: gauge::ResourcesSample) -> Self {
        Self {
            at: sample.at.into(),
            processes: sample.processes,
            cpu_seconds_total: sample.cpu_ms_total as f64 / 1000.0,
            resident_bytes: BigInt(sample.resident_bytes),
        }
    }
}

pub(super) fn checked_points(points: i32) -> Result<u32> {
    let within = u32::try_from(points).ok().filter(|points| (1..=POINTS_MAX).contains(points));
    within.ok_or_else(|| Refused::invalid("points", format!("1 to {POINTS_MAX}")).into())
}

pub(super) fn between(since: Option<DateTime>, until: Option<DateTime>) -> (WallMs, WallMs) {
    (since.map_or(WallMs(i64::MIN), |since| since.0), until.map_or(WallMs(i64::MAX), |until| until.0))
}

/// Of one answer.
const POINTS_MAX: u32 = 2_000;

#[derive(Default)]
pub struct MetricsQuery;

#[Object]
impl MetricsQuery {
    /// What the asked node measured between two moments, since it was started and for a day at most: real samples, one every
    /// five seconds, oldest first; where there are more than `points`, every second, third, … of them.
    async fn metrics_history(
        &self,
        ctx: &Context<'_>,
        since: Option<DateTime>,
        until: Option<DateTime>,
        #[graphql(default = 600)] points: i32,
    ) -> Result<Vec<MetricsSample>> {
        let (points, (since, until)) = (checked_points(points)?, between(since, until));
        let history: &Arc<History> = ctx.data()?;
        let found = history.between(since, until, points as usize);
        Ok(found.into_iter().map(MetricsSample::from).collect())
    }

    /// What an agent's processes really used, as its node measured it every five seconds in the last hour: real samples, oldest
    /// first; where there are more than `points`, every second, third, … of them. Empty if it ran nothing since.
    async fn agent_resources(
        &self,
        ctx: &Context<'_>,
        id: ID,
        since: Option<DateTime>,
        until: Option<DateTime>,
        #[graphql(default = 600)] points: i32,
    ) -> Result<Vec<ResourcesSample>> {
        let (agent, points) = (super::parse::id("id", &id)?, checked_points(points)?);
        let found = door(ctx)?.agent_resources(&op(ctx, None)?, agent, between(since, until), points).await?;
        Ok(found.into_iter().map(ResourcesSample::from).collect())
    }
}

const EVERY_MS_MIN: i32 = 100;

#[derive(Default)]
pub struct MetricsFeed;

#[Subscription]
impl MetricsFeed {
    /// A sample now and then every `everyMs` (at least 100). A slow client misses samples, never gets old ones.
    async fn metrics(
        &self,
        ctx: &Context<'_>,
        #[graphql(default = 1_000)] every_ms: i32,
    ) -> Result<impl Stream<Item = Result<MetricsSample>>> {
        let every_ms = u64::try_from(every_ms.max(0)).unwrap_or(0);
        if every_ms < EVERY_MS_MIN as u64 {
            return Err(Refused::invalid("everyMs", format!("at least {EVERY_MS_MIN}")).into());
        }
        let control = door(ctx)?.clone();
        let mut ticks = tokio::time::interval(Duration::from_millis(every_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        Ok(stream::unfold((control, ticks), |(control, mut ticks)| async move {
            ticks.tick().await;
            Some((control.metrics_sample().map(MetricsSample::from).map_err(Into::into), (control, ticks)))
        }))
    }
}
