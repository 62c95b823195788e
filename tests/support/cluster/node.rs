//! One process of a cluster: started, killed, frozen and started again over the same data.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::shape::faketime;
use crate::{Client, mount::Mount};

pub struct Node {
    /// Where its files are: log, clock, disk.
    dir: PathBuf,
    data_dir: PathBuf,
    pub(super) address: std::net::Ipv4Addr,
    pub(super) binary: PathBuf,
    pub(super) env: Vec<(String, String)>,
    token: String,
    child: Option<Child>,
    frozen: bool,
    disk: Option<Mount>,
}

pub const GATEWAY_PORT: u16 = 7700;
pub const CLUSTER_PORT: u16 = 7701;

impl Node {
    pub(super) fn new(dir: PathBuf, address: std::net::Ipv4Addr, binary: PathBuf, token: String) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let data_dir = dir.join("data");
        Self { dir, data_dir, address, binary, env: Vec::new(), token, child: None, frozen: false, disk: None }
    }

    pub(super) fn put_on_disk(&mut self, megabytes: u32) -> Result<(), String> {
        let disk = Mount::tmpfs_in(&self.dir, megabytes)?;
        self.data_dir = disk.path().join("data");
        self.disk = Some(disk);
        Ok(())
    }

    pub(super) fn with_clock(&mut self) -> Result<(), String> {
        let library = faketime().ok_or("libfaketime is not installed (Debian: libfaketime)")?;
        let clock = self.dir.join("clock");
        fs::write(&clock, "+0\n").map_err(|error| error.to_string())?;
        let text = |path: &Path| path.to_str().expect("temporary paths are UTF-8").to_owned();
        let pairs = [
            ("LD_PRELOAD", text(&library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&clock)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        self.env.extend(pairs.map(|(name, value)| (name.to_owned(), value)));
        Ok(())
    }

    /// The wall clock of this node, in seconds from the true one.
    pub fn set_clock(&self, seconds: i64) {
        let file = self.dir.join("clock");
        assert!(file.exists(), "the shape gave it no clock");
        fs::write(file, format!("{seconds:+}\n")).unwrap();
    }

    /// Takes all room of its small disk; [`Self::empty_disk`] gives it back.
    pub fn fill_disk(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.filler()).unwrap();
        let block = vec![1; 1 << 16];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
    }

    pub fn empty_disk(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.disk.as_ref().expect("the shape gave it no disk").path().join("filler")
    }

    /// From its next start on.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn address(&self) -> std::net::Ipv4Addr {
        self.address
    }

    pub fn cluster_address(&self) -> std::net::SocketAddr {
        (self.address, CLUSTER_PORT).into()
    }

    pub fn url(&self) -> String {
        format!("http://{}:{GATEWAY_PORT}", self.address)
    }

    pub fn client(&self) -> Client {
        Client::new(self.url(), self.token.clone())
    }

    /// What the node calls itself, once it has started.
    pub fn id(&self) -> String {
        let text = fs::read_to_string(self.data_dir.join("node.id")).unwrap_or_default();
        let text = text.trim();
        if text.starts_with("node_") || text.is_empty() { text.to_owned() } else { format!("node_{}", text.replace('-', "")) }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Runs `command` (which becomes the node) with this node's environment.
    pub(super) fn spawn(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.dir);
        command
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .env("RUST_BACKTRACE", "1")
            .env("HIVEWARD_NODE__DEFAULT_AGENTS", "2")
            .env("HIVEWARD_NODE__ALLOW_FAULTS", "true")
            // Marks the process for the sweep.
            .env("FIELD_OWNER", super::Owner::me().label())
            .envs(self.env.iter().cloned());
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        self.frozen = false;
    }

    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| i32::try_from(child.id()).unwrap())
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    pub fn running(&mut self) -> bool {
        self.ended();
        self.child.is_some()
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    }

    /// The process stands still; its agents go on.
    pub fn freeze(&mut self) {
        self.signal(Signal::SIGSTOP);
        self.frozen = true;
    }

    pub fn thaw(&mut self) {
        self.signal(Signal::SIGCONT);
        self.frozen = false;
    }

    /// `kill -9`, and waits until the process is gone; its agents live on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Resident memory in bytes; none if it does not run.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Its open file descriptors.
    pub fn descriptors(&self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.pid()?)).ok()?.count())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        crate::leftovers::sweep(&self.data_dir);
    }
}
