//! The cluster's foundation over real sockets on loopback: several link managers in one process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod blobs;
mod hostile;
mod joining;
mod ledgers;
mod links;
mod membership;
mod routing;
mod slow;
mod support;
