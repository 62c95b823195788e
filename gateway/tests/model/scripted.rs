//! The scripted model server does what its script says, and says what it did.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::{ask, model, post, prompt, soon};

fn messages(server: &hiveward_gateway::model::scripted::Scripted) -> String {
    format!("http://{}/v1/messages?beta=true", server.address())
}

fn one(step: &str) -> String {
    format!("conversations:\n- steps:\n  - {step}\n")
}

#[tokio::test]
async fn a_stream_has_the_events_of_the_messages_api_and_is_marked_as_scripted() {
    let server = model(&one("{say: hello there, think: hm, tools: [{name: Write, input: {path: '${cwd}/a'}}]}")).await;
    let mut body = prompt("hi");
    body["system"] = json!("working directory: /tmp/w\n");
    let got = ask(&messages(&server), "k", &body).await;
    assert_eq!((got.status, got.whole), (200, true));
    assert_eq!(got.headers["x-hiveward-scripted"], "true");
    assert_eq!(got.headers["content-type"], "text/event-stream");
    assert_eq!(got.said(), "[scripted] hello there");
    let events = got.events();
    assert_eq!(events[0]["message"]["model"], "scripted-m-1");
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let blocks = kinds.iter().filter(|kind| **kind == "content_block_stop").count();
    assert_eq!(
        (kinds[0], blocks, kinds[kinds.len() - 2], kinds[kinds.len() - 1]),
        ("message_start", 3, "message_delta", "message_stop")
    );
    let input: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&input).unwrap(), json!({ "path": "/tmp/w/a" }));
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
    let call = &server.calls()[0];
    assert_eq!((call.key.as_deref(), call.model.as_str(), call.finished), (Some("k"), "m-1", true));
    let usage = &events[events.len() - 2]["usage"];
    assert_eq!(usage["output_tokens"], call.usage.unwrap().output);
    assert_eq!(server.total().usage, call.usage.unwrap());
}

#[tokio::test]
async fn steps_follow_the_answers_since_the_prompt() {
    let script = "conversations:\n- when: sum\n  steps: [{tools: [{name: Bash, input: {}}]}, {say: 'it is ${toolResult}'}]\n- steps: [{say: other, plain: true}]\n";
    let server = model(script).await;
    let mut body = prompt("sum it");
    body["stream"] = json!(false);
    let first = ask(&messages(&server), "k", &body).await.json();
    assert_eq!(first["stop_reason"], "tool_use");
    let list = body["messages"].as_array_mut().unwrap();
    list.push(json!({ "role": "assistant", "content": first["content"] }));
    list.push(json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": first["content"][0]["id"], "content": "4" }] }));
    let second = ask(&messages(&server), "k", &body).await.json();
    assert_eq!(second["content"][0]["text"], "[scripted] it is 4");
    let other = ask(&messages(&server), "k", &prompt("else")).await;
    assert_eq!(other.said(), "other");
    assert!(other.text().contains("scripted-m-1"));
}

#[tokio::test]
async fn the_openai_api_streams_and_says_its_usage_only_if_asked() {
    let server =
        model(&one("{say: hello, usage: {input: 10, output: 3, cacheRead: 4}, tools: [{name: f, input: {a: 1}}]}")).await;
    let url = format!("http://{}/v1/chat/completions", server.address());
    let mut body = prompt("hi");
    let silent = ask(&url, "k", &body).await;
    assert!(!silent.text().contains("prompt_tokens") && silent.text().ends_with("data: [DONE]\n\n"), "{}", silent.text());
    assert_eq!(server.calls()[0].usage, None);
    body["stream_options"] = json!({ "include_usage": true });
    let told = ask(&url, "k", &body).await;
    let last = told.events().pop().unwrap();
    assert_eq!(
        last["usage"],
        json!({ "prompt_tokens": 14, "completion_tokens": 3, "total_tokens": 17, "prompt_tokens_details": { "cached_tokens": 4 } })
    );
    let call = server.calls()[1].clone();
    assert_eq!((call.usage.unwrap().input, call.usage.unwrap().cache_read), (10, 4));
    body["stream"] = json!(false);
    let whole = ask(&url, "k", &body).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "[scripted] hello");
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
}

#[tokio::test]
async fn limits_and_overload_pass_after_as_many_times_as_the_script_says() {
    let server = model(&one("{say: now, fault: {rateLimited: {retryAfterMs: 1500, times: 2}}}")).await;
    for _ in 0..2 {
        let limited = ask(&messages(&server), "k", &prompt("hi")).await;
        assert_eq!(
            (limited.status, &limited.headers["retry-after"], &limited.headers["retry-after-ms"]),
            (429, &"2".parse().unwrap(), &"1500".parse().unwrap())
        );
        assert_eq!(limited.json()["error"]["type"], "rate_limit_error");
    }
    assert_eq!(ask(&messages(&server), "k", &prompt("hi")).await.status, 200);
    let server = model(&one("{say: now, fault: {overloaded: {}}}")).await;
    assert_eq!(ask(&messages(&server), "k", &prompt("hi")).await.json()["error"]["type"], "overloaded_error");
    assert_eq!(ask(&messages(&server), "k", &prompt("hi")).await.status, 200);
    assert_eq!((server.total().errors, server.total().finished), (1, 1));
    let server = model(&one("{status: 400}")).await;
    assert_eq!(ask(&messages(&server), "k", &prompt("hi")).await.json()["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_cut_stream_says_what_it_had_said() {
    let server = model(&one("{say: hello, usage: {input: 50, output: 9}, fault: {cut: {afterEvents: 3}}}")).await;
    let got = ask(&messages(&server), "k", &prompt("hi")).await;
    assert_eq!((got.status, got.whole, got.events().len()), (200, false, 3));
    let call = &server.calls()[0];
    assert_eq!((call.usage.unwrap().input, call.usage.unwrap().output, call.finished), (50, 1, false));
}

#[tokio::test]
async fn streams_misbehave_as_the_script_says() {
    let got = |step: &'static str| async move {
        let server = model(&one(step)).await;
        ask(&messages(&server), "k", &prompt("hi")).await
    };
    let malformed = got("{say: hello, fault: malformed}").await;
    assert!(malformed.whole && malformed.text().contains("not json") && malformed.text().contains("message_stop"));
    let half = got("{say: hello, fault: halfEvent}").await;
    assert!(half.whole && !half.text().ends_with('\n'), "{}", half.text());
    let huge = got("{say: hello, fault: {hugeLine: {bytes: 3000000}}}").await;
    assert!(huge.whole && huge.text().lines().any(|line| line.len() > 3_000_000));
    let wrong = got("{say: hello, tools: [{name: a}, {name: b}], fault: wrongIds}").await;
    let text = wrong.text();
    assert!(text.contains("\"index\":97") && text.matches("toolu_scripted_1_0").count() == 2, "{text}");
    let long = got("{say: abc, repeat: 5000}").await;
    assert_eq!(long.said().len(), "[scripted] ".len() + 15_000);
}

#[tokio::test]
async fn a_slow_stream_waits_and_an_endless_one_ends_with_its_reader() {
    let server = model(&one("{say: hello, fault: {slow: {firstMs: 80, everyMs: 10}}}")).await;
    let began = std::time::Instant::now();
    let got = ask(&messages(&server), "k", &prompt("hi")).await;
    assert!(began.elapsed().as_millis() >= 80 + 10 * (got.events().len() as u128 - 1));
    let server = model(&one("{say: hello, fault: endless}")).await;
    let mut taken = 0;
    let mut stream = post(&messages(&server), "k", &prompt("hi")).send().await.unwrap().bytes_stream();
    while taken < 3_000_000 {
        taken += soon("more", stream.next()).await.unwrap().unwrap().len();
    }
    drop(stream);
    assert!(!server.calls()[0].finished);
}

#[tokio::test]
async fn tokens_are_counted_and_unknown_paths_are_not_found() {
    let server = model(&one("{say: hello}")).await;
    let counted = ask(&format!("http://{}/v1/messages/count_tokens", server.address()), "k", &prompt("12345678")).await.json();
    assert!(counted["input_tokens"].as_u64().unwrap() >= 2, "{counted}");
    assert_eq!(ask(&format!("http://{}/v1/else", server.address()), "k", &prompt("x")).await.status, 404);
    let models = reqwest::get(format!("http://{}/v1/models", server.address())).await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(models["data"][0]["id"], "scripted");
    ask(&messages(&server), "k1", &prompt("x")).await;
    let calls = reqwest::get(format!("http://{}/scripted/calls", server.address())).await.unwrap().json::<Value>().await.unwrap();
    assert_eq!((&calls["calls"][0]["key"], &calls["total"]["calls"]), (&json!("k1"), &json!(1)));
}
