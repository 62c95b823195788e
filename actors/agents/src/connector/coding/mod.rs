//! Coding agents: a program per attempt that is spoken to in its own structured protocol (docs/how_to/run_coding_agents.md).
//!
//! Owns one process per attempt and time, and the attempt's activity. The agent's actor decides nothing of what is said
//! in between; it keeps the questions that a person has to answer.

mod acp;
mod check;
mod claude;
mod dialect;
mod engine;
mod files;
mod log;
mod place;
pub(super) mod prompt;
mod questions;
#[cfg(test)]
mod recordings;
mod story;
mod stuck;
mod taken;
mod telling;

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, ready};
use hiveward_catalogue::agent::{coding::CodingSpec, spec::AgentSpec};
use hiveward_kernel::lease::Lease;
use hiveward_models::access::Holder;
use tokio::sync::{mpsc, oneshot};

use self::{dialect::Dialect, engine::Engine, log::Log};
use super::{
    Connector, End, Job, Outcome, Report, StartFailure, StopHow, StopWhy, Told,
    attempt::{Attempt, Control, Shared, activity_dir, session_dir},
    attempts::Attempts,
    env::ConnectorEnv,
    machine,
};
use crate::{activity::What, policy::Rules, session::Exit};

/// Number of things that persons say to one attempt at once; more is refused.
const ORDERS_MAX: usize = 32;

/// Which protocol a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Claude,
    Acp,
}

struct Order {
    what: Told,
    reply: oneshot::Sender<Result<(), String>>,
}

pub(super) struct CodingConnector {
    inner: Arc<Inner>,
    /// Attempts, with what persons say to each.
    attempts: Attempts<mpsc::Sender<Order>>,
}

struct Inner {
    shared: Arc<Shared>,
    spec: Arc<CodingSpec>,
    speaks: Speaks,
}

impl CodingConnector {
    pub(super) fn new(agent: Arc<AgentSpec>, env: ConnectorEnv, spec: Arc<CodingSpec>, speaks: Speaks) -> Self {
        let shared = Arc::new(Shared::new(agent, env));
        Self { attempts: Attempts::new(shared.clone()), inner: Arc::new(Inner { shared, spec, speaks }) }
    }
}

impl Connector for CodingConnector {
    fn start(&self) -> BoxFuture<'_, Result<(), StartFailure>> {
        async move {
            Rules::read(&self.inner.spec.policy).map_err(|(number, field, why)| StartFailure {
                message: format!("policy.rules.{number}.{field}: {why}"),
                output_tail: String::new(),
            })?;
            if machine::of(&self.inner.shared).is_some() {
                // It is in the image, which no attempt has started yet.
                return Ok(());
            }
            check::program(&self.inner.shared, &self.inner.spec, self.inner.speaks).await
        }
        .boxed()
    }

    fn run(&self, job: Job) -> BoxFuture<'_, ()> {
        let inner = self.inner.clone();
        self.attempts.run(job.lease, |control| {
            let (orders, received) = mpsc::channel(ORDERS_MAX);
            (orders, async move { run(&inner, job, &control, received).await })
        });
        ready(()).boxed()
    }

    fn cancel(&self, lease: Lease, how: StopHow) -> BoxFuture<'_, ()> {
        self.attempts.cancel(lease, how).boxed()
    }

    fn tell(&self, lease: Lease, what: Told) -> BoxFuture<'_, Result<(), String>> {
        let orders = self.attempts.with(lease, mpsc::Sender::clone);
        async move {
            let orders = orders.ok_or("the attempt does not run any more")?;
            let (reply, answered) = oneshot::channel();
            orders.try_send(Order { what, reply }).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => format!("{ORDERS_MAX} things wait to be said to it already"),
                mpsc::error::TrySendError::Closed(_) => "the attempt does not run any more".to_owned(),
            })?;
            answered.await.unwrap_or_else(|_| Err("the attempt ended first".to_owned()))
        }
        .boxed()
    }

    fn freeze(&self, frozen: bool) -> BoxFuture<'_, Result<(), String>> {
        self.attempts.freeze(frozen).boxed()
    }

    fn stop(&self, how: StopHow, why: StopWhy) -> BoxFuture<'_, ()> {
        self.attempts.stop(how, why).boxed()
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        self.attempts.release();
        ready(()).boxed()
    }
}

/// Runs one attempt from wherever it is to its outcome.
async fn run(inner: &Inner, job: Job, control: &Control, orders: mpsc::Receiver<Order>) -> Outcome {
    let shared = &inner.shared;
    let mut attempt = Attempt::new(shared.clone(), job.lease);
    if let Some(outcome) = attempt.outcome() {
        shared.report(Report::Started { lease: job.lease }).await;
        return outcome;
    }
    let outcome = match work(inner, &mut attempt, &job, control, orders).await {
        Ok(outcome) | Err(outcome) => outcome,
    };
    shared.env.models.close(job.lease);
    attempt.settle(&outcome);
    outcome
}

async fn work(
    inner: &Inner,
    attempt: &mut Attempt,
    job: &Job,
    control: &Control,
    orders: mpsc::Receiver<Order>,
) -> Result<Outcome, Outcome> {
    let (shared, spec) = (&inner.shared, &inner.spec);
    let unfit = |why: String| Outcome::failed(why, false);
    let task = prompt::of(job).map_err(unfit)?;
    let rules =
        Rules::read(&spec.policy).map_err(|(number, field, why)| unfit(format!("policy.rules.{number}.{field}: {why}")))?;
    let unusable = |error: std::io::Error| Outcome::failed(format!("the attempt's directory cannot be used: {error}"), true);
    attempt.prepare().map_err(unusable)?;
    let place = place::open(attempt, job, spec, control).await?;
    let workspace = place.dir().to_owned();
    let env = attempt.env(&[&place.env()]).map_err(unfit)?;
    let inputs = attempt.inputs(&job.inputs).and_then(|inputs| attempt.write("inputs.json", &serde_json::to_vec(&inputs)?));
    inputs.map_err(unusable)?;
    let holder = Holder {
        lease: job.lease,
        swarm: shared.agent.swarm,
        incarnation: attempt.first_incarnation().map_err(unusable)?,
        labels: job.labels.clone(),
        rules: spec.calls.clone(),
    };
    let pass = match spec.own_account {
        true => None,
        false => Some(shared.env.models.open(holder).map_err(|why| Outcome::failed(why, true))?),
    };
    if let Some(why) = pass.as_ref().and_then(|pass| machine::cannot_reach(shared, &pass.url)) {
        shared.env.models.close(job.lease);
        return Err(unfit(why));
    }
    let log = Log::open(
        &activity_dir(&shared.env.data_dir, job.lease),
        &session_dir(&shared.env.data_dir, job.lease),
        shared.env.clock.clone(),
    )
    .map_err(|error| Outcome::failed(format!("the attempt's activity cannot be used: {error}"), true))?;
    let dialect: Box<dyn Dialect> = match inner.speaks {
        Speaks::Claude => Box::new(claude::Claude),
        Speaks::Acp => Box::new(acp::Acp::default()),
    };
    let engine = Engine { attempt, job, spec, rules: &rules, control, orders, dialect, log, workspace, env, pass, task };
    let (outcome, mut log) = place.within_bounds(control, Box::pin(engine.run())).await;
    for fallback in shared.env.models.fallbacks(job.lease) {
        let (run, heard) = (log.story.run, log.story.heard);
        // Said for people; what it came to does not hang on it.
        let _ = log.write(run, heard, vec![What::Noted { text: format!("another model answered: {fallback}") }]);
    }
    if let Err(error) = log.close(&Exit { code: (outcome.end == End::Succeeded).then_some(0), ..Exit::default() }) {
        tracing::warn!(%error, "the end of an attempt's transcript could not be recorded");
    }
    let outcome = place.settle(attempt, job, spec, control, outcome).await;
    Ok(outcome)
}
