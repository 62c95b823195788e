//! A swarm: agents, the queue of tasks they share, and the coordinator that owns both.
//!
//! `event` is the stream, `state` decides and applies, `actor` commits and tells; `queue` says whose turn it is.

pub mod actor;
mod aggregate;
mod decide;
pub mod event;
mod gather;
pub mod message;
pub mod queue;
pub mod recent;
pub mod record;
mod repair;
pub mod seat;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod spec;
pub mod state;
pub mod table;
#[cfg(test)]
pub mod testing;
pub mod wire;

pub use record::SwarmRecord;
pub use spec::SwarmSpec;
