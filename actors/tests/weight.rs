//! What clients may ask within the limits, in bytes: it is taken or refused in words, and no coordinator dies of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use hiveward_actors::{
    client::{ControlPlane, NewScatter, NewSwarm, NewTask, NewWork, Over, SwarmRef},
    node::{Node, NodeConfig},
};
use hiveward_kernel::id::SwarmId;
use hiveward_runtime::{
    error::{Code, Refused},
    fault::{self, Armed, Fault},
    op::Op,
};
use hiveward_work::task::{record::TaskRecord, status::TaskStatus};
use serde_json::{Value, json};

const NOBODYS: &str = "nobodys";

struct Here {
    dir: tempfile::TempDir,
    node: Option<Node>,
    swarm: SwarmId,
}

impl Here {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(&dir)).await.unwrap();
        let new = NewSwarm { name: NOBODYS.into(), ..NewSwarm::default() };
        let swarm = node.control().create_swarm(op(), new).await.unwrap().value.spec.id;
        Self { dir, node: Some(node), swarm }
    }

    fn control(&self) -> ControlPlane {
        self.node.as_ref().unwrap().control()
    }

    async fn restart(&mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(20)).await;
        self.node = Some(Node::start(config(&self.dir)).await.unwrap());
    }

    async fn stop(mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(20)).await;
    }

    /// What the coordinator of the swarm without agents says of itself, and how often it was restarted.
    async fn coordinator(&self) -> (Value, u64) {
        let control = self.control();
        // What a restart has still to take in may not be in the views yet.
        control.settled(&op()).await.unwrap();
        let key = self.swarm.to_string();
        // After a start it is not there at once.
        let state = loop {
            match control.tree().observe(&key, op().deadline).await {
                Ok(state) => break state,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        (state, control.tree().snapshot(Some(&key), 0).unwrap().restarts)
    }
}

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    NodeConfig { reserve_bytes: 0, default_agents: 1, shim: support::shim(), ..NodeConfig::new(dir.path()) }
}

fn op() -> Op {
    Op::internal(Duration::from_secs(60))
}

fn waits(work: NewWork) -> NewTask {
    NewTask { swarm: Some(SwarmRef::Name(NOBODYS.into())), ..NewTask::new(work) }
}

fn command(bytes: usize) -> NewWork {
    NewWork::Command { argv: vec!["true".into(), "x".repeat(bytes)], env: Vec::new(), cwd: None, stdin: None }
}

fn kind(bytes: usize) -> NewWork {
    NewWork::Kind { kind: "probe".into(), payload: Some(Value::String("é".repeat(bytes / 2))) }
}

fn scatter(items: Vec<Value>, part: NewWork) -> NewScatter {
    NewScatter { swarm: Some(SwarmRef::Name(NOBODYS.into())), ..NewScatter::new(Over::Items(items), NewTask::new(part)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_becomes_too_large_is_refused_in_words_and_its_swarm_lives() {
    let here = Here::start().await;
    let control = here.control();
    let items = |n: usize| (0..n).map(|n| json!(n)).collect::<Vec<_>>();
    for _ in 0..11 {
        // 25 kB as it is sent, 20 MB as the tasks that it is.
        let refused = control.scatter(op(), scatter(items(1_000), command(20_000))).await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::Limit, Some("items")), "{refused:?}");
        assert!(refused.message.contains("1000 tasks take") && refused.message.contains("stdin"), "{refused:?}");
    }
    let many: Vec<_> = (0..1_000).map(|_| waits(command(20_000))).collect();
    let refused = control.submit_tasks(op(), many).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::Limit, Some("tasks")), "{refused:?}");
    let env =
        NewWork::Command { argv: vec!["true".into()], env: vec![("A".into(), "x".repeat(128 << 10))], cwd: None, stdin: None };
    let refused = control.submit_tasks(op(), vec![waits(env)]).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::Limit, Some("tasks.0.command.env")), "{refused:?}");
    // What the same script takes as standard input is stored once.
    let script =
        NewWork::Command {
            argv: vec!["sh".into()], env: Vec::new(), cwd: None, stdin: Some("# é\n".repeat(5_000).into_bytes())
        };
    let taken = control.scatter(op(), scatter(items(1_000), script)).await.unwrap();
    assert_eq!(taken.value.subtasks.len(), 1_000);
    let (state, restarts) = here.coordinator().await;
    assert_eq!((state["liveTasks"].as_u64(), restarts), (Some(1_001), 0));
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_clients_send_while_the_disk_is_slow_is_all_taken() {
    let here = Here::start().await;
    let control = here.control();
    let slow = Fault::Delay(Duration::from_secs(1));
    assert!(fault::arm(Armed { point: "ledger.before_fsync".into(), key: None, fault: slow, times: 1 }));
    // Each within its limits, a megabyte; together more than an append takes.
    let submitted = join_all((0..40).map(|_| {
        let control = control.clone();
        async move { control.submit_tasks(op(), (0..240).map(|_| waits(kind(4_000))).collect()).await }
    }));
    let submitted: Vec<Result<_, Refused>> = submitted.await;
    let refused: Vec<_> = submitted.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let (state, restarts) = here.coordinator().await;
    assert_eq!((state["liveTasks"].as_u64(), restarts), (Some(40 * 240), 0));
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_that_is_larger_than_an_append_is_written_down_in_pieces_and_lives_again() {
    let mut here = Here::start().await;
    let control = here.control();
    let mut kept = Vec::new();
    for n in 0..6_usize {
        let tasks = (0..1_000).map(|at| waits(kind((at * 7 + n) % 8_000 / 2 * 2))).collect();
        kept.extend(control.submit_tasks(op(), tasks).await.unwrap().value);
    }
    let hash = |records: &[TaskRecord], control: &ControlPlane| -> Vec<Vec<u8>> {
        records
            .iter()
            .map(|record| {
                let hiveward_work::task::spec::Work::Kind { payload: Some(payload), .. } = &record.spec.work else { panic!() };
                control.body(payload).unwrap().to_vec()
            })
            .collect()
    };
    let bodies = hash(&kept, &control);
    // What comes and goes until a snapshot is due.
    for _ in 0..24 {
        let items = (0..1_000).map(|_| json!("é".repeat(1_950))).collect();
        let gone = control.scatter(op(), scatter(items, NewWork::Kind { kind: "probe".into(), payload: None })).await.unwrap();
        control.cancel_task(op(), gone.value.id()).await.unwrap();
    }
    let (state, restarts) = here.coordinator().await;
    assert_eq!((state["liveTasks"].as_u64(), restarts), (Some(6_000), 0), "{state}");
    here.restart().await;
    let (state, restarts) = here.coordinator().await;
    assert_eq!((state["liveTasks"].as_u64(), state["readyTasks"].as_u64(), restarts), (Some(6_000), Some(6_000), 0), "{state}");
    let replayed = state["eventsSinceSnapshot"].as_u64().unwrap();
    assert!(replayed < 30_000, "no snapshot was taken: {replayed} events were replayed");
    let control = here.control();
    let again: Vec<_> = kept.iter().map(|record| control.task(record.id()).unwrap().unwrap()).collect();
    assert!(again.iter().all(|record| record.status == TaskStatus::Queued));
    assert!(hash(&again, &control) == bodies, "what was acknowledged is not what is there");
    here.stop().await;
}
