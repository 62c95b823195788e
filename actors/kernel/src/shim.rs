//! The program that holds what a node starts, and how processes of a node know each other.

use std::{io, os::fd::AsFd, path::PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// The program that holds sessions, and its arguments.
#[derive(Clone, Debug)]
pub struct ShimProgram {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Absolute. Only the process that holds the lock on this file may speak to the session; any of this user if absent.
    pub owner: Option<PathBuf>,
    /// Absolute: where the node tells of its lease ([`LeasePage`]). The session ends with that lease; of a node that is in no
    /// cluster there is none.
    pub lease: Option<PathBuf>,
}

const THIS_BINARY: &str = "/proc/self/exe";

impl ShimProgram {
    /// This very binary, even when its file has been replaced since, as `hiveward shim`: its `main` calls
    /// [`shim::main`](super::shim::main) for that.
    pub fn this_binary() -> Self {
        Self { program: THIS_BINARY.into(), args: vec!["shim".to_owned()], owner: None, lease: None }
    }

    /// Tells whether this process was begun as one of these itself.
    pub fn began_this_process(&self) -> bool {
        self.program.as_os_str() == THIS_BINARY
            && !self.args.is_empty()
            && std::env::args().skip(1).take(self.args.len()).eq(self.args.iter().cloned())
    }
}

/// The process that connected. It may have ended since.
pub fn peer(socket: impl AsFd) -> io::Result<i32> {
    Ok(getsockopt(&socket, PeerCredentials)?.pid())
}

/// The name of what brings a program into a guest: what that uses there is its VM's.
pub const BRIDGE: &str = "hiveward-guest";
