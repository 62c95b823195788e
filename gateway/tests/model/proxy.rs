//! The model gateway: what an agent gets of a model, what is metered, and what stops it.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hiveward_catalogue::budget::CallRules;
use hiveward_models::{Usage, access::ModelAccess};
use serde_json::json;

use crate::support::{CANARY, Front, ask, completions_of, messages_of, model, post, prompt, soon};

const HELLO: &str = "conversations:\n- steps: [{say: hello there, usage: {input: 11, output: 7, cacheRead: 5, cacheWrite: 3}}]\n";

fn one(step: &str) -> String {
    format!("conversations:\n- steps: [{step}]\n")
}

/// As the metering has it, of what the server says it sent.
fn sent(usage: hiveward_gateway::model::scripted::Usage) -> Usage {
    Usage { input: usage.input, output: usage.output, cache_read: usage.cache_read, cache_write: usage.cache_write }
}

#[tokio::test]
async fn an_answer_goes_through_byte_for_byte_and_is_metered_from_the_stream() {
    let server = model(HELLO).await;
    let front = Front::before(&server).await;
    let (lease, pass) = front.pass(CallRules::default());
    for (calls, stream) in [(1, true), (2, false)] {
        let mut body = prompt("hi");
        body["stream"] = json!(stream);
        let through = ask(&messages_of(&pass), &pass.token, &body).await;
        let direct = ask(&format!("http://{}/v1/messages", server.address()), CANARY, &body).await;
        // The two answers differ in the number of the call alone.
        let number = |text: String| text.replace(&format!("scripted_{}", calls * 2), &format!("scripted_{}", calls * 2 - 1));
        assert_eq!((through.status, through.text()), (200, number(direct.text())));
        assert_eq!(through.headers["x-hiveward-scripted"], "true");
        assert_eq!(through.headers["content-type"], direct.headers["content-type"]);
        let used = front.usage(lease, calls).await;
        let (name, used) = &used[0];
        assert_eq!((name.as_str(), used.calls, used.incomplete), ("m-1", calls, 0));
        assert_eq!(used.usage.tokens(), 26 * calls);
    }
}

#[tokio::test]
async fn the_openai_api_is_metered_too_and_its_client_sees_usage_only_if_it_asked() {
    let server = model(HELLO).await;
    let front = Front::before(&server).await;
    let (lease, pass) = front.pass(CallRules::default());
    let mut body = prompt("hi");
    let silent = ask(&completions_of(&pass), &pass.token, &body).await;
    assert!(!silent.text().contains("prompt_tokens"), "{}", silent.text());
    assert!(silent.text().ends_with("\n\ndata: [DONE]\n\n") && !silent.text().contains("\n\n\n"), "{}", silent.text());
    body["stream_options"] = json!({ "include_usage": true });
    let told = ask(&completions_of(&pass), &pass.token, &body).await;
    assert!(told.text().contains("prompt_tokens"));
    body["stream"] = json!(false);
    ask(&completions_of(&pass), &pass.token, &body).await;
    let used = front.usage(lease, 3).await;
    assert_eq!((used[0].1.usage, used[0].1.incomplete), (sent(server.total().usage), 0));
    assert!(server.calls().iter().all(|call| call.key.as_deref() == Some(CANARY)));
}

#[tokio::test]
async fn a_cut_answer_is_metered_as_far_as_it_was_said_and_marked_incomplete() {
    let server = model(&one("{say: hello, usage: {input: 50, output: 9}, fault: {cut: {afterEvents: 3}}}")).await;
    let front = Front::before(&server).await;
    let (lease, pass) = front.pass(CallRules::default());
    let got = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
    assert_eq!((got.whole, got.events().len()), (false, 3));
    let used = front.usage(lease, 1).await;
    assert_eq!((used[0].1.usage, used[0].1.incomplete), (sent(server.total().usage), 1));
    assert_eq!(used[0].1.usage.input, 50);
}

#[tokio::test]
async fn only_an_open_pass_of_this_node_lets_in_and_the_key_never_comes_back() {
    let server = model(HELLO).await;
    let front = Front::before(&server).await;
    let (lease, pass) = front.pass(CallRules::default());
    let unknown = ask(&messages_of(&pass), "hwm_made_up", &prompt("hi")).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["type"]), (401, &json!("authentication_error")));
    let bare = reqwest::Client::new().post(completions_of(&pass)).json(&prompt("hi")).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    let bearer = reqwest::Client::new()
        .post(messages_of(&pass))
        .bearer_auth(&pass.token)
        .header("cookie", "c=1")
        .header("anthropic-beta", "b-1");
    assert_eq!(bearer.json(&prompt("hi")).send().await.unwrap().status(), 200);
    let call = &server.calls()[0];
    assert_eq!(call.key.as_deref(), Some(CANARY));
    assert!(call.headers.iter().all(|(name, value)| !value.contains(&pass.token) && name != "cookie"), "{:?}", call.headers);
    assert!(call.headers.contains(&("anthropic-beta".to_owned(), "b-1".to_owned())));
    front.models.close(lease);
    let closed = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
    assert_eq!((closed.status, &closed.json()["error"]["type"]), (403, &json!("permission_error")));
    assert_eq!(server.total().calls, 1);
}

#[tokio::test]
async fn a_provider_that_repeats_the_key_does_not_show_it_to_the_agent() {
    // A server that answers whatever it is asked with the headers it was given.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = |status: u16| {
        axum::routing::post(move |headers: axum::http::HeaderMap| async move {
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            (
                status,
                [("x-echo", headers["x-api-key"].clone())],
                format!("{headers:?} {}", headers["x-api-key"].to_str().unwrap()),
            )
        })
    };
    let app = axum::Router::new().route("/refused/v1/messages", echo(401)).route("/wrong/v1/messages", echo(400));
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    for path in ["refused", "wrong"] {
        let front =
            Front::start(&format!("{{a: {{api: anthropic, url: 'http://{address}/{path}', key: 'secret:canary'}}}}")).await;
        let (_, pass) = front.pass(CallRules::default());
        let got = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
        assert!(got.status == 403 || got.status == 400);
        assert!(!got.text().contains(CANARY) && !format!("{:?}", got.headers).contains(CANARY), "{got:?}");
    }
    serving.abort();
}

#[tokio::test]
async fn overload_and_limits_are_waited_out_as_the_provider_asks() {
    let server = model(&one("{say: now, fault: {rateLimited: {retryAfterMs: 300, times: 2}}}")).await;
    let front = Front::before(&server).await;
    let (_, pass) = front.pass(CallRules::default());
    let began = Instant::now();
    let got = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
    assert_eq!((got.status, got.said().as_str(), server.total().calls), (200, "[scripted] now", 3));
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    let server = model(&one("{say: now, fault: {rateLimited: {retryAfterMs: 61000, times: 2}}}")).await;
    let front = Front::before(&server).await;
    let (_, pass) = front.pass(CallRules::default());
    let got = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
    assert_eq!((got.status, &got.headers["retry-after"], server.total().calls), (429, &"61".parse().unwrap(), 1));
}

#[tokio::test]
async fn a_provider_that_fails_is_left_alone_and_another_model_goes_on_only_if_allowed() {
    let down = model(&one("{status: 500}")).await;
    let up = model(HELLO).await;
    let providers = format!(
        "{{a: {{api: anthropic, url: 'http://{}'}}, b: {{api: anthropic, url: 'http://{}'}}}}",
        down.address(),
        up.address()
    );
    let front = Front::start(&providers).await;
    let of_a = CallRules { provider: Some("a".into()), ..CallRules::default() };
    let (strict_lease, strict) = front.pass(of_a.clone());
    let (lease, lenient) = front.pass(CallRules { fallback: vec!["b/m-2".into()], ..of_a });
    // Five tries each: the second call has the tenth failure in a row.
    let got = ask(&messages_of(&strict), &strict.token, &prompt("hi")).await;
    assert_eq!((got.status, down.total().calls), (500, 5));
    let got = ask(&messages_of(&lenient), &lenient.token, &prompt("hi")).await;
    assert_eq!((got.status, got.headers["x-hiveward-fallback"].to_str().unwrap()), (200, "m-2"));
    assert!(got.text().contains("scripted-m-2"));
    assert_eq!(down.total().calls, 10);
    assert_eq!(front.usage(lease, 1).await[0].0, "m-2");
    let said = front.models.fallbacks(lease);
    assert!(said.len() == 1 && said[0].starts_with("m-1 → m-2: provider a answered 500"), "{said:?}");
    // Now it is left alone: nothing reaches it, and the agent is told when to come back.
    let got = ask(&messages_of(&strict), &strict.token, &prompt("hi")).await;
    assert_eq!((got.status, down.total().calls), (529, 10));
    assert!(got.headers.contains_key("retry-after") && got.text().contains("left alone"), "{}", got.text());
    assert!(front.models.fallbacks(strict_lease).is_empty() && front.models.usage(strict_lease).is_empty());
    ask(&messages_of(&lenient), &lenient.token, &prompt("hi")).await;
    assert_eq!((down.total().calls, up.total().calls), (10, 2));
}

#[tokio::test]
async fn closing_a_pass_cuts_its_streams_within_a_second() {
    let server = model(&one("{say: hello, fault: {slow: {everyMs: 60000}}}")).await;
    let front = Front::before(&server).await;
    let (lease, pass) = front.pass(CallRules::default());
    let (_, other) = front.pass(CallRules::default());
    let open = |pass: &hiveward_models::access::Pass| post(&messages_of(pass), &pass.token, &prompt("hi")).send();
    let mut stream = soon("it begins", open(&pass)).await.unwrap().bytes_stream();
    let mut others = soon("it begins", open(&other)).await.unwrap().bytes_stream();
    soon("the first event", stream.next()).await.unwrap().unwrap();
    soon("the first event", others.next()).await.unwrap().unwrap();
    let closed = Instant::now();
    front.models.close(lease);
    let word = soon("the last word", stream.next()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&word).contains("permission_error"));
    assert!(soon("the end", stream.next()).await.unwrap().is_err());
    assert!(closed.elapsed() < Duration::from_secs(1));
    let waits = tokio::time::timeout(Duration::from_millis(100), others.next()).await;
    assert!(waits.is_err(), "the other agent's stream goes on");
    let used = front.usage(lease, 1).await;
    assert_eq!(used[0].1.incomplete, 1);
}

#[tokio::test]
async fn an_agent_that_goes_away_ends_the_call_at_the_provider() {
    let server = model(&one("{say: hello, fault: endless}")).await;
    let front = Front::before(&server).await;
    let (lease, pass) = front.pass(CallRules::default());
    let mut stream = post(&messages_of(&pass), &pass.token, &prompt("hi")).send().await.unwrap().bytes_stream();
    soon("it begins", stream.next()).await.unwrap().unwrap();
    drop(stream);
    assert_eq!(front.usage(lease, 1).await[0].1.incomplete, 1);
    let events = server.calls()[0].events;
    soon("the provider is let go", async {
        let mut before = events;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = server.calls()[0].events;
            if now == before {
                return;
            }
            before = now;
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_and_its_address_outlive_a_restart_of_the_node() {
    let server = model(HELLO).await;
    let front = Front::before(&server).await;
    let holder = crate::support::holder(CallRules::default());
    let pass = front.models.open(holder.clone()).unwrap();
    let front = front.restart().await;
    let early = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
    assert_eq!((early.status, &early.headers["retry-after"]), (529, &"1".parse().unwrap()));
    let again = front.models.open(holder).unwrap();
    assert_eq!((&again.url, &again.token), (&pass.url, &pass.token));
    assert_eq!(ask(&messages_of(&pass), &pass.token, &prompt("hi")).await.status, 200);
}

#[tokio::test]
async fn a_provider_that_sends_too_much_is_cut_and_the_agent_is_told() {
    let server = model(&one("{say: hello, fault: {hugeLine: {bytes: 5000000}}}")).await;
    let front = Front::before(&server).await;
    let (lease, pass) = front.pass(CallRules::default());
    let got = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
    assert!(!got.whole && got.body.len() < 2_000_000, "{}", got.body.len());
    assert!(got.text().contains("event: error") && got.text().contains("a line of more than"));
    assert_eq!(front.usage(lease, 1).await[0].1.incomplete, 1);
    let server = model(&one("{say: hello, fault: endless}")).await;
    let front = Front::before(&server).await;
    let (_, pass) = front.pass(CallRules::default());
    let got = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
    assert!(!got.whole && got.body.len() <= 65 * 1024 * 1024 && got.text().contains("an answer of more than"));
}

#[tokio::test]
async fn streams_that_misbehave_pass_as_they_are_and_are_incomplete_where_they_are() {
    for (fault, incomplete) in [("malformed", 0), ("wrongIds", 0), ("halfEvent", 1)] {
        let server = model(&one(&format!("{{say: hello, fault: {fault}}}"))).await;
        let front = Front::before(&server).await;
        let (lease, pass) = front.pass(CallRules::default());
        let got = ask(&messages_of(&pass), &pass.token, &prompt("hi")).await;
        assert!(got.whole, "{fault}");
        let used = front.usage(lease, 1).await;
        assert_eq!((used[0].1.usage, used[0].1.incomplete), (sent(server.total().usage), incomplete), "{fault}");
    }
}

#[tokio::test]
async fn a_request_that_is_not_understood_reaches_no_provider() {
    let server = model(HELLO).await;
    let front = Front::before(&server).await;
    let (_, pass) = front.pass(CallRules::default());
    let wrong = ask(&messages_of(&pass), &pass.token, &json!({ "stream": true })).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    let nowhere = ask(&format!("{}/anthropic/v1/complete", pass.url), &pass.token, &prompt("hi")).await;
    assert_eq!(nowhere.status, 404);
    let counted = ask(&format!("{}/anthropic/v1/messages/count_tokens", pass.url), &pass.token, &prompt("hi")).await;
    assert!(counted.json()["input_tokens"].is_u64());
    assert_eq!(server.total().calls, 0);
}
