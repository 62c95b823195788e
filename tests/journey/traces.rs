//! Promise: with a collector configured, a request is a trace there, under the id that its answer names.

use std::sync::{Arc, Mutex};

use hiveward_tests::{Hive, Setup, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// One export as the collector got it.
#[derive(Clone)]
struct Export {
    head: String,
    body: Vec<u8>,
}

async fn collector() -> (String, Arc<Mutex<Vec<Export>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got = Arc::new(Mutex::new(Vec::new()));
    let all = got.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let all = all.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    let mut body = vec![0; length.unwrap()];
                    stream.read_exact(&mut body).await.unwrap();
                    all.lock().unwrap().push(Export { head, body });
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    (format!("http://{address}"), got)
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_trace_at_the_collector_under_the_id_that_its_answer_names() {
    let (endpoint, got) = collector().await;
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "telemetry:\n  otlp:\n    headers:\n      x-key: ${COLLECTOR_KEY}\n").unwrap();
    let setup = Setup::default()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("COLLECTOR_KEY", "not-for-any-log")
        .env("HIVEWARD_CONFIG", config.path().to_str().unwrap())
        .env("RUST_LOG", "debug");
    let mut hive = Hive::start(setup).await;
    let ask = async |hive: &Hive| {
        let client = hive.client();
        let post = client.http.post(format!("{}/graphql", client.url)).bearer_auth(&client.token);
        let answer = post.json(&serde_json::json!({ "query": "{cluster{cursor}}" })).send().await.unwrap();
        let named = answer.headers()["x-trace-id"].to_str().unwrap().to_owned();
        let digits = named.strip_prefix("trace_").unwrap();
        u128::from_str_radix(digits, 16).unwrap().to_be_bytes()
    };
    let exported = |trace: [u8; 16]| got.lock().unwrap().iter().find(|export| holds(&export.body, &trace)).cloned();
    let trace = ask(&hive).await;
    let export = until("the trace is exported", async || exported(trace)).await;
    assert!(holds(&export.body, b"request") && holds(&export.body, b"hiveward"));
    assert!(export.head.starts_with("POST /v1/traces "), "{}", export.head);
    let head = export.head.to_lowercase();
    assert!(head.contains("x-key: not-for-any-log") && head.contains("content-type: application/x-protobuf"), "{head}");

    // What was not exported yet is, when the node stops.
    let last = ask(&hive).await;
    hive.client().remove_agents().await;
    assert!(hive.stop().await.success());
    assert!(exported(last).is_some(), "the last trace was lost");
    let log = hive.log();
    assert!(!log.contains("not-for-any-log"), "the key is in the log");
}
