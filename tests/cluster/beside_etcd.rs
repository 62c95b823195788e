//! The figure beside which ours stands: how soon writes are accepted again after the leader is killed, here and in etcd.
//! Long form only; needs Debian's etcd-server.

use std::time::{Duration, Instant};

use hiveward_tests::{
    cluster::{Cluster, Shape, may_partition},
    dice,
    etcd::{self, Etcd},
    long, rounds, skip,
};

use crate::scene::{Again, Scene, print_quantiles, quantiles};

fn quantile(all: &mut [Duration], percent: usize) -> Duration {
    all.sort();
    all[(all.len() * percent).div_ceil(100) - 1]
}

async fn ours(rounds: usize) -> Option<Vec<Again>> {
    let mut scene = Scene::begin(Shape::of(3)).await?;
    let mut waited = Vec::new();
    for _ in 0..rounds {
        let leader = scene.cluster.leader().await;
        waited.push(scene.kill_and_wait(leader).await);
    }
    scene.end().await;
    Some(waited)
}

async fn etcds(rounds: usize) -> Vec<Duration> {
    let mut dice = dice();
    let places = Cluster::prepare(&Shape::of(3)).unwrap();
    let mut etcd = Etcd::start(&places).await;
    let mut waited = Vec::new();
    for _ in 0..rounds {
        let leader = etcd.leader().await;
        for _ in 0..dice.usize(1..30) {
            etcd.accepted_again(Instant::now()).await;
        }
        let killed = Instant::now();
        etcd.kill(leader);
        waited.push(etcd.accepted_again(killed).await);
        etcd.spawn(&places, leader);
    }
    waited
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_accepted_again_no_later_than_half_as_long_again_as_in_etcd() {
    let asked = long() || std::env::var_os("HIVEWARD_ROUNDS").is_some();
    if !(asked && may_partition() && etcd::installed()) {
        return skip("a figure of the long form; needs root and etcd (Debian: etcd-server)");
    }
    let rounds = rounds(5, 50);
    let mut theirs = etcds(rounds).await;
    let (half, most) = (quantile(&mut theirs, 50), quantile(&mut theirs, 99));
    eprintln!("etcd accepts writes again: p50 {half:?}, p99 {most:?} over {rounds} kills of the leader");
    let Some(ours) = ours(rounds).await else { return };
    print_quantiles(&ours);
    let (our_half, our_most) = quantiles(&ours).expect("some were killed");
    assert!(our_half <= half * 3 / 2 && our_most <= most * 3 / 2, "beside etcd's {half:?} and {most:?}");
}
