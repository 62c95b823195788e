//! Real `hiveward` processes for tests: started, killed, restarted, and gone without a trace at the end.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};

/// How long a node may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// One node with a data directory of its own. Dropping it ends it and every process of its agents.
pub struct TestNode {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    faults: Option<String>,
}

/// The binary that this workspace's own build has made.
pub fn binary() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let profile = here.parent().and_then(Path::parent).context("tests run from target/<profile>/deps")?;
    let binary = profile.join("hiveward");
    if !binary.exists() {
        bail!("{} is not built: run `cargo build --bin hiveward`, or the tests of the whole workspace", binary.display());
    }
    Ok(binary)
}

impl TestNode {
    pub async fn start() -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut node = Self { dir: tempfile::tempdir()?, port, child: None, faults: None };
        node.up().await?;
        Ok(node)
    }

    pub fn data(&self) -> &Path {
        self.dir.path()
    }

    /// Faults that the next start is armed with.
    pub fn arm(&mut self, faults: &str) {
        self.faults = Some(faults.to_owned());
    }

    /// Starts the process and waits until it serves.
    pub async fn up(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("node.log"))?;
        let mut command = Command::new(binary()?);
        command
            .args(["dev", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"])
            .arg(self.dir.path())
            .env_remove("HIVEWARD_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(faults) = self.faults.take() {
            command.env("HIVEWARD_FAULTS", faults);
        }
        self.child = Some(command.spawn()?);
        let begun = Instant::now();
        let client = reqwest::Client::new();
        loop {
            let ready = client.get(format!("http://127.0.0.1:{}/readyz", self.port)).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("the node ended with {status}: {}", self.log_tail());
            }
            if begun.elapsed() > READY_WITHIN {
                bail!("the node was not ready in time: {}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("node.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone already, by a fault.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn client(&self) -> anyhow::Result<Client> {
        let token = std::fs::read_to_string(self.dir.path().join("admin.token"))?.trim().to_owned();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        Ok(Client { http, url: format!("http://127.0.0.1:{}/graphql", self.port), token })
    }

    /// Every process that has anything of this node's directory: its environment, its arguments, its files.
    pub fn processes(&self) -> Vec<i32> {
        let wanted = self.dir.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let proc = entry.path();
            let has = |file: &str| std::fs::read(proc.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&wanted));
            let points = |link: &Path| std::fs::read_link(link).is_ok_and(|to| to.to_string_lossy().starts_with(&wanted));
            let opens = || std::fs::read_dir(proc.join("fd")).into_iter().flatten().flatten().any(|fd| points(&fd.path()));
            if has("environ") || has("cmdline") || points(&proc.join("cwd")) || opens() {
                found.push(pid);
            }
        }
        found.retain(|pid| *pid != std::process::id() as i32);
        found
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.kill();
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                // It may have ended meanwhile.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("processes were left behind: {:?}", self.processes());
    }
}

/// Speaks GraphQL to one node.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// Why there is no data.
#[derive(Debug)]
pub enum NoData {
    /// The node said no.
    Refused { code: String, message: String },
    /// Nobody knows whether it happened: no answer, or one that says so.
    Unknown(anyhow::Error),
}

impl Client {
    pub async fn ask(&self, query: &str, variables: Value) -> Result<Value, NoData> {
        let unknown = |error: reqwest::Error| NoData::Unknown(error.into());
        let body = json!({"query": query, "variables": variables});
        let answer = self.http.post(&self.url).bearer_auth(&self.token).json(&body).send().await.map_err(unknown)?;
        let mut answer: Value = answer.json().await.map_err(unknown)?;
        if let Some(error) = answer["errors"].get(0) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (code, message) = (text(&error["extensions"]["code"]), text(&error["message"]));
            let not_final = matches!(code.as_str(), "UNKNOWN_OUTCOME" | "UNAVAILABLE" | "BUSY" | "INTERNAL");
            return Err(if not_final { NoData::Unknown(anyhow!("{code}: {message}")) } else { NoData::Refused { code, message } });
        }
        Ok(answer["data"].take())
    }

    /// All events after a cursor, read by pages.
    pub async fn events(&self, after: u64, kinds: &[&str]) -> anyhow::Result<Vec<Value>> {
        let query = "query($after: Cursor, $filter: EventFilter) { events(after: $after, filter: $filter, first: 500) {
            nodes { cursor kind task data } } }";
        let (mut after, mut all) = (after.to_string(), Vec::new());
        loop {
            let filter = json!({"kind": kinds});
            let page = self.ask(query, json!({"after": after, "filter": filter})).await.map_err(|error| anyhow!("{error:?}"))?;
            let nodes = page["events"]["nodes"].as_array().cloned().unwrap_or_default();
            let Some(last) = nodes.last() else { return Ok(all) };
            after = last["cursor"].as_str().context("a cursor")?.to_owned();
            all.extend(nodes);
        }
    }
}
