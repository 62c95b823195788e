//! What the guard lets in, and how it says no.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use hiveward_gateway::{
    large_bodies::{BYTES_MAX, SMALL_BYTES},
    serve::{HttpConfig, Server},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::ServiceExt;

use crate::support::{TOKEN, config, gateway, server, soon};

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }
    fn code(&self) -> String {
        self.json()["errors"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

async fn call(request: axum::http::request::Builder, body: impl Into<Body>) -> Answer {
    let response = gateway(config()).router().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
}

fn post() -> axum::http::request::Builder {
    Request::post("/graphql")
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(header::CONTENT_TYPE, "application/json")
}

fn query(text: &str) -> String {
    json!({ "query": text }).to_string()
}

#[tokio::test]
async fn without_a_good_token_nothing_is_served_and_the_answer_says_how() {
    for request in [
        Request::post("/graphql"),
        Request::post("/graphql").header(header::AUTHORIZATION, "Bearer wrong"),
        Request::get("/graphql?query={hello}"),
    ] {
        let answer = call(request.header(header::CONTENT_TYPE, "application/json"), query("{hello}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"));
        assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    }
    assert_eq!(call(Request::get("/healthz"), "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_and_a_foreign_one_gets_no_leave() {
    let mut config = config();
    config.allowed_origins = vec!["https://ops.example".into()];
    let gateway = gateway(config);
    let preflight = |origin: &str| {
        Request::options("/graphql")
            .header(header::ORIGIN, origin)
            .header(header::HOST, "10.0.0.1:7700")
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type")
            .body(Body::empty())
            .unwrap()
    };
    let answer = gateway.router().oneshot(preflight("https://ops.example")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://ops.example");
    assert!(answer.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains("authorization"));
    assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    for origin in ["https://evil.example", "null", "https://ops.example.evil.example"] {
        let answer = gateway.router().oneshot(preflight(origin)).await.unwrap();
        assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{origin}");
    }
    let asked = |token: &str| {
        post()
            .header(header::ORIGIN, "https://ops.example")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::from(query("{hello}")))
            .unwrap()
    };
    let answer = gateway.router().oneshot(asked(TOKEN)).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN]),
        (StatusCode::OK, &"https://ops.example".parse().unwrap())
    );
    assert!(answer.headers().get_all(header::VARY).iter().any(|vary| vary == "origin"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_its_length_alone() {
    let answer = call(
        post().header(header::CONTENT_LENGTH, "999999999"),
        Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>()),
    )
    .await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "LIMIT"));
}

#[tokio::test]
async fn a_body_that_grows_over_the_limit_is_cut_while_it_streams() {
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 65_536])));
    assert_eq!(call(post(), Body::from_stream(endless)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_given_up() {
    let silent = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    assert_eq!(call(post(), Body::from_stream(silent)).await.status, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn a_form_or_plain_text_is_never_read_as_graphql() {
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let request =
            Request::post("/graphql").header(header::AUTHORIZATION, format!("Bearer {TOKEN}")).header(header::CONTENT_TYPE, kind);
        assert_eq!(call(request, query("mutation{change}")).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
}

#[tokio::test]
async fn a_mutation_never_runs_on_get() {
    for path in ["/graphql?query=mutation%7Bchange%7D", "/graphql/stream?query=mutation%7Bchange%7D"] {
        let answer = call(Request::get(path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}")), "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(answer.headers[header::ALLOW], "POST");
    }
    assert_eq!(call(post(), query("mutation{change}")).await.json(), json!({"data": {"change": true}}));
}

#[tokio::test]
async fn a_limit_names_itself_and_a_batch_is_refused() {
    let deep = format!("{}hello{}", "{again".repeat(12) + "{", "}".repeat(13));
    let answer = call(post(), query(&deep)).await;
    assert_eq!(answer.code(), "LIMIT");
    assert!(answer.body.contains("depth_max"), "{}", answer.body);
    let answer = call(post(), json!([{ "query": "{hello}" }]).to_string()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.body.contains("batch"));
}

#[tokio::test]
async fn an_internal_error_shows_its_trace_and_nothing_else() {
    let answer = call(post(), query("{boom}")).await;
    assert_eq!(answer.code(), "INTERNAL");
    assert!(!answer.body.contains("secret detail"));
    assert!(answer.body.contains("trace_"), "{}", answer.body);
}

#[tokio::test]
async fn the_usual_introspection_query_passes_the_limits() {
    let introspection = "query IntrospectionQuery{__schema{queryType{name}types{...FullType}directives{name args{...InputValue}}}}
        fragment FullType on __Type{kind name fields(includeDeprecated:true){name args{...InputValue}type{...TypeRef}}inputFields{...InputValue}
        interfaces{...TypeRef}enumValues(includeDeprecated:true){name}possibleTypes{...TypeRef}}
        fragment InputValue on __InputValue{name type{...TypeRef}defaultValue}
        fragment TypeRef on __Type{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name
        ofType{kind name ofType{kind name ofType{kind name}}}}}}}}}}";
    let answer = call(post(), query(introspection)).await;
    assert!(answer.json()["errors"].is_null() && answer.json()["data"]["__schema"]["types"].is_array(), "{}", answer.body);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_hangs_is_answered_at_its_deadline() {
    let answer = call(post(), query("{hang}")).await;
    assert_eq!(answer.code(), "UNAVAILABLE");
}

#[tokio::test]
async fn requests_over_the_cap_get_503_and_when_to_come_back() {
    let mut config = config();
    config.requests_max = 1;
    let gateway = gateway(config);
    let _running = gateway.requests.acquire().await.unwrap();
    let request = post().body(Body::from(query("{hello}"))).unwrap();
    let response = gateway.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
}

/// Answered while it still sends, it would find its connection reset.
#[tokio::test]
async fn a_large_request_over_the_cap_is_told_so_when_it_has_sent_all() {
    let server = server(|config| config.requests_max = 0).await;
    let mut client = TcpStream::connect(server.address()).await.unwrap();
    let body = query(&format!("{{hello}} # {}", "x".repeat(900_000)));
    let head = format!(
        "POST /graphql HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        server.address(),
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    for piece in body.as_bytes().chunks(300_000) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        client.write_all(piece).await.unwrap();
    }
    let mut answer = vec![0; 4_096];
    let read = soon("an answer", client.read(&mut answer)).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&answer[..read]));
}

#[tokio::test]
async fn another_address_than_loopback_needs_configured_credentials() {
    let mut config = config();
    config.listen = ([0, 0, 0, 0], 0).into();
    let refused = hiveward_gateway::serve::Server::start(gateway(config), false).await;
    assert!(matches!(refused, Err(hiveward_gateway::serve::ServeError::NoCredentials { .. })));
}

#[tokio::test]
async fn connections_over_the_cap_are_turned_away_and_slow_headers_are_dropped() {
    let server = server(|config| {
        config.connections_max = 1;
        config.read_timeout_ms = 300;
    })
    .await;
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(b"POST /graphql HTTP/1.1\r\n").await.unwrap();
    let mut answer = String::new();
    soon("the second connection is turned away", async {
        // The first must have been accepted before the second is over the cap.
        while !answer.starts_with("HTTP/1.1 503") {
            answer.clear();
            let mut second = TcpStream::connect(server.address()).await.unwrap();
            second.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let _reset = second.read_to_string(&mut answer).await;
        }
    })
    .await;
    let mut rest = Vec::new();
    let _reset = soon("the slow one is dropped", slow.read_to_end(&mut rest)).await;
    soon("its place is free", async {
        let url = format!("http://{}/healthz", server.address());
        while reqwest::get(&url).await.map(|response| response.status().as_u16()).unwrap_or(0) != 200 {}
    })
    .await;
    server.stop(std::time::Duration::from_secs(1)).await;
}

/// Closed without a word, a client that is about to send or amid it does not know whether anything was done.
#[tokio::test]
async fn who_sends_no_whole_request_in_time_hears_that_nothing_happened() {
    let server = server(|config| config.read_timeout_ms = 200).await;
    for begun in ["", "POST /graphql HTTP/1.1\r\nHost: x\r\n"] {
        let answer = late(&server, begun).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("read_timeout_ms"), "after {begun:?}: {answer:?}");
        assert!(answer.contains("nothing happened"), "{answer}");
    }
}

/// What is heard by who sends this and no more.
async fn late(server: &Server, begun: &str) -> String {
    let mut late = TcpStream::connect(server.address()).await.unwrap();
    late.write_all(begun.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the end of the connection", late.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// A request that meets the close of its connection is lost, and its client does not know whether it was done.
#[tokio::test]
async fn a_connection_that_was_served_may_idle_for_longer_than_a_request_may_take_to_come() {
    let server = server(|config| config.read_timeout_ms = 200).await;
    let mut idle = TcpStream::connect(server.address()).await.unwrap();
    let mut heard = vec![0; 4_096];
    for _ in 0..3 {
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let read = soon("an answer", idle.read(&mut heard)).await.unwrap();
        assert!(heard[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&heard[..read]));
        // By the end of one that came after, it has idled for as long as a head may take.
        late(&server, "").await;
    }
}

/// Made into values all at once, they would take thirty times their bytes each.
#[tokio::test]
async fn a_large_request_waits_for_its_turn_and_one_that_does_not_get_it_hears_that_nothing_happened() {
    // Five seconds are left for the execution, so its turn must come in what remains.
    let gateway = gateway(HttpConfig { request_timeout_ms: 5_100, ..config() });
    let deadline = hiveward_runtime::clock::Deadline::after(std::time::Duration::from_secs(30));
    let others = gateway.large_bodies.turn(BYTES_MAX, deadline).await.unwrap();
    let ask = async |bytes: usize| {
        let body = json!({ "query": "mutation{change}", "variables": { "padding": "x".repeat(bytes) } }).to_string();
        let response = gateway.router().oneshot(post().body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let (status, said) = ask(SMALL_BYTES).await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && said.contains("BUSY") && said.contains("nothing happened"), "{said}");
    let done = (StatusCode::OK, json!({ "data": { "change": true } }).to_string());
    assert_eq!(ask(10).await, done, "a small one does not wait");
    drop(others);
    assert_eq!(ask(SMALL_BYTES).await, done);
}

#[tokio::test]
async fn figures_say_nothing_to_strangers_behind_a_proxy_of_this_machine() {
    let server = server(|_| {}).await;
    let http = reqwest::Client::new();
    for path in ["metrics", "readyz"] {
        let url = format!("http://{}/{path}", server.address());
        assert_eq!(http.get(&url).send().await.unwrap().status(), 200, "{path} of this machine");
        let local = http.get(&url).header("host", "localhost:7700").send().await.unwrap();
        assert_eq!(local.status(), 200, "{path} of localhost");
        for (name, value) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("via", "1.1 proxy"),
            ("x-real-ip", "127.0.0.1"),
            ("host", "hive.example"),
            ("host", "127.0.0.1.hive.example:7700"),
            ("host", "10.0.0.1"),
        ] {
            let asked = || http.get(&url).header(name, value);
            let refused = asked().send().await.unwrap();
            assert_eq!(refused.status(), 401, "{path} with {name}: {value}");
            assert!(!refused.text().await.unwrap().contains("up 1"));
            assert_eq!(asked().bearer_auth(TOKEN).send().await.unwrap().status(), 200, "{path} with {name} and a token");
        }
    }
    server.stop(std::time::Duration::from_secs(1)).await;
}

#[tokio::test]
async fn wrong_tokens_of_one_address_are_bounded_and_other_addresses_go_on() {
    let server = server(|_| {}).await;
    let http = reqwest::Client::new();
    let url = format!("http://{}/graphql", server.address());
    let ask = |token: &str, from: &'static str| {
        let body = query("{hello}");
        let asked = http.post(&url).bearer_auth(token).header("x-forwarded-for", from);
        asked.header("content-type", "application/json").body(body).send()
    };
    for _ in 0..hiveward_gateway::places::WRONG_TOKENS_MAX {
        assert_eq!(ask("wrong", "203.0.113.9").await.unwrap().status(), 401);
    }
    let refused = ask(TOKEN, "203.0.113.9").await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(refused.text().await.unwrap().contains("wrong tokens"));
    assert_eq!(ask(TOKEN, "203.0.113.10").await.unwrap().status(), 200);
    // What a client itself writes before the proxy's word changes nothing.
    assert_eq!(ask(TOKEN, "203.0.113.10, 203.0.113.9").await.unwrap().status(), 429);
    server.stop(std::time::Duration::from_secs(1)).await;
}

#[tokio::test]
async fn one_address_has_no_more_connections_than_it_may() {
    let server = server(|config| config.connections_per_address_max = 2).await;
    let _first = TcpStream::connect(server.address()).await.unwrap();
    let _second = TcpStream::connect(server.address()).await.unwrap();
    let mut third = TcpStream::connect(server.address()).await.unwrap();
    let mut answer = String::new();
    let _reset = soon("the third is turned away", third.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    server.stop(std::time::Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_browser_gets_graphiql_under_a_policy_that_loads_nothing_from_elsewhere() {
    let answer = call(Request::get("/graphql").header(header::ACCEPT, "text/html,*/*;q=0.8"), "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    for outside in ["//cdn", "unpkg", "esm.sh", "https://"] {
        assert!(!answer.body.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn every_screen_is_one_page_that_runs_only_our_own_scripts() {
    for path in ["/", "/ui/", "/ui/tasks/task_01a1fcbcbb0c730b8efaadb02afa5a6b?tab=output"] {
        let answer = call(Request::get(path).header(header::HOST, "hive.example:7700"), "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(policy.ends_with("connect-src 'self' ws://hive.example:7700 wss://hive.example:7700"), "{policy}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-cache");
    }
    let missing = call(Request::get("/ui/assets/gone-00000000.js"), "").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND, "an old page does not take another page for its script");
}
