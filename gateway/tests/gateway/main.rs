//! The gateway's promises, over real sockets and in process.

mod audit;
mod guard;
mod snapshot;
mod sse;
mod support;
mod ws;
