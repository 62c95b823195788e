//! Clients that submit, cancel, query and subscribe at all nodes while these fail, and what they were promised.
//!
//! Owns the history of what clients saw, and the checker of it. The checker is pure: it compares a history with what the
//! nodes say at the end, and knows nothing that a client could not know.

pub mod bodies;
mod body;
mod broken;
pub mod check;
pub mod history;
mod load;
pub mod looks;
pub mod ops;
mod order;
mod subscriber;

pub use broken::Broken;
pub use history::History;
pub use load::{Load, SWARM};
pub use looks::{Carried, LookedAt, look_at_all};
