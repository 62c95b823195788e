//! The gateway holds a client's token to what clients may do.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::node::TestNode;

fn first_error(answer: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("no JSON: {answer}"));
    answer["errors"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_no_administrator_changes_no_host_image_or_network() {
    let node = TestNode::start().await;
    let registered = r#"mutation{registerHost(input:{uri:"simulated://rights",name:"alpha"}){cursor}}"#;
    node.ok(registered, json!({})).await;
    node.ok(r#"mutation{createNetwork(input:{name:"old",kind:ISOLATED}){cursor}}"#, json!({})).await;
    let all = "{hosts(first:10){nodes{name uri status}} images(first:10){nodes{name}} networks(first:10){nodes{name}}}";
    // It is connected to meanwhile, which is no change of the client's.
    let mut before = node.ok(all, json!({})).await;
    while before["hosts"]["nodes"][0]["status"] == "CONNECTING" {
        tokio::time::sleep(Duration::from_millis(10)).await;
        before = node.ok(all, json!({})).await;
    }
    for (field, mutation) in [
        ("declareHostLost", r#"mutation{declareHostLost(input:{host:"alpha",confirm:"alpha"}){cursor}}"#),
        ("registerHost", r#"mutation{registerHost(input:{uri:"simulated://rights-two",name:"beta"}){cursor}}"#),
        ("removeHost", r#"mutation{removeHost(input:{host:"alpha",force:true}){cursor}}"#),
        ("drainHost", r#"mutation{drainHost(input:{host:"alpha"}){cursor}}"#),
        ("importImage", r#"mutation{importImage(input:{name:"i",source:"/etc/passwd"}){__typename}}"#),
        ("removeNetwork", r#"mutation{removeNetwork(input:{network:"old"}){cursor}}"#),
        ("createNetwork", r#"mutation{createNetwork(input:{name:"n",kind:ISOLATED}){cursor}}"#),
        ("createJoinToken", "mutation{createJoinToken(input:{}){__typename}}"),
        ("scrub", "mutation{scrub(input:{}){__typename}}"),
        // By another name, in a fragment, behind something that is allowed.
        ("removeHost", r#"mutation{submitTasks:removeHost(input:{host:"alpha",force:true}){cursor}}"#),
        ("removeHost", r#"mutation{...F} fragment F on Mutation{removeHost(input:{host:"alpha",force:true}){cursor}}"#),
        (
            "removeHost",
            r#"mutation{submitTask(input:{command:{argv:["true"]}}){cursor} ...on Mutation{removeHost(input:{host:"alpha",force:true}){cursor}}}"#,
        ),
        ("faults", "{faults{__typename}}"),
        ("vmBackups", r#"{vmBackups(in:"/tmp"){__typename}}"#),
    ] {
        let answer = node.to_a_client("/graphql", mutation).await;
        let error = first_error(&answer);
        assert_eq!(error["extensions"]["code"], "FORBIDDEN", "{mutation}: {answer}");
        assert!(error["message"].as_str().unwrap().starts_with(&format!("client may not {field}")), "{answer}");
        assert!(error["path"].is_array() && error["locations"].is_array(), "it says where: {answer}");
    }
    assert_eq!(node.ok(all, json!({})).await, before);
    let own = node.to_a_client("/graphql", r#"mutation{submitTask(input:{command:{argv:["true"]}}){task{id}}}"#).await;
    assert!(own.contains("task_") && !own.contains("errors"), "{own}");
    node.stop().await;
}
