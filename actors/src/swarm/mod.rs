//! A swarm: agents, the queue of tasks they share, and the coordinator that owns both.

pub mod record;
pub mod spec;

pub use record::SwarmRecord;
pub use spec::SwarmSpec;
