//! Nodes that speak with each other: who they are, the links between them, and questions over these.
//!
//! `identity` proves who a node is, `link` keeps one authenticated connection per peer and lane, `rpc` carries questions and
//! answers larger than a frame, `desk` those with types. Knows neither the ledger nor who belongs to a cluster: both stand on it.

pub mod desk;
pub mod identity;
pub mod link;
pub mod rpc;

crate::id! {
    /// The id of one cluster; made once, at the first node's first start, and in every certificate of it.
    ClusterId => "cluster",
    /// The id of one start of one process. It tells a node from a copy of its data directory with the same generation.
    LifeId => "life",
}
