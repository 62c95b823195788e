//! The public API over a real node.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::{node::TestNode, soon};

const SUBMIT: &str = "mutation($input: SubmitTaskInput!){submitTask(input:$input){task{id status} cursor}}";

fn echo(text: &str) -> Value {
    json!({ "command": { "argv": ["echo", text] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_task_is_read_back_at_its_cursor_and_its_end_is_streamed() {
    let node = TestNode::start().await;
    let mut input = echo("hi there");
    input["labels"] = json!([{"key": "team", "value": "blue"}]);
    let done = node.ok(SUBMIT, json!({ "input": input })).await;
    let (id, cursor) = (done["submitTask"]["task"]["id"].clone(), done["submitTask"]["cursor"].clone());
    let read = "query($c:Cursor,$id:ID!){tasks(atLeast:$c,filter:{label:[{key:\"team\",value:\"blue\"}]}){nodes{id swarm{name} command{argv} labels{key value}}} node(id:$id){id __typename}}";
    let read = node.ok(read, json!({ "c": cursor, "id": id })).await;
    assert_eq!(read["tasks"]["nodes"][0]["id"], id);
    assert_eq!(read["tasks"]["nodes"][0]["swarm"]["name"], "default");
    assert_eq!(read["tasks"]["nodes"][0]["command"]["argv"], json!(["echo", "hi there"]));
    assert_eq!(read["node"], json!({ "id": id, "__typename": "Task" }));
    let task = node.ended(&id).await;
    assert_eq!((task["status"].as_str(), task["resultText"].as_str()), (Some("SUCCEEDED"), Some("hi there\n")));
    let attempt = &task["attempts"][0];
    assert_eq!((attempt["number"].clone(), attempt["exitCode"].clone()), (json!(1), json!(0)));
    assert_eq!(attempt["decision"]["chosen"], attempt["agentId"]);
    let output = node
        .subscribe("subscription($id:ID!){taskOutput(task:$id){text nextByte atEnd stream}}", json!({ "id": id }), None)
        .await;
    let chunks: Vec<Value> = soon("the output ends", output.map(|(_, data)| data["taskOutput"].clone()).collect()).await;
    let text: String = chunks.iter().filter_map(|chunk| chunk["text"].as_str()).collect();
    assert_eq!(text, "hi there\n");
    assert_eq!(chunks.last().unwrap()["atEnd"], true);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_id_gives_the_same_answer_and_refuses_another_input() {
    let node = TestNode::start().await;
    let input = |text: &str| json!({ "input": { "operationId": "once", "command": { "argv": ["echo", text] } } });
    let first = node.ok(SUBMIT, input("a")).await;
    let second = node.ok(SUBMIT, input("a")).await;
    assert_eq!(first["submitTask"]["task"]["id"], second["submitTask"]["task"]["id"]);
    assert_eq!(node.refused(SUBMIT, input("b")).await.0, "CONFLICT");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_names_its_field_and_changes_nothing() {
    let node = TestNode::start().await;
    let head = node.ok("{cluster{cursor}}", json!({})).await;
    let with = |field: &str, value: Value| {
        let mut input = echo("x");
        input[field] = value;
        input
    };
    let unknown = "task_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5";
    for (input, code, field) in [
        (json!({}), "INVALID", "command"),
        (json!({ "command": { "argv": [] } }), "INVALID", "command.argv"),
        (json!({ "command": { "argv": [""] } }), "INVALID", "command.argv"),
        (json!({ "command": { "argv": ["a\u{0}b"] } }), "INVALID", "command.argv.0"),
        (json!({ "command": { "argv": ["a"], "env": [{"name": "A=B", "value": ""}] } }), "INVALID", "command.env.0.name"),
        (with("kind", json!("build")), "INVALID", "kind"),
        (with("payload", json!({})), "INVALID", "payload"),
        (with("dependsOn", json!(["task_x"])), "INVALID", "dependsOn.0"),
        (with("dependsOn", json!([unknown])), "NOT_FOUND", "dependsOn"),
        (with("agent", json!("agent_x")), "INVALID", "agent"),
        (with("delayMs", json!(-1)), "INVALID", "delayMs"),
        (with("delayMs", json!(1_u64 << 31)), "INVALID", "delayMs"),
        (with("swarm", json!("x".repeat(129))), "INVALID", "swarm"),
        (with("retry", json!({"maxAttempts": 0})), "INVALID", "retry.maxAttempts"),
        (with("retry", json!({"jitter": 2.0})), "INVALID", "retry.jitter"),
        (with("title", json!("x".repeat(300))), "LIMIT", "title"),
        (with("operationId", json!("")), "INVALID", "operationId"),
        (with("operationId", json!("x".repeat(129))), "INVALID", "operationId"),
        (with("nonsense", json!(1)), "INVALID", ""),
        (with("priority", json!("URGENT")), "INVALID", ""),
        (with("title", json!(7)), "INVALID", ""),
    ] {
        let (got, at, message) = node.refused(SUBMIT, json!({ "input": input })).await;
        assert_eq!(got, code, "{input}: {message}");
        assert!(field.is_empty() || at.as_deref() == Some(field), "{input}: {at:?} is not {field}: {message}");
    }
    let (code, ..) = node.refused("{tasks(first:501){nodes{id}}}", json!({})).await;
    assert_eq!(code, "LIMIT");
    assert_eq!(node.refused("{node(id:\"nothing_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5\"){id}}", json!({})).await.0, "INVALID");
    assert_eq!(node.refused("{supervisionTree(root:\"nobody\"){path}}", json!({})).await.0, "NOT_FOUND");
    assert_eq!(node.ok("{cluster{cursor}}", json!({})).await, head);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_cannot_be_read_is_refused_by_its_name_however_deep_it_stands() {
    let node = TestNode::start().await;
    let create = "mutation($made:CreateAgentInput!){createAgent(input:$made){agent{id limits{memoryBytes}}}}";
    let vm = |last: Value| {
        let disks = json!([{ "name": "a", "sizeBytes": "1073741824" }, { "name": "b", "sizeBytes": last }]);
        json!({ "session": { "vm": { "image": "debian-12", "memoryBytes": 1 << 30, "disks": disks } } })
    };
    for (mut input, field) in [
        (json!({ "limits": { "memoryBytes": -1 } }), "limits.memoryBytes"),
        (json!({ "limits": { "cpuMillis": 1_u64 << 31 } }), "limits.cpuMillis"),
        (json!({ "session": { "kind": "PTY", "cols": -1 } }), "session.cols"),
        (json!({ "session": { "kind": "PTY", "rows": 65_536 } }), "session.rows"),
        (vm(json!(1e300)), "session.vm.disks.1.sizeBytes"),
        (vm(json!("many")), "session.vm.disks.1.sizeBytes"),
    ] {
        input["name"] = json!("x");
        let (code, at, message) = node.refused(create, json!({ "made": input })).await;
        assert_eq!((code.as_str(), at.as_deref()), ("INVALID", Some(field)), "{message}");
    }
    let written = "mutation{createAgent(input:{name:\"x\",limits:{memoryBytes:-1}}){cursor}}";
    assert_eq!(node.refused(written, json!({})).await.1.as_deref(), Some("limits.memoryBytes"));
    let large = json!({ "name": "x", "autoStart": false, "limits": { "memoryBytes": 1_u64 << 40 } });
    let made = node.ok(create, json!({ "made": large })).await;
    assert_eq!(made["createAgent"]["agent"]["limits"]["memoryBytes"], json!(1_u64 << 40));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_task_once() {
    let node = TestNode::start().await;
    let tasks: Vec<Value> =
        (0..23).map(|n| json!({ "title": format!("t{n}"), "delayMs": 600_000, "command": { "argv": ["true"] } })).collect();
    let made = node
        .ok("mutation($t:[BatchedTaskInput!]!){submitTasks(input:{tasks:$t}){tasks{id} cursor}}", json!({ "t": tasks }))
        .await;
    let cursor = &made["submitTasks"]["cursor"];
    let (mut seen, mut after, mut pages) = (Vec::new(), Value::Null, 0);
    loop {
        let page = "query($a:String,$c:Cursor){tasks(first:5,after:$a,atLeast:$c,filter:{status:[QUEUED]}){edges{cursor node{id}} pageInfo{hasNextPage endCursor}}}";
        let page = node.ok(page, json!({ "a": after, "c": cursor })).await["tasks"].take();
        seen.extend(page["edges"].as_array().unwrap().iter().map(|edge| edge["node"]["id"].to_string()));
        pages += 1;
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (23, 23));
    assert!(pages <= 6, "{pages}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_cut_again_and_again_gets_exactly_the_events_after_each_cursor() {
    let node = TestNode::start().await;
    let agent = "mutation{createAgent(input:{name:\"n\",connector:{noop:true},maxConcurrentTasks:64}){agent{id}}}";
    node.ok(agent, json!({})).await;
    let from = node.ok("{cluster{cursor}}", json!({})).await["cluster"]["cursor"].as_str().unwrap().to_owned();
    let writing = async {
        for n in 0..20 {
            let tasks: Vec<Value> = (0..10).map(|m| json!({ "kind": "probe", "title": format!("{n}.{m}") })).collect();
            node.ok("mutation($t:[BatchedTaskInput!]!){submitTasks(input:{tasks:$t}){cursor}}", json!({ "t": tasks })).await;
        }
    };
    let reading = async {
        let (mut got, mut last, mut cuts) = (Vec::new(), None::<String>, 0_u32);
        let mut ended = 0;
        while ended < 200 {
            let query = "subscription($a:Cursor){events(after:$a){cursor kind}}";
            // The first time by argument, then as a browser resumes: by the last id, which wins over the argument.
            let mut events = node.subscribe(query, json!({ "a": from }), last.as_deref()).await;
            let take = 1 + (cuts * 7 + 3) % 23;
            cuts += 1;
            for _ in 0..take {
                if ended == 200 {
                    break;
                }
                let (id, data) = events.next().await.expect("goes on");
                ended += u32::from(data["events"]["kind"] == "TaskAttemptEnded");
                assert_eq!(id.as_deref(), data["events"]["cursor"].as_str());
                got.push(data["events"]["cursor"].as_str().unwrap().parse::<u64>().unwrap());
                last = id;
            }
        }
        (got, cuts)
    };
    let ((), (got, cuts)) = soon("every task has ended", futures_util::future::join(writing, reading)).await;
    assert!(cuts > 20, "{cuts}");
    let first: u64 = from.parse().unwrap();
    let expected: Vec<u64> = (first + 1..=first + got.len() as u64).collect();
    assert_eq!(got, expected, "nothing missed, nothing twice, in order");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_subscription_hears_only_of_its_task_whether_it_reads_or_follows() {
    let node = TestNode::start().await;
    let one = node.ok(SUBMIT, json!({ "input": echo("one") })).await["submitTask"]["task"]["id"].clone();
    let query = "subscription($id:ID!,$a:Cursor){events(after:$a,filter:{task:$id}){kind task}}";
    let mut events = node.subscribe(query, json!({ "id": one, "a": "0" }), None).await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "TaskAttemptEnded") {
        node.ok(SUBMIT, json!({ "input": echo("another") })).await;
        let (_, data) = soon("an event", events.next()).await.unwrap();
        assert_eq!(data["events"]["task"], one);
        kinds.push(data["events"]["kind"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds, ["TaskSubmitted", "TaskAssigned", "TaskStarted", "TaskAttemptEnded"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_swarms_the_tree_and_faults_are_there_to_be_seen_and_commanded() {
    let node = TestNode::start().await;
    let swarm = node.ok("mutation{createSwarm(input:{name:\"s\",strategy:ROUND_ROBIN,weights:{free:0.4}}){swarm{id name strategy weights{free}}}}", json!({})).await;
    assert_eq!(swarm["createSwarm"]["swarm"]["weights"]["free"], 0.4);
    let create = "mutation{createAgent(input:{name:\"a\",swarm:\"s\",connector:{noop:true},skills:[{name:\"rust\",proficiency:0.5}]}){agent{id status swarm{name}} cursor}}";
    let made = node.ok(create, json!({})).await["createAgent"]["agent"].take();
    assert_eq!((made["status"].as_str(), made["swarm"]["name"].as_str()), (Some("IDLE"), Some("s")));
    let id = made["id"].clone();
    for (mutation, status) in [
        ("pauseAgent", "PAUSED"),
        ("resumeAgent", "IDLE"),
        ("stopAgent", "STOPPED"),
        ("startAgent", "IDLE"),
        ("restartAgent", "IDLE"),
    ] {
        let name = mutation[..1].to_uppercase() + &mutation[1..];
        let done = node
            .ok(&format!("mutation($i:{name}Input!){{{mutation}(input:$i){{agent{{status}}}}}}"), json!({ "i": { "agent": id } }))
            .await;
        assert_eq!(done[mutation]["agent"]["status"], status, "{mutation}");
    }
    let found = node.ok("{agents(filter:{swarm:\"s\",skill:\"rust\"}){nodes{id}} supervisionTree{name status childCount children{name children{key kind}}} cluster{leader{id} nodes{id leader}}}", json!({})).await;
    assert_eq!(found["agents"]["nodes"][0]["id"], id);
    assert_eq!(found["supervisionTree"]["status"], "RUNNING");
    assert!(found["supervisionTree"].to_string().contains(id.as_str().unwrap()));
    assert_eq!(found["cluster"]["leader"]["id"], found["cluster"]["nodes"][0]["id"]);
    let fault =
        "mutation{injectFault(input:{point:\"actor.start\",key:\"nobody\",fault:ERROR,times:3}){points{point times struck}}}";
    assert_eq!(node.ok(fault, json!({})).await["injectFault"]["points"][0]["times"], 3);
    let removed =
        node.ok("mutation($i:RemoveAgentInput!){removeAgent(input:$i){agent{id}}}", json!({ "i": { "agent": id } })).await;
    assert_eq!(removed["removeAgent"]["agent"]["id"], id);
    assert_eq!(node.ok("query($id:ID!){node(id:$id){id}}", json!({ "id": id })).await["node"], Value::Null);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_supervision_stream_what_happens() {
    let node = TestNode::start().await;
    let mut samples = node.subscribe("subscription{metrics(everyMs:100){at eventsTotal residentBytes}}", json!({}), None).await;
    for _ in 0..2 {
        let (_, sample) = soon("a sample", samples.next()).await.unwrap();
        assert!(sample["metrics"]["eventsTotal"].as_u64().unwrap() > 0);
    }
    let mut changes = node.subscribe("subscription{supervision{path change kind}}", json!({}), None).await;
    node.ok("mutation{createAgent(input:{name:\"fresh\",connector:{noop:true}}){agent{id}}}", json!({})).await;
    soon("the start is told", async {
        loop {
            let (_, change) = changes.next().await.unwrap();
            if change["supervision"]["kind"] == "agent" && change["supervision"]["change"] == "STARTED" {
                return;
            }
        }
    })
    .await;
    node.stop().await;
}
