//! The gateway's promises, over real sockets and in process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod cli;
mod guard;
mod node;
mod snapshot;
mod sse;
mod support;
mod ws;
