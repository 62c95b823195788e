//! What one node promises, with real processes and a real ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use hiveward_actors::{
    client::{ControlPlane, DependsOn, NewAgent, NewSwarm, NewTask, NewWork, SwarmRef, TaskEdit},
    event::EventFilter,
    node::{Node, NodeConfig},
    retention::{Retention, TranscriptRetention, ledger::LedgerRetention},
};
use hiveward_kernel::id::TaskId;
use hiveward_runtime::{
    clock::Deadline,
    error::Code,
    fault::{self, Armed, Fault},
    ledger::Cursor,
    op::Op,
};
use hiveward_work::task::{
    record::TaskRecord,
    retry::RetryPolicy,
    spec::{Aggregate, PlanSpec},
    status::TaskStatus,
};

struct Here {
    dir: tempfile::TempDir,
    node: Option<Node>,
}

impl Here {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(&dir)).await.unwrap();
        Self { dir, node: Some(node) }
    }

    fn control(&self) -> ControlPlane {
        self.node.as_ref().unwrap().control()
    }

    async fn restart(&mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
        self.node = Some(Node::start(config(&self.dir)).await.unwrap());
    }

    async fn stop(mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
    }
}

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    NodeConfig { reserve_bytes: 0, default_agents: 2, shim: support::shim(), ..NodeConfig::new(dir.path()) }
}

fn op() -> Op {
    Op::internal(Duration::from_secs(30))
}

fn sh(script: &str) -> NewTask {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    NewTask::new(NewWork::Command { argv, env: Vec::new(), cwd: None, stdin: None })
}

async fn submit(control: &ControlPlane, task: NewTask) -> TaskId {
    control.submit_tasks(op(), vec![task]).await.unwrap().value[0].id()
}

async fn ended(control: &ControlPlane, task: TaskId) -> TaskRecord {
    until(control, task, "ended", |record| record.status.is_terminal()).await
}

async fn until(control: &ControlPlane, task: TaskId, what: &str, holds: impl Fn(&TaskRecord) -> bool) -> TaskRecord {
    for _ in 0..3_000 {
        if let Some(record) = control.task(task).unwrap()
            && holds(&record)
        {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}: {:#?}", control.task(task).unwrap());
}

fn result(control: &ControlPlane, record: &TaskRecord) -> String {
    String::from_utf8(control.body(record.result.as_ref().unwrap()).unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_and_its_result_and_placement_are_shown() {
    let here = Here::start().await;
    let control = here.control();
    let task = submit(&control, sh("echo hello")).await;
    let record = ended(&control, task).await;
    assert_eq!(record.status, TaskStatus::Succeeded, "{record:#?}");
    assert_eq!(result(&control, &record), "\"hello\\n\"");
    assert_eq!(record.attempts[0].exit_code, Some(0));
    assert!(!record.attempts[0].decision.scores.is_empty());
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependants_wait_get_the_results_and_fail_with_what_they_wait_for() {
    let here = Here::start().await;
    let control = here.control();
    let mut first = sh(r#"echo '{"hiveward":"result","value":{"n":41}}'"#);
    first.local_name = Some("first".into());
    let mut second = sh("cat $HIVEWARD_INPUTS");
    second.depends_on = vec![DependsOn::Local("first".into())];
    let ids: Vec<_> = control.submit_tasks(op(), vec![second, first]).await.unwrap().value.iter().map(TaskRecord::id).collect();
    let record = ended(&control, ids[0]).await;
    assert_eq!(record.status, TaskStatus::Succeeded, "{record:#?}");
    assert!(result(&control, &record).contains("41"), "{}", result(&control, &record));

    let mut bad = sh("exit 3");
    bad.retry = Some(RetryPolicy { first_ms: 10, ..RetryPolicy::default() });
    bad.local_name = Some("bad".into());
    let mut after = sh("true");
    after.depends_on = vec![DependsOn::Local("bad".into())];
    let ids: Vec<_> = control.submit_tasks(op(), vec![bad, after]).await.unwrap().value.iter().map(TaskRecord::id).collect();
    let record = ended(&control, ids[1]).await;
    assert_eq!(record.status, TaskStatus::Failed);
    assert!(record.error.unwrap().contains("ended DEAD"));
    let dead = ended(&control, ids[0]).await;
    assert_eq!((dead.status, dead.attempts.len()), (TaskStatus::Dead, 3));
    // Redriven with an edit it succeeds, under a new attempt.
    let edit = TaskEdit { work: Some(sh("echo mended").work), ..TaskEdit::default() };
    control.retry_task(op(), ids[0], edit).await.unwrap();
    let mended = ended(&control, ids[0]).await;
    assert_eq!((mended.status, mended.attempts.len()), (TaskStatus::Succeeded, 4));
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_operation_gives_the_same_answer_and_another_input_is_a_conflict() {
    let mut here = Here::start().await;
    let named = || Op { operation: Some("one".into()), ..op() };
    let first = here.control().submit_tasks(named(), vec![sh("echo a")]).await.unwrap();
    let again = here.control().submit_tasks(named(), vec![sh("echo a")]).await.unwrap();
    assert_eq!(first.value[0].id(), again.value[0].id());
    here.restart().await;
    let again = here.control().submit_tasks(named(), vec![sh("echo a")]).await.unwrap();
    assert_eq!(first.value[0].id(), again.value[0].id());
    let refused = here.control().submit_tasks(named(), vec![sh("echo b")]).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_reaches_the_running_process() {
    let here = Here::start().await;
    let control = here.control();
    let marker = here.dir.path().join("still-there");
    let task = submit(&control, sh(&format!("sleep 60; touch {}", marker.display()))).await;
    until(&control, task, "running", |record| record.status == TaskStatus::Running).await;
    control.cancel_task(op(), task).await.unwrap();
    assert_eq!(ended(&control, task).await.status, TaskStatus::Cancelled);
    // The place is free again when the process is gone.
    for _ in 0..3 {
        let next = submit(&control, sh("true")).await;
        assert_eq!(ended(&control, next).await.status, TaskStatus::Succeeded);
    }
    assert!(!marker.exists());
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_and_started_node_adopts_what_runs_and_loses_nothing() {
    let mut here = Here::start().await;
    let counter = here.dir.path().join("runs");
    let script = format!("echo begun >> {0}; sleep 2; echo output-of-it", counter.display());
    let running = submit(&here.control(), sh(&script)).await;
    until(&here.control(), running, "running", |record| record.status == TaskStatus::Running).await;
    let waiting: Vec<_> = {
        let mut ids = Vec::new();
        for n in 0..10 {
            ids.push(submit(&here.control(), sh(&format!("echo {n}"))).await);
        }
        ids
    };
    here.restart().await;
    let record = ended(&here.control(), running).await;
    assert_eq!((record.status, record.attempts.len()), (TaskStatus::Succeeded, 1), "{record:#?}");
    assert_eq!(std::fs::read_to_string(&counter).unwrap(), "begun\n");
    for task in waiting {
        assert_eq!(ended(&here.control(), task).await.status, TaskStatus::Succeeded);
    }
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_becomes_subtasks_whose_results_are_aggregated() {
    let here = Here::start().await;
    let control = here.control();
    let plan = r#"{"tasks":[{"name":"a","command":{"argv":["/bin/sh","-c","echo '{\"hiveward\":\"result\",\"value\":{\"n\":1}}'"]}},{"name":"b","dependsOn":["a"],"command":{"argv":["/bin/sh","-c","echo '{\"hiveward\":\"result\",\"value\":{\"n\":2}}'"]}}]}"#;
    let mut planner =
        NewTask::new(NewWork::Command { argv: vec!["/bin/cat".into()], env: vec![], cwd: None, stdin: Some(plan.into()) });
    planner.plan = Some(PlanSpec { aggregate: Aggregate::Merge, subtasks_max: 10 });
    let task = submit(&control, planner).await;
    let record = ended(&control, task).await;
    assert_eq!(record.status, TaskStatus::Succeeded, "{record:#?}");
    assert_eq!(record.subtasks.len(), 2);
    assert_eq!(result(&control, &record), r#"{"n":3}"#);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_their_field_and_change_nothing() {
    let here = Here::start().await;
    let control = here.control();
    let before = control.head();
    let local = |name: &str, on: &str| NewTask {
        local_name: Some(name.into()),
        depends_on: vec![DependsOn::Local(on.into())],
        ..sh("true")
    };
    let cycle = control.submit_tasks(op(), vec![local("a", "b"), local("b", "a")]).await.unwrap_err();
    assert_eq!((cycle.code, cycle.field.as_deref()), (Code::Invalid, Some("tasks.0.dependsOn")));
    assert!(cycle.message.contains("a → b → a"), "{cycle}");
    let unknown = NewTask { depends_on: vec![DependsOn::Task(TaskId::new())], ..sh("true") };
    let refused = control.submit_tasks(op(), vec![sh("true"), unknown]).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::NotFound, Some("tasks.1.dependsOn")));
    let nobody = NewTask { swarm: Some(SwarmRef::Name("nobody".into())), ..sh("true") };
    assert_eq!(control.submit_tasks(op(), vec![nobody]).await.unwrap_err().code, Code::NotFound);
    let empty = NewTask::new(NewWork::Command { argv: vec![], env: vec![], cwd: None, stdin: None });
    assert_eq!(control.submit_tasks(op(), vec![empty]).await.unwrap_err().field.as_deref(), Some("tasks.0.command.argv"));
    assert_eq!(control.head(), before);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_made_paused_stopped_restarted_and_removed() {
    let here = Here::start().await;
    let control = here.control();
    let swarm = control.create_swarm(op(), NewSwarm { name: "team".into(), ..NewSwarm::default() }).await.unwrap().value;
    let new = NewAgent { swarm: Some(SwarmRef::Id(swarm.spec.id)), ..NewAgent::command("solo") };
    let agent = control.create_agent(op(), new.clone()).await.unwrap().value.spec.id;
    assert_eq!(control.create_agent(op(), new).await.unwrap_err().code, Code::Conflict);
    let to_team = |script: &str| NewTask { swarm: Some(SwarmRef::Name("team".into())), ..sh(script) };
    control.pause_agent(op(), agent, hiveward_agents::message::PauseMode::NextStep).await.unwrap();
    let task = submit(&control, to_team("echo x")).await;
    let waiting = until(&control, task, "queued", |record| record.status == TaskStatus::Queued).await;
    let why = control.why(&waiting, op().deadline).await.unwrap();
    assert!(why.text.contains("no agent of swarm team is ready"), "{}", why.text);
    control.resume_agent(op(), agent).await.unwrap();
    assert_eq!(ended(&control, task).await.status, TaskStatus::Succeeded);
    // Stopping takes the running process with it; its task goes back and runs under a new attempt after the start.
    let task = submit(&control, to_team("sleep 1; echo done")).await;
    until(&control, task, "running", |record| record.status == TaskStatus::Running).await;
    control.stop_agent(op(), agent, hiveward_agents::message::StopMode::Now).await.unwrap();
    until(&control, task, "queued again", |record| record.status == TaskStatus::Queued).await;
    control.start_agent(op(), agent).await.unwrap();
    let record = ended(&control, task).await;
    assert_eq!((record.status, record.attempts.len()), (TaskStatus::Succeeded, 2), "{record:#?}");
    control.remove_agent(op(), agent, false).await.unwrap();
    assert!(control.agent(agent).unwrap().is_none());
    control.remove_swarm(op(), swarm.spec.id, false).await.unwrap();
    assert!(control.swarm(swarm.spec.id).unwrap().is_none());
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_whose_agent_could_not_be_removed_takes_tasks_again() {
    let here = Here::start().await;
    let control = here.control();
    let swarm = control.create_swarm(op(), NewSwarm { name: "team".into(), ..NewSwarm::default() }).await.unwrap().value;
    let new = NewAgent { swarm: Some(SwarmRef::Id(swarm.spec.id)), ..NewAgent::command("stuck") };
    let agent = control.create_agent(op(), new).await.unwrap().value.spec.id;
    let fault = Fault::Hang;
    assert!(fault::arm(Armed { point: "actor.handle".into(), key: Some(agent.to_string()), fault, times: u32::MAX }));
    control.remove_swarm(Op::internal(Duration::from_secs(2)), swarm.spec.id, true).await.unwrap_err();
    let to_team = NewTask { swarm: Some(SwarmRef::Id(swarm.spec.id)), ..sh("echo x") };
    submit(&control, to_team).await;
    fault::disarm("actor.handle");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_no_node_may_hold_is_removed_at_once() {
    let here = Here::start().await;
    let control = here.control();
    let node_labels = [("disk".to_owned(), "fast".to_owned())].into_iter().collect();
    let new = NewAgent { auto_start: false, node_labels, ..NewAgent::command("nowhere") };
    let agent = control.create_agent(op(), new).await.unwrap().value.spec.id;
    let removed = control.remove_agent(Op::internal(Duration::from_secs(10)), agent, false);
    tokio::time::timeout(Duration::from_secs(5), removed).await.expect("it is not waited for").unwrap();
    assert!(control.agent(agent).unwrap().is_none());
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_of_the_ledger_is_kept_than_is_configured_by_count_and_by_age_and_nothing_that_is_needed_goes() {
    let quick = LedgerRetention { look_every: Duration::from_millis(5), ..LedgerRetention::default() };
    for limits in [LedgerRetention { events_max: 5, ..quick }, LedgerRetention { keep: Duration::ZERO, ..quick }] {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(&dir)).await.unwrap();
        let over = submit(&node.control(), sh("echo over")).await;
        ended(&node.control(), over).await;
        assert!(node.control().events(Cursor(0), &EventFilter::default(), 5).is_ok());
        node.stop(Duration::from_secs(10)).await;
        let deadline = Deadline::after(Duration::from_secs(60));
        loop {
            // Whoever was there keeps the newest events in memory.
            let node = Node::start(NodeConfig { ledger: limits, ..config(&dir) }).await.unwrap();
            let read = node.control().events(Cursor(0), &EventFilter::default(), 5);
            // Views may lag, and are what they were.
            assert_eq!(ended(&node.control(), over).await.status, TaskStatus::Succeeded);
            node.stop(Duration::from_secs(10)).await;
            if let Err(refused) = read {
                assert!(refused.message.contains("no longer kept"), "{refused:?}");
                break;
            }
            assert!(!deadline.passed(), "{limits:?}: all of it is kept");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transcripts_of_ended_attempts_are_removed_by_retention_and_of_running_ones_never() {
    let dir = tempfile::tempdir().unwrap();
    let keep_nothing =
        TranscriptRetention { keep: Duration::ZERO, look_every: Duration::from_millis(20), ..TranscriptRetention::default() };
    let node =
        Node::start(NodeConfig { retention: Retention { transcripts: keep_nothing, ..Retention::default() }, ..config(&dir) })
            .await
            .unwrap();
    let control = node.control();
    let runs = submit(&control, sh("echo begun; exec sleep 1000")).await;
    until(&control, runs, "running", |record| record.status == TaskStatus::Running).await;
    let over = submit(&control, sh("echo over")).await;
    assert_eq!(ended(&control, over).await.status, TaskStatus::Succeeded);

    let at = |folder: &str, task: TaskId| dir.path().join(folder).join(format!("{task}-1"));
    support::wait_for("the ended one to be removed", || !at("sessions", over).exists() && !at("attempts", over).exists()).await;
    let refused = control.output(&Op::internal(Duration::from_secs(10)), over, None).await.unwrap().next(0).await.unwrap_err();
    assert!(refused.code == Code::NotFound && refused.message.contains("retention"), "{refused:?}");
    assert!(refused.message.contains("node.transcripts"), "{refused:?}");
    // Its result is in the ledger, not in the transcript.
    assert_eq!(result(&control, &control.task(over).unwrap().unwrap()), "\"over\\n\"");

    assert!(at("sessions", runs).exists() && at("attempts", runs).exists());
    let mut reader = control.output(&Op::internal(Duration::from_secs(10)), runs, None).await.unwrap();
    assert_eq!(reader.next(0).await.unwrap().bytes, "begun\n");
    control.cancel_task(op(), runs).await.unwrap();
    support::wait_for("the cancelled one to be removed", || !at("sessions", runs).exists()).await;
    node.stop(Duration::from_secs(10)).await;
}

/// Says to the session in a directory what its node says, and prints what is answered.
const DRIVES: &str = r#"
import json, os, socket, struct, sys
os.chdir(sys.argv[1])
def frame(kind, body):
    return struct.pack("<IB", len(body), kind) + body
for frames in (
    [frame(0, json.dumps({"id": 1, "request": "Kill"}).encode())],
    [frame(0, json.dumps({"id": 1, "request": {"Signal": 9}}).encode())],
    [frame(0, json.dumps({"id": 1, "request": "OpenStdin"}).encode()), frame(1, b"\0typed by another\n")],
):
    session = socket.socket(socket.AF_UNIX)
    session.connect("sock")
    said = b""
    try:
        session.sendall(b"".join(frames))
    except BrokenPipeError:
        pass
    try:
        while piece := session.recv(65536):
            said += piece
            if len(frames) == 1 and b'"id":1' in said or b"StdinTaken" in said:
                break
    except ConnectionResetError:
        pass
    print("answer:", said.decode("latin-1"), flush=True)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_agents_process_kills_or_types_into_the_session_of_another_also_after_the_node_was_away() {
    let mut here = Here::start().await;
    let flag = here.dir.path().join("go-on");
    let script =
        format!("echo begun; until [ -e {} ]; do sleep 0.05; done; read line && echo got $line; echo over", flag.display());
    let works = submit(&here.control(), sh(&script)).await;
    let session = here.dir.path().join(format!("sessions/{works}-1"));
    let said = || std::fs::read_to_string(session.join("stdout")).unwrap_or_default();
    support::until("the program to begin", || said().contains("begun").then_some(())).await;
    for restarted in [false, true] {
        if restarted {
            here.restart().await;
        }
        let argv = ["python3", "-c", DRIVES, &session.display().to_string()].map(str::to_owned).to_vec();
        let drives = NewTask::new(NewWork::Command { argv, env: Vec::new(), cwd: None, stdin: None });
        let drives = submit(&here.control(), drives).await;
        let record = ended(&here.control(), drives).await;
        assert_eq!(record.status, TaskStatus::Succeeded, "{record:#?}");
        let answers = std::fs::read_to_string(here.dir.path().join(format!("sessions/{drives}-1/stdout"))).unwrap();
        let refused = answers.lines().filter(|line| line.contains("is not the node, and may not speak to it"));
        assert_eq!((refused.count(), answers.matches("Hello").count()), (3, 0), "{answers}");
    }
    std::fs::write(flag, "").unwrap();
    let record = ended(&here.control(), works).await;
    assert_eq!((record.status, record.attempts.len()), (TaskStatus::Succeeded, 1), "{record:#?}");
    assert_eq!(said(), "begun\nover\n");
    here.stop().await;
}

/// Begins itself as a node begins what holds a session; that one must say so instead of doing the same again.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_begun_as_a_shim_begins_no_node() {
    let dir = tempfile::tempdir().unwrap();
    if std::env::args().nth(1).as_deref() == Some("shim") {
        let refused = Node::start(NodeConfig::new(dir.path().join("data"))).await.err().unwrap();
        println!("refused: {refused}");
        return;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    // For the harness the first is a part of this test's name.
    let ran = again.args(["shim", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && said.contains("refused: this process was begun to hold a session"), "{said}");
}
