//! Follows one stream of a session by its own byte offset, told by the shim that there is more: no polling.

use std::io;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Stream, client::View, layout::SessionDir, sums::Summed};

/// What follows an offset of one stream, in pieces of at most 64 KiB.
#[derive(Debug)]
pub struct Tail {
    file: Summed,
    offset: u64,
    view: watch::Receiver<View>,
}

const PIECE_BYTES: usize = 64 << 10;

impl Tail {
    pub(super) fn open(dir: &SessionDir, stream: Stream, offset: u64, view: watch::Receiver<View>) -> io::Result<Self> {
        Ok(Self { file: Summed::open(dir.path(), stream)?, offset, view })
    }

    /// Returns the offset after everything that `next` has returned.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Waits for the next bytes; `None` once the process has ended and all was read. Dropping the future loses nothing.
    ///
    /// Errors: `InvalidData` if what is there is not what was written.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Looked at before reading: all output is written before the end is told.
            let ended = self.view.borrow_and_update().end.is_some();
            let mut piece = vec![0; PIECE_BYTES];
            let got = self.file.read_at(&mut piece, self.offset, ended)?;
            if got > 0 {
                piece.truncate(got);
                self.offset += got as u64;
                return Ok(Some(piece.into()));
            }
            if ended || self.view.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}
