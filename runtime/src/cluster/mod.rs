//! Several nodes acting as one: who they are, the links between them, and messages addressed to keys.
//!
//! `identity` proves who a node is, `link` keeps one authenticated connection per peer and lane, `router` carries asks and
//! tells over them. Nothing here decides who may act: that is the ledger's and the leases' business.

pub mod credentials;
pub mod desk;
pub mod identity;
pub mod lease;
pub mod link;
pub mod membership;
pub mod peers;
pub mod router;
pub mod rpc;

crate::id! {
    /// The id of one cluster; made once, at the first node's first start, and in every certificate of it.
    ClusterId => "cluster",
    /// The id of one start of one process. It tells a node from a copy of its data directory with the same generation.
    LifeId => "life",
}
