//! How an agent drives a tool. One file per connector; each passes the conformance suite in `tests/connectors.rs`.
//!
//! A connector owns the sessions of one agent's life and reports what they do. It never talks to the ledger or to a
//! coordinator: the agent's actor does. After a restart of the node it is asked to run the same leases again and adopts
//! the sessions that still live (or have ended meanwhile) instead of starting new ones.

mod attempt;
mod attempts;
mod coding;
mod command;
mod contract;
mod env;
mod machine;
mod model;
mod names;
mod noop;
mod registry;
mod secrets;
mod worker;

pub use attempt::{activity_dir, dirs, forget, last_terminal_dir, lease_name, session_dir};
pub use contract::{Ask, Connector, End, Input, Job, Outcome, Report, Reports, StartFailure, StopHow, StopWhy, Told, What};
pub use env::{ArtifactStore, ConnectorEnv};
pub use names::attempt_of;
pub use registry::build;
pub use secrets::{SecretFiles, SecretSource};
