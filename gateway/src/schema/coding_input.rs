//! How clients describe coding agents and models that are asked directly: each field checked, with its name.

use async_graphql::{Enum, InputObject, OneofObject};
use hiveward_agents::{policy::Rules, presets};
use hiveward_catalogue::{
    agent::{
        coding::{Check, CodingSpec, Hook, Policy, Rule, WorkspaceSpec, WorktreeSpec},
        spec,
    },
    budget::CallRules,
};
use hiveward_runtime::error::Refused;

use super::{
    Result,
    coding::{AnswerKind, Permission, RulePermission},
    parse::{self, join},
    scalars::BigInt,
};

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
    /// For `acp`: a known program, see `codingPresets`; what is given beside it counts more.
    preset: Option<String>,
    /// For `acp`: the way of logging in that the program is told to take, of those that it offers.
    authenticate: Option<String>,
    /// It calls models with the login of the node's user or what `env` gives it, and not through the model gateway: nothing
    /// is metered, no budget holds it, and whatever key it uses it has.
    own_account: Option<bool>,
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
        let is_acp = program.is_none();
        let preset = match &self.preset {
            None => None,
            Some(_) if !is_acp => return Err(Refused::invalid(field("preset"), "presets are for `acp`; leave it out")),
            Some(name) => Some(presets::find(name).ok_or_else(|| {
                let known = presets::PRESETS.map(|preset| preset.name).join(", ");
                Refused::invalid(field("preset"), format!("there is no preset {name:?}, only {known}"))
            })?),
        };
        if self.authenticate.is_some() && !is_acp {
            return Err(Refused::invalid(field("authenticate"), "this is for `acp`; leave it out"));
        }
        let argv = match (self.argv, program) {
            (Some(argv), _) if argv.first().is_some_and(|program| !program.is_empty()) => argv,
            (None, Some(program)) => vec![program.to_owned()],
            (None, None) if preset.is_some() => {
                preset.into_iter().flat_map(|preset| preset.argv).map(|&word| word.to_owned()).collect()
            }
            _ => return Err(Refused::invalid(field("argv"), "name the program to run as the first entry")),
        };
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
            authenticate: self.authenticate.or_else(|| preset?.authenticate.map(str::to_owned)),
            own_account: self.own_account.or_else(|| Some(preset?.own_account)).unwrap_or(false),
            ..CodingSpec::new(argv)
        })
    }
}
