//! Sessions, in which connectors' processes run: each is held by a small shim process of its own, so that it outlives this node's
//! process.
//!
//! A session is a directory. Its shim owns what is in it: the transcripts (`stdout`, `stderr`, their sums, `index`), the markers
//! (`started`, `exit.json`), the socket `sock` and, for as long as it lives, the lock on `lock`. [`launch`] makes one,
//! [`adopt`] finds it again after a restart and tells running, ended, never started and lost apart. The node never
//! holds a pipe of the process, so nothing is lost while it is away. The shim hears its node alone (`owner`). Secrets travel
//! over the shim's standard input only: never in its arguments, never in a file.

mod attach;
mod cgroup;
mod client;
mod launch;
mod layout;
pub mod owner;
mod procs;
pub mod scrub;
pub mod shim;
mod sums;
mod tail;
pub mod transcript;
mod wire;

pub use attach::{AttachError, Attached, Writer, attach};
pub use client::{Lost, Session, SessionError};
pub use hiveward_kernel::shim::ShimProgram;
pub use launch::{Adopted, Launch, LaunchError, adopt, is_held, launch};
pub use layout::{Exit, SessionDir};
pub(crate) use shim::Recorder;
pub use tail::Tail;
pub use wire::{Overflow, Stdin};

/// Which of a process's two outputs. A pty has one, `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}
