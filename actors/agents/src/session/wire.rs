//! What goes between a node and a shim: launch parameters once, then frames over the socket.
//!
//! A frame is a length (u32, little-endian, of what follows the kind), a kind, and a body. A frame of standard input is
//! taken whole or not at all, so a node that dies while it writes never leaves half a line with the process.

use std::path::PathBuf;

use hiveward_catalogue::agent::spec::{Limits, SessionSpec};
use serde::{Deserialize, Serialize};

use super::layout::Exit;

pub(super) const KIND_REQUEST: u8 = 0;
pub(super) const KIND_STDIN: u8 = 1;
pub(super) const KIND_EVENT: u8 = 2;
pub(super) const HEADER_BYTES: usize = 5;
/// Bytes of standard input in one frame.
pub(super) const STDIN_BYTES_MAX: usize = 1 << 20;
pub(super) const FRAME_BYTES_MAX: usize = STDIN_BYTES_MAX + 1 + TAG_BYTES_MAX;
pub(super) const TAG_BYTES_MAX: usize = 128;

/// What the process reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    Null,
    /// Pipe that the shim holds; it is written through the session.
    Pipe,
    File(PathBuf),
}

/// What happens to output beyond a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overflow {
    /// After this many bytes, more is read and thrown away, and the exit record says how much.
    Drop { bytes_max: u64 },
    /// The process waits while this many bytes of stdout are written that the node has not consumed; what was
    /// consumed longer ago than that many bytes is freed on disk. Of stderr the last so many bytes are kept.
    Wait { window_bytes: u64 },
}

/// Everything a shim is told at its start, over its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Params {
    pub session: String,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub stdin: Stdin,
    pub mode: SessionSpec,
    pub limits: Limits,
    pub wall_ms: Option<u64>,
    pub grace_ms: u64,
    pub overflow: Overflow,
    /// See [`Launch::keeps`](super::Launch).
    #[serde(default)]
    pub keeps: Option<PathBuf>,
    /// Milliseconds that it stays after the end with nobody connected.
    pub linger_ms: u64,
    /// See [`ShimProgram::owner`](hiveward_kernel::shim::ShimProgram).
    #[serde(default)]
    pub owner: Option<PathBuf>,
    /// See [`ShimProgram::lease`](hiveward_kernel::shim::ShimProgram).
    #[serde(default)]
    pub lease: Option<PathBuf>,
}

/// The shim's one line on its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Launched {
    Started { pid: i32 },
    Failed { message: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub id: u64,
    pub request: Request,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    /// SIGINT to the group, grace, SIGTERM, grace, SIGKILL of everything.
    Stop {
        grace_ms: u64,
    },
    Kill,
    Signal(i32),
    Freeze(bool),
    Resize {
        cols: u16,
        rows: u16,
    },
    /// Says that the node has dealt with stdout up to this offset.
    Consumed(u64),
    /// Makes this connection alone write standard input; an older holder is cut off, its half frame forgotten.
    OpenStdin,
    CloseStdin,
    /// Says that pieces of standard input with these tags will not be asked for again.
    ForgetAccepted(Vec<String>),
    /// Says that the end is known; the shim may go.
    Leave,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Event {
    Hello {
        pid: i32,
        frozen: bool,
    },
    Done {
        id: u64,
        error: Option<String>,
    },
    StdinTaken {
        error: Option<String>,
    },
    /// Lengths of the transcripts, in bytes. Only the newest is kept for a slow reader.
    Grew {
        stdout: u64,
        stderr: u64,
    },
    Exited(Exit),
}

pub(super) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(body);
    out
}

pub(super) fn json_frame<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    // Plain structs with string keys always serialize.
    frame(kind, &serde_json::to_vec(value).unwrap_or_default())
}

pub(super) struct Frame<'a> {
    pub kind: u8,
    pub body: &'a [u8],
    /// Bytes of the whole frame.
    pub len: usize,
}

/// Returns the first whole frame at the start of `bytes`, if that is there. Errors: it is longer than any frame may be.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Frame<'_>>, TooLong> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(TooLong);
    }
    Ok(bytes.get(HEADER_BYTES..HEADER_BYTES + len).map(|body| Frame { kind: header[4], body, len: HEADER_BYTES + len }))
}

#[derive(Debug)]
pub(super) struct TooLong;
