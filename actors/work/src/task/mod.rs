//! Holds tasks as pure data and pure rules: what was asked for, how far it is, when to try again.
//!
//! Nothing here does I/O, reads a clock or rolls dice; `swarm` owns the tasks' truth.

pub mod aggregate;
pub mod bounds;
pub mod gate;
pub mod graph;
mod keep;
pub mod plan;
pub mod record;
pub mod retry;
pub mod scatter;
pub mod search;
pub mod spec;
pub mod status;
pub mod table;

pub use hiveward_kernel::body::{Body, Label};
pub use record::{Artifact, AttemptRecord, TaskRecord};
pub use spec::{CommandSpec, TaskSpec, Work};
pub use status::{AttemptStatus, Priority, TaskStatus};
