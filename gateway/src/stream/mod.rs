//! Subscriptions: `graphql-transport-ws` over a WebSocket and GraphQL over SSE (distinct connections).
//!
//! Both end with the gateway and both are resumed by the client from a cursor, so nothing here survives a restart.
//! Neither holds more for a slow client than its bounded queue: the subscription behind it pauses and reads on from
//! the ledger later.

pub mod shared;
pub mod sse;
pub mod tail;
pub mod ws;
