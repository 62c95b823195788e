//! How long what has ended is remembered, and that what is still needed stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use hiveward_actors::{
    client::{ControlPlane, DependsOn, NewAgent, NewSwarm, NewTask, NewWork, SwarmRef},
    event::EventFilter,
    node::{Node, NodeConfig},
    retention::{Retention, blobs::BlobRetention, ledger::LedgerRetention},
};
use hiveward_agents::{message::PauseMode, record::AgentStatus};
use hiveward_catalogue::budget::{Budget, Scope};
use hiveward_kernel::{
    id::{AgentId, SwarmId, TaskId},
    keep::{Keep, OperationRetention, TaskRetention},
};
use hiveward_runtime::{
    error::{Code, Refused},
    ledger::Cursor,
    op::Op,
};
use hiveward_work::task::{record::TaskRecord, status::TaskStatus};
use serde_json::Value;

const SOON: Duration = Duration::from_millis(20);
const NOBODYS: &str = "nobodys";

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    NodeConfig { reserve_bytes: 0, default_agents: 0, shim: support::shim(), ..NodeConfig::new(dir.path()) }
}

fn op() -> Op {
    Op::internal(Duration::from_secs(60))
}

fn named(id: &str) -> Op {
    Op { operation: Some(id.into()), ..op() }
}

fn waits(text: &str) -> NewTask {
    let work = NewWork::Kind { kind: "probe".into(), payload: Some(Value::String(text.into())) };
    NewTask { swarm: Some(SwarmRef::Name(NOBODYS.into())), ..NewTask::new(work) }
}

async fn swarm(control: &ControlPlane) -> SwarmId {
    let new = NewSwarm { name: NOBODYS.into(), ..NewSwarm::default() };
    control.create_swarm(op(), new).await.unwrap().value.spec.id
}

async fn submitted(control: &ControlPlane, op: Op, text: &str) -> Result<Vec<TaskId>, Refused> {
    let done = control.submit_tasks(op, vec![waits(text), waits(text)]).await?;
    Ok(done.value.iter().map(|task| task.id()).collect())
}

/// Until the coordinator itself remembers nothing: the views do.
async fn forgotten_in_memory(control: &ControlPlane, swarm: SwarmId) {
    let key = swarm.to_string();
    loop {
        // It may not live yet: its node was just started.
        if control.tree().observe(&key, op().deadline).await.is_ok_and(|seen| seen["rememberedOperations"] == 0) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_memory_has_let_go_of_is_still_answered_as_the_first_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(config(&dir)).await.unwrap();
    let control = node.control();
    let id = swarm(&control).await;
    let first = submitted(&control, named("first"), "as it was").await.unwrap();
    let cancelled = control.cancel_task(named("cancelled"), first[0]).await.unwrap().value.id();
    for life in 0..2 {
        let control = node.control();
        forgotten_in_memory(&control, id).await;
        assert_eq!(submitted(&control, named("first"), "as it was").await.unwrap(), first, "in life {life}");
        assert_eq!(control.cancel_task(named("cancelled"), first[0]).await.unwrap().value.id(), cancelled);
        let refused = submitted(&control, named("first"), "otherwise").await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::Conflict, Some("operationId")), "{refused:?}");
        node.stop(Duration::from_secs(20)).await;
        node = Node::start(config(&dir)).await.unwrap();
    }
    // At once in a new life as well, whatever its views have taken in by then.
    assert_eq!(submitted(&node.control(), named("first"), "as it was").await.unwrap(), first);
    node.stop(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_forgotten_when_more_are_kept_than_the_node_is_to_keep() {
    let dir = tempfile::tempdir().unwrap();
    let operations = OperationRetention(Keep { count_max: 2, ..OperationRetention::default().0 });
    let retention = Retention { operations, look_every: SOON, ..Retention::default() };
    let node = Node::start(NodeConfig { retention, ..config(&dir) }).await.unwrap();
    let control = node.control();
    let id = swarm(&control).await;
    let first = submitted(&control, named("first"), "as it was").await.unwrap();
    for n in 0..3 {
        submitted(&control, named(&format!("other {n}")), "as it was").await.unwrap();
    }
    forgotten_in_memory(&control, id).await;
    // The views let go of the oldest at their next look.
    loop {
        let again = submitted(&control, named("first"), "as it was").await.unwrap();
        if again != first {
            break;
        }
        tokio::task::yield_now().await;
    }
    node.stop(Duration::from_secs(20)).await;
}

/// Runs and gives back what it was given.
async fn echoed(control: &ControlPlane, body: &str, depends_on: &[TaskId]) -> TaskId {
    let stdin = Some(body.as_bytes().to_vec());
    let work = NewWork::Command { argv: vec!["cat".into()], env: Vec::new(), cwd: None, stdin };
    let depends_on = depends_on.iter().map(|on| DependsOn::Task(*on)).collect();
    let task = control.submit_tasks(op(), vec![NewTask { depends_on, ..NewTask::new(work) }]).await.unwrap().value[0].id();
    loop {
        match control.task(task).unwrap() {
            Some(record) if record.status.is_terminal() => {
                assert_eq!(record.status, TaskStatus::Succeeded, "{record:?}");
                return task;
            }
            _ => tokio::task::yield_now().await,
        }
    }
}

/// The hashes of all blobs, which are made as old as may be.
fn aged_blobs(dir: &std::path::Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in std::fs::read_dir(dir.join("blobs")).unwrap().flatten() {
        for blob in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let name = blob.file_name().to_string_lossy().into_owned();
            if name.len() != 64 {
                continue;
            }
            // It may have gone meanwhile.
            if let Ok(file) = std::fs::File::open(blob.path()) {
                file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
                found.insert(name);
            }
        }
    }
    found
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{what} did not come"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_tasks_go_when_there_are_too_many_and_a_blob_goes_with_the_last_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = TaskRetention(Keep { count_max: 2, ..TaskRetention::default().0 });
    let blobs = BlobRetention { look_every: SOON, ..BlobRetention::default() };
    let retention = Retention { tasks, blobs, look_every: SOON, ..Retention::default() };
    let config = || NodeConfig { retention, default_agents: 1, ..config(&dir) };
    let node = Node::start(config()).await.unwrap();
    let control = node.control();
    let (shared, other) = ("é".repeat(4_000), "ö".repeat(5_000));
    // What it is given, and its result, which is JSON.
    let names = |body: &str| {
        let result = Value::String(body.into()).to_string();
        BTreeSet::from([body, &result].map(|bytes| blake3::hash(bytes.as_bytes()).to_hex().to_string()))
    };
    let first = echoed(&control, &shared, &[]).await;
    let second = echoed(&control, &shared, &[]).await;
    assert_eq!(aged_blobs(dir.path()), names(&shared));
    let third = echoed(&control, &other, &[]).await;
    until("the end of the oldest", || control.task(first).unwrap().is_none()).await;
    // Whoever waits for the third is given its result, however many have ended since.
    let work = NewWork::Kind { kind: "nobody has this".into(), payload: None };
    let skills = vec!["nobody has this".into()];
    let waits = NewTask { depends_on: vec![DependsOn::Task(third)], skills, ..NewTask::new(work) };
    let waits = control.submit_tasks(op(), vec![waits]).await.unwrap().value[0].id();
    control.settled(&op()).await.unwrap();
    aged_blobs(dir.path());
    assert!(control.task(second).unwrap().is_some() && control.task(third).unwrap().is_some());
    let small = echoed(&control, "small", &[]).await;
    until("the end of the second", || control.task(second).unwrap().is_none()).await;
    until("the end of its blob", || aged_blobs(dir.path()) == names(&other)).await;
    let more = echoed(&control, "more", &[]).await;
    until("the end of another", || control.task(small).unwrap().is_none()).await;
    assert!(control.task(third).unwrap().is_some(), "it is needed");
    let storage = control.storage(Duration::from_secs(3)).await.into_values().next().unwrap().unwrap();
    let kept = |kind: &str| storage.kept.iter().find(|kept| kept.kind == kind).unwrap().clone();
    assert_eq!((kept("tasks").count, kept("tasks").removed, kept("tasks").count_max), (2, 3, Some(2)), "{storage:?}");
    assert!(storage.swarms[0].1 > 10_000, "the body that is kept counts for its swarm: {storage:?}");

    // A new life forgets no more than it must.
    node.stop(Duration::from_secs(20)).await;
    let node = Node::start(config()).await.unwrap();
    let control = node.control();
    control.settled(&op()).await.unwrap();
    assert!(control.task(third).unwrap().is_some() && control.task(more).unwrap().is_some());
    control.cancel_task(op(), waits).await.unwrap();
    // It was needed until now, so others are older.
    echoed(&control, "last", &[]).await;
    until("the end of what was needed", || control.task(third).unwrap().is_none()).await;
    until("the end of the last blob", || aged_blobs(dir.path()).is_empty()).await;
    node.stop(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_repeated_after_its_tasks_went_is_not_done_again_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = TaskRetention(Keep { count_max: 2, ..TaskRetention::default().0 });
    let retention = Retention { tasks, look_every: SOON, ..Retention::default() };
    let node = Node::start(NodeConfig { retention, default_agents: 1, ..config(&dir) }).await.unwrap();
    let control = node.control();
    let submitted = async |count: usize| {
        let new = || NewTask::new(NewWork::Command { argv: vec!["true".into()], env: Vec::new(), cwd: None, stdin: None });
        let op = Op { operation: Some(format!("of {count}").into()), ..op() };
        control.submit_tasks(op, (0..count).map(|_| new()).collect()).await
    };
    let ids = |done: &[TaskRecord]| done.iter().map(TaskRecord::id).collect::<Vec<_>>();
    let two = ids(&submitted(2).await.unwrap().value);
    assert_eq!(ids(&submitted(2).await.unwrap().value), two);
    let one = ids(&submitted(1).await.unwrap().value)[0];
    until("the end of one of the two", || two.iter().any(|task| control.task(*task).unwrap().is_none())).await;
    // What is left of the two is no answer to who asks for two.
    let refused = submitted(2).await.unwrap_err();
    assert!(refused.code == Code::NotFound && refused.message.contains("is not done again"), "{refused:?}");
    submitted(3).await.unwrap();
    until("the end of the one", || control.task(one).unwrap().is_none()).await;
    let refused = submitted(1).await.unwrap_err();
    assert!(refused.code == Code::NotFound && refused.message.contains(&one.to_string()), "{refused:?}");
    node.stop(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_declared_and_what_agents_were_told_is_known_after_its_events_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = LedgerRetention { events_max: 50, look_every: SOON, ..LedgerRetention::default() };
    let config = || NodeConfig { ledger, ..config(&dir) };
    let node = Node::start(config()).await.unwrap();
    let control = node.control();
    let swarm = swarm(&control).await;
    let new = |name: &str| NewAgent { name: name.into(), swarm: Some(SwarmRef::Id(swarm)), ..NewAgent::command(name) };
    let agent = control.create_agent(named("the first"), new("paused")).await.unwrap().value.spec.id;
    let removed = control.create_agent(op(), new("removed")).await.unwrap().value.spec.id;
    control.remove_agent(op(), removed, false).await.unwrap();
    let seen = async |control: &ControlPlane| loop {
        // After a start it is not there at once.
        match control.tree().observe(&agent.to_string(), op().deadline).await {
            Ok(seen) => break seen,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    // Until a snapshot goes with the last pause: nothing that comes after it says so again.
    for turn in 0.. {
        assert!(turn < 500, "no snapshot goes with a pause: {}", seen(&control).await);
        until_paused(&control, agent).await;
        // A third event, so that in each round of three another one is the 64th.
        control.pause_agent(op(), agent, PauseMode::Freeze).await.unwrap();
        if seen(&control).await["eventsSinceSnapshot"] == 0 {
            break;
        }
        control.resume_agent(op(), agent).await.unwrap();
    }
    // So many changes of what is declared that it is written down.
    let budget = |tokens| Budget { tokens: Some(tokens), ..Budget::default() };
    let scope = Scope::Swarm(swarm);
    let mut changes = tokio::task::JoinSet::new();
    for n in 0..5_000_u64 {
        while changes.len() >= 64 {
            changes.join_next().await.unwrap().unwrap();
        }
        let (control, scope) = (control.clone(), scope.clone());
        changes.spawn(async move { drop(control.set_budget(op(), scope, budget(1 + n)).await.unwrap()) });
    }
    changes.join_all().await;
    control.set_budget(op(), scope.clone(), budget(777)).await.unwrap();
    let roster = async || control.tree().observe("node/roster", op().deadline).await.unwrap();
    while roster().await["writtenDownAt"].as_u64() < Some(4_000) {
        tokio::task::yield_now().await;
    }
    node.stop(Duration::from_secs(20)).await;
    for life in 0..2 {
        let node = Node::start(config()).await.unwrap();
        let control = node.control();
        if life == 1 {
            // Whoever was there keeps the newest events in memory; this one reads what is left on the disk.
            let gone = control.events(Cursor(0), &EventFilter::default(), 5).unwrap_err();
            assert!(gone.message.contains("no longer kept"), "{gone:?}");
        }
        let budgets = control.budgets(None, 10).unwrap().items;
        assert_eq!(budgets.iter().map(|(_, budget)| budget.budget.tokens).collect::<Vec<_>>(), [Some(777)], "in life {life}");
        assert!(control.agent(removed).unwrap().is_none());
        // It stays paused, also for its actor, which has that from its snapshot alone.
        assert_eq!(seen(&control).await["wanted"], "Paused { frozen: true }", "in life {life}");
        assert_eq!(control.agent(agent).unwrap().unwrap().status, AgentStatus::Paused, "in life {life}");
        let again = control.create_agent(named("the first"), new("paused")).await.unwrap();
        assert_eq!(again.value.spec.id, agent, "an operation is remembered, in life {life}");
        assert_eq!(again.value.status, AgentStatus::Paused, "who repeats the request starts nothing, in life {life}");
        let taken = control.create_agent(op(), new("paused")).await.unwrap_err();
        assert_eq!(taken.code, Code::Conflict, "names are known, in life {life}");
        node.stop(Duration::from_secs(20)).await;
    }
}

async fn until_paused(control: &ControlPlane, agent: AgentId) {
    loop {
        // It can be paused once it is up.
        match control.pause_agent(op(), agent, PauseMode::NextStep).await {
            Ok(_) => return,
            Err(refused) => assert_eq!(refused.code, Code::Refused, "{refused:?}"),
        }
        tokio::task::yield_now().await;
    }
}
