//! Succeeds at once, in this process and with no result; for benches. Starts nothing, so there is nothing to adopt.

use futures_util::future::{BoxFuture, FutureExt, ready};
use hiveward_kernel::lease::Lease;

use super::{Connector, End, Job, Outcome, Report, Reports, StartFailure, StopHow, StopWhy};

pub(super) struct NoopConnector {
    reports: Reports,
}

impl NoopConnector {
    pub(super) fn new(reports: Reports) -> Self {
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
            self.reports.send(Report::Started { lease }).await;
            self.reports.send(Report::Ended { lease, outcome: Outcome::of(End::Succeeded) }).await;
        }
        .boxed()
    }

    fn cancel(&self, _: Lease, _: StopHow) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn freeze(&self, _: bool) -> BoxFuture<'_, Result<(), String>> {
        ready(Ok(())).boxed()
    }

    fn stop(&self, _: StopHow, _: StopWhy) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}
