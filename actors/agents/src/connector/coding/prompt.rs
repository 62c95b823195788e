//! What a task says to a coding agent, and what its answer is taken for. Pure.

use serde_json::Value;

use crate::connector::{Input, Job, What, attempt::json_or_text};

/// Bytes of what was wrong with the attempt before.
const EARLIER_BYTES_MAX: usize = 4 << 10;
/// Bytes of one dependency's result in a prompt.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Returns the prompt of a task: its payload's text (or the field `prompt` of it), or else its title; then what it depends on.
/// Errors: why a coding agent cannot do it.
pub(in crate::connector) fn of(job: &Job) -> Result<String, String> {
    let What::Kind { payload, .. } = &job.what else {
        return Err("this agent takes prompts, not commands: give the task a kind and a payload".to_owned());
    };
    let payload = payload.as_deref().map(json_or_text);
    let mut text = match payload {
        None => job.title.clone(),
        Some(Value::String(text)) => text,
        Some(Value::Object(mut fields)) => match fields.remove("prompt") {
            Some(Value::String(text)) if fields.is_empty() => text,
            Some(Value::String(text)) => format!("{text}\n\n{}", pretty(&Value::Object(fields))),
            Some(_) => return Err("the payload's `prompt` is no text".to_owned()),
            None => format!("{}\n\n{}", job.title, pretty(&Value::Object(fields))),
        },
        Some(other) => format!("{}\n\n{}", job.title, pretty(&other)),
    };
    if let Some(item) = &job.item {
        text.push_str(&format!("\n\nYour part of it: {}", item.text));
    }
    if let Some(earlier) = &job.earlier {
        let why = crate::activity::head(earlier, EARLIER_BYTES_MAX);
        text.push_str(&format!("\n\nAn earlier attempt at this did not do: {why}"));
    }
    for input in &job.inputs {
        text.push_str(&told(input));
    }
    if text.trim().is_empty() { Err("the task says nothing".to_owned()) } else { Ok(text) }
}

fn told(input: &Input) -> String {
    let result = match input.result.as_deref().map(json_or_text) {
        None => "(no result)".to_owned(),
        Some(Value::String(text)) => text,
        Some(value) => pretty(&value),
    };
    let shown = crate::activity::head(&result, INPUT_BYTES_MAX);
    let cut = if shown.len() < result.len() { "\n(the rest is cut off)" } else { "" };
    format!("\n\nResult of the task \"{}\":\n{shown}{cut}", input.title)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// Returns the JSON value in an answer: all of it, or what is in its last fenced block, or between its outermost braces.
pub(in crate::connector) fn json_in(text: &str) -> Option<Value> {
    let read = |text: &str| serde_json::from_str::<Value>(text.trim()).ok();
    let fenced = || {
        let mut blocks = text.split("```").skip(1).step_by(2).collect::<Vec<_>>();
        blocks.reverse();
        blocks.into_iter().find_map(|block| read(block).or_else(|| read(block.split_once('\n')?.1)))
    };
    let outermost = || {
        let (from, to) = (text.find(['{', '['])?, text.rfind(['}', ']'])?);
        read(text.get(from..=to)?).filter(|value| value.is_object() || value.is_array())
    };
    read(text).or_else(fenced).or_else(outermost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_found_alone_fenced_and_among_words() {
        let want = serde_json::json!({"tasks": ["a"]});
        for text in [
            r#"{"tasks": ["a"]}"#,
            "Here it is:\n```json\n{\"tasks\": [\"a\"]}\n```\nGood luck.",
            "```\n{\"tasks\": [\"a\"]}\n```",
            "I would say {\"tasks\": [\"a\"]} is best.",
        ] {
            assert_eq!(json_in(text), Some(want.clone()), "{text}");
        }
        assert_eq!(json_in("no json here, not {even} this"), None);
    }
}
