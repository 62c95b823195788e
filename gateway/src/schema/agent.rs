//! Agents: their type, queries and mutations.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, OneofObject, SimpleObject, dataloader::DataLoader};
use hiveward_actors::client::{self, Done, NewAgent};
use hiveward_agents::record::AgentRecord;
use hiveward_catalogue::{agent::spec::ConnectorSpec, budget::Scope};
use hiveward_kernel::entity::Entity;
use hiveward_runtime::error::Refused;

use super::{
    Result, caught_up,
    coding::Coding,
    coding_input::{CodingInput, ModelInput},
    door,
    enums::{AgentStatus, PauseMode, StopMode, TaskOrder},
    load::Views,
    machine::{self, Session, SessionInput},
    op,
    page::{self, Pages},
    parse::{self, join},
    scalars::{BigInt, Cursor, DateTime},
    swarm::Swarm,
    task::{self, EnvVar, Task, TaskFilter},
    task_input::{self, EnvInput, LabelInput},
    usage::{self, Usage},
};
use crate::schema::access::Project;

/// A durable identity that runs tasks through its connector.
#[derive(Clone)]
pub struct Agent(pub Arc<AgentRecord>);

impl From<AgentRecord> for Agent {
    fn from(record: AgentRecord) -> Self {
        Self(Arc::new(record))
    }
}

#[Object]
impl Agent {
    pub(super) async fn id(&self) -> ID {
        self.0.spec.id.to_string().into()
    }
    /// The project that it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        Project::of(ctx, Entity::Agent(self.0.spec.id))
    }
    /// Unique within its swarm.
    async fn name(&self) -> &str {
        &self.0.spec.name
    }
    async fn swarm(&self, ctx: &Context<'_>) -> Result<Option<Swarm>> {
        let views: &DataLoader<Views> = ctx.data()?;
        Ok(views.load_one(self.0.spec.swarm).await?.map(Swarm))
    }
    async fn status(&self) -> AgentStatus {
        self.0.status.into()
    }
    async fn connector(&self) -> Connector {
        let (argv, cwd) = match &self.0.spec.connector {
            ConnectorSpec::Worker { argv, cwd } => (Some(argv.clone()), cwd.clone()),
            ConnectorSpec::ClaudeCode(coding) | ConnectorSpec::Acp(coding) => (Some(coding.argv.clone()), None),
            ConnectorSpec::Command | ConnectorSpec::Noop | ConnectorSpec::Model(_) => (None, None),
        };
        let coding = match &self.0.spec.connector {
            ConnectorSpec::ClaudeCode(coding) | ConnectorSpec::Acp(coding) => Some(Coding::from(&**coding)),
            _ => None,
        };
        let model = match &self.0.spec.connector {
            ConnectorSpec::Model(model) => Some(model.model.clone()),
            _ => None,
        };
        Connector { kind: self.0.spec.connector.name().into(), argv, cwd, coding, model }
    }
    async fn skills(&self) -> Vec<Skill> {
        self.0.spec.skills.iter().map(|skill| Skill { name: skill.name.to_string(), proficiency: skill.proficiency }).collect()
    }
    /// For the WEIGHTED strategy.
    async fn weight(&self) -> u32 {
        self.0.spec.weight
    }
    async fn max_concurrent_tasks(&self) -> u32 {
        self.0.spec.max_concurrent_tasks
    }
    async fn limits(&self) -> Limits {
        let limits = &self.0.spec.limits;
        Limits {
            memory_bytes: limits.memory_bytes.map(BigInt),
            cpu_millis: limits.cpu_millis,
            max_processes: limits.processes_max,
            wall_ms: limits.wall_ms,
            max_output_bytes: limits.output_bytes_max.map(BigInt),
        }
    }
    async fn env(&self) -> Vec<EnvVar> {
        self.0.spec.env.iter().map(|variable| EnvVar { name: variable.name.clone(), value: variable.value.clone() }).collect()
    }
    async fn session(&self) -> Session {
        Session::from(&self.0.spec.session)
    }
    async fn auto_start(&self) -> bool {
        self.0.spec.auto_start
    }
    async fn start_timeout_ms(&self) -> u64 {
        self.0.spec.start_timeout_ms
    }
    async fn stop_grace_ms(&self) -> u64 {
        self.0.spec.stop_grace_ms
    }
    /// Which life this is; 0 before the first.
    async fn incarnation(&self) -> BigInt {
        BigInt(self.0.incarnation)
    }
    /// What its calls of models used; absent if there were none.
    async fn usage(&self, ctx: &Context<'_>) -> Result<Option<Usage>> {
        usage::total(ctx, Scope::Agent(self.0.spec.id)).await
    }
    /// Attempts it holds a lease on.
    async fn running(&self) -> u32 {
        self.0.running
    }
    async fn succeeded(&self) -> BigInt {
        BigInt(self.0.succeeded)
    }
    async fn failed(&self) -> BigInt {
        BigInt(self.0.failed)
    }
    /// The last failure of the agent itself, not of a task.
    async fn last_failure(&self) -> Option<&str> {
        self.0.last_failure.as_deref()
    }
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }
    async fn started_at(&self) -> Option<DateTime> {
        self.0.started_at.map(Into::into)
    }
    async fn cursor(&self) -> Cursor {
        hiveward_runtime::ledger::Cursor(self.0.cursor).into()
    }
    /// The tasks it was given.
    async fn tasks(
        &self,
        ctx: &Context<'_>,
        filter: Option<TaskFilter>,
        order_by: Option<TaskOrder>,
        first: Option<i32>,
        after: Option<String>,
    ) -> Result<Pages<Task>> {
        let id = self.0.spec.id;
        task::list(ctx, filter.unwrap_or_default(), |filter| filter.agent = Some(id), order_by, first, after.as_deref())
    }
}

#[derive(SimpleObject)]
pub struct Connector {
    /// `command`, `worker` or `noop`.
    kind: String,
    argv: Option<Vec<String>>,
    cwd: Option<String>,
    /// Of a coding agent.
    coding: Option<Coding>,
    /// Of one that asks a model directly.
    model: Option<String>,
}

#[derive(SimpleObject)]
pub struct Skill {
    name: String,
    /// 0 to 1.
    proficiency: f32,
}

/// A limit that is absent is not enforced.
#[derive(SimpleObject)]
pub struct Limits {
    memory_bytes: Option<BigInt>,
    /// Thousandths of one core.
    cpu_millis: Option<u32>,
    max_processes: Option<u32>,
    /// Of one attempt.
    wall_ms: Option<u64>,
    /// Of one attempt; more is dropped and said.
    max_output_bytes: Option<BigInt>,
}

#[derive(InputObject)]
pub struct CreateAgentInput {
    operation_id: Option<ID>,
    /// Unique within its swarm.
    name: String,
    /// By key or name; `default` if absent.
    swarm: Option<ID>,
    #[graphql(flatten)]
    agent: AgentFields,
}

/// What agents of one template share.
#[derive(InputObject)]
pub struct AgentFields {
    /// `command` if absent.
    connector: Option<ConnectorInput>,
    skills: Option<Vec<SkillInput>>,
    #[graphql(default = 1)]
    weight: i32,
    #[graphql(default = 1)]
    max_concurrent_tasks: i32,
    limits: Option<LimitsInput>,
    env: Option<Vec<EnvInput>>,
    session: Option<SessionInput>,
    /// Answers when it is ready.
    #[graphql(default = true)]
    auto_start: bool,
    #[graphql(default = 30_000)]
    start_timeout_ms: i32,
    #[graphql(default = 5_000)]
    stop_grace_ms: i32,
    /// Only this node holds it.
    node: Option<ID>,
    /// Only nodes with all of these labels hold it.
    node_labels: Option<Vec<LabelInput>>,
}

/// How the agent drives its tool.
#[derive(OneofObject)]
pub enum ConnectorInput {
    /// Runs a program per task; `true`.
    Command(bool),
    /// A long-lived process that speaks the worker protocol.
    Worker(WorkerInput),
    /// Succeeds at once, for benches; `true`.
    Noop(bool),
    /// Claude Code, in its own protocol.
    ClaudeCode(CodingInput),
    /// Any program that speaks the Agent Client Protocol.
    Acp(CodingInput),
    /// A model that is asked once per task, without tools.
    Model(ModelInput),
}

#[derive(InputObject)]
pub struct WorkerInput {
    argv: Vec<String>,
    cwd: Option<String>,
}

#[derive(InputObject)]
pub struct SkillInput {
    name: String,
    /// 0 to 1.
    #[graphql(default = 1.0)]
    proficiency: f64,
}

#[derive(InputObject, Default)]
pub struct LimitsInput {
    memory_bytes: Option<BigInt>,
    cpu_millis: Option<i32>,
    max_processes: Option<i32>,
    wall_ms: Option<i32>,
    max_output_bytes: Option<BigInt>,
}

fn connector(at: &str, input: Option<ConnectorInput>) -> Result<ConnectorSpec, Refused> {
    let off = |name: &str| Refused::invalid(join(at, name), "say `true`, or choose another connector");
    match input {
        None | Some(ConnectorInput::Command(true)) => Ok(ConnectorSpec::Command),
        Some(ConnectorInput::Noop(true)) => Ok(ConnectorSpec::Noop),
        Some(ConnectorInput::Command(false)) => Err(off("command")),
        Some(ConnectorInput::Noop(false)) => Err(off("noop")),
        Some(ConnectorInput::ClaudeCode(input)) => {
            Ok(ConnectorSpec::ClaudeCode(Arc::new(input.parse(&join(at, "claudeCode"), Some("claude"))?)))
        }
        Some(ConnectorInput::Acp(input)) => Ok(ConnectorSpec::Acp(Arc::new(input.parse(&join(at, "acp"), None)?))),
        Some(ConnectorInput::Model(input)) => Ok(ConnectorSpec::Model(Arc::new(input.parse(&join(at, "model"))?))),
        Some(ConnectorInput::Worker(WorkerInput { argv, cwd })) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err(Refused::invalid(join(at, "worker.argv"), "name the program to run as the first entry"));
            }
            Ok(ConnectorSpec::Worker { argv, cwd })
        }
    }
}

impl AgentFields {
    pub(super) fn parse(self, at: &str, name: String, swarm: Option<client::SwarmRef>) -> Result<NewAgent, Refused> {
        let field = |name: &str| join(at, name);
        let skills = self.skills.unwrap_or_default().into_iter().enumerate().map(|(n, skill)| {
            let at = format!("{}.{n}", field("skills"));
            if !(0.0..=1.0).contains(&skill.proficiency) {
                return Err(Refused::invalid(join(&at, "proficiency"), "0 to 1"));
            }
            Ok(hiveward_catalogue::agent::Skill {
                name: parse::name(&join(&at, "name"), skill.name)?.into(),
                proficiency: skill.proficiency as f32,
            })
        });
        let limits = self.limits.unwrap_or_default();
        let max_concurrent_tasks = parse::natural(&field("maxConcurrentTasks"), self.max_concurrent_tasks)?;
        if max_concurrent_tasks == 0 {
            return Err(Refused::invalid(field("maxConcurrentTasks"), "at least 1"));
        }
        let env = task_input::env(&field("env"), self.env.as_deref().unwrap_or_default())?;
        Ok(NewAgent {
            name,
            swarm,
            connector: connector(&field("connector"), self.connector)?,
            skills: skills.collect::<Result<_, Refused>>()?,
            weight: parse::natural(&field("weight"), self.weight)?,
            max_concurrent_tasks,
            limits: hiveward_catalogue::agent::Limits {
                memory_bytes: limits.memory_bytes.map(|bytes| bytes.0),
                cpu_millis: parse::optional_natural(&field("limits.cpuMillis"), limits.cpu_millis)?,
                processes_max: parse::optional_natural(&field("limits.maxProcesses"), limits.max_processes)?,
                wall_ms: parse::optional_natural(&field("limits.wallMs"), limits.wall_ms)?,
                output_bytes_max: limits.max_output_bytes.map(|bytes| bytes.0),
            },
            env: env.into_iter().map(|(name, value)| hiveward_catalogue::agent::EnvVar { name, value }).collect(),
            session: machine::session(&field("session"), self.session)?,
            auto_start: self.auto_start,
            start_timeout_ms: parse::natural(&field("startTimeoutMs"), self.start_timeout_ms)?,
            stop_grace_ms: parse::natural(&field("stopGraceMs"), self.stop_grace_ms)?,
            node_labels: self.node_labels.unwrap_or_default().into_iter().map(|label| (label.key, label.value)).collect(),
            node: parse::optional(&field("node"), self.node.as_ref())?,
        })
    }
}

#[derive(InputObject, Default)]
pub struct AgentFilter {
    status: Option<Vec<AgentStatus>>,
    /// By key or name.
    swarm: Option<ID>,
    skill: Option<String>,
    name_contains: Option<String>,
}

pub(super) fn list(
    ctx: &Context<'_>,
    filter: AgentFilter,
    narrow: impl FnOnce(&mut client::AgentFilter),
    first: Option<i32>,
    after: Option<&str>,
) -> Result<Pages<Agent>> {
    let control = door(ctx)?;
    let mut filter = client::AgentFilter {
        status: filter.status.unwrap_or_default().into_iter().map(Into::into).collect(),
        swarm: filter.swarm.map(|swarm| parse::swarm_id(control, "filter.swarm", &swarm)).transpose()?,
        skill: filter.skill,
        name_contains: filter.name_contains,
    };
    narrow(&mut filter);
    Ok(page::connection(control.agents(&filter, after, page::first(first)?)?, after))
}

#[derive(Default)]
pub struct AgentQuery;

#[Object]
impl AgentQuery {
    async fn agents(
        &self,
        ctx: &Context<'_>,
        filter: Option<AgentFilter>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Agent>> {
        caught_up(ctx, at_least).await?;
        list(ctx, filter.unwrap_or_default(), |_| {}, first, after.as_deref())
    }
}

/// The payloads of all agent mutations have the same shape and each its own name.
macro_rules! payloads {
    ($($name:ident),+) => {$(
        #[derive(SimpleObject)]
        pub struct $name {
            agent: Agent,
            cursor: Cursor,
        }

        impl From<Done<AgentRecord>> for $name {
            fn from(done: Done<AgentRecord>) -> Self {
                Self { agent: done.value.into(), cursor: done.cursor.into() }
            }
        }
    )+};
}

payloads!(
    CreateAgentPayload,
    StartAgentPayload,
    StopAgentPayload,
    PauseAgentPayload,
    ResumeAgentPayload,
    RestartAgentPayload,
    RemoveAgentPayload
);

#[derive(InputObject)]
pub struct StartAgentInput {
    operation_id: Option<ID>,
    agent: ID,
}

#[derive(InputObject)]
pub struct StopAgentInput {
    operation_id: Option<ID>,
    agent: ID,
    #[graphql(default_with = "StopMode::Graceful")]
    mode: StopMode,
}

#[derive(InputObject)]
pub struct PauseAgentInput {
    operation_id: Option<ID>,
    agent: ID,
    #[graphql(default_with = "PauseMode::NextStep")]
    mode: PauseMode,
}

#[derive(InputObject)]
pub struct ResumeAgentInput {
    operation_id: Option<ID>,
    agent: ID,
}

#[derive(InputObject)]
pub struct RestartAgentInput {
    operation_id: Option<ID>,
    agent: ID,
}

#[derive(InputObject)]
pub struct RemoveAgentInput {
    operation_id: Option<ID>,
    agent: ID,
    /// Even while it holds tasks; they go back to the queue.
    #[graphql(default)]
    force: bool,
}

#[derive(Default)]
pub struct AgentMutation;

#[Object]
impl AgentMutation {
    /// With `autoStart`, answers when the agent itself is ready.
    async fn create_agent(&self, ctx: &Context<'_>, input: CreateAgentInput) -> Result<CreateAgentPayload> {
        let swarm = input.swarm.map(|swarm| parse::swarm("swarm", &swarm)).transpose()?;
        let new = input.agent.parse("", parse::name("name", input.name)?, swarm)?;
        Ok(door(ctx)?.create_agent(op(ctx, input.operation_id.as_ref())?, new).await?.into())
    }
    async fn start_agent(&self, ctx: &Context<'_>, input: StartAgentInput) -> Result<StartAgentPayload> {
        let id = parse::id("agent", &input.agent)?;
        Ok(door(ctx)?.start_agent(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    async fn stop_agent(&self, ctx: &Context<'_>, input: StopAgentInput) -> Result<StopAgentPayload> {
        let id = parse::id("agent", &input.agent)?;
        Ok(door(ctx)?.stop_agent(op(ctx, input.operation_id.as_ref())?, id, input.mode.into()).await?.into())
    }
    async fn pause_agent(&self, ctx: &Context<'_>, input: PauseAgentInput) -> Result<PauseAgentPayload> {
        let id = parse::id("agent", &input.agent)?;
        Ok(door(ctx)?.pause_agent(op(ctx, input.operation_id.as_ref())?, id, input.mode.into()).await?.into())
    }
    async fn resume_agent(&self, ctx: &Context<'_>, input: ResumeAgentInput) -> Result<ResumeAgentPayload> {
        let id = parse::id("agent", &input.agent)?;
        Ok(door(ctx)?.resume_agent(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// A new incarnation; what the old one says is refused.
    async fn restart_agent(&self, ctx: &Context<'_>, input: RestartAgentInput) -> Result<RestartAgentPayload> {
        let id = parse::id("agent", &input.agent)?;
        Ok(door(ctx)?.restart_agent(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    async fn remove_agent(&self, ctx: &Context<'_>, input: RemoveAgentInput) -> Result<RemoveAgentPayload> {
        let id = parse::id("agent", &input.agent)?;
        Ok(door(ctx)?.remove_agent(op(ctx, input.operation_id.as_ref())?, id, input.force).await?.into())
    }
}
