//! `hiveward apply -f FILE`: swarms, agents, hosts, networks, VMs and tasks as one YAML file.
//!
//! Operation ids are derived from the content, so applying the same file again changes nothing: what is there is left as
//! it is. The file may declare `parameters`, which `--set` overrides and `${name}` in its texts stands for.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    apply_coding::{Coding, Model},
    apply_vm::{HostItem, MachineItem, NetworkItem, VmItem},
    args,
    client::{AGENT, Client, NETWORK, SWARM, TASK, VM},
    fail::{Exit, Failed, Outcome},
    host, network,
    show::{Format, Show, print, text},
    swarm, vm,
    wait::{self, Follow},
};
use crate::yaml::{self, Expanded};

#[derive(Args)]
pub struct ApplyArgs {
    /// The file (`-` for standard input)
    #[arg(short, long)]
    file: PathBuf,
    /// A value for one of the file's parameters
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = args::pair)]
    set: Vec<(String, String)>,
    /// Apply it once more even so: this text is part of every operation id
    #[arg(long, value_name = "TEXT", default_value = "")]
    run: String,
    /// Wait for the end of its tasks; exit status 8 if one fails
    #[arg(long)]
    wait: bool,
    /// Only say what the file asks for
    #[arg(long)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    parameters: BTreeMap<String, Option<Parameter>>,
    #[serde(default)]
    swarms: Vec<SwarmItem>,
    /// What agents of a role share; an agent's own fields win.
    #[serde(default)]
    profiles: BTreeMap<String, ProfileItem>,
    #[serde(default)]
    agents: Vec<AgentItem>,
    #[serde(default)]
    hosts: Vec<HostItem>,
    #[serde(default)]
    networks: Vec<NetworkItem>,
    #[serde(default)]
    vms: Vec<VmItem>,
    #[serde(default)]
    tasks: Vec<TaskItem>,
}

/// A parameter's default; a parameter without one must be `--set`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Parameter {
    Text(Expanded),
    Number(serde_json::Number),
    Flag(bool),
}

impl Parameter {
    fn text(self) -> String {
        match self {
            Self::Text(Expanded(text)) => text,
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SwarmItem {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<Weights>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_queued: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_running: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<u16>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Weights {
    #[serde(skip_serializing_if = "Option::is_none")]
    specialisation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_load: Option<f64>,
}

/// A role, as data.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProfileItem {
    #[serde(skip_serializing_if = "Option::is_none")]
    connector: Option<Connector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    skills: Vec<Skill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrent_tasks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    env: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AgentItem {
    /// With `count`, the agents are named `name-1`, `name-2` and so on.
    name: String,
    #[serde(default, skip_serializing)]
    count: Option<u32>,
    /// One of the file's profiles.
    #[serde(default, skip_serializing)]
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swarm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connector: Option<Connector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    skills: Vec<Skill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrent_tasks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    env: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auto_start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_grace_ms: Option<u32>,
}

/// `connector: command`, or `connector: {worker: {argv: [...]}}`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Connector {
    #[serde(serialize_with = "switched_on")]
    Command,
    #[serde(serialize_with = "switched_on")]
    Noop,
    Worker(Worker),
    ClaudeCode(Coding),
    Acp(Coding),
    Model(Model),
}

fn switched_on<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(true)
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Worker {
    argv: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skill {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    proficiency: Option<f64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_millis: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_processes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wall_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_bytes: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvVar {
    name: String,
    value: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    /// With `vm` it is VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cols: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u16>,
    /// A VM of its own for each attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<MachineItem>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TaskItem {
    /// What `dependsOn` of the others calls it.
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    swarm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    skills: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<LabelItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<Gate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandItem {
    argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    env: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdin: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelItem {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Retry {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Gate {
    name: String,
    command: CommandItem,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retriable: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Plan {
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtasks_max: Option<u32>,
}

/// What a file asks for, as inputs of the API.
struct Wanted {
    swarms: Vec<Value>,
    agents: Vec<Value>,
    hosts: Vec<Value>,
    networks: Vec<Value>,
    vms: Vec<Value>,
    /// By swarm; the empty name is the default one.
    tasks: BTreeMap<String, Vec<Value>>,
}

impl Wanted {
    fn read(name: &str, text: &str, set: &[(String, String)]) -> Result<Self, String> {
        let file: File = yaml::read(name, text).map_err(|error| error.to_string())?;
        let mut values = BTreeMap::new();
        for (parameter, default) in file.parameters {
            values.insert(parameter, default.map(Parameter::text));
        }
        for (parameter, value) in set {
            match values.get_mut(parameter) {
                Some(place) => *place = Some(value.clone()),
                None => {
                    return Err(format!(
                        "{name}: there is no parameter {parameter:?} to --set; it declares {:?}",
                        values.keys().collect::<Vec<_>>()
                    ));
                }
            }
        }
        if let Some((missing, _)) = values.iter().find(|(_, value)| value.is_none()) {
            return Err(format!("{name}: the parameter {missing:?} has no default; give it with --set {missing}=VALUE"));
        }
        let value = |name: &str| values.get(name).cloned().flatten();
        let filled = |item: &dyn erased::Json| -> Result<Value, String> {
            let mut json = item.json()?;
            fill(&mut json, &value)?;
            Ok(json)
        };
        let mut wanted = Self {
            swarms: Vec::new(),
            agents: Vec::new(),
            hosts: Vec::new(),
            networks: Vec::new(),
            vms: Vec::new(),
            tasks: BTreeMap::new(),
        };
        for item in &file.swarms {
            wanted.swarms.push(filled(item)?);
        }
        for item in &file.agents {
            let mut base = filled(item)?;
            if let Some(role) = &item.profile {
                let known = || file.profiles.keys().cloned().collect::<Vec<_>>().join(", ");
                let profile = file.profiles.get(role);
                let profile = profile.ok_or_else(|| format!("{name}: there is no profile {role:?}; there are: {}", known()))?;
                let mut whole = filled(profile)?;
                if let (Some(whole), Value::Object(own)) = (whole.as_object_mut(), base) {
                    whole.extend(own);
                }
                base = whole;
            }
            wanted.agents.extend(numbered(base, item.count));
        }
        for item in &file.hosts {
            wanted.hosts.push(filled(item)?);
        }
        for item in &file.networks {
            wanted.networks.push(filled(item)?);
        }
        for item in &file.vms {
            wanted.vms.extend(numbered(filled(item)?, item.count));
        }
        for item in &file.tasks {
            let mut task = filled(item)?;
            let swarm = task
                .as_object_mut()
                .and_then(|fields| fields.remove("swarm"))
                .and_then(|swarm| swarm.as_str().map(str::to_owned));
            wanted.tasks.entry(swarm.unwrap_or_default()).or_default().push(task);
        }
        Ok(wanted)
    }
}

/// As it is, or so many with a number after its name.
fn numbered(base: Value, count: Option<u32>) -> Vec<Value> {
    let Some(count) = count else { return vec![base] };
    let one = |n| {
        let mut one = base.clone();
        one["name"] = format!("{}-{n}", text_of(&base, "name")).into();
        one
    };
    (1..=count).map(one).collect()
}

mod erased {
    /// Anything that can be written as JSON, behind one pointer.
    pub trait Json {
        fn json(&self) -> Result<serde_json::Value, String>;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> Result<serde_json::Value, String> {
            serde_json::to_value(self).map_err(|error| error.to_string())
        }
    }
}

fn text_of(value: &Value, field: &str) -> String {
    text(value, field)
}

/// Puts the parameters' values into every text.
fn fill(json: &mut Value, value: &impl Fn(&str) -> Option<String>) -> Result<(), String> {
    match json {
        Value::String(text) => *text = yaml::expand(text, value, false)?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, value))?,
        Value::Object(fields) => fields.values_mut().try_for_each(|field| fill(field, value))?,
        _ => {}
    }
    Ok(())
}

/// The same for the same content, whoever applies it and whenever.
fn operation(kind: &str, run: &str, input: &Value) -> String {
    let mut sorted = String::new();
    canonical(input, &mut sorted);
    let digest = blake3::hash(format!("{kind}\n{run}\n{sorted}").as_bytes());
    format!("apply-{kind}-{}", &digest.to_hex()[..32])
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            out.push('{');
            for (name, value) in sorted {
                out.push_str(&format!("{name:?}:"));
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

pub async fn run(client: &Client, show: Show, args: ApplyArgs) -> Outcome {
    let name = args.file.display().to_string();
    let read = if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(&args.file) };
    let text = read
        .map_err(|error| Failed::new(Exit::NotFound, format!("cannot read {name}: {error}"), "check the path given with -f"))?;
    let wanted = Wanted::read(&name, &text, &args.set)
        .map_err(|problem| Failed::usage(problem, "mend the file and apply it again; nothing was changed"))?;
    if args.dry_run {
        return Show { format: if show.format == Format::Table { Format::Yaml } else { show.format }, ..show }.value(&json!({
            "swarms": wanted.swarms, "agents": wanted.agents, "hosts": wanted.hosts, "networks": wanted.networks,
            "vms": wanted.vms, "tasks": wanted.tasks,
        }));
    }
    let mut applied = Vec::new();
    for swarm in wanted.swarms {
        applied.push(entity(client, &args.run, "swarm", swarm).await?);
    }
    for agent in wanted.agents {
        applied.push(entity(client, &args.run, "agent", agent).await?);
    }
    for host in wanted.hosts {
        let host = entity(client, &args.run, "host", host).await?;
        // VMs that follow are placed on what was reached.
        host::reached(client, &text_of(&host, "id")).await?;
        applied.push(host);
    }
    for network in wanted.networks {
        applied.push(entity(client, &args.run, "network", network).await?);
    }
    for vm in wanted.vms {
        applied.push(entity(client, &args.run, "vm", vm).await?);
    }
    let mut tasks = Vec::new();
    for (swarm, batch) in wanted.tasks {
        let mut input = Map::from_iter([("tasks".to_owned(), Value::Array(batch))]);
        if !swarm.is_empty() {
            input.insert("swarm".into(), swarm.into());
        }
        let mut input = Value::Object(input);
        input["operationId"] = operation("tasks", &args.run, &input).into();
        let submitted: Vec<Value> = client.get(TASK, "TasksSubmit", json!({ "input": input }), "/submitTasks/tasks").await?;
        for task in submitted {
            tasks.push(text_of(&task, "id"));
            applied.push(json!({ "id": task["id"], "noun": "task", "name": task["title"], "what": task["status"] }));
        }
    }
    match show.format {
        Format::Table if show.quiet => applied.iter().try_for_each(|item| print(&format!("{}\n", text_of(item, "id"))))?,
        Format::Table => show.list(&["noun", "id", "name", "what"], &applied, |item| {
            ["noun", "id", "name", "what"].map(|field| text_of(item, field)).into()
        })?,
        _ => show.value(&Value::Array(applied))?,
    }
    if args.wait {
        wait_for(client, tasks).await?;
    }
    Ok(())
}

async fn wait_for(client: &Client, tasks: Vec<String>) -> Outcome {
    let mut failures = Vec::new();
    let all = tasks.len();
    for task in tasks {
        match wait::end(client, &task, Follow { print_changes: false, output: false }).await {
            Ok(_) => {}
            Err(failed) if failed.exit == Exit::TaskFailed => failures.push(failed),
            Err(failed) => return Err(failed),
        }
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(Failed::new(
            Exit::TaskFailed,
            format!("{} of {all} tasks failed; the first: {}", failures.len(), first.what),
            first.next.clone(),
        )),
    }
}

/// Creates one thing unless one with its name is there.
async fn entity(client: &Client, run: &str, noun: &str, mut input: Value) -> Outcome<Value> {
    input["operationId"] = operation(noun, run, &input).into();
    let name = text_of(&input, "name");
    let (document, mutation, place) = match noun {
        "swarm" => (SWARM, "SwarmCreate", "/createSwarm/swarm"),
        "host" => (VM, "HostRegister", "/registerHost/host"),
        "vm" => (VM, "VmCreate", "/createVm/vm"),
        "network" => (NETWORK, "NetworkCreate", "/createNetwork/network"),
        _ => (AGENT, "AgentCreate", "/createAgent/agent"),
    };
    let swarm = text_of(&input, "swarm");
    match client.get::<Value>(document, mutation, json!({ "input": input }), place).await {
        Ok(made) => Ok(json!({ "id": made["id"], "noun": noun, "name": name, "what": "applied" })),
        Err(failed) if failed.exit == Exit::Conflict => {
            let there = match noun {
                "swarm" => swarm::find(client, &name).await?,
                // One with its URI under another name is no reason to be content.
                "host" => host::resolve(client, &name).await.ok(),
                "vm" => vm::named(client, &name).await?,
                "network" => network::named(client, &name).await?.map(|network| text_of(&network, "id")),
                _ => agent_named(client, &swarm, &name).await?,
            };
            let id = there.ok_or(failed)?;
            Ok(json!({ "id": id, "noun": noun, "name": name, "what": "already there, left as it is" }))
        }
        Err(failed) => Err(failed),
    }
}

async fn agent_named(client: &Client, swarm: &str, name: &str) -> Outcome<Option<String>> {
    let mut filter = json!({ "nameContains": name });
    filter["swarm"] = if swarm.is_empty() { "default".into() } else { swarm.into() };
    let found = super::pages(client, AGENT, "AgentList", json!({ "filter": filter }), "agents", 500).await?;
    Ok(found.iter().find(|agent| agent["name"] == *name).map(|agent| text_of(agent, "id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
parameters:
  repo: .
swarms:
  - name: audit
    shards: 2
agents:
  - name: auditor
    count: 2
    swarm: audit
    connector: {worker: {argv: [python3, w.py]}}
  - name: plain
    connector: command
hosts:
  - {name: h1, uri: 'simulated://h1'}
networks:
  - {name: red, kind: overlay, cidr: 10.7.0.0/24}
vms:
  - {name: web, count: 2, image: debian-12, cpus: 2, memory: 2GiB, disks: [{name: root, size: 10GiB}], antiAffinity: [web]}
tasks:
  - name: split
    swarm: audit
    command: {argv: [sh, -c, 'ls ${repo} ${HOME}']}
  - name: merge
    swarm: audit
    dependsOn: [split]
    command: {argv: [cat]}
";

    #[test]
    fn a_file_becomes_inputs_with_its_parameters_filled_in() {
        let wanted = Wanted::read("f", FILE, &[("repo".into(), "/src".into())]).unwrap();
        assert_eq!(wanted.swarms[0], json!({"name": "audit", "shards": 2}));
        assert_eq!(wanted.agents[1]["name"], "auditor-2");
        assert_eq!(wanted.agents[0]["connector"], json!({"worker": {"argv": ["python3", "w.py"]}}));
        assert_eq!(wanted.agents[2]["connector"], json!({"command": true}));
        assert_eq!(wanted.hosts[0], json!({"name": "h1", "uri": "simulated://h1"}));
        assert_eq!(wanted.networks[0], json!({"name": "red", "kind": "OVERLAY", "cidr": "10.7.0.0/24"}));
        let disks = json!([{"name": "root", "sizeBytes": 10_u64 << 30}]);
        let vm = json!({"name": "web-2", "image": "debian-12", "cpus": 2, "memoryBytes": 2_u64 << 30, "disks": disks, "antiAffinity": ["web"]});
        assert_eq!(wanted.vms[1], vm);
        // Names that the file does not declare belong to the shell.
        assert_eq!(wanted.tasks["audit"][0]["command"]["argv"][2], "ls /src ${HOME}");
        assert!(Wanted::read("f", FILE, &[("rpeo".into(), "x".into())]).err().unwrap().contains("rpeo"));
    }

    #[test]
    fn the_same_content_has_the_same_operation_and_another_has_another() {
        let a = json!({"name": "x", "n": [1, {"b": 2, "a": 1}]});
        let same: Value = serde_json::from_str(r#"{"n": [1, {"a": 1, "b": 2}], "name": "x"}"#).unwrap();
        assert_eq!(operation("agent", "", &a), operation("agent", "", &same));
        assert_ne!(operation("agent", "", &a), operation("agent", "again", &a));
        assert_ne!(operation("agent", "", &a), operation("swarm", "", &a));
        assert!(operation("agent", "", &a).len() <= 128);
    }

    #[test]
    fn a_wrong_field_is_named_with_its_place() {
        let problem = Wanted::read("f.yaml", "tasks:\n  - name: a\n    comand: {argv: [x]}\n", &[]).err().unwrap();
        assert!(problem.contains("line 3") && problem.contains("comand"), "{problem}");
    }
}
