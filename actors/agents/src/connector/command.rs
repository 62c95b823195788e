//! Runs a program per task: the payload on standard input, progress as JSON lines on standard output if it speaks them.
//!
//! Owns one session per attempt, and a second one for its gate. What a job has come to can always be found again from
//! its directories: a lease that is run again goes on wherever it was.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use hiveward_catalogue::agent::spec::{AgentSpec, SessionSpec};
use hiveward_kernel::lease::Lease;
use hiveward_work::task::spec::CommandSpec;

use super::{
    Connector, End, Job, Outcome, Report, StartFailure, StopHow, StopWhy, What,
    attempt::{Attempt, Control, Shared},
    attempts::Attempts,
    env::ConnectorEnv,
    secrets::Resolved,
};
use crate::{
    lines::{LINE_BYTES_MAX, Line, Lines, Said, head_of, percent},
    session::{Session, Stdin, Stream},
};

/// Bytes above which standard output is an artifact and no result.
const RESULT_BYTES_MAX: usize = 1 << 20;
/// Kind of terminal; what people attach with understands at least this.
const TERMINAL_KIND: &str = "xterm-256color";
const ARTIFACTS_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 1024;

pub(super) struct CommandConnector {
    shared: Arc<Shared>,
    attempts: Attempts<()>,
}

impl CommandConnector {
    pub(super) fn new(agent: Arc<AgentSpec>, env: ConnectorEnv) -> Self {
        let shared = Arc::new(Shared::new(agent, env));
        Self { attempts: Attempts::new(shared.clone()), shared }
    }
}

impl Connector for CommandConnector {
    fn start(&self) -> BoxFuture<'_, Result<(), StartFailure>> {
        ready(Ok(())).boxed()
    }

    fn run(&self, job: Job) -> BoxFuture<'_, ()> {
        let shared = self.shared.clone();
        self.attempts.run(job.lease, |control| ((), async move { run(shared, job, &control).await }));
        ready(()).boxed()
    }

    fn cancel(&self, lease: Lease, how: StopHow) -> BoxFuture<'_, ()> {
        self.attempts.cancel(lease, how).boxed()
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
async fn run(shared: Arc<Shared>, job: Job, control: &Control) -> Outcome {
    let attempt = Attempt::new(shared.clone(), job.lease);
    if let Some(outcome) = attempt.outcome() {
        shared.report(Report::Started { lease: job.lease }).await;
        return outcome;
    }
    let What::Command { command, stdin } = &job.what else {
        let error = format!("agent {} runs commands; this task names a kind of work", shared.agent.name);
        return Outcome::failed(error, false);
    };
    let outcome = match attempt.env(&[&command.env]) {
        Ok(resolved) => Box::pin(work(&attempt, &job, command, stdin.as_ref(), resolved, control)).await,
        Err(error) => Outcome::failed(error, false),
    };
    attempt.settle_with_artifacts(&outcome).await;
    outcome
}

async fn work(
    attempt: &Attempt,
    job: &Job,
    command: &CommandSpec,
    stdin: Option<&Bytes>,
    mut resolved: Resolved,
    control: &Control,
) -> Outcome {
    let shared = &attempt.shared;
    let terminal = matches!(shared.agent.session, SessionSpec::Pty { .. });
    if stdin.is_some() {
        resolved.set("HIVEWARD_PAYLOAD", attempt.path("payload").display().to_string());
    }
    if let Some(item) = &job.item {
        resolved.set("HIVEWARD_ITEM", item.text.clone());
        resolved.set("HIVEWARD_ITEM_INDEX", item.index.to_string());
    }
    // A node that runs as a service has none to inherit; without one, programs think of the terminal as dumb.
    if terminal && !resolved.env.iter().any(|(name, _)| name == "TERM") {
        resolved.set("TERM", TERMINAL_KIND.to_owned());
    }
    let make = || {
        let prepared = attempt.prepare().and_then(|()| {
            attempt.write("inputs.json", &serde_json::to_vec(&attempt.inputs(&job.inputs)?)?)?;
            stdin.map_or(Ok(()), |payload| attempt.write("payload", payload))
        });
        prepared.map_err(|e| format!("the attempt's files cannot be written: {e}"))?;
        // A file, not a pipe: a payload of any size, that no restart of the node can cut off.
        let input = match stdin {
            _ if terminal => Stdin::Pipe,
            Some(_) => Stdin::File(attempt.path("payload")),
            None => Stdin::Null,
        };
        let mut launch = attempt.launch_of(&attempt.session, command, resolved.env.clone(), input, shared.run_timeout(job));
        launch.keeps = Some(attempt.workdir());
        launch.mode = if terminal { shared.agent.session.clone() } else { SessionSpec::Pipes };
        Ok(launch)
    };
    let session = match attempt.open(&attempt.session, control, make).await {
        Ok(session) => session,
        Err(outcome) => return outcome,
    };
    shared.report(Report::Started { lease: job.lease }).await;
    let mut heard = listen(attempt, &session).await;
    let exit = session.wait().await;
    control.live.lock().take();
    let dropped = exit.as_ref().map_or(0, |exit| exit.dropped_bytes);
    if dropped > 0 {
        note(attempt, format!("{dropped} bytes of output were dropped: the bound of output was reached")).await;
    }
    let mut failure = attempt.judge(&attempt.session, &exit, &resolved);
    if let Some(error) = &heard.unread
        && failure.as_ref().is_none_or(|failure| failure.end == End::Failed)
    {
        // It may have said that it succeeded, failed, or what came of it.
        failure = Some(Outcome::lost(format!("what its program printed cannot be read: {error}")));
    }
    // What the program said about its failure is better than its exit status.
    if let Some((message, retriable)) = heard.fail.take()
        && failure.as_ref().is_none_or(|failure| failure.end == End::Failed)
    {
        let status = failure.as_ref().and_then(|failure| failure.exit_code).or(exit.as_ref().ok().and_then(|exit| exit.code));
        failure = Some(Outcome { exit_code: status, ..Outcome::failed(resolved.redact(&message), retriable) });
    }
    let mut outcome = failure.unwrap_or_else(|| Outcome { exit_code: Some(0), ..Outcome::of(End::Succeeded) });
    if matches!(outcome.end, End::Succeeded | End::Failed | End::TimedOut) {
        for (name, path) in std::mem::take(&mut heard.artifacts) {
            match attempt.keep(name, path.into(), false).await {
                Ok(artifact) => outcome.artifacts.push(artifact),
                Err(error) if outcome.end == End::Succeeded => {
                    outcome =
                        Outcome { artifacts: outcome.artifacts, exit_code: outcome.exit_code, ..Outcome::failed(error, true) };
                }
                Err(_) => {}
            }
        }
    }
    if outcome.end != End::Succeeded {
        return outcome;
    }
    match heard.result() {
        Found::Result(result) => outcome.result = result,
        Found::Unfit(why) => match attempt.keep("stdout".to_owned(), attempt.session.join("stdout"), true).await {
            Ok(artifact) => {
                note(attempt, format!("no result: {why}; it is kept as the artifact `stdout`")).await;
                outcome.artifacts.push(artifact);
            }
            Err(error) => return Outcome::failed(error, true),
        },
    }
    attempt.verify(job.gate.as_ref(), &command.env, control, outcome).await
}

async fn note(attempt: &Attempt, message: String) {
    attempt.shared.report(Report::Progress { lease: attempt.lease, percent: None, message: Some(message) }).await;
}

#[derive(Default)]
struct Heard {
    value: Option<Bytes>,
    artifacts: Vec<(String, String)>,
    fail: Option<(String, bool)>,
    /// Output that is not protocol, up to the bound.
    text: Vec<u8>,
    too_much: bool,
    /// Reason why what it printed is not known, or not all of it.
    unread: Option<io::Error>,
}

enum Found {
    Result(Option<Bytes>),
    Unfit(&'static str),
}

impl Heard {
    fn result(&mut self) -> Found {
        if let Some(value) = self.value.take() {
            return Found::Result(Some(value));
        }
        if self.too_much {
            return Found::Unfit("standard output is over 1 MiB");
        }
        match String::from_utf8(std::mem::take(&mut self.text)) {
            Ok(text) if text.is_empty() => Found::Result(None),
            Ok(text) => Found::Result(serde_json::to_vec(&text).ok().map(Bytes::from)),
            Err(_) => Found::Unfit("standard output is not UTF-8"),
        }
    }

    fn line(&mut self, line: Line<'_>, last: bool, progress: &mut Option<(Option<f32>, Option<String>)>) {
        let Line::Whole(line) = line else {
            self.too_much = true;
            return;
        };
        match Said::parse(line) {
            Some(Said::Progress { percent: value, message }) => {
                *progress = Some((percent(value), message.map(|message| head_of(&message, MESSAGE_BYTES_MAX).to_owned())));
            }
            Some(Said::Result { value }) => self.value = serde_json::to_vec(&value).ok().map(Bytes::from),
            Some(Said::Artifact { name, path }) if self.artifacts.len() < ARTIFACTS_MAX => {
                self.artifacts.retain(|(other, _)| *other != name);
                self.artifacts.push((name, path));
            }
            Some(Said::Artifact { .. }) => {}
            Some(Said::Fail { retriable, message }) => {
                let message = message.unwrap_or_else(|| "the program reported a failure".to_owned());
                self.fail = Some((head_of(&message, 4 * MESSAGE_BYTES_MAX).to_owned(), retriable.unwrap_or(true)));
            }
            None if self.text.len() + line.len() + 1 > RESULT_BYTES_MAX => {
                self.too_much = true;
                self.text = Vec::new();
            }
            None if self.too_much => {}
            None => {
                self.text.extend_from_slice(line);
                if !last {
                    self.text.push(b'\n');
                }
            }
        }
    }
}

/// Reads the program's output to its end. After an adoption that is all of it again: the same ends in the same.
async fn listen(attempt: &Attempt, session: &Session) -> Heard {
    const { assert!(LINE_BYTES_MAX <= RESULT_BYTES_MAX) };
    let (mut heard, mut lines) = (Heard::default(), Lines::default());
    let mut tail = match session.tail(Stream::Stdout, 0) {
        Ok(tail) => tail,
        Err(error) => return Heard { unread: Some(error), ..heard },
    };
    loop {
        let bytes = match tail.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(error) => return Heard { unread: Some(error), ..heard },
        };
        let mut progress = None;
        lines.feed(&bytes, |line| heard.line(line, false, &mut progress));
        // The newest of a batch: progress is a state, not a log.
        if let Some((percent, message)) = progress {
            attempt.shared.report(Report::Progress { lease: attempt.lease, percent, message }).await;
        }
    }
    lines.finish(|line| heard.line(line, true, &mut None));
    heard
}
