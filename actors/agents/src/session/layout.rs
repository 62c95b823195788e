//! The files of a session directory and the records in them.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Stream,
    sums::{check_seal, sealed},
};

/// Names of what is in a session's directory. Made by the launcher, mode 0700.
#[derive(Clone, Debug)]
pub struct SessionDir(PathBuf);

impl SessionDir {
    /// Returns the names of the session in this directory; nothing is made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the directory with mode 0700; one that exists already is left as it is.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Returns the directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the file of one stream.
    pub fn stream(&self, stream: Stream) -> PathBuf {
        self.0.join(stream_name(stream))
    }

    pub(super) fn index(&self) -> PathBuf {
        self.0.join(INDEX)
    }

    /// Returns the file of the lock, which also gets the shim's own last words, if it ever has any.
    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Returns the file of the tags of the standard input that the shim has taken, one a line: wall milliseconds, a space, the
    /// tag.
    pub fn accepted(&self) -> PathBuf {
        self.0.join(ACCEPTED)
    }

    /// Returns those tags, in their order. None was taken where there is no record.
    ///
    /// Errors: there is one and it cannot be read, or it is damaged; then nobody knows what was taken.
    pub fn accepted_tags(&self) -> io::Result<Vec<String>> {
        let text = match fs::read_to_string(self.accepted()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.accepted().display()));
        text.lines().map(|line| line.split_once(' ').map(|(_, tag)| tag.to_owned()).ok_or_else(damaged)).collect()
    }

    /// Tells whether all output is here that was when the process had ended. Older shims did not say how much that was.
    pub(super) fn has_all_of(&self, exit: &Exit) -> bool {
        let has = |stream, wanted: Option<u64>| {
            wanted.is_none_or(|wanted| fs::metadata(self.stream(stream)).map_or(0, |meta| meta.len()) >= wanted)
        };
        has(Stream::Stdout, exit.stdout_bytes) && has(Stream::Stderr, exit.stderr_bytes)
    }

    /// Returns how it ended; `None` while it has not, and also if that record is damaged: then nobody knows.
    pub fn exit(&self) -> Option<Exit> {
        self.read_exit().ok().flatten()
    }

    /// Returns how it ended, as [`exit`](Self::exit) does.
    ///
    /// Errors: there is a record and it cannot be read, or it is not what was written.
    pub(super) fn read_exit(&self) -> io::Result<Option<Exit>> {
        let text = match fs::read(self.0.join(EXIT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        check_seal(&text, "lease_over")?;
        serde_json::from_slice(&text).map(Some).map_err(io::Error::from)
    }

    pub(super) fn started(&self) -> Option<Started> {
        read_json(&self.0.join(STARTED))
    }

    /// Tells whether the program was, or is about to be, executed: that is recorded before.
    pub fn has_started(&self) -> bool {
        self.0.join(STARTED).exists()
    }
}

pub(super) const INDEX: &str = "index";
pub(super) const EXIT: &str = "exit.json";
pub(super) const STARTED: &str = "started";
pub(super) const SOCKET: &str = "sock";
pub(super) const ACCEPTED: &str = "accepted";

pub(super) const fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// Record that is written before the program is executed: what a later life needs to find the processes if the shim is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    /// Id in the environment of every descendant that did not clear it, as [`MARKER`].
    pub session: String,
    pub cgroups: Vec<PathBuf>,
    pub at: WallMs,
}

/// The variable that names a process's session.
pub(super) const MARKER: &str = "HIVEWARD_SESSION";

/// End of a session's process. It is on disk and in sync before anybody is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Whether it was stopped because its wall time was over.
    pub timed_out: bool,
    /// Whether it was stopped because somebody asked.
    pub stopped: bool,
    /// Whether it was ended because its node's lease was over: another node may have begun its work anew.
    #[serde(default)]
    pub lease_over: bool,
    /// Whether the kernel, or our own watch, killed one of its processes for memory.
    pub oom_killed: bool,
    /// Milliseconds of user and system time of all its processes.
    pub cpu_ms: u64,
    /// Bytes of memory of its largest process, at most.
    pub rss_max_bytes: u64,
    /// Bytes of output that were read and not kept, because the bound was reached.
    pub dropped_bytes: u64,
    /// Lengths of its transcripts in bytes, which were in sync before this was written. A transcript that is shorter has lost its
    /// end. Absent in records of older shims.
    #[serde(default)]
    pub stdout_bytes: Option<u64>,
    #[serde(default)]
    pub stderr_bytes: Option<u64>,
    pub ended_at: WallMs,
    /// Reason why the program never ran, if it did not.
    pub launch_error: Option<String>,
}

impl Exit {
    /// Returns the record as it is written.
    pub(super) fn sealed(&self) -> io::Result<Vec<u8>> {
        Ok(sealed(&serde_json::to_vec(self)?))
    }

    /// Tells whether the program ran and ended with status 0.
    pub fn success(&self) -> bool {
        self.code == Some(0) && self.launch_error.is_none()
    }

    /// Returns how it ended as a user would say it: `exit status 3`, `signal 9 (SIGKILL)`.
    pub fn describe(&self) -> String {
        let mut text = match (&self.launch_error, self.code, self.signal) {
            (Some(error), _, _) => error.clone(),
            (None, Some(code), _) => format!("exit status {code}"),
            (None, None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
                Ok(name) => format!("signal {signal} ({name})"),
                Err(_) => format!("signal {signal}"),
            },
            (None, None, None) => "no exit status".to_owned(),
        };
        if self.oom_killed {
            text.push_str(", killed for memory");
        }
        if self.lease_over {
            text.push_str(", ended with its node's lease");
        }
        text
    }
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
