//! Promise of the oracle itself: on a node that is killed under load it finds nothing broken, and it was really at work.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use hiveward_tests::{
    cluster::{Cluster, Shape},
    dice,
    oracle::Load,
};
use serde_json::json;

use crate::scene::holds;

#[tokio::test(flavor = "multi_thread")]
async fn one_node_killed_and_frozen_under_load_breaks_no_promise() {
    let mut dice = dice();
    let mut cluster = Cluster::apart(&Shape::of(1)).await.unwrap();
    let load = Load::begin(&cluster, &mut dice).await;
    load.goes_on(50, Duration::from_secs(20)).await;
    // The families find out so who holds what.
    let client = cluster.client(0);
    let swarms = client.ok("{swarms(first:9){nodes{id name}} agents(first:9){nodes{id}}}", json!({})).await;
    for entity in [&swarms["swarms"]["nodes"][0], &swarms["agents"]["nodes"][0]] {
        assert!(holds(&cluster, 0, entity["id"].as_str().unwrap()).await, "{entity}");
    }
    assert!(!holds(&cluster, 0, "swarm_01a1fdce9a90750dbb51936da9e1424d").await);
    cluster.kill(0);
    let killed = Instant::now();
    cluster.start_again(0).await;
    eprintln!("accepted again after {:?}", load.accepted_again(killed).await);
    cluster.freeze(0);
    tokio::time::sleep(Duration::from_millis(dice.u64(100..1000))).await;
    cluster.thaw(0);
    load.goes_on(50, Duration::from_secs(20)).await;
    let verdict = load.finish().await;
    assert!(verdict.operations > 100 && verdict.events > 200 && verdict.moves > 2, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_forgot_what_it_acknowledged_is_found_out() {
    let mut dice = dice();
    let mut cluster = Cluster::apart(&Shape::of(1)).await.unwrap();
    let load = Load::begin(&cluster, &mut dice).await;
    load.goes_on(50, Duration::from_secs(20)).await;
    assert!(cluster.stop(0).await.success());
    let (now, old) = (cluster.node(0).data_dir().to_owned(), cluster.own_dir().join("old"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(&now, &old);
    cluster.start_again(0).await;
    load.goes_on(50, Duration::from_secs(20)).await;
    cluster.kill(0);
    std::fs::remove_dir_all(&now).unwrap();
    copy(&old, &now);
    cluster.start_again(0).await;
    load.goes_on(20, Duration::from_secs(20)).await;
    let judged = AssertUnwindSafe(load.finish()).catch_unwind().await.unwrap_err();
    let said = judged.downcast_ref::<String>().unwrap();
    assert!(said.contains("promises are broken") && said.contains("was acknowledged and is in no log"), "{said}");
}
