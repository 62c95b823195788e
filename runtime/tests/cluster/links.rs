//! Links between honest nodes.

use std::{sync::atomic::Ordering, time::Duration};

use hiveward_runtime::{
    clock::WallMs,
    cluster::{
        identity::VoidedEntry,
        link::{Lane, SendError},
    },
    op::NodeId,
};

use crate::support::{Hive, LIFE, Node, pair, quick, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_link_once_exchange_frames_and_measure_each_other() {
    let mut hive = Hive::found();
    let (a, b) = pair(&mut hive, quick()).await;
    // Both know each other, and still only the lower id dials.
    b.knows(a.node(), a.manager.address());
    let link = a.linked(b.node()).await;
    link.send(b"forth").unwrap();
    b.linked(a.node()).await.send(b"and back").unwrap();
    until("both frames", || (*a.seen.last.lock() == b"and back" && *b.seen.last.lock() == b"forth").then_some(())).await;
    let us = until("a round trip", || link.round_trip_us()).await;
    assert!(us < 1_000_000, "{us}");
    assert!(link.clock_offset_ms().unwrap().abs() < 1_000);
    assert_eq!(a.seen.ups.load(Ordering::SeqCst), 1);
    assert!(matches!(link.send(&vec![0; 300 * 1024]), Err(SendError::TooLarge { .. })));
    a.manager.stop().await;
    until("the goodbye", || b.seen.downs.lock().first().map(|why| assert!(why.to_string().contains("stopping"), "{why}"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_without_closing_links_and_used_by_the_next() {
    let mut hive = Hive::found();
    let (a, b) = pair(&mut hive, quick()).await;
    let before = a.linked(b.node()).await;
    let (old, now) = (hive.founder.certificate().serial, WallMs::now());
    hive.founder.renew(now, LIFE).unwrap();
    b.manager.links().identity().voided().add(VoidedEntry::Serial(old), now.plus(LIFE), now).unwrap();
    before.send(b"still there").unwrap();
    until("a frame on the old link", || (*b.seen.last.lock() == b"still there").then_some(())).await;
    assert_eq!(a.linked(b.node()).await.id(), before.id());
    // The old certificate is voided: only a handshake with the new one can succeed.
    before.close(hiveward_runtime::cluster::link::Down::Stopped);
    until("a new link", || a.manager.links().link(b.node(), Lane::Router).filter(|link| link.id() != before.id())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_peer_is_dialled_again_until_it_is_back() {
    let mut hive = Hive::found();
    let other = hive.member();
    let a = Node::start(&hive.founder, 1, quick()).await;
    let b = Node::start(&other, 1, quick()).await;
    let mut config = quick();
    config.listen = b.manager.address();
    a.knows(b.node(), b.manager.address());
    let first = a.linked(b.node()).await;
    drop(b);
    until("the loss", || (!first.is_up()).then_some(())).await;
    assert_eq!(first.send(b"into the void"), Err(SendError::Down));
    a.down(other.node(), "cannot be reached").await;
    let b = Node::start(&other, 2, config).await;
    let again = until("the next link", || a.manager.links().link(b.node(), Lane::Router)).await;
    assert_eq!(again.generation(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_start_of_a_node_replaces_the_older_which_is_refused_from_then_on() {
    let mut hive = Hive::found();
    let b = Node::start(&hive.member_signed_at(NodeId::from_u128(u128::MAX), WallMs::now()), 1, quick()).await;
    let old = Node::start(&hive.founder, 1, quick()).await;
    old.knows(b.node(), b.manager.address());
    let first = old.linked(b.node()).await;
    let new = Node::start(&hive.founder, 2, quick()).await;
    new.knows(b.node(), b.manager.address());
    new.linked(b.node()).await;
    until("the older is down", || (!first.is_up()).then_some(())).await;
    old.down(b.node(), "generation 2").await;
    assert_eq!(b.linked(old.node()).await.generation(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_data_directory_is_refused_while_the_first_lives() {
    let mut hive = Hive::found();
    let (a, b) = pair(&mut hive, quick()).await;
    let link = a.linked(b.node()).await;
    let copy = Node::start(&hive.founder, 1, quick()).await;
    copy.knows(b.node(), b.manager.address());
    copy.down(b.node(), "another live process uses this node id").await;
    assert!(link.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_loses_its_links_and_gets_none_again() {
    let mut hive = Hive::found();
    let (a, b) = pair(&mut hive, quick()).await;
    let now = WallMs::now();
    let voided = b.manager.links().identity().voided();
    voided.add(VoidedEntry::Node(a.node()), now.plus(LIFE), now).unwrap();
    b.manager.links().close_voided();
    a.down(b.node(), "was removed from this cluster").await;
    until("a refused dial", || {
        let links = a.manager.links().snapshot().links;
        links.iter().any(|link| link.failed_dials > 0).then_some(())
    })
    .await;
    a.down(b.node(), "was removed from this cluster").await;
    assert!(b.manager.links().link(a.node(), Lane::Router).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_link_is_kept_by_its_pings() {
    let mut hive = Hive::found();
    let mut config = quick();
    config.read_idle = Duration::from_millis(400);
    let (a, b) = pair(&mut hive, config).await;
    let link = a.linked(b.node()).await;
    let since = tokio::time::Instant::now();
    // Idle for several times the limit: the pings are what keeps it.
    until("time", || (since.elapsed() > Duration::from_millis(1200)).then_some(())).await;
    assert!(link.is_up());
}
