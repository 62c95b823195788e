//! Starts the one process of a shim. The only `unsafe` of the sessions is here: code between fork and exec.
//!
//! Joining the cgroups, a new process session and the controlling terminal must be done by the child itself, before it
//! runs a single instruction of its program; otherwise what it forks at once could escape. That is sound: the shim has
//! one thread, so the child may even allocate.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use hiveward_catalogue::agent::spec::SessionSpec;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{signal::SigSet, stat::Mode},
    unistd::{AccessFlags, access},
};

use super::super::{
    layout::MARKER,
    wire::{Params, Stdin},
};

/// The running process and our ends of what connects us.
pub(super) struct Spawned {
    pub child: Child,
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
    pub pty: Option<OwnedFd>,
}

/// Starts the program. Errors: a sentence for the user that names the program and where it was looked for.
pub(super) fn spawn(params: &Params, mut doors: Vec<File>, umask: Mode) -> Result<Spawned, String> {
    if !params.cwd.is_dir() {
        return Err(format!("working directory {} does not exist", params.cwd.display()));
    }
    let program = resolve(params)?;
    let failed = |error: io::Error| format!("program {} could not be executed: {error}", program.display());
    let mut command = Command::new(&program);
    if let Some(name) = params.argv.first() {
        command.arg0(name);
    }
    command.args(params.argv.iter().skip(1)).current_dir(&params.cwd).env_clear();
    command.envs(params.env.iter().map(|(name, value)| (name, value))).env(MARKER, &params.session);

    let pty = match params.mode {
        // What runs in a VM has the pipes of the process that brings it there.
        SessionSpec::Pipes | SessionSpec::Vm(_) => {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            match &params.stdin {
                Stdin::Null => command.stdin(Stdio::null()),
                Stdin::Pipe => command.stdin(Stdio::piped()),
                Stdin::File(path) => {
                    command.stdin(File::open(path).map_err(|e| format!("standard input {}: {e}", path.display()))?)
                }
            };
            None
        }
        SessionSpec::Pty { cols, rows } => {
            let (master, slave) = open_pty(cols, rows).map_err(|e| format!("no pseudo-terminal: {e}"))?;
            command.stdin(slave.try_clone().map_err(failed)?).stdout(slave.try_clone().map_err(failed)?).stderr(slave);
            Some(master)
        }
    };
    let terminal = pty.is_some();
    let prepare = move || {
        for door in &mut doors {
            // Who cannot join is noticed by the parent, which then limits and kills by other means.
            let _ = door.write_all(b"0");
        }
        if terminal {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(io::stdin().as_fd())?;
        } else {
            rustix::process::setpgid(None, None)?;
        }
        nix::sys::stat::umask(umask);
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: one thread, so between fork and exec nothing can hold a lock that the child would wait for.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn().map_err(failed)?;
    // The pseudo-terminal's other end lives in `command`; while it is open here, reading would never end.
    drop(command);

    let (stdin, stdout, stderr) = match &pty {
        Some(master) => (Some(master.try_clone().map_err(failed)?), master.try_clone().map_err(failed)?, None),
        None => (
            child.stdin.take().map(OwnedFd::from),
            child.stdout.take().map(OwnedFd::from).ok_or("no standard output")?,
            child.stderr.take().map(OwnedFd::from),
        ),
    };
    for fd in stdin.iter().chain([&stdout]).chain(&stderr) {
        set_nonblocking(fd).map_err(failed)?;
    }
    Ok(Spawned { child, stdin, stdout, stderr, pty })
}

pub(super) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

pub(super) fn resize(pty: &OwnedFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(pty, size)?)
}

fn open_pty(cols: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    resize(&master, cols, rows)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

fn resolve(params: &Params) -> Result<PathBuf, String> {
    let name = params.argv.first().filter(|name| !name.is_empty()).ok_or("the command names no program")?;
    if name.contains('/') {
        let path = params.cwd.join(name);
        return match check(&path) {
            Found::Yes => Ok(path),
            Found::NotExecutable => {
                Err(format!("program {name} is not executable (in working directory {})", params.cwd.display()))
            }
            Found::No => Err(format!("program {name} does not exist (in working directory {})", params.cwd.display())),
        };
    }
    let search = params.env.iter().rev().find(|(variable, _)| variable == "PATH").map_or("", |(_, value)| value);
    let mut blocked = None;
    for dir in search.split(':').filter(|dir| !dir.is_empty()) {
        let path = params.cwd.join(dir).join(name);
        match check(&path) {
            Found::Yes => return Ok(path),
            Found::NotExecutable => blocked = Some(path),
            Found::No => {}
        }
    }
    Err(match blocked {
        Some(path) => format!("program {} is not executable", path.display()),
        None => format!("program {name} was not found in PATH ({search})"),
    })
}

enum Found {
    Yes,
    NotExecutable,
    No,
}

fn check(path: &Path) -> Found {
    match path.metadata() {
        Ok(meta) if meta.is_file() && access(path, AccessFlags::X_OK).is_ok() => Found::Yes,
        Ok(_) => Found::NotExecutable,
        Err(_) => Found::No,
    }
}
