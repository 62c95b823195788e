//! Figures, printed: run them alone, in release, with `--ignored --nocapture`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hiveward_runtime::{
    clock::Deadline,
    cluster::router::{Inbound, Location, NotDelivered},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncWriteExt, BufReader, BufWriter},
    net::{TcpListener, TcpStream},
};

use crate::support::{DoorFn, Hive, key, quick, routed_pair, until};

#[derive(Serialize, Deserialize)]
struct Payload {
    id: u64,
    ts: u64,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

impl ractor::Message for Payload {}

struct Counter(Arc<AtomicU64>);

impl Actor for Counter {
    type Msg = Payload;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Payload>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Payload>, payload: Payload, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.0.fetch_add(u64::from(!payload.bytes.is_empty()), Ordering::Relaxed);
        Ok(())
    }
}

const TELLS: u64 = 3_000_000;

async fn counter() -> (ActorRef<Payload>, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let (actor, _) = Actor::spawn(None, Counter(count.clone()), ()).await.unwrap();
    (actor, count)
}

async fn all(count: &AtomicU64, started: Instant) -> f64 {
    until("all of them", || (count.load(Ordering::Relaxed) == TELLS).then_some(())).await;
    TELLS as f64 / started.elapsed().as_secs_f64()
}

async fn by_hand() -> f64 {
    use tokio::io::AsyncReadExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (actor, count) = counter().await;
    let reader = tokio::spawn(async move {
        let mut from = BufReader::with_capacity(64 * 1024, listener.accept().await.unwrap().0);
        let mut body = Vec::new();
        while let Ok(length) = from.read_u32().await {
            body.resize(length as usize, 0);
            from.read_exact(&mut body).await.unwrap();
            actor.send_message(rmp_serde::from_slice(&body).unwrap()).unwrap();
        }
        actor.stop(None);
    });
    let mut to = BufWriter::with_capacity(64 * 1024, TcpStream::connect(address).await.unwrap());
    let (started, bytes) = (Instant::now(), vec![7; 100]);
    let mut payload = Payload { id: 0, ts: 0, bytes };
    let mut body = Vec::new();
    for id in 0..TELLS {
        payload.id = id;
        body.clear();
        rmp_serde::encode::write(&mut body, &payload).unwrap();
        to.write_u32(body.len() as u32).await.unwrap();
        to.write_all(&body).await.unwrap();
    }
    to.flush().await.unwrap();
    let rate = all(&count, started).await;
    drop(to);
    reader.await.unwrap();
    rate
}

async fn by_router() -> f64 {
    let mut hive = Hive::found();
    let (a, b, _) = routed_pair(&mut hive, quick()).await;
    let (actor, count) = counter().await;
    let (dst, there) = (key(), Location { node: b.node(), incarnation: 1 });
    a.router.learn(&dst, there);
    let door = DoorFn(move |inbound: &Inbound<'_>| actor.send_message(inbound.read()?).map_err(|_| NotDelivered::Gone));
    b.router.open(&dst, 1, Arc::new(door));
    let sender = tokio::spawn(async move {
        let deadline = Deadline::after(Duration::from_secs(60));
        let (started, bytes) = (Instant::now(), vec![7; 100]);
        let mut payload = Payload { id: 0, ts: 0, bytes };
        for id in 0..TELLS {
            payload.id = id;
            a.router.tell_wait(deadline, &dst, &payload).await.unwrap();
        }
        (a, started)
    });
    let (_a, started) = sender.await.unwrap();
    all(&count, started).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure, not a promise: run it alone"]
async fn remote_tell_rate_beside_a_hand_written_loop() {
    for _ in 0..3 {
        let (hand, router) = (tokio::spawn(by_hand()).await.unwrap(), tokio::spawn(by_router()).await.unwrap());
        println!("tell of 100 B: by hand {hand:.0}/s, by router {router:.0}/s over mTLS, ratio {:.2}", router / hand);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure, not a promise: run it alone"]
async fn remote_ask_round_trip() {
    let mut hive = Hive::found();
    let (a, b, _) = routed_pair(&mut hive, quick()).await;
    let (dst, there) = (key(), Location { node: b.node(), incarnation: 1 });
    a.router.learn(&dst, there);
    b.router.open(
        &dst,
        1,
        Arc::new(DoorFn(|inbound: &Inbound<'_>| {
            inbound.reply()?.answer(inbound.read::<u64>()?);
            Ok(())
        })),
    );
    let mut took = Vec::new();
    for number in 0..20_000u64 {
        let asked = Instant::now();
        let answer: u64 = a.router.ask(Deadline::after(Duration::from_secs(5)), &dst, &number).await.unwrap();
        assert_eq!(answer, number);
        took.push(asked.elapsed());
    }
    took.sort();
    println!("ask round trip: p50 {:?}, p99 {:?}", took[took.len() / 2], took[took.len() * 99 / 100]);
}
