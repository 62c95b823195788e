//! What clients may ask for, and the checks that turn it into a spec. They do nothing else but make ids and store large bodies.

use std::{collections::BTreeMap, sync::Arc};

use hiveward_catalogue::{
    agent::{
        coding::WorkspaceSpec,
        spec::{AgentSpec, ConnectorSpec, EnvVar, Limits, SessionSpec, Skill},
    },
    placement::{Strategy, Weights},
    swarm::{SwarmSpec, Topology},
};
use hiveward_kernel::{
    body::{Body, Label},
    id::{AgentId, SwarmId, TaskId},
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::NodeId,
};
use hiveward_work::task::{
    bounds::{self, ENV_BYTES_MAX, ENV_MAX, LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, NAME_BYTES_MAX, OutOfBounds},
    gate::GateSpec,
    graph,
    retry::RetryPolicy,
    spec::{CommandSpec, DEPENDENCIES_MAX, PlanSpec, SKILLS_MAX, TaskSpec, Work},
    status::Priority,
};

use super::connector;
use crate::house::House;

/// The most tasks in one submission.
pub const TASKS_PER_SUBMIT_MAX: usize = 1_000;
/// The most bytes of one payload or standard input.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// The most bytes of an agent as the ledger keeps it: its connector with prompts and programs, its session, labels, variables.
const AGENT_BYTES_MAX: usize = 192 << 10;
/// The most labels that a node or a host has, or that are asked of one.
const LABELS_MAX: usize = 64;
const CONCURRENT_MAX: u32 = 10_000;

#[derive(Clone, Debug)]
pub enum SwarmRef {
    Id(SwarmId),
    Name(String),
}

#[derive(Clone, Debug)]
pub enum DependsOn {
    Task(TaskId),
    /// The `local_name` of another task of the same submission.
    Local(String),
}

#[derive(Clone, Debug)]
pub enum NewWork {
    Command { argv: Vec<String>, env: Vec<(String, String)>, cwd: Option<String>, stdin: Option<Vec<u8>> },
    Kind { kind: String, payload: Option<serde_json::Value> },
}

/// A task that a client asks for.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub swarm: Option<SwarmRef>,
    pub agent: Option<AgentId>,
    pub title: Option<String>,
    pub work: NewWork,
    pub priority: Priority,
    pub depends_on: Vec<DependsOn>,
    pub skills: Vec<String>,
    pub strategy: Option<Strategy>,
    pub labels: Vec<Label>,
    pub delay_ms: u64,
    pub queue_timeout_ms: Option<u64>,
    pub run_timeout_ms: Option<u64>,
    pub total_timeout_ms: Option<u64>,
    pub retry: Option<RetryPolicy>,
    pub gate: Option<GateSpec>,
    pub plan: Option<PlanSpec>,
    pub local_name: Option<String>,
}

impl NewTask {
    /// Returns a task that does this work, with the defaults of the public API for all else.
    pub fn new(work: NewWork) -> Self {
        Self {
            swarm: None,
            agent: None,
            title: None,
            work,
            priority: Priority::Normal,
            depends_on: Vec::new(),
            skills: Vec::new(),
            strategy: None,
            labels: Vec::new(),
            delay_ms: 0,
            queue_timeout_ms: None,
            run_timeout_ms: None,
            total_timeout_ms: None,
            retry: None,
            gate: None,
            plan: None,
            local_name: None,
        }
    }
}

/// What may be changed when an ended task is sent on its way again. What is absent stays as it was.
#[derive(Clone, Debug, Default)]
pub struct TaskEdit {
    pub work: Option<NewWork>,
    pub run_timeout_ms: Option<u64>,
    pub retry: Option<RetryPolicy>,
}

#[derive(Clone, Debug)]
pub struct NewAgent {
    pub name: String,
    pub swarm: Option<SwarmRef>,
    pub connector: ConnectorSpec,
    pub skills: Vec<Skill>,
    pub weight: u32,
    pub max_concurrent_tasks: u32,
    pub limits: Limits,
    pub env: Vec<EnvVar>,
    pub session: SessionSpec,
    pub auto_start: bool,
    pub start_timeout_ms: u64,
    pub stop_grace_ms: u64,
    /// The labels that a node must have, all of them, to hold it.
    pub node_labels: BTreeMap<String, String>,
    /// The only node that may hold it; absent if any may.
    pub node: Option<NodeId>,
}

#[derive(Clone, Debug)]
pub struct NewSwarm {
    pub name: String,
    pub topology: Topology,
    pub strategy: Strategy,
    pub weights: Weights,
    pub queued_max: u32,
    pub running_max: Option<u32>,
    /// The labels that a node must have, all of them, to hold its coordinator.
    pub node_labels: BTreeMap<String, String>,
    /// The only node that may hold its coordinator; absent if any may.
    pub node: Option<NodeId>,
    /// The number of coordinators that share its tasks; 1 to [`SwarmSpec::SHARDS_MAX`].
    pub shards: u16,
}

impl Default for NewSwarm {
    fn default() -> Self {
        Self {
            name: String::new(),
            topology: Topology::default(),
            strategy: Strategy::default(),
            weights: Weights::default(),
            queued_max: SwarmSpec::QUEUED_MAX_DEFAULT,
            running_max: None,
            node_labels: BTreeMap::new(),
            node: None,
            shards: 1,
        }
    }
}

/// Turns what is out of bounds into an answer; `at` is the field of the task.
fn refused(at: &str, out: OutOfBounds) -> Refused {
    let field = if out.field.is_empty() { at.to_owned() } else { format!("{at}.{}", out.field) };
    if out.too_much { limit(field, out.what) } else { Refused::invalid(field, out.what) }
}

/// Refuses tasks that together are too large to be accepted at once.
pub(super) fn together(field: &str, specs: &[Arc<TaskSpec>]) -> Result<(), Refused> {
    bounds::together(specs.iter().map(|spec| &**spec)).map_err(|what| limit(field.to_owned(), what))
}

/// Refuses a task of which something is too large.
pub(super) fn within_bounds(at: &str, spec: &TaskSpec) -> Result<(), Refused> {
    spec.within_bounds().map_err(|out| refused(at, out))
}

pub(super) fn limit(field: String, message: String) -> Refused {
    Refused { code: Code::Limit, message, field: Some(field) }
}

/// Refuses a text that is too long.
pub(super) fn text(field: &str, given: Option<&str>, bytes_max: usize) -> Result<(), Refused> {
    match given {
        Some(given) if given.len() > bytes_max => {
            Err(limit(field.to_owned(), format!("{} bytes, at most {bytes_max}", given.len())))
        }
        _ => Ok(()),
    }
}

/// Refuses a list that is too long.
pub(super) fn count(field: &str, given: usize, max: usize) -> Result<(), Refused> {
    if given <= max { Ok(()) } else { Err(limit(field.to_owned(), format!("{given} entries, at most {max}"))) }
}

/// Refuses a name that could not be shown, typed or put into a path.
pub(super) fn name(field: &str, text: &str) -> Result<(), Refused> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !plain {
        return Err(Refused::invalid(field, format!("{field} must be 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'")));
    }
    Ok(())
}

/// Makes specs of all tasks of one submission, or returns the first thing that is wrong, with its field.
pub(super) fn tasks(house: &House, swarm: SwarmId, new: Vec<NewTask>) -> Result<Vec<Arc<TaskSpec>>, Refused> {
    if new.is_empty() {
        return Err(Refused::invalid("tasks", "give at least one task"));
    }
    if new.len() > TASKS_PER_SUBMIT_MAX {
        return Err(limit("tasks".into(), format!("{} tasks in one submission, at most {TASKS_PER_SUBMIT_MAX}", new.len())));
    }
    let places = graph::places(new.iter().map(|task| task.local_name.as_deref()))
        .map_err(|place| Refused::invalid(format!("tasks.{place}.name"), "this name is used twice in the submission"))?;
    let ids: Vec<TaskId> = new.iter().map(|_| TaskId::new()).collect();
    let mut edges = vec![Vec::new(); new.len()];
    let mut depends_on = Vec::with_capacity(new.len());
    for (place, task) in new.iter().enumerate() {
        let field = || format!("tasks.{place}.dependsOn");
        if task.depends_on.len() > DEPENDENCIES_MAX {
            return Err(limit(field(), format!("more than {DEPENDENCIES_MAX} dependencies")));
        }
        let mut ons = Vec::with_capacity(task.depends_on.len());
        for on in &task.depends_on {
            let id = match on {
                DependsOn::Task(id) => *id,
                DependsOn::Local(wanted) => {
                    let other = *places
                        .get(wanted.as_str())
                        .ok_or_else(|| Refused::invalid(field(), format!("no task named {wanted:?} is in this submission")))?;
                    edges[place].push(other);
                    ids[other]
                }
            };
            if !ons.contains(&id) {
                ons.push(id);
            }
        }
        depends_on.push(ons);
    }
    if let Some(cycle) = graph::cycle(&edges) {
        let names: Vec<_> =
            cycle.iter().map(|place| new[*place].local_name.clone().unwrap_or_else(|| format!("tasks.{place}"))).collect();
        let message = format!("these tasks depend on each other in a circle: {}", names.join(" → "));
        return Err(Refused::invalid(format!("tasks.{}.dependsOn", cycle[0]), message));
    }
    let mut specs = Vec::with_capacity(new.len());
    for (place, (task, depends_on)) in new.into_iter().zip(depends_on).enumerate() {
        let at = |field: &str| format!("tasks.{place}.{field}");
        let title = task.title.clone().unwrap_or_else(|| title_of(&task.work));
        let retry = task.retry.unwrap_or_default();
        check_retry(&at("retry"), &retry)?;
        let spec = TaskSpec {
            id: ids[place],
            swarm,
            title,
            work: work(house, &format!("tasks.{place}"), task.work)?,
            agent: task.agent,
            priority: task.priority,
            depends_on,
            skills: task.skills.into_iter().map(Arc::from).collect(),
            strategy: task.strategy,
            labels: task.labels,
            delay_ms: task.delay_ms,
            queue_timeout_ms: task.queue_timeout_ms,
            run_timeout_ms: task.run_timeout_ms,
            total_timeout_ms: task.total_timeout_ms,
            retry,
            gate: task.gate,
            plan: task.plan,
            parent: None,
            role: None,
        };
        within_bounds(&format!("tasks.{place}"), &spec)?;
        specs.push(Arc::new(spec));
    }
    together("tasks", &specs)?;
    Ok(specs)
}

pub(super) fn check_retry(field: &str, retry: &RetryPolicy) -> Result<(), Refused> {
    let fine = retry.attempts_max >= 1 && retry.factor.is_finite() && retry.factor >= 1.0 && (0.0..=1.0).contains(&retry.jitter);
    if fine { Ok(()) } else { Err(Refused::invalid(field, "retry wants attemptsMax ≥ 1, factor ≥ 1 and jitter from 0 to 1")) }
}

pub(super) fn title_of(work: &NewWork) -> String {
    let text = match work {
        NewWork::Command { argv, .. } => argv.join(" "),
        NewWork::Kind { kind, .. } => kind.clone(),
    };
    text.chars().take(80).collect()
}

pub(super) fn work(house: &House, field: &str, new: NewWork) -> Result<Work, Refused> {
    let sized = |field: String, bytes: Vec<u8>| -> Result<Body, Refused> {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(limit(field, format!("{} bytes, at most {PAYLOAD_BYTES_MAX}", bytes.len())));
        }
        house.store_body(&bytes)
    };
    match new {
        NewWork::Command { argv, env, cwd, stdin } => {
            let command = CommandSpec { argv, env, cwd, stdin: None };
            // This is checked before its input is stored.
            bounds::command_within("command", &command).map_err(|out| refused(field, out))?;
            let stdin = stdin.map(|bytes| sized(format!("{field}.command.stdin"), bytes)).transpose()?;
            Ok(Work::Command(CommandSpec { stdin, ..command }))
        }
        NewWork::Kind { kind, payload } => {
            if kind.is_empty() || kind.len() > NAME_BYTES_MAX {
                return Err(Refused::invalid(format!("{field}.kind"), format!("kind has 1 to {NAME_BYTES_MAX} bytes")));
            }
            let payload = payload.map(|json| sized(format!("{field}.payload"), json.to_string().into_bytes())).transpose()?;
            Ok(Work::Kind { kind: kind.into(), payload })
        }
    }
}

/// Refuses agents of a kind that cannot have a VM for each attempt.
fn runs_in_vms(connector: &ConnectorSpec) -> Result<(), Refused> {
    let bad = |why: &str| Err(Refused::invalid("session.vm", why));
    match connector {
        ConnectorSpec::Command => Ok(()),
        ConnectorSpec::ClaudeCode(coding) | ConnectorSpec::Acp(coding) => match coding.workspace {
            WorkspaceSpec::Scratch | WorkspaceSpec::Worktree(_) => Ok(()),
            WorkspaceSpec::Directory { .. } => {
                bad("a directory that attempts share cannot be brought into the VM of each; choose a worktree, or none")
            }
        },
        ConnectorSpec::Worker { .. } => bad("a worker is one process for all tasks, and a VM is made for each attempt"),
        ConnectorSpec::Model(_) | ConnectorSpec::Noop => bad("an agent of this kind runs no programs that could be in a VM"),
    }
}

pub(super) fn agent(swarm: SwarmId, new: NewAgent) -> Result<AgentSpec, Refused> {
    name("name", &new.name)?;
    if new.max_concurrent_tasks == 0 || new.max_concurrent_tasks > CONCURRENT_MAX {
        return Err(Refused::invalid("maxConcurrentTasks", format!("maxConcurrentTasks is 1 to {CONCURRENT_MAX}")));
    }
    if new.skills.len() > SKILLS_MAX {
        return Err(limit("skills".into(), format!("an agent has at most {SKILLS_MAX} skills")));
    }
    for (place, skill) in new.skills.iter().enumerate() {
        if !(0.0..=1.0).contains(&skill.proficiency) || skill.name.is_empty() {
            return Err(Refused::invalid(
                format!("skills.{place}.proficiency"),
                "a skill has a name and a proficiency from 0 to 1",
            ));
        }
    }
    if let Some(n) = new.skills.iter().position(|skill| skill.name.len() > NAME_BYTES_MAX) {
        return Err(limit(format!("skills.{n}.name"), format!("a skill's name has at most {NAME_BYTES_MAX} bytes")));
    }
    node_labels(&new.node_labels)?;
    if let ConnectorSpec::Worker { argv, .. } = &new.connector
        && argv.first().is_none_or(String::is_empty)
    {
        return Err(Refused::invalid("connector.worker.argv", "argv needs at least the program"));
    }
    connector::within(&new.connector)?;
    if let SessionSpec::Pty { cols, rows } = new.session {
        if cols == 0 || rows == 0 {
            return Err(Refused::invalid("session", "a terminal has at least one column and one row"));
        }
        if matches!(new.connector, ConnectorSpec::Worker { .. }) {
            return Err(Refused::invalid(
                "session.kind",
                "a worker speaks its protocol over pipes; only commands get a terminal",
            ));
        }
    }
    if let SessionSpec::Vm(machine) = &new.session {
        runs_in_vms(&new.connector)?;
        super::vm::check_machine(machine)?;
    }
    if let Some(bad) =
        new.env.iter().find(|var| var.name.is_empty() || var.name.contains(['=', '\0']) || var.value.contains('\0'))
    {
        return Err(Refused::invalid("env", format!("{:?} is no name for a variable, or its value holds a zero byte", bad.name)));
    }
    let env_bytes: usize = new.env.iter().map(|var| var.name.len() + var.value.len()).sum();
    if new.env.len() > ENV_MAX || env_bytes > ENV_BYTES_MAX {
        return Err(limit("env".into(), format!("env has at most {ENV_MAX} variables and {ENV_BYTES_MAX} bytes")));
    }
    let spec = AgentSpec {
        id: AgentId::new(),
        swarm,
        name: new.name,
        connector: new.connector,
        skills: new.skills,
        weight: new.weight,
        max_concurrent_tasks: new.max_concurrent_tasks,
        limits: new.limits,
        env: new.env,
        session: new.session,
        auto_start: new.auto_start,
        start_timeout_ms: new.start_timeout_ms,
        stop_grace_ms: new.stop_grace_ms,
        node_labels: new.node_labels,
        node: new.node,
    };
    let encoded = rmp_serde::to_vec(&spec).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
    if encoded.len() > AGENT_BYTES_MAX {
        let message =
            format!("the agent takes {} bytes, at most {AGENT_BYTES_MAX}: shorten its prompts and programs", encoded.len());
        return Err(limit("connector".into(), message));
    }
    Ok(spec)
}

fn node_labels(given: &BTreeMap<String, String>) -> Result<(), Refused> {
    labels("nodeLabels", given)
}

/// Refuses labels of nodes or hosts that are too many or too large.
pub(super) fn labels(field: &str, given: &BTreeMap<String, String>) -> Result<(), Refused> {
    let large = |(key, value): (&String, &String)| key.len() > LABEL_KEY_BYTES_MAX || value.len() > LABEL_VALUE_BYTES_MAX;
    if given.len() <= LABELS_MAX && !given.iter().any(large) {
        return Ok(());
    }
    let message = format!(
        "at most {LABELS_MAX} labels, each with a key of at most {LABEL_KEY_BYTES_MAX} bytes and a value of at most \
         {LABEL_VALUE_BYTES_MAX}"
    );
    Err(limit(field.into(), message))
}

/// Refuses a zone that is too long to be the value of a label.
pub(super) fn zone(field: &str, given: Option<&str>) -> Result<(), Refused> {
    text(field, given, LABEL_VALUE_BYTES_MAX)
}

pub(super) fn swarm(new: NewSwarm) -> Result<SwarmSpec, Refused> {
    name("name", &new.name)?;
    node_labels(&new.node_labels)?;
    let Weights { specialisation, success, free, load_max } = new.weights;
    let parts = [specialisation, success, free];
    if parts.iter().any(|part| !part.is_finite() || *part < 0.0)
        || parts.iter().sum::<f64>() <= 0.0
        || !(load_max > 0.0 && load_max <= 1.0)
    {
        return Err(Refused::invalid("weights", "weights are not negative and not all zero; loadMax is above 0 and at most 1"));
    }
    if new.queued_max == 0 {
        return Err(Refused::invalid("maxQueued", "maxQueued is at least 1"));
    }
    if !(1..=SwarmSpec::SHARDS_MAX).contains(&new.shards) {
        return Err(Refused::invalid("shards", format!("a swarm has 1 to {} shards", SwarmSpec::SHARDS_MAX)));
    }
    // Each shard holds its part: one without any could never run what is pinned to its agents.
    for (field, whole) in [("maxQueued", Some(new.queued_max)), ("maxRunning", new.running_max)] {
        if whole.is_some_and(|whole| new.shards > 1 && whole < u32::from(new.shards)) {
            return Err(Refused::invalid(field, format!("{field} is shared out: at least 1 for each of {} shards", new.shards)));
        }
    }
    Ok(SwarmSpec {
        id: SwarmId::new_head(),
        name: new.name,
        topology: new.topology,
        strategy: new.strategy,
        weights: new.weights,
        queued_max: new.queued_max,
        running_max: new.running_max,
        node_labels: new.node_labels,
        node: new.node,
        shards: new.shards,
        shard: 0,
    })
}
