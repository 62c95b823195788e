//! The Agent Client Protocol, version 1: JSON-RPC 2.0, one message a line, both ways.
//!
//! Requests carry names that say what they are for, so an answer means the same to a node that was restarted meanwhile.
//! What was checked and with which program is in the tests: recorded streams, and the real program.

use std::collections::HashMap;

use hiveward_catalogue::agent::coding::Permission;
use serde::Deserialize;
use serde_json::{Value, json};

use super::dialect::{Asked, Choice, Dialect, Heard, Line, Opening, Program, TerminalProgram, Want};
use crate::activity::{Tokens, TurnEnd};

const VERSION: u64 = 1;
const INITIALIZE: &str = "initialize";
/// Name of the request that logs in.
const AUTHENTICATE: &str = "authenticate";
/// Name of the request that gives the conversation, a new one or the old.
const SESSION: &str = "session";
/// Error code of JSON-RPC for a method that is not known.
const METHOD_NOT_FOUND: i64 = -32601;
/// Error code of the protocol: the program wants to be logged in first.
const AUTH_REQUIRED: i64 = -32000;
/// Bytes of text that is gathered to one event; more begins another.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// Number of tools that were announced and have not ended.
const TOOLS_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Acp {
    opening: Option<Opening>,
    program: Option<String>,
    /// Whether it can load a conversation.
    loads: bool,
    /// Whether it tells the old conversation again, which is not new.
    loading: bool,
    /// The prompt that was said last and is not known to be taken up.
    prompted: Option<String>,
    said: String,
    thought: String,
    last_said: Option<String>,
    tools: HashMap<String, Tool>,
}

/// A tool that was announced, perhaps before its arguments were known.
#[derive(Default)]
struct Tool {
    name: Option<String>,
    told: bool,
}

#[derive(Deserialize)]
struct Message {
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    result: Option<Value>,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Initialized {
    protocol_version: u64,
    #[serde(default)]
    agent_capabilities: Capabilities,
    agent_info: Option<Info>,
    #[serde(default)]
    auth_methods: Vec<AuthMethod>,
}

#[derive(Deserialize)]
struct AuthMethod {
    id: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Capabilities {
    load_session: bool,
}

#[derive(Deserialize)]
struct Info {
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
#[serde(tag = "sessionUpdate", rename_all = "snake_case")]
enum Update {
    AgentMessageChunk {
        content: Block,
    },
    AgentThoughtChunk {
        content: Block,
    },
    ToolCall(Call),
    #[serde(rename = "tool_call_update")]
    ToolChange(Call),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Block {
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    tool_call_id: String,
    title: Option<String>,
    kind: Option<String>,
    status: Option<String>,
    raw_input: Option<Value>,
    raw_output: Option<Value>,
    #[serde(default)]
    content: Vec<Value>,
    #[serde(default)]
    locations: Vec<Value>,
    #[serde(rename = "_meta")]
    meta: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asking {
    tool_call: Call,
    options: Vec<Offer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Offer {
    option_id: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prompted {
    stop_reason: String,
    usage: Option<Usage>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
    cached_read_tokens: u64,
    cached_write_tokens: u64,
}

fn request(tag: &str, method: &str, params: &Value) -> Line {
    Line::json(tag, &json!({"jsonrpc": "2.0", "id": tag, "method": method, "params": params}))
}

impl Dialect for Acp {
    fn program(&self, opening: &Opening) -> Program {
        let mut env = vec![("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()), ("DISABLE_AUTOUPDATER", "1".to_owned())];
        // Whichever of the providers' programs it is, each finds the model gateway and none a real key.
        if let Some(way) = &opening.models {
            env.push(("ANTHROPIC_BASE_URL", format!("{}/anthropic", way.url)));
            env.push(("ANTHROPIC_API_KEY", way.token.clone()));
            env.push(("OPENAI_BASE_URL", format!("{}/openai/v1", way.url)));
            env.push(("OPENAI_API_KEY", way.token.clone()));
            env.push(("CLAUDE_CONFIG_DIR", opening.home.join("claude").display().to_string()));
            env.push(("CODEX_HOME", opening.home.join("codex").display().to_string()));
        }
        Program { args: Vec::new(), env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }

    fn terminal(&self, _: &Opening) -> Option<TerminalProgram> {
        // The protocol has no word for it, and each program its own way.
        None
    }

    fn opening(&mut self, opening: &Opening) -> Vec<Line> {
        self.loading = opening.resume.is_some() && !opening.greeted;
        self.opening = Some(opening.clone());
        let params = json!({
            "protocolVersion": VERSION,
            "clientCapabilities": {"fs": {"readTextFile": true, "writeTextFile": true}, "terminal": false},
            "clientInfo": {"name": "hiveward", "version": env!("CARGO_PKG_VERSION")},
        });
        vec![request(INITIALIZE, "initialize", &params)]
    }

    fn hear(&mut self, line: &[u8]) -> Result<Vec<Heard>, String> {
        if !line.trim_ascii_start().starts_with(b"{") {
            // Programs' runtimes print warnings there.
            return Ok(Vec::new());
        }
        let message: Message =
            serde_json::from_slice(line).map_err(|error| format!("a line that begins like a message but is none ({error})"))?;
        match (message.method, message.id) {
            (Some(method), None) if method == "session/update" => self.update(message.params),
            (Some(_), None) => Ok(Vec::new()),
            (Some(method), Some(id)) => {
                let mut heard = self.flush();
                heard.push(self.asked(&method, id, message.params)?);
                Ok(heard)
            }
            (None, Some(id)) => {
                let mut heard = self.flush();
                heard.extend(self.answered(&id, message.result, message.error)?);
                Ok(heard)
            }
            (None, None) => Err("a message that is neither a request nor an answer".to_owned()),
        }
    }

    fn takes_prompts(&self, session: Option<&str>, busy: bool) -> bool {
        session.is_some() && !busy
    }

    fn prompt(&mut self, session: Option<&str>, id: &str, text: &str) -> Line {
        // There is no place for it in the protocol, but at the beginning.
        let instructions = self.opening.as_ref().filter(|opening| opening.resume.is_none() && self.last_said.is_none());
        let text = match instructions.and_then(|opening| opening.instructions.as_ref()) {
            Some(instructions) => format!("{instructions}\n\n{text}"),
            None => text.to_owned(),
        };
        self.last_said = None;
        self.prompted = Some(id.to_owned());
        request(id, "session/prompt", &json!({"sessionId": session, "prompt": [{"type": "text", "text": text}]}))
    }

    fn was_prompted(&mut self, id: &str) {
        self.prompted = Some(id.to_owned());
    }

    fn answer(&self, request: &str, decision: Permission, _: Option<&str>, asked: &Asked) -> Line {
        let chosen = asked.choices.iter().find(|choice| choice.decision == decision);
        let outcome = match chosen {
            Some(choice) => json!({"outcome": "selected", "optionId": choice.id}),
            None => json!({"outcome": "cancelled"}),
        };
        respond(request, json!({"outcome": outcome}))
    }

    fn interrupt(&self, session: Option<&str>, id: &str) -> Line {
        Line::json(id, &json!({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}}))
    }

    fn forget(&self, request: &str) -> Option<Line> {
        Some(respond(request, json!({"outcome": {"outcome": "cancelled"}})))
    }

    fn done(&self, id: &Value, result: Result<Value, String>) -> Line {
        let answer = match result {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(message) => json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32603, "message": message}}),
        };
        Line::json(format!("done-{id}"), &answer)
    }

    fn is_settled(&self) -> bool {
        self.said.is_empty() && self.thought.is_empty()
    }
}

/// Returns an answer to the program. Its requests are known by their id as JSON: a number and a text are never the same.
fn respond(request: &str, result: Value) -> Line {
    let id: Value = serde_json::from_str(request).unwrap_or_else(|_| Value::String(request.to_owned()));
    Line::json(format!("answer-{request}"), &json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

impl Acp {
    fn flush(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        if !self.thought.is_empty() {
            heard.push(Heard::Thought { text: std::mem::take(&mut self.thought) });
        }
        if !self.said.is_empty() {
            let text = std::mem::take(&mut self.said);
            self.last_said = Some(text.clone());
            heard.push(Heard::Said { text });
        }
        heard
    }

    fn update(&mut self, params: Value) -> Result<Vec<Heard>, String> {
        #[derive(Deserialize)]
        struct Params {
            update: Update,
        }
        if self.loading {
            return Ok(Vec::new());
        }
        let Params { update } =
            Params::deserialize(params).map_err(|error| format!("an update that is not as it should be ({error})"))?;
        // The program tells of commands and costs at any time; of these only when it works on what it was told.
        let mut taken = Vec::new();
        if !matches!(update, Update::Other) {
            taken.extend(self.prompted.take().map(|id| Heard::Prompt { id }));
        }
        taken.extend(self.told(update));
        Ok(taken)
    }

    fn told(&mut self, update: Update) -> Vec<Heard> {
        match update {
            Update::AgentMessageChunk { content } => {
                let mut heard = if self.thought.is_empty() { Vec::new() } else { self.flush() };
                self.said.push_str(&content.text.unwrap_or_default());
                if self.said.len() > TEXT_BYTES_MAX {
                    heard.extend(self.flush());
                }
                heard
            }
            Update::AgentThoughtChunk { content } => {
                let mut heard = if self.said.is_empty() { Vec::new() } else { self.flush() };
                self.thought.push_str(&content.text.unwrap_or_default());
                if self.thought.len() > TEXT_BYTES_MAX {
                    heard.extend(self.flush());
                }
                heard
            }
            Update::ToolCall(call) | Update::ToolChange(call) => {
                let mut heard = self.flush();
                heard.extend(self.called(&call));
                heard
            }
            Update::Other => Vec::new(),
        }
    }

    /// Returns the tool's name and arguments, as far as they are known.
    fn known(&mut self, call: &Call) -> (String, Option<Value>) {
        if self.tools.len() >= TOOLS_MAX && !self.tools.contains_key(&call.tool_call_id) {
            self.tools.clear();
        }
        let tool = self.tools.entry(call.tool_call_id.clone()).or_default();
        let own = call.meta.as_ref().and_then(|meta| meta.pointer("/claudeCode/toolName")?.as_str());
        if let Some(own) = own {
            tool.name = Some(own.to_owned());
        } else if tool.name.is_none() {
            tool.name = call.kind.as_deref().map(of_kind).map(str::to_owned).or_else(|| call.title.clone());
        }
        let name = tool.name.clone().unwrap_or_else(|| "unnamed".to_owned());
        let given = call.raw_input.clone().filter(|input| input.as_object().is_none_or(|fields| !fields.is_empty()));
        let input =
            given.or_else(|| (!call.locations.is_empty()).then(|| json!({"title": call.title, "locations": call.locations})));
        (name, input)
    }

    fn called(&mut self, call: &Call) -> Vec<Heard> {
        let (tool, input) = self.known(call);
        let ended = matches!(call.status.as_deref(), Some("completed" | "failed"));
        let mut heard = Vec::new();
        let known = self.tools.entry(call.tool_call_id.clone()).or_default();
        if !known.told && (input.is_some() || ended) {
            known.told = true;
            let input = input.unwrap_or_else(|| json!({"title": call.title}));
            heard.push(Heard::ToolCalled { id: call.tool_call_id.clone(), tool, input });
        }
        if ended {
            self.tools.remove(&call.tool_call_id);
            let failed = call.status.as_deref() == Some("failed");
            heard.push(Heard::ToolEnded { id: call.tool_call_id.clone(), failed, output: output(call) });
        }
        heard
    }

    /// Takes in a request that the program makes of us.
    fn asked(&mut self, method: &str, id: Value, params: Value) -> Result<Heard, String> {
        let wrong = |error: serde_json::Error| format!("a {method} that is not as it should be ({error})");
        #[derive(Deserialize)]
        struct ReadFile {
            path: String,
            line: Option<u64>,
            limit: Option<u64>,
        }
        #[derive(Deserialize)]
        struct WriteFile {
            path: String,
            content: String,
        }
        Ok(match method {
            "session/request_permission" => {
                let Asking { tool_call, options } = Asking::deserialize(params).map_err(wrong)?;
                let (tool, input) = self.known(&tool_call);
                Heard::Asks {
                    request: id.to_string(),
                    call: Some(tool_call.tool_call_id.clone()),
                    tool,
                    input: input.unwrap_or_else(|| json!({"title": tool_call.title})),
                    choices: choices(options),
                }
            }
            "fs/read_text_file" => {
                let ReadFile { path, line, limit } = ReadFile::deserialize(params).map_err(wrong)?;
                Heard::Wants { id, want: Want::ReadFile { path, line, limit } }
            }
            "fs/write_text_file" => {
                let WriteFile { path, content } = WriteFile::deserialize(params).map_err(wrong)?;
                Heard::Wants { id, want: Want::WriteFile { path, content } }
            }
            other => {
                let error = json!({"code": METHOD_NOT_FOUND, "message": format!("{other} is not offered here")});
                Heard::Tell(Line::json(format!("done-{id}"), &json!({"jsonrpc": "2.0", "id": id, "error": error})))
            }
        })
    }

    fn begin_session(&self) -> Vec<Heard> {
        let Some(opening) = &self.opening else { return Vec::new() };
        let mut params = json!({"cwd": opening.workspace, "mcpServers": []});
        let method = match &opening.resume {
            Some(_) if !self.loads => return vec![Heard::Lost { why: "its program cannot load a conversation".to_owned() }],
            Some(session) => {
                params["sessionId"] = json!(session);
                "session/load"
            }
            None => "session/new",
        };
        vec![Heard::Tell(request(SESSION, method, &params))]
    }

    fn taken_up(&mut self, id: &str) -> Heard {
        self.prompted = None;
        Heard::Prompt { id: id.to_owned() }
    }

    /// Takes in what one of our requests came to.
    fn answered(&mut self, id: &Value, result: Option<Value>, error: Option<RpcError>) -> Result<Vec<Heard>, String> {
        let id = id.as_str().ok_or("an answer to nothing that was asked")?;
        let wrong = |error: serde_json::Error| format!("an answer to {id} that is not as it should be ({error})");
        if let Some(error) = error {
            let why = error.words();
            return Ok(match id {
                INITIALIZE => vec![Heard::Unfit { why: format!("its program could not begin: {why}") }],
                AUTHENTICATE => vec![Heard::Unfit { why: format!("its program could not be logged in: {why}") }],
                SESSION if self.loading => vec![Heard::Lost { why: format!("its conversation cannot be loaded: {why}") }],
                SESSION => vec![Heard::Unfit { why: format!("its program gave no conversation: {why}") }],
                _ => vec![self.taken_up(id), Heard::TurnEnded { end: TurnEnd::Failed { message: why }, text: None, usage: None }],
            });
        }
        let result = result.unwrap_or_default();
        match id {
            INITIALIZE => {
                let told = Initialized::deserialize(result).map_err(wrong)?;
                if told.protocol_version != VERSION {
                    let why = format!("its program speaks version {} of the protocol, not {VERSION}", told.protocol_version);
                    return Ok(vec![Heard::Unfit { why }]);
                }
                self.program = told.agent_info.map(|info| format!("{} {}", info.name, info.version).trim().to_owned());
                self.loads = told.agent_capabilities.load_session;
                match self.opening.as_ref().and_then(|opening| opening.authenticate.as_ref()) {
                    Some(method) if told.auth_methods.iter().any(|offered| offered.id == *method) => {
                        Ok(vec![Heard::Tell(request(AUTHENTICATE, "authenticate", &json!({"methodId": method})))])
                    }
                    Some(method) => {
                        let offered: Vec<_> = told.auth_methods.iter().map(|offered| &*offered.id).collect();
                        let why = format!("its program offers no login {method:?}, only {}", offered.join(", "));
                        Ok(vec![Heard::Unfit { why }])
                    }
                    None => Ok(self.begin_session()),
                }
            }
            AUTHENTICATE => Ok(self.begin_session()),
            SESSION => {
                self.loading = false;
                let given = result.get("sessionId").and_then(Value::as_str).map(str::to_owned);
                let resumed = self.opening.as_ref().and_then(|opening| opening.resume.clone());
                let session = given.or(resumed).ok_or("a conversation without an id")?;
                Ok(vec![Heard::Greeted { session, program: self.program.clone(), model: None }])
            }
            _ => {
                let Prompted { stop_reason, usage } = Prompted::deserialize(result).map_err(wrong)?;
                let end = match stop_reason.as_str() {
                    "end_turn" => TurnEnd::Done,
                    "cancelled" => TurnEnd::Interrupted,
                    other => TurnEnd::Failed { message: format!("its turn ended with {}", other.replace('_', " ")) },
                };
                let usage = usage.map(|usage| Tokens {
                    input: usage.input_tokens,
                    output: usage.output_tokens,
                    cache_read: usage.cached_read_tokens,
                    cache_write: usage.cached_write_tokens,
                });
                let text = self.last_said.clone();
                Ok(vec![self.taken_up(id), Heard::TurnEnded { end, text, usage }])
            }
        }
    }
}

impl RpcError {
    fn words(self) -> String {
        let login = if self.code == AUTH_REQUIRED { " (authentication is required)" } else { "" };
        let detail = self.data.as_ref().and_then(|data| data.get("details")?.as_str()).unwrap_or_default();
        format!("{}{login} {detail}", self.message).trim().to_owned()
    }
}

/// Returns the name that rules know of a kind of tools of the protocol.
fn of_kind(kind: &str) -> &str {
    match kind {
        "edit" => "Edit",
        "execute" => "Bash",
        "read" => "Read",
        "search" => "Grep",
        "fetch" => "WebFetch",
        "delete" => "Delete",
        "move" => "Move",
        other => other,
    }
}

/// Sorts what is allowed once before what is allowed for ever: each use is for the policy to decide.
fn choices(offers: Vec<Offer>) -> Vec<Choice> {
    let once = |offer: &Offer| !offer.kind.ends_with("_once");
    let mut offers = offers;
    offers.sort_by_key(once);
    let choice = |offer: Offer| {
        let decision = if offer.kind.starts_with("allow") { Permission::Allow } else { Permission::Deny };
        Choice { id: offer.option_id, decision }
    };
    offers.into_iter().map(choice).collect()
}

fn output(call: &Call) -> String {
    let of_raw = call.raw_output.as_ref().map(|output| match output {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    of_raw.unwrap_or_else(|| {
        let texts = call.content.iter().filter_map(|block| block.pointer("/content/text").and_then(Value::as_str));
        texts.collect::<Vec<_>>().join("\n")
    })
}
