//! What was: events counted from the newest and by time, samples of the past, files that attempts left; and names.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::support::{node::TestNode, soon, soon_within};

const EVENTS: &str = "query($last:Int,$first:Int,$before:Cursor,$after:Cursor,$since:DateTime,$until:DateTime,$kind:[String!]){\
    events(last:$last,first:$first,before:$before,after:$after,since:$since,until:$until,filter:{kind:$kind}){\
    nodes{cursor at kind} pageInfo{startCursor hasPreviousPage hasNextPage}}}";

async fn submit(node: &TestNode, count: usize, title: &str) {
    let tasks: Vec<_> = (0..count).map(|n| json!({"title": format!("{title} {n}"), "command": {"argv": ["true"]}})).collect();
    for task in tasks {
        node.ok("mutation($i:SubmitTaskInput!){submitTask(input:$i){cursor}}", json!({ "i": task })).await;
    }
}

async fn events(node: &TestNode, variables: Value) -> (Vec<u64>, Value) {
    let found = node.ok(EVENTS, variables).await;
    let cursors = found["events"]["nodes"].as_array().unwrap().iter();
    let cursors = cursors.map(|event| event["cursor"].as_str().unwrap().parse().unwrap()).collect();
    (cursors, found["events"]["pageInfo"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_from_the_newest_back_to_the_first_each_once() {
    let node = TestNode::start().await;
    submit(&node, 12, "back").await;
    let (all, _) = events(&node, json!({"first": 500, "kind": ["TaskSubmitted"]})).await;
    assert_eq!(all.len(), 12);
    let (mut read, mut before, mut pages) = (Vec::new(), None, 0);
    loop {
        let (mut page, info) = events(&node, json!({"last": 5, "before": before, "kind": ["TaskSubmitted"]})).await;
        page.append(&mut read);
        read = page;
        pages += 1;
        assert!(pages < 10, "it goes on without end");
        if info["hasPreviousPage"] == false {
            break;
        }
        before = Some(info["startCursor"].clone());
    }
    assert_eq!(read, all);
    assert!(pages >= 3);
    let both = node.refused(EVENTS, json!({"first": 1, "last": 1})).await;
    assert_eq!((both.0.as_str(), both.1.as_deref()), ("INVALID", Some("last")));
    assert_eq!(node.refused(EVENTS, json!({"last": 501})).await.0, "LIMIT");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_agent_are_its_own() {
    let node = TestNode::start().await;
    let agents = node.ok("{agents{nodes{id}}}", json!({})).await["agents"]["nodes"].take();
    for agent in agents.as_array().unwrap() {
        let input = json!({"i": {"agent": agent["id"], "command": {"argv": ["true"]}}});
        let done = node.ok("mutation($i:SubmitTaskInput!){submitTask(input:$i){task{id}}}", input).await;
        node.ended(&done["submitTask"]["task"]["id"]).await;
    }
    let read = "query($a:ID){events(last:500,filter:{agent:$a}){nodes{kind agent}}}";
    let found = node.ok(read, json!({"a": agents[0]["id"]})).await;
    let found = found["events"]["nodes"].as_array().unwrap();
    assert!(found.iter().all(|event| event["agent"] == agents[0]["id"]));
    assert!(found.iter().any(|event| event["kind"] == "TaskAttemptEnded"));
    assert_eq!(node.refused(read, json!({"a": "nobody"})).await.1.as_deref(), Some("filter.agent"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_parts_the_events_before_it_from_those_after() {
    let node = TestNode::start().await;
    submit(&node, 6, "early").await;
    let found = node.ok("{events(first:500){nodes{cursor at}}}", json!({})).await;
    let all = found["events"]["nodes"].as_array().unwrap();
    let moment = all[all.len() / 2]["at"].clone();
    let cursor = |event: &Value| event["cursor"].as_str().unwrap().parse::<u64>().unwrap();
    // Times are written with a fixed number of digits, so their order is that of the text.
    let at = |event: &Value| event["at"].as_str().unwrap().to_owned();
    let (later, _) = events(&node, json!({"first": 500, "since": moment})).await;
    let (earlier, info) = events(&node, json!({"first": 500, "until": moment})).await;
    let parted = |late: bool| {
        let half = all.iter().filter(|event| (at(event).as_str() >= moment.as_str().unwrap()) == late);
        half.map(cursor).collect::<Vec<_>>()
    };
    assert_eq!(later[..parted(true).len()], parted(true));
    assert_eq!(earlier, parted(false));
    assert_eq!(info["hasNextPage"], false);
    let (last, _) = events(&node, json!({"last": 3, "until": moment})).await;
    assert_eq!(last, parted(false)[parted(false).len() - 3..]);
    assert!(events(&node, json!({"first": 5, "since": "2999-01-01T00:00:00Z"})).await.0.is_empty());
    assert!(events(&node, json!({"last": 5, "until": "1999-01-01T00:00:00Z"})).await.0.is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_a_nodes_figures_is_what_it_measured_and_no_more() {
    let node = TestNode::start().await;
    let read = "query($s:DateTime,$p:Int!=600){metricsHistory(since:$s,points:$p){at residentBytes eventsTotal}}";
    let sample = soon("a sample is taken", async {
        loop {
            let found = node.ok(read, json!({})).await;
            if let Some(sample) = found["metricsHistory"].get(0) {
                return sample.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(sample["residentBytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(node.ok(read, json!({"s": "2999-01-01T00:00:00Z"})).await["metricsHistory"], json!([]));
    assert_eq!(node.refused(read, json!({"p": 0})).await.1.as_deref(), Some("points"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agents_processes_use_is_measured_while_they_run_and_nothing_is_said_of_them_after() {
    const HELD: u64 = 40 << 20;
    // It is looked at every five seconds.
    const LOOKS: Duration = Duration::from_secs(60);
    let node = TestNode::start().await;
    // Forty MiB in the shell itself, which has a child; both are the agent's.
    let script = format!("x=$(head -c {HELD} /dev/zero | tr '\\0' x); sleep 600; echo ${{#x}}");
    let input = json!({"i": {"command": {"argv": ["sh", "-c", script]}}});
    let done = node.ok("mutation($i:SubmitTaskInput!){submitTask(input:$i){task{id}}}", input).await;
    let task = done["submitTask"]["task"]["id"].clone();
    let agent = soon("it is with an agent", async {
        loop {
            let found = node.ok("query($id:ID!){node(id:$id){...on Task{attempts{agent{id}}}}}", json!({"id": task})).await;
            if let Some(agent) = found["node"]["attempts"][0]["agent"]["id"].as_str() {
                return agent.to_owned();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let read = "query($id:ID!,$p:Int!=600){agentResources(id:$id,points:$p){at processes cpuSecondsTotal residentBytes}}";
    let newest = |wanted: fn(&Value) -> bool| {
        let (node, agent) = (&node, agent.clone());
        async move {
            loop {
                let found = node.ok(read, json!({"id": agent})).await;
                let last = found["agentResources"].as_array().unwrap().last();
                if let Some(last) = last.filter(|last| wanted(last)) {
                    return last.clone();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let bytes = |sample: &Value| sample["residentBytes"].as_u64().unwrap();
    let held =
        soon_within(LOOKS, "its memory is measured", newest(|sample| sample["residentBytes"].as_u64().unwrap() >= HELD)).await;
    assert!(bytes(&held) < 4 * HELD, "{held}");
    assert!((1..=3).contains(&held["processes"].as_u64().unwrap()), "{held}");
    node.ok("mutation($id:ID!){cancelTask(input:{task:$id}){cursor}}", json!({"id": task})).await;
    assert_eq!(node.ended(&task).await["status"], "CANCELLED");
    let after = soon_within(LOOKS, "it is seen that nothing runs", newest(|sample| sample["processes"] == 0)).await;
    assert_eq!(bytes(&after), 0);
    assert!(
        after["cpuSecondsTotal"].as_f64() > Some(0.0) && after["cpuSecondsTotal"].as_f64() >= held["cpuSecondsTotal"].as_f64()
    );
    assert_eq!(node.refused(read, json!({"id": agent, "p": 0})).await.1.as_deref(), Some("points"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_an_attempt_left_is_read_piece_by_piece() {
    let node = TestNode::start().await;
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo end";
    let input = json!({"i": {"command": {"argv": ["sh", "-c", script]}}});
    let done = node.ok("mutation($i:SubmitTaskInput!){submitTask(input:$i){task{id}}}", input).await;
    let id = done["submitTask"]["task"]["id"].clone();
    assert_eq!(node.ended(&id).await["status"], "SUCCEEDED");
    let read = "query($id:ID!,$from:BigInt!,$max:Int!){node(id:$id){...on Task{artifacts{name bytes content(fromByte:$from,bytesMax:$max){base64 nextByte atEnd}}}}}";
    let (mut bytes, mut from) = (Vec::new(), json!(0));
    loop {
        let found = node.ok(read, json!({"id": id, "from": from, "max": 262_144})).await;
        let artifact = &found["node"]["artifacts"][0];
        assert_eq!(artifact["name"], "stdout");
        bytes.extend(BASE64.decode(artifact["content"]["base64"].as_str().unwrap()).unwrap());
        from = artifact["content"]["nextByte"].clone();
        if artifact["content"]["atEnd"] == true {
            assert_eq!(artifact["bytes"].as_u64().unwrap(), bytes.len() as u64);
            break;
        }
    }
    assert_eq!((bytes.len(), &bytes[3_000_000..]), (3_000_004, b"end\n".as_slice()));
    assert_eq!(node.refused(read, json!({"id": id, "from": 0, "max": 262_145})).await.1.as_deref(), Some("bytesMax"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_artifact_is_never_served_and_a_scrub_names_it() {
    let node = TestNode::start().await;
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo end";
    let input = json!({"i": {"command": {"argv": ["sh", "-c", script]}}});
    let done = node.ok("mutation($i:SubmitTaskInput!){submitTask(input:$i){task{id}}}", input).await;
    let id = done["submitTask"]["task"]["id"].clone();
    assert_eq!(node.ended(&id).await["status"], "SUCCEEDED");
    let scrub = "mutation{scrub(input:{}){blobs bytes damaged repaired lost next}}";
    let whole = node.ok(scrub, json!({})).await["scrub"].take();
    assert_eq!((&whole["damaged"], &whole["lost"], &whole["next"]), (&json!(0), &json!([]), &Value::Null), "{whole}");
    let hash = node.ok("query($id:ID!){node(id:$id){...on Task{artifacts{hash}}}}", json!({"id": id})).await;
    let hash = hash["node"]["artifacts"][0]["hash"].as_str().unwrap().to_owned();
    let path = node.data_dir().join("blobs").join(&hash[..2]).join(&hash);
    let right = std::fs::read(&path).unwrap();
    let read = "query($id:ID!,$from:BigInt!){node(id:$id){...on Task{artifacts{content(fromByte:$from,bytesMax:1000){base64}}}}}";
    for at in [0, 65_535, 65_536, 1_500_000, 3_000_003] {
        let mut bytes = right.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (code, _, message) = node.refused(read, json!({"id": id, "from": at})).await;
        assert!(code == "UNAVAILABLE" && message.contains("damaged") && message.contains(&hash), "{code}: {message}");
        // And not after that either, wherever one reads.
        assert_eq!(node.refused(read, json!({"id": id, "from": 200_000})).await.0, "UNAVAILABLE");
        let found = node.ok(scrub, json!({})).await["scrub"].take();
        assert_eq!((&found["damaged"], &found["repaired"], &found["lost"]), (&json!(1), &json!(0), &json!([hash])), "{found}");
    }
    assert_eq!(node.refused("mutation{scrub(input:{after:\"x\"}){blobs}}", json!({})).await.1.as_deref(), Some("after"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_of_entities_have_their_names_and_every_place_for_a_fault_is_told() {
    let node = TestNode::start().await;
    let tree = "{supervisionTree{children{name children{key entityName}}} faultPlaces{point about} agents{nodes{id name}}}";
    let found = node.ok(tree, json!({})).await;
    let actors: Vec<&Value> = found["supervisionTree"]["children"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["children"].as_array().unwrap())
        .collect();
    for agent in found["agents"]["nodes"].as_array().unwrap() {
        let actor = actors.iter().find(|actor| actor["key"] == agent["id"]).expect("every agent is in the tree");
        assert_eq!(actor["entityName"], agent["name"]);
    }
    assert!(actors.iter().any(|actor| actor["entityName"] == "default"), "the swarm's coordinator has its name");
    assert!(actors.iter().all(|actor| actor["key"].is_string() || actor["entityName"].is_null()));
    let places = found["faultPlaces"].as_array().unwrap();
    assert!(places.iter().any(|place| place["point"] == "actor.handle"));
    assert!(places.iter().all(|place| !place["about"].as_str().unwrap().is_empty()));
    node.stop().await;
}
