//! How large the description of an agent's tool may be. Each part of it has a bound, so that who passes one is told which.
//!
//! All of an agent together has a bound as well, in `check`.

use hiveward_catalogue::{
    agent::{
        coding::{CodingSpec, Hook, WorkspaceSpec},
        spec::{ConnectorSpec, ModelSpec},
    },
    budget::CallRules,
};
use hiveward_runtime::error::Refused;
use hiveward_work::task::bounds::{self, NAME_BYTES_MAX, PATH_BYTES_MAX};

use super::check::{count, limit, text};

/// The most bytes of a model's name, with its provider's path or address before it.
const MODEL_BYTES_MAX: usize = 512;
/// The most bytes of the text that goes with each start of the program, or with each question to a model.
pub const INSTRUCTIONS_BYTES_MAX: usize = 64 << 10;
/// The most models to go on with when one fails.
const FALLBACK_MAX: usize = 32;
const CHECKS_MAX: usize = 256;
const RULES_MAX: usize = 1_024;
/// The most bytes of the tool, the path or the command that a rule is for.
const PATTERN_BYTES_MAX: usize = 4_096;

/// Refuses a connector of which something is too large; the field in the error begins with `connector`.
pub(super) fn within(connector: &ConnectorSpec) -> Result<(), Refused> {
    match connector {
        ConnectorSpec::Command | ConnectorSpec::Noop => Ok(()),
        ConnectorSpec::Worker { argv, cwd } => {
            argv_within("connector.worker.argv", argv)?;
            text("connector.worker.cwd", cwd.as_deref(), PATH_BYTES_MAX)
        }
        ConnectorSpec::ClaudeCode(coding) => coding_within("connector.claudeCode", coding),
        ConnectorSpec::Acp(coding) => coding_within("connector.acp", coding),
        ConnectorSpec::Model(of) => {
            let ModelSpec { model, instructions, calls, .. } = &**of;
            asked("connector.model", Some(model), instructions.as_deref(), calls)
        }
    }
}

fn coding_within(at: &str, coding: &CodingSpec) -> Result<(), Refused> {
    let field = |name: &str| format!("{at}.{name}");
    argv_within(&field("argv"), &coding.argv)?;
    asked(at, coding.model.as_deref(), coding.instructions.as_deref(), &coding.calls)?;
    text(&field("authenticate"), coding.authenticate.as_deref(), NAME_BYTES_MAX)?;
    match &coding.workspace {
        WorkspaceSpec::Scratch => {}
        WorkspaceSpec::Directory { path } => text(&field("workspace.directory"), path.to_str(), PATH_BYTES_MAX)?,
        WorkspaceSpec::Worktree(tree) => {
            let field = |name: &str| field(&format!("workspace.worktree.{name}"));
            text(&field("repository"), tree.repository.to_str(), PATH_BYTES_MAX)?;
            text(&field("base"), tree.base.as_deref(), PATH_BYTES_MAX)?;
            let hook = |name: &str, hook: Option<&Hook>| hook.map_or(Ok(()), |hook| argv_within(&field(name), &hook.argv));
            hook("setUp.argv", tree.set_up.as_ref())?;
            hook("tearDown.argv", tree.tear_down.as_ref())?;
        }
    }
    count(&field("policy.rules"), coding.policy.rules.len(), RULES_MAX)?;
    for (n, rule) in coding.policy.rules.iter().enumerate() {
        let field = |name: &str| field(&format!("policy.rules.{n}.{name}"));
        text(&field("tool"), Some(&rule.tool), PATTERN_BYTES_MAX)?;
        text(&field("path"), rule.path.as_deref(), PATTERN_BYTES_MAX)?;
        text(&field("command"), rule.command.as_deref(), PATTERN_BYTES_MAX)?;
    }
    count(&field("checks"), coding.checks.len(), CHECKS_MAX)?;
    for (n, check) in coding.checks.iter().enumerate() {
        argv_within(&field(&format!("checks.{n}.argv")), &check.hook.argv)?;
    }
    Ok(())
}

/// Refuses what goes to a model with each call, if something of it is too large.
fn asked(at: &str, model: Option<&str>, instructions: Option<&str>, calls: &CallRules) -> Result<(), Refused> {
    let field = |name: &str| format!("{at}.{name}");
    text(&field("model"), model, MODEL_BYTES_MAX)?;
    text(&field("instructions"), instructions, INSTRUCTIONS_BYTES_MAX)?;
    text(&field("calls.provider"), calls.provider.as_deref(), NAME_BYTES_MAX)?;
    count(&field("calls.fallback"), calls.fallback.len(), FALLBACK_MAX)?;
    let mut fallback = calls.fallback.iter().enumerate();
    fallback.try_for_each(|(n, model)| text(&field(&format!("calls.fallback.{n}")), Some(model), MODEL_BYTES_MAX))
}

fn argv_within(field: &str, argv: &[String]) -> Result<(), Refused> {
    bounds::argv_within(argv).map_err(|what| limit(field.to_owned(), what))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hiveward_catalogue::agent::coding::{Check, Permission, Policy, Rule, RulePermission, WorktreeSpec};

    use super::*;

    fn coding(change: impl FnOnce(&mut CodingSpec)) -> ConnectorSpec {
        let mut coding = CodingSpec::new(vec!["claude".into()]);
        change(&mut coding);
        ConnectorSpec::Acp(Arc::new(coding))
    }

    fn worktree(change: impl FnOnce(&mut WorktreeSpec)) -> ConnectorSpec {
        let mut tree = WorktreeSpec {
            repository: "/r".into(),
            base: None,
            must_change: false,
            set_up: None,
            tear_down: None,
            bytes_max: None,
        };
        change(&mut tree);
        coding(|it| it.workspace = WorkspaceSpec::Worktree(tree))
    }

    fn hook(n: usize) -> Hook {
        Hook { argv: vec!["x".into(); n], timeout_ms: 1 }
    }

    fn rules(rules: Vec<Rule>) -> ConnectorSpec {
        coding(|it| it.policy = Policy { rules, within_ms: 1, otherwise: Permission::Deny })
    }

    fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
        let mut rule = Rule { tool: "x".into(), path: None, command: None, decision: RulePermission::Ask };
        change(&mut rule);
        rule
    }

    /// A connector with one part as large as the number says.
    type Sized = (&'static str, usize, fn(usize) -> ConnectorSpec);

    #[test]
    fn each_part_of_an_agents_tool_is_taken_at_its_limit_and_named_at_one_more() {
        let parts: [Sized; 18] = [
            ("connector.worker.argv", bounds::ARGV_MAX, |n| ConnectorSpec::Worker { argv: vec!["x".into(); n], cwd: None }),
            ("connector.worker.argv", bounds::ARGV_BYTES_MAX, |n| ConnectorSpec::Worker { argv: vec!["x".repeat(n)], cwd: None }),
            ("connector.worker.cwd", PATH_BYTES_MAX, |n| ConnectorSpec::Worker {
                argv: vec!["x".into()],
                cwd: Some("x".repeat(n)),
            }),
            ("connector.acp.argv", bounds::ARGV_BYTES_MAX, |n| coding(|it| it.argv = vec!["x".repeat(n)])),
            ("connector.acp.model", MODEL_BYTES_MAX, |n| coding(|it| it.model = Some("x".repeat(n)))),
            ("connector.acp.instructions", INSTRUCTIONS_BYTES_MAX, |n| coding(|it| it.instructions = Some("x".repeat(n)))),
            ("connector.acp.authenticate", NAME_BYTES_MAX, |n| coding(|it| it.authenticate = Some("x".repeat(n)))),
            ("connector.acp.calls.provider", NAME_BYTES_MAX, |n| coding(|it| it.calls.provider = Some("x".repeat(n)))),
            ("connector.acp.calls.fallback", FALLBACK_MAX, |n| coding(|it| it.calls.fallback = vec!["x".into(); n])),
            ("connector.acp.calls.fallback.0", MODEL_BYTES_MAX, |n| coding(|it| it.calls.fallback = vec!["x".repeat(n)])),
            ("connector.acp.workspace.worktree.repository", PATH_BYTES_MAX, |n| {
                worktree(|it| it.repository = "x".repeat(n).into())
            }),
            ("connector.acp.workspace.worktree.base", PATH_BYTES_MAX, |n| worktree(|it| it.base = Some("x".repeat(n)))),
            ("connector.acp.workspace.worktree.setUp.argv", bounds::ARGV_MAX, |n| worktree(|it| it.set_up = Some(hook(n)))),
            ("connector.acp.workspace.worktree.tearDown.argv", bounds::ARGV_MAX, |n| worktree(|it| it.tear_down = Some(hook(n)))),
            ("connector.acp.policy.rules", RULES_MAX, |n| rules(vec![rule(|_| {}); n])),
            ("connector.acp.policy.rules.0.path", PATTERN_BYTES_MAX, |n| rules(vec![rule(|it| it.path = Some("x".repeat(n)))])),
            ("connector.acp.checks", CHECKS_MAX, |n| coding(|it| it.checks = vec![Check { name: "x".into(), hook: hook(1) }; n])),
            ("connector.acp.checks.0.argv", bounds::ARGV_MAX, |n| {
                coding(|it| it.checks = vec![Check { name: "x".into(), hook: hook(n) }])
            }),
        ];
        for (field, max, make) in parts {
            assert_eq!(within(&make(max)), Ok(()), "{field}");
            assert_eq!(within(&make(max + 1)).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
