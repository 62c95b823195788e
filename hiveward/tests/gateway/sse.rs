//! GraphQL over SSE.

use serde_json::json;

use crate::support::{TOKEN, server, soon};

async fn subscribe(url: &str, query: &str, last: Option<&str>) -> reqwest::Response {
    let mut request = reqwest::Client::new().post(url).bearer_auth(TOKEN).json(&json!({ "query": query }));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn each_event_carries_its_position_and_the_stream_ends_with_complete() {
    let server = server(|_| {}).await;
    let url = format!("http://{}/graphql/stream", server.address());
    let response = subscribe(&url, "subscription{count(to:2)}", None).await;
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let text = response.text().await.unwrap();
    let expected = "event: next\nid: 1\ndata: {\"data\":{\"count\":1}}\n\nevent: next\nid: 2\ndata: {\"data\":{\"count\":2}}\n\nevent: complete\ndata:\n\n";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn last_event_id_resumes_after_it() {
    let server = server(|_| {}).await;
    let url = format!("http://{}/graphql/stream", server.address());
    let text = subscribe(&url, "subscription{count(after:0,to:5)}", Some("4")).await.text().await.unwrap();
    assert_eq!(text, "event: next\nid: 5\ndata: {\"data\":{\"count\":5}}\n\nevent: complete\ndata:\n\n");
}

#[tokio::test]
async fn a_wrong_request_is_told_in_the_stream_and_a_stopping_gateway_ends_it() {
    let server = server(|_| {}).await;
    let url = format!("http://{}/graphql/stream", server.address());
    let text = subscribe(&url, "subscription{nothing}", None).await.text().await.unwrap();
    assert!(
        text.starts_with("event: next\ndata: {\"errors\":")
            && text.contains("INVALID")
            && text.ends_with("event: complete\ndata:\n\n"),
        "{text}"
    );
    let silent = subscribe(&url, "subscription{silence}", None).await;
    let text = tokio::spawn(silent.text());
    soon("the server stops", server.stop(std::time::Duration::from_secs(5))).await;
    assert_eq!(soon("the stream ends", text).await.unwrap().unwrap(), "event: complete\ndata:\n\n");
}

#[tokio::test]
async fn the_cap_on_open_streams_is_refused_aloud() {
    let server = server(|config| config.streams_max = 1).await;
    let url = format!("http://{}/graphql/stream", server.address());
    let first = subscribe(&url, "subscription{silence}", None).await;
    assert_eq!(subscribe(&url, "subscription{silence}", None).await.status(), 503);
    drop(first);
}
