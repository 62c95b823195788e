//! Promise: a subscription resumed from a cursor gives exactly the events after it, over both transports and by paging.

use hiveward_tests::{Client, Hive, Setup, client::SUBMIT_MANY, dice, rounds, stream::Events, until};
use serde_json::{Value, json};

const FLOWING: usize = 10_000;
const SUBSCRIBE: &str = "subscription($a:Cursor){events(after:$a){cursor kind}}";
const PAGE: &str = "query($a:Cursor,$n:Int){events(after:$a,first:$n){nodes{cursor kind} pageInfo{hasNextPage}}}";

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    cursor: String,
    kind: String,
}

impl Seen {
    fn of(event: &Value) -> Self {
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        Self { cursor: text("cursor"), kind: text("kind") }
    }
}

/// The events after `after` by one page of at most `first`.
async fn page(client: &Client, after: &str, first: usize) -> Vec<Seen> {
    let data = client.ok(PAGE, json!({ "a": after, "n": first })).await;
    data["events"]["nodes"].as_array().unwrap().iter().map(Seen::of).collect()
}

async fn all(client: &Client) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        let after = seen.last().map_or("0", |last| &last.cursor).to_owned();
        let more = page(client, &after, 500).await;
        if more.is_empty() {
            return seen;
        }
        seen.extend(more);
    }
}

async fn flow(client: Client) {
    // Assigned, started and ended, of each task; submitted, of each batch.
    for batch in 0..=FLOWING / 31 {
        let tasks: Vec<Value> = (0..10).map(|_| json!({ "kind": "noop" })).collect();
        client.ok(SUBMIT_MANY, json!({ "i": { "operationId": format!("b{batch}"), "swarm": "rate", "tasks": tasks } })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_cut_a_hundred_times_while_ten_thousand_events_flow_misses_none_and_gives_none_twice() {
    let mut dice = dice();
    let mut hive = Hive::start(Setup::default()).await;
    let client = hive.client();
    client.noop_swarm("rate", 4).await;
    let flowing = tokio::spawn(flow(client.clone()));
    let mut seen: Vec<Seen> = Vec::new();
    let cuts = rounds(100, 1_000);
    let (mut restarted, mut live_cuts) = (false, 0);
    for cut in 0..cuts {
        let after = seen.last().map_or("0", |last| &last.cursor).to_owned();
        // So many that the whole lasts for all cuts.
        let wanted = dice.usize(0..FLOWING / cuts * 2);
        let found = match dice.u8(..4) {
            0 => page(&client, &after, wanted.clamp(1, 500)).await,
            1 => take(Events::over_websocket(&client, SUBSCRIBE, json!({ "a": after })).await.unwrap(), wanted, &flowing).await,
            2 => take(client.subscribe(SUBSCRIBE, json!({ "a": after }), None).await.unwrap(), wanted, &flowing).await,
            // Resumed by the header alone, which wins over the argument.
            _ => take(client.subscribe(SUBSCRIBE, json!({ "a": "0" }), Some(&after)).await.unwrap(), wanted, &flowing).await,
        };
        seen.extend(found);
        live_cuts += usize::from(!flowing.is_finished());
        if flowing.is_finished() && !restarted && cut > cuts / 2 {
            // A cursor outlives the process that gave it.
            restarted = true;
            hive.kill();
            hive.start_again().await;
        }
    }
    flowing.await.unwrap();
    until("all tasks have ended", async || {
        let open =
            client.ok("{tasks(first:1,filter:{status:[PENDING,QUEUED,ASSIGNED,RUNNING,RETRYING]}){nodes{id}}}", json!({})).await;
        open["tasks"]["nodes"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    let expected = all(&client).await;
    assert!(expected.len() >= FLOWING, "only {} events flowed", expected.len());
    let after = seen.last().map_or("0", |last| &last.cursor).to_owned();
    let rest = expected.len() - seen.len();
    seen.extend(
        take(
            client.subscribe(SUBSCRIBE, json!({ "a": after }), None).await.unwrap(),
            rest,
            &tokio::spawn(std::future::pending()),
        )
        .await,
    );
    for (n, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
        assert_eq!(seen, expected, "event {n}");
    }
    assert_eq!(seen.len(), expected.len());
    eprintln!("{} events, {cuts} cuts, {live_cuts} of them before the last submission", expected.len());
    client.remove_agents().await;
}

/// The next `wanted` events, then the connection is cut; fewer if the flow has ended and nothing more comes.
async fn take(mut events: Events, wanted: usize, flowing: &tokio::task::JoinHandle<()>) -> Vec<Seen> {
    let mut found = Vec::new();
    while found.len() < wanted {
        let patience = std::time::Duration::from_millis(if flowing.is_finished() { 50 } else { 20_000 });
        match tokio::time::timeout(patience, events.next()).await {
            Ok(Some(event)) => found.push(Seen::of(&event["events"])),
            Ok(None) => panic!("the stream ended by itself after {} events", found.len()),
            Err(_) if flowing.is_finished() => break,
            Err(_) => panic!("no event within {patience:?} while they flow"),
        }
    }
    found
}
