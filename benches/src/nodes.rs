//! Real `hiveward` processes on loopback addresses of their own, for the benches of whole clusters.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{remote::cpu_time, resident_mb_of, wire::Http};

pub const TOKEN: &str = "hw_bench_0123456789abcdef0123456789abcdef";

pub struct Node {
    address: String,
    dir: PathBuf,
    child: Option<Child>,
}

/// Killed when dropped.
pub struct Nodes {
    binary: PathBuf,
    dir: PathBuf,
    pub nodes: Vec<Node>,
}

/// `HIVEWARD_BIN`, or built now.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(binary) = std::env::var_os("HIVEWARD_BIN") {
        return Ok(binary.into());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built =
        Command::new(cargo).current_dir(&workspace).args(["build", "--release", "--quiet", "--bin", "hiveward"]).status()?;
    ensure!(built.success(), "hiveward was not built");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("release/hiveward"))
}

impl Nodes {
    /// Nothing runs yet.
    pub fn new(binary: PathBuf, dir: &Path) -> anyhow::Result<Self> {
        Self::configured(binary, dir, "")
    }

    /// With more sections in the configuration of all.
    pub fn configured(binary: PathBuf, dir: &Path, more: &str) -> anyhow::Result<Self> {
        let config = format!("auth:\n  tokens:\n    - name: bench\n      administrator: true\n      token: {TOKEN}\n{more}");
        std::fs::write(dir.join("config.yaml"), config)?;
        Ok(Self { binary, dir: dir.to_owned(), nodes: Vec::new() })
    }

    /// A place more; its number.
    pub fn add(&mut self) -> anyhow::Result<usize> {
        let number = self.nodes.len();
        let dir = self.dir.join(format!("n{number}"));
        std::fs::create_dir_all(&dir)?;
        // Away from the addresses of the tests.
        self.nodes.push(Node { address: format!("127.19.{}.{}", 1 + number / 200, 1 + number % 200), dir, child: None });
        Ok(number)
    }

    pub fn spawn(&mut self, number: usize, join: Option<(usize, &str)>) -> anyhow::Result<()> {
        let to = join.map(|(by, token)| (format!("{}:7701", self.nodes[by].address), token.to_owned()));
        let node = &mut self.nodes[number];
        let log = File::options().create(true).append(true).open(node.dir.join("log"))?;
        let mut command = Command::new(&self.binary);
        command.arg("up").arg("--config").arg(self.dir.join("config.yaml")).arg("--data-dir").arg(node.dir.join("data"));
        command.arg("--listen").arg(format!("{}:7700", node.address));
        command.arg("--cluster-listen").arg(format!("{}:7701", node.address));
        if let Some((to, token)) = to {
            command.args(["--join", &to, "--token", &token]);
        }
        // What is said to the bench is no setting of a node's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HIVEWARD_")) {
            command.env_remove(name);
        }
        command
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .env("HIVEWARD_NODE__DEFAULT_AGENTS", "0");
        node.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    pub async fn http(&self, number: usize) -> anyhow::Result<Http> {
        Http::open(format!("{}:7700", self.nodes[number].address).parse()?, TOKEN).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, number: usize, query: &str, variables: Value) -> anyhow::Result<Value> {
        let body = serde_json::json!({ "query": query, "variables": variables }).to_string();
        let mut http = self.http(number).await?;
        let mut answer: Value = serde_json::from_slice(http.post(&body).await?)?;
        Ok(answer["data"].take())
    }

    /// Waits until it answers and knows a leader.
    pub async fn ready(&mut self, number: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let asked =
                tokio::time::timeout(Duration::from_secs(5), self.ask(number, "{cluster{leader{id}}}", Value::Null)).await;
            if asked.is_ok_and(|said| said.is_ok_and(|said| said["cluster"]["leader"]["id"].is_string())) {
                return Ok(());
            }
            let ended = self.nodes[number].child.as_mut().context("not started")?.try_wait()?;
            ensure!(ended.is_none(), "node {number} ended: {}", self.log(number));
            ensure!(begun.elapsed() < Duration::from_secs(180), "node {number} is not ready: {}", self.log(number));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A token for one node, made on node 0 by the command line.
    pub fn token(&self) -> anyhow::Result<String> {
        let url = format!("http://{}:7700", self.nodes[0].address);
        let made = Command::new(&self.binary).args(["--url", &url, "--token", TOKEN, "token", "create", "--quiet"]).output()?;
        ensure!(made.status.success(), "no token: {}", String::from_utf8_lossy(&made.stderr));
        Ok(String::from_utf8(made.stdout)?.lines().last().unwrap_or_default().trim().to_owned())
    }

    /// What it calls itself, once it has started.
    pub fn id(&self, number: usize) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(self.nodes[number].dir.join("data/node.id"))?;
        let text = text.trim();
        Ok(if text.starts_with("node_") { text.to_owned() } else { format!("node_{}", text.replace('-', "")) })
    }

    pub fn log(&self, number: usize) -> String {
        std::fs::read_to_string(self.nodes[number].dir.join("log")).unwrap_or_default()
    }

    pub fn pid(&self, number: usize) -> anyhow::Result<u32> {
        Ok(self.nodes[number].child.as_ref().context("not started")?.id())
    }

    pub fn cpu(&self, number: usize) -> anyhow::Result<Duration> {
        Ok(cpu_time(self.pid(number)?)?)
    }

    pub fn resident_mb(&self, number: usize) -> anyhow::Result<f64> {
        Ok(resident_mb_of(&self.pid(number)?.to_string())?)
    }

    /// Bytes that it had written to its disk so far.
    pub fn written(&self, number: usize) -> anyhow::Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid(number)?))?;
        let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("no write_bytes")?;
        Ok(bytes.parse()?)
    }

    /// All at once.
    pub fn kill_all(&mut self) {
        let mut children: Vec<Child> = self.nodes.iter_mut().filter_map(|node| node.child.take()).collect();
        for child in &mut children {
            let _ = child.kill();
        }
        for child in &mut children {
            let _ = child.wait();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill_all();
    }
}
