//! Payloads and results, beside their event while they are small and in the blob store when they are not; labels.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Bodies up to this many bytes travel in the ledger; larger ones in the blob store, by hash.
pub const INLINE_BYTES_MAX: usize = 4096;

/// A payload or a result: the bytes themselves, or where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// `hash` is BLAKE3 in hexadecimal; `bytes` is the length.
    Blob {
        hash: Arc<str>,
        bytes: u64,
    },
}

/// A key and a value that a client put on a thing to find it by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Label {
    pub key: String,
    pub value: String,
}
