//! Stores beside the ledger.

pub mod blob;
pub mod replicas;
