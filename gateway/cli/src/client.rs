//! The GraphQL client of the command line: HTTP for queries and mutations, SSE for subscriptions.
//!
//! Documents are the `.graphql` files beside this module; a test holds them to the schema. A subscription that loses its
//! connection resumes from the last event it got.

use std::{path::PathBuf, time::Duration};

use bytes::BytesMut;
use futures_util::StreamExt;
use hiveward_contract::home::TOKEN_FILE;
use reqwest::{Response, StatusCode, Upgraded, Url, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

use super::fail::{ApiError, Exit, Failed, Outcome};

pub const ACCESS: &str = include_str!("graphql/access.graphql");
pub const TASK: &str = include_str!("graphql/task.graphql");
pub const AGENT: &str = include_str!("graphql/agent.graphql");
pub const SWARM: &str = include_str!("graphql/swarm.graphql");
pub const CODING: &str = include_str!("graphql/coding.graphql");
pub const USAGE: &str = include_str!("graphql/usage.graphql");
pub const VM: &str = include_str!("graphql/vm.graphql");
pub const BALANCE: &str = include_str!("graphql/balance.graphql");
pub const NETWORK: &str = include_str!("graphql/network.graphql");
pub const NODE: &str = include_str!("graphql/node.graphql");
pub const NAMES: &str = include_str!("graphql/names.graphql");

pub struct Client {
    url: String,
    token: String,
    /// The project in which names are looked up and new things are made.
    project: Option<String>,
    http: reqwest::Client,
    /// The time when the command as a whole gives up waiting.
    pub deadline: Option<Instant>,
}

#[derive(Deserialize)]
struct GraphqlAnswer {
    data: Option<Value>,
    #[serde(default)]
    errors: Vec<ApiError>,
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

fn unreachable(url: &str, error: &reqwest::Error) -> Failed {
    let mut cause = String::new();
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(inner) = source {
        cause = format!(": {inner}");
        source = inner.source();
    }
    Failed::new(
        Exit::Unreachable,
        format!("no answer from {url}{cause}"),
        "is a node running? start one with `hiveward dev`, or point --url at yours",
    )
}

/// Returns the failure of a command whose `--timeout` is over.
pub fn timed_out() -> Failed {
    Failed::new(
        Exit::TimedOut,
        "the time given with --timeout is over",
        "what was asked for goes on by itself; look again later, or give more time",
    )
}

impl Client {
    /// Makes a client with a token, given or read from the data directory of a node on this machine. Fails without one.
    pub fn new(url: &str, token: Option<String>, data_dirs: &[PathBuf], timeout: Option<Duration>) -> Outcome<Self> {
        let found = || data_dirs.iter().find_map(|dir| std::fs::read_to_string(dir.join(TOKEN_FILE)).ok());
        let token = token.or_else(found).ok_or_else(|| {
            let tried: Vec<_> = data_dirs.iter().map(|dir| dir.join(TOKEN_FILE).display().to_string()).collect();
            Failed::new(
                Exit::Denied,
                format!("no token: none was given and there is none in {}", tried.join(" or ")),
                "give it with --token or HIVEWARD_TOKEN, or name the node's --data-dir",
            )
        })?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| Failed::local(format!("cannot start an HTTP client: {error}")))?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        Ok(Self { url: url.trim_end_matches('/').to_owned(), token: token.trim().to_owned(), project: None, http, deadline })
    }

    /// Returns the same client, whose requests name this project.
    pub fn in_project(self, project: Option<String>) -> Self {
        Self { project, ..self }
    }

    /// Returns the project that its requests name.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    fn project_header(&self) -> Outcome<header::HeaderMap> {
        let mut headers = header::HeaderMap::new();
        if let Some(project) = &self.project {
            let wrong = |_| Failed::usage(format!("{project:?} is no project"), "give a project's name or id with --project");
            headers.insert("hiveward-project", project.parse().map_err(wrong)?);
        }
        Ok(headers)
    }

    fn remaining(&self) -> Outcome<Duration> {
        match self.deadline {
            None => Ok(REQUEST_TIMEOUT),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() { Err(timed_out()) } else { Ok(left.min(REQUEST_TIMEOUT)) }
            }
        }
    }

    /// Runs one operation of a document and returns its `data`.
    pub async fn call(&self, document: &str, operation: &str, variables: Value) -> Outcome<Value> {
        let url = format!("{}/graphql", self.url);
        let body = json!({ "query": document, "operationName": operation, "variables": variables });
        let sent = self
            .http
            .post(&url)
            .bearer_auth(&self.token)
            .headers(self.project_header()?)
            .header(header::ACCEPT, "application/graphql-response+json, application/json;q=0.9")
            .timeout(self.remaining()?)
            .json(&body)
            .send()
            .await;
        let response = sent.map_err(|error| {
            if self.deadline.is_some_and(|at| at <= Instant::now()) { timed_out() } else { unreachable(&url, &error) }
        })?;
        let answer = read_answer(&url, response).await?;
        if let Some(error) = answer.errors.into_iter().next() {
            return Err(error.failed(operation));
        }
        answer.data.ok_or_else(|| {
            Failed::new(Exit::Failed, format!("{url} answered without data"), "is it a Hiveward node of this version?")
        })
    }

    /// Runs one operation as [`Self::call`] does, and returns the data at `path` as a type.
    pub async fn get<T: DeserializeOwned>(&self, document: &str, operation: &str, variables: Value, path: &str) -> Outcome<T> {
        let mut data = self.call(document, operation, variables).await?;
        typed(data.pointer_mut(path).map(Value::take).unwrap_or_default())
    }

    /// Opens a WebSocket, over the same connector as every request, so that `https` works the same way.
    pub async fn web_socket(&self, path: &str, query: &[(&str, &str)]) -> Outcome<WebSocketStream<Upgraded>> {
        let url = format!("{}{path}", self.url);
        let whole = Url::parse_with_params(&url, query)
            .map_err(|error| Failed::usage(format!("{url} is no URL: {error}"), "give --url as http://HOST:PORT"))?;
        let key = generate_key();
        let request = self
            .http
            .get(whole)
            .bearer_auth(&self.token)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        let sent = tokio::time::timeout(self.remaining()?, request.send()).await.map_err(|_| timed_out())?;
        let response = sent.map_err(|error| unreachable(&url, &error))?;
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes().to_vec());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS || accepted != Some(derive_accept_key(key.as_bytes()).into()) {
            let answer = read_answer(&url, response).await?;
            let failed = || Failed::new(Exit::Unreachable, format!("{url} opened no WebSocket"), "try again in a moment");
            return Err(answer.errors.into_iter().next().map_or_else(failed, |error| error.failed("AgentAttach")));
        }
        let upgraded = response.upgrade().await.map_err(|error| unreachable(&url, &error))?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    /// Prepares a subscription, which connects when it is first asked for an item.
    pub fn subscribe(&self, document: &'static str, operation: &'static str, variables: Value) -> Subscription<'_> {
        Subscription { client: self, document, operation, variables, last: None, open: None, wait: FIRST_WAIT }
    }
}

/// Reads an answer as a type. Fails if it has another shape, as with another version.
pub fn typed<T: DeserializeOwned>(value: Value) -> Outcome<T> {
    serde_json::from_value(value).map_err(|error| {
        Failed::new(
            Exit::Failed,
            format!("the answer has an unknown shape: {error}"),
            "use the same version of hiveward on both sides",
        )
    })
}

async fn read_answer(url: &str, response: Response) -> Outcome<GraphqlAnswer> {
    let status = response.status();
    let body = response.bytes().await.map_err(|error| unreachable(url, &error))?;
    match serde_json::from_slice(&body) {
        Ok(answer) => Ok(answer),
        Err(_) if status == StatusCode::NOT_FOUND => Err(Failed::new(
            Exit::Unreachable,
            format!("{url} is no GraphQL endpoint"),
            "point --url at a Hiveward node, such as http://127.0.0.1:7700",
        )),
        Err(_) => Err(Failed::new(
            Exit::Unreachable,
            format!("{url} answered {status} and no JSON"),
            "point --url at a Hiveward node, such as http://127.0.0.1:7700",
        )),
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A stream of `data` objects that survives the loss of its connection.
pub struct Subscription<'a> {
    client: &'a Client,
    document: &'static str,
    operation: &'static str,
    variables: Value,
    last: Option<String>,
    open: Option<Events>,
    wait: Duration,
}

impl Subscription<'_> {
    /// Waits for the next item; `None` when the subscription is complete. Fails when the command's time is over.
    pub async fn next(&mut self) -> Outcome<Option<Value>> {
        let Some(deadline) = self.client.deadline else { return self.next_ever().await };
        tokio::time::timeout_at(deadline, self.next_ever()).await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn next_ever(&mut self) -> Outcome<Option<Value>> {
        loop {
            if self.open.is_none() {
                match self.connect().await {
                    Ok(events) => self.open = Some(events),
                    // A node that restarts comes back; one that was never there does not.
                    Err(failed) if failed.exit == Exit::Unreachable && self.last.is_some() => {
                        tokio::time::sleep(self.wait).await;
                        self.wait = (self.wait * 2).min(LONGEST_WAIT);
                        continue;
                    }
                    Err(failed) => return Err(failed),
                }
            }
            let Some(events) = &mut self.open else { continue };
            match events.next().await {
                Some(event) if event.kind == "complete" => return Ok(None),
                Some(event) => {
                    self.wait = FIRST_WAIT;
                    if event.id.is_some() {
                        self.last = event.id;
                    }
                    let answer: GraphqlAnswer = typed(serde_json::from_str(&event.data).unwrap_or_default())?;
                    if let Some(error) = answer.errors.into_iter().next() {
                        return Err(error.failed(self.operation));
                    }
                    return Ok(answer.data);
                }
                None => self.open = None,
            }
        }
    }

    async fn connect(&self) -> Outcome<Events> {
        let url = format!("{}/graphql/stream", self.client.url);
        let body = json!({ "query": self.document, "operationName": self.operation, "variables": self.variables });
        let mut request =
            self.client.http.post(&url).bearer_auth(&self.client.token).header(header::ACCEPT, "text/event-stream").json(&body);
        request = request.headers(self.client.project_header()?);
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.map_err(|error| unreachable(&url, &error))?;
        let streams =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if streams {
            return Ok(Events { response: response.bytes_stream().boxed(), read: BytesMut::new() });
        }
        let answer = read_answer(&url, response).await?;
        Err(answer.errors.into_iter().next().map_or_else(
            || Failed::new(Exit::Unreachable, format!("{url} did not open a stream"), "try again in a moment"),
            |error| error.failed(self.operation),
        ))
    }
}

struct Event {
    kind: String,
    id: Option<String>,
    data: String,
}

struct Events {
    response: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    read: BytesMut,
}

impl Events {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.read.split_to(end + 2);
                match parse_event(&String::from_utf8_lossy(&block)) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            match self.response.next().await {
                Some(Ok(chunk)) => self.read.extend_from_slice(&chunk),
                _ => return None,
            }
        }
    }
}

/// Reads one block of lines; `None` for a comment.
fn parse_event(block: &str) -> Option<Event> {
    let mut event = Event { kind: String::new(), id: None, data: String::new() };
    for line in block.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event.kind = value.to_owned(),
            "id" => event.id = Some(value.to_owned()),
            "data" => event.data.push_str(value),
            _ => {}
        }
    }
    (!event.kind.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_comments_are_not() {
        let event = parse_event("event: next\nid: 7\ndata: {\"data\":1}\n\n").unwrap();
        assert_eq!((event.kind.as_str(), event.id.as_deref(), event.data.as_str()), ("next", Some("7"), "{\"data\":1}"));
        assert!(parse_event(":\n\n").is_none());
    }
}
