//! What supervision promises, against real actors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hang;
mod order;
mod restart;
mod script;
mod seen;
