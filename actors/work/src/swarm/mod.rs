//! Runs a swarm: agents, the queue of tasks they share, and the coordinator that owns both.
//!
//! `event` is the stream, `state` decides and applies, `actor` commits and tells; `queue` says whose turn it is. A swarm may have
//! several coordinators, its shards; `steal` and `transfer` are how work goes from one to another.

pub mod actor;
mod aggregate;
mod asked;
mod decide;
pub mod event;
mod gather;
pub mod lives;
pub mod message;
pub mod pieces;
mod public;
mod queue;
mod recall;
pub mod record;
pub mod reference;
mod repair;
pub mod seat;
pub mod services;
#[cfg(test)]
mod shards_simulation;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod state;
pub mod steal;
pub mod table;
#[cfg(test)]
pub mod testing;
pub mod transfer;
pub mod wire;

pub use record::SwarmRecord;
