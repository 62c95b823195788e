//! What a file may say, field by field as the API has it. A field that is not known is named with its line.

use std::collections::BTreeMap;

use hiveward_contract::yaml::Expanded;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    coding::{Coding, Model},
    vm::{HostItem, ImageItem, MachineItem, NetworkItem, VmItem},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub parameters: BTreeMap<String, Option<Parameter>>,
    #[serde(default)]
    pub swarms: Vec<SwarmItem>,
    /// What agents of a role share; an agent's own fields win.
    #[serde(default)]
    pub profiles: BTreeMap<String, ProfileItem>,
    #[serde(default)]
    pub agents: Vec<AgentItem>,
    #[serde(default)]
    pub hosts: Vec<HostItem>,
    #[serde(default)]
    pub images: Vec<ImageItem>,
    #[serde(default)]
    pub networks: Vec<NetworkItem>,
    #[serde(default)]
    pub vms: Vec<VmItem>,
    #[serde(default)]
    pub tasks: Vec<TaskItem>,
}

/// A parameter's default; a parameter without one must be `--set`.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Parameter {
    Text(Expanded),
    Number(serde_json::Number),
    Flag(bool),
}

impl Parameter {
    /// Returns the parameter as text.
    pub fn text(self) -> String {
        match self {
            Self::Text(Expanded(text)) => text,
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SwarmItem {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queued: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Weights {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specialisation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_load: Option<f64>,
}

/// A role, as data.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProfileItem {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<Connector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<Skill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AgentItem {
    /// With `count`, the agents are named `name-1`, `name-2` and so on.
    pub name: String,
    #[serde(default, skip_serializing)]
    pub count: Option<u32>,
    /// One of the file's profiles.
    #[serde(default, skip_serializing)]
    pub profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swarm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<Connector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<Skill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u32>,
    /// Only this node holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Only nodes with all of these hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_labels: Vec<LabelItem>,
}

/// `connector: command`, or `connector: {worker: {argv: [...]}}`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Connector {
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
pub struct Worker {
    pub argv: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proficiency: Option<f64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_processes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// With `vm` it is VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// A VM of its own for each attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<MachineItem>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TaskItem {
    /// What `dependsOn` of the others calls it.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm: Option<String>,
    /// Only this agent may run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandItem {
    pub argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelItem {
    pub key: String,
    pub value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gate {
    pub name: String,
    pub command: CommandItem,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriable: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Plan {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtasks_max: Option<u32>,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    /// Returns the fields of an input of the API, by the API's own schema.
    fn fields_of(input: &str) -> Vec<&'static str> {
        const SCHEMA: &str = include_str!("../../../schema.graphql");
        let (_, rest) = SCHEMA.split_once(&format!("\ninput {input} {{\n")).unwrap_or_else(|| panic!("no input {input}"));
        let (fields, _) = rest.split_once("\n}").unwrap();
        // Descriptions stand between lines of quotes.
        let outside = fields.split("\"\"\"").step_by(2);
        outside.flat_map(str::lines).filter_map(|line| Some(line.trim().split_once(": ")?.0)).collect()
    }

    /// Returns what an item takes, by what it says of a field that it does not know.
    fn taken_by<T: DeserializeOwned>() -> String {
        serde_json::from_str::<T>(r#"{"no such field": 0}"#).err().unwrap().to_string()
    }

    #[test]
    fn a_file_can_say_all_that_the_api_takes() {
        // Made of the content, of where it stands in the file, written as people do, or said of the whole file with `--project`.
        const OTHERWISE: [&str; 4] = ["operationId", "memoryBytes", "sizeBytes", "project"];
        let items = [
            ("CreateSwarmInput", taken_by::<SwarmItem>()),
            ("CreateAgentInput", taken_by::<AgentItem>()),
            ("RegisterHostInput", taken_by::<HostItem>()),
            ("ImportImageInput", taken_by::<ImageItem>()),
            ("CreateNetworkInput", taken_by::<NetworkItem>()),
            ("CreateVmInput", taken_by::<VmItem>()),
            ("MachineInput", taken_by::<MachineItem>()),
            ("BatchedTaskInput", taken_by::<TaskItem>()),
            ("LimitsInput", taken_by::<Limits>()),
            ("SessionInput", taken_by::<Session>()),
            ("CodingInput", taken_by::<Coding>()),
            ("ModelInput", taken_by::<Model>()),
            ("GateInput", taken_by::<Gate>()),
            ("PlanInput", taken_by::<Plan>()),
        ];
        let missing: Vec<_> = items
            .iter()
            .flat_map(|(input, taken)| {
                let fields = fields_of(input).into_iter().filter(|field| !OTHERWISE.contains(field));
                fields.filter(|field| !taken.contains(&format!("`{field}`"))).map(move |field| format!("{input}.{field}"))
            })
            .collect();
        assert!(missing.is_empty(), "cannot be said in a file: {missing:?}");
    }
}
