//! Coding agents for real: the programs that people use, from npm, on a real node, with a model that answers by script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod deaths;
mod held;
mod hostile;
mod keys;
mod models;
mod scene;
mod team;
mod working;
