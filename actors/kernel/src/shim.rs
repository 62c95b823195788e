//! The program that holds what a node starts, and how processes of a node know each other.

use std::{io, os::fd::AsFd, path::PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// The program that holds sessions, and its arguments.
#[derive(Clone, Debug)]
pub struct ShimProgram {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The absolute path of a lock file: only the process that holds its lock may speak to the session. Any process of this
    /// user may if absent.
    pub owner: Option<PathBuf>,
    /// The absolute path at which the node tells of its lease. The session ends with that lease; a node that is
    /// in no cluster has none.
    pub lease: Option<PathBuf>,
}

const THIS_BINARY: &str = "/proc/self/exe";

impl ShimProgram {
    /// Returns this very binary as `hiveward shim`, even when its file has been replaced since: its `main` calls
    /// the shim of `hiveward-agents` for that.
    pub fn this_binary() -> Self {
        Self { program: THIS_BINARY.into(), args: vec!["shim".to_owned()], owner: None, lease: None }
    }

    /// Tells whether this process was itself begun as one of these.
    pub fn began_this_process(&self) -> bool {
        self.program.as_os_str() == THIS_BINARY
            && !self.args.is_empty()
            && std::env::args().skip(1).take(self.args.len()).eq(self.args.iter().cloned())
    }
}

/// Returns the id of the process at the other end of a Unix socket. That process may have ended since.
pub fn peer(socket: impl AsFd) -> io::Result<i32> {
    Ok(getsockopt(&socket, PeerCredentials)?.pid())
}

/// The name of the part that brings a program into a guest: what a program uses there belongs to its VM.
pub const BRIDGE: &str = "hiveward-guest";
