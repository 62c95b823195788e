//! Coding agents: how they are described, what they do, and what they ask persons.

use async_graphql::{Context, Enum, ID, InputObject, Object, OneofObject, SimpleObject, Subscription};
use futures_util::{Stream, stream};
use hiveward_actors::{
    agent::{
        coding::{self, Check, CodingSpec, Hook, Policy, Rule, WorkspaceSpec, WorktreeSpec},
        policy::Rules,
        spec,
    },
    client::{self, OutputReader},
    id::ApprovalId,
    model::CallRules,
};
use hiveward_runtime::error::Refused;
use serde_json::Value;

use super::{
    Result,
    agent::Agent,
    caught_up, door, op,
    page::{self, Pages},
    parse::{self, join},
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

/// An agent whose program is a coding agent.
#[derive(InputObject)]
pub struct CodingInput {
    /// The program and its first arguments; `claude` for Claude Code if absent.
    argv: Option<Vec<String>>,
    model: Option<String>,
    /// Its role, in words.
    instructions: Option<String>,
    /// A fresh directory per attempt if absent.
    workspace: Option<WorkspaceInput>,
    policy: Option<PolicyInput>,
    /// What must hold, in the workspace, before an attempt counts as done, in this order.
    checks: Option<Vec<CheckInput>>,
    calls: Option<CallsInput>,
    #[graphql(default_with = "AnswerKind::Text")]
    answer: AnswerKind,
    /// How often a program that dies is started again on the same conversation.
    #[graphql(default = 3)]
    max_resumes: i32,
    /// Without a word for this long it is nudged, then stopped.
    quiet_ms: Option<i32>,
}

/// A model that is asked once per task, without tools: for planners and judges.
#[derive(InputObject)]
pub struct ModelInput {
    #[graphql(default_with = "ModelApi::Anthropic")]
    api: ModelApi,
    model: String,
    instructions: Option<String>,
    /// Of one answer.
    #[graphql(default = 8_192)]
    max_answer_tokens: i32,
    #[graphql(default_with = "AnswerKind::Text")]
    answer: AnswerKind,
    calls: Option<CallsInput>,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "spec::ModelApi")]
pub enum ModelApi {
    Anthropic,
    /// And whatever is compatible with it.
    OpenAi,
}

impl ModelInput {
    pub(super) fn parse(self, at: &str) -> Result<spec::ModelSpec, Refused> {
        if self.model.trim().is_empty() {
            return Err(Refused::invalid(join(at, "model"), "name the model"));
        }
        Ok(spec::ModelSpec {
            api: self.api.into(),
            model: self.model,
            instructions: self.instructions,
            tokens_max: parse::natural(&join(at, "maxAnswerTokens"), self.max_answer_tokens)?,
            answer: self.answer.into(),
            calls: rules(self.calls),
        })
    }
}

fn rules(calls: Option<CallsInput>) -> CallRules {
    calls.map_or_else(CallRules::default, |calls| CallRules {
        provider: calls.provider,
        fallback: calls.fallback.unwrap_or_default(),
        tokens_max: calls.max_tokens.map(|tokens| tokens.0),
        ..CallRules::default()
    })
}

/// Where attempts work.
#[derive(OneofObject)]
pub enum WorkspaceInput {
    /// A fresh directory per attempt; `true`.
    Scratch(bool),
    /// This directory of the agent's host, as it is.
    Directory(String),
    /// A git worktree and a branch of its own per attempt.
    Worktree(WorktreeInput),
}

#[derive(InputObject)]
pub struct WorktreeInput {
    /// A git repository of the agent's host.
    repository: String,
    /// What the branch begins at; HEAD if absent.
    base: Option<String>,
    /// An attempt that changed nothing has failed.
    #[graphql(default)]
    must_change: bool,
    set_up: Option<HookInput>,
    tear_down: Option<HookInput>,
    max_bytes: Option<BigInt>,
}

/// A program that is run in the workspace.
#[derive(InputObject)]
pub struct HookInput {
    argv: Vec<String>,
    #[graphql(default = 60_000)]
    timeout_ms: i32,
}

/// A program that must succeed in the workspace; it reads the attempt's result on its standard input.
#[derive(InputObject)]
pub struct CheckInput {
    name: String,
    argv: Vec<String>,
    #[graphql(default = 600_000)]
    timeout_ms: i32,
}

/// What it may do without a person: the first rule that fits decides, what none fits is asked.
#[derive(InputObject)]
pub struct PolicyInput {
    rules: Option<Vec<RuleInput>>,
    /// How long a person is waited for.
    within_ms: Option<i32>,
    /// What happens when nobody answered.
    #[graphql(default_with = "Permission::Deny")]
    otherwise: Permission,
}

#[derive(InputObject)]
pub struct RuleInput {
    /// Names of tools, `|` between them; `*` stands for anything.
    tool: String,
    /// Relative: inside the workspace; absolute: anywhere.
    path: Option<String>,
    /// The words of a command: `*` for any one, at the end for all that follow.
    command: Option<String>,
    decision: RulePermission,
}

/// What its calls of models may be and cost.
#[derive(InputObject)]
pub struct CallsInput {
    /// A provider of the node's configuration.
    provider: Option<String>,
    /// Models to go on with when the asked one cannot be had.
    fallback: Option<Vec<String>>,
    /// Of one attempt, all kinds together.
    max_tokens: Option<BigInt>,
}

/// At most, of the text that goes with each start of the program.
const INSTRUCTIONS_BYTES_MAX: usize = 64 << 10;

fn hook(at: &str, hook: Option<HookInput>) -> Result<Option<Hook>, Refused> {
    let Some(HookInput { argv, timeout_ms }) = hook else { return Ok(None) };
    if argv.first().is_none_or(String::is_empty) {
        return Err(Refused::invalid(join(at, "argv"), "name the program to run as the first entry"));
    }
    Ok(Some(Hook { argv, timeout_ms: parse::natural(&join(at, "timeoutMs"), timeout_ms)? }))
}

fn absolute(at: &str, path: String) -> Result<std::path::PathBuf, Refused> {
    let path = std::path::PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(Refused::invalid(at, "a whole path, from `/` on the agent's host")) }
}

fn workspace(at: &str, input: Option<WorkspaceInput>) -> Result<WorkspaceSpec, Refused> {
    match input {
        None | Some(WorkspaceInput::Scratch(true)) => Ok(WorkspaceSpec::Scratch),
        Some(WorkspaceInput::Scratch(false)) => {
            Err(Refused::invalid(join(at, "scratch"), "say `true`, or choose another workspace"))
        }
        Some(WorkspaceInput::Directory(path)) => Ok(WorkspaceSpec::Directory { path: absolute(&join(at, "directory"), path)? }),
        Some(WorkspaceInput::Worktree(tree)) => {
            let at = join(at, "worktree");
            Ok(WorkspaceSpec::Worktree(WorktreeSpec {
                repository: absolute(&join(&at, "repository"), tree.repository)?,
                base: tree.base,
                must_change: tree.must_change,
                set_up: hook(&join(&at, "setUp"), tree.set_up)?,
                tear_down: hook(&join(&at, "tearDown"), tree.tear_down)?,
                bytes_max: tree.max_bytes.map(|bytes| bytes.0),
            }))
        }
    }
}

impl CodingInput {
    pub(super) fn parse(self, at: &str, program: Option<&str>) -> Result<CodingSpec, Refused> {
        let field = |name: &str| join(at, name);
        let argv = match (self.argv, program) {
            (Some(argv), _) if argv.first().is_some_and(|program| !program.is_empty()) => argv,
            (None, Some(program)) => vec![program.to_owned()],
            _ => return Err(Refused::invalid(field("argv"), "name the program to run as the first entry")),
        };
        if self.instructions.as_ref().is_some_and(|text| text.len() > INSTRUCTIONS_BYTES_MAX) {
            return Err(Refused::invalid(field("instructions"), format!("at most {INSTRUCTIONS_BYTES_MAX} bytes")));
        }
        let policy = match self.policy {
            None => Policy::default(),
            Some(given) => {
                let within = parse::optional_natural(&field("policy.withinMs"), given.within_ms)?;
                let rules = given.rules.unwrap_or_default().into_iter().map(|rule| Rule {
                    tool: rule.tool,
                    path: rule.path,
                    command: rule.command,
                    decision: rule.decision.into(),
                });
                Policy {
                    rules: rules.collect(),
                    within_ms: within.unwrap_or(Policy::within_ms_default()),
                    otherwise: given.otherwise.into(),
                }
            }
        };
        Rules::read(&policy)
            .map_err(|(number, name, why)| Refused::invalid(field(&format!("policy.rules.{number}.{name}")), why))?;
        let calls = rules(self.calls);
        let checks = self.checks.unwrap_or_default().into_iter().enumerate().map(|(number, check)| {
            let at = field(&format!("checks.{number}"));
            let name = parse::name(&join(&at, "name"), check.name)?;
            let hook = hook(&at, Some(HookInput { argv: check.argv, timeout_ms: check.timeout_ms }))?;
            hook.map(|hook| Check { name, hook }).ok_or_else(|| Refused::invalid(at, "a check needs a program"))
        });
        let checks = checks.collect::<Result<Vec<_>, Refused>>()?;
        let quiet = parse::optional_natural(&field("quietMs"), self.quiet_ms)?;
        Ok(CodingSpec {
            model: self.model,
            instructions: self.instructions,
            workspace: workspace(&field("workspace"), self.workspace)?,
            policy,
            checks,
            calls,
            answer: self.answer.into(),
            resumes_max: parse::natural(&field("maxResumes"), self.max_resumes)?,
            quiet_ms: quiet.unwrap_or(CodingSpec::quiet_ms_default()),
            ..CodingSpec::new(argv)
        })
    }
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
}

fn found(ctx: &Context<'_>, task: hiveward_actors::id::TaskId) -> Result<Task> {
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
