//! Who asks with a key has its role, in its project, for as long as the key is worth something.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::support::{node::TestNode, soon};

/// Makes a project and returns its id.
async fn project(node: &TestNode, name: &str) -> String {
    let made = node.ok("mutation($n:String!){createProject(input:{name:$n}){project{id name}}}", json!({ "n": name })).await;
    made["createProject"]["project"]["id"].as_str().unwrap().to_owned()
}

/// Makes a key with a role in a project, or in the whole cluster, and returns its id and its text.
async fn key(node: &TestNode, name: &str, role: &str, project: Option<&str>) -> (String, String) {
    let input = json!({ "name": name, "role": role, "project": project });
    let made =
        node.ok("mutation($i:CreateApiKeyInput!){createApiKey(input:$i){apiKey{id prefix} secret}}", json!({ "i": input })).await;
    let made = &made["createApiKey"];
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with(made["apiKey"]["prefix"].as_str().unwrap()));
    (made["apiKey"]["id"].as_str().unwrap().to_owned(), secret)
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("OK")
}

const ALL: &str = "{swarms(first:100){nodes{name}} agents(first:100){nodes{name}} tasks(first:100){nodes{id}} \
                   events(first:500){nodes{kind}} projects(first:10){nodes{name}} hosts(first:9){nodes{name}} nodes(first:9){nodes{id}}}";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_project_is_seen_and_done_by_its_members_and_is_not_there_for_others() {
    let node = TestNode::start().await;
    let (web, _shop) = (project(&node, "web").await, project(&node, "shop").await);
    let (_, manager) = key(&node, "web-manager", "agent-manager", Some("web")).await;
    let (_, creator) = key(&node, "web-creator", "task-creator", Some(&web)).await;
    let (_, stranger) = key(&node, "shop-manager", "agent-manager", Some("shop")).await;

    // Its own project is where a key makes things that name none.
    let made = node
        .asked_with(&manager, None, r#"mutation{createSwarm(input:{name:"builders"}){swarm{id project{name}}}}"#, json!({}))
        .await;
    assert_eq!(made["data"]["createSwarm"]["swarm"]["project"]["name"], "web", "{made}");
    let swarm = made["data"]["createSwarm"]["swarm"]["id"].clone();
    let agent = "mutation($s:ID!){createAgent(input:{name:\"one\",swarm:$s,connector:{command:true}}){agent{id}}}";
    let agent = node.asked_with(&manager, None, agent, json!({ "s": swarm })).await;
    let agent = agent["data"]["createAgent"]["agent"]["id"].clone();
    assert!(agent.is_string());
    let submit = "mutation($s:ID!){submitTask(input:{swarm:$s,command:{argv:[\"true\"]}}){task{id}}}";
    let task = node.asked_with(&creator, None, submit, json!({ "s": "builders" })).await;
    let task = task["data"]["submitTask"]["task"]["id"].clone();
    node.ended(&task).await;

    // Another project has no such swarm, and may have one of that name.
    let none = node.asked_with(&stranger, None, ALL, json!({})).await;
    for list in ["swarms", "agents", "tasks", "hosts", "nodes"] {
        assert_eq!(none["data"][list]["nodes"], json!([]), "{list} of a stranger: {none}");
    }
    // Of what happened he hears what happened to his own project.
    assert_eq!(none["data"]["events"]["nodes"], json!([{ "kind": "ProjectCreated" }, { "kind": "ApiKeyCreated" }]));
    assert_eq!(none["data"]["projects"]["nodes"], json!([{ "name": "shop" }]));
    for (query, id) in [
        ("query($id:ID!){node(id:$id){id}}", &swarm),
        ("query($id:ID!){node(id:$id){id}}", &agent),
        ("query($id:ID!){node(id:$id){id}}", &task),
    ] {
        let seen = node.asked_with(&stranger, None, query, json!({ "id": id })).await;
        assert_eq!(seen["data"]["node"], Value::Null, "{seen}");
    }
    let gone = json!("task_00000000000000000000000000000007");
    let cancel = "mutation($id:ID!){cancelTask(input:{task:$id}){cursor}}";
    let hidden = node.asked_with(&stranger, None, cancel, json!({ "id": task })).await;
    let absent = node.asked_with(&stranger, None, cancel, json!({ "id": gone })).await;
    assert_eq!(code(&hidden), "NOT_FOUND", "{hidden}");
    assert_eq!(
        hidden
            .to_string()
            .replace(task.as_str().unwrap(), "ID")
            .replace(hidden["extensions"]["trace"].as_str().unwrap_or("-"), "T"),
        absent
            .to_string()
            .replace(gone.as_str().unwrap(), "ID")
            .replace(absent["extensions"]["trace"].as_str().unwrap_or("-"), "T"),
        "what is hidden is answered as what is not there"
    );
    let twin = node.asked_with(&stranger, None, r#"mutation{createSwarm(input:{name:"builders"}){swarm{id}}}"#, json!({})).await;
    assert_eq!(code(&twin), "OK", "{twin}");
    assert_eq!(code(&node.asked_with(&stranger, Some("web"), "{me{name}}", json!({})).await), "NOT_FOUND");

    // A task creator tends what is its own and nothing else.
    let second =
        node.asked_with(&manager, None, submit, json!({ "s": "builders" })).await["data"]["submitTask"]["task"]["id"].clone();
    let refused = node.asked_with(&creator, None, cancel, json!({ "id": second })).await;
    assert_eq!(code(&refused), "FORBIDDEN", "{refused}");
    let may = "query($id:ID!){own:canI(verb:\"cancelTask\",id:$id){allowed because} remove:canI(verb:\"removeSwarm\"){allowed because}}";
    let own = node.asked_with(&creator, None, may, json!({ "id": task })).await;
    assert_eq!(own["data"]["own"], json!({ "allowed": true, "because": ["role/task-creator-own"] }), "{own}");
    assert_eq!(own["data"]["remove"], json!({ "allowed": false, "because": [] }));
    let other = node.asked_with(&creator, None, may, json!({ "id": second })).await;
    assert_eq!(other["data"]["own"]["allowed"], false, "{other}");

    // Who has a role in the whole cluster sees it all; names are looked up where he says.
    let all = node.ok(ALL, json!({})).await;
    let mut names: Vec<_> =
        all["swarms"]["nodes"].as_array().unwrap().iter().map(|swarm| swarm["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["builders", "builders", "default"]);
    let elsewhere = node.asked_with(crate::support::TOKEN, Some("web"), submit, json!({ "s": "builders" })).await;
    assert_eq!(code(&elsewhere), "OK", "{elsewhere}");
    assert_eq!(code(&node.asked_with(crate::support::TOKEN, None, submit, json!({ "s": "builders" })).await), "NOT_FOUND");

    // A project that has something stays.
    let (code, _, message) = node.refused(r#"mutation{removeProject(input:{project:"web"}){cursor}}"#, json!({})).await;
    assert!(code == "REFUSED" && message.contains("1 of swarm") && message.contains("2 of apikey"), "{message}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_is_worth_nothing_at_once_and_what_is_open_with_it_is_closed() {
    let node = TestNode::start().await;
    let (id, secret) = key(&node, "ci", "viewer", None).await;
    let mut request = node.url("/graphql/ws").replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    let (mut socket, _) = soon("it is open", tokio_tungstenite::connect_async(request)).await.unwrap();
    let say = |value: Value| Message::Text(value.to_string().into());
    socket.send(say(json!({"type": "connection_init", "payload": {"token": secret}}))).await.unwrap();
    soon("an answer", socket.next()).await.unwrap().unwrap();
    socket.send(say(json!({"type": "subscribe", "id": "1", "payload": {"query": "subscription{events{kind}}"}}))).await.unwrap();
    assert_eq!(code(&node.asked_with(&secret, None, "{me{name kind}}", json!({})).await), "OK");

    let listed = node.ok("{apiKeys(first:5){nodes{id name role createdBy}}}", json!({})).await;
    assert_eq!(listed["apiKeys"]["nodes"], json!([{ "id": id, "name": "ci", "role": "VIEWER", "createdBy": "tester" }]));
    assert!(!listed.to_string().contains(&secret));
    node.ok("mutation($id:ID!){revokeApiKey(input:{id:$id}){cursor}}", json!({ "id": "ci" })).await;
    assert_eq!(code(&node.asked_with(&secret, None, "{me{name}}", json!({})).await), "UNAUTHENTICATED");
    let closed = soon("it is closed", async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| (u16::from(frame.code), frame.reason.to_string())),
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return None,
            }
        }
    })
    .await;
    assert_eq!(closed, Some((4403, "Forbidden: the key was revoked, or its time is over".to_owned())));
    // The name is free again, and another key is another key.
    let (again, other) = key(&node, "ci", "viewer", None).await;
    assert!(again != id && other != secret);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_worth_nothing_when_its_time_is_over() {
    let node = TestNode::start().await;
    let input = json!({ "name": "short", "role": "viewer", "expiresInMs": "400" });
    let made = node.ok("mutation($i:CreateApiKeyInput!){createApiKey(input:$i){secret}}", json!({ "i": input })).await;
    let secret = made["createApiKey"]["secret"].as_str().unwrap().to_owned();
    soon("its end", async {
        while code(&node.asked_with(&secret, None, "{me{name}}", json!({})).await) != "UNAUTHENTICATED" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_does_not_fit_changes_nothing_and_one_that_does_is_named_by_its_refusals() {
    let node = TestNode::start().await;
    let apply = "mutation($t:String!){applyPolicy(input:{name:\"night\",text:$t}){cursor}}";
    let (code_of, field, message) =
        node.refused(apply, json!({ "t": "forbid (principal,\n  action == Action::\"fly\", resource);" })).await;
    assert_eq!((code_of.as_str(), field.as_deref()), ("INVALID", Some("text")), "{message}");
    assert!(message.contains("night, line "), "{message}");
    node.ok(apply, json!({ "t": "@id(\"no-swarms\") forbid (principal, action == Action::\"createSwarm\", resource);" })).await;
    let create = r#"mutation{createSwarm(input:{name:"late"}){cursor}}"#;
    let (code_of, _, message) = node.refused(create, json!({})).await;
    assert!(code_of == "FORBIDDEN" && message.contains("because of night/no-swarms"), "{message}");
    node.ok(r#"mutation{removePolicy(input:{name:"night"}){cursor}}"#, json!({})).await;
    node.ok(create, json!({})).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_has_his_role_from_when_he_is_one_until_he_is_none() {
    let node = TestNode::start().await;
    project(&node, "web").await;
    project(&node, "shop").await;
    let (_, secret) = key(&node, "ann", "viewer", Some("shop")).await;
    let create = r#"mutation{createSwarm(input:{name:"x",project:"web"}){swarm{id}}}"#;
    assert_eq!(code(&node.asked_with(&secret, None, create, json!({})).await), "NOT_FOUND");
    let member = |verb: &str, role: &str| {
        format!(
            "mutation{{{verb}(input:{{project:\"web\",member:\"key:ann\",role:\"{role}\"}}){{project{{members{{member roles}}}}}}}}"
        )
    };
    let added = node.ok(&member("addMember", "agent-manager"), json!({})).await;
    assert_eq!(added["addMember"]["project"]["members"], json!([{ "member": "key:ann", "roles": ["AGENT_MANAGER"] }]));
    assert_eq!(code(&node.asked_with(&secret, None, create, json!({})).await), "OK");
    let me = node.asked_with(&secret, None, "{me{name grants{role project{name}}}}", json!({})).await;
    assert_eq!(
        me["data"]["me"],
        json!({ "name": "key:ann", "grants": [
            { "role": "VIEWER", "project": { "name": "shop" } },
            { "role": "AGENT_MANAGER", "project": { "name": "web" } },
        ] })
    );
    node.ok(&member("removeMember", "agent-manager"), json!({})).await;
    assert_eq!(code(&node.asked_with(&secret, None, create, json!({})).await), "NOT_FOUND");
    node.stop().await;
}
