//! Meters calls of language models: who may make them, what they cost, and what stops them.
//!
//! An agent never holds a provider's key. For each attempt it is given a [`Pass`]: an address on loopback and a token of its own,
//! which this node's model gateway takes for the real key, meters, and refuses when a budget is used up.

pub mod access;
pub mod bank;
mod books;
pub mod event;
mod keeper;
pub mod meter;
mod models;
mod pass;
pub mod price;
pub mod services;
pub mod table;
mod usage;

pub use access::{Holder, ModelAccess, NoModels, Pass};
#[doc(hidden)]
pub use keeper::UsageKeeper;
pub use models::{Call, Entered, Estimate, Models, NotEntered, Reservation, Used};
pub use pass::{PassKey, Presented};
pub use usage::Usage;
