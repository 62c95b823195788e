//! Succeeds at once, in this process and with no result; for benches. Starts nothing, so there is nothing to adopt.

use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::mpsc;

use super::{Connector, End, Job, Lease, Outcome, Report, StartFailure, StopHow};

pub(super) struct NoopConnector {
    reports: mpsc::Sender<Report>,
}

impl NoopConnector {
    pub(super) fn new(reports: mpsc::Sender<Report>) -> Self {
        Self { reports }
    }
}

impl Connector for NoopConnector {
    fn start(&self) -> BoxFuture<'_, Result<(), StartFailure>> {
        ready(Ok(())).boxed()
    }

    fn run(&self, job: Job) -> BoxFuture<'_, ()> {
        let lease = job.lease;
        async move {
            // Nobody listens any more: the agent's life is over, and its next one asks again.
            let _ = self.reports.send(Report::Started { lease }).await;
            let _ = self.reports.send(Report::Ended { lease, outcome: Outcome::of(End::Succeeded) }).await;
        }
        .boxed()
    }

    fn cancel(&self, _: Lease, _: StopHow) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn freeze(&self, _: bool) -> BoxFuture<'_, Result<(), String>> {
        ready(Ok(())).boxed()
    }

    fn stop(&self, _: StopHow) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}
