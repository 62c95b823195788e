//! Consensus: openraft over the ledger's file, behind [`Consensus`].
//!
//! `consensus` is the door, `setup` says which member this node is, `types` what openraft is told of entries.
//! `group` is this node's membership in it, `elect` begins elections, `log` keeps entries, `apply` gives committed ones to
//! the machine, `network` and `serve` are the two ends of what nodes ask each other, `wire` its bytes. Nothing outside this
//! folder, `record` and `machine` names openraft.

mod apply;
mod candidacy;
mod consensus;
mod elect;
mod group;
mod log;
mod network;
mod serve;
mod setup;
#[cfg(test)]
mod suite;
mod types;
pub mod wire;

pub use apply::{Landed, Outcomes};
pub use consensus::{Change, ChangeError, Consensus, ConsensusStatus, Leadership, Member, ProposeError};
pub use group::Group;
pub use network::LedgerLanes;
pub use setup::{FOUNDER, RaftSetup, RaftTiming, member_id};
pub use types::{Applied, Node, TypeConfig};
