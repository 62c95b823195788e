//! What a query may cost while it is executed, and on which threads that happens.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    body::Body,
    http::{Request, header},
};
use hiveward_gateway::{
    bound::ANSWERS_BYTES_MAX,
    limit::{ANSWER_BYTES_MAX, DocumentLimits},
    pool::{MUTATION_THREAD_NAME, QUERY_THREAD_NAME},
    serve::{Gateway, HttpConfig},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{TEXTS_MADE, TOKEN, config, gateway, node::TestNode};

fn limited(change: impl FnOnce(&mut DocumentLimits)) -> Arc<Gateway> {
    let mut limits = DocumentLimits::default();
    change(&mut limits);
    gateway(HttpConfig { limits, ..config() })
}

async fn call(gateway: &Arc<Gateway>, path: &str, query: &str) -> String {
    let request = Request::post(path)
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(json!({ "query": query }).to_string()))
        .unwrap();
    let answer = gateway.router().oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn ask(gateway: &Arc<Gateway>, query: &str) -> Value {
    serde_json::from_str(&call(gateway, "/graphql", query).await).unwrap()
}

#[track_caller]
fn refused(answer: &Value, code: &str, words: &str) {
    let error = &answer["errors"][0];
    assert_eq!(error["extensions"]["code"], code, "{answer}");
    assert!(error["message"].as_str().unwrap().contains(words), "{answer}");
    assert!(answer["data"].is_null(), "{answer}");
}

#[tokio::test]
async fn queries_and_mutations_are_executed_on_threads_of_their_own() {
    let gateway = gateway(config());
    assert_eq!(ask(&gateway, "{thread}").await["data"]["thread"], QUERY_THREAD_NAME);
    assert_eq!(ask(&gateway, "mutation{thread}").await["data"]["thread"], MUTATION_THREAD_NAME);
    let nested = ask(&gateway, "mutation{query{many(count:2){thread}}}").await;
    assert_eq!(nested["data"]["query"]["many"][1]["thread"], MUTATION_THREAD_NAME);
    for (query, thread) in [
        ("{thread}", QUERY_THREAD_NAME),
        ("mutation{thread}", MUTATION_THREAD_NAME),
        ("subscription{asked{thread}}", QUERY_THREAD_NAME),
    ] {
        let events = call(&gateway, "/graphql/stream", query).await;
        assert!(events.contains(thread) && events.contains("event: complete"), "{query}: {events}");
    }
}

#[tokio::test]
async fn an_answer_over_its_bytes_is_refused_before_it_is_made_whole() {
    let gateway = gateway(config());
    let before = TEXTS_MADE.load(Ordering::Relaxed);
    let answer = ask(&gateway, "{many(count:1000){text(bytes:100000)}}").await;
    refused(&answer, "LIMIT", "answer_bytes_max");
    let made = TEXTS_MADE.load(Ordering::Relaxed) - before;
    assert!(made < 500, "{made} texts of 100 kB were made for an answer of 4 MB");
    refused(&ask(&gateway, "{many(count:1000){many(count:1000){__typename}}}").await, "LIMIT", "answer_values_max");
    refused(
        &ask(&gateway, "mutation{query{many(count:1000){text(bytes:100000)}}}").await,
        "UNKNOWN_OUTCOME",
        "may have happened",
    );
    let events = call(&gateway, "/graphql/stream", "subscription{asked{many(count:1000){text(bytes:100000)}}}").await;
    assert!(events.contains("answer_bytes_max") && events.len() < 10_000, "{} bytes", events.len());
    // What fits is answered, and what was counted is given back.
    let whole = call(&gateway, "/graphql", "{many(count:39){text(bytes:100000)}}").await;
    assert!((3_900_000..ANSWER_BYTES_MAX).contains(&whole.len()), "{}", whole.len());
    gateway.pools.idle(std::time::Duration::from_secs(10)).await;
    assert_eq!(gateway.pools.memory.taken(), 0);
}

#[tokio::test]
async fn a_query_that_works_for_too_long_is_refused_and_one_that_waits_is_not() {
    let gateway = limited(|limits| limits.work_ms_max = 100);
    let answer = ask(&gateway, "{many(count:1000){work(ms:5)}}").await;
    refused(&answer, "LIMIT", "work_ms_max");
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(300), ask(&gateway, "{hang}")).await;
    assert!(waiting.is_err(), "a query that only waits was ended: {waiting:?}");
}

#[tokio::test]
async fn all_answers_together_have_a_bound_and_small_ones_go_on() {
    let gateway = gateway(config());
    let others = gateway.pools.memory.hold(ANSWERS_BYTES_MAX);
    refused(&ask(&gateway, "{text(bytes:1000000)}").await, "BUSY", "other answers");
    assert_eq!(ask(&gateway, "{hello}").await["data"]["hello"], "world");
    drop(others);
    assert!(ask(&gateway, "{text(bytes:1000000)}").await["errors"].is_null());
}

/// As GraphiQL and the usual clients ask.
const USUAL: &str = "query IntrospectionQuery{__schema{description queryType{name kind}mutationType{name kind}
    subscriptionType{name kind}types{...FullType}directives{name description isRepeatable locations
    args(includeDeprecated:true){...InputValue}}}}
    fragment FullType on __Type{kind name description specifiedByURL isOneOf fields(includeDeprecated:true){name description
    args(includeDeprecated:true){...InputValue}type{...TypeRef}isDeprecated deprecationReason}
    inputFields(includeDeprecated:true){...InputValue}interfaces{...TypeRef}
    enumValues(includeDeprecated:true){name description isDeprecated deprecationReason}possibleTypes{...TypeRef}}
    fragment InputValue on __InputValue{name description type{...TypeRef}defaultValue isDeprecated deprecationReason}
    fragment TypeRef on __Type{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name
    ofType{kind name ofType{kind name ofType{kind name ofType{kind name}}}}}}}}}}";

/// Fields and list entries of an answer.
fn values(answer: &Value) -> usize {
    match answer {
        Value::Object(fields) => fields.values().map(|value| 1 + values(value)).sum(),
        Value::Array(entries) => entries.iter().map(|value| 1 + values(value)).sum(),
        _ => 0,
    }
}

#[tokio::test]
async fn introspection_that_multiplies_is_refused_by_its_text_and_where_that_is_allowed_by_its_size() {
    let node = TestNode::start().await;
    let mut bomb = String::from("name");
    for _ in 0..7 {
        bomb = format!("possibleTypes{{interfaces{{{bomb}}}}}");
    }
    let bomb = format!("{{__type(name:\"Node\"){{{bomb}}}}}");
    let (code, _, message) = node.refused(&bomb, json!({})).await;
    assert!(code == "LIMIT" && message.contains("introspection"), "{message}");

    // What clients ask when they begin has a quarter of the values that an answer may have.
    let usual = node.ok(USUAL, json!({})).await;
    println!("the usual introspection: {} values, {} bytes", values(&usual), usual.to_string().len());
    assert!(values(&usual) < DocumentLimits::default().answer_values_max / 2, "{}", values(&usual));

    // The second line of defence, for whatever the first does not know of.
    let schema = hiveward_gateway::schema::build(node.node.control());
    let mut open = config();
    open.limits.introspection_lists_max = 100;
    open.limits.introspection_depth_max = 100;
    let auth = hiveward_gateway::auth::Auth::new([(
        "t".to_owned(),
        hiveward_gateway::auth::Auth::digest(TOKEN),
        hiveward_access::role::Role::Admin,
    )]);
    let gateway = Gateway::new(Arc::new(schema), auth, open, Arc::new(crate::support::AlwaysReady)).unwrap();
    refused(&ask(&gateway, &bomb).await, "LIMIT", "limit `answer_");
    node.stop().await;
}

/// Every GraphQL text of the dashboard's sources: what stands between backticks and begins as an operation or fragment.
fn of_the_dashboard(dir: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            of_the_dashboard(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "ts" || ending == "tsx") {
            let source = std::fs::read_to_string(&path).unwrap();
            let texts = source.split('`').skip(1).step_by(2).map(str::trim);
            let begins = ["query ", "mutation ", "subscription ", "fragment "];
            found.extend(texts.filter(|text| begins.iter().any(|word| text.starts_with(word))).map(str::to_owned));
        }
    }
}

#[test]
fn every_document_of_the_dashboard_passes_the_limits() {
    let mut texts = Vec::new();
    of_the_dashboard(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard/src"), &mut texts);
    let fragments: Vec<(String, &String)> = texts
        .iter()
        .filter(|text| text.starts_with("fragment "))
        .map(|text| (text.split_whitespace().nth(1).unwrap().to_owned(), text))
        .collect();
    let mut checked = 0;
    for text in texts.iter().filter(|text| !text.starts_with("fragment ")) {
        let mut document = text.clone();
        // What it spreads, and what that spreads in turn.
        while let Some((name, fragment)) = fragments.iter().find(|(name, _)| {
            let spread = |end: &str| document.contains(&format!("...{name}{end}"));
            !document.contains(&format!("fragment {name} ")) && [" ", "\n", "}"].into_iter().any(spread)
        }) {
            assert!(document.len() < 1 << 20, "{name}");
            document.push_str(&format!("\n{fragment}"));
        }
        let limits = DocumentLimits::default();
        let variables = async_graphql::Variables::from_json(json!({ "first": 100 }));
        let weighed = hiveward_gateway::limit::scan(&document, &limits).and_then(|()| {
            let parsed = async_graphql::parser::parse_query(&document).unwrap_or_else(|error| panic!("{error}: {document}"));
            hiveward_gateway::limit::check(&parsed, None, &variables, &limits)
        });
        assert!(weighed.is_ok(), "{weighed:?}: {document}");
        checked += 1;
    }
    assert!(checked > 40, "{checked} documents were found");
}

/// The most memory that this process ever had, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_most_expensive_answers_take_bounded_memory_one_by_one_and_all_at_once() {
    let gateway = gateway(config());
    assert_eq!(ask(&gateway, "{hello}").await["data"]["hello"], "world");
    let before = peak();
    for query in [
        "{many(count:1000){many(count:1000){__typename hello}}}",
        "{many(count:1000){many(count:100){again{again{hello}}}}}",
        "{many(count:1000){many(count:100){text(bytes:1000)}}}",
    ] {
        let answer = ask(&gateway, query).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "LIMIT", "{query}");
        println!("{query}: {} MiB more at the peak", peak() - before);
        assert!(peak() - before < 100, "{} MiB for {query}", peak() - before);
    }
    let all = futures_util::future::join_all((0..64).map(|_| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let answer = ask(&gateway, "{many(count:950){text(bytes:4000)}}").await;
            answer["errors"][0]["extensions"]["code"].clone()
        })
    }));
    let codes: Vec<Value> = all.await.into_iter().map(Result::unwrap).collect();
    let whole = codes.iter().filter(|code| code.is_null()).count();
    assert!(codes.iter().all(|code| code.is_null() || code == "BUSY"), "{codes:?}");
    println!("64 answers of 3.8 MB at once: {whole} whole, the others BUSY; {} MiB more at the peak", peak() - before);
    assert!(whole > 0);
}
