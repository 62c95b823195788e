//! Receivers that are slow, full, frozen: the sender hears of it, and memory stays bounded.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hiveward_runtime::{
    clock::Deadline,
    cluster::router::{Inbound, Location, NotDelivered, RouteError},
    net::link::{Lane, SendError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{DoorFn, Hive, Routed, key, loopback, quick, routed_pair, until};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_actor_makes_its_senders_hear_busy_and_nobody_else() {
    let mut hive = Hive::found();
    let (a, b, book) = routed_pair(&mut hive, quick()).await;
    let (full, free) = (key(), key());
    b.router.open(&full, 1, Arc::new(DoorFn(|_: &Inbound<'_>| Err(NotDelivered::Busy))));
    b.router.open(
        &free,
        1,
        Arc::new(DoorFn(|inbound: &Inbound<'_>| {
            inbound.reply()?.answer(1);
            Ok(())
        })),
    );
    for dst in [&full, &free] {
        book.0.lock().insert(dst.clone(), Location { node: b.node(), incarnation: 1 });
    }
    let refused = async {
        loop {
            if let Err(refused) = a.router.tell(soon(), &full, &"x").await {
                return refused;
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    assert_eq!(refused, RouteError::Busy { key: full.clone() });
    assert_eq!(a.router.ask::<_, u8>(soon(), &free, &"x").await.unwrap(), 1);
    assert!(b.router.snapshot().tells_refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_stuffed_full_stays_in_its_bound_and_delays_no_other_lane() {
    let mut hive = Hive::found();
    let (a, mut b, book) = routed_pair(&mut hive, quick()).await;
    let dst = key();
    b.router.open(
        &dst,
        1,
        Arc::new(DoorFn(|inbound: &Inbound<'_>| {
            inbound.reply()?.answer(1);
            Ok(())
        })),
    );
    book.0.lock().insert(dst.clone(), Location { node: b.node(), incarnation: 1 });
    // Nobody takes from the bulk lane: the receiver's window fills, then the sender's queue.
    let bulk = a.linked(b.node(), Lane::Bulk).await;
    let chunk = vec![7; 200 * 1024];
    let mut accepted = 0;
    until("a full queue", || {
        loop {
            match bulk.send(&chunk) {
                Ok(()) => accepted += 1,
                Err(SendError::Busy) if b.manager.links().link(a.node(), Lane::Bulk)?.untaken_bytes() >= 1024 * 1024 => {
                    return Some(());
                }
                Err(_) => return None,
            }
        }
    })
    .await;
    let at_most = 2 * 1024 * 1024 + 2 * 256 * 1024 + 64 * 1024;
    assert!(accepted * chunk.len() <= at_most, "{accepted} chunks were taken in");
    assert!(bulk.queued_bytes() <= 1024 * 1024 + 256 * 1024);
    for _ in 0..200 {
        let asked = tokio::time::Instant::now();
        assert_eq!(a.router.ask::<_, u8>(soon(), &dst, &"x").await.unwrap(), 1);
        assert!(asked.elapsed() < Duration::from_secs(1));
    }
    // What is taken makes room again, to the last chunk.
    for _ in 0..accepted {
        let frame = tokio::time::timeout(Duration::from_secs(10), b.bulk.recv()).await.unwrap().unwrap();
        assert_eq!(frame.payload.len(), chunk.len());
    }
    assert_eq!(bulk.queued_bytes(), 0);
    bulk.send_wait(&chunk).await.unwrap();
    assert!(bulk.is_up());
}

/// Forwards to `to` until it is frozen; then it keeps the connections open and moves nothing.
async fn proxy(to: SocketAddr, frozen: Arc<AtomicBool>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
    tasks.spawn(async move {
        let mut copies = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = TcpStream::connect(to).await.unwrap().into_split();
            for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                let frozen = frozen.clone();
                copies.spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
                        if frozen.load(Ordering::SeqCst) {
                            std::future::pending::<()>().await;
                        }
                        if to.write_all(&buffer[..bytes]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    (address, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_freezes_is_noticed_by_silence_and_holds_no_more_than_the_bound() {
    let mut hive = Hive::found();
    let (other, book) = (hive.member(), Arc::default());
    let a = Routed::start(&hive.founder, 1, quick(), &book).await;
    let b = Routed::start(&other, 1, quick(), &book).await;
    let frozen = Arc::new(AtomicBool::new(false));
    let (address, _proxy) = proxy(b.manager.address(), frozen.clone()).await;
    b.lets_in(a.node());
    a.link_to(b.node(), address).await;
    let link = a.linked(b.node(), Lane::Router).await;
    frozen.store(true, Ordering::SeqCst);
    let (there, dst, body) = (Location { node: b.node(), incarnation: 1 }, key(), "x".repeat(1000));
    let (mut full, mut largest) = (0, 0);
    let why = until("the silence", || {
        // Full speed into a peer that takes nothing.
        for _ in 0..10_000 {
            match a.router.tell_at(there, &dst, &body) {
                Ok(()) => {}
                Err(RouteError::WayFull { .. }) => full += 1,
                Err(_) => break,
            }
        }
        largest = largest.max(link.queued_bytes());
        let links = a.manager.links().snapshot().links;
        links.into_iter().find(|link| link.lane == Lane::Router).and_then(|link| link.why_down)
    })
    .await;
    assert!(why.contains("nothing was heard") || why.contains("took nothing"), "{why}");
    assert!(full > 0 && largest <= 1024 * 1024 + 256 * 1024, "{full} refused, {largest} bytes queued");
    until("the other end's silence", || b.manager.links().link(a.node(), Lane::Router).is_none().then_some(())).await;
}
