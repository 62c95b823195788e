//! Stores beside the ledger.

pub mod blob;
pub mod file;
pub mod replicas;
