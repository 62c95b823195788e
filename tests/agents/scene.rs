//! A node whose agents are the real programs, the scripted model server that they come to in the end, and its script.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use hiveward_tests::{Hive, Setup, binary, leftovers::Sessions, until};
use serde_json::{Value, json};

/// What no agent may ever see.
pub const CANARY: &str = "sk-canary-7f31c0d2e9b84a55";

/// A program that is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Real {
    ClaudeCode,
    ClaudeOverAcp,
}

pub const BOTH: [Real; 2] = [Real::ClaudeCode, Real::ClaudeOverAcp];

impl Real {
    fn connector(self, more: &Value) -> Value {
        let (name, program) = match self {
            Self::ClaudeCode => ("claudeCode", "claude"),
            Self::ClaudeOverAcp => ("acp", "claude-agent-acp"),
        };
        let mut coding = json!({ "argv": [installed().join("node_modules/.bin").join(program)] });
        for (field, value) in more.as_object().into_iter().flatten() {
            coding[field] = value.clone();
        }
        json!({ name: coding })
    }
}

/// Of Claude Code.
pub fn claude() -> String {
    installed().join("node_modules/.bin/claude").display().to_string()
}

/// Installs the programs, once: tests run beside each other, so one installs and the others wait for it.
fn installed() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("agents");
    let lock = fs::File::create(dir.join(".installing")).unwrap();
    lock.lock().unwrap();
    let (stamp, wanted) = (dir.join("node_modules/.installed"), fs::read_to_string(dir.join("package-lock.json")).unwrap());
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return dir;
    }
    let npm = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&dir).output();
    let npm = npm.expect("npm is needed for this test");
    assert!(npm.status.success(), "npm ci: {}", String::from_utf8_lossy(&npm.stderr));
    fs::write(stamp, wanted).unwrap();
    dir
}

/// The scripted model server, a process of its own.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(script: &Path) -> Self {
        let mut command = Command::new(binary::hiveward());
        command.args(["scripted-model", "--listen", "127.0.0.1:0", "--script"]).arg(script);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{line:?}");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Scene {
    pub hive: Hive,
    server: Server,
    pub project: PathBuf,
    pub agent: String,
}

impl Scene {
    /// An agent that works in a directory of its own, beside the node's data.
    pub async fn begin(real: Real, script: &str, more: Value) -> Self {
        let mut scene = Self::node(script).await;
        let mut coding = json!({ "workspace": { "directory": scene.project.display().to_string() } });
        for (field, value) in more.as_object().into_iter().flatten() {
            coding[field] = value.clone();
        }
        let connector = real.connector(&coding);
        scene.agent = scene.hive.client().agent(json!({ "name": "coder", "connector": connector })).await;
        scene
    }

    /// Without an agent yet, and with an empty project.
    pub async fn node(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        let file = |name: &str, text: &str| {
            fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        let server = Server::start(&file("script.yaml", script));
        let key = file("key", CANARY);
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let provider = |api: &str, path: &str| {
            format!("    {api}: {{api: {api}, url: \"http://{}{path}\", key: \"file:{}\"}}\n", server.address, key.display())
        };
        let config = format!("models:\n  providers:\n{}{}", provider("anthropic", ""), provider("openai", "/v1"));
        let config = file("hiveward.yaml", &config);
        let project = dir.join("project");
        fs::create_dir(&project).unwrap();
        let setup = Setup { data_dir: Some(dir.join("data")), ..Setup::default() };
        let hive = Hive::start(setup.env("HIVEWARD_CONFIG", config.display().to_string())).await;
        Self { hive, server, project, agent: String::new() }
    }

    pub async fn prompt(&self, text: &str) -> String {
        self.hive.client().submit(json!({ "agent": self.agent, "kind": "prompt", "payload": text })).await
    }

    /// The question that is open now, or will be.
    pub async fn question(&self, task: &str) -> Value {
        const OPEN: &str = "query($t:ID!){approvals(filter:{task:$t,status:OPEN}){nodes{id tool input files status}}}";
        let client = self.hive.client();
        until("its program asks", async || {
            let mut found = client.call(OPEN, json!({ "t": task })).await.ok()?;
            found["approvals"]["nodes"].as_array_mut()?.pop()
        })
        .await
    }

    pub async fn answer(&self, question: &Value, decision: &str) {
        const ANSWER: &str = "mutation($i:AnswerApprovalInput!){answerApproval(input:$i){approval{status}}}";
        self.hive.client().ok(ANSWER, json!({ "i": { "approval": question["id"], "decision": decision } })).await;
    }

    pub async fn say(&self, task: &str, text: &str) {
        const SAY: &str = "mutation($i:MessageTaskInput!){messageTask(input:$i){task{id}}}";
        self.hive.client().ok(SAY, json!({ "i": { "task": task, "text": text } })).await;
    }

    pub async fn interrupt(&self, task: &str) {
        const INTERRUPT: &str = "mutation($i:InterruptTaskInput!){interruptTask(input:$i){task{id}}}";
        self.hive.client().ok(INTERRUPT, json!({ "i": { "task": task } })).await;
    }

    /// The attempt's activity so far, as events.
    pub fn activity(&self, task: &str) -> Vec<Value> {
        let path = self.hive.data_dir().join(format!("sessions/{task}-1-activity/stdout"));
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub async fn does(&self, task: &str, what: impl Fn(&Value) -> bool) {
        until("its activity shows it", async || self.activity(task).iter().any(&what).then_some(())).await;
    }

    pub async fn succeeded(&self, task: &str) -> String {
        let ended = self.hive.client().ended(task).await;
        assert_eq!(ended["status"], "SUCCEEDED", "{ended:#}\n{:#?}", self.activity(task));
        ended["resultText"].as_str().unwrap_or_default().to_owned()
    }

    /// The conversation that Claude Code last said to be in, as it keeps it itself.
    pub fn conversation(&self, task: &str) -> String {
        let last = self.activity(task).into_iter().rev().find(|event| event["type"] == "greeted").unwrap();
        let name = format!("{}.jsonl", last["session"].as_str().unwrap());
        let projects = self.hive.data_dir().join("coding").join(&self.agent).join("claude/projects");
        let mut all = fs::read_dir(&projects).unwrap().flatten().map(|entry| entry.path().join(&name));
        fs::read_to_string(all.find(|path| path.exists()).unwrap()).unwrap()
    }

    /// Names and contents of the project's files.
    pub fn files(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(&self.project).unwrap().flatten();
        let mut files: Vec<_> =
            entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())).collect();
        files.sort();
        files
    }

    /// Living processes of its agents; shims are not.
    pub fn processes(&self) -> Vec<i32> {
        let all = Sessions::of(self.hive.data_dir()).processes(self.hive.data_dir());
        let is_shim = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "hiveward-shim");
        all.into_iter().map(|(pid, _)| pid).filter(|pid| !is_shim(*pid)).collect()
    }

    /// What the model server was asked and has sent.
    pub async fn calls(&self) -> Value {
        let answer = reqwest::get(format!("http://{}/scripted/calls", self.server.address)).await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// Removes the agent and everything the test made.
    pub async fn end(self) {
        self.hive.client().remove_agents().await;
        assert_eq!(self.processes(), Vec::<i32>::new(), "nothing outlives its agent");
        let dir = self.project.parent().unwrap().to_owned();
        drop(self);
        let _ = fs::remove_dir_all(dir);
    }
}
