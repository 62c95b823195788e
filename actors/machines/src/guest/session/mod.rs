//! One program in a guest, as a process of this node: held by a shim like any other, it brings the program's files there, its
//! input to it and its output here, its files back, and ends as it ended.
//!
//! Owns nothing that outlives it: the VM is another's. Asks the guest through the node's desk, and waits for as long as it
//! takes when the node is away: what runs in the guest goes on. A guest that is gone, or silent for longer than
//! [`SILENT_WITHIN`], is lost: that is written where the node looks, and nothing is brought back.

mod copy;
mod program;
pub(super) mod scripts;
mod talk;
mod unpack;

use std::{ffi::CString, fs, path::PathBuf, process::ExitCode, time::Duration};

use hiveward_kernel::{id::VmId, shim::BRIDGE};
use nix::sys::{prctl, signal::Signal};

use program::Program;
use talk::{Guest, Trouble};

/// Time for which a guest that answered before may be silent.
pub const SILENT_WITHIN: Duration = Duration::from_secs(60);
/// Code that a program ends with that was lost with its guest: sysexits' "temporary failure".
pub const LOST_CODE: u8 = 75;

/// Program that is run, and where. It is this process's arguments; its environment is the program's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub socket: PathBuf,
    pub vm: VmId,
    /// Time for the guest to come up.
    pub ready_within: Duration,
    /// Directory where it works. It is brought there, and back when the program has ended.
    pub work: PathBuf,
    /// Directory of the attempt, which is brought there besides, under the same path.
    pub with: PathBuf,
    /// File in which it is written why the program was lost, if it was.
    pub lost: PathBuf,
    pub cwd: PathBuf,
    pub argv: Vec<String>,
}

impl Given {
    /// Name of the sub-command.
    pub const NAME: &str = "guest-session";

    /// Returns the arguments that the process of a session is started with.
    pub fn args(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.display().to_string();
        let mut args = vec![
            Self::NAME.to_owned(),
            path(&self.socket),
            self.vm.to_string(),
            self.ready_within.as_millis().to_string(),
            path(&self.work),
            path(&self.with),
            path(&self.lost),
            path(&self.cwd),
        ];
        args.extend(self.argv.iter().cloned());
        args
    }

    /// Reads what [`Given::args`] wrote, after the program's own name; `None` if that is something else.
    fn read(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let (_, socket, vm) = (args.next()?, args.next()?.into(), args.next()?.parse().ok()?);
        let ready_within = Duration::from_millis(args.next()?.parse().ok()?);
        let (work, with) = (args.next()?.into(), args.next()?.into());
        let (lost, cwd) = (args.next()?.into(), args.next()?.into());
        let argv: Vec<String> = args.collect();
        (!argv.is_empty()).then_some(Self { socket, vm, ready_within, work, with, lost, cwd, argv })
    }
}

/// Runs the process itself, and ends as the program in the guest ends.
pub fn main() -> ExitCode {
    let Some(given) = Given::read(std::env::args().skip(1)) else {
        eprintln!("a session in a guest is started by the node: nothing to do by hand");
        return ExitCode::from(2);
    };
    // So that nobody takes it for the program: what that uses its VM says.
    let _ = CString::new(BRIDGE).map(|name| prctl::set_name(&name));
    keep_to_itself();
    match run(&given) {
        Ok(code) => ExitCode::from(code),
        Err(trouble) => {
            let why = trouble.to_string();
            eprintln!("hiveward: {why}");
            match trouble {
                Trouble::Local(_) | Trouble::Refused(_) | Trouble::Odd(_) => ExitCode::FAILURE,
                Trouble::Silent(_) | Trouble::Gone(_) => {
                    // Where that cannot be written it still has failed.
                    let _ = fs::write(&given.lost, &why);
                    ExitCode::from(LOST_CODE)
                }
            }
        }
    }
}

/// Keeps other programs of this user from looking into this process or acting through it: it may speak to its guest, and they may
/// not. It ends with its shim, because whoever looks for what a lost shim left cannot look into it either.
fn keep_to_itself() {
    if let Err(error) = prctl::set_dumpable(false) {
        eprintln!("hiveward: other programs of this user may act through this session: {error}");
    }
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
}

fn run(given: &Given) -> Result<u8, Trouble> {
    let mut guest = Guest::new(given.socket.clone(), given.vm);
    let signals = program::Signals::take().map_err(Trouble::local("watch for signals"))?;
    guest.wait_until_ready(given.ready_within, &signals)?;
    copy::bring(&mut guest, &given.with)?;
    if !given.work.starts_with(&given.with) {
        copy::bring(&mut guest, &given.work)?;
    }
    let code = Program::begin(&mut guest, given)?.follow(&mut guest, &signals)?;
    copy::fetch(&mut guest, &given.work)?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_is_given_reads_as_it_was_written() {
        let mut given = Given {
            socket: "/d/guests.sock".into(),
            vm: VmId::new(),
            ready_within: Duration::from_secs(3),
            work: "/d/a/w".into(),
            with: "/d/a".into(),
            lost: "/d/a/lost".into(),
            cwd: "/d/a/w/sub".into(),
            argv: vec!["sh".into(), "-c".into(), String::new()],
        };
        assert_eq!(Given::read(given.args().into_iter()).as_ref(), Some(&given));
        given.argv.clear();
        assert_eq!(Given::read(given.args().into_iter()), None);
    }
}
