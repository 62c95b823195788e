//! Writes and reads the roster's stream as one state: what a node begins from where the events before it are gone.
//!
//! Written by the roster's actor while it leads, in pieces; read by the directory of every node.

use bytes::Bytes;
use hiveward_runtime::{
    id::Key,
    ledger::{Ledger, ReadError, SnapshotPart, SnapshotParts, StreamSnapshot},
};

use super::Known;

const FORMAT: u16 = 1;
/// The bytes of a piece, which fill the half of a megabyte that the ledger's file gives it.
const PIECE_BYTES: usize = 480 << 10;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot of the roster has format {found}, which this version does not know")]
    Format { found: u16 },
    #[error("the snapshot of the roster cannot be read")]
    Body(#[source] rmp_serde::decode::Error),
}

/// Returns the pieces of a snapshot of `known`. Takes the longer the more entries there are: not for a thread that others
/// wait for.
pub fn pieces_of(known: &Known) -> Result<Vec<SnapshotPart>, rmp_serde::encode::Error> {
    let mut written = known.clone();
    // Where versions before parts look for them.
    written.budgets_written.clone_from(&known.parts.budgets.all);
    written.budgets_changed_written = known.parts.budgets.changed;
    let whole = Bytes::from(rmp_serde::to_vec_named(&written)?);
    let last = whole.len().div_ceil(PIECE_BYTES).saturating_sub(1);
    let piece = |number: usize| SnapshotPart {
        at_version: known.version,
        number: number as u32,
        last: number == last,
        snapshot: StreamSnapshot {
            format: FORMAT,
            body: whole.slice(number * PIECE_BYTES..whole.len().min((number + 1) * PIECE_BYTES)),
        },
    };
    Ok((0..=last).map(piece).collect())
}

/// Returns the state that the stream's newest snapshot holds; `None` if there is none after this version. Blocks while it
/// reads.
pub fn read(ledger: &Ledger, stream: &Key, after: u64) -> Result<Option<Known>, super::DirectoryError> {
    loop {
        let Some(parts) = ledger.snapshot_parts(stream)?.filter(|parts| parts.version > after) else { return Ok(None) };
        match joined(ledger, stream, parts) {
            Ok(whole) => return Ok(Some(restored(&whole)?)),
            // A newer one has taken its place since.
            Err(super::DirectoryError::Read(ReadError::Corrupt { .. })) if ledger.snapshot_parts(stream)? != Some(parts) => {}
            Err(error) => return Err(error),
        }
    }
}

fn joined(ledger: &Ledger, stream: &Key, parts: SnapshotParts) -> Result<Vec<u8>, super::DirectoryError> {
    let mut whole = Vec::new();
    for number in 0..parts.count {
        let StreamSnapshot { format: found, body } = ledger.snapshot_part(stream, parts, number)?;
        if found != FORMAT {
            return Err(SnapshotError::Format { found }.into());
        }
        whole.extend_from_slice(&body);
    }
    Ok(whole)
}

fn restored(whole: &[u8]) -> Result<Known, SnapshotError> {
    let mut known: Known = rmp_serde::from_slice(whole).map_err(SnapshotError::Body)?;
    known.remembers_after = known.cursor;
    known.count_declared();
    known.parts.budgets.all = std::mem::take(&mut known.budgets_written);
    known.parts.budgets.changed = std::mem::take(&mut known.budgets_changed_written);
    Ok(known)
}

/// Returns the same state, as it is after it was written down and read. For tests.
#[doc(hidden)]
#[allow(clippy::unwrap_used)] // A test that cannot write or read it fails here.
pub fn written_and_read(known: &Known) -> Known {
    let pieces = pieces_of(known).unwrap();
    assert!(pieces.iter().rev().skip(1).all(|piece| !piece.last && piece.snapshot.body.len() == PIECE_BYTES));
    assert!(pieces.last().is_some_and(|piece| piece.last && piece.at_version == known.version));
    let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.snapshot.body.to_vec()).collect();
    restored(&whole).unwrap()
}
