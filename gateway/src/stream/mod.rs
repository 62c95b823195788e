//! Subscriptions: `graphql-transport-ws` over a WebSocket and GraphQL over SSE (distinct connections); and terminals.
//!
//! All end with the gateway; subscriptions are resumed by the client from a cursor, so nothing here survives a restart.
//! No subscription holds more for a slow client than its bounded queue: what is behind it pauses and reads on from the ledger, or
//! the transcript, later.

pub mod attach;
pub mod shared;
pub mod sse;
pub mod tail;
pub mod ws;
