//! The work that is done again and again for as long as a node runs, whether anybody asks or not.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinHandle;

use crate::trim;

/// How long samples of histograms wait at most before they are added up.
const SAMPLES_EVERY: Duration = Duration::from_secs(5);

/// The task that adds up the samples of histograms, each of which is kept without it until somebody scrapes, and gives free
/// memory back when much of it is. Dropping it ends it.
pub struct Upkeep(JoinHandle<()>);

impl Upkeep {
    /// Starts the work, which goes on until it is dropped.
    pub fn start(figures: PrometheusHandle) -> Self {
        Self::every(SAMPLES_EVERY, move || {
            figures.run_upkeep();
            // It has a thread of its own: nobody waits for it.
            drop(tokio::task::spawn_blocking(trim::give_back_if_worth_it));
        })
    }

    fn every(period: Duration, mut work: impl FnMut() + Send + 'static) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                work();
            }
        }))
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn samples_are_added_up_without_a_scrape_for_as_long_as_the_node_runs() {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = done.clone();
        let upkeep = Upkeep::every(SAMPLES_EVERY, move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        tokio::time::sleep(SAMPLES_EVERY * 10).await;
        assert!(done.load(Ordering::Relaxed) >= 10);
        drop(upkeep);
        tokio::task::yield_now().await;
        let ended = done.load(Ordering::Relaxed);
        tokio::time::sleep(SAMPLES_EVERY * 10).await;
        assert_eq!(done.load(Ordering::Relaxed), ended);
    }
}
