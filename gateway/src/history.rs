//! The figures that were measured of this node lately: real samples, one every few seconds, kept in memory for a day.
//!
//! Owns the samples and the task that takes them, which ends with it. After a restart it begins empty: what was not
//! measured is absent.

use std::{sync::Arc, time::Duration};

use hiveward_actors::client::{ControlPlane, MetricsSample};
use hiveward_kernel::series::{self, Series};
use hiveward_runtime::clock::WallMs;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub const EVERY: Duration = Duration::from_secs(5);
/// The most samples that are kept, a day's; the oldest is forgotten for a new one. One takes about 100 bytes.
const SAMPLES_MAX: usize = 24 * 3600 / EVERY.as_secs() as usize;

type Ring = Mutex<Series<MetricsSample, SAMPLES_MAX>>;

pub struct History {
    ring: Arc<Ring>,
    taking: JoinHandle<()>,
}

impl History {
    /// Takes samples from now on, until it is dropped.
    pub fn start(control: ControlPlane) -> Self {
        let ring = Arc::new(Ring::default());
        let kept = ring.clone();
        let taking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                match control.metrics_sample() {
                    Ok(sample) => kept.lock().push(sample),
                    // A gap says that it was not measured.
                    Err(refused) => tracing::debug!(%refused, "no sample was taken"),
                }
            }
        });
        Self { ring, taking }
    }

    /// Returns real samples between two moments, oldest first, evenly thinned to `points` at most.
    pub fn between(&self, since: WallMs, until: WallMs, points: usize) -> Vec<MetricsSample> {
        series::between(self.ring.lock().iter(), (since, until), points).into_iter().cloned().collect()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.taking.abort();
    }
}
