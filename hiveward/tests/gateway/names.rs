//! Promise: what a command is about may be named by its name, its id, or a unique beginning or end of the id.

use serde_json::Value;

use crate::{cli::hiveward, support::node::TestNode};

fn end(id: &str) -> String {
    let (noun, digits) = id.split_once('_').unwrap();
    format!("{noun}_{}", &digits[24..])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_is_about_is_named_by_name_id_or_a_unique_beginning_or_end() {
    let node = TestNode::start().await;
    let mut tasks = Vec::new();
    for _ in 0..12 {
        let ran = hiveward(&node, &["task", "submit", "--wait", "--", "true"]).await;
        tasks.push(ran.out.trim().to_owned());
    }
    let shown = |args: Vec<String>| {
        let node = &node;
        async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            hiveward(node, &[&["-o", "json"], &args[..]].concat()).await
        }
    };
    let args = |verb: [&str; 2], given: &str| vec![verb[0].to_owned(), verb[1].to_owned(), given.to_owned()];
    for id in [&tasks[0], &tasks[11]] {
        // One digit less than the whole is a beginning; those of other tasks differ before it.
        for given in [id.as_str(), &id[..36], &id[5..36], &end(id), &id[29..]] {
            let ran = shown(args(["task", "show"], given)).await;
            assert_eq!(ran.code, 0, "{given}: {}", ran.err);
            let found: Value = serde_json::from_str(&ran.out).unwrap();
            assert_eq!(found["id"], id.as_str(), "{given}");
        }
    }
    let ran = shown(args(["task", "show"], &tasks[0][..8])).await;
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(
        ran.err.contains("more than 10 tasks") && ran.err.contains(&tasks[11]) && !ran.err.contains(&tasks[0]),
        "{}",
        ran.err
    );
    let ran = shown(args(["task", "show"], "task_ffff")).await;
    assert!(ran.code == 3 && ran.err.contains("there is no task task_ffff"), "{}{}", ran.code, ran.err);

    let listed = hiveward(&node, &["-o", "json", "agent", "list"]).await;
    let agents: Vec<Value> = serde_json::from_str(&listed.out).unwrap();
    let agent = agents[0]["id"].as_str().unwrap();
    for given in [agent, &agent[..36], &end(agent), agents[0]["name"].as_str().unwrap()] {
        let ran = shown(args(["agent", "show"], given)).await;
        let found: Value = serde_json::from_str(&ran.out).unwrap_or_default();
        assert_eq!((ran.code, &found["id"]), (0, &agents[0]["id"]), "{given}: {}", ran.err);
        let ran = hiveward(&node, &["task", "submit", "--agent", given, "--wait", "--", "true"]).await;
        assert_eq!(ran.code, 0, "{given}: {}", ran.err);
        let ran = hiveward(&node, &["-q", "task", "list", "--agent", given, "--limit", "1"]).await;
        assert_eq!((ran.code, ran.out.lines().count()), (0, 1), "{}", ran.err);
    }
    let swarm = hiveward(&node, &["-q", "swarm", "list"]).await.out.trim().to_owned();
    let ran = hiveward(&node, &["-q", "swarm", "show", &end(&swarm)]).await;
    assert_eq!((ran.code, ran.out.trim()), (0, swarm.as_str()), "{}", ran.err);

    // A node is known by a beginning of its id, and one that works is not removed.
    for given in ["node_0", "127.0.0.1:1"] {
        let ran = hiveward(&node, &["node", "remove", given]).await;
        assert_eq!(ran.code, if given == "node_0" { 5 } else { 3 }, "{given}: {}", ran.err);
    }

    // People see names first and the ends of ids, programs whole ids.
    let table = hiveward(&node, &["agent", "list"]).await.out;
    assert!(table.starts_with("NAME") && table.contains(&end(agent)) && !table.contains(agent), "{table}");
    assert!(hiveward(&node, &["-q", "agent", "list"]).await.out.contains(agent));
    let tree = hiveward(&node, &["tree"]).await.out;
    let named = format!("{} {} (agent)", agents[0]["name"].as_str().unwrap(), end(agent));
    assert!(tree.contains(&named), "{named:?} is not in {tree}");
    for shown in ["tree", "status"] {
        let ran = hiveward(&node, &[shown]).await;
        assert!(ran.code == 0 && !ran.out.contains(&swarm) && !ran.out.contains(agent), "{}", ran.out);
    }
    node.stop().await;
}
