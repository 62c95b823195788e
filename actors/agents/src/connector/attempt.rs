//! One attempt's files, its program's environment, its gate, and the record of how it ended.
//!
//! The outcome is written before it is reported: if the node dies in between, the same lease, run again, reports the
//! same outcome. A power cut may lose that record; then it is made again from the session's own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hiveward_catalogue::agent::spec::{AgentSpec, Limits, SessionSpec};
use hiveward_kernel::lease::Lease;
use hiveward_runtime::file::replace;
use hiveward_work::task::{gate::GateSpec, record::Artifact, spec::CommandSpec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{End, Input, Job, Outcome, Report, StopHow, StopWhy, What, env::ConnectorEnv, machine, secrets::Resolved};
use crate::{
    lines::tail_of,
    session::{self, Adopted, Exit, Launch, LaunchError, Lost, Overflow, Session, Stdin, Stream, transcript},
};

/// Bytes of standard error in an error message.
const STDERR_TAIL_BYTES: u64 = 2048;
/// A dependency's result above this travels as a file.
const INPUT_INLINE_BYTES_MAX: usize = 64 << 10;
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// Name of the file that marks an attempt whose coordinator took it back.
const WITHDRAWN: &str = "withdrawn";
/// Words for the power having been cut before its output was on the disk.
const CUT: &str = "it ended, but this machine has less of its output than it wrote: that was lost, as in a power cut";
/// Words for a program that was ended because its node's lease was over.
pub(super) const LEASE_OVER: &str = "it was ended because its node's lease was over: another node may do its task by then";
const STOPPED: &str = "it was stopped while it ran, with its agent or by its node; nobody cancelled it";
/// The variables that every process gets from the node.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TERM"];

/// What every job of one agent shares.
pub(super) struct Shared {
    pub agent: Arc<AgentSpec>,
    pub env: ConnectorEnv,
    pub frozen: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(agent: Arc<AgentSpec>, env: ConnectorEnv) -> Self {
        Self { agent, env, frozen: watch::Sender::new(false) }
    }

    pub(super) async fn report(&self, report: Report) {
        self.env.reports.send(report).await;
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.agent.stop_grace_ms)
    }

    /// Returns the node's few variables and the agent's own.
    pub(super) fn base_env(&self) -> Result<Resolved, String> {
        let mut resolved = Resolved::default();
        for name in INHERITED {
            if let Ok(value) = std::env::var(name) {
                resolved.set(name, value);
            }
        }
        for var in &self.agent.env {
            resolved.add(&*self.env.secrets, &var.name, &var.value)?;
        }
        resolved.set("HIVEWARD_AGENT", self.agent.id.to_string());
        Ok(resolved)
    }

    pub(super) fn run_timeout(&self, job: &Job) -> Option<Duration> {
        job.run_timeout.into_iter().chain(self.agent.limits.wall_ms.map(Duration::from_millis)).min()
    }
}

/// A running job as the connector's other methods see it.
#[derive(Clone)]
pub(super) struct Control {
    pub stop: Arc<watch::Sender<Option<(StopHow, StopWhy)>>>,
    pub live: Arc<Mutex<Option<Arc<Session>>>>,
    /// Whether no process of the job runs or will be started any more.
    pub over: Arc<watch::Sender<bool>>,
}

impl Control {
    pub(super) fn new() -> Self {
        Self { stop: Arc::new(watch::Sender::new(None)), live: Arc::default(), over: Arc::new(watch::Sender::new(false)) }
    }

    pub(super) fn live(&self) -> Option<Arc<Session>> {
        self.live.lock().clone()
    }

    /// Marks first, then acts on what lives: whoever starts a session afterwards looks at the mark.
    pub(super) async fn stop(&self, how: StopHow, why: StopWhy) {
        self.stop.send_replace(Some((how, why)));
        if let Some(session) = self.live() {
            apply_stop(&session, how).await;
        }
    }
}

/// Waits until it is to stop, and returns why.
pub(super) async fn stopped(stop: &mut watch::Receiver<Option<(StopHow, StopWhy)>>) -> StopWhy {
    match stop.wait_for(Option::is_some).await.map(|stop| *stop) {
        Ok(Some((_, why))) => why,
        // Nobody can stop it any more.
        _ => std::future::pending().await,
    }
}

/// Marks an attempt as cancelled before anything of it is stopped, so that a later life knows it too.
pub(super) fn mark_withdrawn(data_dir: &Path, lease: Lease) {
    let dir = attempt_dir(data_dir, lease);
    // An attempt that never began is remembered by who holds it.
    if dir.exists()
        && let Err(error) = fs::write(dir.join(WITHDRAWN), b"")
    {
        tracing::warn!(lease = lease_name(lease), %error, "that an attempt is cancelled could not be recorded; it counts as lost");
    }
}

pub(super) async fn apply_stop(session: &Session, how: StopHow) {
    // Refused only by a session that has ended.
    let _ = match how {
        StopHow::Gracefully { grace } => session.stop(grace).await,
        StopHow::AtOnce => session.kill().await,
    };
}

/// Returns the public name of a lease, as programs and directories see it.
pub fn lease_name(lease: Lease) -> String {
    format!("{}/{}", lease.task, lease.attempt)
}

/// Returns where the transcript of an attempt is, if its agent runs a program per task.
pub fn session_dir(data_dir: &Path, lease: Lease) -> PathBuf {
    data_dir.join("sessions").join(format!("{}-{}", lease.task, lease.attempt))
}

/// Returns where the activity of a coding agent's attempt is: JSON lines, in the form of a transcript.
pub fn activity_dir(data_dir: &Path, lease: Lease) -> PathBuf {
    data_dir.join("sessions").join(format!("{}-{}-activity", lease.task, lease.attempt))
}

fn gate_dir(data_dir: &Path, lease: Lease) -> PathBuf {
    data_dir.join("sessions").join(format!("{}-{}-gate", lease.task, lease.attempt))
}

pub(super) fn attempt_dir(data_dir: &Path, lease: Lease) -> PathBuf {
    data_dir.join("attempts").join(format!("{}-{}", lease.task, lease.attempt))
}

/// Returns everything that is kept of an attempt: its session, its gate's, its files.
pub fn dirs(data_dir: &Path, lease: Lease) -> Vec<PathBuf> {
    let mut dirs = sessions(data_dir, lease);
    dirs.extend([activity_dir(data_dir, lease), attempt_dir(data_dir, lease)]);
    dirs
}

/// Returns every directory of an attempt that may hold a process.
fn sessions(data_dir: &Path, lease: Lease) -> Vec<PathBuf> {
    let name = |part: String| data_dir.join("sessions").join(format!("{}-{}-{part}", lease.task, lease.attempt));
    let runs = (0..).map(|run| run_dir(data_dir, lease, run)).take_while(|dir| dir.exists());
    let checks = (0..).map(|check| name(format!("check{check}"))).take_while(|dir| dir.exists());
    let terminals = (0..).map(|number| terminal_dir(data_dir, lease, number)).take_while(|dir| dir.exists());
    let hooks = [name("setup".to_owned()), name("teardown".to_owned())].into_iter().filter(|dir| dir.exists());
    [session_dir(data_dir, lease), gate_dir(data_dir, lease)]
        .into_iter()
        .chain(runs)
        .chain(terminals)
        .chain(checks)
        .chain(hooks)
        .collect()
}

/// Returns the session of the terminal that a person took the attempt over with, counted from 0.
pub(super) fn terminal_dir(data_dir: &Path, lease: Lease, number: u32) -> PathBuf {
    data_dir.join("sessions").join(format!("{}-{}-terminal{number}", lease.task, lease.attempt))
}

/// Returns the session with the last terminal of an attempt: its program's, or a person's in its place.
pub fn last_terminal_dir(data_dir: &Path, lease: Lease) -> PathBuf {
    let taken = (0..).map(|number| terminal_dir(data_dir, lease, number)).take_while(|dir| dir.exists()).last();
    taken.unwrap_or_else(|| session_dir(data_dir, lease))
}

fn run_dir(data_dir: &Path, lease: Lease, run: u32) -> PathBuf {
    data_dir.join("sessions").join(format!("{}-{}-run{run}", lease.task, lease.attempt))
}

/// Ends whatever runs of an attempt that no job of this life holds. Returns whether there was anything.
pub(super) async fn end_all(data_dir: &Path, lease: Lease, how: StopHow) -> bool {
    let mut ended = false;
    for dir in sessions(data_dir, lease).iter().filter(|dir| session::is_held(dir)) {
        if let Ok(Adopted::Running(session)) = session::adopt(dir).await {
            apply_stop(&session, how).await;
            // Lost is gone as well.
            let _ = session.wait().await;
            ended = true;
        }
    }
    ended
}

/// Ends the sessions of this agent that no job of this life holds: of leases that were voided while we were away.
pub(super) async fn sweep(shared: &Shared, how: StopHow) {
    for lease in leases_of(shared) {
        end_all(&shared.env.data_dir, lease, how).await;
    }
}

/// Returns the leases of all attempts of this agent that anything is kept of.
pub(super) fn leases_of(shared: &Shared) -> Vec<Lease> {
    let entries = fs::read_dir(shared.env.data_dir.join("attempts")).into_iter().flatten().flatten();
    let lease = |entry: fs::DirEntry| serde_json::from_slice::<Lease>(&fs::read(entry.path().join("lease.json")).ok()?).ok();
    entries.filter_map(lease).filter(|lease| lease.agent == shared.agent.id).collect()
}

/// Removes what is kept of an attempt that has ended: transcripts, outcome, files. Errors: something of it still runs.
pub fn forget(data_dir: &Path, lease: Lease) -> io::Result<()> {
    let dirs = dirs(data_dir, lease);
    if sessions(data_dir, lease).iter().any(session::is_held) {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("attempt {} still runs", lease_name(lease))));
    }
    dirs.iter().try_for_each(|dir| match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    })
}

pub(super) struct Attempt {
    pub shared: Arc<Shared>,
    pub lease: Lease,
    pub session: PathBuf,
    gate: PathBuf,
    dir: PathBuf,
    work: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct StoredOutcome {
    end: End,
    exit_code: Option<i32>,
    signal: Option<i32>,
    result: Option<serde_bytes::ByteBuf>,
    artifacts: Vec<Artifact>,
    error: Option<String>,
    retriable: bool,
}

impl Attempt {
    pub(super) fn new(shared: Arc<Shared>, lease: Lease) -> Self {
        let data = &shared.env.data_dir;
        let dir = attempt_dir(data, lease);
        Self { session: session_dir(data, lease), gate: gate_dir(data, lease), work: dir.join("work"), dir, shared, lease }
    }

    pub(super) fn workdir(&self) -> PathBuf {
        self.work.clone()
    }

    /// Has its programs work in this directory, which is not the attempt's own.
    pub(super) fn work_in(&mut self, dir: PathBuf) {
        self.work = dir;
    }

    /// Returns the session of the process with this number, for connectors that start one after the other.
    pub(super) fn run_dir(&self, run: u32) -> PathBuf {
        run_dir(&self.shared.env.data_dir, self.lease, run)
    }

    /// Returns the session of a program beside the agent's own: a check, a hook.
    pub(super) fn side_dir(&self, name: &str) -> PathBuf {
        self.shared.env.data_dir.join("sessions").join(format!("{}-{}-{name}", self.lease.task, self.lease.attempt))
    }

    /// Returns its own fresh directory, wherever it works.
    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Returns the agent's life that began the attempt; the first call records it.
    pub(super) fn first_incarnation(&self) -> io::Result<u64> {
        let kept = self.read("incarnation").and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
        if let Some(kept) = kept {
            return Ok(kept);
        }
        self.write("incarnation", self.shared.env.incarnation.to_string().as_bytes())?;
        Ok(self.shared.env.incarnation)
    }

    pub(super) fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Makes fresh directories, and records on disk whose they are.
    pub(super) fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(self.dir.join("work"))?;
        fs::create_dir_all(self.shared.env.data_dir.join("sessions"))?;
        self.write("lease.json", &serde_json::to_vec(&self.lease)?)
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{name}.new"));
        fs::write(&temporary, bytes)?;
        fs::rename(temporary, self.dir.join(name))
    }

    pub(super) fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name)).ok()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns how it ended, if it has. One recorded that cannot be read has failed: to run it again would be to do it twice.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let bytes = match fs::read(self.dir.join("outcome")) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return None,
            Err(error) => return Some(Outcome::failed(format!("how it ended is recorded and cannot be read: {error}"), true)),
        };
        // What a power cut has torn is made again from the session's own record.
        let stored: StoredOutcome = rmp_serde::from_slice(&bytes).ok()?;
        let StoredOutcome { end, exit_code, signal, result, artifacts, error, retriable } = stored;
        Some(Outcome {
            end,
            exit_code,
            signal,
            result: result.map(|bytes| Bytes::from(bytes.into_vec())),
            artifacts,
            error,
            retriable,
        })
    }

    /// Records the outcome, then lets go of the working directory.
    pub(super) fn settle(&self, outcome: &Outcome) {
        self.settled(outcome.to_stored().and_then(|bytes| {
            fs::create_dir_all(&self.dir)?;
            self.write("outcome", &bytes)
        }));
    }

    /// Settles as [`Attempt::settle`] does. Artifacts cannot be made again without the working directory: the record of an
    /// outcome that has some is on the disk before that goes, or a power cut would leave neither.
    pub(super) async fn settle_with_artifacts(&self, outcome: &Outcome) {
        if outcome.artifacts.is_empty() {
            return self.settle(outcome);
        }
        let (stored, dir) = (outcome.to_stored(), self.dir.clone());
        let write = move || {
            fs::create_dir_all(&dir)?;
            replace(&dir.join("outcome"), &stored?)
        };
        self.settled(tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error))));
    }

    fn settled(&self, written: io::Result<()>) {
        if let Err(error) = written {
            // It is reported all the same; only a crash before it is committed would run the work again.
            tracing::warn!(lease = lease_name(self.lease), %error, "the outcome could not be recorded");
            return;
        }
        let _ = fs::remove_dir_all(self.dir.join("work"));
    }

    /// Returns the results of what the task depends on; large ones as `{"path": …}`, each in a file of the attempt.
    pub(super) fn inputs(&self, inputs: &[Input]) -> io::Result<Value> {
        let mut list = Vec::with_capacity(inputs.len());
        for (i, input) in inputs.iter().enumerate() {
            let result = match &input.result {
                Some(bytes) if bytes.len() > INPUT_INLINE_BYTES_MAX => {
                    let name = format!("input-{i}.json");
                    self.write(&name, bytes)?;
                    json!({ "path": self.path(&name) })
                }
                Some(bytes) => json_or_text(bytes),
                None => Value::Null,
            };
            list.push(json!({ "task": input.task, "title": input.title, "status": input.status, "result": result }));
        }
        Ok(Value::Array(list))
    }

    /// Returns the environment of the attempt's programs.
    pub(super) fn env(&self, extra: &[&[(String, String)]]) -> Result<Resolved, String> {
        let mut resolved = self.shared.base_env()?;
        for (name, value) in extra.iter().copied().flatten() {
            resolved.add(&*self.shared.env.secrets, name, value)?;
        }
        resolved.set("HIVEWARD_TASK", self.lease.task.to_string());
        resolved.set("HIVEWARD_ATTEMPT", self.lease.attempt.to_string());
        resolved.set("HIVEWARD_AGENT", self.lease.agent.to_string());
        resolved.set("HIVEWARD_INPUTS", self.path("inputs.json").display().to_string());
        resolved.set("HIVEWARD_WORKDIR", self.workdir().display().to_string());
        Ok(resolved)
    }

    pub(super) fn launch_of(
        &self,
        dir: &Path,
        command: &CommandSpec,
        env: Vec<(String, String)>,
        stdin: Stdin,
        wall: Option<Duration>,
    ) -> Launch {
        let agent = &self.shared.agent;
        Launch {
            dir: dir.to_owned(),
            argv: command.argv.clone(),
            env,
            cwd: command.cwd.as_ref().map_or_else(|| self.workdir(), |cwd| self.workdir().join(cwd)),
            stdin,
            mode: SessionSpec::Pipes,
            limits: Limits { wall_ms: None, ..agent.limits.clone() },
            wall,
            grace: self.shared.grace(),
            overflow: Overflow::Drop { bytes_max: agent.limits.output_bytes_max.unwrap_or(OUTPUT_BYTES_MAX) },
            keeps: None,
            shim: self.shared.env.shim.clone(),
        }
    }

    /// Returns the session in `dir`: adopted in whatever state it is, or launched by `make` if it never started.
    pub(super) async fn open(
        &self,
        dir: &Path,
        control: &Control,
        make: impl Fn() -> Result<Launch, String>,
    ) -> Result<Arc<Session>, Outcome> {
        let machine = |error: &dyn std::fmt::Display| Outcome::failed(format!("the session could not be used: {error}"), true);
        loop {
            let session = match session::adopt(dir).await.map_err(|e| machine(&e))? {
                Adopted::Running(session) => session,
                Adopted::Ended(exit) => Session::after(dir, exit),
                Adopted::Lost => {
                    return Err(Outcome::lost(Lost.to_string()));
                }
                Adopted::Cut => {
                    return Err(Outcome::lost(CUT));
                }
                Adopted::NeverStarted => {
                    let mut stop = control.stop.subscribe();
                    let mut frozen = self.shared.frozen.subscribe();
                    tokio::select! {
                        biased;
                        why = stopped(&mut stop) => return Err(Outcome::stopped(why)),
                        _ = frozen.wait_for(|frozen| !frozen) => {}
                    }
                    // A directory from before has nothing in it that began.
                    let _ = fs::remove_dir_all(dir);
                    let launch = make().map_err(|e| Outcome::failed(e, false))?;
                    let launch = machine::enter(self, control, launch).await?;
                    match session::launch(launch).await {
                        Ok(session) => session,
                        Err(LaunchError::Busy(_)) => continue,
                        Err(LaunchError::Program(message)) => return Err(Outcome::failed(message, false)),
                        Err(LaunchError::Machine { what, source }) => return Err(machine(&format!("cannot {what}: {source}"))),
                    }
                }
            };
            let session = Arc::new(session);
            machine::introduce(self, &session);
            *control.live.lock() = Some(session.clone());
            if *self.shared.frozen.borrow() {
                let _ = machine::pause(&self.shared, self.lease, true).await;
                let _ = session.freeze(true).await;
            }
            let stop = *control.stop.borrow();
            if let Some((how, _)) = stop {
                apply_stop(&session, how).await;
            }
            return Ok(session);
        }
    }

    /// Returns the outcome of a program that did not succeed; `None` if it did.
    pub(super) fn judge(&self, dir: &Path, exit: &Result<Exit, Lost>, redact: &Resolved) -> Option<Outcome> {
        let exit = match exit {
            Ok(exit) => exit,
            Err(lost) => return Some(Outcome::lost(lost.to_string())),
        };
        if let Some(lost) = machine::lost(self, exit) {
            return Some(lost);
        }
        let with = |end: End, error: String, retriable: bool| {
            Some(Outcome { exit_code: exit.code, signal: exit.signal, error: Some(error), retriable, ..Outcome::of(end) })
        };
        if exit.launch_error.is_some() {
            return with(End::Failed, exit.describe(), false);
        }
        if exit.lease_over && !exit.success() {
            return with(End::Lost, LEASE_OVER.to_owned(), true);
        }
        if exit.timed_out {
            return with(End::TimedOut, format!("stopped after its run timeout ({})", exit.describe()), true);
        }
        if exit.stopped {
            // Whoever stopped it: only who took the lease back has said so before.
            return match self.dir.join(WITHDRAWN).exists() {
                true => with(End::Cancelled, StopWhy::Withdrawn.words().to_owned(), false),
                false => with(End::Lost, STOPPED.to_owned(), true),
            };
        }
        if exit.success() {
            return None;
        }
        let said = redact.redact(&transcript::last_text(dir, Stream::Stderr, STDERR_TAIL_BYTES + 512));
        let said = tail_of(&said, STDERR_TAIL_BYTES as usize);
        let error = if said.is_empty() { exit.describe() } else { format!("{}: {said}", exit.describe()) };
        with(End::Failed, error, true)
    }

    /// Runs the gate, if there is one, on an attempt that has succeeded so far.
    pub(super) async fn verify(
        &self,
        gate: Option<&GateSpec>,
        task_env: &[(String, String)],
        control: &Control,
        outcome: Outcome,
    ) -> Outcome {
        match gate {
            Some(gate) => self.verify_in(&self.gate, gate, task_env, control, outcome).await,
            None => outcome,
        }
    }

    /// Runs one of several gates as [`Self::verify`] does, each with a directory of its own.
    pub(super) async fn verify_in(
        &self,
        dir: &Path,
        gate: &GateSpec,
        task_env: &[(String, String)],
        control: &Control,
        outcome: Outcome,
    ) -> Outcome {
        self.shared.report(Report::Verifying { lease: self.lease }).await;
        let resolved = match self.env(&[task_env, &gate.command.env]) {
            Ok(resolved) => resolved,
            Err(error) => {
                return Outcome {
                    artifacts: outcome.artifacts,
                    ..Outcome::failed(format!("gate {}: {error}", gate.name), false)
                };
            }
        };
        let make = || {
            self.write("gate-stdin", outcome.result.as_deref().unwrap_or_default())
                .map_err(|e| format!("the gate's input cannot be written: {e}"))?;
            let stdin = Stdin::File(self.path("gate-stdin"));
            Ok(self.launch_of(dir, &gate.command, resolved.env.clone(), stdin, Some(Duration::from_millis(gate.timeout_ms))))
        };
        let failure = match self.open(dir, control, make).await {
            Ok(session) => {
                let exit = session.wait().await;
                control.live.lock().take();
                self.judge(dir, &exit, &resolved)
            }
            Err(failure) => Some(failure),
        };
        match failure {
            None => outcome,
            Some(failure) if matches!(failure.end, End::Cancelled | End::Lost) => {
                Outcome { artifacts: outcome.artifacts, ..failure }
            }
            Some(failure) => Outcome {
                end: End::Failed,
                artifacts: outcome.artifacts,
                error: Some(format!("gate {} did not pass: {}", gate.name, failure.error.unwrap_or_default())),
                retriable: gate.retriable,
                ..failure
            },
        }
    }

    /// Stores a file of the working directory as an artifact. Only when no process of the attempt runs any more.
    pub(super) async fn keep(&self, name: String, path: PathBuf, anywhere: bool) -> Result<Artifact, String> {
        let (workdir, store) = (self.workdir(), self.shared.env.artifacts.clone());
        let stored = tokio::task::spawn_blocking(move || {
            let real = fs::canonicalize(workdir.join(&path)).map_err(|e| format!("artifact {name} ({}): {e}", path.display()))?;
            let inside = anywhere || fs::canonicalize(&workdir).is_ok_and(|workdir| real.starts_with(workdir));
            if !inside || !real.is_file() {
                return Err(format!("artifact {name} ({}) is no file inside the working directory", path.display()));
            }
            let (hash, bytes) = store.put_file(&real).map_err(|e| format!("artifact {name} cannot be stored: {e}"))?;
            Ok(Artifact { name, hash, bytes })
        });
        stored.await.unwrap_or_else(|e| Err(format!("artifact cannot be stored: {e}")))
    }
}

pub(super) fn json_or_text(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

impl Outcome {
    fn to_stored(&self) -> io::Result<Vec<u8>> {
        let Self { end, exit_code, signal, result, artifacts, error, retriable } = self.clone();
        let result = result.map(|bytes| serde_bytes::ByteBuf::from(bytes.to_vec()));
        let stored = StoredOutcome { end, exit_code, signal, result, artifacts, error, retriable };
        rmp_serde::to_vec(&stored).map_err(io::Error::other)
    }

    pub(super) fn of(end: End) -> Self {
        Self { end, exit_code: None, signal: None, result: None, artifacts: Vec::new(), error: None, retriable: false }
    }

    /// Returns the outcome of an attempt that was stopped and of which nothing runs.
    pub(super) fn stopped(why: StopWhy) -> Self {
        let end = why.end();
        Self { error: Some(why.words().to_owned()), retriable: end == End::Lost, ..Self::of(end) }
    }

    /// Returns the outcome of an attempt of which nobody knows how far it came, or that was ended in the middle; another follows.
    pub(super) fn lost(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), retriable: true, ..Self::of(End::Lost) }
    }

    pub(super) fn failed(error: impl Into<String>, retriable: bool) -> Self {
        Self { error: Some(error.into()), retriable, ..Self::of(End::Failed) }
    }
}

/// Returns what a job's program reads, as bytes.
pub(super) fn payload(what: &What) -> Option<&Bytes> {
    match what {
        What::Command { stdin, .. } => stdin.as_ref(),
        What::Kind { payload, .. } => payload.as_ref(),
    }
}
