//! Several nodes acting as one: who belongs to them and may act, and messages addressed to keys.
//!
//! Stands on the links ([`net`](crate::net)) and on the ledger, by which all agree. `router` carries asks and tells; it does not
//! decide who may act: that is the ledger's and the leases' business.

pub mod credentials;
pub mod lease;
pub mod membership;
pub mod peers;
pub mod router;
