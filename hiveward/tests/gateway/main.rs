//! The gateway's promises, over real sockets and in process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// A failed wish is how a test says no; the lint's own exception covers only functions marked as tests.

mod access;
mod attach;
mod audit;
mod cli;
mod corpus;
mod door;
mod guard;
mod matrix;
mod names;
mod node;
mod past;
mod rights;
mod shards;
mod snapshot;
mod sse;
mod support;
mod tls;
mod vms;
mod ws;
