//! An attempt's workspace, from its making to what is kept of it: hooks, bounds, commits, checks.

use std::{fs, path::Path, time::Duration};

use hiveward_catalogue::agent::coding::{AnswerKind, CodingSpec, Hook};
use hiveward_work::task::{gate::GateSpec, spec::CommandSpec};
use serde_json::{Value, json};

use crate::{
    connector::{
        End, Job, Outcome, StopHow, StopWhy,
        attempt::{Attempt, Control, json_or_text},
    },
    workspace::{Plan, Ports, Work, Workspace},
};

/// Interval between looks at the size of a worktree, if it has a bound.
const SIZE_LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Place {
    workspace: Workspace,
    ports: Option<Ports>,
    temporary: String,
}

/// Makes the workspace of an attempt, or finds it again.
pub(super) async fn open(attempt: &mut Attempt, job: &Job, spec: &CodingSpec, control: &Control) -> Result<Place, Outcome> {
    let lease = job.lease;
    let name = |number: u32| format!("{}-{number}", lease.task);
    let before = lease.attempt.checked_sub(1).filter(|before| *before > 0);
    let of_inputs = job.inputs.iter().filter_map(|input| {
        let result = json_or_text(input.result.as_deref()?);
        Some(result.get("branch")?.as_str()?.to_owned())
    });
    let plan = Plan {
        spec: &spec.workspace,
        scratch: attempt.scratch(),
        worktrees: attempt.shared.env.data_dir.join("worktrees"),
        name: name(lease.attempt),
        before: before.map(name),
        begin_at: of_inputs.collect(),
    };
    let workspace = Workspace::open(plan).await.map_err(|why| Outcome::failed(why, true))?;
    attempt.work_in(workspace.dir.clone());
    let temporary = attempt.path("tmp");
    fs::create_dir_all(&temporary).map_err(|error| Outcome::failed(format!("a directory cannot be made: {error}"), true))?;
    let kept = attempt.read("port").and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
    let ports = Ports::take(kept);
    if let Some(ports) = &ports {
        // Only so that a process that lives on keeps its own: another attempt of these ports would be told others.
        let _ = attempt.write("port", ports.first.to_string().as_bytes());
    }
    let place = Place { workspace, ports, temporary: temporary.display().to_string() };
    if let Some(hook) = place.workspace.worktree().and_then(|tree| tree.set_up.as_ref())
        && attempt.read("set-up").is_none()
    {
        let done = place.hook(attempt, "setup", hook, control).await;
        if done.end != End::Succeeded {
            return Err(done);
        }
        let _ = attempt.write("set-up", b"done");
    }
    Ok(place)
}

fn gate(name: &str, hook: &Hook) -> GateSpec {
    let command = CommandSpec { argv: hook.argv.clone(), ..CommandSpec::default() };
    GateSpec { name: name.to_owned(), command, timeout_ms: hook.timeout_ms, retriable: true }
}

impl Place {
    pub(super) fn dir(&self) -> &Path {
        &self.workspace.dir
    }

    /// Returns the variables that keep attempts that run at once out of each other's way.
    pub(super) fn env(&self) -> Vec<(String, String)> {
        let port = self.ports.as_ref().map(|ports| ("HIVEWARD_PORT".to_owned(), ports.first.to_string()));
        [("TMPDIR".to_owned(), self.temporary.clone())].into_iter().chain(port).collect()
    }

    async fn hook(&self, attempt: &Attempt, name: &str, hook: &Hook, control: &Control) -> Outcome {
        let spec = gate(name, hook);
        attempt.verify_in(&attempt.side_dir(name), &spec, &self.env(), control, Outcome::of(End::Succeeded)).await
    }

    /// Does the work, and ends it if it takes more room than it may.
    pub(super) async fn within_bounds<T>(&self, control: &Control, work: impl Future<Output = (Outcome, T)>) -> (Outcome, T) {
        let Some(bytes_max) = self.workspace.bytes_max() else { return work.await };
        let mut work = std::pin::pin!(work);
        let mut too_large = None;
        loop {
            tokio::select! {
                (outcome, rest) = &mut work => {
                    let outcome = too_large.map_or(outcome, |why: String| Outcome::failed(why, false));
                    return (outcome, rest);
                },
                () = tokio::time::sleep(SIZE_LOOKED_AT_EVERY), if too_large.is_none() => {
                    let dir = self.workspace.dir.clone();
                    let bytes = tokio::task::spawn_blocking(move || Workspace::bytes(&dir)).await.unwrap_or(0);
                    if bytes > bytes_max {
                        too_large = Some(format!("its workspace took {bytes} bytes, more than {bytes_max}; it was stopped"));
                        control.stop(StopHow::AtOnce, StopWhy::TooLarge).await;
                    }
                },
            }
        }
    }

    /// Keeps the work, checks it, and lets the workspace go.
    pub(super) async fn settle(
        self,
        attempt: &Attempt,
        job: &Job,
        spec: &CodingSpec,
        control: &Control,
        outcome: Outcome,
    ) -> Outcome {
        let outcome = self.checked(attempt, job, spec, control, outcome).await;
        let Some(tree) = self.workspace.worktree().cloned() else { return outcome };
        if let Some(hook) = &tree.tear_down {
            let done = self.hook(attempt, "teardown", hook, &Control::new()).await;
            if let (Some(error), true) = (done.error, done.end != End::Succeeded) {
                tracing::warn!(task = %job.lease.task, error, "the tear-down of a workspace failed");
            }
        }
        if let Err(error) = self.workspace.let_go().await {
            // Its work is committed; the directory is only room on the disk.
            tracing::warn!(task = %job.lease.task, error, "a worktree could not be removed");
        }
        outcome
    }

    async fn checked(&self, attempt: &Attempt, job: &Job, spec: &CodingSpec, control: &Control, outcome: Outcome) -> Outcome {
        let done = outcome.end == End::Succeeded;
        let work = match self.workspace.keep(&job.title, &attempt.shared.agent.name, done).await {
            Ok(work) => work,
            Err(why) if done => return Outcome::failed(why, true),
            Err(why) => {
                tracing::warn!(task = %job.lease.task, why, "what an attempt left could not be committed");
                None
            }
        };
        if !done {
            return outcome;
        }
        let mut outcome = match work {
            Some(work) if spec.answer == AnswerKind::Text => with_work(outcome, &work),
            _ => outcome,
        };
        for (number, check) in spec.checks.iter().enumerate() {
            let dir = attempt.side_dir(&format!("check{number}"));
            outcome = attempt.verify_in(&dir, &gate(&check.name, &check.hook), &self.env(), control, outcome).await;
            if outcome.end != End::Succeeded {
                return outcome;
            }
        }
        attempt.verify(job.gate.as_ref(), &self.env(), control, outcome).await
    }
}

/// Returns the outcome with where its work is: who depends on it must find that.
fn with_work(outcome: Outcome, work: &Work) -> Outcome {
    let text = outcome.result.as_deref().map_or(Value::Null, json_or_text);
    let result = json!({
        "text": text, "branch": work.branch, "commit": work.commit, "base": work.base, "files": work.files,
    });
    Outcome { result: Some(result.to_string().into_bytes().into()), ..outcome }
}
