//! Subscriptions over both transports, that can be cut at any byte by dropping them.

use futures_util::{SinkExt, StreamExt, stream::BoxStream};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{CallFailed, Client};

/// What a subscription gives, one answer at a time. Dropping it cuts the connection.
pub struct Events(BoxStream<'static, Value>);

impl Events {
    /// The next one; none when the connection or the subscription has ended. An answer with errors fails the test.
    pub async fn next(&mut self) -> Option<Value> {
        self.try_next().await.map(|answer| answer.unwrap_or_else(|answer| panic!("a subscription failed: {answer}")))
    }

    /// As [`Self::next`]; an answer with errors is given as it is.
    pub async fn try_next(&mut self) -> Option<Result<Value, Value>> {
        let mut answer = self.0.next().await?;
        Some(if answer["errors"].is_null() { Ok(answer["data"].take()) } else { Err(answer) })
    }

    pub(crate) async fn over_sse(client: &Client, query: &str, variables: Value, last: Option<&str>) -> Result<Self, CallFailed> {
        let unknown = |error: reqwest::Error| CallFailed::Unknown(error.to_string());
        // A client of its own: dropping the stream must close the connection, not give it back.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().map_err(unknown)?;
        let body = json!({ "query": query, "variables": variables });
        let mut request = http.post(format!("{}/graphql/stream", client.url)).bearer_auth(&client.token).json(&body);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.map_err(unknown)?;
        if response.status() != 200 {
            return Err(CallFailed::Unknown(format!("a stream does not open: {}", response.status())));
        }
        let state = (response.bytes_stream().boxed(), Vec::new());
        let blocks = futures_util::stream::unfold(state, |(mut bytes, mut read): (_, Vec<u8>)| async move {
            loop {
                if let Some(end) = read.windows(2).position(|two| two == b"\n\n") {
                    let block = String::from_utf8(read.drain(..end + 2).collect()).ok()?;
                    return Some((block, (bytes, read)));
                }
                let more: Result<_, reqwest::Error> = StreamExt::next(&mut bytes).await?;
                read.extend_from_slice(more.ok()?.as_ref());
            }
        });
        let answers = blocks.filter_map(|block| async move {
            let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
            serde_json::from_str(data).ok()
        });
        Ok(Self(answers.boxed()))
    }

    /// A subscription over `graphql-transport-ws`.
    pub async fn over_websocket(client: &Client, query: &str, variables: Value) -> Result<Self, CallFailed> {
        let unknown = |error: tokio_tungstenite::tungstenite::Error| CallFailed::Unknown(error.to_string());
        let mut request =
            format!("{}/graphql/ws", client.url.replacen("http", "ws", 1)).into_client_request().map_err(unknown)?;
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.map_err(unknown)?;
        let say = |value: Value| Message::text(value.to_string());
        let token = format!("Bearer {}", client.token);
        socket.send(say(json!({ "type": "connection_init", "payload": { "Authorization": token } }))).await.map_err(unknown)?;
        socket
            .send(say(json!({ "type": "subscribe", "id": "1", "payload": { "query": query, "variables": variables } })))
            .await
            .map_err(unknown)?;
        let answers = futures_util::stream::unfold(socket, |mut socket| async move {
            loop {
                let message = StreamExt::next(&mut socket).await?.ok()?;
                let Message::Text(text) = message else { continue };
                let mut value: Value = serde_json::from_str(&text).ok()?;
                match value["type"].as_str()? {
                    "next" => return Some((value["payload"].take(), socket)),
                    "ping" => socket.send(Message::text(json!({ "type": "pong" }).to_string())).await.ok()?,
                    "connection_ack" => {}
                    "complete" => return None,
                    "error" => return Some((json!({ "errors": value["payload"].take() }), socket)),
                    _ => panic!("the gateway said {value}"),
                }
            }
        });
        Ok(Self(answers.boxed()))
    }
}
