//! Fetches the results that a plan's or a scatter's own result is made of, and makes it.

use std::time::Duration;

use hiveward_kernel::{body::Body, id::TaskId};
use hiveward_runtime::{call::Addr, clock::Deadline, ledger::Cursor};
use serde_json::{Value, json};

use super::{message::SwarmMsg, state::Live};
use crate::{
    swarm::services::WorkServices,
    task::{
        aggregate::{Part, aggregate},
        record::TaskRecord,
        scatter::{self, PartState, Role},
        spec::Aggregate,
        status::TaskStatus,
    },
};

const VIEWS_TIMEOUT: Duration = Duration::from_secs(60);

/// The parts that a task's result is made of.
pub(super) enum MadeOf {
    Subtasks {
        tasks: Vec<TaskId>,
        how: Aggregate,
    },
    Parts {
        parts: Vec<scatter::Part>,
        how: Aggregate,
    },
    /// The result of the task `by`, which was given the parts that are in.
    Reduced {
        parts: Vec<scatter::Part>,
        by: TaskId,
        ended: TaskStatus,
    },
}

impl MadeOf {
    pub(super) fn of(live: &Live) -> Option<Self> {
        let plan = live.plan.as_ref()?;
        let Some(gather) = plan.gather.as_deref() else {
            return Some(Self::Subtasks { tasks: plan.subtasks.clone(), how: live.spec.plan.as_ref()?.aggregate });
        };
        let scatter = live.spec.role.as_ref().and_then(Role::scatter)?;
        let parts = gather.parts.clone();
        Some(match (&scatter.reduce, gather.reduced) {
            (Some(reduce), Some(ended)) => Self::Reduced { parts, by: reduce.id, ended },
            (Some(_), None) => return None,
            (None, _) => Self::Parts { parts, how: scatter.aggregate },
        })
    }
}

/// Makes the result and tells the coordinator. Does nothing that cannot be repeated: a restarted coordinator runs it again.
pub(super) async fn run(services: WorkServices, coordinator: Addr<SwarmMsg>, task: TaskId, made_of: MadeOf, cursor: Cursor) {
    let made = collect(&services, &made_of, cursor).await;
    let (result, error) = match made {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    coordinator.deliver(SwarmMsg::Aggregated { task, result, error }).await;
}

async fn collect(services: &WorkServices, made_of: &MadeOf, cursor: Cursor) -> Result<Body, String> {
    services.views.at_least(cursor, Deadline::after(VIEWS_TIMEOUT)).await.map_err(|lagging| lagging.to_string())?;
    let bytes = match made_of {
        MadeOf::Subtasks { tasks, how } => {
            let parts: Result<Vec<Part>, String> = tasks.iter().map(|id| part(services, *id)).collect();
            aggregate(*how, &parts?)?
        }
        MadeOf::Parts { parts, how } => {
            let arrived: Result<Vec<Part>, String> = arrived(parts).map(|id| part(services, id)).collect();
            gathered(services, parts, value(&aggregate(*how, &arrived?)?))?
        }
        MadeOf::Reduced { by, ended, .. } if *ended != TaskStatus::Succeeded => {
            return Err(format!("{by}, which reduces its parts, ended {}", ended.name()));
        }
        MadeOf::Reduced { parts, by, .. } => {
            let result = part(services, *by)?.result;
            gathered(services, parts, result.as_deref().map_or(Value::Null, value))?
        }
    };
    services.store_body(&bytes).map_err(|e| e.message)
}

fn arrived(parts: &[scatter::Part]) -> impl Iterator<Item = TaskId> {
    parts.iter().filter_map(|part| match part.state {
        PartState::In(by) => Some(by),
        _ => None,
    })
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// Writes a scatter's result: what was made of the parts that are in, and which those are, by name.
fn gathered(services: &WorkServices, parts: &[scatter::Part], result: Value) -> Result<Vec<u8>, String> {
    let names = |wanted: fn(PartState) -> bool| -> Result<Vec<String>, String> {
        parts.iter().filter(|part| wanted(part.state)).map(|part| Ok(name(&record(services, part.task)?))).collect()
    };
    let said = json!({
        "result": result,
        "in": names(|state| matches!(state, PartState::In(_)))?,
        "failed": names(|state| state == PartState::Failed)?,
        "late": names(|state| state == PartState::Open)?,
    });
    Ok(said.to_string().into_bytes())
}

fn record(services: &WorkServices, id: TaskId) -> Result<TaskRecord, String> {
    services.tasks.get(id).map_err(|e| e.message)?.ok_or_else(|| format!("subtask {id} is not in the views"))
}

fn name(record: &TaskRecord) -> String {
    record.spec.parent.as_ref().map_or_else(|| record.spec.title.clone(), |(_, name)| name.clone())
}

fn part(services: &WorkServices, id: TaskId) -> Result<Part, String> {
    let record = record(services, id)?;
    let result = record.result.as_ref().map(|body| services.body(body)).transpose().map_err(|e| e.message)?;
    Ok(Part { name: name(&record), status: record.status, result: result.map(|bytes| bytes.to_vec()) })
}
