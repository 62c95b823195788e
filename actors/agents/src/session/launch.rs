//! Starts a session's shim, and finds out after a restart what became of one.
//!
//! The lock is never free between the launcher's decision and the shim's end, so no two can ever run in one directory.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use hiveward_catalogue::agent::spec::{Limits, SessionSpec};
use hiveward_kernel::shim::ShimProgram;
use hiveward_runtime::{
    clock::{BootClock, Deadline},
    cluster::lease::LeasePage,
};
use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Stream, cgroup,
    client::{Lost, Session, greet},
    layout::{Exit, SessionDir, Started},
    procs,
    wire::{Launched, Overflow, Params, Stdin},
};

/// Time from launch to the program's execution, and from connecting to the shim's greeting.
pub(super) const SHIM_PATIENCE: Duration = Duration::from_secs(20);

/// What to run, and how to hold it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Directory of the session, made if it does not exist. At most one session ever runs in it.
    pub dir: PathBuf,
    pub argv: Vec<String>,
    /// Environment of the program, all of it. It may hold secrets: it goes nowhere but into the process.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub stdin: Stdin,
    pub mode: SessionSpec,
    pub limits: Limits,
    /// Time that the program may run. The shim keeps it, so it holds while the node is away. Time frozen does not count.
    pub wall: Option<Duration>,
    /// Time between the steps of the stop that follows `wall`.
    pub grace: Duration,
    pub overflow: Overflow,
    /// Directory whose files are on the disk before the program's end is recorded, as far as the program named them as artifacts.
    pub keeps: Option<PathBuf>,
    pub shim: ShimProgram,
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program cannot be run: the sentence names it and where it was looked for. Nothing is left behind.
    #[error("{0}")]
    Program(String),
    /// Another launch has the directory: it is to be adopted.
    #[error("a session runs in {} already", .0.display())]
    Busy(PathBuf),
    /// This machine failed; a retry may work. Nothing runs.
    #[error("cannot {what}")]
    Machine {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What a directory holds after a restart.
#[derive(Debug)]
pub enum Adopted {
    Running(Session),
    Ended(Exit),
    NeverStarted,
    /// The shim is gone and recorded no end. What it left behind has been killed.
    Lost,
    /// The session has ended, but some of its output is not here any more: the power was cut, or somebody took it away.
    Cut,
}

/// Starts a program under a shim of its own. On return it has been executed.
///
/// Dropping the future may leave the session starting: adopt the directory to find out.
pub async fn launch(launch: Launch) -> Result<Session, LaunchError> {
    let machine = |what| move |source| LaunchError::Machine { what, source };
    if let Some(lease) = &launch.shim.lease {
        told_of(lease).await.map_err(machine("be sure that the program would end with this node's lease"))?;
    }
    let dir = SessionDir::new(&launch.dir);
    dir.create().map_err(machine("make the session's directory"))?;
    let Some(lock) = try_lock(&dir).map_err(machine("lock the session's directory"))? else {
        return Err(LaunchError::Busy(launch.dir));
    };
    if dir.has_started() {
        return Err(LaunchError::Busy(launch.dir));
    }
    // Output is there to be read from the first moment, before the shim has got that far.
    for stream in [Stream::Stdout, Stream::Stderr] {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(dir.stream(stream))
            .map_err(machine("make the transcripts"))?;
    }
    let held = lock.try_clone().map_err(machine("lock the session's directory"))?;
    let mut shim = tokio::process::Command::new(&launch.shim.program)
        .args(&launch.shim.args)
        .current_dir(&launch.dir)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // The lock travels as standard error: it is held without a gap, and no other child can inherit it.
        .stderr(held)
        .spawn()
        .map_err(machine("start the session's shim"))?;
    drop(lock);

    let params = Params {
        session: format!("{:032x}", hiveward_runtime::id::new_v7()),
        argv: launch.argv,
        env: launch.env,
        cwd: launch.cwd,
        stdin: launch.stdin,
        mode: launch.mode,
        limits: launch.limits,
        wall_ms: launch.wall.map(|wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        grace_ms: u64::try_from(launch.grace.as_millis()).unwrap_or(u64::MAX),
        overflow: launch.overflow,
        keeps: launch.keeps,
        linger_ms: 2000,
        owner: launch.shim.owner,
        lease: launch.shim.lease,
    };
    let told = async {
        let mut stdin = shim.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&serde_json::to_vec(&params)?).await?;
        drop(stdin);
        let mut line = Vec::new();
        // Read to the end, which comes at once: the shim lets go of its output after one line.
        shim.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?.take(64 << 10).read_to_end(&mut line).await?;
        Ok::<_, io::Error>(serde_json::from_slice::<Launched>(&line)?)
    };
    match tokio::time::timeout(SHIM_PATIENCE, told).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
        Ok(Launched::Started { .. }) => {}
        Ok(Launched::Failed { message }) => {
            let _ = shim.wait().await;
            forget(&dir);
            return Err(LaunchError::Program(message));
        }
        Err(source) => {
            let _ = shim.start_kill();
            let _ = shim.wait().await;
            if let Some(started) = dir.started() {
                kill_orphans(&started).await;
            }
            let source = match std::fs::read_to_string(dir.lock()) {
                Ok(words) if !words.trim().is_empty() => io::Error::other(words.trim().to_owned()),
                _ => source,
            };
            forget(&dir);
            return Err(LaunchError::Machine { what: "start the session's shim", source });
        }
    }
    match adopt(&launch.dir).await.map_err(machine("reach the session's shim"))? {
        Adopted::Running(session) => Ok(session),
        Adopted::Ended(exit) => Ok(Session::ended(dir, Ok(exit))),
        Adopted::Lost | Adopted::Cut | Adopted::NeverStarted => Ok(Session::ended(dir, Err(Lost))),
    }
}

/// Waits until the page says what this node knows: that it holds a lease. A session that read an older one would end at once.
async fn told_of(lease: &Path) -> io::Result<()> {
    let deadline = Deadline::after(SHIM_PATIENCE);
    loop {
        let (until, now) = (LeasePage::read(lease), BootClock.now().map(|now| now.0));
        if until.zip(now).is_some_and(|(until, now)| now < until) {
            return Ok(());
        }
        if deadline.passed() {
            return Err(io::Error::other(format!("{} says of none", lease.join("lease").display())));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Finds out what became of the session in `dir`, and takes it over if it runs. Kills what a lost shim left behind.
///
/// Errors: the directory or the shim's socket cannot be used; nothing is known then, and nothing was changed.
pub async fn adopt(dir: impl AsRef<Path>) -> io::Result<Adopted> {
    let dir = SessionDir::new(dir.as_ref());
    if !dir.path().is_dir() {
        return Ok(Adopted::NeverStarted);
    }
    let deadline = Deadline::after(SHIM_PATIENCE);
    loop {
        // The record comes after everything else has ended; its shim may still be there for its last clients.
        if let Some(exit) = dir.exit() {
            return Ok(ended(&dir, exit));
        }
        // Held until we have decided: nobody can start a session here meanwhile.
        if let Some(_lock) = try_lock(&dir)? {
            return Ok(match (dir.exit(), dir.started()) {
                (Some(exit), _) => ended(&dir, exit),
                (None, Some(started)) => {
                    kill_orphans(&started).await;
                    Adopted::Lost
                }
                (None, None) => Adopted::NeverStarted,
            });
        }
        match greet(&dir).await {
            Ok((socket, frozen)) => return Ok(Adopted::Running(Session::linked(dir, socket, frozen))),
            Err(error) if deadline.passed() => return Err(error),
            // It is just starting, or just going: look again.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn ended(dir: &SessionDir, exit: Exit) -> Adopted {
    if dir.has_all_of(&exit) { Adopted::Ended(exit) } else { Adopted::Cut }
}

/// Tells whether a session runs in this directory now, or is about to.
pub fn is_held(dir: impl AsRef<Path>) -> bool {
    let dir = SessionDir::new(dir.as_ref());
    dir.path().is_dir() && dir.exit().is_none() && matches!(try_lock(&dir), Ok(None))
}

/// Locks a session's directory; `None` if another has the lock. It is let go when the last copy of the file is closed, never by
/// an explicit unlock: a shim may have a copy.
pub(super) fn try_lock(dir: &SessionDir) -> io::Result<Option<File>> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.lock())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn forget(dir: &SessionDir) {
    // What cannot be removed is a few empty files; retention meets them again.
    let _ = std::fs::remove_dir_all(dir.path());
}

/// Kills everything a lost shim held, however it hid, and returns when nothing is left.
pub(super) async fn kill_orphans(started: &Started) {
    for _ in 0..2000 {
        let mut alive = procs::marked(&started.session);
        for group in &started.cgroups {
            alive.extend(cgroup::members(group));
            cgroup::kill_all(group);
        }
        if alive.is_empty() {
            break;
        }
        procs::signal_all(&alive, nix::sys::signal::Signal::SIGKILL);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cgroup::remove_all(&started.cgroups);
}
