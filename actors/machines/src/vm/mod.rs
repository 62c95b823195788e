//! One virtual machine: a durable identity, a supervised actor beside its host's, and a domain that the hypervisor keeps.
//!
//! What is wanted of it and every operation on it is in its stream (`event`, `state`); what it is the hypervisor says.
//! `reconcile` closes the gap, one step after another; what is seen wins over what is remembered.

pub mod actor;
pub(crate) mod ask;
mod asked;
pub mod attempt;
pub mod backup;
pub mod chain;
pub mod console;
pub mod copy;
mod copying;
pub mod event;
pub mod ha;
mod keep;
pub mod message;
pub mod migrate;
#[cfg(test)]
mod migrate_simulation;
pub mod reconcile;
pub mod record;
pub mod reshape;
pub mod schedule;
mod shaping;
#[cfg(test)]
pub(crate) mod simulation;
pub mod snapshot;
pub mod state;
mod stepped;
pub mod steps;
pub mod table;
mod trip;
pub mod warm;

pub use record::{VmRecord, VmStatus};
