//! Asks and tells by key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hiveward_runtime::{
    call::Reply,
    clock::Deadline,
    cluster::router::{Inbound, Location, NotDelivered, RouteError, Unreachable},
};
use parking_lot::Mutex;

use crate::support::{DoorFn, Hive, Routed, key, quick, routed_pair, until};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

/// Answers at once with the text, doubled.
fn echo(inbound: &Inbound<'_>) -> Result<(), NotDelivered> {
    let text: String = inbound.read()?;
    inbound.reply()?.answer(text.repeat(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ask_reads_the_same_here_and_on_another_node() {
    let mut hive = Hive::found();
    let (a, b, book) = routed_pair(&mut hive, quick()).await;
    for (at, node) in [(&a, a.node()), (&b, b.node())] {
        let dst = key();
        at.router.open(&dst, 3, Arc::new(DoorFn(echo)));
        book.0.lock().insert(dst.clone(), Location { node, incarnation: 3 });
        let answer: String = a.router.ask(soon(), &dst, &"ab").await.unwrap();
        assert_eq!(answer, "abab");
        // Another type than the door reads, and no ask where an ask is needed.
        let wrong = a.router.ask::<_, String>(soon(), &dst, &7).await.unwrap_err();
        assert_eq!(wrong, RouteError::BadBody { key: dst.clone() });
    }
    assert_eq!(a.router.snapshot().pending_asks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_says_that_nothing_happened_and_why() {
    let mut hive = Hive::found();
    let (a, b, book) = routed_pair(&mut hive, quick()).await;
    for node in [a.node(), b.node()] {
        let at = if node == a.node() { &a } else { &b };
        let ask = async |dst| a.router.ask::<_, String>(soon(), dst, &"x").await.unwrap_err();
        let dst = key();
        assert_eq!(ask(&dst).await, RouteError::Unplaced { key: dst.clone() });
        book.0.lock().insert(dst.clone(), Location { node, incarnation: 4 });
        assert_eq!(ask(&dst).await, RouteError::NoSuchActor { key: dst.clone(), node });
        at.router.open(&dst, 5, Arc::new(DoorFn(|_: &Inbound<'_>| Err(NotDelivered::Busy))));
        assert_eq!(ask(&dst).await, RouteError::StaleIncarnation { key: dst.clone(), current: 5 });
        // The directory knows the new life now: the remembered place is asked, refused, and looked up again.
        a.router.learn(&dst, Location { node, incarnation: 4 });
        book.0.lock().insert(dst.clone(), Location { node, incarnation: 5 });
        assert_eq!(ask(&dst).await, RouteError::Busy { key: dst.clone() });
        let late = a.router.ask::<_, String>(Deadline::after(Duration::ZERO), &dst, &"x").await.unwrap_err();
        assert_eq!(late, RouteError::Expired { key: dst.clone() });
        assert!(!late.maybe_happened());
    }
    let nobody = Location { node: hive.member().node(), incarnation: 1 };
    let away = a.router.tell_at(nobody, &key(), &"x").unwrap_err();
    assert_eq!(away, RouteError::Unreachable { node: nobody.node, how: Unreachable::NotSent });
    let (dst, me) = (key(), key());
    let expected = me.clone();
    let door = move |inbound: &Inbound<'_>| inbound.reply().map(|reply| reply.answer(inbound.src == Some(expected.as_str())));
    b.router.open(&dst, 1, Arc::new(DoorFn(door)));
    a.router.learn(&dst, Location { node: b.node(), incarnation: 1 });
    assert!(a.router.speaking_as(me).ask::<_, bool>(soon(), &dst, &()).await.unwrap());
    let large = a.router.tell_at(Location { node: b.node(), incarnation: 1 }, &key(), &"x".repeat(300_000)).unwrap_err();
    assert!(matches!(large, RouteError::TooLarge { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ask_that_is_dropped_or_outlived_says_that_it_may_have_happened() {
    let mut hive = Hive::found();
    let (a, b, book) = routed_pair(&mut hive, quick()).await;
    let kept: Arc<Mutex<Vec<Reply<String>>>> = Arc::default();
    let (dropper, keeper) = (key(), key());
    b.router.open(&dropper, 1, Arc::new(DoorFn(|inbound: &Inbound<'_>| inbound.reply::<String>().map(drop))));
    let keeps = kept.clone();
    b.router.open(
        &keeper,
        1,
        Arc::new(DoorFn(move |inbound: &Inbound<'_>| {
            keeps.lock().push(inbound.reply()?);
            Ok(())
        })),
    );
    for dst in [&dropper, &keeper] {
        book.0.lock().insert(dst.clone(), Location { node: b.node(), incarnation: 1 });
    }
    let dropped = a.router.ask::<_, String>(soon(), &dropper, &"x").await.unwrap_err();
    assert_eq!(dropped, RouteError::Dropped { key: dropper.clone() });
    let late = a.router.ask::<_, String>(Deadline::after(Duration::from_millis(50)), &keeper, &"x").await.unwrap_err();
    assert!(matches!(late, RouteError::NoAnswer { .. }) && late.maybe_happened());
    // An answer that comes later than its asker waits disturbs nobody; one that comes in time arrives.
    let asks = tokio::join!(a.router.ask::<_, String>(soon(), &keeper, &"x"), async {
        until("both questions", || (kept.lock().len() == 2).then_some(())).await;
        kept.lock().drain(..).for_each(|reply| reply.answer("late".into()));
    });
    assert_eq!(asks.0.unwrap(), "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_link_fails_every_pending_ask_aloud_and_the_next_link_carries_on() {
    let mut hive = Hive::found();
    let (a, b, book) = routed_pair(&mut hive, quick()).await;
    let kept: Arc<Mutex<Vec<Reply<String>>>> = Arc::default();
    let (dst, keeps) = (key(), kept.clone());
    let door = DoorFn(move |inbound: &Inbound<'_>| {
        keeps.lock().push(inbound.reply()?);
        Ok(())
    });
    b.router.open(&dst, 1, Arc::new(door));
    let (lost, address, identity) = (b.node(), b.manager.address(), b.manager.links().identity().clone());
    book.0.lock().insert(dst.clone(), Location { node: lost, incarnation: 1 });
    let asks = futures_util::future::join_all((0..100).map(|_| a.router.ask::<_, String>(soon(), &dst, &"x")));
    let ((), outcomes) = tokio::join!(
        async {
            until("all questions", || (kept.lock().len() == 100).then_some(())).await;
            drop(b);
        },
        asks
    );
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err(), RouteError::Unreachable { node: lost, how: Unreachable::Lost });
    }
    assert_eq!(a.router.snapshot().pending_asks, 0);
    let mut config = quick();
    config.listen = address;
    let b = Routed::start(&identity, 2, config, &book).await;
    b.router.open(&dst, 1, Arc::new(DoorFn(echo)));
    let answer = async {
        loop {
            match a.router.ask::<_, String>(soon(), &dst, &"ab").await {
                Ok(answer) => return answer,
                Err(error) => assert!(!error.maybe_happened(), "{error}"),
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), answer).await.unwrap(), "abab");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tells_to_one_key_arrive_once_and_in_order() {
    let mut hive = Hive::found();
    let (a, b, book) = routed_pair(&mut hive, quick()).await;
    let (dst, next) = (key(), Arc::new(AtomicU64::new(0)));
    let expects = next.clone();
    let door = DoorFn(move |inbound: &Inbound<'_>| {
        let number: u64 = inbound.read()?;
        assert_eq!(expects.swap(number + 1, Ordering::SeqCst), number);
        Ok(())
    });
    b.router.open(&dst, 1, Arc::new(door));
    book.0.lock().insert(dst.clone(), Location { node: b.node(), incarnation: 1 });
    for number in 0..50_000u64 {
        a.router.tell_wait(soon(), &dst, &number).await.unwrap();
    }
    until("the last", || (next.load(Ordering::SeqCst) == 50_000).then_some(())).await;
}
