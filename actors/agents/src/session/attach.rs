//! A person at a session's terminal, beside the connector that owns it.
//!
//! Reads from the transcript, so any number may watch and none slows the process. One at a time types: whoever types
//! first takes the standard input over from who had it.

use std::{io, path::Path, sync::Arc};

use super::{Adopted, Session, SessionError, Stream, Tail, adopt};

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("the session does not run")]
    NotRunning,
    #[error("the session cannot be reached")]
    Io(#[from] io::Error),
}

/// A person's side of a session's terminal. Dropping it leaves the session as it is.
#[derive(Debug)]
pub struct Attached {
    /// Output of the terminal from `output_bytes` before now on.
    pub reader: Tail,
    pub writer: Writer,
}

/// The keyboard, and the size of the screen.
#[derive(Clone, Debug)]
pub struct Writer(Arc<Session>);

impl Writer {
    /// Types at the terminal. Cut off by somebody else's typing since the last time, it takes the keyboard back.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), SessionError> {
        match self.0.write_stdin(bytes, "").await {
            Err(SessionError::Ended) if !self.0.has_ended() => self.0.write_stdin(bytes, "").await,
            written => written,
        }
    }

    /// Waits for the end of the process, and returns in words how it ended.
    pub async fn end(&self) -> String {
        self.0.wait().await.map_or_else(|lost| lost.to_string(), |exit| exit.describe())
    }

    /// Sets the size of the terminal, in columns and rows.
    pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), SessionError> {
        self.0.resize(cols, rows).await
    }
}

impl Session {
    /// Returns a reader from the last `output_bytes` on, and a writer.
    pub fn attach(self: &Arc<Self>, output_bytes: u64) -> io::Result<Attached> {
        let len = super::transcript::stream_len(self.dir().path(), Stream::Stdout);
        Ok(Attached { reader: self.tail(Stream::Stdout, len.saturating_sub(output_bytes))?, writer: Writer(self.clone()) })
    }
}

/// Attaches to whatever runs in `dir`, from any process of the same user.
pub async fn attach(dir: impl AsRef<Path>, output_bytes: u64) -> Result<Attached, AttachError> {
    match adopt(dir).await? {
        Adopted::Running(session) => Ok(Arc::new(session).attach(output_bytes)?),
        _ => Err(AttachError::NotRunning),
    }
}
