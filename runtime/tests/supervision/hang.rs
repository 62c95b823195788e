//! Panics, errors and hangs in each callback harm the one actor and nobody beside it.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use hiveward_runtime::{
    call::{CallError, Reply},
    clock::Deadline,
    fault::{self, Armed, Fault},
    supervise::{ActorStatus, Backoff, Intensity, Shutdown, StartError, Strategy},
};

use crate::script::*;

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_child_that_hangs_in_start_is_refused_after_its_start_timeout_and_holds_up_nobody() {
    let diary = Diary::default();
    let mut sibling = scripted("sibling", &diary, |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut sibling]).await;
    // Long beside a restart, also on a busy machine: the sibling is to be back within it.
    let mut hangs = scripted("hangs", &diary, |s| s.start_timeout(Duration::from_secs(3)));
    hangs.script.start.store(HANG, SeqCst);
    let starting = tokio::spawn({
        let (root, spec) = (root.clone(), hangs.spec.take().unwrap());
        async move { root.start_child(spec, soon()).await }
    });
    until("it is starting", || tree.snapshot(Some("root/hangs"), 0).is_some()).await;
    sibling.door.tell(Msg::Panic).unwrap();
    lives(&sibling.door, 2).await;
    assert_eq!(
        tree.snapshot(Some("root/hangs"), 0).unwrap().status,
        ActorStatus::Starting,
        "the sibling was back before the timeout"
    );
    let refused = starting.await.unwrap();
    assert!(matches!(&refused, Err(StartError::Failed { message, .. }) if message.contains("not within 3000 ms")), "{refused:?}");
    assert!(tree.snapshot(Some("root/hangs"), 0).is_none());
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_child_that_hangs_in_stop_or_in_a_message_is_killed_after_its_grace_and_holds_up_nobody() {
    let diary = Diary::default();
    // Long beside a restart, also on a busy machine: the sibling is to be back within it.
    let grace = Shutdown::Grace(Duration::from_secs(3));
    let [mut stop, mut message, mut sibling] =
        ["stop", "message", "sibling"].map(|name| scripted(name, &diary, |s| s.shutdown(grace)));
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut stop, &mut message, &mut sibling]).await;
    stop.script.stop.store(HANG, SeqCst);
    message.door.tell(Msg::Hang).unwrap();
    let stopping = ["stop", "message"].map(|name| {
        let root = root.clone();
        tokio::spawn(async move { root.stop_child(name, soon()).await })
    });
    until("both are stopping", || {
        ["root/stop", "root/message"]
            .iter()
            .all(|path| tree.snapshot(Some(path), 0).is_some_and(|node| node.status == ActorStatus::Stopping))
    })
    .await;
    sibling.door.tell(Msg::Panic).unwrap();
    lives(&sibling.door, 2).await;
    let shown = tree.snapshot(Some("root/message"), 0).map(|node| node.status);
    assert_eq!(shown, Some(ActorStatus::Stopping), "the sibling was back before the grace was over");
    for stopped in stopping {
        stopped.await.unwrap().unwrap();
    }
    assert!(tree.snapshot(Some("root/stop"), 0).is_none() && tree.snapshot(Some("root/message"), 0).is_none());
    assert_eq!(stop.script.states.load(SeqCst) + message.script.states.load(SeqCst), 0);
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_child_that_hangs_while_it_stops_by_itself_is_failed_after_its_grace_and_restarted() {
    let mut a = scripted("a", &Diary::default(), |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    a.script.stop.store(HANG, SeqCst);
    a.door.tell(Msg::Stop).unwrap();
    lives(&a.door, 2).await;
    assert!(tree.snapshot(Some("root/a"), 0).unwrap().last_failure.unwrap().message.contains("did not stop within 200 ms"));
    a.script.stop.store(WELL, SeqCst);
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_panic_or_error_in_any_callback_is_named_in_the_tree_and_the_child_comes_back() {
    for (place, act) in [("start", PANIC), ("start", ERROR), ("stop", PANIC), ("the factory", PANIC)] {
        let mut a = scripted("a", &Diary::default(), |s| s);
        let mut sibling = scripted("sibling", &Diary::default(), |s| s);
        let (root, tree) = run(Strategy::OneForOne, &mut [&mut a, &mut sibling]).await;
        let script = &a.script;
        let switch = match place {
            "start" => &script.start,
            "stop" => &script.stop,
            _ => &script.make,
        };
        switch.store(act, SeqCst);
        a.door.tell(if place == "stop" { Msg::Stop } else { Msg::Panic }).unwrap();
        let told = format!("in {place}");
        until("the tree names it", || {
            let named =
                tree.snapshot(Some("root/a"), 0).unwrap().last_failure.is_some_and(|failure| failure.message.contains(&told));
            if named {
                switch.store(WELL, SeqCst);
            }
            named
        })
        .await;
        lives(&a.door, 2).await;
        assert_eq!(lives(&sibling.door, 1).await, 1, "{place}");
        root.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_supervisor_that_stops_takes_a_child_in_its_start_with_it() {
    let diary = Diary::default();
    let (root, tree) = run(Strategy::OneForOne, &mut []).await;
    let mut a = scripted("a", &diary, |s| s);
    a.script.start.store(HANG, SeqCst);
    let spec = a.spec.take().unwrap();
    assert_eq!(root.start_child(spec, Deadline::after(SOON)).await, Err(StartError::Expired));
    root.shutdown(Duration::from_secs(5)).await;
    assert!(tree.snapshot(Some("root/a"), 0).is_none());
    assert!(a.door.current().is_none());
}

#[tokio::test]
async fn who_waits_in_the_mailbox_of_a_killed_actor_hears_it_at_once() {
    let mut a = scripted("a", &Diary::default(), |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    a.door.tell(Msg::Hang).unwrap();
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let door = a.door.clone();
            tokio::spawn(async move { door.ask(Deadline::after(Duration::from_secs(60)), Msg::Life).await })
        })
        .collect();
    until("all wait", || tree.snapshot(Some("root/a"), 0).unwrap().mailbox == 10).await;
    root.restart_child("a", soon()).await.unwrap();
    for asked in asking {
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap().unwrap(), Err(CallError::Dropped));
    }
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn messages_that_a_dead_actor_left_are_not_counted() {
    let never = Intensity { restarts_max: 0, period: Duration::from_secs(60) };
    let mut a = scripted("a", &Diary::default(), |s| s.crash_loop(never));
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    let addr = a.door.current().unwrap();
    addr.tell(Msg::Panic).unwrap();
    for _ in 0..3 {
        addr.tell(Msg::Note).unwrap();
    }
    assert_eq!((addr.depth(), tree.snapshot(Some("root/a"), 0).unwrap().mailbox), (4, 4));
    until("it is given up", || tree.snapshot(Some("root/a"), 0).unwrap().status == ActorStatus::Failed).await;
    assert_eq!((addr.depth(), tree.snapshot(Some("root/a"), 0).unwrap().mailbox), (0, 0));
    assert!(!addr.is_alive());
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn siblings_of_a_crash_loop_answer_every_question() {
    let diary = Diary::default();
    let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(2), ..Backoff::default() };
    let mut loops = scripted("loops", &diary, |s| s.backoff(backoff));
    let mut siblings: Vec<_> = (0..20).map(|n| scripted(&format!("sibling-{n}"), &diary, |s| s)).collect();
    let mut all: Vec<&mut Made> = std::iter::once(&mut loops).chain(&mut siblings).collect();
    let (root, tree) = run(Strategy::OneForOne, &mut all).await;
    while tree.snapshot(Some("root/loops"), 0).unwrap().restarts < 50 {
        // Between lives there is nobody to tell.
        drop(loops.door.tell(Msg::Panic));
        for sibling in &siblings {
            assert_eq!(sibling.door.ask(soon(), Msg::Life).await, Ok(1));
        }
    }
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_life_that_lasts_makes_the_next_failure_the_first_again() {
    let backoff = Backoff {
        first: Duration::from_secs(5),
        max: Duration::from_secs(60),
        factor: 2.0,
        jitter: 0.0,
        reset_after: Duration::from_secs(30),
    };
    let mut a = scripted("a", &Diary::default(), |s| s.backoff(backoff));
    let (root, _) = run(Strategy::OneForOne, &mut [&mut a]).await;
    for (lasts, wants) in [(0, 0), (0, 5), (29, 10), (31, 0), (0, 5)] {
        tokio::time::sleep(Duration::from_secs(lasts)).await;
        let (before, life) = (tokio::time::Instant::now(), a.script.lives.load(SeqCst));
        a.door.tell(Msg::Panic).unwrap();
        while a.script.lives.load(SeqCst) == life || a.door.current().is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(before.elapsed().as_secs(), wants);
    }
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn every_actor_has_fault_points_that_its_path_selects() {
    let mut a = scripted("faulty", &Diary::default(), |s| s);
    let mut b = scripted("spared", &Diary::default(), |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a, &mut b]).await;
    let arm =
        |point: &str, fault| assert!(fault::arm(Armed { point: point.into(), key: Some("root/faulty".into()), fault, times: 1 }));
    arm("actor.handle", Fault::Error("injected".into()));
    arm("actor.start", Fault::Panic);
    assert_eq!(lives(&b.door, 1).await, 1);
    a.door.tell(Msg::Note).unwrap();
    lives(&a.door, 2).await;
    let shown = tree.snapshot(Some("root/faulty"), 0).unwrap();
    assert_eq!(shown.restarts, 2, "once for the message, once for the start");
    assert!(shown.last_failure.unwrap().message.contains("fault actor.start"));
    arm("actor.stop", Fault::Hang);
    root.stop_child("faulty", soon()).await.unwrap();
    assert_eq!((lives(&b.door, 1).await, a.script.states.load(SeqCst)), (1, 0));
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_question_whose_asker_gave_up_is_known_as_abandoned() {
    let mut a = scripted("a", &Diary::default(), |s| s);
    let (root, _) = run(Strategy::OneForOne, &mut [&mut a]).await;
    let (sender, mut kept) = tokio::sync::mpsc::channel::<Reply<usize>>(1);
    let asked = a.door.ask(Deadline::after(SOON), |reply| {
        sender.try_send(reply).unwrap();
        Msg::Note
    });
    assert!(matches!(asked.await, Err(CallError::Expired { waited_ms: 50.. })));
    let reply = kept.recv().await.unwrap();
    assert!(reply.is_abandoned() && reply.deadline().passed());
    root.shutdown(Duration::from_secs(5)).await;
}
