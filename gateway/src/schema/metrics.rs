//! Figures as they are measured.

use std::time::Duration;

use async_graphql::{Context, SimpleObject, Subscription};
use futures_util::{Stream, stream};
use hiveward_actors::client;
use hiveward_runtime::error::Refused;

use super::{
    Result, door,
    scalars::{BigInt, DateTime},
};

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
