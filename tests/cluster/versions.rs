//! Promise: two adjacent versions run in one cluster, upward and back, and no acknowledged task is lost (F26).
//!
//! `HIVEWARD_BIN_BEFORE` is the binary of the version before.

use std::path::PathBuf;

use hiveward_tests::{binary, cluster::Shape, skip};

use crate::scene::{ELSEWHERE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_and_back_loses_nothing() {
    let Some(before) = std::env::var_os("HIVEWARD_BIN_BEFORE").map(PathBuf::from) else {
        return skip("HIVEWARD_BIN_BEFORE names no binary of the version before");
    };
    let shape = (0..3).fold(Shape::of(3), |shape, node| shape.binary(node, before.clone()));
    let Some(mut scene) = Scene::begin(shape).await else { return };
    let now = binary::hiveward().to_owned();
    for (binary, nodes) in [(now, [0, 1, 2]), (before, [2, 1, 0])] {
        for node in nodes {
            assert!(scene.cluster.stop(node).await.success());
            scene.cluster.node_mut(node).set_binary(binary.clone());
            scene.cluster.start_again(node).await;
            scene.cluster.settled().await;
            scene.load.goes_on(10, ELSEWHERE).await;
        }
    }
    scene.end().await;
}
