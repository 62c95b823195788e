//! Makes of an assignment the job that a connector runs: bodies fetched, limits applied.

use std::time::Duration;

use hiveward_catalogue::agent::spec::AgentSpec;
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
};
use hiveward_work::{
    swarm::reference::Assignment,
    task::{
        record::TaskRecord,
        scatter::Role,
        spec::{TaskSpec, Work},
    },
};

use super::connector::{End, Input, Job, Outcome, What};
use crate::services::AgentServices;

/// Time that the inputs of a task may be waited for.
const INPUTS_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn is_inline(spec: &TaskSpec) -> bool {
    use hiveward_kernel::body::Body;

    let body = match &spec.work {
        Work::Command(command) => command.stdin.as_ref(),
        Work::Kind { payload, .. } => payload.as_ref(),
    };
    !matches!(body, Some(Body::Blob { .. }))
}

pub(super) async fn fetch(services: &AgentServices, assignment: &Assignment) -> Result<Job, Refused> {
    let mut inputs = Vec::new();
    if !assignment.spec.depends_on.is_empty() {
        let deadline = Deadline::after(INPUTS_TIMEOUT);
        services
            .views
            .at_least(assignment.cursor, deadline)
            .await
            .map_err(|lagging| Refused::new(Code::Unavailable, lagging.to_string()))?;
        let records = services.tasks.get_many(&assignment.spec.depends_on)?;
        for (task, record) in assignment.spec.depends_on.iter().zip(records) {
            let record = record.ok_or_else(|| Refused::not_found(task))?;
            let result = record.result.as_ref().map(|body| services.body(body)).transpose()?;
            inputs.push(Input { task: *task, title: record.spec.title.clone(), status: record.status, result });
        }
    }
    let mut job = make_job(services, assignment, inputs)?;
    if assignment.lease.attempt > 1 {
        let record = services.tasks.get(assignment.lease.task)?;
        let before = |record: TaskRecord| {
            let attempts = record.attempts.into_iter().filter(|attempt| attempt.number < assignment.lease.attempt);
            attempts.last()?.error
        };
        // A hint for the next try: not worth waiting for the views.
        job.earlier = record.and_then(before);
    }
    Ok(job)
}

pub(super) fn make_job(services: &AgentServices, assignment: &Assignment, inputs: Vec<Input>) -> Result<Job, Refused> {
    let spec = &assignment.spec;
    let what = match &spec.work {
        Work::Command(command) => {
            What::Command { command: command.clone(), stdin: command.stdin.as_ref().map(|body| services.body(body)).transpose()? }
        }
        Work::Kind { kind, payload } => {
            What::Kind { kind: kind.clone(), payload: payload.as_ref().map(|body| services.body(body)).transpose()? }
        }
    };
    Ok(Job {
        lease: assignment.lease,
        title: spec.title.clone(),
        what,
        inputs,
        run_timeout: spec.run_timeout_ms.map(Duration::from_millis),
        gate: spec.gate.clone(),
        item: spec.role.as_ref().and_then(Role::item).cloned(),
        labels: spec.labels.clone(),
        earlier: None,
    })
}

/// Bounds the job by the agent's own wall limit, if that is shorter than the task's.
pub(super) fn limited(spec: &AgentSpec, mut job: Job) -> Job {
    if let Some(wall) = spec.limits.wall_ms.map(Duration::from_millis) {
        job.run_timeout = Some(job.run_timeout.map_or(wall, |timeout| timeout.min(wall)));
    }
    job
}

pub(super) fn failed(error: String, retriable: bool) -> Outcome {
    Outcome {
        end: End::Failed,
        exit_code: None,
        signal: None,
        result: None,
        artifacts: Vec::new(),
        error: Some(error),
        retriable,
    }
}
