//! Says what a node and its clients agree on, so that a client links nothing of a node.
//!
//! Holds plain types and pure functions, but for the two that look up an environment variable. Stands on nothing of ours.

pub mod decimal;
pub mod error;
pub mod home;
#[cfg(feature = "yaml")]
pub mod yaml;
