//! Who is restarted, and when not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hiveward_runtime::{
    call::{CallError, Door, Reply, TellError},
    clock::Deadline,
    supervise::{
        ActorStatus, Backoff, Behaviour, Change, ChildSpec, Context, Failure, Intensity, Restart, Shutdown, Strategy, Supervisor,
        SupervisorSpec, Tree,
    },
};

/// Counts its lives and does as it is told.
struct Probe {
    lives: Arc<AtomicU32>,
    fail_start: Arc<AtomicU32>,
}

enum Msg {
    Life(Reply<u32>),
    Panic,
    Fail(&'static str),
    Hang,
    DropReply(Reply<u32>),
    Stop,
}

impl Behaviour for Probe {
    type Msg = Msg;
    type State = u32;

    async fn start(&self, _: &Context<Msg>) -> Result<u32, Failure> {
        if self.fail_start.load(Ordering::SeqCst) > 0 {
            self.fail_start.fetch_sub(1, Ordering::SeqCst);
            return Err(Failure::new("start refused"));
        }
        Ok(self.lives.fetch_add(1, Ordering::SeqCst) + 1)
    }

    async fn handle(&self, ctx: &Context<Msg>, msg: Msg, life: &mut u32) -> Result<(), Failure> {
        match msg {
            Msg::Life(reply) => reply.answer(*life),
            Msg::Panic => panic!("told to panic"),
            Msg::Fail(why) => return Err(Failure::new(why)),
            Msg::Hang => std::future::pending().await,
            Msg::DropReply(reply) => drop(reply),
            Msg::Stop => ctx.stop(),
        }
        Ok(())
    }

    fn observe(&self, life: &u32) -> serde_json::Value {
        serde_json::json!({ "life": life })
    }
}

struct Made {
    spec: Option<ChildSpec>,
    door: Door<Msg>,
    lives: Arc<AtomicU32>,
    fail_start: Arc<AtomicU32>,
}

fn probe(
    name: &str,
    change: impl FnOnce(hiveward_runtime::supervise::ActorSpec<Probe>) -> hiveward_runtime::supervise::ActorSpec<Probe>,
) -> Made {
    let (lives, fail_start) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (l, f) = (lives.clone(), fail_start.clone());
    let spec = ChildSpec::actor(name, "probe", move || Probe { lives: l.clone(), fail_start: f.clone() });
    let (spec, door) = change(spec.shutdown(Shutdown::Grace(Duration::from_millis(200)))).build();
    Made { spec: Some(spec), door, lives, fail_start }
}

async fn start(strategy: Strategy, intensity: Intensity, children: &mut [&mut Made]) -> (Supervisor, Tree) {
    let tree = Tree::default();
    let children = children.iter_mut().map(|child| child.spec.take().unwrap()).collect();
    let root =
        Supervisor::root(SupervisorSpec::new("root", strategy, children).intensity(intensity), tree.clone()).await.unwrap();
    (root, tree)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never came true: {what}");
}

async fn life(door: &Door<Msg>) -> u32 {
    loop {
        match door.ask(soon(), Msg::Life).await {
            Ok(life) => return life,
            Err(CallError::Gone | CallError::Dropped) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(other) => panic!("{other}"),
        }
    }
}

pub const MANY: Intensity = Intensity { restarts_max: 100, period: Duration::from_secs(60) };

#[tokio::test]
async fn one_for_one_restarts_only_the_child_that_failed_and_the_tree_shows_it() {
    let (mut a, mut b) = (probe("a", |s| s), probe("b", |s| s));
    let (root, tree) = start(Strategy::OneForOne, MANY, &mut [&mut a, &mut b]).await;
    a.door.tell(Msg::Panic).unwrap();
    until("a lives again", || a.lives.load(Ordering::SeqCst) == 2).await;
    assert_eq!((life(&a.door).await, life(&b.door).await), (2, 1));
    until("the tree shows it", || {
        tree.snapshot(Some("root/a"), 0).unwrap().last_failure.is_some_and(|f| f.recovered_in.is_some())
    })
    .await;
    let shown = tree.snapshot(Some("root/a"), 0).unwrap();
    assert_eq!((shown.restarts, shown.status), (1, ActorStatus::Running));
    assert!(shown.last_failure.unwrap().message.contains("told to panic"));
    assert_eq!(tree.snapshot(Some("root/b"), 0).unwrap().restarts, 0);
    assert_eq!(tree.observe("root/a", soon()).await.unwrap()["life"], 2);
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn one_for_all_restarts_everyone_and_rest_for_one_those_started_after() {
    for (strategy, wants) in [(Strategy::OneForAll, [2, 2, 2]), (Strategy::RestForOne, [1, 2, 2])] {
        let (mut a, mut b, mut c) = (probe("a", |s| s), probe("b", |s| s), probe("c", |s| s));
        let (root, _) = start(strategy, MANY, &mut [&mut a, &mut b, &mut c]).await;
        b.door.tell(Msg::Fail("b fails")).unwrap();
        until("c lives again", || c.lives.load(Ordering::SeqCst) == 2).await;
        assert_eq!([life(&a.door).await, life(&b.door).await, life(&c.door).await], wants, "{strategy:?}");
        root.shutdown(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn transient_children_restart_after_a_failure_and_not_after_an_orderly_stop() {
    let mut a = probe("a", |s| s.restart(Restart::Transient));
    let (root, tree) = start(Strategy::OneForOne, MANY, &mut [&mut a]).await;
    a.door.tell(Msg::Fail("once")).unwrap();
    until("it lives again", || a.lives.load(Ordering::SeqCst) == 2 && a.door.current().is_some()).await;
    a.door.tell(Msg::Stop).unwrap();
    until("it is stopped", || tree.snapshot(Some("root/a"), 0).unwrap().status == ActorStatus::Stopped).await;
    assert_eq!(a.lives.load(Ordering::SeqCst), 2);
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_temporary_child_that_fails_leaves_the_tree() {
    let mut a = probe("a", |s| s.restart(Restart::Temporary));
    let (root, tree) = start(Strategy::OneForOne, MANY, &mut [&mut a]).await;
    a.door.tell(Msg::Panic).unwrap();
    until("it is gone", || tree.snapshot(Some("root/a"), 0).is_none()).await;
    assert!(matches!(a.door.tell(Msg::Panic), Err(TellError::Gone(_))));
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn too_many_restarts_escalate_one_level_and_siblings_of_the_supervisor_never_notice() {
    let mut child = probe("child", |s| s);
    let mut sibling = probe("sibling", |s| s);
    let three = Intensity { restarts_max: 3, period: Duration::from_secs(60) };
    let inner = SupervisorSpec::new("inner", Strategy::OneForOne, vec![child.spec.take().unwrap()]).intensity(three);
    let (inner, _) = ChildSpec::supervisor(inner);
    let tree = Tree::default();
    let spec = SupervisorSpec::new("root", Strategy::OneForOne, vec![inner, sibling.spec.take().unwrap()]).intensity(MANY);
    let root = Supervisor::root(spec, tree.clone()).await.unwrap();
    for n in 2..=5 {
        child.door.tell(Msg::Panic).unwrap();
        until("the child lives again", || child.lives.load(Ordering::SeqCst) == n && child.door.current().is_some()).await;
    }
    until("the inner supervisor was restarted", || tree.snapshot(Some("root/inner"), 0).unwrap().restarts == 1).await;
    let inner = tree.snapshot(Some("root/inner"), 0).unwrap();
    assert!(inner.last_failure.unwrap().message.contains("more than 3 restarts"));
    assert_eq!(life(&sibling.door).await, 1);
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_crash_loop_of_one_child_is_stopped_and_shown_and_its_siblings_go_on() {
    let mut a = probe("a", |s| s.crash_loop(Intensity { restarts_max: 2, period: Duration::from_secs(60) }));
    let mut b = probe("b", |s| s);
    let (root, tree) =
        start(Strategy::OneForOne, Intensity { restarts_max: 0, period: Duration::from_secs(60) }, &mut [&mut a, &mut b]).await;
    let mut changes = tree.changes();
    for n in 2..=3 {
        a.door.tell(Msg::Panic).unwrap();
        until("it lives again", || a.lives.load(Ordering::SeqCst) == n && a.door.current().is_some()).await;
    }
    a.door.tell(Msg::Panic).unwrap();
    until("it is given up", || tree.snapshot(Some("root/a"), 0).unwrap().status == ActorStatus::Failed).await;
    let gave_up = async {
        loop {
            if let Change::GaveUp { message } = changes.next().await.unwrap().what {
                return message;
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), gave_up).await.unwrap().contains("told to panic"));
    assert_eq!(life(&b.door).await, 1);
    root.restart_child("a", soon()).await.unwrap();
    assert_eq!(life(&a.door).await, 4);
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_tried_again_after_pauses_that_grow_and_is_well_again_once_it_lives() {
    let crash_loop = Intensity { restarts_max: 2, period: Duration::from_secs(60) };
    let pauses = Backoff {
        first: Duration::from_secs(10),
        max: Duration::from_secs(40),
        factor: 2.0,
        jitter: 0.0,
        reset_after: Duration::from_secs(60),
    };
    let mut a = probe("a", |s| s.crash_loop(crash_loop).tried_again(pauses));
    let (root, tree) = start(Strategy::OneForOne, Intensity::default(), &mut [&mut a]).await;
    let status = || tree.snapshot(Some("root/a"), 0).unwrap().status;
    let lives = || a.lives.load(Ordering::SeqCst);
    let mut pauses_seen = Vec::new();
    for _ in 0..3 {
        a.door.tell(Msg::Panic).unwrap();
        let before = lives();
        until("it lives again or is given up", || lives() > before || status() == ActorStatus::Failed).await;
        until("it is up or given up", || a.door.current().is_some() || status() == ActorStatus::Failed).await;
    }
    for _ in 0..4 {
        until("it is given up", || status() == ActorStatus::Failed).await;
        let (began, before) = (tokio::time::Instant::now(), lives());
        let note = tree.snapshot(Some("root/a"), 0).unwrap().note.unwrap();
        assert!(note.contains("it is tried again in"), "{note}");
        while lives() == before || a.door.current().is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(began.elapsed() < Duration::from_secs(100), "it is never tried again");
        }
        pauses_seen.push(began.elapsed().as_secs());
        a.door.tell(Msg::Panic).unwrap();
    }
    assert_eq!(pauses_seen, [10, 20, 40, 40]);
    // One that lives for a while has all its restarts again.
    tokio::time::sleep(Duration::from_secs(40 + 61)).await;
    assert_eq!(status(), ActorStatus::Running);
    let before = lives();
    a.door.tell(Msg::Panic).unwrap();
    until("it is restarted at once", || lives() > before && a.door.current().is_some()).await;
    assert_eq!(status(), ActorStatus::Running);
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn restarts_in_a_row_wait_longer_and_longer_up_to_the_maximum() {
    let backoff = Backoff {
        first: Duration::from_secs(1),
        max: Duration::from_secs(3),
        factor: 2.0,
        jitter: 0.0,
        reset_after: Duration::from_secs(1000),
    };
    let mut a = probe("a", |s| s.backoff(backoff));
    let (root, _) = start(Strategy::OneForOne, MANY, &mut [&mut a]).await;
    for wants in [0, 1, 2, 3, 3] {
        let before = tokio::time::Instant::now();
        a.door.tell(Msg::Fail("again")).unwrap();
        let lived = a.lives.load(Ordering::SeqCst);
        until("it lives again", || a.lives.load(Ordering::SeqCst) > lived && a.door.current().is_some()).await;
        assert_eq!(before.elapsed().as_secs(), wants);
    }
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_child_that_fails_to_restart_is_tried_again() {
    let mut a = probe("a", |s| s);
    let (root, _) = start(Strategy::OneForOne, MANY, &mut [&mut a]).await;
    a.fail_start.store(3, Ordering::SeqCst);
    a.door.tell(Msg::Panic).unwrap();
    until("it lives again", || a.lives.load(Ordering::SeqCst) == 2).await;
    root.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn who_asks_a_dying_actor_hears_it_at_once_and_a_hanging_one_by_the_deadline() {
    let mut a = probe("a", |s| s);
    let (root, _) = start(Strategy::OneForOne, MANY, &mut [&mut a]).await;
    assert_eq!(a.door.ask(soon(), Msg::DropReply).await, Err(CallError::Dropped));
    a.door.tell(Msg::Panic).unwrap();
    let asked = a.door.ask(soon(), Msg::Life).await;
    assert!(matches!(asked, Err(CallError::Dropped | CallError::Gone) | Ok(2)), "{asked:?}");
    life(&a.door).await;
    a.door.tell(Msg::Hang).unwrap();
    let asked = a.door.ask(Deadline::after(Duration::from_millis(50)), Msg::Life).await;
    assert!(matches!(asked, Err(CallError::Expired { .. })), "{asked:?}");
    root.shutdown(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_full_mailbox_says_busy_and_gives_the_message_back() {
    let mut a = probe("a", |s| s.mailbox(2));
    let (root, tree) = start(Strategy::OneForOne, MANY, &mut [&mut a]).await;
    a.door.tell(Msg::Hang).unwrap();
    until("it hangs", || tree.snapshot(Some("root/a"), 0).unwrap().mailbox == 0).await;
    a.door.tell(Msg::Fail("one")).unwrap();
    a.door.tell(Msg::Fail("two")).unwrap();
    assert!(matches!(a.door.tell(Msg::Fail("three")), Err(TellError::Busy(Msg::Fail("three")))));
    let shown = tree.snapshot(Some("root/a"), 0).unwrap();
    assert_eq!((shown.mailbox, shown.mailbox_bound), (2, 2));
    root.shutdown(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn ten_thousand_children_are_started_read_and_stopped() {
    let tree = Tree::default();
    let root = Supervisor::root(SupervisorSpec::new("root", Strategy::OneForOne, vec![]), tree.clone()).await.unwrap();
    for n in 0..10_000 {
        let mut child = probe(&format!("c{n}"), |s| s);
        root.start_child(child.spec.take().unwrap(), Deadline::after(Duration::from_secs(60))).await.unwrap();
    }
    assert_eq!(tree.len(), 10_001);
    assert_eq!(tree.snapshot(None, 1).unwrap().children.len(), 10_000);
    assert!(root.start_child(probe("c7", |s| s).spec.take().unwrap(), soon()).await.is_err());
    root.stop_child("c7", soon()).await.unwrap();
    assert_eq!(tree.len(), 10_000);
    root.shutdown(Duration::from_secs(30)).await;
    assert_eq!(tree.len(), 1);
}
