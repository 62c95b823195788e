//! The `graphql-transport-ws` protocol, by the letter of its close codes.

use futures_util::{SinkExt, StreamExt};
use hiveward_gateway::serve::Server;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::support::{TOKEN, server, soon};

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn open(server: &Server, origin: Option<&str>) -> Result<Self, tokio_tungstenite::tungstenite::Error> {
        let mut request = format!("ws://{}/graphql/ws", server.address()).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("graphql-transport-ws"));
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", HeaderValue::from_str(origin).unwrap());
        }
        Ok(Self(connect_async(request).await?.0))
    }

    async fn ready(server: &Server) -> Self {
        let mut client = Self::open(server, None).await.unwrap();
        client.say(json!({"type": "connection_init", "payload": {"Authorization": format!("Bearer {TOKEN}")}})).await;
        assert_eq!(client.hear().await, json!({"type": "connection_ack"}));
        client
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn subscribe(&mut self, id: &str, query: &str) {
        self.say(json!({"id": id, "type": "subscribe", "payload": {"query": query}})).await;
    }

    async fn hear(&mut self) -> Value {
        loop {
            match soon("a message", self.0.next()).await.expect("open").expect("a frame") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    async fn closed(&mut self) -> (u16, String) {
        loop {
            match soon("a close", self.0.next()).await.expect("a close frame").expect("a frame") {
                Message::Close(Some(frame)) => return (frame.code.into(), frame.reason.to_string()),
                Message::Close(None) => panic!("closed without a code"),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_subscription_gives_its_items_in_order_and_completes() {
    let server = server(|_| {}).await;
    let mut client = Client::ready(&server).await;
    client.subscribe("a", "subscription{count(to:3)}").await;
    for n in 1..=3 {
        assert_eq!(client.hear().await, json!({"id": "a", "type": "next", "payload": {"data": {"count": n}}}));
    }
    assert_eq!(client.hear().await, json!({"id": "a", "type": "complete"}));
    // The id is free again, and a query may use it.
    client.subscribe("a", "{hello}").await;
    assert_eq!(client.hear().await["payload"]["data"]["hello"], "world");
    assert_eq!(client.hear().await["type"], "complete");
    client.say(json!({"type": "ping"})).await;
    assert_eq!(client.hear().await, json!({"type": "pong"}));
}

#[tokio::test]
async fn each_breach_of_the_protocol_has_its_close_code() {
    let server = server(|config| config.init_timeout_ms = 200).await;
    let mut silent = Client::open(&server, None).await.unwrap();
    assert_eq!(silent.closed().await.0, 4408);

    let mut eager = Client::open(&server, None).await.unwrap();
    eager.subscribe("a", "{hello}").await;
    assert_eq!(eager.closed().await.0, 4401);

    let mut stranger = Client::open(&server, None).await.unwrap();
    stranger.say(json!({"type": "connection_init", "payload": {"token": "wrong"}})).await;
    assert_eq!(stranger.closed().await.0, 4403);

    let mut twice = Client::ready(&server).await;
    twice.say(json!({"type": "connection_init"})).await;
    assert_eq!(twice.closed().await.0, 4429);

    let mut doubled = Client::ready(&server).await;
    doubled.subscribe("a", "subscription{silence}").await;
    doubled.subscribe("a", "subscription{silence}").await;
    assert_eq!(doubled.closed().await, (4409, "Subscriber for a already exists".into()));

    for garbage in ["", "[]", "{}", r#"{"type":"nonsense"}"#, r#"{"type":"subscribe","id":"a"}"#] {
        let mut client = Client::ready(&server).await;
        client.0.send(Message::text(garbage)).await.unwrap();
        assert_eq!(client.closed().await.0, 4400, "{garbage}");
    }
}

#[tokio::test]
async fn a_page_of_a_foreign_origin_cannot_open_a_socket() {
    let server = server(|config| config.allowed_origins = vec!["https://ops.example".into()]).await;
    assert!(Client::open(&server, Some("https://evil.example")).await.is_err());
    assert!(Client::open(&server, Some("null")).await.is_err());
    assert!(Client::open(&server, Some("https://ops.example")).await.is_ok());
    assert!(Client::open(&server, Some(&format!("http://{}", server.address()))).await.is_ok());
}

#[tokio::test]
async fn a_refused_operation_is_told_and_the_connection_lives_on() {
    let server = server(|config| config.operations_per_connection_max = 1).await;
    let mut client = Client::ready(&server).await;
    client.subscribe("bad", "subscription{nothing}").await;
    let error = client.hear().await;
    assert_eq!((error["type"].as_str(), error["payload"][0]["extensions"]["code"].as_str()), (Some("error"), Some("INVALID")));
    client.subscribe("one", "subscription{silence}").await;
    client.subscribe("two", "subscription{silence}").await;
    assert_eq!(client.hear().await["payload"][0]["extensions"]["code"], "LIMIT");
    client.say(json!({"id": "one", "type": "complete"})).await;
    client.subscribe("three", "subscription{count(to:1)}").await;
    assert_eq!(client.hear().await["type"], "next");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_costs_a_bounded_queue() {
    let server = server(|config| {
        config.stall_timeout_ms = 300;
        config.send_queue_max = 4;
    })
    .await;
    let mut client = Client::ready(&server).await;
    client.subscribe("a", "subscription{flood}").await;
    client.hear().await;
    assert!(server.gateway().streams.available_permits() < server.gateway().config.streams_max);
    // Not reading. The server gives up by itself, and the connection's place is free again.
    let gateway = server.gateway().clone();
    let all = gateway.config.streams_max;
    soon("the place is free", async {
        while gateway.streams.available_permits() < all {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    drop(client);
}

#[tokio::test]
async fn a_message_over_the_limit_is_closed_with_the_limits_name() {
    let server = server(|config| config.body_bytes_max = 4096).await;
    let mut client = Client::ready(&server).await;
    let query = format!("{{hello}} #{}", "x".repeat(5000));
    client.subscribe("a", &query).await;
    let (code, reason) = client.closed().await;
    assert_eq!(code, 4413);
    assert!(reason.contains("body_bytes_max"), "{reason}");
}

#[tokio::test]
async fn a_stopping_gateway_says_so() {
    let server = server(|_| {}).await;
    let mut client = Client::ready(&server).await;
    client.subscribe("a", "subscription{silence}").await;
    client.say(json!({"type": "ping"})).await;
    client.hear().await;
    let stopping = tokio::spawn(server.stop(std::time::Duration::from_secs(5)));
    assert_eq!(client.closed().await.0, 1001);
    soon("stopped", stopping).await.unwrap();
}
