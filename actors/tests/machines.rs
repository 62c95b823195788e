//! Agents whose attempts have VMs of their own. The machines are simulated, and a real guest agent of this machine answers in the
//! place of their guests; real guests are in the lab (`make test-vms`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hiveward_actors::{
    client::{ControlPlane, NewAgent, NewHost, NewSwarm, NewTask, NewWork, SwarmRef},
    node::{Node, NodeConfig},
};
use hiveward_agents::message::{PauseMode, StopMode};
use hiveward_catalogue::{agent::spec::SessionSpec, vm::machine::MachineSpec};
use hiveward_kernel::id::{AgentId, HostId, SwarmId, TaskId, VmId};
use hiveward_machines::{
    host::{
        driver::{Off, Run, simulated::Hypervisor},
        record::HostStatus,
    },
    vm::record::VmStatus,
};
use hiveward_runtime::op::Op;
use hiveward_work::task::{
    gate::GateSpec,
    record::TaskRecord,
    retry::RetryPolicy,
    spec::CommandSpec,
    status::{AttemptStatus, TaskStatus},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// QEMU's guest agent, outside of any guest.
struct GuestAgent(Child);

/// It, and all that it began: there is no guest that would end with them.
fn with_descendants(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children.flat_map(with_descendants)).collect()
}

impl Drop for GuestAgent {
    fn drop(&mut self) {
        for pid in with_descendants(self.0.id() as i32) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

struct Here {
    node: Option<Node>,
    agent: Option<GuestAgent>,
    hypervisor: Hypervisor,
    swarm: SwarmId,
    works: AgentId,
    host: HostId,
    /// Last, as what is in it is used to the end.
    dir: tempfile::TempDir,
}

fn op() -> Op {
    Op::internal(Duration::from_secs(30))
}

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    NodeConfig { reserve_bytes: 0, default_agents: 0, shim: support::shim(), ..NodeConfig::new(dir.path().join("node")) }
}

fn machine(boot_within_ms: u64) -> MachineSpec {
    MachineSpec {
        image: "debian-12".into(),
        cpus: 1,
        memory_bytes: 1 << 30,
        disks: Vec::new(),
        networks: Vec::new(),
        zone: None,
        host_labels: Default::default(),
        host: None,
        boot_within_ms,
        warm: 0,
    }
}

impl Here {
    async fn start(boot_within_ms: u64) -> Self {
        Self::with(machine(boot_within_ms)).await
    }

    async fn with(machine: MachineSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(&dir)).await.unwrap();
        let (control, name) = (node.control(), format!("g{:x}", VmId::new().as_u128()));
        let new = NewHost { name: "h1".into(), uri: format!("simulated://{name}"), ..NewHost::default() };
        let host = control.register_host(op(), new).await.unwrap().value.spec.id;
        support::until("the host to be reached", || control.host(host).filter(|host| host.status == HostStatus::Up)).await;
        let swarm =
            control.create_swarm(op(), NewSwarm { name: "vms".into(), ..NewSwarm::default() }).await.unwrap().value.spec.id;
        let session = SessionSpec::Vm(Arc::new(machine));
        let new = NewAgent { swarm: Some(SwarmRef::Id(swarm)), session, ..NewAgent::command("inside") };
        let works = control.create_agent(op(), new).await.unwrap().value.spec.id;
        Self { node: Some(node), agent: None, hypervisor: Hypervisor::named(&name), swarm, works, host, dir }
    }

    /// From now on guests answer.
    async fn answers(&mut self) {
        let program = std::path::Path::new("/usr/sbin/qemu-ga");
        assert!(program.exists(), "there is no {}; deploy/install-tools.sh test installs it", program.display());
        let socket = self.dir.path().join("agent.sock");
        // A serial line never breaks; here it does when a node goes away amid an answer, and the agent is to listen again.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' PIPE; exec \"$1\" -m unix-listen -p \"$2\" -t \"$3\"", "agent"]);
        command.arg(program).arg(&socket).arg(self.dir.path());
        let agent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.agent = Some(GuestAgent(agent.expect("a shell")));
        support::until("the agent to listen", || socket.exists().then_some(())).await;
        self.hypervisor.answer_by(socket);
    }

    fn control(&self) -> ControlPlane {
        self.node.as_ref().unwrap().control()
    }

    async fn restart(&mut self) {
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
        self.node = Some(Node::start(config(&self.dir)).await.unwrap());
    }

    async fn submit(&self, script: &str, with: impl FnOnce(&mut NewTask)) -> TaskId {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let mut task = NewTask::new(NewWork::Command { argv, env: Vec::new(), cwd: None, stdin: Some(b"hello\n".to_vec()) });
        task.swarm = Some(SwarmRef::Id(self.swarm));
        with(&mut task);
        self.control().submit_tasks(op(), vec![task]).await.unwrap().value[0].id()
    }

    async fn until(&self, task: TaskId, what: &str, holds: impl Fn(&TaskRecord) -> bool) -> TaskRecord {
        support::until(what, || self.control().task(task).unwrap().filter(|record| holds(record))).await
    }

    async fn ended(&self, task: TaskId) -> TaskRecord {
        self.until(task, "its end", |record| record.status.is_terminal()).await
    }

    fn said(&self, task: TaskId, attempt: u32) -> PathBuf {
        self.dir.path().join(format!("node/sessions/{task}-{attempt}/stdout"))
    }

    /// Waits until an attempt has said something.
    async fn says(&self, task: TaskId, attempt: u32, what: &str) {
        let path = self.said(task, attempt);
        support::until(what, || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(what)).then_some(())).await;
    }

    fn vm(&self) -> Option<VmId> {
        self.hypervisor.domains().keys().next().copied()
    }

    /// No VM is left once its attempt is over, and nothing is reserved.
    async fn no_vms(&self) {
        support::until("the VM to go with its attempt", || self.hypervisor.domains().is_empty().then_some(())).await;
        let free = || self.control().host(self.host).filter(|host| (host.vms, host.reserved_cpus) == (0, 0));
        support::until("what was reserved for it to be free", free).await;
    }

    async fn stop(mut self) {
        self.no_vms().await;
        self.node.take().unwrap().stop(Duration::from_secs(10)).await;
    }
}

fn once() -> Option<RetryPolicy> {
    Some(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_in_a_guest_has_its_files_its_input_and_its_end_and_what_it_made_is_here() {
    let mut here = Here::start(20_000).await;
    here.answers().await;
    let script = "read line; echo got $line >made; mkdir -p deep/down && ln -s ../../made deep/down/link; echo oops >&2; \
                  echo '{\"hiveward\":\"artifact\",\"name\":\"made\",\"path\":\"made\"}'; cat \"$HIVEWARD_INPUTS\"; pwd";
    let task = here
        .submit(script, |task| {
            let argv = ["sh", "-c", "test \"$(cat deep/down/link)\" = 'got hello'"].map(str::to_owned).to_vec();
            let command = CommandSpec { argv, ..CommandSpec::default() };
            task.gate = Some(GateSpec { name: "there".into(), command, timeout_ms: 20_000, retriable: false });
        })
        .await;
    let vm = support::until("its VM", || here.vm()).await;
    let record = support::until("it in the view", || here.control().vm(vm).unwrap()).await;
    let lease = record.spec.lease.unwrap();
    assert_eq!((lease.task, lease.attempt, record.spec.name.clone()), (task, 1, format!("{task}-1")));
    let record = here.ended(task).await;
    assert_eq!(record.status, TaskStatus::Succeeded, "{record:#?}");
    assert_eq!((record.artifacts.len(), record.artifacts[0].bytes), (1, "got hello\n".len() as u64));
    let said = std::fs::read_to_string(here.said(task, 1)).unwrap();
    assert!(said.contains("[]") && said.contains(&format!("attempts/{task}-1/work")), "{said}");
    here.no_vms().await;

    let task = here.submit("echo broken >&2; exit 7", |task| task.retry = once()).await;
    let record = here.ended(task).await;
    assert!(record.error.as_ref().unwrap().contains("exit status 7: broken"), "{record:#?}");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_in_a_guest_goes_on_while_its_node_is_away_and_each_line_is_read_once() {
    let mut here = Here::start(20_000).await;
    here.answers().await;
    let flag = here.dir.path().join("go-on");
    let script = format!("echo one; until [ -e {} ]; do sleep 0.05; done; echo two; echo three", flag.display());
    let task = here.submit(&script, |_| ()).await;
    here.says(task, 1, "one").await;
    here.restart().await;
    std::fs::write(flag, "").unwrap();
    let record = here.ended(task).await;
    assert_eq!((record.status, record.attempts.len()), (TaskStatus::Succeeded, 1), "{record:#?}");
    assert_eq!(std::fs::read_to_string(here.said(task, 1)).unwrap(), "one\ntwo\nthree\n");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_ends_is_its_attempt_lost_and_is_not_started_again() {
    let mut here = Here::start(20_000).await;
    here.answers().await;
    let script = "echo begun; [ $HIVEWARD_ATTEMPT = 2 ] || sleep 600";
    let task = here.submit(script, |task| task.retry = Some(RetryPolicy { first_ms: 1, ..RetryPolicy::default() })).await;
    here.says(task, 1, "begun").await;
    let vm = here.vm().unwrap();
    here.hypervisor.set(vm, Run::Off(Off::Crashed));
    let record = here.ended(task).await;
    let ends: Vec<_> = record.attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!(ends, [AttemptStatus::Lost, AttemptStatus::Succeeded], "{record:#?}");
    assert!(record.attempts[0].error.as_ref().unwrap().contains("its VM was lost"), "{record:#?}");
    assert!(here.hypervisor.boots(vm) <= 1, "it was started again");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_answer_is_given_up_in_words_and_no_vm_is_left() {
    let here = Here::start(1_000).await;
    let task = here.submit("true", |task| task.retry = once()).await;
    let record = here.ended(task).await;
    let error = record.error.as_ref().unwrap();
    assert!(error.contains("did not come up within 1 s") && error.contains("guest agent"), "{error}");
    assert_eq!(record.attempts[0].status, AttemptStatus::Lost);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_agent_s_vm_stands_still_whether_or_not_its_guest_is_up_and_cancelling_takes_it_away() {
    let mut here = Here::start(60_000).await;
    let (control, agent) = (here.control(), here.works);
    let task = here.submit("echo up; sleep 600", |_| ()).await;
    let vm = support::until("its VM", || here.vm()).await;
    let is = |run: Run| here.hypervisor.domains().get(&vm) == Some(&run);
    support::until("it to run", || control.vm(vm).unwrap().filter(|record| record.status == VmStatus::Running)).await;
    // Nothing answers in it yet.
    control.pause_agent(op(), agent, PauseMode::Freeze).await.unwrap();
    support::until("it to stand still", || is(Run::Paused).then_some(())).await;
    control.resume_agent(op(), agent).await.unwrap();
    support::until("it to go on", || is(Run::Running).then_some(())).await;
    here.answers().await;
    here.says(task, 1, "up").await;
    control.pause_agent(op(), agent, PauseMode::Freeze).await.unwrap();
    assert_eq!(here.hypervisor.domains().get(&vm), Some(&Run::Paused), "answered when it stands still");
    control.resume_agent(op(), agent).await.unwrap();
    control.cancel_task(op(), task).await.unwrap();
    assert_eq!(here.ended(task).await.status, TaskStatus::Cancelled);
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_takes_a_vm_that_waits_for_it_and_another_is_made_in_its_place() {
    let mut here = Here::with(MachineSpec { warm: 2, ..machine(20_000) }).await;
    here.answers().await;
    let running = |here: &Here| -> Vec<VmId> {
        let domains = here.hypervisor.domains();
        domains.iter().filter(|(_, run)| **run == Run::Running).map(|(vm, _)| *vm).collect()
    };
    let warm = |here: &Here| -> Vec<VmId> {
        let waits = |vm: &VmId| here.control().vm(*vm).unwrap().is_some_and(|record| record.spec.warm.is_some());
        let mut waiting: Vec<_> = running(here).into_iter().filter(waits).collect();
        waiting.sort_unstable();
        waiting
    };
    let waiting = support::until("two to wait", || Some(warm(&here)).filter(|vms| vms.len() == 2)).await;
    here.restart().await;
    // As the node that came back knows.
    assert_eq!(support::until("those", || Some(warm(&here)).filter(|vms| vms.len() == 2)).await, waiting);

    let task = here.submit("echo up; sleep 600", |_| ()).await;
    here.says(task, 1, "up").await;
    let its = |vm: &&VmId| here.control().vm(**vm).unwrap().unwrap().spec.lease.is_some_and(|lease| lease.task == task);
    let vms = support::until("a third", || Some(running(&here)).filter(|vms| vms.len() == 3)).await;
    let taken: Vec<_> = vms.iter().filter(its).copied().collect();
    assert_eq!(taken, waiting[..1], "the one that waited longest, and no other");
    here.control().cancel_task(op(), task).await.unwrap();
    here.ended(task).await;
    let left = support::until("its VM to go", || Some(running(&here)).filter(|vms| !vms.contains(&taken[0]))).await;
    assert!(left.contains(&waiting[1]), "one that waits was taken away");

    // It holds none while it is stopped.
    here.control().stop_agent(op(), here.works, StopMode::Graceful).await.unwrap();
    here.no_vms().await;
    here.control().start_agent(op(), here.works).await.unwrap();
    support::until("two to wait again", || Some(warm(&here)).filter(|vms| vms.len() == 2)).await;
    here.control().remove_agent(op(), here.works, true).await.unwrap();
    here.stop().await;
}

/// Asks the desk of guests as a session does, and prints what is answered; `closed` if nothing is.
const ASKS: &str = r#"
import os, socket, struct, sys
folder, vm, commands = sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3:]
os.chdir(folder)
for command in commands:
    desk = socket.socket(socket.AF_UNIX)
    desk.connect("guests.sock")
    text = command.encode()
    ask = b"\x82\xa2vm\xc4\x10" + vm + b"\xa7command\xda" + struct.pack(">H", len(text)) + text
    desk.sendall(struct.pack("<I", len(ask)) + ask)
    answer = desk.recv(65536)
    print("answer:", answer[4:].decode("latin-1") if answer else "closed", flush=True)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_asks_for_the_vm_of_another_is_refused_also_after_the_node_was_away() {
    let mut here = Here::start(20_000).await;
    here.answers().await;
    let flag = here.dir.path().join("go-on");
    let script = format!("echo begun; until [ -e {} ]; do sleep 0.05; done; echo over", flag.display());
    let task = here.submit(&script, |_| ()).await;
    here.says(task, 1, "begun").await;
    let vm = here.vm().unwrap();
    // An agent without a VM of its own, on the same node and of the same user.
    let swarm = here.control().create_swarm(op(), NewSwarm { name: "beside".into(), ..NewSwarm::default() }).await.unwrap();
    let swarm = swarm.value.spec.id;
    let new = NewAgent { swarm: Some(SwarmRef::Id(swarm)), ..NewAgent::command("outside") };
    here.control().create_agent(op(), new).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            here.restart().await;
        }
        let ping = r#"{"execute":"guest-ping"}"#;
        let exec = r#"{"execute":"guest-exec","arguments":{"path":"/bin/sh","arg":["-c","id"]}}"#;
        let argv = ["python3", "-c", ASKS, &here.dir.path().join("node").display().to_string()].map(str::to_owned);
        let argv = argv.into_iter().chain([format!("{:032x}", vm.as_u128()), ping.to_owned(), exec.to_owned()]).collect();
        let mut asks = NewTask::new(NewWork::Command { argv, env: Vec::new(), cwd: None, stdin: None });
        asks.swarm = Some(SwarmRef::Id(swarm));
        let asks = here.control().submit_tasks(op(), vec![asks]).await.unwrap().value[0].id();
        let record = here.ended(asks).await;
        assert_eq!(record.status, TaskStatus::Succeeded, "{record:#?}");
        let said = std::fs::read_to_string(here.said(asks, 1)).unwrap();
        let answers: Vec<_> = said.lines().filter(|line| line.starts_with("answer:")).collect();
        // Until the node has found the session again it knows nobody's, and answers nobody.
        let refused = |line: &&&str| line.contains("is not the session of") || (restarted && line.contains("closed"));
        assert_eq!((answers.len(), answers.iter().filter(refused).count()), (2, 2), "{said}");
    }
    // And whose it is goes on with it.
    std::fs::write(flag, "").unwrap();
    let record = here.ended(task).await;
    assert_eq!((record.status, record.attempts.len()), (TaskStatus::Succeeded, 1), "{record:#?}");
    here.stop().await;
}
