//! Answers in the words of the Anthropic Messages API.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    answer::{ScriptedAnswer, pieces},
    book::Usage,
    frames::{Frame, Worded},
};

fn event(kind: &str, mut data: Value) -> Bytes {
    data["type"] = json!(kind);
    Bytes::from(format!("event: {kind}\ndata: {data}\n\n"))
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    })
}

fn stop_reason(answer: &ScriptedAnswer) -> &'static str {
    if answer.tools.is_empty() { "end_turn" } else { "tool_use" }
}

/// Writes an answer as server-sent events.
pub fn stream(answer: &ScriptedAnswer) -> Worded {
    // The real one does the same: what goes in is known at once, what comes out only at the end.
    let so_far = Usage { output: answer.usage.output.min(1), ..answer.usage };
    let message = json!({
        "id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "model": answer.model,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage_json(so_far),
    });
    let start = event("message_start", json!({ "message": message }));
    let mut frames = vec![Frame { bytes: start, usage: Some(so_far) }];
    let mut blocks = 0;
    let mut block = |frames: &mut Vec<Frame>, begin: Value, deltas: &mut dyn Iterator<Item = Value>| {
        frames.push(Frame::of(event("content_block_start", json!({ "index": blocks, "content_block": begin }))));
        for delta in deltas {
            frames.push(Frame::of(event("content_block_delta", json!({ "index": blocks, "delta": delta }))));
        }
        frames.push(Frame::of(event("content_block_stop", json!({ "index": blocks }))));
        blocks += 1;
    };
    if let Some(think) = &answer.think {
        let mut deltas = pieces(think)
            .map(|piece| json!({ "type": "thinking_delta", "thinking": piece }))
            .chain([json!({ "type": "signature_delta", "signature": "scripted" })]);
        block(&mut frames, json!({ "type": "thinking", "thinking": "", "signature": "" }), &mut deltas);
    }
    let text_at = frames.len() + 1;
    let text_index = usize::from(answer.think.is_some());
    if !answer.text.is_empty() {
        let mut deltas = pieces(&answer.text).map(|piece| json!({ "type": "text_delta", "text": piece }));
        block(&mut frames, json!({ "type": "text", "text": "" }), &mut deltas);
    }
    for tool in &answer.tools {
        let input = tool.input.to_string();
        let mut deltas = pieces(&input).map(|piece| json!({ "type": "input_json_delta", "partial_json": piece }));
        let begin = json!({ "type": "tool_use", "id": format!("toolu_{}", tool.id), "name": tool.name, "input": {} });
        block(&mut frames, begin, &mut deltas);
    }
    let end = json!({
        "delta": { "stop_reason": stop_reason(answer), "stop_sequence": null },
        "usage": usage_json(answer.usage),
    });
    frames.push(Frame { bytes: event("message_delta", end), usage: Some(answer.usage) });
    frames.push(Frame::of(event("message_stop", json!({}))));
    let piece = move |index: usize, text: &str| {
        event("content_block_delta", json!({ "index": index, "delta": { "type": "text_delta", "text": text } }))
    };
    Worded {
        frames,
        text_at,
        stray: piece(97, "stray"),
        garbage: Bytes::from_static(b"event: content_block_delta\ndata: {\"type\": not json\n\n"),
        piece: Box::new(move |text| piece(text_index, text)),
    }
}

/// Writes an answer as one document.
pub fn document(answer: &ScriptedAnswer) -> Value {
    let mut content = Vec::new();
    if let Some(think) = &answer.think {
        content.push(json!({ "type": "thinking", "thinking": think, "signature": "scripted" }));
    }
    if !answer.text.is_empty() {
        content.push(json!({ "type": "text", "text": answer.text }));
    }
    for tool in &answer.tools {
        let id = format!("toolu_{}", tool.id);
        content.push(json!({ "type": "tool_use", "id": id, "name": tool.name, "input": tool.input }));
    }
    json!({
        "id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "model": answer.model,
        "content": content, "stop_reason": stop_reason(answer), "stop_sequence": null, "usage": usage_json(answer.usage),
    })
}
