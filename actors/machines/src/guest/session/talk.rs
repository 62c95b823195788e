//! Speaks with the agent in one guest, through the node's desk.

use std::{
    fs,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use hiveward_kernel::id::VmId;
use serde_json::Value;

use super::{SILENT_WITHIN, program::Signals};
use crate::guest::{
    agent::{self, Ended, Exec, Odd},
    wire::{Ask, FRAME_BYTES_MAX, Said},
};

const DESK_AGAIN: Duration = Duration::from_millis(100);
const GUEST_AGAIN: Duration = Duration::from_millis(200);
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_LONGEST: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Something of this machine failed.
    #[error("{0}")]
    Local(String),
    /// The agent in the guest says no.
    #[error("the agent in the guest: {0}")]
    Refused(String),
    #[error(transparent)]
    Odd(#[from] Odd),
    /// There was no answer; the agent may have heard it.
    #[error("the guest does not answer: {0}")]
    Silent(String),
    #[error("{0}")]
    Gone(String),
}

impl Trouble {
    /// Returns what makes of an error of this machine the trouble that it cannot do `what`.
    pub fn local(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Local(format!("cannot {what}: {error}"))
    }
}

pub struct Guest {
    socket: PathBuf,
    vm: VmId,
    desk: Option<UnixStream>,
    silent_since: Option<Instant>,
}

impl Guest {
    /// Returns a way to the agent in a guest, through the desk at this socket; nothing is opened yet.
    pub fn new(socket: PathBuf, vm: VmId) -> Self {
        Self { socket, vm, desk: None, silent_since: None }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let (dir, name) = (self.socket.parent().unwrap_or(Path::new(".")), self.socket.file_name().unwrap_or_default());
        let dir = fs::File::open(dir)?;
        UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
    }

    /// Says a command once, when there is a desk, and returns the answer; waits for a desk as long as it takes.
    pub fn say(&mut self, command: &Value) -> Result<Value, Trouble> {
        let mut desk = loop {
            match self.desk.take().map_or_else(|| self.connect(), Ok) {
                Ok(desk) => break desk,
                Err(_) => {
                    self.silent_since = None;
                    thread::sleep(DESK_AGAIN);
                }
            }
        };
        let answer = match exchange(&mut desk, &Ask { vm: self.vm, command: command.to_string() }) {
            Ok(answer) => answer,
            Err(error) => return Err(Trouble::Silent(format!("the node went away while it was asked: {error}"))),
        };
        self.desk = Some(desk);
        if !matches!(answer, Said::Silent(_)) {
            self.silent_since = None;
        }
        match answer {
            Said::Answer(text) => serde_json::from_str(&text).map_err(|_| Odd("a command").into()),
            Said::Refused(message) => Err(Trouble::Refused(message)),
            Said::Silent(why) => {
                self.silent_since.get_or_insert_with(Instant::now);
                Err(Trouble::Silent(why))
            }
            Said::Gone(why) => Err(Trouble::Gone(why)),
        }
    }

    /// Tells whether a guest that does not answer is waited for; if so it has waited a little.
    pub fn waits(&self, trouble: &Trouble) -> bool {
        let patient = self.silent_since.is_none_or(|since| since.elapsed() < SILENT_WITHIN);
        let waits = matches!(trouble, Trouble::Silent(_)) && patient;
        if waits {
            thread::sleep(GUEST_AGAIN);
        }
        waits
    }

    /// Says what may be said twice until it is answered, or the guest has been silent for too long.
    pub fn say_until(&mut self, command: &Value) -> Result<Value, Trouble> {
        loop {
            match self.say(command) {
                Err(trouble) if self.waits(&trouble) => {}
                said => return said,
            }
        }
    }

    /// Waits until the guest answers. Errors: it did not come up `within` that time, or a signal ended the wait.
    pub fn wait_until_ready(&mut self, within: Duration, signals: &Signals) -> Result<(), Trouble> {
        let begun = Instant::now();
        loop {
            match self.say(&agent::ping()) {
                Ok(_) => return Ok(()),
                Err(Trouble::Silent(why)) if begun.elapsed() < within => {
                    if signals.next().is_some() {
                        return Err(Trouble::Local("it was stopped before its guest was up".to_owned()));
                    }
                    // It is on its way up: that is counted from its beginning alone.
                    self.silent_since = None;
                    drop(why);
                    thread::sleep(GUEST_AGAIN);
                }
                Err(Trouble::Silent(why)) => {
                    let within = within.as_secs();
                    return Err(Trouble::Gone(format!("the guest did not come up within {within} s: {why}")));
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Starts a program and returns its number. If that is not answered, it may run.
    pub fn start(&mut self, exec: Exec<'_>) -> Result<i64, Trouble> {
        Ok(agent::pid(&self.say(&exec.command())?)?)
    }

    /// Runs a shell's script to its end.
    pub fn run(&mut self, script: &str, args: &[&str]) -> Result<Ended, Trouble> {
        let all: Vec<String> = ["-c", script, "hiveward"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        let pid = self.start(Exec { path: "/bin/sh", args: &all, capture: true, ..Exec::default() })?;
        let mut wait = LOOK_FIRST;
        loop {
            if let Some(ended) = agent::ended(&self.say_until(&agent::status_of(pid))?)? {
                return Ok(ended);
            }
            thread::sleep(wait);
            wait = (wait * 2).min(LOOK_LONGEST);
        }
    }

    /// Runs a script as [`Guest::run`] does, where only success will do.
    pub fn must(&mut self, what: &str, script: &str, args: &[&str]) -> Result<(), Trouble> {
        let ended = self.run(script, args)?;
        if ended.code == Some(0) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        Err(Trouble::Refused(format!("{what} failed in the guest: {}", said.trim())))
    }
}

fn exchange(desk: &mut UnixStream, ask: &Ask) -> io::Result<Said> {
    let frame = rmp_serde::to_vec_named(ask).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    desk.write_all(&length.to_le_bytes())?;
    desk.write_all(&frame)?;
    let mut length = [0; 4];
    desk.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes is too long")));
    }
    let mut frame = vec![0; length];
    desk.read_exact(&mut frame)?;
    rmp_serde::from_slice(&frame).map_err(io::Error::other)
}
