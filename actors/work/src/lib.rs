//! Holds tasks, and the coordinators that give them to agents.

pub mod swarm;
pub mod task;
