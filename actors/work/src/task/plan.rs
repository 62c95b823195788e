//! Reads a plan: the JSON that a planner step returns, which becomes real tasks.
//!
//! `{"tasks": [{"name": "lint", "title": …, "command": {"argv": […]}, "dependsOn": ["fetch"], "skills": […], …}]}`

use std::{collections::HashMap, sync::Arc};

use hiveward_kernel::{
    body::{Body, INLINE_BYTES_MAX},
    id::TaskId,
};
use serde::Deserialize;

use super::{
    bounds,
    gate::GateSpec,
    graph,
    retry::RetryPolicy,
    spec::{CommandSpec, DEPENDENCIES_MAX, PlanSpec, TaskSpec, Work},
    status::Priority,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Plan {
    tasks: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Step {
    name: String,
    title: Option<String>,
    command: Option<StepCommand>,
    kind: Option<String>,
    payload: Option<serde_json::Value>,
    #[serde(default)]
    depends_on: Vec<String>,
    skills: Option<Vec<Arc<str>>>,
    priority: Option<Priority>,
    run_timeout_ms: Option<u64>,
    attempts_max: Option<u32>,
    gate: Option<StepGate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StepCommand {
    argv: Vec<String>,
    #[serde(default)]
    env: HashMap<String, String>,
    cwd: Option<String>,
    stdin: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StepGate {
    name: String,
    command: StepCommand,
    #[serde(default = "StepGate::timeout_ms_default")]
    timeout_ms: u64,
    #[serde(default)]
    retriable: bool,
}

impl StepGate {
    const fn timeout_ms_default() -> u64 {
        60_000
    }
}

/// The function that stores a body which is too large for the ledger.
pub type Store<'a> = &'a dyn Fn(Vec<u8>) -> Result<Body, String>;

/// Reads the subtasks that `json` asks for, in its order; the error says what is wrong with it, in words for the planner.
pub fn read(json: &[u8], planner: &TaskSpec, plan: &PlanSpec, store: Store<'_>) -> Result<Vec<Arc<TaskSpec>>, String> {
    let wrong = |what: String| format!("its result is no plan: {what}");
    // A program that only prints its plan has it as text: JSON within a JSON string.
    let printed: Option<String> = serde_json::from_slice(json).ok();
    let json = printed.as_ref().map_or(json, |text| text.as_bytes());
    let read: Plan = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    if read.tasks.len() > plan.subtasks_max as usize {
        return Err(wrong(format!("{} tasks, more than subtasksMax = {}", read.tasks.len(), plan.subtasks_max)));
    }
    let places = graph::places(read.tasks.iter().map(|step| Some(step.name.as_str())))
        .map_err(|place| wrong(format!("tasks.{place}.name: {:?} is used twice", read.tasks[place].name)))?;
    let mut edges = Vec::with_capacity(read.tasks.len());
    for (place, step) in read.tasks.iter().enumerate() {
        let on: Result<Vec<usize>, String> = step
            .depends_on
            .iter()
            .map(|name| {
                places.get(name.as_str()).copied().ok_or_else(|| wrong(format!("tasks.{place}.dependsOn: no task {name:?}")))
            })
            .collect();
        let on = on?;
        if on.len() > DEPENDENCIES_MAX {
            return Err(wrong(format!("tasks.{place}.dependsOn: more than {DEPENDENCIES_MAX}")));
        }
        edges.push(on);
    }
    if let Some(cycle) = graph::cycle(&edges) {
        let names: Vec<_> = cycle.iter().map(|place| read.tasks[*place].name.as_str()).collect();
        return Err(wrong(format!("its tasks depend on each other in a circle: {}", names.join(" → "))));
    }
    let ids: Vec<TaskId> = read.tasks.iter().map(|_| TaskId::new()).collect();
    let mut specs = Vec::with_capacity(ids.len());
    for (place, step) in read.tasks.into_iter().enumerate() {
        let field = |error: String| wrong(format!("tasks.{place}: {error}"));
        let title = step.title.unwrap_or_else(|| step.name.clone());
        let skills = step.skills.unwrap_or_else(|| planner.skills.clone());
        let work = match (step.command, step.kind) {
            (Some(command), None) if step.payload.is_none() => Work::Command(command.read(store).map_err(field)?),
            (None, Some(kind)) => {
                let payload = step.payload.map(|json| body(json.to_string().into_bytes(), store)).transpose().map_err(field)?;
                Work::Kind { kind: kind.into(), payload }
            }
            _ => return Err(field("give either command, or kind with a payload".into())),
        };
        let gate = step.gate.map(|gate| gate.read(store)).transpose().map_err(field)?;
        let spec = TaskSpec {
            id: ids[place],
            swarm: planner.swarm,
            title,
            work,
            agent: None,
            priority: step.priority.unwrap_or(planner.priority),
            depends_on: edges[place].iter().map(|on| ids[*on]).collect(),
            skills,
            strategy: planner.strategy,
            labels: planner.labels.clone(),
            delay_ms: 0,
            queue_timeout_ms: None,
            run_timeout_ms: step.run_timeout_ms.or(planner.run_timeout_ms),
            total_timeout_ms: None,
            retry: RetryPolicy {
                attempts_max: step.attempts_max.unwrap_or(planner.retry.attempts_max).max(1),
                ..planner.retry.clone()
            },
            gate,
            plan: None,
            parent: Some((planner.id, step.name)),
            role: None,
        };
        spec.within_bounds().map_err(|out| {
            let dot = if out.field.is_empty() { "" } else { "." };
            wrong(format!("tasks.{place}{dot}{}: {}", out.field, out.what))
        })?;
        specs.push(Arc::new(spec));
    }
    bounds::together(specs.iter().map(|spec| &**spec)).map_err(|what| wrong(format!("tasks: {what}")))?;
    Ok(specs)
}

fn body(bytes: Vec<u8>, store: Store<'_>) -> Result<Body, String> {
    if bytes.len() <= INLINE_BYTES_MAX { Ok(Body::Inline(bytes)) } else { store(bytes) }
}

impl StepCommand {
    fn read(self, store: Store<'_>) -> Result<CommandSpec, String> {
        let stdin = self.stdin.map(|text| body(text.into_bytes(), store)).transpose()?;
        let mut env: Vec<_> = self.env.into_iter().collect();
        env.sort();
        Ok(CommandSpec { argv: self.argv, env, cwd: self.cwd, stdin })
    }
}

impl StepGate {
    fn read(self, store: Store<'_>) -> Result<GateSpec, String> {
        Ok(GateSpec {
            name: self.name,
            command: self.command.read(store)?,
            timeout_ms: self.timeout_ms,
            retriable: self.retriable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{swarm::testing::spec, task::spec::Aggregate};

    fn read_text(json: &str) -> Result<Vec<Arc<TaskSpec>>, String> {
        let plan = PlanSpec { aggregate: Aggregate::Collect, subtasks_max: 3 };
        read(json.as_bytes(), &spec(|_| {}), &plan, &|bytes| Ok(Body::Blob { hash: "h".into(), bytes: bytes.len() as u64 }))
    }

    #[test]
    fn a_plan_becomes_tasks_that_depend_on_each_other_as_it_says() {
        let tasks = read_text(
            r#"{"tasks":[{"name":"b","command":{"argv":["true"]},"dependsOn":["a"]},{"name":"a","kind":"probe","payload":{"n":1}}]}"#,
        )
        .unwrap();
        assert_eq!(tasks[0].depends_on, [tasks[1].id]);
        assert_eq!(tasks[1].parent.as_ref().unwrap().1, "a");
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_named() {
        for (json, wants) in [
            ("[1]", "no plan"),
            (r#"{"tasks":[{"name":"a"}]}"#, "tasks.0: give either"),
            (r#"{"tasks":[{"name":"a","command":{"argv":["x"]},"oops":1}]}"#, "unknown field `oops`"),
            (r#"{"tasks":[{"name":"a","command":{"argv":["x"]},"dependsOn":["z"]}]}"#, "no task \"z\""),
            (
                r#"{"tasks":[{"name":"a","command":{"argv":["x"]},"dependsOn":["b"]},{"name":"b","command":{"argv":["x"]},"dependsOn":["a"]}]}"#,
                "in a circle: a → b → a",
            ),
            (r#"{"tasks":[{"name":"a","kind":"k"},{"name":"a","kind":"k"}]}"#, "used twice"),
            (
                r#"{"tasks":[{"name":"a","kind":"k"},{"name":"b","kind":"k"},{"name":"c","kind":"k"},{"name":"d","kind":"k"}]}"#,
                "subtasksMax",
            ),
        ] {
            let error = read_text(json).unwrap_err();
            assert!(error.contains(wants), "{json}: {error}");
        }
    }
}
