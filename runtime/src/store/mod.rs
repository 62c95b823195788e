//! Stores beside the ledger.

pub mod blob;
pub mod file;
mod outline;
pub mod replicas;
pub mod rounds;
pub mod scrub;
