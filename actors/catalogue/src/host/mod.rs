//! Decides which hosts and VMs there are, what is reserved of which host, and which host a VM goes to. Pure.

pub mod decide;
pub mod event;
pub mod fleet;
pub mod image;
pub mod lost;
mod names;
pub mod network;
pub mod placing;
mod progress;
pub mod protocol;
pub mod reshape;
pub mod simulated;
#[cfg(test)]
mod simulation;
pub mod spec;

pub use spec::{Capacity, HostSpec};
