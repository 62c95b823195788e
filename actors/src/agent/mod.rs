//! One agent: a durable identity, a supervised actor, and the processes it drives through its connector.

pub mod connector;
pub mod message;
pub mod record;
pub mod session;
pub mod spec;

pub use record::{AgentRecord, AgentStatus};
pub use spec::{AgentSpec, ConnectorSpec, EnvVar, Limits, SessionSpec, Skill};
