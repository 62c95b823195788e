//! An agent's connector on a bed of its own: data directory, artifact store, the channel of its reports.
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hiveward_agents::connector::{
    ArtifactStore, Connector, ConnectorEnv, Job, Outcome, Report, Reports, SecretFiles, What, build,
};
use hiveward_catalogue::agent::spec::{AgentSpec, ConnectorSpec, EnvVar, Limits, SessionSpec};
use hiveward_kernel::{
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
};
use hiveward_machines::vm::attempt::NoMachines;
use hiveward_models::access::{Holder, ModelAccess, Pass};
use hiveward_work::task::spec::CommandSpec;
use tokio::sync::mpsc;

use super::{kill_9, processes_under};

pub struct Bed {
    root: tempfile::TempDir,
    data: PathBuf,
    pub agent: AgentSpec,
    pub connector: Arc<dyn Connector>,
    receiver: mpsc::Receiver<Box<Report>>,
    /// Everything reported since the last life began, as far as it was looked at.
    pub reports: Vec<Report>,
}

/// Opens every pass; nobody listens at its address.
#[derive(Debug)]
struct NoServer;

impl ModelAccess for NoServer {
    fn open(&self, _: Holder) -> Result<Pass, String> {
        Ok(Pass { url: "http://127.0.0.1:9".into(), token: "hwm_test".into() })
    }

    fn close(&self, _: Lease) {}

    fn refusal(&self, _: Lease) -> Option<String> {
        None
    }

    fn fallbacks(&self, _: Lease) -> Vec<String> {
        Vec::new()
    }
}

struct Copies(PathBuf);

impl ArtifactStore for Copies {
    fn put_file(&self, path: &Path) -> io::Result<(Arc<str>, u64)> {
        fs::create_dir_all(&self.0)?;
        let name = format!("{:032x}", hiveward_runtime::id::new_v7());
        let bytes = fs::copy(path, self.0.join(&name))?;
        Ok((name.into(), bytes))
    }
}

impl Bed {
    pub fn new(connector: ConnectorSpec) -> Self {
        let root = tempfile::tempdir().unwrap();
        let agent = AgentSpec {
            id: AgentId::new(),
            swarm: SwarmId::new(),
            name: "tester".into(),
            connector,
            skills: Vec::new(),
            weight: 1,
            max_concurrent_tasks: 8,
            limits: Limits::default(),
            env: vec![EnvVar { name: "PLACE".into(), value: root.path().display().to_string() }],
            session: SessionSpec::Pipes,
            auto_start: true,
            start_timeout_ms: 30_000,
            stop_grace_ms: 100,
            node_labels: Default::default(),
            node: None,
        };
        let data = root.path().join("data");
        let (connector, receiver) = connect(&agent, &data);
        Self { root, data, agent, connector, receiver, reports: Vec::new() }
    }

    /// Forgets the connector, as a node that was killed does, and makes the next one from the same data.
    pub fn next_life(&mut self) {
        (self.connector, self.receiver) = connect(&self.agent, &self.data);
        self.reports.clear();
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn lease(&self) -> Lease {
        Lease { task: TaskId::new(), attempt: 1, agent: self.agent.id }
    }

    pub fn processes(&self) -> Vec<i32> {
        // A process that has gone since has no name; a shim that was told to go may still be going.
        processes_under(self.root()).into_iter().filter(|pid| !["", "hiveward-shim\n"].contains(&&*comm(*pid))).collect()
    }

    pub fn nothing_left(&self) {
        assert_eq!(self.processes(), Vec::<i32>::new());
    }

    /// Waits until a report is there for which `wanted` gives something.
    pub async fn look<T>(&mut self, what: &str, wanted: impl Fn(&Report) -> Option<T>) -> T {
        if let Some(found) = self.reports.iter().find_map(&wanted) {
            return found;
        }
        loop {
            let report = tokio::time::timeout(Duration::from_secs(30), self.receiver.recv()).await;
            let report =
                report.unwrap_or_else(|_| panic!("waited for {what}; had {:?}", self.reports)).expect("the connector reports");
            let found = wanted(&report);
            self.reports.push(*report);
            if let Some(found) = found {
                return found;
            }
        }
    }

    pub async fn end_of(&mut self, lease: Lease) -> Outcome {
        self.look("the end", |report| {
            if let Report::Ended { lease: of, outcome } = report { (*of == lease).then(|| outcome.clone()) } else { None }
        })
        .await
    }

    pub async fn text_of(&mut self, lease: Lease) -> String {
        let outcome = self.end_of(lease).await;
        serde_json::from_slice(outcome.result.as_ref().unwrap_or_else(|| panic!("{outcome:?}"))).unwrap()
    }

    pub async fn started(&mut self, lease: Lease) {
        self.look("the start", |report| matches!(report, Report::Started { lease: of } if *of == lease).then_some(())).await;
    }

    pub async fn progress(&mut self, lease: Lease) {
        self.look("progress", |report| matches!(report, Report::Progress { lease: of, .. } if *of == lease).then_some(())).await;
    }

    pub async fn died(&mut self) -> String {
        self.look(
            "the agent's death",
            |report| if let Report::AgentDied { message } = report { Some(message.clone()) } else { None },
        )
        .await
    }

    pub fn reports_now(&mut self) -> &[Report] {
        while let Ok(report) = self.receiver.try_recv() {
            self.reports.push(*report);
        }
        &self.reports
    }

    pub fn counts(&mut self, lease: Lease) -> (usize, usize) {
        let reports = self.reports_now();
        let starts = reports.iter().filter(|report| matches!(report, Report::Started { lease: of } if *of == lease)).count();
        let ends = reports.iter().filter(|report| matches!(report, Report::Ended { lease: of, .. } if *of == lease)).count();
        (starts, ends)
    }

    pub async fn drain(&mut self, reports: usize) {
        for _ in 0..reports {
            self.receiver.recv().await.unwrap();
        }
    }

    pub fn output_bytes(&self) -> u64 {
        files_under(&self.data.join("sessions"))
            .iter()
            .filter(|file| file.ends_with("stdout"))
            .filter_map(|file| fs::metadata(file).ok())
            .map(|meta| meta.len())
            .sum()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Of a test that failed.
        for pid in processes_under(self.root()) {
            kill_9(pid);
        }
        for pid in processes_under(self.root()) {
            kill_9(pid);
        }
    }
}

fn connect(agent: &AgentSpec, data: &Path) -> (Arc<dyn Connector>, mpsc::Receiver<Box<Report>>) {
    let (reports, receiver) = Reports::channel();
    let env = ConnectorEnv {
        data_dir: data.to_owned(),
        secrets: Arc::new(SecretFiles { dir: data.join("secrets") }),
        artifacts: Arc::new(Copies(data.join("blobs"))),
        reports,
        shim: super::shim(),
        models: Arc::new(NoServer),
        machines: Arc::new(NoMachines),
        askers: Default::default(),
        incarnation: 1,
        clock: hiveward_runtime::clock::Clock::System,
    };
    (build(&Arc::new(agent.clone()), env), receiver)
}

pub fn shims_under(root: &Path) -> Vec<i32> {
    processes_under(root).into_iter().filter(|pid| comm(*pid) == "hiveward-shim\n").collect()
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

pub fn shell(script: &str) -> CommandSpec {
    CommandSpec { argv: vec!["sh".into(), "-c".into(), script.into()], ..CommandSpec::default() }
}

pub fn command(lease: Lease, script: &str) -> Job {
    Job {
        lease,
        title: "a test".into(),
        what: What::Command { command: shell(script), stdin: None },
        inputs: Vec::new(),
        run_timeout: None,
        gate: None,
        item: None,
        labels: Vec::new(),
        earlier: None,
    }
}

pub fn kind(lease: Lease, kind: &str, payload: &str) -> Job {
    let what = What::Kind { kind: kind.into(), payload: Some(Bytes::copy_from_slice(payload.as_bytes())) };
    Job {
        lease,
        title: "a test".into(),
        what,
        inputs: Vec::new(),
        run_timeout: None,
        gate: None,
        item: None,
        labels: Vec::new(),
        earlier: None,
    }
}

pub fn python_worker() -> ConnectorSpec {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/worker.py");
    ConnectorSpec::Worker { argv: vec!["python3".into(), script.display().to_string()], cwd: None }
}

pub fn worker(script: &str) -> ConnectorSpec {
    ConnectorSpec::Worker { argv: vec!["sh".into(), "-c".into(), script.into()], cwd: None }
}

pub fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_under(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

pub fn own_rss_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
