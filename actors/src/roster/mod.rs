//! Which swarms, agents and nodes there are, and who is placed where: one stream, decided on the node that leads.
//!
//! `event` is the stream, `decide` the placement of what changes, `actor` decides and commits, `wire` the messages between
//! nodes. What it has decided is read from the directory, on every node.

pub mod actor;
mod decide;
mod fleet;
mod given_up;
mod lost;
#[cfg(test)]
mod lost_simulation;
pub mod message;
#[cfg(test)]
mod simulation;
pub mod wire;
mod writing_down;

pub use message::RosterMsg;

use hiveward_runtime::{error::Refused, op::NodeId};

/// What else a removal of a node touches: votes and certificates.
pub trait NodeChanges: Send + Sync + 'static {
    /// Whether the cluster can do without it now. Called on the roster's actor: it must not block.
    fn removable(&self, node: NodeId) -> Result<(), Refused>;

    /// It was removed, by what is in the ledger. Must not block.
    fn removed(&self, node: NodeId);
}

/// A single node has neither.
pub struct NoNodeChanges;

impl NodeChanges for NoNodeChanges {
    fn removable(&self, _: NodeId) -> Result<(), Refused> {
        Ok(())
    }

    fn removed(&self, _: NodeId) {}
}
