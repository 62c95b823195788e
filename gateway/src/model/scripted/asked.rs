//! The parts of a request that a script looks at, whatever API it came through.

use serde_json::Value;

/// The parts of a request that a script looks at.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub model: String,
    pub stream: bool,
    /// Whether a stream of the OpenAI-compatible API ends with its usage.
    pub usage_wanted: bool,
    pub system: String,
    /// The text of the last user message that is a prompt: reminders and results of tools are none.
    pub prompt: String,
    /// The number of answers given since that prompt.
    pub answers: usize,
    pub tool_result: String,
    /// The working directory as the request says; `.` if it says nothing.
    pub cwd: String,
    /// The tokens of everything that was asked, as a provider would count them: one for four bytes of text.
    pub input_tokens: u64,
}

impl Asked {
    /// Reads a body of either API: they differ in where the system prompt and the results of tools are.
    pub fn read(body: &Value) -> Self {
        let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut asked = Self {
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            stream: body["stream"] == Value::Bool(true),
            usage_wanted: body["stream_options"]["include_usage"] == Value::Bool(true),
            system: text(&body["system"]),
            ..Self::default()
        };
        for message in messages {
            match message["role"].as_str().unwrap_or_default() {
                "system" | "developer" => {
                    asked.system.push('\n');
                    asked.system.push_str(&text(&message["content"]));
                }
                "assistant" => asked.answers += 1,
                "tool" => asked.tool_result = text(&message["content"]),
                "user" => {
                    if let Some(result) = tool_result(&message["content"]) {
                        asked.tool_result = result;
                    }
                    let said = text(&message["content"]);
                    let said = after_interruption(&without_reminders(&said)).to_owned();
                    if !said.is_empty() {
                        asked.prompt = said;
                        asked.answers = 0;
                    }
                }
                _ => {}
            }
        }
        asked.cwd = directory(&asked.system)
            .or_else(|| messages.iter().find_map(|message| directory(&text(&message["content"]))))
            .unwrap_or_else(|| ".".to_owned());
        asked.input_tokens = tokens(bytes(&body["system"]) + bytes(&body["messages"]) + bytes(&body["tools"]));
        asked
    }
}

/// Counts a token for four bytes, and one at least: not how any model counts, but the same each time.
pub fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4).max(1)
}

/// Counts the bytes of all strings in it.
fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes).sum(),
        Value::Object(fields) => fields.values().map(bytes).sum(),
        _ => 0,
    }
}

/// Returns the text of a string, or of the text blocks of a list.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts = blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn tool_result(content: &Value) -> Option<String> {
    let blocks = content.as_array()?;
    let result = blocks.iter().rev().find(|block| block["type"] == "tool_result")?;
    Some(text(&result["content"]))
}

/// Removes the reminders that coding agents put beside what the user said.
fn without_reminders(text: &str) -> String {
    const OPEN: &str = "<system-reminder>";
    const CLOSE: &str = "</system-reminder>";
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once(OPEN) {
        out.push_str(before);
        rest = from.split_once(CLOSE).map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out.trim().to_owned()
}

/// Returns the newest prompt: one that was interrupted before it was answered comes again, in one message with the next one.
fn after_interruption(text: &str) -> &str {
    let after = text.rsplit_once("[Request interrupted by user").and_then(|(_, rest)| rest.split_once(']'));
    after.map(|(_, after)| after.trim()).filter(|after| !after.is_empty()).unwrap_or(text)
}

/// Returns the path behind the first `working directory: ` in whatever case.
fn directory(text: &str) -> Option<String> {
    const BEFORE: &str = "working directory: ";
    let bytes = text.as_bytes();
    let start = bytes.windows(BEFORE.len()).position(|window| window.eq_ignore_ascii_case(BEFORE.as_bytes()))? + BEFORE.len();
    let path = text.get(start..)?.lines().next()?.trim();
    path.starts_with('/').then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reminders_and_results_of_tools_are_no_prompt() {
        let body = json!({
            "model": "m",
            "system": [{"type": "text", "text": "Rules\n - Primary working directory: /tmp/a b\n - Platform"}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "<system-reminder>\nold write X\n</system-reminder>\n"},
                    {"type": "text", "text": "write a.txt"},
                ]},
                {"role": "system", "content": "Available agents"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Write", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "written"}]},
                    {"type": "text", "text": "<system-reminder>do not forget</system-reminder>"},
                ]},
            ],
        });
        let asked = Asked::read(&body);
        assert_eq!((asked.prompt.as_str(), asked.answers), ("write a.txt", 1));
        assert_eq!((asked.tool_result.as_str(), asked.cwd.as_str()), ("written", "/tmp/a b"));
        assert!(asked.system.contains("Available agents"));
        let again = json!({ "messages": [{ "role": "user", "content": "old\n[Request interrupted by user]\nnew" }] });
        assert_eq!(Asked::read(&again).prompt, "new");
    }

    #[test]
    fn the_openai_api_is_read_the_same_way() {
        let body = json!({
            "model": "m", "stream": true, "stream_options": {"include_usage": true},
            "messages": [
                {"role": "system", "content": "You plan."},
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": null, "tool_calls": []},
                {"role": "tool", "tool_call_id": "t", "content": "42"},
            ],
        });
        let asked = Asked::read(&body);
        assert_eq!((asked.prompt.as_str(), asked.answers, asked.tool_result.as_str()), ("hello", 1, "42"));
        assert!(asked.stream && asked.usage_wanted && asked.system.contains("plan"));
        assert_eq!(asked.cwd, ".");
    }
}
