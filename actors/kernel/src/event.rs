//! How what happened is written to the ledger, and what cannot be read there.

use bytes::Bytes;
use serde::Serialize;

/// The newest format of an event that this version reads.
const FORMAT: u16 = 1;

/// Encodes an event's body for the ledger. The newest bodies stay in memory, so this one takes no more room than its bytes;
/// a large text would otherwise leave as much room again behind it.
pub fn encoded(event: &impl Serialize) -> Result<Bytes, rmp_serde::encode::Error> {
    rmp_serde::to_vec(event).map(|body| Bytes::from(body.into_boxed_slice()))
}

/// The reason why an event in the ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{kind} has format {format}, newer than the {FORMAT} this version reads")]
    Format { kind: String, format: u16 },
    #[error("{kind} cannot be decoded")]
    Body {
        kind: String,
        #[source]
        source: rmp_serde::decode::Error,
    },
}
