//! The gateway's promises, over real sockets and in process.

mod audit;
mod cli;
mod guard;
mod node;
mod snapshot;
mod sse;
mod support;
mod ws;
