//! Tasks: their type, queries and mutations.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject, dataloader::DataLoader};
use hiveward_actors::client::{self, TaskEdit};
use hiveward_kernel::entity::Entity;
use hiveward_kernel::{
    body::Body,
    id::{AgentId, TaskId},
};
use hiveward_work::task::{
    record::{MoveRecord, TaskRecord},
    scatter::Role,
    spec::{CommandSpec, Work},
};

use super::{
    Result,
    agent::Agent,
    artifact::Artifact,
    attempt::Attempt,
    caller, caught_up, door,
    enums::{Aggregate, PlacementStrategy, Priority, TaskOrder, TaskStatus},
    load::Views,
    op,
    page::{self, Pages},
    parse,
    scalars::{BigInt, Cursor, DateTime},
    scatter::Scatter,
    swarm::Swarm,
    task_input::{LabelInput, RetryInput, SubmitTaskInput, SubmitTasksInput, WorkInput},
};
use crate::schema::access::Project;

/// A unit of work that a client asked for.
#[derive(Clone)]
pub struct Task(pub Arc<TaskRecord>);

impl From<TaskRecord> for Task {
    fn from(record: TaskRecord) -> Self {
        Self(Arc::new(record))
    }
}

fn views<'a>(ctx: &Context<'a>) -> Result<&'a DataLoader<Views>> {
    ctx.data()
}

/// The tasks with these ids that are still known, in the same order.
async fn tasks(ctx: &Context<'_>, ids: &[TaskId]) -> Result<Vec<Task>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = views(ctx)?.load_many(ids.iter().copied()).await?;
    Ok(ids.iter().filter_map(|id| found.remove(id)).map(Task).collect())
}

pub(super) async fn agent(ctx: &Context<'_>, id: AgentId) -> Result<Option<Agent>> {
    Ok(views(ctx)?.load_one(id).await?.map(Agent))
}

impl Task {
    fn body(&self, ctx: &Context<'_>, body: Option<&Body>) -> Result<Option<bytes::Bytes>> {
        let Some(body) = body else { return Ok(None) };
        Ok(Some(door(ctx)?.body(body)?))
    }
}

fn body_bytes(body: &Body) -> u64 {
    match body {
        Body::Inline(bytes) => bytes.len() as u64,
        Body::Blob { bytes, .. } => *bytes,
    }
}

#[Object]
impl Task {
    pub(super) async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// The project that it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        Project::of(ctx, Entity::Swarm(self.0.spec.swarm))
    }
    async fn title(&self) -> &str {
        &self.0.spec.title
    }
    /// `command`, or the kind that was asked for.
    async fn kind(&self) -> &str {
        match &self.0.spec.work {
            Work::Command(_) => "command",
            Work::Kind { kind, .. } => kind,
        }
    }
    async fn status(&self) -> TaskStatus {
        self.0.status.into()
    }
    async fn priority(&self) -> Priority {
        self.0.spec.priority.into()
    }
    async fn swarm(&self, ctx: &Context<'_>) -> Result<Option<Swarm>> {
        Ok(views(ctx)?.load_one(self.0.spec.swarm).await?.map(Swarm))
    }
    /// The only agent that may run it, if one was named.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<Agent>> {
        match self.0.spec.agent {
            Some(id) => agent(ctx, id).await,
            None => Ok(None),
        }
    }
    async fn attempts(&self) -> Vec<Attempt> {
        let task = self.0.id();
        self.0.attempts.iter().map(|record| Attempt { task, record: record.clone() }).collect()
    }
    async fn depends_on(&self, ctx: &Context<'_>) -> Result<Vec<Task>> {
        tasks(ctx, &self.0.spec.depends_on).await
    }
    /// The dependencies that it still waits for.
    async fn blocked_by(&self, ctx: &Context<'_>) -> Result<Vec<Task>> {
        let blocked_by = door(ctx)?.why(&self.0, caller(ctx)?.deadline).await?.blocked_by;
        tasks(ctx, &blocked_by).await
    }
    /// What its plan became, in the plan's order.
    async fn subtasks(&self, ctx: &Context<'_>) -> Result<Vec<Task>> {
        tasks(ctx, &self.0.subtasks).await
    }
    /// The task whose plan it came from.
    async fn parent(&self, ctx: &Context<'_>) -> Result<Option<Task>> {
        let Some((parent, _)) = &self.0.spec.parent else { return Ok(None) };
        Ok(views(ctx)?.load_one(*parent).await?.map(Task))
    }
    /// Its name in that plan.
    async fn name_in_plan(&self) -> Option<&str> {
        self.0.spec.parent.as_ref().map(|(_, name)| name.as_str())
    }
    /// What it returned: JSON if it is JSON, else its text.
    async fn result(&self, ctx: &Context<'_>) -> Result<Option<serde_json::Value>> {
        let bytes = self.body(ctx, self.0.result.as_ref())?;
        Ok(bytes.map(|bytes| {
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        }))
    }
    /// What it returned, as text: a JSON string's own text, any other JSON as it is written.
    async fn result_text(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        let bytes = self.body(ctx, self.0.result.as_ref())?;
        Ok(bytes.map(|bytes| {
            serde_json::from_slice::<String>(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned())
        }))
    }
    async fn result_bytes(&self) -> Option<BigInt> {
        self.0.result.as_ref().map(|body| BigInt(body_bytes(body)))
    }
    async fn artifacts(&self) -> Vec<Artifact> {
        self.0.artifacts.iter().map(Artifact::from).collect()
    }
    /// What was asked for, if it is of a kind.
    async fn payload(&self, ctx: &Context<'_>) -> Result<Option<serde_json::Value>> {
        let Work::Kind { payload, .. } = &self.0.spec.work else { return Ok(None) };
        let bytes = self.body(ctx, payload.as_ref())?;
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }
    /// What was asked for, if it is a command.
    async fn command(&self, ctx: &Context<'_>) -> Result<Option<Command>> {
        let Work::Command(command) = &self.0.spec.work else { return Ok(None) };
        let stdin = self.body(ctx, command.stdin.as_ref())?;
        Ok(Some(Command { stdin: stdin.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()), ..Command::of(command) }))
    }
    async fn skills(&self) -> Vec<&str> {
        self.0.spec.skills.iter().map(|skill| &**skill).collect()
    }
    async fn strategy(&self) -> Option<PlacementStrategy> {
        self.0.spec.strategy.map(Into::into)
    }
    async fn labels(&self) -> Vec<Label> {
        self.0.spec.labels.iter().cloned().map(|label| Label { key: label.key, value: label.value }).collect()
    }
    async fn delay_ms(&self) -> u64 {
        self.0.spec.delay_ms
    }
    async fn queue_timeout_ms(&self) -> Option<u64> {
        self.0.spec.queue_timeout_ms
    }
    async fn run_timeout_ms(&self) -> Option<u64> {
        self.0.spec.run_timeout_ms
    }
    async fn total_timeout_ms(&self) -> Option<u64> {
        self.0.spec.total_timeout_ms
    }
    async fn retry(&self) -> RetryPolicy {
        let retry = &self.0.spec.retry;
        RetryPolicy {
            max_attempts: retry.attempts_max,
            first_ms: retry.first_ms,
            max_ms: retry.max_ms,
            factor: retry.factor,
            jitter: retry.jitter,
        }
    }
    async fn gate(&self) -> Option<Gate> {
        self.0.spec.gate.as_ref().map(|gate| Gate {
            name: gate.name.clone(),
            command: Command::of(&gate.command),
            timeout_ms: gate.timeout_ms,
            retriable: gate.retriable,
        })
    }
    async fn plan(&self) -> Option<Plan> {
        self.0.spec.plan.as_ref().map(|plan| Plan { aggregate: plan.aggregate.into(), subtasks_max: plan.subtasks_max })
    }
    /// What it gathers, if it is a scatter; its subtasks are the parts, their twins, and what reduces them.
    async fn scatter(&self) -> Option<Scatter> {
        self.0.spec.role.as_ref().and_then(Role::scatter).map(|scatter| Scatter(scatter.clone()))
    }
    /// The slow part whose work it does as well, if it is a twin.
    async fn twin_of(&self, ctx: &Context<'_>) -> Result<Option<Task>> {
        let Some(Role::Twin { of, .. }) = &self.0.spec.role else { return Ok(None) };
        Ok(views(ctx)?.load_one(*of).await?.map(Task))
    }
    /// From one shard of its swarm to another, before it began; oldest first.
    async fn moves(&self) -> Vec<TaskMove> {
        let moved = |record: &MoveRecord| {
            let (from, to) = record.shards();
            TaskMove {
                from_shard: from.into(),
                to_shard: to.into(),
                given_at: record.given_at.into(),
                taken_at: record.taken_at.map(Into::into),
                why: record.why.to_string(),
            }
        };
        self.0.moves.iter().map(moved).collect()
    }
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }
    async fn started_at(&self) -> Option<DateTime> {
        self.0.started_at.map(Into::into)
    }
    async fn ended_at(&self) -> Option<DateTime> {
        self.0.ended_at.map(Into::into)
    }
    /// The earliest time of its next attempt, while delayed or retrying.
    async fn not_before(&self) -> Option<DateTime> {
        self.0.not_before.map(Into::into)
    }
    /// Why it ended as it did, when that was not success.
    async fn error(&self) -> Option<&str> {
        self.0.error.as_deref()
    }
    /// The last event that changed it.
    async fn cursor(&self) -> Cursor {
        hiveward_runtime::ledger::Cursor(self.0.cursor).into()
    }
    /// The reason it is not running, in words, or the placement that was chosen with its scores.
    async fn why(&self, ctx: &Context<'_>) -> Result<String> {
        Ok(door(ctx)?.why(&self.0, caller(ctx)?.deadline).await?.text)
    }
    /// Who submitted it.
    async fn principal(&self) -> &str {
        &self.0.principal
    }
}

/// A task that waited in one shard of its swarm went to another, where there was an agent for it.
#[derive(SimpleObject)]
pub struct TaskMove {
    from_shard: u32,
    to_shard: u32,
    given_at: DateTime,
    /// Null while it is on its way, or if it came back.
    taken_at: Option<DateTime>,
    why: String,
}

#[derive(SimpleObject)]
pub struct Label {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(SimpleObject)]
pub struct EnvVar {
    pub name: String,
    /// `secret:NAME` and `file:PATH` are references; what they refer to is never shown.
    pub value: String,
}

#[derive(SimpleObject)]
pub struct Command {
    argv: Vec<String>,
    env: Vec<EnvVar>,
    cwd: Option<String>,
    stdin: Option<String>,
}

impl Command {
    fn of(command: &CommandSpec) -> Self {
        let env = command.env.iter().cloned().map(|(name, value)| EnvVar { name, value });
        Self { argv: command.argv.clone(), env: env.collect(), cwd: command.cwd.clone(), stdin: None }
    }
}

#[derive(SimpleObject)]
pub struct RetryPolicy {
    max_attempts: u32,
    first_ms: u64,
    max_ms: u64,
    factor: f64,
    jitter: f64,
}

#[derive(SimpleObject)]
pub struct Gate {
    name: String,
    command: Command,
    timeout_ms: u64,
    retriable: bool,
}

#[derive(SimpleObject)]
pub struct Plan {
    aggregate: Aggregate,
    subtasks_max: u32,
}

#[derive(InputObject, Default)]
pub struct TaskFilter {
    pub status: Option<Vec<TaskStatus>>,
    /// By key or name.
    pub swarm: Option<ID>,
    pub agent: Option<ID>,
    pub priority: Option<Vec<Priority>>,
    /// All of these.
    pub label: Option<Vec<LabelInput>>,
    pub kind: Option<String>,
    pub title_contains: Option<String>,
    /// Subtasks of this task.
    pub parent: Option<ID>,
}

impl TaskFilter {
    fn parse(self, control: &client::ControlPlane) -> Result<client::TaskFilter> {
        Ok(client::TaskFilter {
            status: self.status.unwrap_or_default().into_iter().map(Into::into).collect(),
            swarm: self.swarm.map(|swarm| parse::swarm_id(control, "filter.swarm", &swarm)).transpose()?,
            agent: parse::optional("filter.agent", self.agent.as_ref())?,
            priority: self.priority.unwrap_or_default().into_iter().map(Into::into).collect(),
            label: self.label.unwrap_or_default().into_iter().map(LabelInput::label).collect(),
            kind: self.kind,
            title_contains: self.title_contains,
            parent: parse::optional("filter.parent", self.parent.as_ref())?,
        })
    }
}

pub(super) fn list(
    ctx: &Context<'_>,
    filter: TaskFilter,
    narrow: impl FnOnce(&mut client::TaskFilter),
    order: Option<TaskOrder>,
    first: Option<i32>,
    after: Option<&str>,
) -> Result<Pages<Task>> {
    let control = door(ctx)?;
    let mut filter = filter.parse(control)?;
    narrow(&mut filter);
    let order = order.map_or(client::TaskOrder::CreatedDesc, Into::into);
    Ok(page::connection(control.tasks(&filter, order, after, page::first(first)?)?, after))
}

#[derive(Default)]
pub struct TaskQuery;

#[Object]
impl TaskQuery {
    async fn tasks(
        &self,
        ctx: &Context<'_>,
        filter: Option<TaskFilter>,
        order_by: Option<TaskOrder>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Task>> {
        caught_up(ctx, at_least).await?;
        list(ctx, filter.unwrap_or_default(), |_| {}, order_by, first, after.as_deref())
    }
}

#[derive(SimpleObject)]
pub struct SubmitTaskPayload {
    task: Task,
    cursor: Cursor,
}

#[derive(SimpleObject)]
pub struct SubmitTasksPayload {
    /// In the order in which they were given.
    tasks: Vec<Task>,
    cursor: Cursor,
}

#[derive(InputObject)]
pub struct CancelTaskInput {
    operation_id: Option<ID>,
    task: ID,
}

#[derive(SimpleObject)]
pub struct CancelTaskPayload {
    task: Task,
    cursor: Cursor,
}

#[derive(InputObject)]
pub struct RetryTaskInput {
    operation_id: Option<ID>,
    task: ID,
    /// What to do instead.
    work: Option<WorkInput>,
    run_timeout_ms: Option<i32>,
    retry: Option<RetryInput>,
}

#[derive(SimpleObject)]
pub struct RetryTaskPayload {
    task: Task,
    cursor: Cursor,
}

#[derive(Default)]
pub struct TaskMutation;

#[Object]
impl TaskMutation {
    async fn submit_task(&self, ctx: &Context<'_>, input: SubmitTaskInput) -> Result<SubmitTaskPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let new = input.task.parse("", None)?;
        let mut done = door(ctx)?.submit_tasks(op, vec![new]).await.map_err(unlist)?;
        let task = done.value.pop().ok_or_else(|| async_graphql::Error::new_with_source("a submission returned no task"))?;
        Ok(SubmitTaskPayload { task: task.into(), cursor: done.cursor.into() })
    }

    /// One commit for all, or none.
    async fn submit_tasks(&self, ctx: &Context<'_>, input: SubmitTasksInput) -> Result<SubmitTasksPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let new = input.parse()?;
        let done = door(ctx)?.submit_tasks(op, new).await?;
        Ok(SubmitTasksPayload { tasks: done.value.into_iter().map(Into::into).collect(), cursor: done.cursor.into() })
    }

    async fn cancel_task(&self, ctx: &Context<'_>, input: CancelTaskInput) -> Result<CancelTaskPayload> {
        let task = parse::id("task", &input.task)?;
        let done = door(ctx)?.cancel_task(op(ctx, input.operation_id.as_ref())?, task).await?;
        Ok(CancelTaskPayload { task: done.value.into(), cursor: done.cursor.into() })
    }

    /// Sends an ended task on its way again, perhaps edited; also redrives a dead one.
    async fn retry_task(&self, ctx: &Context<'_>, input: RetryTaskInput) -> Result<RetryTaskPayload> {
        let task = parse::id("task", &input.task)?;
        let edit = TaskEdit {
            work: input.work.map(|work| work.parse("work")).transpose()?,
            run_timeout_ms: parse::optional_natural("runTimeoutMs", input.run_timeout_ms)?,
            retry: input.retry.map(|retry| retry.parse("retry")).transpose()?,
        };
        let done = door(ctx)?.retry_task(op(ctx, input.operation_id.as_ref())?, task, edit).await?;
        Ok(RetryTaskPayload { task: done.value.into(), cursor: done.cursor.into() })
    }
}

/// A single submission is a list of one below; its fields are named without the list.
fn unlist(mut refused: hiveward_runtime::error::Refused) -> hiveward_runtime::error::Refused {
    refused.field = refused.field.map(|field| field.strip_prefix("tasks.0.").map_or_else(|| field.clone(), str::to_owned));
    refused
}
