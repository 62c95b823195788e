//! Holds what an agent is declared as.

pub mod coding;
pub mod spec;

pub use spec::{AgentSpec, ConnectorSpec, EnvVar, Limits, SessionSpec, Skill};
