//! The public face: GraphQL over HTTP, WebSocket and SSE, probes, credentials, and the gateway to models.
//!
//! Asks `hiveward_actors::client` for everything; never sees a message of an actor and holds no state of its own
//! beyond open connections. After a restart there is nothing to recover: clients resume from their cursors.

mod accept;
pub mod auth;
pub mod bound;
pub mod cluster_config;
pub mod config;
pub mod engine;
pub mod history;
pub mod large_bodies;
pub mod limit;
pub mod metered;
pub mod model;
pub mod negotiate;
pub mod origin;
pub mod otlp;
pub mod over_http;
pub mod places;
pub mod pool;
pub mod probe;
pub mod retention_config;
pub mod schema;
pub mod serve;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod trim;
pub mod ui;
pub mod upkeep;
