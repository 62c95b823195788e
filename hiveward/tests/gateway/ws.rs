//! The `graphql-transport-ws` protocol, by the letter of its close codes.

use futures_util::{SinkExt, StreamExt};
use hiveward_gateway::serve::Server;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use std::sync::atomic::Ordering;

use crate::support::{FLOODS_MADE, TOKEN, server, soon, soon_within};

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

    /// With the token in the request.
    async fn known(server: &Server) -> Result<Self, tokio_tungstenite::tungstenite::Error> {
        let mut request = format!("ws://{}/graphql/ws", server.address()).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("graphql-transport-ws"));
        request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap());
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

/// What the kernel holds for a socket that nobody reads, in items of 256 KiB, and more than that.
const IN_THE_KERNEL: usize = 48;

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_costs_a_bounded_queue() {
    let server = server(|config| {
        config.stall_timeout_ms = 3_000;
        config.send_queue_bytes_max = 1 << 20;
    })
    .await;
    let mut client = Client::ready(&server).await;
    let before = FLOODS_MADE.load(Ordering::Relaxed);
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
    let made = FLOODS_MADE.load(Ordering::Relaxed) - before;
    println!("{made} items of 256 KiB were made");
    assert!(made <= IN_THE_KERNEL + 8, "{made} items of 256 KiB were made for a client that took one, and 1 MiB may wait");
    drop(client);
}

#[tokio::test]
async fn sockets_without_a_token_take_no_place_of_those_who_have_one() {
    let server = server(|config| {
        config.streams_max = 2;
        config.strangers_max = 3;
        config.strangers_per_address_max = 2;
        config.init_timeout_ms = 60_000;
    })
    .await;
    let first = Client::open(&server, None).await.unwrap();
    let _second = Client::open(&server, None).await.unwrap();
    let Err(tokio_tungstenite::tungstenite::Error::Http(refused)) = Client::open(&server, None).await else {
        panic!("a third stranger of one address was let in")
    };
    assert_eq!(refused.status(), 503);
    assert!(String::from_utf8_lossy(refused.body().as_deref().unwrap()).contains("strangers_per_address_max"));
    assert_eq!(server.gateway().streams.available_permits(), 2, "none of them has a stream's place");
    // Who shows a token with the request needs no stranger's place.
    let known = Client::known(&server).await.unwrap();
    assert_eq!(server.gateway().streams.available_permits(), 1);
    drop(first);
    soon("the place of one that left is free", async {
        while Client::open(&server, None).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon("and one that shows its token has a stream's", async {
        let mut client = loop {
            match Client::open(&server, None).await {
                Ok(client) => break client,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        client.say(json!({"type": "connection_init", "payload": {"token": TOKEN}})).await;
        assert_eq!(client.hear().await["type"], "connection_ack");
        assert_eq!(server.gateway().streams.available_permits(), 0);
        let Err(tokio_tungstenite::tungstenite::Error::Http(refused)) = Client::known(&server).await else {
            panic!("a third stream was let in")
        };
        assert_eq!(refused.status(), 503);
    })
    .await;
    drop(known);
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

/// A client that costs this process next to nothing: it opens operations, and reads nothing but the first answers.
async fn many_operations(server: &Server, operations: usize) -> TcpStream {
    let mut socket = TcpStream::connect(server.address()).await.unwrap();
    let upgrade = format!(
        "GET /graphql/ws HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n",
        server.address()
    );
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let mut sent = Vec::new();
    // Masked with zeros.
    let mut frame = |text: String| {
        sent.extend([0x81, 0xfe]);
        sent.extend((text.len() as u16).to_be_bytes());
        sent.extend([0; 4]);
        sent.extend(text.as_bytes());
    };
    let padded = |text: &str| format!("{text}{}", " ".repeat(200));
    frame(padded(r#"{"type":"connection_init"}"#));
    for n in 0..operations {
        let query = format!("subscription Silence{n}{{silence}}");
        frame(padded(&json!({"id": n.to_string(), "type": "subscribe", "payload": {"query": query}}).to_string()));
    }
    frame(padded(r#"{"type":"ping"}"#));
    socket.write_all(&sent).await.unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("pong") {
        assert!(socket.read_buf(&mut heard).await.unwrap() > 0, "{}", String::from_utf8_lossy(&heard));
    }
    socket
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_closed_sockets_goes_back() {
    let figures = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let _upkeep = hiveward_gateway::upkeep::Upkeep::start(figures);
    let server = server(|config| config.operations_per_connection_max = 64).await;
    drop(soon("a first one, for what is made once", many_operations(&server, 64)).await);
    let before = resident_bytes();
    let mut sockets = Vec::new();
    for _ in 0..400 {
        sockets.push(soon("a socket with its operations", many_operations(&server, 64)).await);
    }
    let open = resident_bytes();
    drop(sockets);
    println!("{} MiB before, {} MiB with 400 sockets of 64 operations", before >> 20, open >> 20);
    soon_within(std::time::Duration::from_secs(60), "most of it is given back", async {
        while resident_bytes() > before + (open - before) / 3 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    println!("{} MiB after they were closed", resident_bytes() >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_goes_back_to_the_machine_whoever_let_go_of_it() {
    const PIECE_BYTES: usize = 256;
    const PIECES: usize = (256 << 20) / PIECE_BYTES;
    let before = resident_bytes();
    let mut pieces: Vec<Option<Box<[u8; PIECE_BYTES]>>> = (0..PIECES).map(|_| Some(Box::new([1; PIECE_BYTES]))).collect();
    let held = resident_bytes();
    // What stays between the others keeps the allocator from giving them back by itself.
    for (n, piece) in pieces.iter_mut().enumerate() {
        if n % 1_000 != 0 {
            *piece = None;
        }
    }
    let figures = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let _upkeep = hiveward_gateway::upkeep::Upkeep::start(figures);
    soon_within(std::time::Duration::from_secs(60), "most of it is given back", async {
        while resident_bytes() > before + (held - before) / 3 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(pieces.iter().flatten().count(), PIECES.div_ceil(1_000));
}
