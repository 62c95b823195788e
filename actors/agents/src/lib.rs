//! One agent: a durable identity, a supervised actor, and the processes it drives through its connector.

pub mod activity;
pub mod actor;
pub mod approval;
pub mod approvals_table;
mod asks;
mod attempts;
mod clean;
pub mod connector;
pub mod event;
pub mod gauge;
pub mod hearer;
mod job;
mod lines;
pub mod message;
pub mod policy;
pub mod presets;
pub mod record;
pub mod services;
pub mod session;
pub mod state;
pub mod table;
pub mod workspace;

pub use record::{AgentRecord, AgentStatus};
