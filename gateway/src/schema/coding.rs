//! Coding agents: how they are shown, what they do, and what they ask persons.

use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject, Subscription};
use futures_util::{Stream, stream};
use hiveward_actors::client::{self, OutputReader};
use hiveward_agents::workspace::branches;
use hiveward_catalogue::agent::coding::{self, CodingSpec, WorkspaceSpec};
use hiveward_kernel::id::ApprovalId;
use hiveward_runtime::error::Refused;
use serde_json::Value;

use super::{
    Result,
    agent::Agent,
    caught_up, door, op,
    page::{self, Pages},
    parse,
    scalars::{BigInt, Cursor, DateTime},
    task::Task,
};
use crate::engine::Position;

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "coding::Permission")]
pub enum Permission {
    Allow,
    Deny,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "coding::RulePermission")]
pub enum RulePermission {
    Allow,
    Deny,
    /// A person decides.
    Ask,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "coding::AnswerKind")]
pub enum AnswerKind {
    /// The result is the agent's last text.
    Text,
    /// Its last text holds JSON, which is the result; without it the attempt fails.
    Json,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "client::ApprovalStatus")]
pub enum ApprovalStatus {
    Open,
    Allowed,
    Denied,
    /// Its attempt does not wait for it any more.
    Withdrawn,
}

/// A coding agent's description.
#[derive(SimpleObject)]
pub struct Coding {
    model: Option<String>,
    instructions: Option<String>,
    /// The directory or repository that it works in; absent for a fresh directory per attempt.
    workspace: Option<String>,
    rules: Vec<PolicyRule>,
    /// Names of what must hold before an attempt counts as done.
    checks: Vec<String>,
    /// How long a person is waited for.
    within_ms: BigInt,
    otherwise: Permission,
    answer: AnswerKind,
    max_resumes: u32,
    quiet_ms: BigInt,
    provider: Option<String>,
    fallback: Vec<String>,
    max_tokens: Option<BigInt>,
    /// It calls models by itself: nothing is metered and no budget holds it.
    own_account: bool,
}

#[derive(SimpleObject)]
pub struct PolicyRule {
    tool: String,
    path: Option<String>,
    command: Option<String>,
    decision: RulePermission,
}

impl From<&CodingSpec> for Coding {
    fn from(spec: &CodingSpec) -> Self {
        let rules = spec.policy.rules.iter().map(|rule| PolicyRule {
            tool: rule.tool.clone(),
            path: rule.path.clone(),
            command: rule.command.clone(),
            decision: rule.decision.into(),
        });
        Self {
            model: spec.model.clone(),
            instructions: spec.instructions.clone(),
            workspace: match &spec.workspace {
                WorkspaceSpec::Scratch => None,
                WorkspaceSpec::Directory { path } => Some(path.display().to_string()),
                WorkspaceSpec::Worktree(tree) => Some(tree.repository.display().to_string()),
            },
            rules: rules.collect(),
            checks: spec.checks.iter().map(|check| check.name.clone()).collect(),
            within_ms: BigInt(spec.policy.within_ms),
            otherwise: spec.policy.otherwise.into(),
            answer: spec.answer.into(),
            max_resumes: spec.resumes_max,
            quiet_ms: BigInt(spec.quiet_ms),
            provider: spec.calls.provider.clone(),
            fallback: spec.calls.fallback.clone(),
            max_tokens: spec.calls.tokens_max.map(BigInt),
            own_account: spec.own_account,
        }
    }
}

/// What a coding agent's program wants to do and a person decides.
pub struct Approval(client::ApprovalRecord);

impl From<client::ApprovalRecord> for Approval {
    fn from(record: client::ApprovalRecord) -> Self {
        Self(record)
    }
}

#[Object]
impl Approval {
    pub(super) async fn id(&self) -> ID {
        self.0.ask.approval.to_string().into()
    }
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<Agent>> {
        Ok(door(ctx)?.agent(self.0.agent)?.map(Into::into))
    }
    async fn task(&self, ctx: &Context<'_>) -> Result<Option<Task>> {
        Ok(door(ctx)?.task(self.0.ask.lease.task)?.map(Into::into))
    }
    async fn attempt(&self) -> u32 {
        self.0.ask.lease.attempt
    }
    async fn tool(&self) -> &str {
        &self.0.ask.tool
    }
    /// The tool's arguments, such as the command or the edit; long texts in it are cut, and say so.
    async fn input(&self) -> &Value {
        &self.0.ask.input
    }
    /// That the arguments name.
    async fn files(&self) -> &[String] {
        &self.0.ask.files
    }
    async fn status(&self) -> ApprovalStatus {
        self.0.status.into()
    }
    /// Who answered; `nobody` if its time was over.
    async fn answered_by(&self) -> Option<&str> {
        self.0.verdict.as_ref().map(|verdict| verdict.by.as_str())
    }
    async fn message(&self) -> Option<&str> {
        self.0.verdict.as_ref()?.message.as_deref()
    }
    async fn asked_at(&self) -> DateTime {
        self.0.asked_at.into()
    }
    /// When nobody has answered by then, `otherwise` is the answer.
    async fn until(&self) -> DateTime {
        self.0.ask.until.into()
    }
    async fn otherwise(&self) -> Permission {
        self.0.ask.otherwise.into()
    }
    async fn ended_at(&self) -> Option<DateTime> {
        self.0.ended_at.map(Into::into)
    }
    async fn cursor(&self) -> Cursor {
        hiveward_runtime::ledger::Cursor(self.0.cursor).into()
    }
}

#[derive(InputObject, Default)]
pub struct ApprovalFilter {
    status: Option<Vec<ApprovalStatus>>,
    agent: Option<ID>,
    task: Option<ID>,
}

#[derive(Default)]
pub struct CodingQuery;

#[Object]
impl CodingQuery {
    /// What agents' programs asked persons, the newest first.
    async fn approvals(
        &self,
        ctx: &Context<'_>,
        filter: Option<ApprovalFilter>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Approval>> {
        caught_up(ctx, at_least).await?;
        let filter = filter.unwrap_or_default();
        let wanted = client::ApprovalFilter {
            status: filter.status.unwrap_or_default().into_iter().map(Into::into).collect(),
            agent: parse::optional("filter.agent", filter.agent.as_ref())?,
            task: parse::optional("filter.task", filter.task.as_ref())?,
        };
        let from: Option<ApprovalId> = after.as_deref().map(|after| parse::id("after", &after.into())).transpose()?;
        Ok(page::connection(door(ctx)?.approvals(&wanted, from, page::first(first)?)?, after.as_deref()))
    }
}

#[derive(InputObject)]
pub struct AnswerApprovalInput {
    operation_id: Option<ID>,
    approval: ID,
    decision: Permission,
    /// For the program, in words, such as why not.
    message: Option<String>,
}

#[derive(SimpleObject)]
pub struct AnswerApprovalPayload {
    approval: Approval,
    cursor: Cursor,
}

#[derive(InputObject)]
pub struct InterruptTaskInput {
    operation_id: Option<ID>,
    task: ID,
}

#[derive(SimpleObject)]
pub struct InterruptTaskPayload {
    task: Task,
}

#[derive(InputObject)]
pub struct MessageTaskInput {
    operation_id: Option<ID>,
    task: ID,
    text: String,
}

#[derive(SimpleObject)]
pub struct MessageTaskPayload {
    task: Task,
}

#[derive(InputObject)]
pub struct TakeOverTaskInput {
    operation_id: Option<ID>,
    task: ID,
}

#[derive(SimpleObject)]
pub struct TakeOverTaskPayload {
    task: Task,
}

#[derive(InputObject)]
pub struct GiveBackTaskInput {
    operation_id: Option<ID>,
    task: ID,
    /// What the agent is told; that it was given back it is told in any case.
    message: Option<String>,
}

#[derive(SimpleObject)]
pub struct GiveBackTaskPayload {
    task: Task,
}

#[derive(Default)]
pub struct CodingMutation;

#[Object]
impl CodingMutation {
    /// The first answer counts: the same again changes nothing, another is a CONFLICT.
    async fn answer_approval(&self, ctx: &Context<'_>, input: AnswerApprovalInput) -> Result<AnswerApprovalPayload> {
        let approval = parse::id("approval", &input.approval)?;
        let op = op(ctx, input.operation_id.as_ref())?;
        let done = door(ctx)?.answer_approval(op, approval, input.decision.into(), input.message).await?;
        Ok(AnswerApprovalPayload { approval: done.value.into(), cursor: done.cursor.into() })
    }
    /// Ends the turn of the coding agent that runs the task; it then waits for a message.
    async fn interrupt_task(&self, ctx: &Context<'_>, input: InterruptTaskInput) -> Result<InterruptTaskPayload> {
        let task = parse::id("task", &input.task)?;
        door(ctx)?.interrupt_task(op(ctx, input.operation_id.as_ref())?, task).await?;
        Ok(InterruptTaskPayload { task: found(ctx, task)? })
    }
    /// Says something to the coding agent that runs the task. The same operation id is heard once.
    async fn message_task(&self, ctx: &Context<'_>, input: MessageTaskInput) -> Result<MessageTaskPayload> {
        let task = parse::id("task", &input.task)?;
        door(ctx)?.message_task(op(ctx, input.operation_id.as_ref())?, task, input.text).await?;
        Ok(MessageTaskPayload { task: found(ctx, task)? })
    }
    /// Ends the program of the coding agent that runs the task, and begins the program's own terminal on the same conversation.
    /// Attach to it as to any agent's terminal. The agent goes on when that terminal ends, or when the task is given back.
    async fn take_over_task(&self, ctx: &Context<'_>, input: TakeOverTaskInput) -> Result<TakeOverTaskPayload> {
        let task = parse::id("task", &input.task)?;
        door(ctx)?.take_over_task(op(ctx, input.operation_id.as_ref())?, task).await?;
        Ok(TakeOverTaskPayload { task: found(ctx, task)? })
    }
    /// Ends the terminal by which the task was taken over; the agent goes on with the conversation.
    async fn give_back_task(&self, ctx: &Context<'_>, input: GiveBackTaskInput) -> Result<GiveBackTaskPayload> {
        let task = parse::id("task", &input.task)?;
        door(ctx)?.give_back_task(op(ctx, input.operation_id.as_ref())?, task, input.message).await?;
        Ok(GiveBackTaskPayload { task: found(ctx, task)? })
    }
    /// Removes the branches that attempts left in the repository of an agent that works in worktrees: those that are merged,
    /// and with `force` those that hold work that is nowhere else. None that is in use, and none of somebody else.
    async fn clean_workspace(&self, ctx: &Context<'_>, input: CleanWorkspaceInput) -> Result<CleanWorkspacePayload> {
        let agent = parse::id("agent", &input.agent)?;
        let cleaned = door(ctx)?.clean_workspace(op(ctx, None)?, agent, input.force, input.dry_run).await?;
        let shown = |branches: Vec<branches::Branch>| branches.into_iter().map(Into::into).collect();
        Ok(CleanWorkspacePayload { removed: shown(cleaned.removed), kept: shown(cleaned.kept) })
    }
}

#[derive(InputObject)]
pub struct CleanWorkspaceInput {
    agent: ID,
    /// Also branches that are not merged: their work is lost.
    #[graphql(default = false)]
    force: bool,
    /// Say what would be removed, and change nothing.
    #[graphql(default = false)]
    dry_run: bool,
}

#[derive(SimpleObject)]
pub struct CleanWorkspacePayload {
    removed: Vec<WorkBranch>,
    kept: Vec<WorkBranch>,
}

/// A branch that an attempt left.
#[derive(SimpleObject)]
pub struct WorkBranch {
    name: String,
    commit: String,
    /// Everything on it is in what it would be merged into.
    merged: bool,
    /// Somebody works on it now.
    in_use: bool,
}

impl From<branches::Branch> for WorkBranch {
    fn from(branch: branches::Branch) -> Self {
        Self { name: branch.name, commit: branch.commit, merged: branch.merged, in_use: branch.in_use }
    }
}

fn found(ctx: &Context<'_>, task: hiveward_kernel::id::TaskId) -> Result<Task> {
    Ok(door(ctx)?.task(task)?.ok_or_else(|| Refused::not_found(task))?.into())
}

/// Whole events of an attempt's activity. `nextByte` is what to resume after.
#[derive(SimpleObject)]
pub struct ActivityChunk {
    after_byte: BigInt,
    next_byte: BigInt,
    /// Each with `seq`, `at` (milliseconds since 1970), `type` and what belongs to its type.
    events: Vec<Value>,
    /// The attempt has ended and this is the last of it.
    at_end: bool,
}

#[derive(Default)]
pub struct CodingFeed;

struct Reading {
    reader: OutputReader,
    /// Behind which whole events were given out, and how far was read.
    after: u64,
    read: u64,
    partial: Vec<u8>,
    ended: bool,
    position: Position,
}

#[Subscription]
impl CodingFeed {
    /// What a coding agent says and does in the task's attempt (the latest, unless named), from after a byte to its end.
    async fn task_activity(
        &self,
        ctx: &Context<'_>,
        task: ID,
        #[graphql(default)] after_byte: u64,
        attempt: Option<u32>,
    ) -> Result<impl Stream<Item = Result<ActivityChunk>>> {
        let position: Position = ctx.data::<Position>()?.clone();
        let after = match position.resume_after() {
            Some(text) => text.parse().map_err(|_| Refused::invalid("afterByte", "resume with the id of an earlier event"))?,
            None => after_byte,
        };
        let reader = door(ctx)?.activity(&op(ctx, None)?, parse::id("task", &task)?, attempt).await?;
        let reading = Reading { reader, after, read: after, partial: Vec::new(), ended: false, position };
        Ok(stream::unfold(reading, |mut reading| async move {
            if reading.ended {
                return None;
            }
            loop {
                match reading.reader.next(reading.read).await {
                    Ok(chunk) => {
                        reading.read = chunk.next_byte;
                        reading.partial.extend_from_slice(&chunk.bytes);
                        reading.ended = chunk.at_end;
                        let whole = reading.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                        if whole == 0 && !chunk.at_end {
                            continue;
                        }
                        let lines: Vec<u8> = reading.partial.drain(..whole).collect();
                        let events = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
                        let chunk = ActivityChunk {
                            after_byte: BigInt(reading.after),
                            next_byte: BigInt(reading.after + whole as u64),
                            events: events.collect(),
                            at_end: chunk.at_end,
                        };
                        reading.after += whole as u64;
                        reading.position.reach(reading.after);
                        return Some((Ok(chunk), reading));
                    }
                    Err(refused) => {
                        reading.ended = true;
                        return Some((Err(refused.into()), reading));
                    }
                }
            }
        }))
    }
}
