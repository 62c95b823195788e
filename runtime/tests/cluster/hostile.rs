//! What comes in from elsewhere: strangers, garbage, silence, floods.

use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use hiveward_runtime::{clock::WallMs, op::NodeId};
use tokio::io::AsyncReadExt;

use crate::support::{Hive, Node, pair, quick, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused_and_both_ends_say_why() {
    let (ours, theirs) = (Hive::found(), Hive::found());
    let a = Node::start(&ours.founder, 1, quick()).await;
    let b = Node::start(&theirs.founder, 1, quick()).await;
    a.knows(b.node(), b.manager.address());
    a.down(b.node(), "another cluster").await;
    until("a rejection", || (b.manager.links().snapshot().rejected > 0).then_some(())).await;
    assert!(b.manager.links().snapshot().links.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_in_both_roles_with_what_to_do() {
    let mut hive = Hive::found();
    let long_ago = WallMs(WallMs::now().0 - 48 * 3600 * 1000);
    let late = hive.member_signed_at(NodeId::from_u128(u128::MAX), long_ago);
    let early = hive.member_signed_at(NodeId::from_u128(1), long_ago);
    let a = Node::start(&hive.founder, 1, quick()).await;
    let (late, early) = (Node::start(&late, 1, quick()).await, Node::start(&early, 1, quick()).await);
    a.knows(late.node(), late.manager.address());
    a.down(late.node(), "has expired: check both hosts' clocks").await;
    early.knows(a.node(), a.manager.address());
    early.down(a.node(), "our certificate has expired").await;
    assert!(a.manager.links().link(early.node(), hiveward_runtime::net::link::Lane::Router).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_closed_at_the_deadline() {
    let hive = Hive::found();
    let mut config = quick();
    config.handshake_within = Duration::from_millis(200);
    let a = Node::start(&hive.founder, 1, config).await;
    let mut silent = tokio::net::TcpStream::connect(a.manager.address()).await.unwrap();
    until("it is counted", || (a.manager.links().snapshot().unproven == 1).then_some(())).await;
    assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0);
    until("its place is free", || (a.manager.links().snapshot().unproven == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_bad_connections_are_rejected_and_a_live_link_never_notices() {
    const BAD: u64 = 10_000;
    let mut hive = Hive::found();
    let (a, b) = pair(&mut hive, quick()).await;
    let link = a.linked(b.node()).await;
    let address = b.manager.address();
    let flood = tokio::task::spawn_blocking(move || {
        let mut kept = Vec::new();
        for number in 0..BAD {
            let mut bad = TcpStream::connect(address).unwrap();
            let garbage: Vec<u8> = (0..64).map(|_| fastrand::u8(..)).collect();
            // A third sends garbage, a third leaves at once, a third stays silent for a while. Writes may meet a closed door.
            match number % 3 {
                0 => drop(bad.write_all(&garbage)),
                1 => {}
                _ => kept.push(bad),
            }
            if kept.len() > 200 {
                kept.clear();
            }
        }
    });
    let (mut sent, mut slowest) = (0u64, Duration::ZERO);
    while !flood.is_finished() {
        let started = Instant::now();
        link.send(b"undisturbed").unwrap();
        sent += 1;
        until("its arrival", || (b.seen.frames.load(Ordering::SeqCst) >= sent).then_some(())).await;
        slowest = slowest.max(started.elapsed());
        let unproven = b.manager.links().snapshot().unproven;
        assert!(unproven <= 64, "{unproven} unproven connections");
    }
    flood.await.unwrap();
    until("every one is rejected", || (b.manager.links().snapshot().rejected >= BAD).then_some(())).await;
    assert!(link.is_up() && b.seen.ups.load(Ordering::SeqCst) == 1);
    println!("{sent} frames during the flood, the slowest after {slowest:?}");
}
