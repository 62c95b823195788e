//! Answers in the words of the OpenAI-compatible chat completions API.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    answer::{ScriptedAnswer, Tool, pieces},
    book::Usage,
    frames::{Frame, Worded},
};

/// Returns what this API can say of a usage: writes to a cache are no kind of their own.
pub fn as_said(usage: Usage) -> Usage {
    Usage { input: usage.input + usage.cache_write, cache_write: 0, ..usage }
}

fn usage_json(usage: Usage) -> Value {
    let prompt = usage.input + usage.cache_read + usage.cache_write;
    json!({
        "prompt_tokens": prompt, "completion_tokens": usage.output, "total_tokens": prompt + usage.output,
        "prompt_tokens_details": { "cached_tokens": usage.cache_read },
    })
}

fn finish_reason(answer: &ScriptedAnswer) -> &'static str {
    if answer.tools.is_empty() { "stop" } else { "tool_calls" }
}

/// Writes an answer as server-sent events, with a last one for the usage if that was `usage_wanted`.
pub fn stream(answer: &ScriptedAnswer, usage_wanted: bool) -> Worded {
    let head = json!({
        "id": format!("chatcmpl-{}", answer.id), "object": "chat.completion.chunk", "created": 0, "model": answer.model,
    });
    let chunk = move |choices: Value, usage: Option<Value>| {
        let mut chunk = head.clone();
        chunk["choices"] = choices;
        if usage_wanted {
            chunk["usage"] = usage.unwrap_or_default();
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let choice =
        |index: usize, delta: Value, end: Option<&str>| json!([{ "index": index, "delta": delta, "finish_reason": end }]);
    let delta = |delta: Value| Frame::of(chunk(choice(0, delta, None), None));
    let mut frames = vec![delta(json!({ "role": "assistant", "content": "" }))];
    for piece in answer.think.iter().flat_map(|think| pieces(think)) {
        frames.push(delta(json!({ "reasoning_content": piece })));
    }
    let text_at = frames.len();
    for piece in pieces(&answer.text) {
        frames.push(delta(json!({ "content": piece })));
    }
    for (index, tool) in answer.tools.iter().enumerate() {
        let begin = json!({ "index": index, "id": call_id(tool), "type": "function", "function": { "name": tool.name, "arguments": "" } });
        frames.push(delta(json!({ "tool_calls": [begin] })));
        let input = tool.input.to_string();
        for piece in pieces(&input) {
            frames.push(delta(json!({ "tool_calls": [{ "index": index, "function": { "arguments": piece } }] })));
        }
    }
    frames.push(Frame::of(chunk(choice(0, json!({}), Some(finish_reason(answer))), None)));
    if usage_wanted {
        let last = chunk(json!([]), Some(usage_json(answer.usage)));
        frames.push(Frame { bytes: last, usage: Some(as_said(answer.usage)) });
    }
    frames.push(Frame::of("data: [DONE]\n\n"));
    Worded {
        frames,
        text_at,
        stray: chunk(choice(97, json!({ "content": "stray" }), None), None),
        garbage: Bytes::from_static(b"data: {\"id\": not json\n\n"),
        piece: Box::new(move |text| chunk(choice(0, json!({ "content": text }), None), None)),
    }
}

fn call_id(tool: &Tool) -> String {
    format!("call_{}", tool.id)
}

/// Writes an answer as one document.
pub fn document(answer: &ScriptedAnswer) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.text });
    if let Some(think) = &answer.think {
        message["reasoning_content"] = json!(think);
    }
    if !answer.tools.is_empty() {
        let call = |tool: &Tool| json!({ "id": call_id(tool), "type": "function", "function": { "name": tool.name, "arguments": tool.input.to_string() } });
        message["tool_calls"] = answer.tools.iter().map(call).collect();
    }
    json!({
        "id": format!("chatcmpl-{}", answer.id), "object": "chat.completion", "created": 0, "model": answer.model,
        "choices": [{ "index": 0, "message": message, "finish_reason": finish_reason(answer) }],
        "usage": usage_json(answer.usage),
    })
}
