//! What a client may ask for, parsed once into the control plane's types; every refusal names its field.

use std::collections::HashSet;

use async_graphql::{ID, InputObject};
use hiveward_actors::client::{DependsOn, NewTask, NewWork, SwarmRef};
use hiveward_runtime::error::{Code, Refused};
use hiveward_work::task::{
    bounds::LABELS_MAX,
    gate::GateSpec,
    retry,
    spec::{CommandSpec, DEPENDENCIES_MAX, PlanSpec, SKILLS_MAX, TITLE_BYTES_MAX},
};

use super::{
    enums::{Aggregate, PlacementStrategy, Priority},
    parse::{self, join},
};

type Parsed<T> = std::result::Result<T, Refused>;

/// Tasks in one `submitTasks`.
pub const TASKS_MAX: usize = 1_000;
const SUBTASKS_DEFAULT: u32 = 100;

#[derive(InputObject)]
pub struct SubmitTaskInput {
    /// Makes it idempotent: the same id and input give the same answer.
    pub operation_id: Option<ID>,
    #[graphql(flatten)]
    pub task: TaskFields,
}

#[derive(InputObject)]
pub struct TaskFields {
    /// By key or name; `default` if absent.
    pub swarm: Option<ID>,
    /// Only this agent may run it.
    pub agent: Option<ID>,
    pub title: Option<String>,
    /// Instead of `command`: for whichever agent has the skills.
    pub kind: Option<String>,
    pub payload: Option<serde_json::Value>,
    /// Instead of `kind`: a program to run.
    pub command: Option<CommandInput>,
    pub priority: Option<Priority>,
    pub depends_on: Option<Vec<ID>>,
    pub skills: Option<Vec<String>>,
    pub strategy: Option<PlacementStrategy>,
    pub labels: Option<Vec<LabelInput>>,
    pub delay_ms: Option<i32>,
    /// From ready to started.
    pub queue_timeout_ms: Option<i32>,
    /// Of one attempt.
    pub run_timeout_ms: Option<i32>,
    /// From submitted to ended, all attempts and waits included.
    pub total_timeout_ms: Option<i32>,
    pub retry: Option<RetryInput>,
    pub gate: Option<GateInput>,
    /// Its result is a plan, whose tasks become its subtasks.
    pub plan: Option<PlanInput>,
}

#[derive(InputObject)]
pub struct SubmitTasksInput {
    pub operation_id: Option<ID>,
    /// For all tasks that name none; one submission goes to one swarm.
    pub swarm: Option<ID>,
    pub tasks: Vec<BatchedTaskInput>,
}

#[derive(InputObject)]
pub struct BatchedTaskInput {
    /// A name that `dependsOn` of the others may use.
    pub name: Option<String>,
    #[graphql(flatten)]
    pub task: TaskFields,
}

#[derive(InputObject)]
pub struct CommandInput {
    /// The program and its arguments; no shell unless it names one.
    pub argv: Vec<String>,
    pub env: Option<Vec<EnvInput>>,
    pub cwd: Option<String>,
    pub stdin: Option<String>,
}

#[derive(InputObject)]
pub struct EnvInput {
    pub name: String,
    /// `secret:NAME` and `file:PATH` are references, resolved on the agent's host.
    pub value: String,
}

#[derive(InputObject)]
pub struct LabelInput {
    pub key: String,
    pub value: String,
}

#[derive(InputObject)]
pub struct RetryInput {
    /// The first included.
    pub max_attempts: Option<i32>,
    pub first_ms: Option<i32>,
    pub max_ms: Option<i32>,
    pub factor: Option<f64>,
    /// The share of each wait that is random, 0 to 1.
    pub jitter: Option<f64>,
}

#[derive(InputObject)]
pub struct GateInput {
    pub name: String,
    /// Gets the attempt's result on standard input; exit status 0 passes.
    pub command: CommandInput,
    #[graphql(default = 60_000)]
    pub timeout_ms: i32,
    /// Whether a failed gate is a failure that another attempt may mend.
    #[graphql(default = true)]
    pub retriable: bool,
}

#[derive(InputObject)]
pub struct PlanInput {
    /// How the results of the subtasks become this task's own.
    #[graphql(default_with = "Aggregate::Collect")]
    pub aggregate: Aggregate,
    pub subtasks_max: Option<i32>,
}

#[derive(InputObject)]
pub struct WorkInput {
    pub kind: Option<String>,
    pub payload: Option<serde_json::Value>,
    pub command: Option<CommandInput>,
}

impl WorkInput {
    pub fn parse(self, at: &str) -> Parsed<NewWork> {
        match (self.command, self.kind) {
            (Some(_), Some(_)) => Err(Refused::invalid(join(at, "kind"), "give either `command` or `kind`, not both")),
            (None, None) => Err(Refused::invalid(
                join(at, "command"),
                "give `command` (a program to run) or `kind` (for an agent with the skills)",
            )),
            (Some(_), None) if self.payload.is_some() => Err(Refused::invalid(
                join(at, "payload"),
                "a payload goes with `kind`; give a command its input as `command.stdin`",
            )),
            (Some(command), None) => command.parse_new(&join(at, "command")),
            (None, Some(kind)) => Ok(NewWork::Kind { kind: parse::name(&join(at, "kind"), kind)?, payload: self.payload }),
        }
    }
}

impl CommandInput {
    fn check(&self, at: &str) -> Parsed<Vec<(String, String)>> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Refused::invalid(join(at, "argv"), "name the program to run as the first entry"));
        }
        if let Some(n) = self.argv.iter().position(|argument| argument.contains('\0')) {
            return Err(Refused::invalid(format!("{}.{n}", join(at, "argv")), "an argument cannot hold a NUL byte"));
        }
        if self.cwd.as_ref().is_some_and(|cwd| cwd.is_empty() || cwd.contains('\0')) {
            return Err(Refused::invalid(join(at, "cwd"), "give a directory, or leave it out"));
        }
        env(&join(at, "env"), self.env.as_deref().unwrap_or_default())
    }

    fn parse_new(self, at: &str) -> Parsed<NewWork> {
        let env = self.check(at)?;
        Ok(NewWork::Command { argv: self.argv, env, cwd: self.cwd, stdin: self.stdin.map(String::into_bytes) })
    }

    fn parse_spec(self, at: &str) -> Parsed<CommandSpec> {
        let env = self.check(at)?;
        if self.stdin.is_some() {
            return Err(Refused::invalid(join(at, "stdin"), "a gate's standard input is the attempt's result"));
        }
        Ok(CommandSpec { argv: self.argv, env, cwd: self.cwd, stdin: None })
    }
}

/// Environment variables, each once.
pub fn env(at: &str, given: &[EnvInput]) -> Parsed<Vec<(String, String)>> {
    let mut seen = HashSet::new();
    let one = |(n, variable): (usize, &EnvInput)| {
        let field = |name: &str| format!("{at}.{n}.{name}");
        let EnvInput { name, value } = variable;
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Refused::invalid(field("name"), "a variable's name is not empty and has no `=`"));
        }
        if value.contains('\0') {
            return Err(Refused::invalid(field("value"), "a value cannot hold a NUL byte"));
        }
        if !seen.insert(name.clone()) {
            return Err(Refused::invalid(field("name"), format!("{name} is given twice")));
        }
        Ok((name.clone(), value.clone()))
    };
    given.iter().enumerate().map(one).collect()
}

impl LabelInput {
    pub fn label(self) -> hiveward_kernel::body::Label {
        hiveward_kernel::body::Label { key: self.key, value: self.value }
    }
}

impl RetryInput {
    pub fn parse(self, at: &str) -> Parsed<retry::RetryPolicy> {
        let usual = retry::RetryPolicy::default();
        let policy = retry::RetryPolicy {
            attempts_max: parse::optional_natural(&join(at, "maxAttempts"), self.max_attempts)?.unwrap_or(usual.attempts_max),
            first_ms: parse::optional_natural(&join(at, "firstMs"), self.first_ms)?.unwrap_or(usual.first_ms),
            max_ms: parse::optional_natural(&join(at, "maxMs"), self.max_ms)?.unwrap_or(usual.max_ms),
            factor: self.factor.unwrap_or(usual.factor),
            jitter: self.jitter.unwrap_or(usual.jitter),
        };
        if policy.attempts_max == 0 {
            return Err(Refused::invalid(join(at, "maxAttempts"), "at least 1: the first attempt counts"));
        }
        if !(1.0..=100.0).contains(&policy.factor) {
            return Err(Refused::invalid(join(at, "factor"), "1 to 100"));
        }
        if !(0.0..=1.0).contains(&policy.jitter) {
            return Err(Refused::invalid(join(at, "jitter"), "0 to 1"));
        }
        Ok(policy)
    }
}

pub fn at_most<T>(field: String, list: Vec<T>, max: usize) -> Parsed<Vec<T>> {
    if list.len() <= max {
        return Ok(list);
    }
    Err(Refused { field: Some(field), ..Refused::new(Code::Limit, format!("{} entries, at most {max} are allowed", list.len())) })
}

impl TaskFields {
    /// `local` are the names that other tasks of the same submission have.
    pub fn parse(self, at: &str, local: Option<&HashSet<String>>) -> Parsed<NewTask> {
        let field = |name: &str| join(at, name);
        if self.title.as_ref().is_some_and(|title| title.len() > TITLE_BYTES_MAX) {
            return Err(Refused {
                field: Some(field("title")),
                ..Refused::new(Code::Limit, format!("a title has at most {TITLE_BYTES_MAX} bytes"))
            });
        }
        let depends_on = at_most(field("dependsOn"), self.depends_on.unwrap_or_default(), DEPENDENCIES_MAX)?;
        let depends_on = depends_on.into_iter().enumerate().map(|(n, id)| match local {
            Some(local) if local.contains(id.as_str()) => Ok(DependsOn::Local(id.to_string())),
            _ => parse::id(&format!("{}.{n}", field("dependsOn")), &id).map(DependsOn::Task),
        });
        let gate = |gate: GateInput| {
            let at = field("gate");
            Ok::<_, Refused>(GateSpec {
                name: parse::name(&join(&at, "name"), gate.name)?,
                command: gate.command.parse_spec(&join(&at, "command"))?,
                timeout_ms: parse::natural(&join(&at, "timeoutMs"), gate.timeout_ms)?,
                retriable: gate.retriable,
            })
        };
        let plan = |plan: PlanInput| {
            let subtasks_max =
                parse::optional_natural(&field("plan.subtasksMax"), plan.subtasks_max)?.unwrap_or(SUBTASKS_DEFAULT);
            Ok::<_, Refused>(PlanSpec { aggregate: plan.aggregate.into(), subtasks_max })
        };
        Ok(NewTask {
            swarm: self.swarm.map(|swarm| parse::swarm(&field("swarm"), &swarm)).transpose()?,
            agent: parse::optional(&field("agent"), self.agent.as_ref())?,
            title: self.title,
            work: WorkInput { kind: self.kind, payload: self.payload, command: self.command }.parse(at)?,
            priority: self.priority.map_or_else(Default::default, Into::into),
            depends_on: depends_on.collect::<Parsed<_>>()?,
            skills: at_most(field("skills"), self.skills.unwrap_or_default(), SKILLS_MAX)?,
            strategy: self.strategy.map(Into::into),
            labels: at_most(field("labels"), self.labels.unwrap_or_default(), LABELS_MAX)?
                .into_iter()
                .map(LabelInput::label)
                .collect(),
            delay_ms: parse::optional_natural(&field("delayMs"), self.delay_ms)?.unwrap_or(0),
            queue_timeout_ms: parse::optional_natural(&field("queueTimeoutMs"), self.queue_timeout_ms)?,
            run_timeout_ms: parse::optional_natural(&field("runTimeoutMs"), self.run_timeout_ms)?,
            total_timeout_ms: parse::optional_natural(&field("totalTimeoutMs"), self.total_timeout_ms)?,
            retry: self.retry.map(|retry| retry.parse(&field("retry"))).transpose()?,
            gate: self.gate.map(gate).transpose()?,
            plan: self.plan.map(plan).transpose()?,
            local_name: None,
        })
    }
}

impl SubmitTasksInput {
    pub fn parse(self) -> Parsed<Vec<NewTask>> {
        if self.tasks.is_empty() {
            return Err(Refused::invalid("tasks", "give at least one task"));
        }
        let tasks = at_most("tasks".into(), self.tasks, TASKS_MAX)?;
        let common: Option<SwarmRef> = self.swarm.map(|swarm| parse::swarm("swarm", &swarm)).transpose()?;
        let mut names = HashSet::new();
        for (n, task) in tasks.iter().enumerate() {
            if let Some(name) = &task.name
                && !names.insert(name.clone())
            {
                return Err(Refused::invalid(format!("tasks.{n}.name"), format!("two tasks are named {name:?}")));
            }
        }
        let one = |(n, task): (usize, BatchedTaskInput)| {
            let at = format!("tasks.{n}");
            let local_name = task.name.map(|name| parse::name(&join(&at, "name"), name)).transpose()?;
            let parsed = task.task.parse(&at, Some(&names))?;
            Ok(NewTask { swarm: parsed.swarm.or_else(|| common.clone()), local_name, ..parsed })
        };
        tasks.into_iter().enumerate().map(one).collect()
    }
}
