//! Stores beside the ledger.

pub mod blob;
