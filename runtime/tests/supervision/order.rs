//! In which order children start and stop, and that no two lives of one overlap.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use hiveward_runtime::supervise::{
    ActorStatus, ChildSpec, Intensity, Restart, Shutdown, StartError, Strategy, Supervisor, SupervisorSpec, Tree,
};

use crate::script::*;

#[tokio::test]
async fn children_start_in_order_and_stop_in_reverse_order_under_every_strategy() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let diary = Diary::default();
        let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| scripted(name, &diary, |s| s));
        let (root, _) = run(strategy, &mut [&mut a, &mut b, &mut c]).await;
        root.shutdown(Duration::from_secs(5)).await;
        assert_eq!(read(&diary), ["start a", "start b", "start c", "stop c", "stop b", "stop a"], "{strategy:?}");
    }
}

#[tokio::test]
async fn a_group_restart_stops_in_reverse_order_and_starts_in_order() {
    let diary = Diary::default();
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| scripted(name, &diary, |s| s));
    let (root, tree) = run(Strategy::OneForAll, &mut [&mut a, &mut b, &mut c]).await;
    read(&diary);
    b.door.tell(Msg::Panic).unwrap();
    lives(&c.door, 2).await;
    assert_eq!(read(&diary), ["stop c", "stop a", "start a", "start b", "start c"]);
    assert_eq!(tree.snapshot(Some("root/c"), 0).unwrap().restarts, 1);
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_group_restart_leaves_out_temporary_children_and_those_given_up() {
    let diary = Diary::default();
    let never = Intensity { restarts_max: 0, period: Duration::from_secs(60) };
    let mut a = scripted("a", &diary, |s| s);
    let mut temporary = scripted("temporary", &diary, |s| s.restart(Restart::Temporary));
    let mut given_up = scripted("given_up", &diary, |s| s.crash_loop(never));
    let (root, tree) = run(Strategy::OneForAll, &mut [&mut a, &mut temporary, &mut given_up]).await;
    given_up.door.tell(Msg::Panic).unwrap();
    until("it is given up", || tree.snapshot(Some("root/given_up"), 0).unwrap().status == ActorStatus::Failed).await;
    a.door.tell(Msg::Panic).unwrap();
    lives(&a.door, 2).await;
    until("the temporary one is gone", || tree.snapshot(Some("root/temporary"), 0).is_none()).await;
    assert_eq!(tree.snapshot(Some("root/given_up"), 0).unwrap().status, ActorStatus::Failed);
    assert_eq!(given_up.script.lives.load(SeqCst), 1);
    root.restart_child("given_up", soon()).await.unwrap();
    assert_eq!(lives(&given_up.door, 2).await, 2);
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_starts_only_when_the_state_of_the_one_before_it_is_let_go() {
    let diary = Diary::default();
    let mut a = scripted("a", &diary, |s| s.shutdown(Shutdown::Grace(Duration::from_millis(20))));
    let (root, _) = run(Strategy::OneForOne, &mut [&mut a]).await;
    for round in 0..20 {
        let life = lives(&a.door, 1).await;
        match round % 4 {
            0 => a.door.tell(Msg::Panic).unwrap(),
            1 => a.door.tell(Msg::Stop).unwrap(),
            2 => root.restart_child("a", soon()).await.unwrap(),
            _ => {
                a.door.tell(Msg::Hang).unwrap();
                root.restart_child("a", soon()).await.unwrap();
            }
        }
        lives(&a.door, life + 1).await;
    }
    assert_eq!(a.script.states_most.load(SeqCst), 1);
    root.shutdown(Duration::from_secs(5)).await;
    assert_eq!(a.script.states.load(SeqCst), 0);
}

#[tokio::test]
async fn the_name_of_a_child_is_taken_until_its_stop_is_through() {
    let diary = Diary::default();
    let mut a = scripted("a", &diary, |s| s);
    let (root, tree) = run(Strategy::OneForOne, &mut [&mut a]).await;
    a.script.stop.store(HANG, SeqCst);
    let stopping = tokio::spawn({
        let root = root.clone();
        async move { root.stop_child("a", soon()).await }
    });
    until("it is stopping", || tree.snapshot(Some("root/a"), 0).unwrap().status == ActorStatus::Stopping).await;
    let again = scripted("a", &diary, |s| s).spec.unwrap();
    assert_eq!(root.start_child(again.clone(), soon()).await, Err(StartError::Duplicate("a".into())));
    stopping.await.unwrap().unwrap();
    root.start_child(again, soon()).await.unwrap();
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn two_children_of_one_name_are_refused_before_anything_is_left_running() {
    let diary = Diary::default();
    let [mut a, mut twin] = ["a", "a"].map(|name| scripted(name, &diary, |s| s));
    let spec = spec_of("root", Strategy::OneForOne, &mut [&mut a, &mut twin]);
    assert!(matches!(Supervisor::root(spec, Tree::default()).await, Err(StartError::Failed { .. })));
    assert_eq!(a.script.states.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_essential_child_is_restarted_with_growing_waits_for_ever() {
    let diary = Diary::default();
    let mut child = scripted("child", &diary, |s| s);
    let never = Intensity { restarts_max: 0, period: Duration::from_secs(60) };
    let (platform, _) = ChildSpec::supervisor(spec_of("platform", Strategy::RestForOne, &mut [&mut child]).intensity(never));
    let tree = Tree::default();
    let spec = SupervisorSpec::new("root", Strategy::OneForOne, vec![platform.essential()]).intensity(never);
    let root = Supervisor::root(spec, tree.clone()).await.unwrap();
    for life in 2..=30 {
        child.door.tell(Msg::Panic).unwrap();
        until("its supervisor waits or is back", || {
            child.script.lives.load(SeqCst) == life
                || tree.snapshot(Some("root/platform"), 0).unwrap().status == ActorStatus::Restarting
        })
        .await;
        let before = tokio::time::Instant::now();
        while child.script.lives.load(SeqCst) < life || child.door.current().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(before.elapsed() <= Duration::from_secs(31), "{:?}", before.elapsed());
    }
    assert!(root.is_running());
    assert_eq!(tree.snapshot(Some("root/platform"), 0).unwrap().restarts, 29);
    root.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_root_that_gives_up_says_so_and_ends() {
    let diary = Diary::default();
    let mut child = scripted("child", &diary, |s| s);
    let never = Intensity { restarts_max: 0, period: Duration::from_secs(60) };
    let tree = Tree::default();
    let root =
        Supervisor::root(spec_of("root", Strategy::OneForOne, &mut [&mut child]).intensity(never), tree.clone()).await.unwrap();
    child.door.tell(Msg::Panic).unwrap();
    tokio::time::timeout(Duration::from_secs(5), root.ended()).await.unwrap();
    let shown = tree.snapshot(None, 0).unwrap();
    assert_eq!(shown.status, ActorStatus::Failed);
    assert!(shown.last_failure.unwrap().message.contains("told to panic"));
    assert_eq!(child.script.states.load(SeqCst), 0);
}
