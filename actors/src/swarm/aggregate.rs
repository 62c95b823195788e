//! Fetches the results of a plan's subtasks and turns them into the planner task's own result.

use std::time::Duration;

use hiveward_runtime::{
    call::{Addr, TellError},
    clock::Deadline,
    ledger::Cursor,
};

use super::message::SwarmMsg;
use crate::{
    house::House,
    id::TaskId,
    task::{
        aggregate::{Part, aggregate},
        spec::{Aggregate, Body},
    },
};

const VIEWS_TIMEOUT: Duration = Duration::from_secs(60);
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Tells the coordinator what came of it. Does nothing that cannot be repeated: a restarted coordinator runs it again.
pub(super) async fn run(
    house: House,
    coordinator: Addr<SwarmMsg>,
    task: TaskId,
    subtasks: Vec<TaskId>,
    how: Aggregate,
    cursor: Cursor,
) {
    let made = collect(&house, &subtasks, how, cursor).await;
    let (result, error) = match made {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    let mut msg = SwarmMsg::Aggregated { task, result, error };
    while let Err(TellError::Busy(back)) = coordinator.tell(msg) {
        msg = back;
        tokio::time::sleep(TELL_AGAIN_AFTER).await;
    }
}

async fn collect(house: &House, subtasks: &[TaskId], how: Aggregate, cursor: Cursor) -> Result<Body, String> {
    house.views.at_least(cursor, Deadline::after(VIEWS_TIMEOUT)).await.map_err(|lagging| lagging.to_string())?;
    let mut parts = Vec::with_capacity(subtasks.len());
    for id in subtasks {
        let record = house.tasks.get(*id).map_err(|e| e.message)?.ok_or_else(|| format!("subtask {id} is not in the views"))?;
        let name = record.spec.parent.as_ref().map_or_else(|| record.spec.title.clone(), |(_, name)| name.clone());
        let result = record.result.as_ref().map(|body| house.body(body)).transpose().map_err(|e| e.message)?;
        parts.push(Part { name, status: record.status, result: result.map(|bytes| bytes.to_vec()) });
    }
    house.store_body(&aggregate(how, &parts)?).map_err(|e| e.message)
}
