//! Holds what a client said an agent is; parsed once, changed only by a new spec.

use std::{collections::BTreeMap, sync::Arc};

use hiveward_kernel::id::{AgentId, SwarmId};
use hiveward_runtime::op::NodeId;
use serde::{Deserialize, Serialize};

use super::coding::{AnswerKind, CodingSpec};
use crate::{budget::CallRules, vm::machine::MachineSpec};

/// A skill and how good the agent is at it, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skill {
    pub name: Arc<str>,
    pub proficiency: f32,
}

/// A variable of the agent's environment. A value `secret:NAME` or `file:PATH` is a reference: resolved on the
/// agent's host when a process starts, never stored or shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
}

/// The way in which an agent drives its tool, and what it needs for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectorSpec {
    /// Runs a program per task.
    Command,
    /// A long-lived process that speaks the worker protocol.
    Worker { argv: Vec<String>, cwd: Option<String> },
    /// Succeeds at once; for benches.
    Noop,
    /// Claude Code, in its own protocol.
    ClaudeCode(Arc<CodingSpec>),
    /// Any program that speaks the Agent Client Protocol.
    Acp(Arc<CodingSpec>),
    /// Asks a model directly, without tools.
    Model(Arc<ModelSpec>),
}

impl ConnectorSpec {
    /// Returns the connector's name as clients write it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Worker { .. } => "worker",
            Self::Noop => "noop",
            Self::ClaudeCode(_) => "claudeCode",
            Self::Acp(_) => "acp",
            Self::Model(_) => "model",
        }
    }
}

/// A model that is asked once per task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    pub api: ModelApi,
    pub model: String,
    pub instructions: Option<String>,
    /// The most tokens of one answer.
    pub tokens_max: u32,
    pub answer: AnswerKind,
    pub calls: CallRules,
}

/// The protocol in which a model is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelApi {
    #[default]
    Anthropic,
    /// OpenAI's, and that of whatever is compatible with it.
    OpenAi,
}

/// The limits on what an agent's processes may use; one that was not given is not enforced, and costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// The share of CPU, in thousandths of one core.
    pub cpu_millis: Option<u32>,
    pub processes_max: Option<u32>,
    /// The milliseconds that one attempt may take, besides the task's own run timeout.
    pub wall_ms: Option<u64>,
    /// The most bytes of one attempt's output; more is dropped, and that is said.
    pub output_bytes_max: Option<u64>,
}

/// The kind of session in which an agent's programs run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionSpec {
    #[default]
    Pipes,
    Pty {
        cols: u16,
        rows: u16,
    },
    /// A VM of its own for each attempt, with pipes.
    Vm(Arc<MachineSpec>),
}

/// An agent as a client declared it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentSpec {
    pub id: AgentId,
    pub swarm: SwarmId,
    /// The name, unique within its swarm.
    pub name: String,
    pub connector: ConnectorSpec,
    pub skills: Vec<Skill>,
    /// The weight for the `Weighted` strategy; 1 by default.
    pub weight: u32,
    pub max_concurrent_tasks: u32,
    pub limits: Limits,
    pub env: Vec<EnvVar>,
    pub session: SessionSpec,
    pub auto_start: bool,
    pub start_timeout_ms: u64,
    /// The milliseconds between each of interrupt, SIGTERM and SIGKILL when it is stopped gracefully.
    pub stop_grace_ms: u64,
    /// The labels of which a node must have all to hold it.
    #[serde(default)]
    pub node_labels: BTreeMap<String, String>,
    /// The only node that may hold it, if one is named.
    #[serde(default)]
    pub node: Option<NodeId>,
}

impl AgentSpec {
    pub const START_TIMEOUT_MS_DEFAULT: u64 = 30_000;
    pub const STOP_GRACE_MS_DEFAULT: u64 = 5_000;
}
