//! Says what calls of models may still use: reserved before a call, settled after it.
//!
//! `state` decides who goes on, who waits and who is refused, by budgets and by the rates of providers' keys; `rate` is one key's
//! minute. Both are pure. `gate` is the way in for those who wait.

mod gate;
mod rate;
#[cfg(test)]
mod simulation;
mod state;

pub(super) use gate::WAIT_MAX;
pub use gate::{Gate, NotGranted, Reservation};
pub use rate::RateLimit;
pub use state::{Account, Ask};
pub(super) use state::{Meter, Verdict};
