//! A swarm with several coordinators, as clients see it: one swarm.

use serde_json::json;

use crate::support::node::TestNode;

const CREATE: &str = "mutation($input:CreateSwarmInput!){createSwarm(input:$input){swarm{id name shards{number nodeId node{id} \
                      agentCount queued running}} cursor}}";
const AGENT: &str = "mutation($input:CreateAgentInput!){createAgent(input:$input){agent{id swarm{id}} cursor}}";
const SUBMIT: &str = "mutation($input: SubmitTaskInput!){submitTask(input:$input){task{id swarm{id}} cursor}}";

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_with_shards_is_one_swarm_whose_idle_shards_take_what_waits_in_others() {
    let node = TestNode::start().await;
    let made = node.ok(CREATE, json!({ "input": { "name": "wide", "shards": 3 } })).await["createSwarm"]["swarm"].clone();
    let shards = made["shards"].as_array().unwrap();
    assert_eq!(shards.iter().map(|shard| shard["number"].clone()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(shards.iter().all(|shard| shard["nodeId"] == shard["node"]["id"] && shard["nodeId"].is_string()), "{made}");
    let input = json!({ "input": { "name": "one", "swarm": "wide", "connector": { "command": true } } });
    assert_eq!(node.ok(AGENT, input).await["createAgent"]["agent"]["swarm"]["id"], made["id"]);
    // The one agent belongs to one shard; whichever an operation goes to, its task gets there.
    let mut moved = 0;
    for n in 0..6 {
        let input = json!({ "swarm": "wide", "operationId": format!("n{n}"), "command": { "argv": ["echo", "hi"] } });
        let task = node.ok(SUBMIT, json!({ "input": input })).await["submitTask"]["task"].clone();
        assert_eq!(task["swarm"]["id"], made["id"]);
        assert_eq!(node.ended(&task["id"]).await["status"], "SUCCEEDED");
        let read = "query($id:ID!){node(id:$id){... on Task{why swarm{id name} moves{fromShard toShard takenAt why}}}}";
        let task = node.ok(read, json!({ "id": task["id"] })).await["node"].clone();
        assert_eq!((&task["swarm"]["id"], &task["swarm"]["name"]), (&made["id"], &json!("wide")));
        for step in task["moves"].as_array().unwrap() {
            moved += 1;
            assert!(step["toShard"] == 0 && step["takenAt"].is_string(), "{task}");
            assert!(task["why"].as_str().unwrap().contains(step["why"].as_str().unwrap()), "{task}");
        }
    }
    assert!(moved > 0, "all six went to the shard of the agent");
    let listed = "{swarms{nodes{id name agentCount taskCounts{status count}}} tasks(filter:{swarm:\"wide\"}){nodes{id}}}";
    let listed = node.ok(listed, json!({})).await;
    let wide: Vec<_> = listed["swarms"]["nodes"].as_array().unwrap().iter().filter(|swarm| swarm["name"] == "wide").collect();
    assert_eq!((wide.len(), wide[0]["agentCount"].clone()), (1, json!(1)));
    assert_eq!(listed["tasks"]["nodes"].as_array().unwrap().len(), 6);
    for (input, field) in
        [(json!({ "name": "none", "shards": 0 }), "shards"), (json!({ "name": "many", "shards": 65 }), "shards")]
    {
        let (code, named, _) = node.refused(CREATE, json!({ "input": input })).await;
        assert_eq!((code.as_str(), named.as_deref()), ("INVALID", Some(field)));
    }
    let remove = "mutation($input:RemoveSwarmInput!){removeSwarm(input:$input){swarm{id}}}";
    node.ok(remove, json!({ "input": { "swarm": "wide", "force": true } })).await;
    let left = node.ok("{swarms(filter:{nameContains:\"wide\"}){nodes{id}}}", json!({})).await;
    assert_eq!(left["swarms"]["nodes"], json!([]));
    node.stop().await;
}
