//! Claude Code's structured protocol: JSON lines both ways, one process for many turns, control requests beside them.
//!
//! What was checked and with which version is in the tests: recorded streams, and the real program.

use hiveward_catalogue::agent::coding::Permission;
use serde::Deserialize;
use serde_json::{Value, json};

use super::dialect::{Asked, Dialect, Heard, Line, Opening, Program, TerminalProgram};
use crate::activity::{Tokens, TurnEnd};

/// Oldest version that speaks all of what is said here.
pub(super) const VERSION_MIN: (u32, u32) = (2, 0);

#[derive(Default)]
pub(super) struct Claude;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    System(System),
    Assistant {
        message: Message,
        #[serde(default)]
        parent_tool_use_id: Option<String>,
    },
    User(User),
    Result(TurnResult),
    ControlRequest {
        request_id: String,
        request: Value,
    },
    ControlCancelRequest {
        request_id: String,
    },
    ControlResponse {
        response: Value,
    },
}

#[derive(Deserialize)]
struct System {
    subtype: String,
    session_id: Option<String>,
    model: Option<String>,
    claude_code_version: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Content,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Content {
    #[default]
    None,
    Blocks(Vec<Value>),
    /// Plain text, of messages that say nothing to us.
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct User {
    message: Message,
    uuid: Option<String>,
    #[serde(default, rename = "isReplay")]
    is_replay: bool,
}

#[derive(Deserialize)]
struct TurnResult {
    subtype: String,
    #[serde(default)]
    is_error: bool,
    result: Option<String>,
    #[serde(default)]
    errors: Vec<String>,
    usage: Option<Usage>,
    terminal_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    cache_read_input_tokens: u64,
    #[serde(default)]
    cache_creation_input_tokens: u64,
}

impl Dialect for Claude {
    fn program(&self, opening: &Opening) -> Program {
        let fixed = ["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"];
        let mut args: Vec<String> = fixed.map(str::to_owned).into();
        args.extend(["--replay-user-messages", "--permission-prompt-tool", "stdio"].map(str::to_owned));
        // A repository's own settings could allow tools and run hooks; what an agent may do is for its policy.
        args.extend(["--setting-sources", "user"].map(str::to_owned));
        if let Some(session) = &opening.resume {
            args.extend(["--resume".to_owned(), session.clone()]);
        }
        if let Some(model) = &opening.model {
            args.extend(["--model".to_owned(), model.clone()]);
        }
        if let Some(instructions) = &opening.instructions {
            args.extend(["--append-system-prompt".to_owned(), instructions.clone()]);
        }
        let mut env = vec![("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()), ("DISABLE_AUTOUPDATER", "1".to_owned())];
        // Its own login is where its user has it.
        if let Some(way) = &opening.models {
            env.push(("ANTHROPIC_BASE_URL", format!("{}/anthropic", way.url)));
            env.push(("ANTHROPIC_API_KEY", way.token.clone()));
            env.push(("CLAUDE_CONFIG_DIR", opening.home.join("claude").display().to_string()));
        }
        Program { args, env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }

    fn terminal(&self, opening: &Opening) -> Option<TerminalProgram> {
        let mut args = vec!["--resume".to_owned(), opening.resume.clone()?, "--setting-sources".to_owned(), "user".to_owned()];
        args.extend(opening.model.iter().flat_map(|model| ["--model".to_owned(), model.clone()]));
        let instructions = opening.instructions.iter();
        args.extend(instructions.flat_map(|words| ["--append-system-prompt".to_owned(), words.clone()]));
        let mut env = vec![("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()), ("DISABLE_AUTOUPDATER", "1".to_owned())];
        let mut settings = None;
        if let Some(way) = &opening.models {
            env.push(("ANTHROPIC_BASE_URL", format!("{}/anthropic", way.url)));
            // As a key it would be asked about, and written into the program's settings.
            env.push(("ANTHROPIC_AUTH_TOKEN", way.token.clone()));
            let home = opening.home.join("claude");
            env.push(("CLAUDE_CONFIG_DIR", home.display().to_string()));
            let place = opening.workspace.display().to_string();
            let known = json!({"hasCompletedOnboarding": true, "projects": {place: {"hasTrustDialogAccepted": true}}});
            settings = Some((home.join(".claude.json"), known));
        }
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(TerminalProgram { args, env, settings })
    }

    fn opening(&mut self, opening: &Opening) -> Vec<Line> {
        let request = json!({"subtype": "initialize", "hooks": {}});
        let id = format!("initialize-{}", opening.run);
        vec![Line::json(&*id, &json!({"type": "control_request", "request_id": id, "request": request}))]
    }

    fn hear(&mut self, line: &[u8]) -> Result<Vec<Heard>, String> {
        let value: Value = match serde_json::from_slice(line) {
            Ok(value) => value,
            // Warnings of its runtime come in between as plain text.
            Err(_) if !line.trim_ascii_start().starts_with(b"{") => return Ok(Vec::new()),
            Err(error) => return Err(format!("a line that begins like a message but is no JSON ({error})")),
        };
        match Said::deserialize(&value) {
            Ok(said) => Ok(said.mean()),
            // Newer versions say more than we know: what is not known changes nothing.
            Err(_) if !KNOWN.iter().any(|known| value.get("type").and_then(Value::as_str) == Some(known)) => Ok(Vec::new()),
            Err(error) => Err(format!("a message that is not as it should be ({error})")),
        }
    }

    fn takes_prompts(&self, _: Option<&str>, _: bool) -> bool {
        true
    }

    fn prompt(&mut self, _: Option<&str>, id: &str, text: &str) -> Line {
        let message = json!({"role": "user", "content": [{"type": "text", "text": text}]});
        Line::json(id, &json!({"type": "user", "message": message, "parent_tool_use_id": null, "session_id": "", "uuid": id}))
    }

    fn was_prompted(&mut self, _: &str) {
        // It says itself which prompts it has taken up.
    }

    fn answer(&self, request: &str, decision: Permission, message: Option<&str>, asked: &Asked) -> Line {
        let response = match decision {
            Permission::Allow => json!({"behavior": "allow", "updatedInput": asked.input}),
            Permission::Deny => json!({"behavior": "deny", "message": message.unwrap_or("It is not allowed.")}),
        };
        let response = json!({"subtype": "success", "request_id": request, "response": response});
        Line::json(format!("answer-{request}"), &json!({"type": "control_response", "response": response}))
    }

    fn interrupt(&self, _: Option<&str>, id: &str) -> Line {
        Line::json(id, &json!({"type": "control_request", "request_id": id, "request": {"subtype": "interrupt"}}))
    }

    fn forget(&self, _: &str) -> Option<Line> {
        // It withdraws them by itself.
        None
    }

    fn done(&self, id: &Value, result: Result<Value, String>) -> Line {
        let response = match result {
            Ok(value) => json!({"subtype": "success", "request_id": id, "response": value}),
            Err(error) => json!({"subtype": "error", "request_id": id, "error": error}),
        };
        Line::json(format!("done-{id}"), &json!({"type": "control_response", "response": response}))
    }

    fn is_settled(&self) -> bool {
        true
    }
}

const KNOWN: [&str; 7] =
    ["system", "assistant", "user", "result", "control_request", "control_cancel_request", "control_response"];

impl Said {
    fn mean(self) -> Vec<Heard> {
        match self {
            Self::System(system) => system.mean(),
            Self::Assistant { message, parent_tool_use_id } => assistant(message, parent_tool_use_id.is_some()),
            Self::User(user) => user.mean(),
            Self::Result(result) => vec![result.mean()],
            Self::ControlRequest { request_id, request } => vec![asked(request_id, request)],
            Self::ControlCancelRequest { request_id } => vec![Heard::Withdrawn { request: request_id }],
            Self::ControlResponse { response } => match response.get("error").and_then(Value::as_str) {
                Some(error) => vec![Heard::Noted { text: format!("a request was refused: {error}") }],
                None => Vec::new(),
            },
        }
    }
}

/// Takes in a request of the program. Anything else than permissions we did not ask for; an answer lets it go on.
fn asked(request_id: String, request: Value) -> Heard {
    let text = |name: &str| request.get(name).and_then(Value::as_str).map(str::to_owned);
    match text("subtype").as_deref() {
        Some("can_use_tool") => Heard::Asks {
            call: text("tool_use_id"),
            tool: text("tool_name").unwrap_or_else(|| "unnamed".to_owned()),
            input: request.get("input").cloned().unwrap_or_default(),
            request: request_id,
            choices: Vec::new(),
        },
        other => {
            let error = format!("{} is not answered here", other.unwrap_or("a request without a subtype"));
            let response = json!({"subtype": "error", "request_id": request_id, "error": error});
            Heard::Tell(Line::json(format!("done-{request_id}"), &json!({"type": "control_response", "response": response})))
        }
    }
}

impl System {
    fn mean(self) -> Vec<Heard> {
        let (true, Some(session)) = (self.subtype == "init", self.session_id) else { return Vec::new() };
        if let Some(version) = &self.claude_code_version
            && let Some(why) = too_old(version)
        {
            return vec![Heard::Unfit { why }];
        }
        let program = self.claude_code_version.map(|version| format!("Claude Code {version}"));
        vec![Heard::Greeted { session, program, model: self.model }]
    }
}

/// Returns why a version cannot be used, if it cannot.
pub(super) fn too_old(version: &str) -> Option<String> {
    let mut parts = version.split(['.', ' ', '-']).map(|part| part.parse::<u32>().ok());
    let found = (parts.next().flatten()?, parts.next().flatten()?);
    (found < VERSION_MIN).then(|| {
        format!(
            "Claude Code {version} is too old: at least {}.{} is needed; update it on the agent's host",
            VERSION_MIN.0, VERSION_MIN.1
        )
    })
}

fn text_of(block: &Value, field: &str) -> Option<String> {
    block.get(field).and_then(Value::as_str).map(str::to_owned)
}

fn assistant(message: Message, of_subagent: bool) -> Vec<Heard> {
    let Content::Blocks(blocks) = message.content else { return Vec::new() };
    let mean = |block: Value| match block.get("type").and_then(Value::as_str) {
        // What a subagent says is for the agent that started it; its tools count all the same.
        Some("text") if !of_subagent => Some(Heard::Said { text: text_of(&block, "text")? }),
        Some("thinking") if !of_subagent => Some(Heard::Thought { text: text_of(&block, "thinking")? }),
        Some("tool_use") => Some(Heard::ToolCalled {
            id: text_of(&block, "id")?,
            tool: text_of(&block, "name")?,
            input: block.get("input").cloned().unwrap_or_default(),
        }),
        _ => None,
    };
    blocks.into_iter().filter_map(mean).collect()
}

impl User {
    fn mean(self) -> Vec<Heard> {
        if self.is_replay {
            return self.uuid.map(|id| Heard::Prompt { id }).into_iter().collect();
        }
        let Content::Blocks(blocks) = self.message.content else { return Vec::new() };
        let mean = |block: Value| {
            (block.get("type")? == "tool_result").then_some(())?;
            let output = match block.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => parts
                    .iter()
                    .map(|part| text_of(part, "text").unwrap_or_else(|| "(not text)".into()))
                    .collect::<Vec<_>>()
                    .join("\n"),
                _ => String::new(),
            };
            let failed = block.get("is_error").and_then(Value::as_bool).unwrap_or(false);
            Some(Heard::ToolEnded { id: text_of(&block, "tool_use_id")?, failed, output })
        };
        blocks.into_iter().filter_map(mean).collect()
    }
}

impl TurnResult {
    fn mean(self) -> Heard {
        let aborted = self.terminal_reason.as_deref().is_some_and(|reason| reason.starts_with("aborted"));
        let end = if aborted {
            TurnEnd::Interrupted
        } else if self.is_error || self.subtype != "success" {
            let words = self.result.clone().or_else(|| (!self.errors.is_empty()).then(|| self.errors.join("; ")));
            TurnEnd::Failed { message: words.unwrap_or_else(|| self.subtype.replace('_', " ")) }
        } else {
            TurnEnd::Done
        };
        let usage = self.usage.map(|usage| Tokens {
            input: usage.input_tokens,
            output: usage.output_tokens,
            cache_read: usage.cache_read_input_tokens,
            cache_write: usage.cache_creation_input_tokens,
        });
        let text = self.result.filter(|_| end == TurnEnd::Done);
        Heard::TurnEnded { end, text, usage }
    }
}
