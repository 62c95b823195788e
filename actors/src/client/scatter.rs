//! A scatter as a client asks for it, and the tasks that it becomes: one that gathers, and its parts.

use std::sync::Arc;

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_agents::table::AgentFilter;
use hiveward_kernel::{
    body::Label,
    id::{AgentId, SwarmId, TaskId},
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};
use hiveward_work::task::{
    bounds::NAME_BYTES_MAX,
    record::TaskRecord,
    retry::RetryPolicy,
    scatter::{HedgeAfter, HedgeSpec, Item, KIND, PARTS_MAX, Policy, Role, ScatterSpec},
    spec::{Aggregate, SKILLS_MAX, TITLE_BYTES_MAX, TaskSpec, Work},
    status::Priority,
};
use serde_json::Value;

use super::{ControlPlane, Done, NewTask, NewWork, SwarmRef, check, command, shard::Binds};
use crate::house::House;

/// The most bytes of one item that a program gets in its environment.
const ITEM_BYTES_MAX: usize = 32 << 10;
const ITEM_SHOWN_CHARS: usize = 40;
const FACTOR_MIN: f64 = 1.0;
const FACTOR_MAX: f64 = 1_000.0;

/// The items or agents that a scatter goes over.
#[derive(Clone, Debug)]
pub enum Over {
    /// Items, with one part for each.
    Items(Vec<Value>),
    /// Agents, with one part for each of these, or for each of the swarm if none is named, that has all the skills.
    Agents { agents: Vec<AgentId>, skills: Vec<String> },
}

#[derive(Clone, Copy, Debug)]
pub struct NewHedge {
    pub after: HedgeAfter,
    /// The share of the parts that may get a twin; above 0 and at most 1.
    pub share: f64,
}

#[derive(Clone, Debug)]
pub struct NewScatter {
    pub swarm: Option<SwarmRef>,
    pub title: Option<String>,
    pub labels: Vec<Label>,
    pub priority: Priority,
    pub over: Over,
    /// The task that each part is made from.
    pub part: NewTask,
    pub policy: Policy,
    /// The most milliseconds from submitted to gathered.
    pub deadline_ms: Option<u64>,
    pub aggregate: Aggregate,
    /// A task that makes one result of the parts that are in, which are its inputs, instead of `aggregate`.
    pub reduce: Option<NewTask>,
    pub hedge: Option<NewHedge>,
}

impl NewScatter {
    /// Returns a scatter that waits for all parts and collects their results, without a deadline or twins.
    pub fn new(over: Over, part: NewTask) -> Self {
        Self {
            swarm: None,
            title: None,
            labels: Vec::new(),
            priority: Priority::Normal,
            over,
            part,
            policy: Policy::All,
            deadline_ms: None,
            aggregate: Aggregate::Collect,
            reduce: None,
            hedge: None,
        }
    }
}

/// One part before it is a task: its name, what it is given, and the agent that it belongs to.
struct Share {
    name: String,
    item: Option<Value>,
    agent: Option<AgentId>,
}

impl ControlPlane {
    /// Submits a scatter, and answers with the task that gathers; its subtasks are the parts.
    pub async fn scatter(&self, op: Op, new: NewScatter) -> Result<Done<TaskRecord>, Refused> {
        self.takes_writes()?;
        let operation = command::operation(&op, &new);
        let swarm = self.resolve_swarm(&op, new.swarm.as_ref()).await?;
        let op = self.may(op, Verb::Scatter, self.new_in(ResourceKind::Task, swarm.id)).await?;
        let shares = match &new.over {
            Over::Items(items) => {
                let share = |(n, item): (usize, &Value)| Share { name: n.to_string(), item: Some(item.clone()), agent: None };
                items.iter().enumerate().map(share).collect()
            }
            Over::Agents { agents, skills } => self.shares_of_agents(&op, swarm.id, agents, skills).await?,
        };
        // One coordinator gathers all of it.
        let mut binds = Binds::default();
        binds.agents.extend(new.part.agent.map(|agent| ("part.agent".into(), agent)));
        binds.agents.extend(new.reduce.as_ref().and_then(|reduce| reduce.agent).map(|agent| ("reduce.agent".into(), agent)));
        binds.agents.extend(shares.iter().filter_map(|share: &Share| Some(("overAgents".into(), share.agent?))));
        let swarm = self.shard_for(&op, &swarm, &binds, operation.as_ref()).await?;
        let house = self.house.clone();
        let specs = tokio::task::spawn_blocking(move || specs(&house, swarm, new, shares));
        let specs = specs.await.map_err(|error| Refused::new(Code::Internal, error.to_string()))??;
        let mut done = self.submit_specs(&op, swarm, specs, operation).await?;
        let subtasks: Vec<TaskId> = done.value.iter().skip(1).map(TaskRecord::id).collect();
        if done.value.is_empty() {
            return Err(Refused::new(Code::Internal, "a scatter was submitted and is not there"));
        }
        let mut scatter = done.value.swap_remove(0);
        if scatter.subtasks.is_empty() {
            scatter.subtasks = subtasks;
        }
        Ok(Done { value: scatter, cursor: done.cursor })
    }

    async fn shares_of_agents(
        &self,
        op: &Op,
        swarm: SwarmId,
        agents: &[AgentId],
        skills: &[String],
    ) -> Result<Vec<Share>, Refused> {
        check::count("overAgents.agents", agents.len(), PARTS_MAX)?;
        check::count("overAgents.skills", skills.len(), SKILLS_MAX)?;
        for (n, skill) in skills.iter().enumerate() {
            check::text(&format!("overAgents.skills.{n}"), Some(skill), NAME_BYTES_MAX)?;
        }
        self.settled(op).await?;
        let filter = AgentFilter { swarm: Some(swarm), ..AgentFilter::default() };
        let there = self.house.agent_table.page(&filter, None, usize::MAX)?.items.into_iter().map(|(_, record)| record.spec);
        let there: Vec<_> = there.collect();
        if let Some((n, unknown)) = agents.iter().enumerate().find(|(_, agent)| there.iter().all(|spec| spec.id != **agent)) {
            let message = format!("there is no agent {unknown} in the swarm");
            return Err(Refused { code: Code::NotFound, message, field: Some(format!("overAgents.agents.{n}")) });
        }
        let wanted = there
            .iter()
            .filter(|spec| agents.is_empty() || agents.contains(&spec.id))
            .filter(|spec| skills.iter().all(|skill| spec.skills.iter().any(|its| *its.name == **skill)));
        let shares: Vec<_> = wanted.map(|spec| Share { name: spec.name.clone(), item: None, agent: Some(spec.id) }).collect();
        if shares.is_empty() {
            return Err(Refused::new(Code::Refused, "no agent of the swarm is meant: there is none, or none has the skills"));
        }
        Ok(shares)
    }
}

fn refuse_in(at: &str, task: &NewTask) -> Result<(), Refused> {
    let field = |name: &str| format!("{at}.{name}");
    if !task.depends_on.is_empty() {
        return Err(Refused::invalid(field("dependsOn"), "the tasks of a scatter depend on nothing else"));
    }
    if task.plan.is_some() {
        return Err(Refused::invalid(field("plan"), "the tasks of a scatter cannot plan"));
    }
    if task.swarm.is_some() {
        return Err(Refused::invalid(field("swarm"), "name the swarm of the whole scatter"));
    }
    Ok(())
}

/// Names the field of a refusal as it is called in a scatter's input.
fn renamed(mut refused: Refused, parts: &str, single: &str) -> Refused {
    refused.field = refused.field.map(|field| {
        let rest = field.strip_prefix("tasks").unwrap_or(&field);
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        let name = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        if name.is_empty() { parts.to_owned() } else { format!("{single}{name}") }
    });
    refused
}

fn shown(item: &Value) -> String {
    let text = text_of(item);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= ITEM_SHOWN_CHARS {
        line
    } else {
        line.chars().take(ITEM_SHOWN_CHARS).chain("…".chars()).collect()
    }
}

fn text_of(item: &Value) -> String {
    match item {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns a part's own work: an item becomes a kind's payload, or goes into it under `item`.
fn work_of(work: &NewWork, item: Option<&Value>) -> Result<NewWork, Refused> {
    let (NewWork::Kind { kind, payload }, Some(item)) = (work, item) else { return Ok(work.clone()) };
    let payload = match payload {
        None => item.clone(),
        Some(Value::Object(given)) => {
            let mut given = given.clone();
            given.insert("item".into(), item.clone());
            Value::Object(given)
        }
        Some(_) => return Err(Refused::invalid("part.payload", "give an object: each part's gets its item under `item`")),
    };
    Ok(NewWork::Kind { kind: kind.clone(), payload: Some(payload) })
}

fn cut(mut title: String) -> String {
    while title.len() > TITLE_BYTES_MAX {
        title.pop();
    }
    title
}

fn check_policy(new: &NewScatter, parts: usize) -> Result<(), Refused> {
    if let Policy::AtLeast(wanted) = new.policy
        && !(1..=parts).contains(&(wanted as usize))
    {
        return Err(Refused::invalid("atLeast", format!("atLeast is 1 to the number of parts, {parts}")));
    }
    if new.deadline_ms == Some(0) {
        return Err(Refused::invalid("deadlineMs", "deadlineMs is at least 1"));
    }
    let Some(hedge) = &new.hedge else { return Ok(()) };
    if matches!(new.over, Over::Agents { .. }) || new.part.agent.is_some() {
        return Err(Refused::invalid("hedge", "a part that belongs to one agent can have no twin on another"));
    }
    if !(hedge.share > 0.0 && hedge.share <= 1.0) {
        return Err(Refused::invalid("hedge.share", "share is above 0 and at most 1"));
    }
    match hedge.after {
        HedgeAfter::Ms(0) => Err(Refused::invalid("hedge.afterMs", "afterMs is at least 1")),
        HedgeAfter::Factor(factor) if !(FACTOR_MIN..=FACTOR_MAX).contains(&factor) => {
            Err(Refused::invalid("hedge.factor", format!("factor is {FACTOR_MIN} to {FACTOR_MAX}")))
        }
        _ => Ok(()),
    }
}

/// Makes the specs: the task that gathers first, then its parts in order.
fn specs(house: &House, swarm: SwarmId, new: NewScatter, shares: Vec<Share>) -> Result<Vec<Arc<TaskSpec>>, Refused> {
    let (over, what) = if matches!(new.over, Over::Items(_)) { ("items", "items") } else { ("overAgents", "agents") };
    if shares.is_empty() {
        return Err(Refused::invalid(over, "give at least one item"));
    }
    if shares.len() > PARTS_MAX {
        return Err(check::limit(over.into(), format!("{} parts, at most {PARTS_MAX}", shares.len())));
    }
    check_policy(&new, shares.len())?;
    refuse_in("part", &new.part)?;
    let is_command = matches!(new.part.work, NewWork::Command { .. });
    let id = TaskId::new();
    let part_title = new.part.title.clone().unwrap_or_else(|| check::title_of(&new.part.work));
    let mut tasks = Vec::with_capacity(shares.len());
    for (n, share) in shares.iter().enumerate() {
        let text = share.item.as_ref().map(text_of);
        if is_command && let Some(text) = &text {
            if text.len() > ITEM_BYTES_MAX {
                let message = format!("{} bytes; a program gets at most {ITEM_BYTES_MAX}, a kind more", text.len());
                return Err(check::limit(format!("items.{n}"), message));
            }
            if text.contains('\0') {
                return Err(Refused::invalid(format!("items.{n}"), "a program's environment cannot hold a zero byte"));
            }
        }
        let shown = share.item.as_ref().map_or_else(|| share.name.clone(), shown);
        tasks.push(NewTask {
            title: Some(cut(format!("{part_title} [{shown}]"))),
            agent: share.agent.or(new.part.agent),
            work: work_of(&new.part.work, share.item.as_ref())?,
            local_name: None,
            ..new.part.clone()
        });
    }
    let parts = check::tasks(house, swarm, tasks).map_err(|refused| renamed(refused, over, "part"))?;
    let reduce = match new.reduce {
        None => None,
        Some(reduce) => {
            refuse_in("reduce", &reduce)?;
            let title = reduce.title.clone().or_else(|| Some(cut(format!("{} (reduce)", check::title_of(&reduce.work)))));
            let reduce = NewTask { title, local_name: None, ..reduce };
            let made = check::tasks(house, swarm, vec![reduce]).map_err(|refused| renamed(refused, "reduce", "reduce"))?;
            made.into_iter().next().map(|spec| {
                let parent = Some((id, "reduce".to_owned()));
                Arc::new(TaskSpec { parent, role: None, ..TaskSpec::clone(&spec) })
            })
        }
    };
    let hedge = new.hedge.map(|hedge| {
        let twins = ((shares.len() as f64 * hedge.share).ceil() as usize).clamp(1, shares.len());
        HedgeSpec { after: hedge.after, twins: (0..twins).map(|_| TaskId::new()).collect() }
    });
    let scatter = ScatterSpec { policy: new.policy, deadline_ms: new.deadline_ms, aggregate: new.aggregate, reduce, hedge };
    let title = new.title.unwrap_or_else(|| cut(format!("{part_title} over {} {what}", shares.len())));
    if title.len() > TITLE_BYTES_MAX {
        return Err(check::limit("title".into(), format!("a title has at most {TITLE_BYTES_MAX} bytes")));
    }
    let gathers = TaskSpec {
        id,
        swarm,
        title,
        work: Work::Kind { kind: KIND.into(), payload: None },
        agent: None,
        priority: new.priority,
        depends_on: Vec::new(),
        skills: Vec::new(),
        strategy: None,
        labels: new.labels,
        delay_ms: 0,
        queue_timeout_ms: None,
        run_timeout_ms: None,
        total_timeout_ms: None,
        retry: RetryPolicy::NEVER,
        gate: None,
        plan: None,
        parent: None,
        role: Some(Role::Scatter(Arc::new(scatter))),
    };
    let mut specs = vec![Arc::new(gathers)];
    for (n, (part, share)) in parts.into_iter().zip(shares).enumerate() {
        let index = u32::try_from(n).unwrap_or(u32::MAX);
        let item = share.item.filter(|_| is_command).map(|item| Item { index, text: text_of(&item) });
        let (parent, role) = (Some((id, share.name)), Some(Role::Part { item }));
        specs.push(Arc::new(TaskSpec { parent, role, ..TaskSpec::clone(&part) }));
    }
    for (n, part) in specs.iter().enumerate().skip(1) {
        check::within_bounds(&format!("tasks.{}", n - 1), part).map_err(|refused| renamed(refused, over, "part"))?;
    }
    check::within_bounds("", &specs[0])
        .map_err(|refused| Refused { field: refused.field.map(|field| field.trim_start_matches('.').to_owned()), ..refused })?;
    check::together(over, &specs)?;
    Ok(specs)
}
