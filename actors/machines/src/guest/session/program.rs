//! The program in the guest: started once, its output brought here as it comes, signals and input passed on, its end found.
//!
//! In the guest it has a directory of its own with its output in files, so that nothing is lost while nobody asks.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::FileTypeExt},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use super::{
    Given, scripts,
    talk::{Guest, Trouble},
};
use crate::guest::agent::{self, Ended, Exec, READ_BYTES_MAX, WRITE_BYTES_MAX};

/// Time between looks at a program that says something, and at one that does not.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LONGEST: Duration = Duration::from_millis(500);
/// Number of pieces of standard input that wait to be passed on; the reader waits then.
const INPUT_PIECES_MAX: usize = 4;
/// Places where guests look for programs, if the node says nothing else.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables of this process and its node; a guest has its own.
const NOT_ITS_OWN: [&str; 4] = ["PATH", "HOME", "LANG", "HIVEWARD_SESSION"];

/// Signals that are passed on.
pub struct Signals(SignalFd);

impl Signals {
    /// Takes the signals of this process from now on. To be called before anything else: what comes meanwhile waits.
    pub fn take() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block()?;
        Ok(Self(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Returns the name of the next signal that came, without waiting; `None` if there is none.
    pub fn next(&self) -> Option<&'static str> {
        let info = self.0.read_signal().ok().flatten()?;
        let number = i32::try_from(info.ssi_signo).ok()?;
        Some(match Signal::try_from(number).ok()? {
            Signal::SIGINT => "INT",
            Signal::SIGHUP => "HUP",
            _ => "TERM",
        })
    }
}

/// One of its outputs, and where it is brought to.
struct Output {
    path: String,
    handle: Option<i64>,
    offset: u64,
}

impl Output {
    /// Brings what is there of an output now, and tells whether there was anything.
    fn bring(&mut self, guest: &mut Guest, to: &mut impl Write) -> Result<bool, Trouble> {
        let mut any = false;
        loop {
            let handle = match self.handle {
                Some(handle) => handle,
                None => {
                    let handle = agent::handle(&guest.say(&agent::open_file(&self.path, "r"))?)?;
                    guest.say(&agent::seek_file(handle, self.offset))?;
                    self.handle = Some(handle);
                    handle
                }
            };
            let bytes = match guest.say(&agent::read_file(handle)) {
                Ok(answer) => agent::bytes(&answer)?,
                Err(trouble) => {
                    // It may have been read and not been heard, or the agent began anew: it is opened again where we are.
                    self.handle = None;
                    return Err(trouble);
                }
            };
            if bytes.is_empty() {
                return Ok(any);
            }
            to.write_all(&bytes).and_then(|()| to.flush()).map_err(Trouble::local("pass on its output"))?;
            (self.offset, any) = (self.offset + bytes.len() as u64, true);
            if bytes.len() < READ_BYTES_MAX {
                return Ok(any);
            }
        }
    }
}

pub struct Program {
    dir: String,
    pid: i64,
    outputs: [Output; 2],
    input: Option<Receiver<Vec<u8>>>,
    /// Input that was taken and may be said again, because nothing of it was.
    unsaid: Option<Vec<u8>>,
}

enum Input {
    Nothing,
    File(File),
    Pipe,
}

fn input() -> io::Result<Input> {
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_file() {
        Input::File(file)
    } else if kind.is_char_device() {
        Input::Nothing
    } else {
        Input::Pipe
    })
}

impl Program {
    /// Starts the program in the guest, once. If it is not known whether it began, the guest is given up.
    pub fn begin(guest: &mut Guest, given: &Given) -> Result<Self, Trouble> {
        // There may have been others of this attempt: hooks, a program that was begun again.
        let dir = format!("{}/guest-{:032x}", given.with.display(), hiveward_runtime::id::new_v7());
        guest.must("making a directory", scripts::OWN_DIRECTORY, &[&dir])?;
        let mut piped = None;
        let kind = match input().map_err(Trouble::local("look at its input"))? {
            Input::Nothing => "none",
            Input::File(file) => {
                put(guest, file, &format!("{dir}/in"))?;
                "file"
            }
            Input::Pipe => {
                let (passed, input) = mpsc::sync_channel(INPUT_PIECES_MAX);
                // Ends with this process, or with its input.
                thread::spawn(move || {
                    let mut piece = vec![0; WRITE_BYTES_MAX];
                    while let Ok(count @ 1..) = io::stdin().lock().read(&mut piece) {
                        if passed.send(piece[..count].to_vec()).is_err() {
                            return;
                        }
                    }
                });
                piped = Some(input);
                "pipe"
            }
        };
        let cwd = given.cwd.display().to_string();
        let mut args: Vec<String> = ["-c", scripts::PROGRAM, "hiveward", &dir, kind, &cwd].map(str::to_owned).into();
        args.extend(given.argv.iter().cloned());
        let mut env: Vec<(String, String)> = std::env::vars().filter(|(name, _)| !NOT_ITS_OWN.contains(&name.as_str())).collect();
        env.extend([("PATH".to_owned(), PATH.to_owned()), ("HOME".to_owned(), "/root".to_owned())]);
        let pid = guest.start(Exec { path: "/bin/sh", args: &args, env: &env, ..Exec::default() })?;
        let output = |name: &str| Output { path: format!("{dir}/{name}"), handle: None, offset: 0 };
        Ok(Self { outputs: [output("out"), output("err")], dir, pid, input: piped, unsaid: None })
    }

    /// Follows the program to its end, and returns the code it ended with: 128 and the signal's number if a signal ended it.
    pub fn follow(mut self, guest: &mut Guest, signals: &Signals) -> Result<u8, Trouble> {
        let mut wait = LOOK_FIRST;
        loop {
            let turn = self.turn(guest, signals);
            match turn {
                Ok((_, Some(ended))) => {
                    self.rest(guest)?;
                    let code = ended.code.or(ended.signal.map(|signal| 128 + signal)).unwrap_or(1);
                    return Ok(u8::try_from(code).unwrap_or(u8::MAX));
                }
                Ok((true, None)) => wait = LOOK_FIRST,
                Ok((false, None)) => wait = (wait * 2).min(LOOK_LONGEST),
                Err(trouble) if guest.waits(&trouble) => continue,
                // It knows nothing of it: it has begun anew, or the guest has.
                Err(Trouble::Refused(why)) => {
                    return Err(Trouble::Gone(format!("the guest does not know its program any more: {why}")));
                }
                Err(trouble) => return Err(trouble),
            }
            let until = Instant::now() + wait;
            while Instant::now() < until && !self.is_urged() {
                thread::sleep(LOOK_FIRST.min(wait));
            }
        }
    }

    /// Tells whether input waits to be passed on.
    fn is_urged(&mut self) -> bool {
        if self.unsaid.is_none()
            && let Some(Ok(piece)) = self.input.as_ref().map(Receiver::try_recv)
        {
            self.unsaid = Some(piece);
        }
        self.unsaid.is_some()
    }

    /// Does one look at the program: tells whether anything was said, and the end if it has ended.
    fn turn(&mut self, guest: &mut Guest, signals: &Signals) -> Result<(bool, Option<Ended>), Trouble> {
        let mut any = self.pass_input(guest)?;
        while let Some(signal) = signals.next() {
            // Refused by what has ended already, and repeated by who means it.
            let _ = guest.run(scripts::KILL, &[signal, &self.dir]);
            any = true;
        }
        // Before its output, so that what was said before its end is read after it.
        let ended = agent::ended(&guest.say(&agent::status_of(self.pid))?)?;
        any |= self.bring(guest)?;
        Ok((any, ended))
    }

    fn bring(&mut self, guest: &mut Guest) -> Result<bool, Trouble> {
        let [out, err] = &mut self.outputs;
        let said = out.bring(guest, &mut io::stdout().lock())?;
        Ok(err.bring(guest, &mut io::stderr().lock())? || said)
    }

    /// Brings all that is left of its output.
    fn rest(&mut self, guest: &mut Guest) -> Result<(), Trouble> {
        loop {
            match self.bring(guest) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(trouble) if guest.waits(&trouble) => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Passes one piece of input on, and tells whether there was any; each is in the program's pipe when this returns.
    fn pass_input(&mut self, guest: &mut Guest) -> Result<bool, Trouble> {
        let Some(input) = &self.input else { return Ok(false) };
        let piece = match self.unsaid.take().map_or_else(|| input.try_recv(), Ok) {
            Ok(piece) => piece,
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => {
                self.input = None;
                guest.run(scripts::END_INPUT, &[&self.dir])?;
                return Ok(true);
            }
        };
        let args = ["-c".to_owned(), scripts::into_input(&self.dir)];
        let cat = Exec { path: "/bin/sh", args: &args, input: Some(&piece), ..Exec::default() };
        let pid = match guest.start(cat) {
            Ok(pid) => pid,
            Err(Trouble::Silent(why)) => {
                return Err(Trouble::Gone(format!("it is not known whether its program got its input: {why}")));
            }
            Err(trouble) => return Err(trouble),
        };
        loop {
            // A program that reads slowly is waited for, and one that has ended reads no more.
            if agent::ended(&guest.say_until(&agent::status_of(pid))?)?.is_some()
                || agent::ended(&guest.say_until(&agent::status_of(self.pid))?)?.is_some()
            {
                return Ok(true);
            }
            self.bring(guest)?;
            thread::sleep(LOOK_FIRST);
        }
    }
}

/// Copies a file here to one in the guest.
fn put(guest: &mut Guest, mut from: impl Read, to: &str) -> Result<(), Trouble> {
    let handle = agent::handle(&guest.say(&agent::open_file(to, "w"))?)?;
    let mut piece = vec![0; WRITE_BYTES_MAX];
    loop {
        let count = from.read(&mut piece).map_err(Trouble::local("read its input"))?;
        if count == 0 {
            break;
        }
        let written = agent::written(&guest.say(&agent::write_file(handle, &piece[..count]))?)?;
        if written < count {
            return Err(Trouble::Refused("its disk is full".to_owned()));
        }
    }
    guest.say(&agent::close_file(handle)).map(drop)
}
