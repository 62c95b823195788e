//! What keeps failures of others from spreading.

pub mod breaker;

pub use breaker::{Breaker, BreakerLimits};
