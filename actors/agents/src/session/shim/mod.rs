//! The small process that holds one program, its pipes or pty, its transcripts and its end, while the node may come and go.
//!
//! Started by [`launch`](super::launch) in the session's directory with the lock on its standard error, its parameters
//! on standard input, and one line of answer on standard output. Owns everything in the directory until it goes. Asks
//! nobody. Never trusts a client with memory: frames, buffers and connections are bounded, and a slow client costs
//! nothing. If it is killed, the next adoption finds what it held by cgroup and by the marker in the environment.

mod accepted;
mod clients;
mod end;
mod hold;
mod kept;
mod kill;
mod lease;
mod output;
mod spawn;

pub(crate) use output::Transcripts as Recorder;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixListener},
    path::Path,
    process::ExitCode,
};

use hiveward_runtime::{clock::WallMs, file::replace};
use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
    stat::{Mode, umask},
};

use super::{
    cgroup::Cgroups,
    layout::{EXIT, Exit, SOCKET, STARTED, Started},
    wire::{Launched, Params},
};

/// Runs the sub-command `shim`. Must be called before anything else in `main`: no thread, no runtime, nothing read.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            answer(&Launched::Failed { message });
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(|e| format!("the shim got no parameters: {e}"))?;
    // A launcher that died half-way leaves half a text: nothing was started, so nothing is left.
    let params: Params = serde_json::from_slice(&text).map_err(|e| format!("the shim's parameters are not whole: {e}"))?;
    text.fill(0);
    drop(text);
    let broken = |what: &str, e: io::Error| format!("the shim cannot {what}: {e}");

    // Standard error is the lock file. Kept under another number, so that whatever happens to fd 2 it stays ours.
    let lock = io::stderr().as_fd().try_clone_to_owned().map_err(|e| broken("keep its lock", e))?;
    // Fails only if we lead a group already, as when run by hand: then we are detached enough.
    let _ = rustix::process::setsid();
    prctl::set_child_subreaper(true).map_err(|e| broken("adopt orphans", e.into()))?;
    let _ = prctl::set_name(c"hiveward-shim");
    // It holds its program's terminal and input: other programs of this user are not to reach through it for them. Where that
    // is refused it works all the same.
    let _ = prctl::set_dumpable(false);
    let original_umask = umask(Mode::from_bits_truncate(0o077));
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    // Whoever stops the node's service should reach the node, not the sessions it will adopt again.
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        mask.add(ignored);
    }
    mask.thread_block().map_err(|e| broken("block signals", e.into()))?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|e| broken("watch its child", e.into()))?;

    let transcripts = output::Transcripts::create(Path::new("."), params.overflow).map_err(|e| broken("write transcripts", e))?;
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET).map_err(|e| broken("listen", e))?;
    listener.set_nonblocking(true).map_err(|e| broken("listen", e))?;

    let cgroups = Cgroups::create(&params.session, &params.limits);
    let started = Started { session: params.session.clone(), cgroups: cgroups.dirs(), at: WallMs::now() };
    let here = Path::new(".");
    replace(&here.join(STARTED), &serde_json::to_vec(&started).unwrap_or_default()).map_err(|e| broken("record its start", e))?;

    let spawned = match spawn::spawn(&params, cgroups.doors(), original_umask) {
        Ok(spawned) => spawned,
        Err(message) => {
            let exit = Exit { launch_error: Some(message.clone()), ended_at: WallMs::now(), ..Exit::default() };
            // If even that cannot be written, the session counts as lost, which is retried: safe.
            let _ = exit.sealed().and_then(|record| replace(&here.join(EXIT), &record));
            cgroups.remove();
            return Err(message);
        }
    };
    answer(&Launched::Started { pid: spawned.child.id().cast_signed() });
    release_standard_streams();
    let limits = hold::Limits {
        wall_ms: params.wall_ms,
        grace_ms: params.grace_ms,
        linger_ms: params.linger_ms,
        owner: params.owner.clone(),
        lease: params.lease.clone(),
        keeps: params.keeps.clone(),
        memory_bytes: params.limits.memory_bytes.filter(|_| !cgroups.limits_memory()),
    };
    // The environment may hold secrets and is not needed again.
    drop(params);
    hold::Shim::new(spawned, cgroups, transcripts, listener, signals, limits).run();
    drop(lock);
    Ok(())
}

fn answer(launched: &Launched) {
    let mut line = serde_json::to_vec(launched).unwrap_or_default();
    line.push(b'\n');
    // A launcher that has gone will adopt the session instead.
    let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
}

/// Lets go of our input and output, so that nobody waits for their end. Standard error stays: it is the lock.
fn release_standard_streams() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
