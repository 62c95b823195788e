//! Holds what a client says of a coding agent: its program, where it works, what it may do, and what its calls may cost.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::budget::CallRules;

/// An agent whose program is a coding agent, spoken to in its own structured protocol; one process per attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodingSpec {
    /// The program and its first arguments; what the protocol needs is added.
    pub argv: Vec<String>,
    /// The model of the program's provider; the program's own default if absent.
    #[serde(default)]
    pub model: Option<String>,
    /// The role of the agent, in words, beside what the program knows by itself.
    #[serde(default)]
    pub instructions: Option<String>,
    #[serde(default)]
    pub workspace: WorkspaceSpec,
    #[serde(default)]
    pub policy: Policy,
    /// The checks that must hold, in the workspace, before an attempt counts as done, in this order; whoever gives the task
    /// cannot
    /// leave them out. Each reads the result on its standard input.
    #[serde(default)]
    pub checks: Vec<Check>,
    #[serde(default)]
    pub calls: CallRules,
    #[serde(default)]
    pub answer: AnswerKind,
    /// How often per attempt a process that dies is started again on the same conversation.
    #[serde(default = "CodingSpec::resumes_max_default")]
    pub resumes_max: u32,
    /// The time without any word after which it is nudged once, and stopped the next time. Waiting for a person does not count.
    #[serde(default = "CodingSpec::quiet_ms_default")]
    pub quiet_ms: u64,
    /// The way of logging in that a program is told to take, of those that it offers. For the Agent Client Protocol alone.
    #[serde(default)]
    pub authenticate: Option<String>,
    /// Whether it calls its provider by itself, with the login of the node's user or what its `env` gives it: not through the
    /// model gateway, so nothing is metered and no budget holds it.
    #[serde(default)]
    pub own_account: bool,
}

impl CodingSpec {
    /// Returns how often a process that dies is started again per attempt, if the client does not say.
    pub const fn resumes_max_default() -> u32 {
        3
    }

    /// Returns the milliseconds of silence after which the agent is nudged, if the client does not say.
    pub const fn quiet_ms_default() -> u64 {
        15 * 60 * 1000
    }

    /// Returns the spec of an agent that runs this program, with every default.
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            model: None,
            instructions: None,
            workspace: WorkspaceSpec::default(),
            policy: Policy::default(),
            checks: Vec::new(),
            calls: CallRules::default(),
            answer: AnswerKind::default(),
            resumes_max: Self::resumes_max_default(),
            quiet_ms: Self::quiet_ms_default(),
            authenticate: None,
            own_account: false,
        }
    }
}

/// The form that the last words of an attempt are taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AnswerKind {
    /// The words are the result as they are.
    #[default]
    Text,
    /// The words hold one JSON value, alone or in a fenced block; the result is that value, and without one the attempt fails.
    Json,
}

/// The place where an attempt works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkspaceSpec {
    /// A fresh directory per attempt, gone after its end.
    #[default]
    Scratch,
    /// This directory of the node's host, as it is. Attempts that run at once share it.
    Directory { path: PathBuf },
    /// A git worktree and a branch of its own per attempt.
    Worktree(WorktreeSpec),
}

/// The git worktree that each attempt gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorktreeSpec {
    /// The path of a git repository on the node's host.
    pub repository: PathBuf,
    /// The commit or branch that the new branch begins at; the repository's HEAD if absent.
    #[serde(default)]
    pub base: Option<String>,
    /// Whether an attempt that ends well without a change against its base has failed.
    #[serde(default)]
    pub must_change: bool,
    #[serde(default)]
    pub set_up: Option<Hook>,
    #[serde(default)]
    pub tear_down: Option<Hook>,
    /// The most bytes that the worktree may take; an attempt beyond it is stopped.
    #[serde(default)]
    pub bytes_max: Option<u64>,
}

/// A gate that comes with the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub hook: Hook,
}

/// A program that is run in the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub argv: Vec<String>,
    pub timeout_ms: u64,
}

/// The rules on what an agent may do without a person: the first that fits decides, and what none fits is asked. Rules are a
/// help to people, never the only wall: who must not reach something is kept from it by its user, its host or its VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// How long a person is waited for, in milliseconds.
    #[serde(default = "Policy::within_ms_default")]
    pub within_ms: u64,
    /// The decision when nobody answered in time.
    #[serde(default)]
    pub otherwise: Permission,
}

impl Policy {
    /// Returns the milliseconds that a person is waited for, if the client does not say.
    pub const fn within_ms_default() -> u64 {
        60 * 60 * 1000
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { rules: Vec::new(), within_ms: Self::within_ms_default(), otherwise: Permission::Deny }
    }
}

/// The decision of a question when no person is left to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Permission {
    Allow,
    #[default]
    Deny,
}

/// The decision of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RulePermission {
    Allow,
    Deny,
    Ask,
}

/// A rule of a policy, which fits when everything that is given in it fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The names of tools, `|` between them; `*` stands for anything.
    pub tool: String,
    /// The file, for tools that name one. A relative path is inside the workspace, where `**` crosses directories; an absolute
    /// one is anywhere.
    #[serde(default)]
    pub path: Option<String>,
    /// The command, for tools that run one: its words, `*` for any one, `*` at the end for all that follow. A command line of
    /// several commands is allowed only if each of them is.
    #[serde(default)]
    pub command: Option<String>,
    pub decision: RulePermission,
}
