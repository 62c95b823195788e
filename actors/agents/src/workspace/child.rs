//! Runs a program of the node itself on what agents wrote: with an environment of its own, in its own process group, and
//! within bounds of time, memory and output. Nothing of the node's environment is in it.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rustix::process::{Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// Time for one call; what is not done by then is ended with all that it began.
pub(super) const WITHIN: Duration = Duration::from_secs(120);
/// Bytes that one call may answer. A call that says more has failed.
const OUTPUT_BYTES_MAX: usize = 64 << 20;
/// Bytes of what it says about a failure; the rest is read and thrown away.
const SAID_BYTES_MAX: usize = 2048;
/// Bytes of its address space. Git maps packs in windows of a bounded size, so that large repositories fit.
const MEMORY_BYTES_MAX: u64 = 8 << 30;
/// Bytes of one file that it writes: a pack, an index, an object.
const FILE_BYTES_MAX: u64 = 8 << 30;
/// Seconds of processor time.
const PROCESSOR_SECONDS_MAX: u64 = 240;
const OPEN_FILES_MAX: u64 = 1024;

/// Answer of a call, whether or not it succeeded.
pub(super) struct Said {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// Guard: it ends the whole group of a call that is not waited for any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // No such group: it has gone, which is what was wanted.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs `program` to its end. Errors are sentences that name it; nothing of it runs then.
pub(super) async fn run(
    program: &str,
    args: &[&OsStr],
    dir: &Path,
    env: &[(&str, OsString)],
    input: &[u8],
) -> Result<Said, String> {
    let what = format!("{program} {}", args.first().map(|arg| arg.to_string_lossy()).unwrap_or_default());
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let cannot = |error: io::Error| format!("{program} cannot be run: {error}; install {program} on the agent's host");
    let mut child = command.spawn().map_err(cannot)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let mut guard = Group(group.map(Pid::from_raw));
    limit(group).map_err(|error| format!("{what} cannot be kept within limits: {error}"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talk = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // Who does not read it to its end says so by its exit status.
                let _ = stdin.write_all(input).await;
            }
        };
        let ((), out, err) = tokio::join!(feed, read(stdout, OUTPUT_BYTES_MAX), read(stderr, SAID_BYTES_MAX));
        (child.wait().await, out, err)
    };
    let (status, out, err) =
        tokio::time::timeout(WITHIN, talk).await.map_err(|_| format!("{what} did not end within {} s", WITHIN.as_secs()))?;
    guard.0 = None;
    let status = status.map_err(|error| format!("{what} could not be waited for: {error}"))?;
    let unread = |error: io::Error| format!("{what} could not be read: {error}");
    let ((stdout, cut), (stderr, _)) = (out.map_err(unread)?, err.map_err(unread)?);
    if cut {
        return Err(format!("{what} said more than {OUTPUT_BYTES_MAX} bytes"));
    }
    Ok(Said { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).trim().to_owned() })
}

/// Reads all of it and keeps the first `bytes_max` bytes; tells whether there were more.
async fn read(from: Option<impl AsyncRead + Unpin>, bytes_max: usize) -> io::Result<(Vec<u8>, bool)> {
    let (mut kept, mut piece, mut cut) = (Vec::new(), vec![0; 16 << 10], false);
    let Some(mut from) = from else { return Ok((kept, cut)) };
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok((kept, cut));
        }
        let room = bytes_max.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&piece[..room]);
        cut |= room < count;
    }
}

fn limit(pid: Option<i32>) -> io::Result<()> {
    // One that has ended already needs none.
    let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    for (resource, most) in [
        (Resource::As, MEMORY_BYTES_MAX),
        (Resource::Fsize, FILE_BYTES_MAX),
        (Resource::Cpu, PROCESSOR_SECONDS_MAX),
        (Resource::Nofile, OPEN_FILES_MAX),
        (Resource::Core, 0),
    ] {
        match prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: Some(most) }) {
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            // Somebody gave the node less than that: then it has less too.
            Err(rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns the variables that every such program has, and no others but those of its call.
pub(super) fn environment(home: &Path) -> Vec<(&'static str, OsString)> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    vec![("PATH", path), ("HOME", home.into()), ("LC_ALL", "C".into())]
}
