//! Links between honest nodes.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use hiveward_runtime::{
    clock::WallMs,
    net::{
        identity::{KeyPin, NodeKey},
        link::{Lane, PeerSpec, SendError},
    },
    op::NodeId,
};

use crate::support::{Hive, LIFE, Node, pair, quick, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_link_once_exchange_frames_and_measure_each_other() {
    let mut hive = Hive::found();
    let (a, b) = pair(&mut hive, quick()).await;
    // Both know each other, and still only the lower id dials.
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
    // With another key, so that it can be told apart.
    let (key, authority) = (NodeKey::create().unwrap(), hive.founder.authority().unwrap());
    let renewed = authority.sign_key(&key, a.node(), WallMs::now(), LIFE).unwrap();
    hive.founder.install(key, &renewed).unwrap();
    before.send(b"still there").unwrap();
    until("a frame on the old link", || (*b.seen.last.lock() == b"still there").then_some(())).await;
    assert_eq!(a.linked(b.node()).await.id(), before.id());
    // Only a handshake with the new one can succeed.
    b.lets_in(a.node(), Some(hive.founder.certificate().key));
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
    b.lets_in(a.node(), None);
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
    b.lets_in(old.node(), None);
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
    b.manager.links().set_members(BTreeMap::new(), [a.node()].into());
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
async fn nobody_is_let_in_before_the_book_is_read_and_no_stranger_after() {
    let mut hive = Hive::found();
    let other = hive.member_signed_at(NodeId::from_u128(u128::MAX), WallMs::now());
    let (a, b) = (Node::start(&hive.founder, 1, quick()).await, Node::start(&other, 1, quick()).await);
    a.knows(b.node(), b.manager.address());
    a.down(b.node(), "is not in the book").await;
    // Its book is read, and does not name who dials.
    b.lets_in(NodeId::new(), None);
    until("more refused dials", || (b.manager.links().snapshot().rejected > 3).then_some(())).await;
    assert!(b.manager.links().link(a.node(), Lane::Router).is_none());
    b.lets_in(a.node(), None);
    a.linked(b.node()).await;
    // It is named no longer: what is open closes, and does not come again.
    b.lets_in(NodeId::new(), None);
    a.down(b.node(), "is not in the book").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_itself_another_nodes_name_is_not_taken_for_it_by_either_end() {
    let mut hive = Hive::found();
    let (first, last) = (NodeId::from_u128(1), NodeId::from_u128(u128::MAX));
    let (dialler, listener) = (hive.member_signed_at(first, WallMs::now()), hive.member_signed_at(last, WallMs::now()));
    let thief = hive.member_signed_at(last, WallMs::now());
    let a = Node::start(&dialler, 1, quick()).await;
    let key = Some(listener.certificate().key);
    assert_ne!(key, Some(thief.certificate().key));
    // Where the listener was there is now somebody else with its name and the authority's word for it.
    let thief = Node::start(&thief, 9, quick()).await;
    thief.lets_in(first, None);
    let spec = |address: String| BTreeMap::from([(last, PeerSpec::new(address, [Lane::Router]).with_key(key))]);
    a.manager.links().set_peers(spec(thief.manager.address().to_string()));
    a.down(last, "is known by another key").await;
    // And as one who dials.
    let b = Node::start(&listener, 1, quick()).await;
    b.lets_in(first, Some(KeyPin::of(b"the key of the one that is in the book")));
    a.manager.links().set_peers(spec(b.manager.address().to_string()));
    until("a refusal", || (b.manager.links().snapshot().rejected > 0).then_some(())).await;
    a.down(last, "is known by another key").await;
    b.lets_in(first, Some(dialler.certificate().key));
    a.linked(last).await;
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
