//! The floor that every later crate stands on: supervision, the ledger, stores, calls with deadlines, fault points.
//!
//! Holds no domain noun: an agent, a task or a swarm is never named here.
//! Arrows go one way: `contract ← runtime ← actors ← gateway`.

pub mod call;
pub mod clock;
pub mod cluster;
pub mod fault;
pub mod file;
pub mod id;
pub mod ledger;
pub mod net;
pub mod op;
pub mod resilience;
pub mod rounds;
pub mod store;
pub mod supervise;

pub use hiveward_contract::error;
