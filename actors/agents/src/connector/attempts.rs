//! The attempts that a connector runs at once, each a task that works until its outcome and then reports it.
//!
//! Owns those tasks: they end with it, their processes do not (see `release`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use hiveward_kernel::lease::Lease;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::{
    Outcome, Report, StopHow, StopWhy,
    attempt::{Control, Shared, end_all, mark_withdrawn, sweep},
    machine,
};
use crate::session::Session;

/// Time that a stop waits for reports beside twice its grace. It is needed only if a job waits for somebody to take its report,
/// who may be waiting for the stop.
const REPORT_PATIENCE: Duration = Duration::from_secs(3);

/// The attempts of a connector; `W` is what else it keeps of a running one.
pub(super) struct Attempts<W> {
    shared: Arc<Shared>,
    running: Arc<Mutex<HashMap<Lease, Running<W>>>>,
    tasks: TaskTracker,
}

struct Running<W> {
    control: Control,
    task: AbortHandle,
    with: W,
}

impl<W: Send + 'static> Attempts<W> {
    /// Returns the attempts of a connector that begins: none.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, running: Arc::default(), tasks: TaskTracker::new() }
    }

    /// Works on `lease` and reports what came of it. A lease that is being worked on is left to itself.
    pub fn run<F>(&self, lease: Lease, begin: impl FnOnce(Control) -> (W, F))
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut running = self.running.lock();
        if running.contains_key(&lease) {
            return;
        }
        let control = Control::new();
        let (with, work) = begin(control.clone());
        let (shared, all, own) = (self.shared.clone(), self.running.clone(), control.clone());
        let task = self.tasks.spawn(async move {
            let outcome = Box::pin(work).await;
            own.over.send_replace(true);
            all.lock().remove(&lease);
            shared.report(Report::Ended { lease, outcome }).await;
        });
        running.insert(lease, Running { control, task: task.abort_handle(), with });
    }

    /// Shows `take` what the connector keeps of an attempt; `None` if it does not run.
    pub fn with<T>(&self, lease: Lease, take: impl FnOnce(&W) -> T) -> Option<T> {
        self.running.lock().get(&lease).map(|running| take(&running.with))
    }

    fn controls(&self) -> Vec<Control> {
        self.running.lock().values().map(|running| running.control.clone()).collect()
    }

    /// Cancels an attempt for its coordinator. One that runs from an earlier life is ended too. Repeating it changes nothing.
    pub async fn cancel(&self, lease: Lease, how: StopHow) {
        mark_withdrawn(&self.shared.env.data_dir, lease);
        let control = self.running.lock().get(&lease).map(|running| running.control.clone());
        match control {
            Some(control) => control.stop(how, StopWhy::Withdrawn).await,
            // Not run in this life, but its processes may live on from an earlier one.
            None => {
                let shared = self.shared.clone();
                self.tasks.spawn(async move {
                    if end_all(&shared.env.data_dir, lease, how).await {
                        shared.report(Report::Ended { lease, outcome: Outcome::stopped(StopWhy::Withdrawn) }).await;
                    }
                });
            }
        }
    }

    /// Freezes or thaws all attempts, those in VMs too; attempts that begin meanwhile wait until it is thawed. Errors: in words.
    pub async fn freeze(&self, frozen: bool) -> Result<(), String> {
        self.shared.frozen.send_replace(frozen);
        let leases: Vec<Lease> = self.running.lock().keys().copied().collect();
        for lease in leases {
            machine::pause(&self.shared, lease, frozen).await?;
        }
        freeze_all(self.controls().iter().filter_map(Control::live), frozen).await
    }

    /// Ends what runs, and what runs of earlier lives.
    pub async fn stop(&self, how: StopHow, why: StopWhy) {
        let running = self.controls();
        for control in &running {
            control.stop(how, why).await;
        }
        let all_over = async {
            for control in &running {
                // The sender lives in `control`.
                let _ = control.over.subscribe().wait_for(|over| *over).await;
            }
        };
        let patience = REPORT_PATIENCE + if let StopHow::Gracefully { grace } = how { grace * 2 } else { Duration::ZERO };
        if tokio::time::timeout(patience, all_over).await.is_err() {
            self.release();
        }
        sweep(&self.shared, how).await;
    }

    /// Lets go of all: their processes go on, to be found again by the next life.
    pub fn release(&self) {
        for (_, running) in self.running.lock().drain() {
            running.task.abort();
            running.control.over.send_replace(true);
        }
    }
}

impl<W> Drop for Attempts<W> {
    fn drop(&mut self) {
        self.running.lock().values().for_each(|running| running.task.abort());
    }
}

/// Freezes or thaws each session; one that ended meanwhile needs neither.
pub(super) async fn freeze_all(sessions: impl Iterator<Item = Arc<Session>>, frozen: bool) -> Result<(), String> {
    for session in sessions {
        match session.freeze(frozen).await {
            Err(error) if !session.has_ended() => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(())
}
