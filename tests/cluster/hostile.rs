//! Promise: whoever is not of the cluster gets nothing from its port, costs little, and disturbs nobody (F27, F29).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use hiveward_runtime::op::NodeId;
use hiveward_tests::{
    cluster::{Cluster, Shape, joins},
    intruder::{Authority, Greeting, LANES, Papers, Visit, identity_file, knock, visit},
    skip, throughout, until, until_within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::scene::{ELSEWHERE, Scene, WATCHED};

const CONNECTIONS: usize = 10_000;
const AT_ONCE: usize = 200;
/// What bad connections may add to a node's memory, whatever their number.
const MEMORY: u64 = 64 << 20;
/// The port closes what has not proven itself within 5 s.
const CLOSED_WITHIN: Duration = Duration::from_secs(12);

/// One node with a cluster port of its own.
async fn one() -> Option<Cluster> {
    if !joins() {
        skip("this `hiveward` has no `up --join` and `token create`");
        return None;
    }
    Some(Cluster::apart(&Shape::of(1)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_foreign_and_expired_certificates_are_refused_on_every_lane() {
    let Some(cluster) = one().await else { return };
    let (node, port) = (cluster.node(0), cluster.node(0).cluster_address());
    let own = Papers::of_node(node.data_dir());
    let names = own.names();
    let authority = Authority::of(node.data_dir());
    let bad = [
        ("no certificate", None),
        ("another authority of the same name", Some(Authority::rogue(&names[1]).sign(&names, -1, 1))),
        ("an expired certificate", Some(authority.sign(&names, -48, -24))),
        ("a certificate of tomorrow", Some(authority.sign(&names, 24, 48))),
        ("a certificate without our names", Some(authority.sign(&["example.org".to_owned()], -1, 1))),
        ("a certificate of another cluster", Some(authority.sign(&[names[0].clone(), "cluster_other.hive".to_owned()], -1, 1))),
    ];
    for lane in &LANES[..3] {
        for (what, papers) in &bad {
            // Whoever says nothing, and whoever says something that is no hello of ours.
            for noise in [&b""[..], b"\0\0\0\x09not ours!"] {
                let greeting = knock(port, lane, papers.as_ref(), noise).await;
                assert!(greeting.is_refusal(), "{what} was let in on {lane}: {greeting:?}");
            }
        }
    }
    // With good papers the same tools get through the handshake: what was refused was the papers.
    assert_eq!(knock(port, LANES[0], Some(&own), b"").await, Greeting::Waits);
    assert!(knock(port, "hw-other/1", Some(&own), b"").await.is_refusal());
    assert!(cluster.said(0).await.is_some());
}

/// Papers of a node that is in nobody's book, which the cluster's own authority signed. Its id is below all others, so that it
/// is the one who dials.
fn stranger(authority: &Authority, cluster: &str) -> Papers {
    let names = [format!("{}.hive", NodeId::from_u128(u128::from(fastrand::u64(1..)))), cluster.to_owned()];
    authority.sign(&names, -1, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_the_right_authority_signed_is_refused_on_every_lane() {
    let Some(cluster) = one().await else { return };
    let (node, port) = (cluster.node(0), cluster.node(0).cluster_address());
    let names = Papers::of_node(node.data_dir()).names();
    let papers = stranger(&Authority::of(node.data_dir()), &names[1]);
    for lane in &LANES[..3] {
        let Visit::Refused(why) = visit(port, lane, &papers).await else { panic!("it was not refused on {lane}") };
        assert!(why.contains("is not in the book"), "{why}");
        // Also before it says a word.
        let said = knock(port, lane, Some(&papers), b"").await;
        assert!(matches!(said, Greeting::Spoke(_) | Greeting::Refused(_)), "{said:?}: it waits for a hello");
    }
    assert!(cluster.said(0).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_voter_that_kept_the_authoritys_key_comes_back_under_no_name_also_right_after_a_restart() {
    let Some(mut cluster) = Cluster::joined(&Shape::of(4)).await else { return };
    let leader = cluster.leader().await;
    // The one with the lowest id dials all others; what it is refused, it is refused for what it is.
    let gone = until("a voter holds the authority, and does not lead", async || {
        let voters = cluster.said(leader).await?.voters;
        (0..4).rev().find(|node| {
            let holds = identity_file(cluster.node(*node).data_dir(), "ca.key").is_some();
            *node != leader && holds && voters.contains(&cluster.node(*node).id())
        })
    })
    .await;
    let (id, data) = (cluster.node(gone).id(), cluster.node(gone).data_dir().to_owned());
    let left: Vec<usize> = (0..4).filter(|node| *node != gone).collect();
    cluster.kill(gone);
    until_within(ELSEWHERE, "the dead voter is removed", async || {
        (cluster.cli(leader, &["node", "remove", &id]).await.code == 0).then_some(())
    })
    .await;
    until("it votes no longer, as all of them know", async || {
        for node in &left {
            let said = cluster.said(*node).await?;
            if said.nodes.contains(&id) || said.voters.contains(&id) {
                return None;
            }
        }
        Some(())
    })
    .await;

    // What it took along: the authority's key, and its own papers.
    let (authority, own) = (Authority::of(&data), Papers::of_node(&data));
    let names = own.names();
    let lowest = left.iter().map(|node| Papers::of_node(cluster.node(*node).data_dir())).min_by_key(Papers::names).unwrap();
    let fresh = stranger(&authority, &names[1]);
    let another = authority.sign(&lowest.names(), -1, 1);
    let itself = authority.sign(&names, -1, 1);
    let ports: Vec<SocketAddr> = left.iter().map(|node| cluster.node(*node).cluster_address()).collect();
    let all = [("a fresh id", &fresh), ("a member's id", &another), ("its own id", &itself), ("its own papers", &own)];
    for port in &ports {
        for lane in &LANES[..3] {
            for (what, papers) in all {
                let came = visit(*port, lane, papers).await;
                assert!(matches!(came, Visit::Refused(_)), "{what} on {lane}: {came:?}");
            }
        }
    }
    // All at once, from the moment the ports open: books are read before anybody is let in.
    cluster.kill_all();
    for node in &left {
        cluster.spawn(*node);
    }
    let mut came = Vec::new();
    until_within(ELSEWHERE, "they lead and follow again", async || {
        for port in &ports {
            for (what, papers) in all {
                let lane = LANES[fastrand::usize(..3)];
                came.push((what, lane, visit(*port, lane, papers).await));
            }
        }
        let leader = cluster.said(left[0]).await?.leader?;
        left.iter().any(|node| cluster.node(*node).id() == leader).then_some(())
    })
    .await;
    assert!(came.iter().any(|(_, _, visit)| matches!(visit, Visit::Refused(_))), "nobody was there to ask");
    let let_in: Vec<_> = came.iter().filter(|(_, _, visit)| *visit == Visit::LetIn).collect();
    assert!(let_in.is_empty(), "{let_in:?}");
    cluster.leader_among(&left, ELSEWHERE).await;
    // The same tools get in with what a member has: what was refused was what they came with.
    let last = left.iter().max_by_key(|node| cluster.node(**node).id()).copied().unwrap();
    assert_eq!(visit(cluster.node(last).cluster_address(), LANES[0], &lowest).await, Visit::LetIn);
}

/// One bad connection of kind `n`; true once the port has closed it.
async fn bad(n: usize, port: SocketAddr) -> bool {
    let Ok(Ok(mut tcp)) = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(port)).await else { return true };
    let say: &[u8] = match n % 6 {
        // Says nothing, and waits to be closed.
        0 => b"",
        1 => b"GET / HTTP/1.1\r\nhost: hive\r\n\r\n",
        // A TLS record that promises more than it holds.
        2 => &[22, 3, 1, 255, 255, 1, 0, 255, 252, 3, 3],
        3 => &[0; 4096],
        // Half a frame of ours, without TLS.
        4 => &[0, 1, 0, 0, 9],
        // Gone at once.
        _ => return true,
    };
    let _ = tcp.write_all(say).await;
    let mut buffer = [0; 512];
    loop {
        match tokio::time::timeout(CLOSED_WITHIN, tcp.read(&mut buffer)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => return true,
            // An alert, perhaps.
            Ok(Ok(_)) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_bad_connections_cost_bounded_memory_and_disturb_no_link() {
    let Some(scene) = Scene::begin(Shape::of(3)).await else { return };
    let leader = scene.cluster.leader().await;
    let (node, term) = (scene.cluster.node(leader), scene.cluster.said(leader).await.unwrap().term);
    let (port, before) = (node.cluster_address(), node.resident_bytes().unwrap());
    let began = Instant::now();
    let mut most = before;
    let mut closed = 0;
    let mut all = stream::iter((0..CONNECTIONS).map(|n| bad(n, port))).buffer_unordered(AT_ONCE);
    while let Some(was_closed) = all.next().await {
        closed += usize::from(was_closed);
        if closed % 100 == 0 {
            most = most.max(node.resident_bytes().unwrap());
        }
    }
    drop(all);
    eprintln!("{CONNECTIONS} connections in {:?}; memory {before} before, {most} at most", began.elapsed());
    assert_eq!(closed, CONNECTIONS, "the port left bad connections open");
    assert!(most < before + MEMORY, "{before} bytes became {most}");
    let said = scene.cluster.said(leader).await.unwrap();
    assert_eq!((said.term, said.nodes.len()), (term, 3), "the cluster was disturbed");
    scene.load.goes_on(20, ELSEWHERE).await;
    // And it still takes whom it should.
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_speak_are_bounded_and_closed_while_links_live() {
    let Some(cluster) = one().await else { return };
    let (node, port) = (cluster.node(0), cluster.node(0).cluster_address());
    let (memory, files) = (node.resident_bytes().unwrap(), node.descriptors().unwrap());
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        if let Ok(tcp) = TcpStream::connect(port).await {
            silent.push(tcp);
            // More than the port has places; the rest would only cost this process descriptors.
            silent.truncate(500);
        }
    }
    assert!(!silent.is_empty(), "the port takes nobody");
    assert!(node.descriptors().unwrap() < files + 300, "each silent connection holds a descriptor");
    until_within(CLOSED_WITHIN, "the port closes what never speaks", async || (node.descriptors()? <= files + 2).then_some(()))
        .await;
    assert!(node.resident_bytes().unwrap() < memory + MEMORY);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_used_or_altered_lets_nobody_in() {
    if !joins() {
        return skip("this `hiveward` has no `up --join` and `token create`");
    }
    let mut cluster = Cluster::prepare(&Shape::of(4)).unwrap();
    cluster.spawn(0);
    cluster.ready(0).await;
    let token = cluster.join_token(0).await;
    cluster.spawn_joining(1, 0, &token);
    cluster.ready(1).await;
    let mut altered: Vec<char> = cluster.join_token(0).await.chars().collect();
    let last = altered.len() - 3;
    altered[last] = if altered[last] == 'a' { 'b' } else { 'a' };
    for (node, token) in [(2, token), (3, altered.into_iter().collect())] {
        cluster.spawn_joining(node, 0, &token);
        let status = until("who may not join ends and says why", async || cluster.node_mut(node).ended()).await;
        assert!(!status.success());
        let said = cluster.node(node).log_tail(5).to_lowercase();
        assert!(said.contains("token"), "{said}");
        assert!(!said.contains(&token.to_lowercase()), "the token is in the log");
    }
    assert_eq!(cluster.said(0).await.unwrap().nodes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_node_is_not_taken_for_it_and_harms_nobody() {
    let Some(mut scene) = Scene::begin(Shape::of(3)).await else { return };
    let leader = scene.cluster.leader().await;
    let original = scene.others(leader)[0];
    let id = scene.cluster.node(original).id();
    // Stopped for the copy only, so that it is a whole one.
    assert!(scene.cluster.stop(original).await.success());
    let copy = scene.cluster.add(&Shape::of(4)).unwrap();
    let (from, to) = (scene.cluster.node(original).data_dir().to_owned(), scene.cluster.node(copy).data_dir().to_owned());
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    scene.cluster.start_again(original).await;
    scene.load.goes_on(20, ELSEWHERE).await;
    scene.cluster.spawn(copy);
    let term = scene.cluster.said(leader).await.unwrap().term;
    throughout(WATCHED, "there is one of it, and no election by the copy", async || {
        let said = scene.cluster.said(leader).await.unwrap();
        said.nodes.iter().filter(|node| **node == id).count() == 1 && said.term <= term + 1
    })
    .await;
    scene.load.goes_on(20, ELSEWHERE).await;
    scene.cluster.kill(copy);
    let members: Vec<usize> = (0..3).collect();
    scene.cluster.leader_among(&members, ELSEWHERE).await;
    scene.load.finish_at(&members).await;
}
