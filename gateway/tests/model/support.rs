//! A scripted model server and the requests of an agent.

use std::time::Duration;

use futures_util::StreamExt;
use hiveward_gateway::model::scripted::{Script, Scripted};
use serde_json::{Value, json};

pub async fn model(script: &str) -> Scripted {
    Scripted::start(([127, 0, 0, 1], 0).into(), Script::read("test", script).unwrap()).await.unwrap()
}

/// What came of a request, and whether its body was whole.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The data of each event.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).filter_map(|data| serde_json::from_str(data).ok()).collect()
    }

    /// The text deltas of a stream of the Anthropic API, in one.
    pub fn said(&self) -> String {
        self.events().iter().filter_map(|event| event["delta"]["text"].as_str().map(str::to_owned)).collect()
    }
}

pub async fn read(response: reqwest::Response) -> Got {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut stream = response.bytes_stream();
    let (mut body, mut whole) = (Vec::new(), true);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Got { status, headers, body, whole }
}

pub fn post(url: &str, key: &str, body: &Value) -> reqwest::RequestBuilder {
    reqwest::Client::new().post(url).header("x-api-key", key).header("anthropic-version", "2023-06-01").json(body)
}

pub async fn ask(url: &str, key: &str, body: &Value) -> Got {
    soon("an answer", async { read(post(url, key, body).send().await.unwrap()).await }).await
}

pub fn prompt(text: &str) -> Value {
    json!({ "model": "m-1", "max_tokens": 100, "stream": true, "messages": [{ "role": "user", "content": text }] })
}

/// Fails the test when it does not come true in reasonable time.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not in 20 s: {what}"))
}
