//! What several nodes promise together, with real links, routers and processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rig;
#[path = "../support/mod.rs"]
mod support;

mod by;
mod drain;
mod lost;
mod reach;
mod scale;
mod scatter;
mod shards;
mod usage;
