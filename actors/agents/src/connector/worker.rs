//! One long-lived process per agent that speaks the worker protocol: JSON lines, in any language (docs/worker_protocol.md).
//!
//! Owns the agent's session and which tasks are with it. A result is on disk before it is reported and before its line
//! counts as handled, so after a restart every lease gets its one end. The shim records which tasks the process was
//! given; none is sent twice. What is not protocol is the agent's transcript and nothing else.

mod given;
mod hear;
mod protocol;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use hiveward_catalogue::agent::spec::{AgentSpec, ConnectorSpec, Limits, SessionSpec};
use hiveward_kernel::lease::Lease;
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};
use tokio_util::task::TaskTracker;

use self::protocol::{Tell, task_line};
use super::{
    Connector, End, Job, Outcome, Report, StartFailure, StopHow, StopWhy, What,
    attempt::{Attempt, Control, Shared, apply_stop, lease_name, leases_of, mark_withdrawn},
    attempts::freeze_all,
    env::ConnectorEnv,
};
use crate::session::{self, Adopted, Launch, LaunchError, Overflow, Session, Stdin, Stream, transcript};

const WINDOW_BYTES: u64 = 16 << 20;
const REPORT_PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct WorkerConnector {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    state: Mutex<State>,
    ready: watch::Sender<Readiness>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    jobs: HashMap<Lease, Held>,
    /// Leases that the process was given; it is not given one twice.
    given: HashSet<String>,
    /// Leases of those that are over; the shim's record still has them.
    over: Vec<String>,
    stopping: bool,
    /// Whether `start` tells of a process that ends now, so that it is not told as the agent's death.
    starting: bool,
    /// Tasks that were spawned for this life.
    aborts: Vec<AbortHandle>,
    /// Reason why we ended the process ourselves.
    fault: Option<String>,
}

/// A task that is with the process.
struct Held {
    job: Arc<Job>,
    control: Control,
    /// Way in which it will end whatever the process says, while it is withdrawn.
    withdrawn: Option<Withdrawn>,
    timer: Option<AbortHandle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withdrawn {
    TimedOut,
    Stopped(StopWhy),
}

#[derive(Clone, Debug, PartialEq)]
enum Readiness {
    Waiting,
    Ready { heartbeat: Option<Duration> },
    Dead(String),
}

impl WorkerConnector {
    pub(super) fn new(agent: Arc<AgentSpec>, env: ConnectorEnv) -> Self {
        let inner = Inner {
            shared: Arc::new(Shared::new(agent, env)),
            state: Mutex::default(),
            ready: watch::Sender::new(Readiness::Waiting),
            tasks: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl Drop for WorkerConnector {
    fn drop(&mut self) {
        self.inner.abort_all();
    }
}

impl Inner {
    fn dir(&self) -> PathBuf {
        self.shared.env.data_dir.join("sessions").join(format!("{}-worker", self.shared.agent.id))
    }

    fn attempt(&self, lease: Lease) -> Attempt {
        Attempt::new(self.shared.clone(), lease)
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let abort = self.tasks.spawn(future).abort_handle();
        let mut state = self.state.lock();
        state.aborts.retain(|task| !task.is_finished());
        state.aborts.push(abort.clone());
        abort
    }

    fn abort_all(&self) {
        self.state.lock().aborts.drain(..).for_each(|task| task.abort());
    }

    async fn start(self: &Arc<Self>) -> Result<(), StartFailure> {
        self.state.lock().starting = true;
        let mut started = self.start_once().await;
        if let Err((_, true)) = started {
            // An adopted process may have been at its end already: that is no failure to start another.
            started = self.start_once().await;
        }
        self.state.lock().starting = false;
        started.map_err(|(failure, _)| failure)
    }

    /// Starts the process or adopts it. An error says too whether the process was an adopted one that ended.
    async fn start_once(self: &Arc<Self>) -> Result<(), (StartFailure, bool)> {
        let failed = |message: String| StartFailure { message, output_tail: self.output_tail() };
        self.ready.send_replace(Readiness::Waiting);
        let (session, adopted) = self.open().await.map_err(|message| (failed(message), false))?;
        let session = Arc::new(session);
        {
            let mut state = self.state.lock();
            state.session = Some(session.clone());
            state.stopping = false;
        }
        let (inner, own) = (self.clone(), session.clone());
        self.spawn(async move { hear::hear(inner, own).await });
        if *self.shared.frozen.borrow() {
            // Ended meanwhile: then that is what the reader tells.
            let _ = session.freeze(true).await;
        }
        let mut ready = self.ready.subscribe();
        let said = ready.wait_for(|ready| *ready != Readiness::Waiting).map(|said| said.map(|said| said.clone()));
        let patience = Duration::from_millis(self.shared.agent.start_timeout_ms);
        let mut ended = false;
        let message = match tokio::time::timeout(patience, said).await {
            Ok(Ok(Readiness::Ready { .. })) => return Ok(()),
            Ok(Ok(Readiness::Dead(message))) => {
                ended = true;
                message
            }
            Ok(_) => "the worker's reader has gone".to_owned(),
            Err(_) => format!("the worker did not say that it is ready within {} ms", patience.as_millis()),
        };
        self.state.lock().stopping = true;
        apply_stop(&session, StopHow::AtOnce).await;
        // Lost is gone as well.
        let _ = session.wait().await;
        Err((failed(message), adopted && ended))
    }

    /// Returns the running process (true), or a new one.
    async fn open(self: &Arc<Self>) -> Result<(Session, bool), String> {
        let dir = self.dir();
        let unusable = |error: &dyn std::fmt::Display| format!("the worker's session could not be used: {error}");
        match session::adopt(&dir).await.map_err(|e| unusable(&e))? {
            Adopted::Running(session) => {
                // Fails only if the process has just ended; then its reader finds that out.
                let _ = session.claim_stdin().await;
                let given = session.dir().accepted_tags().map_err(|error| unusable(&error))?;
                self.adopt_given(given.into_iter().collect());
                return Ok((session, true));
            }
            Adopted::NeverStarted => {}
            Adopted::Ended(exit) => {
                let died = hear::died(&Ok(exit.clone()), format!("the worker ended while it had the task ({})", exit.describe()));
                self.settle_dead(&Session::after(&dir, exit), died).await;
            }
            Adopted::Lost => {
                let died = Outcome::lost("the worker was lost while it had the task: its shim has gone");
                self.settle_dead(&Session::after(&dir, session::Exit::default()), died).await;
            }
            Adopted::Cut => {
                let died = Outcome::lost("the worker was lost while it had the task: some of its output is gone");
                self.settle_dead(&Session::after(&dir, session::Exit::default()), died).await;
            }
        }
        let env = self.shared.base_env()?.env;
        fs::create_dir_all(self.shared.env.data_dir.join("sessions")).map_err(|e| unusable(&e))?;
        // The transcript of the process before is kept once.
        let before = dir.with_extension("before");
        let _ = fs::remove_dir_all(&before);
        let _ = fs::rename(&dir, before);
        let home = self.shared.env.data_dir.join("workers").join(self.shared.agent.id.to_string());
        fs::create_dir_all(&home).map_err(|e| unusable(&e))?;
        let agent = &self.shared.agent;
        let ConnectorSpec::Worker { argv, cwd } = &agent.connector else {
            return Err("the agent is described as no worker: remove it and make it again".to_owned());
        };
        let launch = Launch {
            dir,
            argv: argv.clone(),
            env,
            cwd: cwd.as_ref().map_or_else(|| home.clone(), |cwd| home.join(cwd)),
            stdin: Stdin::Pipe,
            mode: SessionSpec::Pipes,
            limits: Limits { wall_ms: None, ..agent.limits.clone() },
            wall: None,
            grace: self.shared.grace(),
            overflow: Overflow::Wait { window_bytes: WINDOW_BYTES },
            keeps: None,
            shim: self.shared.env.shim.clone(),
        };
        session::launch(launch).await.map(|session| (session, false)).map_err(|error| match error {
            LaunchError::Machine { what, source } => format!("cannot {what}: {source}"),
            error => error.to_string(),
        })
    }

    /// Settles what a process held that ended while no node looked: what it still said counts, the rest has failed.
    async fn settle_dead(self: &Arc<Self>, session: &Session, outcome: Outcome) {
        hear::rest(self, session).await;
        let given: Vec<Lease> = match session.dir().accepted_tags() {
            Ok(tags) => tags.iter().filter_map(|tag| protocol::lease(tag, self.shared.agent.id)).collect(),
            Err(error) => {
                // It may have been given any of them: none is given to another process as if it were new.
                tracing::warn!(%error, agent = %self.shared.agent.id, "what a worker was given cannot be read; all that it may have had has failed");
                leases_of(&self.shared)
            }
        };
        for lease in given {
            let attempt = self.attempt(lease);
            if attempt.exists() && attempt.outcome().is_none() && attempt.read("result").is_none() {
                attempt.settle(&outcome);
            }
        }
    }

    fn output_tail(&self) -> String {
        let text = [Stream::Stdout, Stream::Stderr].map(|stream| transcript::last_text(self.dir(), stream, 2048)).join("\n");
        let text = self.shared.base_env().map_or_else(|_| String::new(), |env| env.redact(&text));
        crate::lines::tail_of(text.trim(), 4096).to_owned()
    }

    /// Gives the job to the process, unless it has it already or has even done it.
    async fn hand_over(self: Arc<Self>, job: Arc<Job>, control: Control) {
        let (lease, attempt) = (job.lease, self.attempt(job.lease));
        if attempt.outcome().is_none() && attempt.read("result").is_none() {
            let name = lease_name(lease);
            if !self.state.lock().given.contains(&name) {
                let prepared = attempt.prepare().and_then(|()| task_line(&attempt, &job));
                let line = match prepared {
                    Ok(line) => line,
                    Err(error) => {
                        return self
                            .finish(lease, Outcome::failed(format!("the task cannot be given to the worker: {error}"), true))
                            .await;
                    }
                };
                let session = self.state.lock().session.clone();
                let Some(session) = session.filter(|session| !session.has_ended()) else {
                    return self.finish(lease, Outcome::failed("the worker does not run", true)).await;
                };
                // Before the writing: its answer may come before the writing returns.
                self.state.lock().given.insert(name.clone());
                if let Err(error) = session.write_stdin(&line, &name).await {
                    return self.finish(lease, Outcome::failed(format!("the worker took no task: {error}"), true)).await;
                }
            }
        }
        self.shared.report(Report::Started { lease }).await;
        if let Some(outcome) = attempt.outcome() {
            return self.finish(lease, outcome).await;
        }
        if attempt.read("result").is_some() {
            return self.conclude(job, control).await;
        }
        if let Some(timeout) = self.shared.run_timeout(&job) {
            let inner = self.clone();
            let timer = self.spawn(async move {
                tokio::time::sleep(timeout).await;
                inner.withdraw(lease, Withdrawn::TimedOut, inner.shared.grace()).await;
            });
            match self.state.lock().jobs.get_mut(&lease) {
                Some(held) => held.timer = Some(timer),
                None => timer.abort(),
            }
        }
    }

    /// Runs the gate on a result that the process gave and that is on disk, then ends the job.
    async fn conclude(self: Arc<Self>, job: Arc<Job>, control: Control) {
        let attempt = self.attempt(job.lease);
        let result = attempt.read("result").filter(|bytes| !bytes.is_empty()).map(Into::into);
        let outcome = attempt.verify(job.gate.as_ref(), &[], &control, Outcome { result, ..Outcome::of(End::Succeeded) }).await;
        if outcome.end == End::Succeeded {
            let _ = fs::remove_file(self.checkpoint(job.lease));
        }
        self.finish(job.lease, outcome).await;
    }

    fn checkpoint(&self, lease: Lease) -> PathBuf {
        self.shared.env.data_dir.join("checkpoints").join(format!("{}.json", lease.task))
    }

    /// Ends a job, once: whoever takes it out of the table reports it.
    async fn finish(&self, lease: Lease, outcome: Outcome) {
        let Some(held) = self.state.lock().jobs.remove(&lease) else { return };
        if let Some(timer) = held.timer {
            // Perhaps that is who called us; it is aborted at its next wait, so the report must not be its to send.
            if held.withdrawn.is_none() {
                timer.abort();
            }
        }
        let outcome = match held.withdrawn {
            Some(Withdrawn::TimedOut) => {
                Outcome { error: Some("stopped after its run timeout".to_owned()), retriable: true, ..Outcome::of(End::TimedOut) }
            }
            Some(Withdrawn::Stopped(why)) => Outcome::stopped(why),
            None => outcome,
        };
        self.attempt(lease).settle(&outcome);
        self.forget_accepted(lease_name(lease));
        self.shared.report(Report::Ended { lease, outcome }).await;
    }

    /// Asks for the task back; a process that does not give it within `grace` is ended if it has no other.
    async fn withdraw(self: &Arc<Self>, lease: Lease, end: Withdrawn, grace: Duration) {
        let (session, control) = {
            let mut state = self.state.lock();
            let session = state.session.clone();
            let Some(held) = state.jobs.get_mut(&lease) else { return };
            held.withdrawn.get_or_insert(end);
            if matches!(end, Withdrawn::Stopped(StopWhy::Withdrawn)) {
                mark_withdrawn(&self.shared.env.data_dir, lease);
            }
            (session, held.control.clone())
        };
        // Its gate, if that runs.
        control.stop(StopHow::Gracefully { grace }, StopWhy::Withdrawn).await;
        if let Some(session) = session.clone() {
            self.spawn(async move {
                // A worker that has ended cannot be told.
                let _ = session.write_stdin(&protocol::line(&Tell::Cancel { task: lease_name(lease) }), "").await;
            });
        }
        let patience = tokio::time::Instant::now() + grace;
        while self.state.lock().jobs.contains_key(&lease) && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(10).min(grace)).await;
        }
        let alone = {
            let mut state = self.state.lock();
            if !state.jobs.contains_key(&lease) {
                return;
            }
            let alone = state.jobs.len() == 1;
            if alone {
                state.fault =
                    Some(format!("the worker was killed: it did not give up task {} in {} ms", lease.task, grace.as_millis()));
            }
            alone
        };
        if alone && let Some(session) = session {
            apply_stop(&session, StopHow::AtOnce).await;
            let _ = session.wait().await;
        }
        // What it was withdrawn for is what it comes to.
        self.finish(lease, Outcome::stopped(StopWhy::Withdrawn)).await;
    }

    async fn stop(self: &Arc<Self>, how: StopHow, why: StopWhy) {
        let (session, controls) = {
            let mut state = self.state.lock();
            state.stopping = true;
            for held in state.jobs.values_mut() {
                held.withdrawn.get_or_insert(Withdrawn::Stopped(why));
            }
            (state.session.take(), state.jobs.values().map(|held| held.control.clone()).collect::<Vec<_>>())
        };
        for control in controls {
            control.stop(how, why).await;
            if let Some(gate) = control.live() {
                let _ = gate.wait().await;
            }
        }
        let session = match session {
            Some(session) => Some(session),
            None => match session::adopt(self.dir()).await {
                Ok(Adopted::Running(session)) => Some(Arc::new(session)),
                _ => None,
            },
        };
        if let Some(session) = session {
            if let StopHow::Gracefully { grace } = how {
                let line = protocol::line(&Tell::Stop);
                let told = session.write_stdin(&line, "");
                if matches!(tokio::time::timeout(grace, told).await, Ok(Ok(()))) {
                    let _ = tokio::time::timeout(grace, session.wait()).await;
                }
            }
            apply_stop(&session, how).await;
            let _ = session.wait().await;
        }
        // Its reader reports what was with it; not for ever, if nobody takes the reports.
        self.tasks.close();
        if tokio::time::timeout(REPORT_PATIENCE, self.tasks.wait()).await.is_err() {
            self.abort_all();
        }
        self.tasks.reopen();
    }
}

impl Connector for WorkerConnector {
    fn start(&self) -> BoxFuture<'_, Result<(), StartFailure>> {
        self.inner.start().boxed()
    }

    fn run(&self, job: Job) -> BoxFuture<'_, ()> {
        async move {
            let lease = job.lease;
            if let What::Command { .. } = job.what {
                let error = format!("agent {} is a worker: it takes tasks of a kind, not commands", self.inner.shared.agent.name);
                self.inner.shared.report(Report::Started { lease }).await;
                return self.inner.shared.report(Report::Ended { lease, outcome: Outcome::failed(error, false) }).await;
            }
            let (job, control) = (Arc::new(job), Control::new());
            {
                let mut state = self.inner.state.lock();
                if state.jobs.contains_key(&lease) {
                    return;
                }
                state.jobs.insert(lease, Held { job: job.clone(), control: control.clone(), withdrawn: None, timer: None });
            }
            let inner = self.inner.clone();
            self.inner.spawn(inner.hand_over(job, control));
        }
        .boxed()
    }

    fn cancel(&self, lease: Lease, how: StopHow) -> BoxFuture<'_, ()> {
        async move {
            let grace = if let StopHow::Gracefully { grace } = how { grace } else { Duration::ZERO };
            let inner = self.inner.clone();
            self.inner.spawn(async move { inner.withdraw(lease, Withdrawn::Stopped(StopWhy::Withdrawn), grace).await });
        }
        .boxed()
    }

    fn freeze(&self, frozen: bool) -> BoxFuture<'_, Result<(), String>> {
        async move {
            self.inner.shared.frozen.send_replace(frozen);
            let sessions: Vec<_> = {
                let state = self.inner.state.lock();
                state.session.iter().cloned().chain(state.jobs.values().filter_map(|held| held.control.live())).collect()
            };
            freeze_all(sessions.into_iter(), frozen).await
        }
        .boxed()
    }

    fn stop(&self, how: StopHow, why: StopWhy) -> BoxFuture<'_, ()> {
        async move { self.inner.stop(how, why).await }.boxed()
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        async move { self.inner.abort_all() }.boxed()
    }
}

fn handled_path(session: &Session) -> PathBuf {
    session.dir().path().join("handled")
}

/// Returns how far the process's output was dealt with, and whether it was ready then.
///
/// Errors: there is a record and it cannot be read. To begin at the beginning would be to hear all of it again.
fn handled(session: &Session) -> io::Result<(u64, Option<Readiness>)> {
    let text = match fs::read_to_string(handled_path(session)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, None)),
        text => text?,
    };
    let mut fields = text.split_ascii_whitespace();
    let offset = fields.next().and_then(|field| field.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let heartbeat = |field: &str| field.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    Ok((offset, fields.next().map(|field| Readiness::Ready { heartbeat: heartbeat(field) })))
}

fn write_handled(session: &Session, offset: u64, ready: &Readiness) -> io::Result<()> {
    let text = match ready {
        Readiness::Ready { heartbeat } => format!("{offset} {}", heartbeat.map_or(0, |every| every.as_millis())),
        _ => offset.to_string(),
    };
    let temporary = session.dir().path().join(".handled.new");
    fs::write(&temporary, text)?;
    fs::rename(temporary, handled_path(session))
}
