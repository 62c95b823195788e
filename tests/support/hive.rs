//! One `hiveward` process that a test starts, kills, freezes and starts again over the same data.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Client, binary, leftovers, until};

/// How the node is started.
#[derive(Clone, Default)]
pub struct Setup {
    /// Given instead of a temporary directory, such as a mount; the test removes it.
    pub data_dir: Option<PathBuf>,
    pub env: Vec<(String, String)>,
}

impl Setup {
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

pub struct Hive {
    pub setup: Setup,
    child: Option<Child>,
    port: Port,
    data_dir: PathBuf,
    own: tempfile::TempDir,
}

/// A port below the ephemeral range, so that no client's socket takes it while the node is away.
struct Port {
    number: u16,
    /// An abstract socket as a lock among test processes.
    _lock: UnixListener,
}

impl Port {
    fn take() -> Self {
        loop {
            let number = fastrand::u16(20_000..32_000);
            let name = SocketAddr::from_abstract_name(format!("hiveward-tests-{number}")).unwrap();
            let Ok(lock) = UnixListener::bind_addr(&name) else { continue };
            if std::net::TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
    }
}

impl Hive {
    /// Starts a node and waits until it is ready.
    pub async fn start(setup: Setup) -> Self {
        let mut hive = Self::prepare(setup);
        hive.start_again().await;
        hive
    }

    /// Everything but the process.
    pub fn prepare(setup: Setup) -> Self {
        let own = tempfile::tempdir().unwrap();
        let data_dir = setup.data_dir.clone().unwrap_or_else(|| own.path().join("data"));
        Self { setup, child: None, port: Port::take(), data_dir, own }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A directory for the test's own files, on an ordinary disk.
    pub fn own_dir(&self) -> &Path {
        self.own.path()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("admin.token")).unwrap_or_default().trim().to_owned()
    }

    pub fn client(&self) -> Client {
        Client::new(self.url(), self.token())
    }

    fn log_file(&self) -> PathBuf {
        self.own.path().join("log")
    }

    /// Everything that the node wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The last lines that the node wrote.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Starts the process, and does not wait for it.
    pub fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    pub fn spawn_with(&mut self, env: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = Command::new(binary::hiveward());
        command.args(["dev", "--listen", &format!("127.0.0.1:{}", self.port.number), "--data-dir"]).arg(&self.data_dir);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.own.path());
        command
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .env("HIVEWARD_NODE__DEFAULT_AGENTS", "2");
        // A load of many clients is what is tested, not the gateway's own bound.
        command.env("RUST_BACKTRACE", "1").envs(self.setup.env.iter().cloned()).envs(env.iter().copied());
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Starts the process and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Waits until the node is ready; panics if it ends instead.
    pub async fn ready(&mut self) {
        self.answers("/readyz").await;
    }

    /// Waits until `path` answers with success; panics if the node ends instead.
    pub async fn answers(&mut self, path: &str) {
        let http = reqwest::Client::new();
        let url = format!("{}{path}", self.url());
        until(&format!("{path} answers with success"), async || {
            if let Some(status) = self.ended() {
                panic!("the node ended while starting: {status}\n{}", self.log_tail());
            }
            http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()).then_some(())
        })
        .await;
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    pub fn running(&mut self) -> bool {
        self.ended();
        self.child.is_some()
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        }
    }

    /// `kill -9`, and waits until the process is gone; its agents live on.
    /// The node's process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| i32::try_from(child.id()).unwrap())
    }

    /// Waits for an end that the test has brought about.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.take().expect("it runs").wait().unwrap()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and the exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        until("the node stops", async || self.ended()).await
    }

    /// Ends what its agents left, without asking it.
    pub fn sweep(&self) {
        leftovers::sweep(&self.data_dir);
    }

    /// Runs the command line against it.
    pub async fn cli(&self, args: &[&str]) -> Ran {
        self.cli_with(args, &[]).await
    }

    /// Runs the command line against it with pipes for its input and output.
    pub fn cli_piped(&self, args: &[&str]) -> tokio::process::Child {
        let mut command = tokio::process::Command::new(binary::hiveward());
        command.args(args).env("HIVEWARD_URL", self.url()).env("HIVEWARD_TOKEN", self.token()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// As [`Self::cli`], with more in its environment.
    pub async fn cli_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ran {
        command_line(binary::hiveward(), &self.url(), &self.token(), args, env).await
    }
}

/// Runs the command line of `program` against the node at `url`.
pub async fn command_line(program: &Path, url: &str, token: &str, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied()).env("HIVEWARD_URL", url).env("HIVEWARD_TOKEN", token).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// How a command line ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Drop for Hive {
    fn drop(&mut self) {
        self.kill();
        self.sweep();
        if std::thread::panicking() {
            eprintln!("the node's last lines:\n{}", self.log_tail());
            if std::env::var_os("HIVEWARD_KEEP").is_some() {
                let kept = std::env::temp_dir().join(format!("hiveward-kept-{}", std::process::id()));
                let _ = Command::new("cp").arg("-a").arg(&self.data_dir).arg(&kept).status();
                eprintln!("its data is kept in {}", kept.display());
            }
        }
    }
}
