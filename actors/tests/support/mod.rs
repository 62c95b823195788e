//! A place for one session and the means to look at it from outside.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod agent;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use hiveward_agents::session::{self, Launch, Overflow, Stdin};
use hiveward_catalogue::agent::spec::{Limits, SessionSpec};
use hiveward_kernel::shim::ShimProgram;

pub fn shim() -> ShimProgram {
    ShimProgram { program: env!("CARGO_BIN_EXE_hiveward-shim-probe").into(), args: Vec::new(), owner: None, lease: None }
}

pub struct Place {
    root: tempfile::TempDir,
    pub session: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        // Deeper than a socket's path may be long.
        let session = root.path().join("a-rather-long-name-for-a-directory-that-holds-sessions".repeat(2)).join("s");
        Self { root, session }
    }

    pub fn at(root: tempfile::TempDir, session: PathBuf) -> Self {
        Self { root, session }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn sh(&self, script: &str) -> Launch {
        sh(self.root(), &self.session, script)
    }

    pub fn text(&self, file: &str) -> String {
        fs::read_to_string(self.session.join(file)).unwrap_or_default()
    }

    pub fn len(&self, file: &str) -> u64 {
        fs::metadata(self.session.join(file)).map_or(0, |meta| meta.len())
    }

    /// Every live process whose environment or working directory is of this place, shims included.
    pub fn processes(&self) -> Vec<i32> {
        processes_under(self.root())
    }

    pub fn shims(&self) -> Vec<i32> {
        self.processes()
            .into_iter()
            .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() == "hiveward-shim\n")
            .collect()
    }

    pub fn kill_shim(&self) {
        let shims = self.shims();
        assert_eq!(shims.len(), 1);
        kill_9(shims[0]);
    }

    /// Returns the bytes of memory that are the shim's own. The pages of its program are shared by all shims of a node, and how many
    /// of them are in memory is the machine's choice.
    pub fn shim_own_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.shims()[0])).unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        own.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub async fn nothing_left(&self) {
        wait_for("every process of the session to go", || self.processes().is_empty()).await;
        for leaf in leaves(&self.session) {
            assert!(!leaf.exists(), "{leaf:?} is left");
        }
    }
}

/// The cgroups that the session was given.
pub fn leaves(session: &Path) -> Vec<PathBuf> {
    let started: serde_json::Value =
        serde_json::from_slice(&fs::read(session.join("started")).unwrap_or_default()).unwrap_or_default();
    started["cgroups"].as_array().into_iter().flatten().filter_map(|dir| Some(PathBuf::from(dir.as_str()?))).collect()
}

impl Drop for Place {
    fn drop(&mut self) {
        // Of a test that failed.
        for pid in self.shims().into_iter().chain(self.processes()) {
            kill_9(pid);
        }
        for leaf in leaves(&self.session) {
            let _ = fs::write(leaf.join("cgroup.kill"), "1");
        }
    }
}

pub fn kill_9(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

pub fn processes_under(root: &Path) -> Vec<i32> {
    let text = root.as_os_str().as_encoded_bytes();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != std::process::id().cast_signed())
        .filter(|pid| {
            let of = |file: &str| format!("/proc/{pid}/{file}");
            fs::read_link(of("cwd")).is_ok_and(|cwd| cwd.starts_with(root))
                || contains(&fs::read(of("environ")).unwrap_or_default(), text)
        })
        .collect()
}

pub fn sh(root: &Path, session: &Path, script: &str) -> Launch {
    Launch {
        dir: session.to_owned(),
        argv: vec!["sh".into(), "-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("PLACE".into(), root.display().to_string())],
        cwd: root.to_owned(),
        stdin: Stdin::Null,
        mode: SessionSpec::Pipes,
        limits: Limits::default(),
        wall: script.strip_prefix("#wall=").and_then(|rest| rest.lines().next()?.parse().ok()).map(Duration::from_millis),
        grace: Duration::from_millis(200),
        overflow: Overflow::Drop { bytes_max: 64 << 20 },
        keeps: None,
        shim: shim(),
    }
}

/// Launches from a process of its own, which is this test binary again, and kills that with -9.
pub async fn launch_and_die(place: &Place, script: &str) {
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "support::launcher_that_is_killed", "--ignored", "--nocapture"])
        .env("LAUNCH_SCRIPT", script)
        .env("LAUNCH_SESSION", &place.session)
        .env("LAUNCH_ROOT", place.root())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the launch", || place.root().join("launched").exists()).await;
    kill_9(helper.id().cast_signed());
    helper.wait().unwrap();
}

#[tokio::test]
#[ignore = "a part of other tests, which start it in a process of its own"]
async fn launcher_that_is_killed() {
    let var = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let script = std::env::var("LAUNCH_SCRIPT").unwrap();
    let _session = session::launch(sh(&var("LAUNCH_ROOT"), &var("LAUNCH_SESSION"), &script)).await.unwrap();
    fs::write(var("LAUNCH_ROOT").join("launched"), "").unwrap();
    std::future::pending::<()>().await;
}

pub async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < patience, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value once it has not changed over 20 looks.
pub async fn wait_until_steady<T: PartialEq + Copy>(read: impl Fn() -> T) -> T {
    let (mut value, mut same) = (read(), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = read();
        same = if now == value { same + 1 } else { 0 };
        value = now;
    }
    value
}

pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}

/// Waits until `seen` gives something.
pub async fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        if let Some(found) = seen() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
