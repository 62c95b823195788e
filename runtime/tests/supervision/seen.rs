//! What can be seen in the living tree, and what an actor's own tasks and timers do.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use hiveward_runtime::{
    call::CallError,
    id::Key,
    supervise::{ActorStatus, Change, Strategy, tree::Missed},
};

use crate::script::*;

#[tokio::test]
async fn an_actor_is_found_by_its_key_until_it_is_removed_with_its_note_and_snapshot() {
    let key: Key = "probe_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5".parse().unwrap();
    let mut a = scripted("a", &Diary::default(), |s| s.key(key.clone()).mailbox(7));
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    a.door.tell(Msg::Note).unwrap();
    lives(&a.door, 1).await;
    let shown = tree.find(&key).unwrap();
    assert_eq!(
        (shown.path.as_str(), &*shown.kind, shown.status, shown.mailbox_bound),
        ("root/a", "scripted", ActorStatus::Running, 7)
    );
    assert_eq!(shown.note.as_deref(), Some("busy with it"));
    assert_eq!(tree.observe(key.as_str(), soon()).await.unwrap()["life"], 1);
    assert_eq!(tree.snapshot(Some(key.as_str()), 0).unwrap().path, "root/a");
    root.stop_child("a", soon()).await.unwrap();
    assert!(tree.find(&key).is_none());
    assert_eq!(tree.observe(key.as_str(), soon()).await, Err(CallError::Gone));
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_listener_hears_each_change_and_a_slow_one_how_many_it_missed() {
    let mut a = scripted("a", &Diary::default(), |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    let (mut quick, mut slow) = (tree.changes(), tree.changes());
    a.door.tell(Msg::Panic).unwrap();
    lives(&a.door, 2).await;
    let heard = quick.next().await.unwrap();
    assert!(matches!(&heard.what, Change::Failed { message } if message == "told to panic"), "{heard:?}");
    assert!(matches!(quick.next().await.unwrap().what, Change::Restarted { took } if took < Duration::from_secs(5)));
    for n in 0..2_500 {
        root.start_child(scripted(&format!("c{n}"), &Diary::default(), |s| s).spec.unwrap(), soon()).await.unwrap();
        root.stop_child(&format!("c{n}"), soon()).await.unwrap();
    }
    assert!(matches!(slow.next().await, Err(Missed::Lagged(missed)) if missed > 0));
    assert!(slow.next().await.is_ok(), "after that it goes on with what is kept");
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_look_into_an_actor_neither_kills_it_nor_piles_up_in_one_that_hangs() {
    let mut a = scripted("a", &Diary::default(), |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    for life in 2..=3 {
        a.door.tell(Msg::Panic).unwrap();
        lives(&a.door, life).await;
    }
    // Its third life panics when it is looked into.
    assert_eq!(tree.observe("root/a", soon()).await, Err(CallError::Dropped));
    assert_eq!(lives(&a.door, 1).await, 3);
    a.door.tell(Msg::Hang).unwrap();
    let looking: Vec<_> = (0..40)
        .map(|_| {
            let tree = tree.clone();
            tokio::spawn(async move { tree.observe("root/a", soon()).await })
        })
        .collect();
    until("the rest is refused", || looking.iter().filter(|look| look.is_finished()).count() == 24).await;
    root.shutdown(Duration::from_secs(5)).await;
    for look in looking {
        assert!(matches!(look.await.unwrap(), Err(CallError::Busy | CallError::Dropped)));
    }
}

#[tokio::test]
async fn a_task_ends_with_its_actor_and_an_actor_with_a_task_that_panics() {
    let diary = Diary::default();
    let mut a = scripted("a", &diary, |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    a.door.tell(Msg::Task).unwrap();
    a.door.tell(Msg::Panic).unwrap();
    until("the task is over", || diary.lock().unwrap().iter().any(|line| line == "task over a")).await;
    lives(&a.door, 2).await;
    a.door.tell(Msg::PanicInTask).unwrap();
    lives(&a.door, 3).await;
    assert!(tree.snapshot(Some("root/a"), 0).unwrap().last_failure.unwrap().message.contains("told to panic in a task"));
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_tells_unless_its_handle_is_dropped_or_its_actor_is_dead() {
    let diary = Diary::default();
    let mut a = scripted("a", &diary, |s| s);
    let (root, _) = run(Strategy::OneForOne, &mut [&mut a]).await;
    read(&diary);
    a.door.tell(Msg::Timer { keep: false }).unwrap();
    a.door.tell(Msg::Timer { keep: true }).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(read(&diary), ["tick a"]);
    a.door.tell(Msg::Each(Duration::from_secs(1))).unwrap();
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(read(&diary), ["tick a"; 3]);
    a.door.tell(Msg::Panic).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(read(&diary), ["start a"]);
    assert_eq!(a.script.lives.load(SeqCst), 2);
    root.shutdown(Duration::from_secs(5)).await;
}
