//! Stores beside the ledger.

pub mod blob;
mod outline;
pub mod replicas;
pub mod scrub;
