//! What was measured of this node lately: real samples, one every few seconds, kept in memory for a day.
//!
//! Owns the samples and the task that takes them, which ends with it. After a restart it begins empty: what was not
//! measured is absent.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hiveward_actors::client::{ControlPlane, MetricsSample};
use hiveward_runtime::clock::WallMs;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub const EVERY: Duration = Duration::from_secs(5);
/// A day's; the oldest is forgotten for a new one. One takes about 100 bytes.
const SAMPLES_MAX: usize = 24 * 3600 / EVERY.as_secs() as usize;

#[derive(Default)]
struct Ring(Mutex<VecDeque<MetricsSample>>);

impl Ring {
    fn keep(&self, sample: MetricsSample) {
        let mut samples = self.0.lock();
        if samples.len() >= SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    fn between(&self, since: WallMs, until: WallMs, points: usize) -> Vec<MetricsSample> {
        let samples = self.0.lock();
        let within: Vec<_> = samples.iter().filter(|sample| sample.at.0 >= since.0 && sample.at.0 <= until.0).collect();
        let every = within.len().div_ceil(points.max(1)).max(1);
        // Counted from the newest, which is always among them.
        let mut thinned: Vec<_> = within.iter().rev().step_by(every).map(|sample| (*sample).clone()).collect();
        thinned.reverse();
        thinned
    }
}

pub struct History {
    ring: Arc<Ring>,
    taking: JoinHandle<()>,
}

impl History {
    pub fn start(control: ControlPlane) -> Self {
        let ring = Arc::new(Ring::default());
        let kept = ring.clone();
        let taking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                match control.metrics_sample() {
                    Ok(sample) => kept.keep(sample),
                    // A gap says that it was not measured.
                    Err(refused) => tracing::debug!(%refused, "no sample was taken"),
                }
            }
        });
        Self { ring, taking }
    }

    /// Real samples between two moments, oldest first, evenly thinned to `points` at most.
    pub fn between(&self, since: WallMs, until: WallMs, points: usize) -> Vec<MetricsSample> {
        self.ring.between(since, until, points)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.taking.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: i64) -> MetricsSample {
        MetricsSample {
            at: WallMs(at),
            tasks_running: 0,
            tasks_queued: 0,
            tasks_ended_total: 0,
            agents_running: 0,
            cpu_seconds_total: None,
            resident_bytes: None,
            events_total: 0,
        }
    }

    #[test]
    fn a_day_is_kept_and_what_is_shown_was_really_measured() {
        let ring = Ring::default();
        for at in 0..SAMPLES_MAX as i64 + 10 {
            ring.keep(sample(at));
        }
        let all = ring.between(WallMs(0), WallMs(i64::MAX), usize::MAX);
        assert_eq!((all.len(), all[0].at.0), (SAMPLES_MAX, 10));
        let newest = all.last().unwrap().at.0;
        let few = ring.between(WallMs(0), WallMs(i64::MAX), 100);
        assert!(few.len() <= 100 && few.len() > 90);
        assert_eq!(few.last().unwrap().at.0, newest);
        assert!(few.windows(2).all(|pair| pair[0].at.0 < pair[1].at.0));
        let times: Vec<_> = ring.between(WallMs(20), WallMs(22), 100).iter().map(|sample| sample.at.0).collect();
        assert_eq!(times, [20, 21, 22]);
    }
}
